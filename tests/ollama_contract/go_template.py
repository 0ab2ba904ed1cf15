"""Ollama's model templates: Go's text/template filled with messages.

How messages become values is ollama's template/template.go, told in our own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

from .go_parse import GoTemplateError, Node, identifiers, parse, pieces

__all__ = ["GoTemplateError", "Template"]


class Template:
    """A parsed template. Raises GoTemplateError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes, _ = parse(pieces(text), text, "")
        self.fields = {name.lower() for name in identifiers(self.nodes)}
        if not self.fields & {"messages", "response"}:
            self.nodes.append(Node("action", pipe=[[("field", ("Response",))]]))

    def execute(self, values: Mapping[str, Any], nodes: list[Node] | None = None) -> str:
        return _Run(values).all(self.nodes if nodes is None else nodes)

    def render(self, messages: Sequence[Mapping[str, str]], think: bool | str | None = None) -> str:
        """The prompt for `messages` (role and content), up to where the assistant speaks; `think` as in the request."""
        system, collated = _collate(messages)
        if "messages" in self.fields:
            level = think if isinstance(think, str) else ""
            thought = {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}
            return self.execute({"System": system, "Messages": collated, "Tools": [], "Response": "", **thought})
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
        if "Response" in identifiers([Node(node.kind, pipe=node.pipe)]):
            return [*kept, Node(node.kind, pipe=node.pipe, names=node.names, body=[])], True
        body, cut = _cut(node.body)
        other, cut_other = ([], True) if cut else _cut(node.other)
        kept.append(Node(node.kind, node.text, node.pipe, node.names, body, other, node.assigns))
        if cut or (cut_other and node.other):
            return kept, True
    return kept, False


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
