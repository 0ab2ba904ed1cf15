"""Rating speed: our runner beside the plain loop that a user would write over the same engine; and memory by rows.

    python bench/rate.py [--model FILE.gguf] [--csv RATINGS.csv] [--rows 200] [--rounds 3] [--answer-tokens 24 128]
    python bench/rate.py --engine torch [--model FILE.gguf] [--csv RATINGS.csv --mapping RATINGS.json] [--rows 200]
    python bench/rate.py --million

The peer renders each prompt, has the engine write the whole JSON answer under the labels' grammar, and parses it, one
row after the other. Ours scores the labels. Both use the embedded engine with the same threads and one slot, and take
turns, so that a busier minute of the machine meets both.
With `--codes` ours scores the codes of a file that was tuned with `--code-branch`: one place, one request.
With `--answer-tokens` the peer writes exactly so many tokens, without a grammar, once for each of the numbers.
`--engine torch` compares our runner over the embedded engine with our runner over our own decoder: rows per second of
wall time and of processor time, and how far their probabilities differ.
`--million` rates 10,000, 100,000 and 1,000,000 rows with an engine that only looks as if: what is measured is the
reader, the journal and the writer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from expertune.config import make_config  # noqa: E402
from expertune.engine.answers import Completion  # noqa: E402
from expertune.engine.base import Generation, Scores  # noqa: E402
from expertune.engine.llama_cpp.engine import LlamaCppEngine  # noqa: E402
from expertune.predict.score import LanguageModelScorer  # noqa: E402
from expertune.predict.uncertainty import Uncertainty  # noqa: E402
from expertune.rate.columns import Wanted, share_columns  # noqa: E402
from expertune.rate.journal import Journal  # noqa: E402
from expertune.rate.runner import RateRequest, rate_records  # noqa: E402
from expertune.rate.writer import CsvWriter  # noqa: E402
from expertune.ratings.codes import WORDS, LabelScoring  # noqa: E402
from expertune.ratings.examples import chat_messages  # noqa: E402
from expertune.ratings.records import open_records  # noqa: E402
from expertune.ratings.scale import DEFAULT_MAPPING, RatingScale, answer_opening, make_scale, parse_answer  # noqa: E402
from expertune.torch_engine import open_engine  # noqa: E402
from expertune.train.code_branch import choose_branch  # noqa: E402

SCALE, TOPIC = make_scale(DEFAULT_MAPPING), "respiratory infections"
CONTEXT, MOST_TOKENS = 2240, 160


class Silent:
    """A stage of progress that shows nothing."""

    def advance(self, n: int = 1) -> None:
        pass


@contextlib.contextmanager
def stage(name: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Silent]:
    yield Silent()


def messages(prompt: str) -> tuple[dict[str, str], ...]:
    return chat_messages(prompt, SCALE, TOPIC)


def ours(
    engine: Any,
    source: Path,
    folder: Path,
    scale: RatingScale = SCALE,
    topic: str = TOPIC,
    scoring: LabelScoring = WORDS,
) -> float:
    """Seconds from the input file to the output file, journal included."""
    scorer = LanguageModelScorer(
        engine, lambda prompt: chat_messages(prompt, scale, topic, scoring.branch), scale, scoring
    )
    wanted = Wanted(scale, Uncertainty())
    asked = RateRequest(scorer, "bench", 1, "bench", wanted, workers=engine.slots + 1)
    start = time.perf_counter()
    with Journal(folder / "journal.sqlite") as journal:
        rate_records(open_records(source), folder / "rated.csv", asked, journal, stage)
    return time.perf_counter() - start


def labels_grammar(scale: RatingScale) -> str:
    """GBNF of the answers: a label's opening, any rationale, the end; JSON escapes a text as GBNF does."""
    openings = " | ".join(json.dumps(answer_opening(label), ensure_ascii=False) for label in scale.labels)
    character = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4})'
    return f'root ::= ({openings}) ({character})* "\\"}}"'


