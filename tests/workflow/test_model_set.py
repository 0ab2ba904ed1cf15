"""The model set of a run: who is asked what, within its time; who rates; and when it is taken for the tuned file."""

from __future__ import annotations

import json
import math
import random
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import decision_models
import tiny
from easy_records import easy_records
from expertune.cli.main import main
from expertune.config import Config, make_config, with_changes
from expertune.engine.base import Engine, Generation, Scores
from expertune.engine.decision import make_question
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.ollama.server import OllamaServer
from expertune.errors import EngineError, UsageError
from expertune.evaluate.judgement import Judgement
from expertune.files import sha256
from expertune.fine_tuner import FineTuner
from expertune.modelset import config as modelset
from expertune.modelset.choose import by_validation
from expertune.modelset.fit import ModelSet, fit_model_set
from expertune.modelset.members import CandidateModel, further_members
from expertune.modelset.select_raters import rated_rows, select_rater
from expertune.predict.score import Pass
from expertune.progress import Progress
from expertune.rate.artifact import load_product
from expertune.rate.columns import share_columns
from expertune.rate.runner import rate_file
from expertune.rate.serve import serve
from expertune.ratings.dataset import Dataset, load_dataset
from expertune.ratings.schema import BySplit
from expertune.record import ApproachChoice
from expertune.workflow.choose import choose
from expertune.workflow.evaluate import evaluate
from expertune.workflow.state import Basis, Models, NotTuned
from expertune.workspace import Workspace
from ollama_contract.server import ContractServer

ROOT = Path(__file__).resolve().parents[2]
ROWS, BASE = ROOT / "examples/formatted_dataset.csv", ROOT / "examples/base.gguf"
TOPIC = "respiratory infections"
CONFIG = make_config({"bootstrap_resamples": 200, "model_set_budget_seconds": 60})


class RuleEngine:
    """An engine whose model is a rule from the new record's text to shares; it keeps every text that it is given."""

    name, file_bytes, folds_system, slots = "rule", 0, False, 1
    notes: tuple[str, ...] = ()

    def __init__(self, rule: Callable[[str], Sequence[float]], *, context: int = 100_000) -> None:
        self.rule, self.context = rule, context
        self.texts: list[str] = []
        self._lock = threading.Lock()

    def _keep(self, text: str) -> None:
        with self._lock:
            self.texts.append(text)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)

    def tokenize(self, prompt: str) -> list[int]:
        self._keep(prompt)
        return [len(word) for word in prompt.split()]

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenize(prompt))

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return self.tokenize(answer)

    def turn_end(self) -> list[int]:
        return [0]

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        self._keep(prompt)
        if len(prompt.split()) > self.context:
            raise EngineError("rule: the prompt is longer than the context")
        return Scores(tuple(math.log(share) for share in self.rule(prompt.rpartition("<user>")[2])), exact=True)

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        raise EngineError("rule: it only scores")

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name}

    def close(self) -> None:
        pass


class Recording:
    """Another engine, with every text that it is given kept."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self._engine, self.texts = engine, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def tokenize(self, prompt: str) -> list[int]:
        self.texts.append(prompt)
        return self._engine.tokenize(prompt)

    def count_tokens(self, prompt: str) -> int:
        self.texts.append(prompt)
        return self._engine.count_tokens(prompt)

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        self.texts.append(prompt)
        return self._engine.score(prompt, answers)


@pytest.fixture(scope="module")
def prepared() -> Dataset:
    return load_dataset(pd.read_csv(ROWS).head(240), None, TOPIC, CONFIG)


def marked(prepared: Dataset) -> Dataset:
    """Every row's prompt begins with the name of its part; test rows are the longest ones too."""
    parts, examples = {}, {}
    for part, rows in prepared.split.parts().items():
        mark = f"{part.upper()}CANARY " * (30 if part == "test" else 1)
        parts[part] = tuple(replace(row, prompt=mark + row.prompt) for row in rows)
        examples[part] = tuple(
            replace(each, messages=(each.messages[0], {"role": "user", "content": row.prompt}))
            for each, row in zip(prepared.examples.parts()[part], parts[part], strict=True)
        )
    return replace(prepared, split=replace(prepared.split, **parts), examples=BySplit(**examples))


