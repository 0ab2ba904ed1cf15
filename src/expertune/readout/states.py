"""Hidden states of prompts from the untuned base, in our decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..config import Config, with_changes
from ..files import atomic

if TYPE_CHECKING:
    from ..model.states import SharedTokens
    from ..train.checkpoint import CheckpointPlace
    from ..train.encode import Candidates, Row

DEPTHS = (1 / 3, 1 / 2, 2 / 3)  # of the blocks; the top third knows less about a record (docs/decisions/0013)

States = NDArray[np.float32]


def depths_of(blocks: int) -> tuple[int, ...]:
    """Numbers of blocks after which the states are read: distinct, ascending, one at least."""
    return tuple(sorted({max(1, math.floor(share * blocks)) for share in DEPTHS}))


@dataclass(frozen=True)
class TrainingPass:
    """What a training will read of the blocks below its adapters: its rows, and the place of the trunk cache."""

    train: Sequence[Row]
    dev: Sequence[Row]
    candidates: Candidates
    place: CheckpointPlace


@dataclass(frozen=True)
class PooledStates:
    """States of records after each of `depths` blocks, and the `seconds` that all took; `shared` as in BaseStates.of.

    Axes: N record · L depth · P pooling (mean, standard deviation) · D model width.
    """

    states_NLPD: States
    depths: tuple[int, ...]
    shared: SharedTokens
    seconds: float = 0.0

    def after(self, depths: Sequence[int]) -> States:
        """The states after some of the depths only, in their order."""
        return self.states_NLPD[:, [self.depths.index(depth) for depth in depths]]

    def write(self, path: Path, run_id: str) -> None:
        """Keep the states of a run. Raises OutputError."""
        with atomic(path) as file:
            shared = (self.shared.beginning, self.shared.end)
            numbers = {"depths": self.depths, "shared": shared, "seconds": self.seconds}
            np.savez(file, run_id=run_id, states=self.states_NLPD, **numbers)

    @classmethod
    def read(cls, path: Path, run_id: str) -> PooledStates | None:
        """The kept states; None if the file is missing or of another run."""
        from ..model.states import SharedTokens

        try:
            with np.load(path) as kept:
                names = ("run_id", "states", "depths", "shared", "seconds")
                own, states, depths, shared, seconds = (kept[name] for name in names)
                if str(own) != run_id:
                    return None
                return cls(states, tuple(map(int, depths)), SharedTokens(*map(int, shared)), float(seconds))
        except (OSError, ValueError, KeyError, TypeError):
            return None


class BaseStates:
    """The lower part of a base, loaded: it gives the states after each of `depths` blocks, ascending (none given: those
    of DEPTHS, and it has the whole trunk of a training with `config`).

    Raises FineTuningNotSupportedError for an architecture that our decoder does not read.
    """

    def __init__(self, path: Path, config: Config, depths: Sequence[int] = ()) -> None:
        from ..gguf.read import GGUFFile
        from ..model.arch import read_config
        from ..model.load import load, place
        from ..model.target_modules import first_adapted, trunk_blocks

        self._config = with_changes(config, rank=1)  # the adapter is there but empty
        with GGUFFile(path) as file:
            model = read_config(file)
            self.depths = tuple(depths) or depths_of(len(model.layers))
            self._trunk = 0 if depths else trunk_blocks(model, first_adapted(model, config.layers))
            blocks = max(self.depths[-1], self._trunk)
            self._tunable = load(file, self._config, place(file, self._config), blocks=blocks)
        self.placement = self._tunable.placement.describe()

    def of(
        self,
        prompts: Sequence[Sequence[int]],
        shared: SharedTokens,
        *,
        on_prompt: Callable[[int], None] = lambda done: None,
    ) -> States:
        """[mean, standard deviation] over each prompt's own tokens: (N, L, 2, D)."""
        from ..model.states import pooled_states

        return pooled_states(self._tunable.decoder, prompts, shared, self.depths, on_prompt=on_prompt)

    def of_training(self, training: TrainingPass, shared: SharedTokens, on_prompt: Callable[[int], None]) -> States:
        """`of` the prompts of the training rows, from the pass that writes the trunk cache if the training has one."""
        from ..model.states import pool
        from ..train.batches import prompt_runs, rows_of_evaluation
        from ..train.trunk import make_trunk, packs_of_all

        decoder, train = self._tunable.decoder, training.train
        at = {row.id: place for place, row in enumerate(train)}
        depths = tuple(sorted({*self.depths, self._trunk}))
        found: dict[int, States] = {}

        def stream(pack: Any, rows: Sequence[Row]) -> Any:
            by_depth = dict(zip(depths, decoder.states(pack, depths), strict=True))
            if rows[0].id in at:
                pooled = pool([by_depth[depth] for depth in self.depths], prompt_runs(pack, rows, shared))
                found.update(zip((at[row.id] for row in rows), pooled, strict=True))
                on_prompt(len(rows))
            return by_depth[self._trunk]

        if self._trunk and not decoder.fills_rows:
            dev_rows = rows_of_evaluation(self._config)
            packs = partial(packs_of_all, train, training.dev, training.candidates, dev_rows=dev_rows)
            make_trunk(self._tunable, packs, training.place, lambda rows: None, stream)
        if len(found) == len(train):
            return np.stack([found[place] for place in range(len(train))])
        return self.of([row.prompt for row in train], shared, on_prompt=on_prompt)
