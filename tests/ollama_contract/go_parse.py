"""Go's text/template: from text to nodes. Semantics from https://pkg.go.dev/text/template."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

FUNCTION_NAMES = {"and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge"}
FUNCTION_NAMES |= {"len", "index", "slice", "print", "json", "currentDate"}
QUOTED = r'"(?:\\.|[^"\\])*"|`[^`]*`'
BODY = r"(?P<body>(?:" + QUOTED + r"|/\*.*?\*/|(?!\}\}).)*?)"
ACTION = re.compile(r"\{\{(?P<left>-(?=\s))?" + BODY + r"(?P<right>(?<=\s)-)?\}\}", re.S)
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


def pieces(text: str) -> list[tuple[str, str, int]]:
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


def parse(pieces: list[tuple[str, str, int]], text: str, inside: str) -> tuple[list[Node], str]:
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
    node.body, closing = parse(pieces, text, word)
    if closing.startswith("else"):
        again = closing[4:].strip()
        if again:  # else if …: the chain shares one end
            inner, _, condition = again.partition(" ")
            node.other = [_branch(inner, condition, line, pieces, text)]
        else:
            node.other, _ = parse(pieces, text, "else")
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
    if kind == "word" and value in FUNCTION_NAMES:
        return "function", value
    if kind == "word":
        raise GoTemplateError(f'template: :{line}: function "{value}" not defined')
    raise GoTemplateError(f'template: :{line}: unexpected "{value}" in operand')


def identifiers(nodes: list[Node]) -> Iterator[str]:
    for node in nodes:
        yield from _pipe_identifiers(node.pipe or [])
        yield from identifiers(node.body)
        yield from identifiers(node.other)


def _pipe_identifiers(pipe: list[list[Any]]) -> Iterator[str]:
    for operand in (operand for command in pipe for operand in command):
        if operand[0] in ("field", "variable"):
            yield from operand[1]
        elif operand[0] == "pipe":
            yield from _pipe_identifiers(operand[1])