def teacher(prepared: Dataset, right: Callable[[str], bool], sure: float = 0.9) -> Callable[[str], list[float]]:
    """Knows a row's true label where `right` says so of its id, and is unsure and wrong where not."""
    rows = {row.prompt: row for row in prepared.ratings}

    def rule(prompt: str) -> list[float]:
        row = rows[prompt]
        true = prepared.scale.values.index(row.value)
        if right(row.id):
            return [sure if at == true else (1 - sure) / 2 for at in range(3)]
        return [0.3 if at == true else 0.36 if at == (true + 1) % 3 else 0.34 for at in range(3)]

    return rule


def served(name: str, engine: Engine) -> CandidateModel:
    return CandidateModel(name, "0" * 64, lambda: engine)


def make(folder: Path, prepared: Dataset, *members: CandidateModel, config: Config = CONFIG, **how: Any) -> ModelSet:
    with Progress(quiet=True) as progress:
        return fit_model_set(folder, prepared, config, progress, members, **how)


def judged(folder: Path, made: ModelSet, prepared: Dataset, *members: CandidateModel) -> Judgement:
    """The set on the test records, as a run judges it that has no tuned file."""
    basis = Basis(prepared, CONFIG, Models(NotTuned(), members))
    choice = ApproachChoice(approach="model-set", reason="as the test wants")
    with Progress(quiet=True) as progress:
        found = evaluate(choice, NotTuned(), made, basis, Workspace(folder, progress, resume=False))
    assert found.judgement is not None, found.unjudged
    return found.judgement


def length_rule(prompt: str) -> list[float]:
    return [0.5, 0.3, 0.2] if len(prompt) % 2 else [0.2, 0.3, 0.5]


@pytest.mark.slow
def test_no_test_row_reaches_an_engine_or_the_file_before_the_judgement(tmp_path: Path, prepared: Dataset) -> None:
    rows, engine = marked(prepared), RuleEngine(length_rule)
    made = make(tmp_path, rows, served("m", engine))
    sent, written = "".join(engine.texts), (tmp_path / "model_set_config.json").read_text()
    assert "TESTCANARY" not in sent and "TESTCANARY" not in written
    assert "DEVCANARY" in sent and "DEVCANARY" not in written and "TRAINCANARY" in sent
    assert made.dev is not None and len(made.dev) == len(rows.split.dev)
    judged(tmp_path, made, rows, served("m", engine))
    assert "TESTCANARY" in "".join(engine.texts)  # the canary would have been seen


@pytest.mark.slow
def test_dev_rows_are_no_examples_and_what_was_tried_is_told(tmp_path: Path, prepared: Dataset) -> None:
    made = make(tmp_path, prepared, served("m", RuleEngine(teacher(prepared, lambda _: True))))
    content = json.loads((tmp_path / "model_set_config.json").read_text())
    assert content == made.config.model_dump(mode="json")
    train = {row.id for row in prepared.split.train}
    assert set(content["example_ids"]) <= train
    trials = content["screening"]["trials"]
    assert len(trials) == 6 and sum(each["chosen"] for each in trials) == 1
    assert {each["examples"] for each in trials} == {0, 3, 8, 16}
    assert content["screening"]["complete"] and min(each["rows"] for each in trials) < len(prepared.split.dev)
    (model,) = content["models"]
    assert model["dev_agreement"]["macro_f1"] == 1.0 and model["dev_agreement"]["rows"] == len(prepared.split.dev)
    assert model["prompt_tokens"] > 50 and model["weight"] == 1.0 and model["calibration"]["temperature"] > 0
    assert made.name == "few-shot" and content["rule"]["members"] == ["m"]
    assert stat.S_IMODE((tmp_path / "model_set_config.json").stat().st_mode) == 0o600