def peer(engine: LlamaCppEngine, source: Path, length: int | None) -> tuple[float, int]:
    """Tokens in an answer, and rows whose answer could not be parsed; `length`: exact tokens of an answer."""
    exact = {"n_predict": length, "ignore_eos": True}
    how = exact if length else {"n_predict": MOST_TOKENS, "grammar": labels_grammar(SCALE)}
    tokens, unparsed, rows = 0, 0, 0
    for batch in open_records(source).batches(256):
        for record in batch:
            prompt = engine.render(messages(record.prompt))
            body = {"prompt": engine.tokenize(prompt), "temperature": 0, "cache_prompt": True, "id_slot": 0}
            answer = engine._complete({**body, **how}, Completion)
            unparsed += parse_answer(answer.content, SCALE).state != "rated"
            tokens += answer.tokens_predicted
            rows += 1
    return tokens / rows, unparsed


def code_scoring(engine: LlamaCppEngine) -> LabelScoring:
    """The codes that a training with this model chooses."""
    branch = choose_branch(engine, engine.render(messages("warm up")), len(SCALE.labels))
    if branch is None:
        raise SystemExit("this model's vocabulary has no codes of one token")
    return LabelScoring("code", branch)


@dataclass
class Clock:
    """Seconds of wall time and of processor time that one side has taken, over all rounds."""

    wall: float = 0.0
    cpu: float = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def compare(options: argparse.Namespace) -> None:
    """All sides in turn, `rounds` times, so that a busier minute of the machine meets them all."""
    rounds, codes, threads = options.rounds, options.codes, options.threads
    sides: list[int | None] = [*options.answer_tokens] or [None]
    own, clocks = Clock(), {length: Clock() for length in sides}
    answers: dict[int | None, tuple[float, int]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        source = shortened(options.csv, folder / "rows.csv", options.rows)
        served = (LlamaCppEngine(options.model, context=CONTEXT, threads=threads) for _ in range(2))
        engine, other = map(stack.enter_context, served)
        scoring = code_scoring(engine) if codes else WORDS
        for each in (engine, other):
            each.generate(each.render(messages("warm up")), max_tokens=4)
        for at in range(rounds):
            made = folder / str(at)
            made.mkdir()
            with own.running():
                ours(engine, source, made, scoring=scoring)
            for length, clock in clocks.items():
                with clock.running():
                    answers[length] = peer(other, source, length)
        count = open_records(source).rows * rounds
    for length, clock in clocks.items():
        tokens, unparsed = answers[length]
        found = {
            "model": options.model.name,
            "rows": count // rounds,
            "rounds": rounds,
            "threads": threads or "all",
            "scored by": scoring.by,
            "ours_rows_per_second": round(count / own.wall, 2),
            "peer_rows_per_second": round(count / clock.wall, 2),
            "peer_answer_tokens": round(tokens, 1),
            "peer_unparsed": unparsed,
            "ratio": round(clock.wall / own.wall, 2),
            "ratio of processor time": round(clock.cpu / own.cpu, 2),
        }
        print(json.dumps(found), flush=True)


def compare_engines(model: Path, csv: Path, mapping: Path | None, rows: int, threads: int) -> None:
    about = json.loads(mapping.read_text(encoding="utf-8")) if mapping else {}
    scale, topic = make_scale(about.get("rating_mapping", DEFAULT_MAPPING)), about.get("topic", TOPIC)
    found: dict[str, Any] = {"model": model.name, "csv": csv.name}
    shares: list[np.ndarray] = []
    for name in ("llama.cpp", "torch"):
        config = make_config({"engine": name, "threads": threads or None})
        with tempfile.TemporaryDirectory() as folder:
            source = shortened(csv, Path(folder) / "rows.csv", rows)
            with contextlib.closing(open_engine(model, config, context=CONTEXT)) as engine:
                engine.score(engine.render(messages("warm up")), [answer_opening(label) for label in scale.labels])
                cpu = time.process_time()
                seconds = ours(engine, source, Path(folder), scale, topic)
                cpu, how = time.process_time() - cpu, engine.describe()
            rated = pandas.read_csv(Path(folder) / "rated.csv")
        shares.append(rated[list(share_columns(scale).values())].to_numpy())
        found |= {
            "rows": len(rated),
            "threads": how["threads"],
            f"{name} rows/s": round(len(rated) / seconds, 2),
            f"{name} rows per processor second": round(len(rated) / cpu, 2),
        }
        found |= {key: how[key] for key in ("device", "precision") if key in how}
    gap_N = np.abs(shares[0] - shares[1]).max(axis=1)
    found |= {
        "ratio": round(found["torch rows/s"] / found["llama.cpp rows/s"], 2),
        "probabilities differ": round(float(gap_N.mean()), 4),
        "labels differ": int((shares[0].argmax(axis=1) != shares[1].argmax(axis=1)).sum()),
    }
    print(json.dumps(found))


def shortened(csv: Path, target: Path, rows: int) -> Path:
    """The first rows of a file."""
    records = open_records(csv)
    cells = [record.cells for batch in islice(records.batches(rows), 1) for record in batch]
    with open(target, "wb") as file:
        writer = CsvWriter(file, records.columns, ",")
        writer.write(cells)
    return target


# --- memory ---


class StubEngine:
    """Looks like an engine and computes nothing."""

    name, context, slots, file_bytes, folds_system = "stub", 4096, 1, 0, False
    notes: tuple[str, ...] = ()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return messages[-1]["content"]

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        return Scores(tuple(-(1.0 + (len(prompt) * (k + 1)) % 7) for k in range(len(answers))), exact=True)

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        return Generation("", 0, 0, True)

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def close(self) -> None:
        pass


def rate_stub(rows: int) -> None:
    """In a process of its own, since a process's peak never falls."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open(folder / "new.csv", "w") as file:
            file.write("Row_ID,Prompt\n")
            for i in range(rows):
                file.write(
                    f'{i},"Chief complaint: visit {i}\nTriage: cough and fever for {i % 30} days\nAge: {i % 99}"\n'
                )
        seconds = ours(StubEngine(), folder / "new.csv", folder)
        with open(folder / "rated.csv", "rb") as file:
            file.seek(-200, 2)
            last = file.read().decode()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        json.dumps(
            {"rows": rows, "peak_mib": peak, "rows_per_second": round(rows / seconds), "whole": str(rows - 1) in last}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "examples" / "base.gguf")
    parser.add_argument("--csv", type=Path, default=ROOT / "examples" / "formatted_dataset.csv")
    parser.add_argument("--engine", choices=("torch",), help="compare this engine with the embedded one, and no peer")
    parser.add_argument("--mapping", type=Path, help="with --engine: JSON of labels and topic (default: the visits')")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="times that all sides take their turn")
    parser.add_argument("--threads", type=int, default=0, help="0 is every core; 1 where other work shares the machine")
    parser.add_argument(
        "--answer-tokens",
        nargs="+",
        type=int,
        default=[],
        help=f"exact lengths of the peer's answer; by default until it ends, at most {MOST_TOKENS}",
    )
    parser.add_argument("--codes", action="store_true", help="ours by the codes of a file tuned with --code-branch")
    parser.add_argument(
        "--million", action="store_true", help="memory at 10,000, 100,000 and 1,000,000 rows, stub engine"
    )
    parser.add_argument("--stub-rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stub_rows:
        rate_stub(options.stub_rows)
    elif options.million:
        for rows in (10_000, 100_000, 1_000_000):
            subprocess.run([sys.executable, __file__, "--stub-rows", str(rows)], check=True)
    elif options.engine:
        compare_engines(options.model, options.csv, options.mapping, options.rows, options.threads)
    else:
        compare(options)


if __name__ == "__main__":
    main()
