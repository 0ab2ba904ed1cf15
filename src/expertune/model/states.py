"""Hidden states of whole prompts in the middle of the frozen base, one vector for each prompt.

Axes: R prompt · L depth · P pooling · D model width · T token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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


def pooled_states(
    decoder: Decoder,
    prompts: Sequence[Prompt],
    shared: int,
    depths: Sequence[int],
    *,
    on_prompt: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """[mean over the tokens after the first `shared`, last token] after so many blocks: (R, L, 2, D)."""
    found = np.empty((len(prompts), len(depths), 2, decoder.config.width), dtype=np.float32)
    order = sorted(range(len(prompts)), key=lambda at: len(prompts[at]))
    for group in pack_groups(order, list(map(len, prompts)), shared, PACK_TOKENS):
        pack, runs = _pack([prompts[at] for at in group], shared)
        found[group] = pool(decoder.states(pack, depths), runs)
        on_prompt(len(group))
    return found


def pool(states: Sequence[torch.Tensor], runs: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """[mean, last token] of each run [start, stop) of a pack at each depth: (R, L, 2, D); `states` are (T, D) each."""
    pooled = [
        torch.stack([torch.stack([x_TD[start:stop].mean(dim=0), x_TD[stop - 1]]) for x_TD in states])
        for start, stop in runs
    ]
    return torch.stack(pooled).cpu().numpy()


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


def _pack(prompts: Sequence[Prompt], shared: int) -> tuple[Pack, list[tuple[int, int]]]:
    """The prompts, with a common beginning once, and where the tokens after the first `shared` of each one are."""
    common = min(shared, shared_tokens(prompts)) if len(prompts) > 1 else 0
    tokens, positions = list(prompts[0][:common]), list(range(common))
    before = ((0, common),) if common else ()
    segments, runs = [Segment(0, common)] if common else [], []
    for prompt in prompts:
        start = len(tokens)
        tokens += prompt[common:]
        positions += range(common, len(prompt))
        segments.append(Segment(start, len(tokens), before))
        runs.append((min(start + shared - common, len(tokens) - 1), len(tokens)))
    fill = [0] * (-len(tokens) % ROUND)
    return Pack(torch.tensor(tokens + fill), torch.tensor(positions + fill), tuple(segments)), runs
