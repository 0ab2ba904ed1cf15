"""What the training defaults stand on: one training a line, rated on validation records only.

    python bench/recipe.py --models smollm2 --sets visits triage --data FOLDER --setting decision_weight=1
    python bench/recipe.py --table        # writes the table into bench/README.md

A run's test records are left out altogether; of the others 30 % validate (not 10 %, so that differences show) and the
rest trains. Each training appends one line of figures to bench/results/recipe.jsonl; one that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from runs import PAGE, RESULTS, append_result, put_between, read_results, stamp, table
from sets import MODELS, SETS, RatingSet, find_model, find_set
from sklearn.metrics import f1_score

from expertune.config import Config, as_dict, make_config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_adapter
from expertune.model.load import Tunable, load, place
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.train.code_branch import choose_branch
from expertune.train.encode import Candidates, Row, candidates, encode
from expertune.train.evaluate import DevEvaluation
from expertune.train.events import DevEvent
from expertune.train.loop import Trainer, TrainingData
from expertune.train.recipe import with_recipe

FILE = RESULTS / "recipe.jsonl"
VALIDATION = 0.3
ANSWERS = 30  # validation records that are also asked for a free answer
STRENGTHS = (0.5, 1.0)
SHOWN = ("decision_weight", "rationale_weight", "class_weight", "logit_adjustment", "learning_rate", "epochs")
WITHOUT_CODES = {"code_branch": False}  # of results that do not say
FIXED = {"evals_per_epoch": 1, "early_stopping_patience": 1000}


def divided(prepared: Dataset, seed: int) -> set[str]:
    """Row ids to train on; the other ones of the train and dev parts validate. Groups stay whole."""
    groups = prepared.split.groups
    rows = [row for part in (prepared.split.train, prepared.split.dev) for row in part]
    names = sorted({groups[row.id] for row in rows})
    random.Random(seed).shuffle(names)
    held = set(names[: round(VALIDATION * len(names))])
    return {row.id for row in rows if groups[row.id] not in held}


def encoded(model: Path, prepared: Dataset, config: Config) -> tuple[Dataset, list[Row], Candidates]:
    """The dataset as the model is asked, and its tokens; with --setting code_branch=true its prompts name the codes."""
    with LlamaCppEngine(model, context=config.max_tokens, threads=config.threads) as engine:
        scale, first = prepared.scale, prepared.examples.train[0].messages
        branch = choose_branch(engine, engine.render(first), len(scale.labels)) if config.code_branch else None
        asked = prepared.with_codes(branch)
        examples = [*asked.examples.train, *asked.examples.dev]
        answers = candidates(engine, examples[0], scale, branch)
        rows = encode(engine, examples, scale, rationale_weight=config.rationale_weight)
        return asked, [row for row in rows if row.length <= config.max_tokens], answers


def figures(found: DevEvaluation, truth: list[int], shares_K: np.ndarray) -> dict[str, Any]:
    """A look in numbers, and the macro-F1 if the labels' shares were taken off its scores afterwards."""
    log_RK = found.log_probabilities_RK.numpy()
    code_RK = None if found.code_log_RK is None else found.code_log_RK.numpy()
    by_code = {} if code_RK is None else {"code": code_RK, "both": log_RK + code_RK}
    return {
        **{f"{way}_macro_f1": macro_f1(truth, own_RK) for way, own_RK in by_code.items()},
        "macro_f1": found.macro_f1,
        "accuracy": found.accuracy,
        "label_loss": found.label_loss,
        "rationale_loss": found.rationale_loss,
        "adjusted_macro_f1": {
            str(strength): macro_f1(truth, log_RK - strength * np.log(shares_K)) for strength in STRENGTHS
        },
    }


def macro_f1(truth: list[int], score_RK: np.ndarray) -> float:
    return float(f1_score(truth, score_RK.argmax(-1), average="macro"))


