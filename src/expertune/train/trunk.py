"""Trunk cache: the residual stream that the blocks with adapters start from, computed once and kept on disk.

No block below them has an adapter, so their result depends on the text alone. It is stored for each segment by its
text, and any pack with the same segments can use it.

Axes: T token of a pack · X token of the file · D model width.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import OutputError
from ..files import atomic, size_text
from ..model.forward_context import Pack
from ..model.load import Tunable
from ..model.states import PACK_TOKENS, pack_groups
from .batches import by_length, dev_batch, groups_of, shared_beginning, training_batch
from .checkpoint import CheckpointPlace
from .encode import Candidates, Row

log = logging.getLogger("expertune")

NAME = "trunk.bin"
DISK_SHARE = 0.5  # of the free space at most; the rest is for checkpoints and the model file
Places = dict[bytes, slice]  # a segment's text → its tokens in the file
Packs = Callable[[], Iterable[tuple[Pack, Sequence[Row]]]]  # made anew, since all at once are large
Stream = Callable[[Pack, Sequence[Row]], torch.Tensor]


@dataclass
class Trunk:
    """The file as a memory-mapped tensor, in the compute dtype: the adapted blocks round their input to it anyway."""

    path: Path
    places: Places
    stream_XD: torch.Tensor

    def start(self, pack: Pack) -> torch.Tensor:
        """The result of `Decoder.trunk` for a pack, (T, D) on the CPU; tokens that only fill up are 0."""
        start_TD = self.stream_XD.new_zeros(len(pack.tokens_T), self.stream_XD.shape[1])
        for key, tokens in _texts(pack):
            start_TD[tokens] = self.stream_XD[self.places[key]]
        return start_TD

    def remove(self) -> None:
        """Delete the file: it is derived from the records' text."""
        self.stream_XD = torch.empty(0)  # some systems keep a file as long as it is mapped
        self.path.unlink(missing_ok=True)


def make_trunk(
    tunable: Tunable,
    packs: Packs,
    place: CheckpointPlace,
    advance: Callable[[int], object],
    stream: Stream | None = None,
    *,
    write: bool = True,
) -> Trunk | None:
    """Open the file of this run, or compute it from the packs; `advance` gets 0 before the first and the
    number of rows after each.

    `stream` gives `Decoder.trunk` of a pack where more is read from the same pass. None, with a line in the log, if the
    disk has no room for the file, or if there is none and it is not to be written.
    """
    path, dtype = place.folder / NAME, tunable.placement.dtype
    places = _layout(packs)
    shape = (sum(each.stop - each.start for each in places.values()), tunable.model_config.width)
    facts = (place.run_id, str(dtype), *shape, *places)
    owner = hashlib.sha256(repr(facts).encode()).digest()
    size = math.prod(shape) * dtype.itemsize
    if not _is_whole(path, size, owner):
        if not write:
            return None
        place.folder.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        free = shutil.disk_usage(place.folder).free
        if size > DISK_SHARE * free:
            log.warning("no trunk cache: it needs %s, %s are free; steps take longer", size_text(size), size_text(free))
            return None
        try:
            _write(path, stream or (lambda pack, rows: tunable.decoder.trunk(pack)), dtype, packs, owner, advance)
        except OutputError as error:
            log.warning("no trunk cache: %s; steps take longer", error)
            return None
    flat = torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=dtype)
    return Trunk(path, places, flat.view(shape))


def packs_of_all(
    train: Sequence[Row], dev: Sequence[Row], candidates: Candidates, *, dev_rows: int
) -> Iterator[tuple[Pack, Sequence[Row]]]:
    """Packs with all segments that training and evaluation compute, and the rows of each: large ones of training rows,
    then those of an evaluation, whose common beginning depends on the rows of a pack."""
    shared, code = shared_beginning(train), candidates.code
    lengths = [row.length + (len(code.lead) if code else 0) for row in train]
    for group in pack_groups(by_length(train), lengths, shared, PACK_TOKENS):
        rows = [train[at] for at in group]
        yield training_batch(rows, (1.0,) * len(candidates.own), shared=shared, code=code).pack, rows
    for rows in groups_of(dev, by_length(dev), dev_rows):
        yield dev_batch(rows, candidates).batch.pack, rows


def _write(
    path: Path,
    stream: Stream,
    dtype: torch.dtype,
    packs: Packs,
    owner: bytes,
    advance: Callable[[int], object],
) -> None:
    """Write each segment at its first occurrence, in the order of `_layout`, then the owner."""
    written = set[bytes]()
    with atomic(path) as file, torch.no_grad():
        advance(0)
        for pack, rows in packs():
            trunk_TD = stream(pack, rows).to(dtype).cpu()
            for key, tokens in _texts(pack):
                if key not in written:
                    file.write(trunk_TD[tokens].contiguous().view(torch.uint8).numpy().tobytes())
                    written.add(key)
            advance(len(rows))
        file.write(owner)


def _layout(packs: Packs) -> Places:
    """Places of the segments in the file, each at its first occurrence."""
    places, end = Places(), 0
    for pack, _ in packs():
        for key, tokens in _texts(pack):
            if key not in places:
                places[key] = slice(end, end := end + tokens.stop - tokens.start)
    return places


def _is_whole(path: Path, size: int, owner: bytes) -> bool:
    if not path.exists() or path.stat().st_size != size + len(owner):
        return False
    with open(path, "rb") as file:
        file.seek(size)
        return file.read() == owner


def _texts(pack: Pack) -> Iterator[tuple[bytes, slice]]:
    """For each segment a hash of its text, up to its end, and of its length; and its tokens in the pack."""
    tokens = pack.tokens_T.numpy()
    for segment in pack.segments:
        own = (segment.start, segment.stop)
        text = b"".join(tokens[start:stop].tobytes() for start, stop in (*segment.before, own))
        digest = hashlib.blake2b(text, digest_size=16).digest()
        yield digest + (segment.stop - segment.start).to_bytes(4, "little"), slice(*own)
