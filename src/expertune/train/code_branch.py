"""Choose the lead and the codes of the code branch for one model: each code must be one token after the lead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase

from ..engine.base import Engine
from ..ratings.codes import CodeBranch

# Lead and what precedes the code. A JSON lead comes first: Ollama's grammar can force such an answer (engine.ollama).
LEADS = (('{"code": "', ""), ("Code:", " "), ("Code:\n", ""))
NO_BRANCH = "no code branch: the tokenizer has too few codes that are one token each"


@dataclass(frozen=True)
class CodeTokens:
    """The lead and the code of each label, in tokens; they are the same after every prompt of one template."""

    lead: tuple[int, ...]
    codes: tuple[int, ...]


def choose_branch(engine: Engine, prompt: str, labels: int) -> CodeBranch | None:
    """The first lead after which so many codes are one token each; None if there is none.

    A lead is better if each code is the token that llama.cpp reads for a decision: that of the letters alone
    (tools/server/server-decision.cpp, llama.cpp as of xllamacpp 2026.10). Codes are A to Z, then AA to ZZ.
    """
    found = [branch for lead, gap in LEADS if (branch := _branch(engine, prompt, lead, gap, labels))]
    return next((branch for branch in found if is_decision(engine, prompt, branch)), found[0] if found else None)


def code_tokens(engine: Engine, prompt: str, branch: CodeBranch) -> CodeTokens:
    """The tokens of the branch after `prompt`."""
    answers = [engine.continuation(prompt, answer) for answer in branch.answers()]
    return CodeTokens(tuple(answers[0][:-1]), tuple(answer[-1] for answer in answers))


def is_decision(engine: Engine, prompt: str, branch: CodeBranch) -> bool:
    """True if llama.cpp's decision models read the same tokens for so many options."""
    begin, found = engine.tokenize(""), list[int]()
    for letters in _letters():
        alone = engine.tokenize(letters)[len(begin) :]
        found += alone if len(alone) == 1 else []
        if len(found) == len(branch.codes):
            break
    return tuple(found) == code_tokens(engine, prompt, branch).codes


def _branch(engine: Engine, prompt: str, lead: str, gap: str, labels: int) -> CodeBranch | None:
    """The branch with this lead: codes that are no single token, or the token of another code, are left out."""
    begin, codes, used = engine.continuation(prompt, lead), list[str](), set[int]()
    for letters in _letters():
        answer = engine.continuation(prompt, lead + gap + letters)
        if len(answer) == len(begin) + 1 and answer[:-1] == begin and answer[-1] not in used:
            codes.append(gap + letters)
            used.add(answer[-1])
        if len(codes) == labels:
            return CodeBranch(lead, tuple(codes))
    return None


def _letters() -> Iterator[str]:
    yield from ascii_uppercase
    yield from map("".join, product(ascii_uppercase, repeat=2))