def training(model: Path, data: RatingSet, config: Config) -> dict[str, Any]:
    """Train once; its figures at each look."""
    prepared = load_dataset(data.csv, str(data.mapping) if data.mapping else None, data.topic, config)
    prepared, rows, answers = encoded(model, prepared, config)
    ids = divided(prepared, config.seed)
    train, validation = [row for row in rows if row.id in ids], [row for row in rows if row.id not in ids]
    counts_K = np.bincount([row.label for row in train], minlength=len(answers.own))
    shares_K = np.maximum(counts_K, 1) / counts_K.sum()
    looks, began = [], time.perf_counter()
    with GGUFFile(model) as file:
        tunable = load(file, config, place(file, config), row_tokens=max(row.length for row in rows))
        trainer = Trainer(tunable, TrainingData(train, validation, answers), config)
        for event in trainer.run():
            if isinstance(event, DevEvent) and trainer.last_evaluation is not None:
                epoch = event.step / trainer.schedule.steps_in_epoch
                looks.append(
                    {"epoch": epoch, **figures(trainer.last_evaluation, [row.label for row in validation], shares_K)}
                )
                print(looks[-1], flush=True)
        answers_valid = valid_answers(model, prepared, tunable, config, {row.id for row in validation[:ANSWERS]})
    return {
        "rows": [len(train), len(validation)],
        "valid_json": answers_valid,
        "rarest_share": float(shares_K.min()),
        "looks": looks,
        "seconds": round(time.perf_counter() - began, 1),
    }


def valid_answers(model: Path, prepared: Dataset, tunable: Tunable, config: Config, ids: set[str]) -> float:
    """Share of those records' free answers, written without a grammar, that are JSON with a label of the scale."""
    examples = [each for each in (*prepared.examples.train, *prepared.examples.dev) if each.id in ids]
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter.gguf"
        write_adapter(
            adapter,
            architecture=tunable.model_config.family,
            alpha=tunable.lora.alpha,
            tensors=tunable.lora.pairs(),
            metadata={},
        )
        with LlamaCppEngine(model, adapter=adapter, context=config.max_tokens, threads=config.threads) as engine:
            answers = [engine.generate(engine.render(each.messages), max_tokens=160).text for each in examples]
    return sum(is_valid(answer, prepared.scale.labels) for answer in answers) / len(answers)


def is_valid(answer: str, labels: Sequence[str]) -> bool:
    try:
        found = json.loads(answer)
    except ValueError:
        return False
    return isinstance(found, dict) and set(found) == {"rating", "rationale"} and found["rating"] in labels


def key_of(model: str, data: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "set": data, **{name: settings[name] for name in (*SHOWN, *WITHOUT_CODES, "seed")}}


def measure(options: argparse.Namespace) -> None:
    given = dict(each.split("=", 1) for each in options.setting)
    for model in options.models:
        path = find_model(model, options.model_folder)
        for name in options.sets:
            with GGUFFile(path) as file:
                config = with_recipe(file, make_config({**FIXED, "threads": options.threads or None, **given}))
            key = key_of(model, name, as_dict(config))
            if any(key.items() <= {**WITHOUT_CODES, **entry}.items() for entry in read_results(FILE)):
                print(f"there already: {key}")
                continue
            print(key, flush=True)
            append_result(FILE, {**key, **stamp(), **training(path, find_set(name, options.data), config)})


def lines(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Markdown: a line for each training, what it reached at its last epoch."""
    head = ("model", "set", "decision", "rationale", "classes", "learning rate", "epochs", "macro-F1", "log-loss")
    head += ("rationale, nats a token", "valid JSON", "macro-F1, shares taken off by ½ / 1", "by code / by both")
    ordered = sorted(entries, key=lambda entry: (MODELS.index(entry["model"]), SETS.index(entry["set"])))
    return table(head, [row(entry) for entry in ordered])


def row(entry: dict[str, Any]) -> list[str]:
    last, classes = entry["looks"][-1], entry["class_weight"]
    return [
        entry["model"],
        entry["set"],
        f"{entry['decision_weight']:g}",
        f"{entry['rationale_weight']:g}",
        f"shifted by {entry['logit_adjustment']:g}" if classes == "auto" else classes,
        f"{entry['learning_rate']:g}",
        f"{entry['epochs']:g}",
        f"{last['macro_f1']:.3f}",
        f"{last['label_loss']:.3f}",
        "–" if last["rationale_loss"] is None else f"{last['rationale_loss']:.2f}",
        f"{entry['valid_json']:.0%}" if "valid_json" in entry else "–",
        " / ".join(f"{last['adjusted_macro_f1'][str(each)]:.3f}" for each in STRENGTHS),
        " / ".join(f"{last[way]:.3f}" for way in ("code_macro_f1", "both_macro_f1") if way in last) or "–",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2"])
    parser.add_argument("--sets", nargs="+", default=["visits"], choices=SETS)
    parser.add_argument("--data", type=Path, help="folder with the rating files of the other sets")
    parser.add_argument("--model-folder", type=Path, help="folder with the real models, else they are fetched")
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of expertune tune")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only write the table into bench/README.md")
    options = parser.parse_args()
    if options.table:
        put_between(PAGE, "recipe", list(lines(read_results(FILE))))
    else:
        measure(options)


if __name__ == "__main__":
    main()