class Ticking:
    """A clock that the engine's scores move on, a second each."""

    def __init__(self, engine: RuleEngine) -> None:
        self.engine = engine

    def __call__(self) -> float:
        return float(sum(text.startswith("<system>") for text in self.engine.texts))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 5, 20, 60])
def test_whenever_the_time_is_over_a_valid_file_lies_there(seconds: int, tmp_path: Path, prepared: Dataset) -> None:
    engine = RuleEngine(teacher(prepared, lambda name: int(name) % 3 > 0))
    config = with_changes(CONFIG, model_set_budget_seconds=float(seconds))
    made = make(tmp_path, prepared, served("m", engine), config=config, clock=Ticking(engine))
    content = modelset.read(tmp_path / "model_set_config.json")
    assert content.screening is not None
    asked = sum(each.rows for each in content.screening.trials)
    assert asked == min(seconds, asked) and not content.screening.complete
    assert (made.dev is None) == (seconds < 12) and content.few_shot_examples
    if made.dev is None:
        assert made.unjudged == "there was no time to rate a dev row"


@pytest.mark.slow
def test_what_is_stopped_half_way_leaves_the_best_so_far(tmp_path: Path, prepared: Dataset) -> None:
    engine = RuleEngine(teacher(prepared, lambda _: True))
    rule = engine.rule

    def stop(prompt: str) -> Sequence[float]:
        if sum(text.startswith("<system>") for text in engine.texts) > 40:
            raise KeyboardInterrupt
        return rule(prompt)

    engine.rule = stop
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, prepared, served("m", engine))
    assert modelset.read(tmp_path / "model_set_config.json").few_shot_examples
    assert [path.name for path in tmp_path.iterdir()] == ["model_set_config.json"]


@pytest.mark.slow
def test_several_models_each_with_its_own_way_and_the_best_rates(tmp_path: Path, prepared: Dataset) -> None:
    weak = RuleEngine(length_rule)
    strong = RuleEngine(teacher(prepared, lambda _: True))
    small = RuleEngine(length_rule, context=900)  # few examples fit
    members = [
        served("weak", weak),
        served("strong", strong),
        served("small", small),
        CandidateModel("absent", None, None),
    ]
    made = make(tmp_path, prepared, *members)
    by_name = {each.name: each for each in made.config.models}
    assert made.config.rater == "strong" and made.best == "strong" and made.name == "few-shot"
    assert [by_name[name].weight for name in by_name] == [0, 1, 0, 0]
    assert by_name["weak"].asking is None and by_name["strong"].asking and by_name["strong"].asking.system_prompt
    assert by_name["small"].asking and len(by_name["small"].asking.few_shot_examples) < 8
    assert any(note == "a judgement of absent: the model's file is not on this machine" for note in made.config.missing)
    found = judged(tmp_path, made, prepared, *members)
    raters = {each.name: each for each in found.evaluations}
    assert list(raters) == ["few-shot", "base", "TF-IDF", "majority"]
    assert raters["few-shot"].macro_f1.value == 1.0 > (raters["base"].macro_f1.value or 0)


@pytest.mark.slow
def test_where_words_know_more_than_the_model_they_rate(tmp_path: Path, prepared: Dataset) -> None:
    members = [served("weak", RuleEngine(lambda _: [0.8, 0.1, 0.1]))]
    made = make(tmp_path, prepared, *members)
    assert (
        made.config.rater == "TF-IDF"
        and made.name == "TF-IDF set"
        and made.config.tfidf is not None
        and made.config.tfidf.weight == 1
    )
    found = judged(tmp_path, made, prepared, *members)
    raters = [each.name for each in found.evaluations]
    assert raters == ["TF-IDF set", "few-shot", "base", "TF-IDF", "majority"]
    assert found.verdict.line.startswith("The pool of word-count classifiers (no language model) is better")
    assert [each.second for each in found.differences] == ["few-shot", "base", "TF-IDF", "majority"]


