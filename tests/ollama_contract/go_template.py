"""The part of Go's text/template that Ollama's model templates use, and how Ollama fills one with messages.

Semantics from https://pkg.go.dev/text/template; how messages become values from ollama's template/template.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

ACTION = re.compile(
    r"\{\{(?P<left>-(?=\s))?(?P<body>(?:\"(?:\\.|[^\"\\])*\"|`[^`]*`|/\*.*?\*/|(?!\}\}).)*?)(?P<right>(?<=\s)-)?\}\}",
    re.S,
)
TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<field>(?:\.[A-Za-z_]\w*)+)'
    r"|(?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)|(?P<word>[A-Za-z_]\w*)|(?P<mark>:=|[=|(),.]))"
)


class GoTemplateError(Exception):
    """The text that Go gives, as in `template: :1: unclosed action`."""


@dataclass
class Node:
    """`kind` is text, action, if, range, with, break or continue; `pipe` what it evaluates, `names` what it sets."""

    kind: str
    text: str = ""
    pipe: Any = None
    names: tuple[str, ...] = ()
    body: list[Node] = field(default_factory=list)
    other: list[Node] = field(default_factory=list)
    assigns: bool = False  # `=` rather than `:=`


class Template:
    """A parsed template. Raises GoTemplateError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes, _ = _parse(_pieces(text), text, "")
        self.fields = {name.lower() for name in _identifiers(self.nodes)}
        if not self.fields & {"messages", "response"}:
            self.nodes.append(Node("action", pipe=[[("field", ("Response",))]]))

    def execute(self, values: Mapping[str, Any], nodes: list[Node] | None = None) -> str:
        return _Run(values).all(self.nodes if nodes is None else nodes)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt for `messages` (role and content), up to where the assistant speaks."""
        system, collated = _collate(messages)
        if "messages" in self.fields:
            return self.execute({"System": system, "Messages": collated, "Tools": [], "Response": "", "Think": False})
        return self._render_turns(collated)

    def _render_turns(self, messages: Sequence[Mapping[str, str]]) -> str:
        """One execution for each system, user and assistant text; the last is cut after `.Response`."""
        out, turn = "", {"System": "", "Prompt": "", "Response": ""}
        for message in messages:
            role, content = message["Role"], message["Content"]
            later = {"system": ("Prompt", "Response"), "user": ("Response",)}.get(role, ())
            if any(turn[name] for name in later):
                out += self.execute(turn)
                turn = {"System": "", "Prompt": "", "Response": ""}
            turn[{"system": "System", "user": "Prompt"}.get(role, "Response")] = content
        nodes, _ = _cut(self.nodes)
        return out + self.execute(turn, nodes)


def _collate(messages: Sequence[Mapping[str, str]]) -> tuple[str, list[dict[str, Any]]]:
    """All system texts, and the messages with neighbours of one role joined."""
    collated: list[dict[str, Any]] = []
    for message in messages:
        if collated and collated[-1]["Role"] == message["role"] != "tool":
            collated[-1]["Content"] += "\n\n" + message["content"]
        else:
            blank = {"Thinking": "", "Images": [], "ToolCalls": [], "ToolName": ""}
            collated.append({"Role": message["role"], "Content": message["content"], **blank})
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return system, collated


def _cut(nodes: list[Node]) -> tuple[list[Node], bool]:
    """The nodes up to and with the first that writes `.Response`."""
    kept: list[Node] = []
    for node in nodes:
        if "Response" in _identifiers([Node(node.kind, pipe=node.pipe)]):
            return [*kept, Node(node.kind, pipe=node.pipe, names=node.names, body=[])], True
        body, cut = _cut(node.body)
        other, cut_other = ([], True) if cut else _cut(node.other)
        kept.append(Node(node.kind, node.text, node.pipe, node.names, body, other, node.assigns))
        if cut or (cut_other and node.other):
            return kept, True
    return kept, False


# --- parsing ---


def _pieces(text: str) -> list[tuple[str, str, int]]:
    """(kind, content, line) with the blanks beside `{{-` and `-}}` taken away."""
    out: list[tuple[str, str, int]] = []
    at, trim = 0, False
    while (opening := text.find("{{", at)) >= 0:
        line = text.count("\n", 0, opening) + 1
        action = ACTION.match(text, opening)
        if action is None:
            raise GoTemplateError(f"template: :{line}: unclosed action")
        before = text[at:opening]
        before = before.lstrip() if trim else before
        out.append(("text", before.rstrip() if action["left"] else before, line))
        out.append(("action", action["body"].strip(), line))
        at, trim = action.end(), action["right"] is not None
    rest = text[at:]
    out.append(("text", rest.lstrip() if trim else rest, 0))
    return out


def _parse(pieces: list[tuple[str, str, int]], text: str, inside: str) -> tuple[list[Node], str]:
    """Nodes up to the `end` or `else …` that closes this list; that closing action is the second value."""
    nodes: list[Node] = []
    while pieces:
        kind, content, line = pieces.pop(0)
        if kind == "text":
            nodes.append(Node("text", text=content))
            continue
        if content.startswith("/*"):
            continue
        word, _, rest = content.partition(" ")
        if word in ("end", "else"):
            if not inside:
                raise GoTemplateError(f"template: :{line}: unexpected {{{{{word}}}}}")
            return nodes, content
        if word in ("if", "range", "with"):
            nodes.append(_branch(word, rest, line, pieces, text))
        elif content in ("break", "continue"):
            nodes.append(Node(content))
        else:
            nodes.append(_action("action", content, line))
    if inside:
        raise GoTemplateError(f"template: :{text.count(chr(10)) + 1}: unexpected EOF")
    return nodes, ""


def _branch(word: str, rest: str, line: int, pieces: list[tuple[str, str, int]], text: str) -> Node:
    node = _action(word, rest, line)
    node.body, closing = _parse(pieces, text, word)
    if closing.startswith("else"):
        again = closing[4:].strip()
        if again:  # else if …: the chain shares one end
            inner, _, condition = again.partition(" ")
            node.other = [_branch(inner, condition, line, pieces, text)]
        else:
            node.other, _ = _parse(pieces, text, "else")
    return node


def _action(kind: str, content: str, line: int) -> Node:
    tokens: list[tuple[str, str]] = []
    at = 0
    while content[at:].strip():
        match = TOKEN.match(content, at)
        if match is None:
            raise GoTemplateError(f"template: :{line}: unexpected {content[at:].strip()[0]!r} in command")
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        at = match.end()
    if not tokens:
        raise GoTemplateError(f"template: :{line}: missing value for {'command' if kind == 'action' else kind}")
    names: tuple[str, ...] = ()
    set_at = next((i for i, token in enumerate(tokens) if token in (("mark", ":="), ("mark", "="))), None)
    assigns = set_at is not None and tokens[set_at][1] == "="
    if set_at is not None:
        names = tuple(value for token, value in tokens[:set_at] if token == "variable")
        tokens = tokens[set_at + 1 :]
    return Node(kind, pipe=_pipe(tokens, line), names=names, assigns=assigns)


def _pipe(tokens: list[tuple[str, str]], line: int) -> list[list[Any]]:
    """Commands of operands; takes the tokens up to a closing bracket that is not its own."""
    commands: list[list[Any]] = [[]]
    while tokens and tokens[0] != ("mark", ")"):
        kind, value = tokens.pop(0)
        if (kind, value) == ("mark", "|"):
            commands.append([])
        elif (kind, value) == ("mark", "("):
            inner = _pipe(tokens, line)
            if not tokens:
                raise GoTemplateError(f"template: :{line}: unclosed left paren")
            tokens.pop(0)
            path = tuple(tokens.pop(0)[1][1:].split(".")) if tokens and tokens[0][0] == "field" else ()
            commands[-1].append(("pipe", inner, path))
        else:
            commands[-1].append(_operand(kind, value, line))
    return commands


def _operand(kind: str, value: str, line: int) -> tuple[str, Any]:
    if kind == "field":
        return "field", tuple(value[1:].split("."))
    if kind == "variable":
        return "variable", tuple(value.split("."))
    if kind == "string":
        return "value", value[1:-1] if value[0] == "`" else json.loads(value.replace("\n", "\\n"))
    if kind == "number":
        return "value", float(value) if "." in value else int(value)
    if value == ".":
        return "field", ()
    if value in ("true", "false", "nil"):
        return "value", {"true": True, "false": False, "nil": None}[value]
    if kind == "word" and value in FUNCTIONS:
        return "function", value
    if kind == "word":
        raise GoTemplateError(f'template: :{line}: function "{value}" not defined')
    raise GoTemplateError(f'template: :{line}: unexpected "{value}" in operand')


def _identifiers(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _pipe_identifiers(node.pipe or [])
        yield from _identifiers(node.body)
        yield from _identifiers(node.other)


def _pipe_identifiers(pipe: list[list[Any]]) -> Iterator[str]:
    for operand in (operand for command in pipe for operand in command):
        if operand[0] in ("field", "variable"):
            yield from operand[1]
        elif operand[0] == "pipe":
            yield from _pipe_identifiers(operand[1])


# --- running ---


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class _Run:
    def __init__(self, values: Mapping[str, Any]) -> None:
        self.dot: Any = values
        self.scopes: list[dict[str, Any]] = [{"$": values}]
        self.out: list[str] = []

    def all(self, nodes: list[Node]) -> str:
        self.nodes(nodes)
        return "".join(self.out)

    def nodes(self, nodes: list[Node]) -> None:
        for node in nodes:
            self.node(node)

    def node(self, node: Node) -> None:
        if node.kind == "text":
            self.out.append(node.text)
        elif node.kind in ("break", "continue"):
            raise _Break if node.kind == "break" else _Continue
        elif node.kind == "range":
            self.range(node)
        else:
            value = self.pipe(node.pipe)
            for name in node.names:
                self.scope_of(name, node.assigns)[name] = value
            if node.kind == "action" and not node.names:
                self.out.append(_text(value))
            elif node.kind != "action":
                self.inside(node.body if _true(value) else node.other, value if node.kind == "with" else self.dot)

    def scope_of(self, name: str, assigns: bool) -> dict[str, Any]:
        return next(s for s in reversed(self.scopes) if name in s) if assigns else self.scopes[-1]

    def inside(self, nodes: list[Node], dot: Any, **variables: Any) -> None:
        before, self.dot = self.dot, dot
        self.scopes.append({f"${name}": value for name, value in variables.items()})
        try:
            self.nodes(nodes)
        finally:
            self.dot = before
            self.scopes.pop()

    def range(self, node: Node) -> None:
        value = self.pipe(node.pipe) or []
        pairs = list(value.items()) if isinstance(value, Mapping) else list(enumerate(value))
        if not pairs:
            self.inside(node.other, self.dot)
        for pair in pairs:
            names = [name[1:] for name in node.names]
            try:
                self.inside(node.body, pair[1], **dict(zip(names, pair if len(names) == 2 else pair[1:], strict=False)))
            except _Continue:
                continue
            except _Break:
                break

    def pipe(self, pipe: list[list[Any]]) -> Any:
        last: tuple[Any, ...] = ()
        for command in pipe:
            head, *rest = command
            if head[0] == "function":
                last = (FUNCTIONS[head[1]](*(self.operand(operand) for operand in rest), *last),)
            else:
                last = (self.operand(head),)
        return last[0]

    def operand(self, operand: Any) -> Any:
        if operand[0] == "value":
            return operand[1]
        if operand[0] == "function":
            return FUNCTIONS[operand[1]]()
        if operand[0] == "field":
            return _follow(self.dot, operand[1])
        if operand[0] == "pipe":
            return _follow(self.pipe(operand[1]), operand[2])
        name, *path = operand[1]
        return _follow(next(s for s in reversed(self.scopes) if name in s)[name], path)


def _follow(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _true(value: Any) -> bool:
    return bool(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<no value>" if value is None else str(value)


def _first(values: tuple[Any, ...], wanted: bool) -> Any:
    return next((value for value in values if _true(value) is wanted), values[-1])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: _first(values, False),
    "or": lambda *values: _first(values, True),
    "not": lambda value: not _true(value),
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "len": lambda value: len(value or ()),
    "index": lambda value, *keys: value if not keys else FUNCTIONS["index"](value[keys[0]], *keys[1:]),
    "slice": lambda value, *bounds: value[slice(*bounds)] if len(bounds) == 2 else value[bounds[0] if bounds else 0 :],
    "print": lambda *values: "".join(map(_text, values)),
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "currentDate": lambda: date.today().isoformat(),
}
