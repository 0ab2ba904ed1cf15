"""Hidden states of whole prompts in the middle of the frozen base, one vector for each prompt.

Axes: R prompt · L depth · P pooling (mean, standard deviation) · D model width · T token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..engine.label_scoring import common_prefix
from .attention import Segment
from .decoder import Decoder
from .forward_context import Pack

PACK_TOKENS = 2048  # of a pack: the beginning that prompts share is computed once in each
ROUND = 32  # tokens; the CPU's matrix library prepares itself for each new size

Prompt = Sequence[int]


@dataclass(frozen=True)
class SharedTokens:
    """How many tokens all prompts have in common at their `beginning` and their `end`: they say nothing of a record."""

    beginning: int
    end: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> SharedTokens:
        """At least one token of each prompt is its own."""
        beginning = shared_tokens(prompts)
        rest = min(map(len, prompts)) - beginning
        return cls(beginning, min(common_prefix([prompt[::-1] for prompt in prompts]), rest - 1))

    def own(self, tokens: int) -> tuple[int, int]:
        """[start, stop) of a prompt's own tokens, one at least."""
        start = min(self.beginning, tokens - 1)
        return start, max(start + 1, tokens - self.end)


def pooled_states(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    shared: SharedTokens,
    depths: Sequence[int],
    *,
    on_prompt: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """[mean, standard deviation] over each prompt's own tokens after so many blocks: (R, L, 2, D).

    The end that all prompts share is not read: no token before it depends on it.
    """
    found = np.empty((len(prompts), len(depths), 2, decoder.config.width), dtype=np.float32)
    own = [shared.own(len(prompt)) for prompt in prompts]
    read = [prompt[:stop] for prompt, (_, stop) in zip(prompts, own, strict=True)]
    order = sorted(range(len(read)), key=lambda at: len(read[at]))
    for group in pack_groups(order, list(map(len, read)), shared.beginning, PACK_TOKENS):
        pack, begins = _pack([read[at] for at in group], shared.beginning)
        runs = [(begin + own[at][0], begin + own[at][1]) for at, begin in zip(group, begins, strict=True)]
        found[group] = pool(decoder.states(pack, depths), runs)
        on_prompt(len(group))
    return found


def pool(states: Sequence[torch.Tensor], runs: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """[mean, standard deviation] of each run [start, stop) of a pack at each depth: (R, L, 2, D)."""
    pooled = [torch.stack([_moments(x_TD[start:stop]) for x_TD in states]) for start, stop in runs]
    return torch.stack(pooled).cpu().numpy()


def _moments(x_TD: torch.Tensor) -> torch.Tensor:
    deviation_D, mean_D = torch.std_mean(x_TD.float(), dim=0, correction=0)
    return torch.stack([mean_D, deviation_D])


def shared_tokens(prompts: Sequence[Prompt]) -> int:
    """Length of the beginning that all prompts have in common; at least one token of each is its own."""
    return min(common_prefix(prompts), min(map(len, prompts)) - 1)


def pack_groups(order: Sequence[int], lengths: Sequence[int], shared: int, limit: int) -> Iterator[list[int]]:
    """Indices in `order`, as many at a time as a pack of `limit` tokens holds, one at least.

    `lengths` are by index; the first `shared` tokens are there once.
    """
    group, tokens = list[int](), shared
    for at in order:
        own = lengths[at] - shared
        if group and tokens + own > limit:
            yield group
            group, tokens = [], shared
        group.append(at)
        tokens += own
    if group:
        yield group


def _pack(prompts: Sequence[Prompt], beginning: int) -> tuple[Pack, list[int]]:
    """The prompts, with a common `beginning` once, and the place of each one's first token, were it there in full."""
    common = min(beginning, shared_tokens(prompts)) if len(prompts) > 1 else 0
    tokens, positions = list(prompts[0][:common]), list(range(common))
    before = ((0, common),) if common else ()
    segments, begins = [Segment(0, common)] if common else [], []
    for prompt in prompts:
        begins.append(len(tokens) - common)
        tokens += prompt[common:]
        positions += range(common, len(prompt))
        segments.append(Segment(begins[-1] + common, len(tokens), before))
    fill = [0] * (-len(tokens) % ROUND)
    return Pack(torch.tensor(tokens + fill), torch.tensor(positions + fill), tuple(segments)), begins