def test_a_redacted_set_is_searched_and_written_without_a_word_of_a_row(tmp_path: Path, prepared: Dataset) -> None:
    rows, engine = marked(prepared), RuleEngine(length_rule)
    made = make(tmp_path, rows, served("m", engine), config=with_changes(CONFIG, redact=True))
    assert "CANARY" not in (tmp_path / "model_set_config.json").read_text() and made.config.redacted
    assert made.config.rater == "m" and made.config.models[0].dev_agreement
    assert "TRAINCANARY" not in "".join(text for text in engine.texts if text.startswith("<system>"))


@pytest.mark.slow
def test_a_row_that_no_way_can_hold_leaves_the_set_unjudged(tmp_path: Path, prepared: Dataset) -> None:
    made = make(tmp_path, prepared, served("m", RuleEngine(length_rule, context=60)))
    assert made.dev is None and made.unjudged == "rule: the prompt is longer than the context"
    assert modelset.read(tmp_path / "model_set_config.json").rater == "m"


# --- who rates ---


def shares_of(prepared: Dataset, rule: Callable[[str], Sequence[float]]) -> list[Sequence[float]]:
    return [rule(row.prompt) for row in prepared.split.dev]


@pytest.fixture(scope="module")
def many(prepared: Dataset) -> Dataset:
    """The same rows with 120 of them as dev, so that differences can be proven."""
    rows = (*prepared.split.dev, *prepared.split.train)[:120]
    return replace(prepared, split=replace(prepared.split, dev=rows))


@pytest.mark.slow
def test_the_best_language_model_rates_and_tfidf_only_where_it_is_proven_better(many: Dataset) -> None:
    half, nearly, all_ = (
        shares_of(many, teacher(many, rule)) for rule in (lambda n: int(n) % 2 == 0, lambda n: int(n) % 40 > 0, bool)
    )
    facts = (many.split.dev, many.scale, many.split.groups, CONFIG)
    by_words = rated_rows(many.split.dev, all_, many.scale)
    two = select_rater({"weak": half, "strong": nearly}, (), *facts)
    assert two.rule.members == ("strong",) == (two.best,)
    assert [each.probabilities for each in two.rated] == [tuple(row) for row in nearly]  # its own, not calibrated
    better = select_rater({"weak": half}, by_words, *facts)
    assert better.rule.members == ("TF-IDF",) and better.best == "weak" and "TF-IDF is better" in better.rule.reason
    assert better.rated == tuple(by_words) and better.calibrations.keys() == {"weak"}
    by_chance = select_rater({"strong": nearly}, by_words, *facts)
    assert by_chance.rule.members == ("strong",) and "TF-IDF is not proven better" in by_chance.rule.reason
    assert (better.agreements["TF-IDF"].accuracy, better.agreements["TF-IDF"].rows) == (1.0, 120)
    other = many.scale.labels[0], many.scale.values[0]  # a rule of its own chose them: the shares say otherwise
    chosen = [replace(each, label=other[0], value=other[1]) for each in by_words]
    of_one = select_rater({"weak": half}, chosen, *facts)
    share = sum(row.value == other[1] for row in many.split.dev) / 120
    assert of_one.rule.members == ("weak",) and of_one.agreements["TF-IDF"].accuracy == pytest.approx(share)


