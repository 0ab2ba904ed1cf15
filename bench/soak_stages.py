"""The jobs of bench/soak.py: each does its work in a folder, from wherever an earlier one was killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time
import urllib.parse
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(ROOT / "tests" / "train"), str(ROOT)]

import pandas as pd  # noqa: E402
import test_loop  # noqa: E402
import torch  # noqa: E402
import xllamacpp  # noqa: E402, F401 - so that no job imports it
from soak_fork import Used, fork  # noqa: E402

import tiny  # noqa: E402
from expertune import outputs  # noqa: E402
from expertune.cli.main import main  # noqa: E402
from expertune.engine.ollama.server import OllamaServer  # noqa: E402
from expertune.files import remove_leftovers, sha256, write_json  # noqa: E402
from expertune.fine_tuner import FineTuner  # noqa: E402
from expertune.gguf.write import write_adapter  # noqa: E402
from expertune.rate.journal import Journal  # noqa: E402
from expertune.rate.runner import rate_records  # noqa: E402
from expertune.ratings.records import open_records  # noqa: E402
from expertune.review_page.journal import PageJournal  # noqa: E402
from expertune.review_page.results import Results  # noqa: E402
from expertune.review_page.server import Listen, open_session, serve  # noqa: E402
from expertune.train.events import StepEvent  # noqa: E402
from ollama_contract.server import ContractServer  # noqa: E402
from ollama_contract.templates import TEMPLATE  # noqa: E402
from rate.stub import Counted, RuleEngine, asked, visits, write_csv  # noqa: E402
from review_page.pages import Tab, rate_source, raw_file, truth  # noqa: E402

TOPIC = "respiratory infections"
ROWS, BASE = ROOT / "examples" / "formatted_dataset.csv", ROOT / "examples" / "base.gguf"
TUNING = {"epochs": 3, "learning_rate": 3e-3, "rank": 8, "batch_size": 8, "class_weight": "none", "threads": 1,
          "bootstrap_resamples": 100, "compute_dtype": "fp32", "approach": "tune", "readout": False,
          "checkpoint_seconds": 0.0}  # fmt: skip


class Stage:
    """A job: its name, how often a trial kills it, its records, and what it reads."""

    def __init__(self, name: str, inputs: Path, *, kills: int, records: int) -> None:
        self.name, self.inputs, self.kills, self.records = name, inputs, kills, records
        inputs.mkdir(parents=True, exist_ok=True)

    def begin(self, place: Path) -> Path:
        """Make the folder of one job."""
        shutil.copytree(self.inputs, place)
        return place

    def run(self, place: Path) -> None:
        raise NotImplementedError

    def outputs(self, place: Path) -> dict[str, str]:
        """What is there of what the job makes: by name a hash or text."""
        raise NotImplementedError

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        return []

    def end(self, place: Path) -> None:
        """After a job."""

    def close(self) -> None:
        """After the last job."""


def _hashes(folder: Path, *names: str) -> dict[str, str]:
    return {name: _hash(folder / name) for name in names if (folder / name).is_file()}


def _hash(path: Path) -> str:
    """Of the file; of a workbook without the time at which it was made."""
    if path.suffix != ".xlsx":
        return sha256(path)
    with zipfile.ZipFile(path) as book:
        parts = {name: book.read(name) for name in book.namelist() if name != "docProps/core.xml"}
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


class Train(Stage):
    """The training loop alone: 27 steps, each with a checkpoint."""

    def begin(self, place: Path) -> Path:
        if not (self.inputs / "base.gguf").exists():
            tiny.make(self.inputs / "base.gguf", qtype="Q8_0")
        return super().begin(place)

    def run(self, place: Path) -> None:
        torch.set_num_threads(1)
        tunable = test_loop.open_tunable(place / "base.gguf")
        remove_leftovers(place / "run", "*")  # as expertune.outputs.open_folder does before the training
        remove_leftovers(place, "*")  # of the files that this stage writes itself
        trainer = test_loop.trainer_of(tunable, place / "run", resume=True)
        for _ in trainer.run():
            pass
        lora = tunable.lora
        write_adapter(place / "adapter.gguf", architecture="llama", alpha=lora.alpha, tensors=lora.pairs(), metadata={})
        steps = [event for event in trainer.result.history if isinstance(event, StepEvent)]
        write_json(place / "history.json", [[event.step, event.loss] for event in steps])

    def outputs(self, place: Path) -> dict[str, str]:
        return _hashes(place, "adapter.gguf", "history.json")

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        steps = [step for step, _ in json.loads((place / "history.json").read_text())]
        return [] if steps == [*range(1, 28)] else [f"steps: {steps}"]


class Tune(Stage):
    """`expertune tune`: training, export, evaluation and all files; with `after_training` from the export on."""

    after_training = False

    def begin(self, place: Path) -> Path:
        if not (self.inputs / "rows.csv").exists():
            pd.read_csv(ROWS).head(self.records).to_csv(self.inputs / "rows.csv", index=False)
            self._train()
        return super().begin(place)

    def _train(self) -> None:
        """Leave the folder of a run that was killed when it began to write the merged file."""
        if not self.after_training:
            return
        ended = fork(lambda: self._until_merged(self.inputs), self.inputs, seconds=600)
        assert (self.inputs / "out" / outputs.ADAPTER).exists(), ended

    def _until_merged(self, place: Path) -> None:
        def hook(event: str, given: tuple[object, ...]) -> None:
            if event == "open" and f"/checkpoints/.{outputs.MODEL}" in str(given[0]):
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        self.run(place)

    def run(self, place: Path) -> None:
        torch.set_num_threads(1)
        out = place / "out"
        if not (out / outputs.METADATA).exists():  # `expertune tune --resume` refuses the folder of a finished run
            tuner = FineTuner(fallback_mode=False, quiet=True)
            tuner.process_dataset(place / "rows.csv", str(BASE), None, TOPIC, out, resume=True, **TUNING)

    def outputs(self, place: Path) -> dict[str, str]:
        return _hashes(place / "out", outputs.MODEL, outputs.TEST_PREDICTIONS, outputs.MODELFILE, outputs.TRAINING_DATA)

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        training = json.loads((place / "out" / outputs.METADATA).read_text())["training"]
        curves = json.loads((place / "out" / "report.json").read_text())["curves"]
        steps = [each["step"] for each in curves["steps"]]
        return [] if steps == [*range(1, training["steps"] + 1)] else [f"steps: {steps}"]


class Export(Tune):
    """The same from the end of the training on."""

    after_training = True


class Rate(Stage):
    """The runner with an engine that answers by a rule; the file type is in the name."""

    def begin(self, place: Path) -> Path:
        write_csv(self.inputs / "new.csv", visits(self.records))
        return super().begin(place)

    @property
    def _output(self) -> str:
        return f"rated.{self.name.split()[-1]}"

    def run(self, place: Path) -> None:
        with Journal(place / "journal.sqlite") as journal:
            engine = RuleEngine(slots=2, told=place / "computed")
            records = open_records(place / "new.csv")
            rate_records(records, place / self._output, asked(engine), journal, Counted().stage)

    def outputs(self, place: Path) -> dict[str, str]:
        return _hashes(place, self._output)

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        computed = Counter((place / "computed").read_text().splitlines())
        with closing(sqlite3.connect(place / "journal.sqlite")) as db:
            (rows,) = db.execute("SELECT count(*) FROM ratings").fetchone()
        again = computed.total() - len(computed)
        faults = [f"{rows} records in the journal"] if rows != self.records else []
        # a kill may hit each of the two records under way, which no journal can know
        return faults + ([f"{again} records rated again"] if again > 2 * kills else [])


class Page(Stage):
    """The page for experts and an expert who rates each record, and takes every seventh rating back."""

    def begin(self, place: Path) -> Path:
        raw_file(self.inputs, self.records)
        return super().begin(place)

    def run(self, place: Path) -> None:
        results = Results(place / "results.csv")
        session = open_session(rate_source(place / "raw.csv"), place / "page.sqlite", overlap=0.0, seed=1)
        with session.journal:
            results.check(place / "raw.csv", session.journal)
            serve(session, results, Listen(), lambda at: threading.Thread(target=press, args=(at, place)).start())

    def outputs(self, place: Path) -> dict[str, str]:
        return _hashes(place, "results.csv")

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        said = Counter(re.findall(r"rated (\S+)", (place / "answered").read_text()))
        with closing(sqlite3.connect(place / "page.sqlite")) as db:
            kept = Counter(row[0] for row in db.execute("SELECT record FROM ratings"))
        with PageJournal(place / "page.sqlite", work="rate", mapping=_mapping()) as journal:
            current = Counter(entry.record for entry in journal.ratings())
        lost = sum((said - kept).values())
        unsaid = (kept - said).total()
        doubled = sum(count > 1 for count in current.values())
        # a kill may come between the journal and the answer
        found = {"lost": lost, "doubled": doubled, "without an answer": max(0, unsaid - kills),
                 "not rated": self.records - len(current)}  # fmt: skip
        return [f"{count} {name}" for name, count in found.items() if count]


def _mapping() -> str:
    return json.dumps({"Match": 1, "Does Not Match": 0, "Unknown": -1}, ensure_ascii=False)


def press(address: str, place: Path) -> None:
    """Rate until nothing is left, and keep what was answered; then end the server as Ctrl-C does."""
    origin = address.rsplit("/", 2)[0]

    def send(path: str, fields: Mapping[str, str] | None = None) -> Tab:
        data = None if fields is None else urllib.parse.urlencode(fields).encode()
        request = urllib.request.Request(address + path, data, {"Origin": origin, "HX-Request": "true"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return Tab(None, 1, "rate", answer.read().decode())

    with open(place / "answered", "a") as answered:
        send("join", {"name": "Ana"})
        at, tab = 0, send("rater/1/rate")
        while key := tab.hidden("record"):
            value = str(truth(tab.text))
            tab = send("rater/1/rate/rate", {"record": key, "step": tab.hidden("step"), "value": value})
            print("rated", key, file=answered, flush=True)
            at += 1
            if at % 7 == 0:
                tab = send("rater/1/rate/undo", {})
    os.kill(os.getpid(), signal.SIGINT)


class Register(Tune):
    """`expertune register` with a scripted Ollama server, which runs in a process of its own."""

    def __init__(self, name: str, inputs: Path, *, kills: int, records: int) -> None:
        super().__init__(name, inputs, kills=kills, records=records)
        self.server = 0
        place = inputs.with_name("ollama")
        place.mkdir()
        self.server = os.fork()
        if self.server == 0:
            _serve_models(place, os.getppid())
        while not (place / "host").exists():
            time.sleep(0.02)
        self.host = (place / "host").read_text()

    def begin(self, place: Path) -> Path:
        os.environ["OLLAMA_HOST"] = self.host
        return super().begin(place)

    def _train(self) -> None:
        def work() -> None:
            settings = {**TUNING, "threads": 1}
            tuner = FineTuner(fallback_mode=False, quiet=True)
            source = self.inputs / "rows.csv"
            tuner.process_dataset(source, "small", None, TOPIC, self.inputs / "out", resume=False, **settings)

        ended = fork(work, self.inputs, seconds=600)
        assert isinstance(ended, Used) and ended.code == 0, ended

    def run(self, place: Path) -> None:
        torch.set_num_threads(1)
        flags = ("--name", "soak", "--input", place / "rows.csv", "--force", "--replace")
        main(["register", str(place / "out"), *map(str, flags)])

    def outputs(self, place: Path) -> dict[str, str]:
        """The models of the server, but for the unproven one, which a killed job leaves to the next."""
        with OllamaServer(self.host) as server:
            tags = server.ask("GET", "/api/tags")["models"]
        return {each["name"]: each["digest"] for each in tags if not each["name"].endswith("unproven")}

    def lost_or_doubled(self, place: Path, kills: int) -> list[str]:
        with OllamaServer(self.host) as server:
            names = sorted(each.name for each in server.models())
        made = json.loads((place / "out" / outputs.METADATA).read_text())["registration"] or {}
        right = made.get("registered") and made.get("digest") == sha256(place / "out" / outputs.MODEL)
        faults = [] if names == ["small:latest", "soak:latest"] else [f"models: {names}"]
        return faults + ([] if right else ["not recorded"])

    def end(self, place: Path) -> None:
        with OllamaServer(self.host) as server:
            server.delete("soak")

    def close(self) -> None:
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)


def _serve_models(place: Path, parent: int) -> None:
    server = ContractServer(place / "models")
    server.add("small", BASE, template=TEMPLATE, system="You help.", parameters={"temperature": 0.8}, license="MIT")
    part = place / "host.tmp"
    part.write_text(server.host)
    part.replace(place / "host")
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def make(inputs: Path, names: Sequence[str]) -> list[Stage]:
    """The stages of these names, all without names."""
    kinds = {
        "train": (Train, 4, 36),
        "rate csv": (Rate, 4, 600),
        "rate jsonl": (Rate, 4, 600),
        "rate parquet": (Rate, 4, 600),
        "rate xlsx": (Rate, 4, 300),
        "page": (Page, 4, 40),
        "tune": (Tune, 4, 96),
        "export": (Export, 3, 96),
        "register": (Register, 3, 96),
    }
    return [
        kind(name, inputs / name.replace(" ", "-"), kills=kills, records=records)
        for name, (kind, kills, records) in kinds.items()
        if not names or name in names
    ]
