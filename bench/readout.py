"""How well the readout rates beside TF-IDF: sets × models × seeds of the split, on the test part of each split.

    python bench/readout.py [--data FOLDER] [--sets visits triage pubmedqa screening] [--models smollm2 gemma3 base]
                            [--seeds 42 43 …] [--threads 0] [--again]
    python bench/readout.py --table

A run of `expertune tune` does far more; this takes its readout alone, by the same code, so that many seeds are seen in
minutes: the states of a set's records are computed once for a model, then each split fits its training part and rates
its test part. Beside it the raters by word counts of a model set, pooled, and TF-IDF, the baseline of every report.
Each split is a line of bench/results/readout.jsonl; --table writes the table of bench/README.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import runs
import sets
from pool import pooled
from runs import Entry

from expertune.config import Config, make_config, with_changes
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.evaluate.baselines import tfidf
from expertune.evaluate.compare import compare, evaluate
from expertune.files import sha256
from expertune.model.states import SharedTokens
from expertune.modelset.word_pool import pool_words, rate_by_words
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.schema import Rating
from expertune.readout.build import rate_by, readout_record
from expertune.readout.fit import fit
from expertune.readout.states import BaseStates, PooledStates

RESULTS = runs.RESULTS / "readout.jsonl"
KEY = ("set", "model", "seed")
MARK = "bench/readout.py"
CONTEXT = 2240
METRICS = ("macro_f1", "log_loss")
WORDS = "word counts, pooled"


def main() -> int:
    options = parse(sys.argv[1:])
    if not options.table:
        for name in options.sets:
            for model in options.models:
                measure(name, model, options)
    runs.show_table(list(table(runs.read_results(options.results))), MARK if options.table else "")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the CSV and JSON of triage, pubmedqa and screening")
    parser.add_argument("--sets", nargs="+", choices=sets.SETS)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3"], help="of these, or paths of GGUF files")
    parser.add_argument("--model-dir", type=Path, help="where the real models are kept (default: the cache)")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(42, 50)))
    parser.add_argument("--threads", type=int, default=0, help="0 is every core")
    parser.add_argument("--again", action="store_true", help="also the splits that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    options = parser.parse_args(arguments)
    options.sets = options.sets or (list(sets.SETS) if options.data else ["visits"])
    return options


# --- splits ---


def measure(name: str, model: str, options: argparse.Namespace) -> None:
    """Measure the splits that are missing."""
    found, path = sets.find_set(name, options.data), sets.find_model(model, options.model_dir)
    done = runs.latest(runs.read_results(options.results), *KEY)
    seeds = [seed for seed in options.seeds if options.again or (name, path.name, seed) not in done]
    if not seeds:
        return
    config = make_config({"threads": options.threads})
    print(f"{name}, {path.name}: states …", flush=True)
    states, base = states_of(load(found, config), path, config), (path.name, sha256(path))
    for seed in seeds:
        own = with_changes(config, seed=seed)
        entry = split(load(found, own), states, base, own)
        runs.append_result(options.results, {**runs.stamp(), "set": name, "model": path.name, "seed": seed, **entry})
        shown = (f"{rater} {runs.figure(figures['macro_f1'])}" for rater, figures in entry["raters"].items())
        print(f"  seed {seed}: macro-F1 of {', '.join(shown)}", flush=True)


def load(found: sets.RatingSet, config: Config) -> Dataset:
    return load_dataset(found.csv, str(found.mapping) if found.mapping else None, found.topic, config)


def states_of(dataset: Dataset, path: Path, config: Config) -> tuple[dict[str, int], PooledStates]:
    """The place of each record, and the states of all: the same in every split."""
    examples = [example for part in dataset.examples.parts().values() for example in part]
    with LlamaCppEngine(path, context=CONTEXT, threads=config.threads) as engine:
        prompts = [tuple(engine.tokenize(engine.render(example.messages))) for example in examples]
    base, shared = BaseStates(path, config), SharedTokens.of(prompts)
    place = {each.id: at for at, each in enumerate(examples)}
    return place, PooledStates(base.of(prompts, shared), base.depths, shared)


def split(
    dataset: Dataset, states: tuple[dict[str, int], PooledStates], base: tuple[str, str], config: Config
) -> Entry:
    """Figures of both raters on the test part of one split, and the paired difference of macro-F1."""
    place, found = states
    train, test, scale, groups = dataset.split.train, dataset.split.test, dataset.scale, dataset.split.groups

    def of(rows: Sequence[Rating]) -> PooledStates:
        return replace(found, states_NLPD=found.states_NLPD[[place[row.id] for row in rows]])

    made = fit(train, of(train), scale, groups, seed=config.seed)
    assert made is not None and made.fitted_words is not None, "too few records"
    record = readout_record(made, dataset, *base, found.shared)
    rated = {
        "readout": rate_by(record, dataset.examples.test, of(test)),
        WORDS: rate_by_words(pool_words(made.fitted_words, scale)[0], test, scale),
        "TF-IDF": tfidf(train, test, scale, config.seed),
    }
    evaluations = {name: evaluate(name, test, own, scale, groups, config) for name, own in rated.items()}
    (less,) = compare(("readout", rated["readout"]), {"TF-IDF": rated["TF-IDF"]}, test, scale, groups, config)
    return {
        "rows": {"train": len(train), "test": len(test)},
        "raters": {name: runs.figures(asdict(each)) for name, each in evaluations.items()},
        "less_tfidf": runs.interval_of(asdict(less)),
        "weights": dict(made.weights),
        "out_of_fold": {name: each.model_dump() for name, each in made.figures.items()},
    }


# --- table ---


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """Means over the seeds; the last rows are means over the sets."""
    found = list(runs.latest(entries, *KEY).values())
    models = list(dict.fromkeys(each["model"] for each in found))
    rows, means = list[list[str]](), list[list[str]]()
    for model in models:
        by_set = {name: [each for each in found if (each["set"], each["model"]) == (name, model)] for name in sets.SETS}
        by_set = {name: own for name, own in by_set.items() if own}
        rows += [row(name, model, own) for name, own in by_set.items()]
        if len(by_set) > 1:
            means.append(mean_row(model, list(by_set.values())))
    head = ("set", "model", "seeds", "macro-F1, readout", WORDS, "TF-IDF", "readout less TF-IDF", "ahead")
    head += ("log-loss, readout", WORDS, "TF-IDF")
    yield from runs.table(head, [*rows, *means])
    if found:
        yield ""
        yield f"{len(found)} splits, {runs.measured_on(found)}"


def row(name: str, model: str, own: Sequence[Entry]) -> list[str]:
    ahead = sum(each["less_tfidf"]["value"] > 0 for each in own)
    less = runs.figure(pooled([each["less_tfidf"] for each in own]), sign=True)
    f1, loss = (told(means_of(own, metric)) for metric in METRICS)
    return [name, model, str(len(own)), *f1, less, f"{ahead} of {len(own)}", *loss]


def mean_row(model: str, of_sets: Sequence[Sequence[Entry]]) -> list[str]:
    """Means over the sets of the means over the seeds."""
    less = np.mean([np.mean([each["less_tfidf"]["value"] for each in own]) for own in of_sets])
    f1, loss = (told(np.mean([means_of(own, metric) for own in of_sets], axis=0)) for metric in METRICS)
    return ["**mean**", model, str(max(map(len, of_sets))), *f1, f"**{less:+.3f}**", "", *loss]


def means_of(own: Sequence[Entry], metric: str) -> list[float]:
    """The means of the readout, of the pooled word counts (nan where a line has none) and of TF-IDF."""
    return [float(np.mean([value_of(each, rater, metric) for each in own])) for rater in ("readout", WORDS, "TF-IDF")]


def value_of(entry: Entry, rater: str, metric: str) -> float:
    """Of a rater's figure in a split; nan without one."""
    return entry["raters"][rater][metric]["value"] if rater in entry["raters"] else math.nan


def told(values: Iterable[float]) -> list[str]:
    return ["–" if math.isnan(value) else f"{value:.3f}" for value in values]


if __name__ == "__main__":
    raise SystemExit(main())
