"""What the training defaults stand on: one training a line, rated on validation records only.

    python bench/recipe.py MODEL.gguf SET … [--decision-weight 20] [--learning-rate 1e-3] [--epochs 4] …

SET is "visits" (the example visits) or a rating file with a .json of its topic and mapping beside it. The run's test
records are left out altogether; of the others 30 % validate (not 10 %, so that differences show) and the rest trains.
Each training appends one line to bench/results/recipe.jsonl: figures, and the validation records' log-probabilities
without ids or text. The same training is not done twice. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from expertune.config import Config, make_config
from expertune.engine.llama_cpp import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.load import load, place
from expertune.pipeline.prepare import Prepared, prepare
from expertune.train.dev import DevLook
from expertune.train.encode import Candidates, Row, candidates, encode, token_weights
from expertune.train.events import DevEvent
from expertune.train.loop import Trainer

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results/recipe.jsonl"
VISITS = HERE.parent / "examples/formatted_dataset.csv"
VALIDATION = 0.3
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def read_set(name: str, config: Config) -> Prepared:
    """The set by its split; "visits" are the examples of the repository."""
    path = VISITS if name == "visits" else Path(name)
    about = path.with_suffix(".json")
    told = (
        json.loads(about.read_text()) if about.exists() else {"topic": "respiratory infections", "rating_mapping": None}
    )
    return prepare(path, told["rating_mapping"], told["topic"], config)


def divided(prepared: Prepared, seed: int) -> tuple[set[str], set[str]]:
    """Row ids to train on and to validate by, whole groups each, without the test records."""
    groups = prepared.split.groups
    rows = [row for part in ("train", "dev") for row in prepared.split.parts()[part]]
    names = sorted({groups[row.id] for row in rows})
    random.Random(seed).shuffle(names)
    held = set(names[: round(VALIDATION * len(names))])
    return {r.id for r in rows if groups[r.id] not in held}, {r.id for r in rows if groups[r.id] in held}


def encoded(model: Path, prepared: Prepared, config: Config) -> tuple[list[Row], Candidates]:
    examples = [example for part in ("train", "dev") for example in prepared.examples[part]]
    with LlamaCppEngine(model, context=config.max_tokens, threads=1) as engine:
        rows = encode(engine, examples, prepared.scale, token_weights(config))
        return [r for r in rows if r.length <= config.max_tokens], candidates(engine, examples[0], prepared.scale)


def figures(found: DevLook, truth: list[int], shares: np.ndarray) -> dict[str, object]:
    """A look in numbers, with what a posthoc adjustment by the labels' shares would make of it."""
    log_NK = found.log_probabilities_NK.numpy()
    adjusted = {
        str(strength): f1_score(truth, (log_NK - strength * np.log(shares)).argmax(-1), average="macro")
        for strength in STRENGTHS
    }
    return {
        "macro_f1": found.macro_f1,
        "accuracy": found.accuracy,
        "label_loss": found.label_loss,
        "rationale_loss": found.rationale_loss,
        "loss": found.loss,
        "adjusted_macro_f1": adjusted,
    }


def training(model: Path, name: str, config: Config, note: str) -> dict[str, object]:
    """Train once; the result's line."""
    prepared = read_set(name, config)
    rows, answers = encoded(model, prepared, config)
    train_ids, _ = divided(prepared, config.seed)
    train = [row for row in rows if row.id in train_ids]
    validation = [row for row in rows if row.id not in train_ids]
    truth = [row.label for row in validation]
    counts = np.bincount([row.label for row in train], minlength=len(answers.own))
    shares = np.maximum(counts, 1) / counts.sum()
    looks, began = [], time.perf_counter()
    with GGUFFile(model) as file:
        tunable = load(file, config, place(file, config), row_tokens=max(row.length for row in rows))
        trainer = Trainer(tunable, train, validation, answers, config)
        last = None
        for event in trainer.run():
            if isinstance(event, DevEvent):
                last = trainer.last_look
                assert last is not None
                looks.append({"epoch": event.step / trainer.steps_in_epoch, **figures(last, truth, shares)})
                print(
                    json.dumps(
                        {
                            "at": looks[-1]["epoch"],
                            **{k: looks[-1][k] for k in ("macro_f1", "label_loss", "rationale_loss")},
                            "tau": looks[-1]["adjusted_macro_f1"],
                            "s": round(time.perf_counter() - began),
                        }
                    ),
                    flush=True,
                )
    assert last is not None
    changed = {f.name: getattr(config, f.name) for f in fields(Config) if getattr(config, f.name) != f.default}
    return {
        "model": model.stem,
        "set": Path(name).stem,
        "note": note,
        "settings": changed,
        "rows": [len(train), len(validation)],
        "shares": shares.round(4).tolist(),
        "looks": looks,
        "seconds": round(time.perf_counter() - began, 1),
        "truth": truth,
        "log_probabilities": last.log_probabilities_NK.numpy().round(4).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of Config")
    parser.add_argument("--note", default="")
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.set)
    RESULTS.parent.mkdir(exist_ok=True)
    for name in options.sets:
        config = replace(make_config({"threads": 1, "dev_looks": 1, "patience": 1000, **given}))
        print(Path(name).stem, given, flush=True)
        line = training(options.model, name, config, options.note)
        with RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
