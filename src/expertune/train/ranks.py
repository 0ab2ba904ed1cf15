"""The processes (ranks) of one training, and what they do together through torch.distributed.

Each computes its share of a step's records, and their gradients are added up. All take the same decisions, since they
decide by sums over all ranks or by rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import RankLostError

T = TypeVar("T")
LOST = "a training process was lost"


def lost(why: Callable[[], str]) -> RankLostError:
    """The error that ends the run in one line."""
    return RankLostError(f"{why()}; run the same command with --resume to continue")


@contextmanager
def connected(why: Callable[[], str]) -> Iterator[None]:
    """Raise RankLostError, which says `why`, where a connection to another process broke."""
    try:
        yield
    except RuntimeError as error:  # of torch.distributed, which has no class for it
        raise lost(why) from error


@dataclass(frozen=True)
class Ranks:
    """The processes of a training. All of them call the same methods in the same order; one alone computes as without.

    Each method raises RankLostError if a process has ended; `why` says which one. `nccl` is the group that adds up
    gradients on GPUs.
    """

    rank: int = 0
    count: int = 1
    nccl: Any = None
    why: Callable[[], str] = lambda: LOST

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all have in the same order."""
        return items[self.rank :: self.count]

    def gather(self, own: Sequence[T]) -> list[T]:
        """The items of all ranks, in the order before `share`."""
        if self.count == 1:
            return list(own)
        parts: list[Any] = [None] * self.count
        with connected(self.why):
            dist.all_gather_object(parts, list(own))
        return [part[at] for at in range(len(parts[0])) for part in parts if at < len(part)]

    def first(self, make: Callable[[], T]) -> T:
        """The value that `make` has on rank 0; the others do not call it."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.rank == 0 else None]
        with connected(self.why):
            dist.broadcast_object_list(box)
        return box[0]

    def sum(self, *values: float) -> list[float]:
        """Sum of each value over the ranks."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with connected(self.why):
            dist.all_reduce(total)
        return total.tolist()

    def add_up(self, gradients_P: torch.Tensor, loss: float) -> float:
        """Sum of the gradients, in place, and of the loss."""
        if self.count == 1:
            return loss
        if self.nccl is None:
            flat_P = gradients_P.cpu()  # gloo adds up on the CPU
            with connected(self.why):
                dist.all_reduce(flat_P)
            gradients_P.copy_(flat_P)
            return self.sum(loss)[0]
        with connected(self.why):
            work: Any = dist.all_reduce(gradients_P, group=self.nccl, async_op=True)
            total = self.sum(loss)[0]  # by gloo, which fails where a process was lost; NCCL would wait for it
            work.wait()
        return total


ALONE = Ranks()
