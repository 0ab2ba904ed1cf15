"""Metadata that make the merged file a decision model: llama.cpp's /v1/systemone then rates a record by its code.

The server renders `tokenizer.chat_template.systemone` over the request's `state`, reads the logits of the codes in the
next place and divides them by `<arch>.decision.temperature.choice` (tools/server/server-decision.cpp, llama.cpp as of
xllamacpp 2026.10). Options must come in the order of the labels: the template names the labels itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine.decision import TEMPLATE
from ..ratings.codes import CodeBranch
from ..ratings.schema import Example
from ..train.code_branch import is_decision

if TYPE_CHECKING:
    from ..engine.llama_cpp.engine import LlamaCppEngine

TYPE = "nimble"  # reads the codes A, B, C … as written after the prompt
NOTE = "expertune.decision.note"
RECORD = "zebra"  # stands for a record's text: a plain word, which templates leave alone
MOST_TOKENISED = 16  # examples whose tokens are compared; their texts are compared for all


@dataclass(frozen=True)
class PromptFrame:
    """The prompt of every record up to its code: `before`, the record's text, `after` (ends with the branch's lead).

    Its tokens are those of the training without a BOS being added: `before` begins with it. `trims`: the chat template
    cuts blanks at both ends of the text.
    """

    before: str
    after: str
    trims: bool = False

    def of(self, record: str) -> str:
        """The text before the code of a record."""
        return f"{self.before}{record.strip() if self.trims else record}{self.after}"

    def template(self) -> str:
        """The frame as a Jinja template over `state`."""
        state = "{{ state | trim }}" if self.trims else "{{ state }}"
        return f"{_literal(self.before)}{state}{_literal(self.after)}"


def frame_of(engine: LlamaCppEngine, branch: CodeBranch, examples: Sequence[Example]) -> PromptFrame | None:
    """Find the frame from the prompt of an invented record; None if the prompts of the examples are not made by it."""
    system, user = examples[0].messages
    text = engine.render([system, {**user, "content": RECORD}]) + branch.lead
    written = engine.with_begin(text)
    if written is None or written.count(RECORD) != 1:
        return None
    before, after = written.split(RECORD)
    begin = written.removesuffix(text)  # BOS, if the template leaves it to the tokenizer
    expected = [begin + engine.render(example.messages) + branch.lead for example in examples]
    for frame in (PromptFrame(before, after), PromptFrame(before, after, trims=True)):
        if [frame.of(example.record) for example in examples] == expected:
            some = (each.removeprefix(begin) for each in expected[:MOST_TOKENISED])
            return frame if all(engine.with_begin(each) == begin + each for each in some) else None
    return None


def decision_frame(engine: LlamaCppEngine, branch: CodeBranch, examples: Sequence[Example]) -> PromptFrame | None:
    """The frame, if a decision model's server can render it and reads the tokens of the codes."""
    readable = is_decision(engine, engine.render(examples[0].messages), branch)
    return frame_of(engine, branch, examples) if readable else None


def decision_keys(architecture: str, frame: PromptFrame, temperature: float, note: str = "") -> dict[str, str | float]:
    """Metadata of the file; `note` is a remark for its users."""
    keys: dict[str, str | float] = {
        f"{architecture}.decision.type": TYPE,
        f"{architecture}.decision.temperature.choice": temperature,
        TEMPLATE: frame.template(),
    }
    return {**keys, NOTE: note} if note else keys


def is_decision_key(key: str) -> bool:
    """Keys that make a decision model. A tuned file must not keep those of its base, which ask for something else."""
    return ".decision." in key or key == TEMPLATE


def _literal(text: str) -> str:
    """Text as a Jinja template that renders it: braces, carriage returns and a last line end are expressions."""
    escaped = text.replace("{", '{{ "{" }}').replace("\r", '{{ "\\r" }}')
    return f'{escaped[:-1]}{{{{ "\\n" }}}}' if escaped.endswith("\n") else escaped
