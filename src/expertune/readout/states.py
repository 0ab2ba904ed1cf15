"""Hidden states of prompts from the untuned base, in our decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import Config, with_changes

DEPTHS = (1 / 3, 1 / 2, 2 / 3)  # of the blocks; the top third knows less about a record (docs/decisions/0013)


def depths_of(blocks: int) -> tuple[int, ...]:
    """Numbers of blocks after which the states are read: distinct, ascending, one at least."""
    return tuple(sorted({max(1, math.floor(share * blocks)) for share in DEPTHS}))


class BaseStates:
    """The lower part of a base, loaded: it gives the states after up to `depth` blocks (None: the deepest of DEPTHS).

    Raises FineTuningNotSupportedError for an architecture that our decoder does not read.
    """

    def __init__(self, path: Path, config: Config, depth: int | None = None) -> None:
        from ..gguf.read import GGUFFile
        from ..model.arch import read_config
        from ..model.load import load, place

        small = with_changes(config, rank=1)  # the adapter is there but empty
        with GGUFFile(path) as file:
            self.depths = (depth,) if depth else depths_of(len(read_config(file).layers))
            tunable = load(file, small, place(file, small), blocks=self.depths[-1])
        self._decoder = tunable.decoder
        self.placement = tunable.placement.describe()

    def of(
        self, prompts: Sequence[Sequence[int]], shared: int, *, on_prompt: Callable[[int], None] = lambda done: None
    ) -> NDArray[np.float32]:
        """[mean over the tokens after the first `shared`, last token] of each prompt: (N, L, 2, D)."""
        from ..model.states import pooled_states

        return pooled_states(self._decoder, prompts, shared, self.depths, on_prompt=on_prompt)