@pytest.mark.slow
def test_noise_is_rarely_proven(many: Dataset) -> None:
    """Two raters of chance: TF-IDF in place of the model would be a false find."""
    false = 0
    for seed in range(20):
        draw = random.Random(seed)
        shares = {name: [draw.choices([0.1, 0.2, 0.7], k=3) for _ in range(120)] for name in ("m", "TF-IDF")}
        shares = {name: [[each / sum(row) for each in row] for row in rows] for name, rows in shares.items()}
        by_words = rated_rows(many.split.dev, shares.pop("TF-IDF"), many.scale)
        found = select_rater(shares, by_words, many.split.dev, many.scale, many.split.groups, CONFIG)
        false += found.rule.members != ("m",)
    assert false <= 3


def test_one_dev_row_is_enough_to_go_on(prepared: Dataset) -> None:
    found = select_rater(
        {"m": [[0.2, 0.3, 0.5]]}, (), prepared.split.dev[:1], prepared.scale, prepared.split.groups, CONFIG
    )
    assert found.rule.members == ("m",) and found.agreements["m"].rows == 1


# --- tuned or set ---


def set_with(prepared: Dataset, folder: Path, right: Callable[[str], bool]) -> ModelSet:
    """A fitted set whose validation rows are rated as by a model that is right about those rows."""
    made = make(
        folder,
        prepared,
        served("m", RuleEngine(length_rule)),
        config=with_changes(CONFIG, model_set_budget_seconds=0.0),
    )
    rated = rated_rows(prepared.split.dev, shares_of(prepared, teacher(prepared, right)), prepared.scale)
    return replace(made, dev=tuple(rated), unjudged=None)


@pytest.mark.slow
def test_the_set_is_taken_only_where_it_is_proven_better(many: Dataset, tmp_path: Path) -> None:
    rules = (lambda n: int(n) % 2 == 0, lambda n: int(n) % 40 > 0, bool)
    sets = half, _, all_ = [set_with(many, tmp_path, rule) for rule in rules]
    as_half, as_nearly, as_all = (Pass(made.dev or (), 1.0, 1.0, 1) for made in sets)
    better = by_validation(as_half, all_, many, CONFIG)
    assert better.approach == "model-set" and better.dev and better.dev.rows == 120
    assert "the model set is better: on 120 validation records macro-F1 1.000" in better.reason
    assert by_validation(as_all, half, many, CONFIG).approach == "tune"
    assert by_validation(as_nearly, all_, many, CONFIG).approach == "tune"  # higher, by chance perhaps
    assert by_validation(as_all, None, many, CONFIG).reason.endswith("no model set could be made")
    unjudged = replace(all_, dev=None, unjudged="no time")
    assert by_validation(as_half, unjudged, many, CONFIG).reason.endswith("could not be evaluated: no time")


def test_a_further_model_that_is_not_here_is_bad_input(tmp_path: Path) -> None:
    path = tiny.make(tmp_path / "m.gguf", layers=1)
    (found,) = further_members((str(path), "base", str(path)), "base", None, CONFIG)
    assert found.name == str(path) and found.digest and found.open
    with pytest.raises(UsageError, match="no such file"):
        further_members(("gone.gguf",), "base", None, CONFIG)


# --- the whole way ---

QUICK = {
    "bootstrap_resamples": 100,
    "model_set_budget_seconds": 4,
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "rank": 8,
    "class_weight": "none",
}


@pytest.mark.slow
def test_with_a_served_model_no_test_row_is_sent(tmp_path: Path, prepared: Dataset) -> None:
    rows, kept = marked(prepared), []

    def serve() -> Any:
        kept.append(Recording(LlamaCppEngine(BASE, context=1024, threads=1)))
        return kept[-1]

    make(
        tmp_path,
        rows,
        CandidateModel("base", "0" * 64, serve),
        config=with_changes(CONFIG, model_set_budget_seconds=4.0),
    )
    sent = "".join(kept[0].texts)
    assert "DEVCANARY" in sent and "TESTCANARY" not in sent
    assert "TESTCANARY" not in (tmp_path / "model_set_config.json").read_text()


