"""For tests of the runner: a run's folder around a tiny model, and an engine that answers by a rule."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expertune.engine.base import Generation, Scores
from expertune.errors import EngineError
from expertune.files import sha256
from expertune.predict.score import LanguageModelScorer
from expertune.predict.uncertainty import Uncertainty
from expertune.rate.columns import Wanted
from expertune.rate.runner import RateRequest
from expertune.rate.serve import ServedModel
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import make_scale
from records import plain_record

MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
SCALE = make_scale(MAPPING)
TOPIC = "respiratory infections"


class RuleEngine:
    """The labels' probabilities are a hash of the prompt; a prompt with "bad" in it fails while `broken` is set, and
    one with "odd" in it is not exact.

    `told` is a file that gets a line for each prompt that is scored; `scored` lists them where there is none.
    """

    name, context, file_bytes, folds_system = "rule", 4096, 0, False
    notes: tuple[str, ...] = ()

    def __init__(self, *, slots: int = 2, seconds: float = 0.0, told: Path | None = None, keep: bool = True) -> None:
        self.slots, self.seconds, self.told, self.keep = slots, seconds, told, keep
        self.scored: list[str] = []
        self.generated: list[str] = []
        self.broken = True
        self.gone = False
        self._lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<{message['role']}>{message['content']}\n" for message in messages)

    def tokenize(self, prompt: str) -> list[int]:
        return list(prompt.encode())

    def count_tokens(self, prompt: str) -> int:
        return len(prompt)

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return list(answer.encode())

    def turn_end(self) -> list[int]:
        return [0]

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        if self.told is not None:
            with open(self.told, "a") as file:
                file.write(hashlib.sha256(prompt.encode()).hexdigest() + "\n")
        elif self.keep:
            with self._lock:
                self.scored.append(prompt)
        time.sleep(self.seconds)
        if self.gone or (self.broken and "bad" in prompt):
            raise EngineError("rule: no answer")
        return Scores(tuple(scores(prompt, len(answers))), exact="odd" not in prompt)

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        with self._lock:
            self.generated.append(prompt)
        return Generation(f'since \\"{len(prompt)}\\" letters"}} and more', 1, 1, True)

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def close(self) -> None:
        pass


def scores(prompt: str, count: int) -> list[float]:
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    return [math.log(1 + byte) for byte in digest[:count]]


class Counted:
    """A stage of progress that only counts."""

    def __init__(self) -> None:
        self.done = 0
        self.stages: list[tuple[str, int | None]] = []

    def advance(self, n: int = 1) -> None:
        self.done += n

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, *, done: int = 0, unit: str = "") -> Iterator[Counted]:
        self.stages.append((name, total))
        yield self


def asked(
    engine: Any, *, trust: Uncertainty | None = None, config: str = "c", digest: str = "m", **wanted: Any
) -> RateRequest:
    scorer = LanguageModelScorer(engine, lambda prompt: chat_messages(prompt, SCALE, TOPIC), SCALE)
    return RateRequest(scorer, config, 1, digest, Wanted(SCALE, trust or Uncertainty(), **wanted))


@contextlib.contextmanager
def open_rule(told: Path, *, seconds: float = 0.0, gone: bool = False) -> Iterator[ServedModel]:
    """The engine of a worker of a Ray cluster, which adds its pid to a file; the text "fatal" ends the process."""

    class FatalEngine(RuleEngine):
        def score(self, prompt: str, answers: Sequence[str]) -> Scores:
            if "fatal" in prompt:
                os._exit(1)
            return super().score(prompt, answers)

    with open(told.with_suffix(".pids"), "a") as file:
        file.write(f"{os.getpid()}\n")
    engine = FatalEngine(seconds=seconds, told=told)
    engine.gone = gone
    yield ServedModel(asked(engine).scorer, "m", workers=2)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def visits(count: int, begin: str = "visit") -> list[dict[str, Any]]:
    return [{"Row_ID": f"r{i}", "Prompt": f"{begin} {i}: cough, fever"} for i in range(count)]


def write_run(folder: Path, model: Path, **more: Any) -> Path:
    """The folder of a tuned run, with `model` as the finished file."""
    folder.mkdir(parents=True, exist_ok=True)
    os.replace(model, folder / "fine_tuned_model.gguf")  # noqa: PTH105 - a test's model is moved, never copied
    hashes = {"fine_tuned_model.gguf": sha256(folder / "fine_tuned_model.gguf"), "base": "0" * 64}
    parts: dict[str, Any] = {
        "processing_info": {"target_topics": TOPIC},
        "rating_mapping": MAPPING,
        "provenance": {"hashes": hashes},
        "settings": {"max_tokens": 320},
    }
    metadata = plain_record(**(parts | more))
    (folder / "fine_tuning_metadata.json").write_text(json.dumps(metadata))
    return folder
