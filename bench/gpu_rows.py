"""The rows of bench/gpu.py as tokens, so that the machine with the GPU needs no engine.

    python bench/gpu_rows.py OUT.json --models FOLDER        the 64 triage rows of the tests, in each model's tokens

A row is the bare prompt and the JSON answer. Without such a file the bench makes rows up, of the lengths of these.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402

from expertune.files import write_text  # noqa: E402
from expertune.train.encode import Candidates, Row  # noqa: E402

CSV = ROOT / "tests/data/ratings/ktas_acuity_subset.csv"


def read(path: Path | None, model: str, vocabulary: int) -> tuple[list[Row], Candidates]:
    """A model's rows from the file; made up where it has none."""
    if path is None or not path.exists() or model not in (found := json.loads(path.read_text(encoding="utf-8"))):
        return made_up(vocabulary)
    rows = [
        Row(str(index), label, tuple(prompt), tuple(answer), (1.0,) * len(answer))
        for index, (label, prompt, answer) in enumerate(found[model]["rows"])
    ]
    return rows, Candidates(tuple(found[model]["shared"]), tuple(map(tuple, found[model]["own"])))


def made_up(vocabulary: int, rows: int = 64) -> tuple[list[Row], Candidates]:
    """Random tokens: prompts of 140 ± 30 with a common beginning of 40, answers of 30 ± 6, five labels."""
    draw = np.random.default_rng(0)

    def some(count: float) -> tuple[int, ...]:
        return tuple(map(int, draw.integers(10, vocabulary, max(1, round(count)))))

    beginning, opening, labels = some(40), (5, 6), ((7,), (8,), (9,), (10,), (11,))
    found = []
    for index in range(rows):
        answer = (*opening, *labels[index % 5], *some(draw.normal(27, 6)))
        prompt = (*beginning, *some(draw.normal(100, 30)))
        found.append(Row(str(index), index % 5, prompt, answer, (1.0,) * len(answer)))
    return found, Candidates(opening, labels)


def tokenise(base: Path) -> dict[str, object]:
    """All rows in a model's tokens, by the engine that serves it."""
    import pandas

    from expertune.engine.label_scoring import distinguishing
    from expertune.engine.llama_cpp.engine import LlamaCppEngine
    from expertune.ratings.scale import answer_opening

    frame = pandas.read_csv(CSV).dropna(subset=["Prompt", "Standardized_Rating"])
    ratings = [str(int(rating)) for rating in frame["Standardized_Rating"]]
    labels = sorted(set(ratings))
    with LlamaCppEngine(base, context=1024) as engine:
        rows = []
        for prompt, rating, why in zip(frame["Prompt"], ratings, frame["Rationale of Rating"], strict=True):
            answer = json.dumps({"rating": rating, "rationale": str(why)[:300]})
            rows.append(
                [labels.index(rating), list(engine.tokenize(prompt)), list(engine.continuation(prompt, answer))]
            )
        prompt = str(frame["Prompt"].iloc[0])
        shared, own = distinguishing([engine.continuation(prompt, answer_opening(label)) for label in labels])
    return {"rows": rows, "shared": list(shared), "own": [list(each) for each in own]}


def main() -> None:
    import make_gguf
    from gpu_models import SHAPES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = make_gguf.make(Path(folder) / "m.gguf", width=64, ffn=128, layers=1, heads=2, kv=1, type="Q8_0")
        found = {
            name: tokenise(small if name == "m200" else options.models / shape.file) for name, shape in SHAPES.items()
        }
    write_text(options.out, json.dumps(found))


if __name__ == "__main__":
    main()