@pytest.mark.slow
def test_a_model_set_that_was_asked_for_is_no_fallback(tmp_path: Path) -> None:
    easy_records(90).to_csv(tmp_path / "rows.csv", index=False)
    other = tiny.make(tmp_path / "other.gguf", layers=1, context=2048)
    flags = [
        "--approach",
        "model-set",
        "--model-set-budget-seconds",
        "10",
        "--bootstrap-resamples",
        "100",
        "--models",
        str(other),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["tune", "--input", str(tmp_path / "rows.csv"), "--model", str(BASE), "--topics", TOPIC,
              "--output-dir", str(tmp_path / "out"), *flags])  # fmt: skip
    metadata = json.loads((tmp_path / "out/fine_tuning_metadata.json").read_text())
    assert not ended.value.code and metadata["fallback_reason"] is None
    assert metadata["choice"] == {"approach": "model-set", "reason": "--approach model-set", "dev": None}
    content = modelset.read(tmp_path / "out/model_set_config.json")
    assert [each.name for each in content.models] == [str(BASE), str(other)]
    assert not (tmp_path / "out/fine_tuned_model.gguf").exists()


@pytest.mark.slow
@pytest.mark.parametrize("taken", ["tune", "model-set"])
def test_auto_makes_both_and_keeps_one(taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice is forced where it falls; everything before and after it is the real way."""
    from expertune.workflow import run as pipeline_run

    forced = {"approach": taken, "reason": "as the test wants"}
    monkeypatch.setattr(pipeline_run, "choose", lambda *given: choose(*given).model_copy(update=forced))
    _, metadata = FineTuner(quiet=True).process_dataset(easy_records(), str(BASE), None, TOPIC, tmp_path, **QUICK)
    there = {path.name for path in tmp_path.iterdir() if path.is_file()}
    tuned = {"fine_tuned_model.gguf", "fine_tuned_adapter.gguf", "Modelfile", "training_data.jsonl"}
    raters = [each["name"] for each in metadata["evaluation"]["evaluations"]]
    assert metadata["choice"]["approach"] == taken and metadata["choice"]["dev"]["rows"] == metadata["split"]["dev"]
    assert {"tuned", "few-shot", "base", "TF-IDF", "majority"} <= set(raters)
    assert metadata["rating"]["conformal"] and not (tmp_path / "checkpoints").exists()
    if taken == "tune":
        assert there >= tuned and "model_set_config.json" not in there and raters[0] == "tuned"
        assert "fine_tuning_info" in metadata
    else:
        assert not there & tuned and "model_set_config.json" in there and raters[0] != "tuned"
        assert (tmp_path / "previous/fine_tuned_adapter.gguf").exists()
        assert metadata["model_set_info"]["judged"] and metadata["fallback_reason"] is None
        assert metadata["verdict"].startswith("Model set (as the test wants). The ")


# --- decision models ---


def decision_member(folder: Path, **how: Any) -> CandidateModel:
    path = decision_models.make(folder / "nimble.gguf", context=2048, temperatures={"choice": 2.0}, **how)
    (member,) = further_members([str(path)], "base", None, CONFIG)
    assert member.decides
    return member


def test_a_decision_model_is_asked_by_its_own_template_and_rates(tmp_path: Path, prepared: Dataset) -> None:
    member = decision_member(tmp_path)
    config = with_changes(CONFIG, redact=True)  # without TF-IDF, which knows more than chance
    made = make(tmp_path, prepared, CandidateModel("absent", None, None), member, config=config)
    assert (made.name, made.best, made.config.rater) == ("decision model", member.name, member.name)
    assert made.config.screening is not None
    (trial,) = made.config.screening.trials
    assert (trial.candidate, trial.rows, trial.chosen) == ("decision template", len(prepared.split.dev), True)
    base, decides = made.config.models
    assert (base.decision, decides.decision) == (False, True) and (decides.prompt_tokens or 0) > 50
    source = tmp_path / "new.csv"
    pd.DataFrame({"Prompt": [row.prompt for row in prepared.split.dev]}).to_csv(source, index=False)
    product = load_product(tmp_path)
    with Progress(quiet=True) as progress, serve(product, "llama.cpp", threads=1) as served_:
        assert served_.workers == 2 and "nimble.gguf is a decision model: asked by" in " ".join(served_.scorer.notes())
        rate_file(source, tmp_path / "rated.csv", product, served_, progress.stage)
        with pytest.raises(UsageError, match="a decision model or TF-IDF alone; leave out --rationale"):
            rate_file(source, tmp_path / "again.csv", product, served_, progress.stage, rationale=True)
    rated = pd.read_csv(tmp_path / "rated.csv")
    assert made.dev is not None and len(made.dev) == len(rated)
    with LlamaCppEngine(Path(member.name), threads=1) as engine:
        for row, judged_, record in zip(rated.to_dict("records"), made.dev, prepared.split.dev, strict=True):
            expected = engine.decide(record.prompt, made.config.question()).probabilities
            assert judged_.probabilities == pytest.approx(expected, abs=1e-4)
            assert [row[column] for column in share_columns(prepared.scale).values()] == pytest.approx(
                expected, abs=1e-3
            )
    with (
        ContractServer(tmp_path / "models") as ollama,
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(UsageError, match=r"rates as a decision model, by llama.cpp only"),
    ):
        patched.setenv("OLLAMA_HOST", ollama.url)
        with serve(product, "ollama"):
            pass


def test_with_engine_torch_llama_cpp_asks_the_decision_model(tmp_path: Path, prepared: Dataset) -> None:
    base, member = tiny.make(tmp_path / "base.gguf", context=2048), decision_member(tmp_path)
    unasked = CandidateModel(str(base), sha256(base), None)
    made = make(tmp_path, prepared, unasked, member, config=with_changes(CONFIG, redact=True))
    record = prepared.split.dev[0].prompt
    with serve(load_product(tmp_path), "torch", threads=1, votes=True) as served_:
        engines = {name: each["engine"] for name, each in served_.scorer.describe()["members"].items()}
        assert engines == {str(base): "torch", member.name: "llama.cpp"}
        found = served_.scorer.score(record).probabilities
    with LlamaCppEngine(Path(member.name), threads=1) as engine:
        assert found == pytest.approx(engine.decide(record, made.config.question()).probabilities, abs=1e-4)


@pytest.mark.slow
def test_a_decision_model_is_judged_next_to_the_others(tmp_path: Path, prepared: Dataset) -> None:
    members = [served("strong", RuleEngine(teacher(prepared, lambda _: True))), decision_member(tmp_path)]
    made = make(tmp_path, prepared, *members)
    assert made.best == "strong" and made.config.models[1].dev_agreement is not None
    found = judged(tmp_path, made, prepared, *members)
    names = [each.name for each in found.evaluations]
    assert names == ["few-shot", "decision model nimble.gguf", "base", "TF-IDF", "majority"]
    assert found.evaluations[1].rows == len(prepared.split.test)


def test_an_ollama_name_of_a_decision_model_is_asked_from_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = decision_models.make(tmp_path / "m.gguf")
    with ContractServer(tmp_path / "models") as ollama:
        ollama.add("nimble", path)
        monkeypatch.setenv("OLLAMA_HOST", ollama.url)
        with OllamaServer() as server:
            (member,) = further_members(["nimble"], "base", server, CONFIG)
            asked = len(ollama.requests)
            assert member.decides and member.open is not None
            engine = member.open()
            assert isinstance(engine, LlamaCppEngine)
            with engine, LlamaCppEngine(path, threads=1) as direct:
                question = make_question({"Match": "", "Does Not Match": ""}, TOPIC)
                assert engine.decide("cough", question) == direct.decide("cough", question)
            assert len(ollama.requests) == asked  # its prompts are not written by the server
