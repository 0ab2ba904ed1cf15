"""Hidden states of prompts from the untuned base, in our decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..config import Config, with_changes
from ..files import atomic

DEPTHS = (1 / 3, 1 / 2, 2 / 3)  # of the blocks; the top third knows less about a record (docs/decisions/0013)


def depths_of(blocks: int) -> tuple[int, ...]:
    """Numbers of blocks after which the states are read: distinct, ascending, one at least."""
    return tuple(sorted({max(1, math.floor(share * blocks)) for share in DEPTHS}))


@dataclass(frozen=True)
class PooledStates:
    """States of records after each of `depths` blocks, and the `seconds` that all took; `shared` as in BaseStates.of.

    Axes: N record · L depth · P pooling (mean, last token) · D model width.
    """

    states_NLPD: NDArray[np.float32]
    depths: tuple[int, ...]
    shared: int
    seconds: float = 0.0

    def write(self, path: Path, run_id: str) -> None:
        """Keep the states of a run. Raises OutputError."""
        with atomic(path) as file:
            numbers = {"depths": self.depths, "shared": self.shared, "seconds": self.seconds}
            np.savez(file, run_id=run_id, states=self.states_NLPD, **numbers)

    @classmethod
    def read(cls, path: Path, run_id: str) -> PooledStates | None:
        """The kept states; None if the file is missing or of another run."""
        try:
            with np.load(path) as kept:
                if str(kept["run_id"]) != run_id:
                    return None
                depths = tuple(map(int, kept["depths"]))
                return cls(kept["states"], depths, int(kept["shared"]), float(kept["seconds"]))
        except (OSError, ValueError, KeyError):
            return None


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
