"""The rating files and models of the benches, by the short names that their tables use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from runs import ROOT

from examples import real_models

EXAMPLES = ROOT / "examples"
VISITS = EXAMPLES / "formatted_dataset.csv"
VISITS_TOPIC = "respiratory infections"
FILES = {
    "triage": "ktas_acuity_train.csv",
    "pubmedqa": "pubmedqa_train.csv",
    "screening": "synergy_Nelson_2002_train.csv",
}
SETS = ("visits", *FILES)
MODELS = ("smollm2", "gemma3", "base")


@dataclass(frozen=True)
class RatingSet:
    """A rating file, the JSON of its mapping (None: the file beside it, or the default), and its topic."""

    name: str
    csv: Path
    mapping: Path | None
    topic: str


def visits() -> RatingSet:
    return RatingSet("visits", VISITS, None, VISITS_TOPIC)


def find_set(name: str, data: Path | None) -> RatingSet:
    """The example visits, or a file in the folder `data`, with a JSON of the same name without `_train` beside it.

    Raises FileNotFoundError, with what to give.
    """
    if name == "visits":
        return visits()
    if data is None or not (data / FILES[name]).is_file():
        raise FileNotFoundError(f"{name}: needs {FILES[name]}; give its folder with --data")
    return open_set(data / FILES[name], data / FILES[name].replace("_train.csv", ".json"), name)


def open_set(csv: Path, mapping: Path, name: str) -> RatingSet:
    """A rating file and the JSON that holds its rating_mapping and, under "topic", what is rated."""
    topic = json.loads(mapping.read_text(encoding="utf-8")).get("topic", "")
    return RatingSet(name, csv, mapping, topic)


def shortened(found: RatingSet, rows: int, folder: Path) -> RatingSet:
    """The first `rows` records, in a file of their own."""
    import pandas

    from expertune.files import write_text

    if not rows:
        return found
    target = folder / f"{found.name}-{rows}.csv"
    write_text(target, pandas.read_csv(found.csv).head(rows).to_csv(index=False))
    mapping = found.mapping or found.csv.parent / "rating_mapping_metadata.json"
    return RatingSet(found.name, target, mapping, found.topic)


def find_model(name: str, folder: Path | None) -> Path:
    """A path as it is, `base` as the example base, a real model from `folder` or the cache, fetched where it is absent.

    Raises examples.real_models.Unavailable.
    """
    if name == "base":
        return EXAMPLES / "base.gguf"
    return real_models.fetch(name, folder) if name in real_models.MODELS else Path(name)
