"""Rate a set's test records with one GGUF and judge it: the same records, engine and statistics for every trainer.

    python bench/judge_file.py FILE.gguf RATINGS.csv [--mapping FILE.json] [--topic …] [--seed 42] [--threads 0]
                               [--out rated.json] [--against other/rated.json]

The labels are scored by llama.cpp over the file, as the product does. --out keeps ids, labels and probabilities;
--against also gives the difference to such a file (the other one less this one). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from runs import figures, interval_of

from expertune.config import Config, make_config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.evaluate.compare import compare, evaluate
from expertune.files import write_json
from expertune.predict.score import Pass, Rated, rate_pass
from expertune.rate.artifact import ANSWER_ROOM
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.scale import RatingScale
from expertune.ratings.schema import Example


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--mapping", type=Path)
    parser.add_argument("--topic", default="")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--against", type=Path)
    options = parser.parse_args()
    config = make_config({"seed": options.seed, "threads": options.threads or None})
    prepared = load_dataset(options.csv, options.mapping, options.topic, config)
    found = rate_with(options.model, prepared.examples.test, prepared.scale, config)
    split, scale = prepared.split, prepared.scale
    judged = asdict(evaluate("file", split.test, found.rated, scale, split.groups, config))
    if options.out:
        write_json(options.out, [asdict(each) for each in found.rated])
    print(
        json.dumps(
            {
                "rows": len(found.rated),
                "rate_seconds": round(found.seconds, 1),
                "figures": figures(judged),
                "other_less_this": less(options.against, found.rated, prepared, config) if options.against else None,
            }
        )
    )


def rate_with(file: Path, examples: Sequence[Example], scale: RatingScale, config: Config) -> Pass:
    """Rate records with a file, by llama.cpp."""
    with LlamaCppEngine(file, context=config.max_tokens + ANSWER_ROOM, threads=config.threads) as engine:
        return rate_pass(engine, examples, scale)


def less(path: Path, rated: tuple[Rated, ...], prepared: Dataset, config: Config) -> dict[str, float | None]:
    """Macro-F1 of the ratings at `path` less that of `rated`, with the interval of paired records."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    other = [Rated(**{**each, "probabilities": tuple(each["probabilities"])}) for each in kept]
    split = prepared.split
    (found,) = compare(("other", other), {"this": rated}, split.test, prepared.scale, split.groups, config)
    return interval_of(asdict(found))


if __name__ == "__main__":
    main()
