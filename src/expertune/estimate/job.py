"""Plan of a whole run: the estimated time of each stage, and the settings that keep it within a given time.

Numbers in, numbers out: the speeds are measured elsewhere (estimate/throughput.py, estimate/rating_speed.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ..config import Config
from ..errors import UsageError
from ..model.memory import LABEL_TOKENS, RowShape
from ..predict.score import LONGEST_ANSWER
from .capability import TrainingThroughput

ANSWERS, FEWEST_ANSWERS = 30, 10  # free-text answers asked of the tuned file; a word takes as long as a record
LEAST_EPOCHS, LEAST_BUDGET = 2.0, 20.0
COMPARED_BUDGET = 25.0  # seconds of the search for a model set that a tuned file is only compared with
RESERVE = 0.1  # of the time given, for the error of the estimate
SERVED_SAMPLE = 50  # validation records that llama.cpp rates with a saved file to compare it with the adapter
BASE_SAMPLE = 100  # test records of the untuned base, which is only compared with
FEW_SHOT_SAMPLE = 30  # test records of a prompt that another rater was preferred to (modelset/fit.py)
# Ratios and seconds that no quick measurement gives, from bench/estimate.py on examples/base.gguf and SmolLM2-135M
FEW_SHOT = 1.5  # time of a record with examples in its prompt, over that of one without
CONVERSIONS = 4.0  # conversions of each changed tensor: types tried on some rows, then the written one
SIGNALS_SECONDS, STATISTICS_SECONDS, REPORT_SECONDS = 2.0, 1.0, 2.0
FIT_SECONDS = 0.03  # of the readout's cross-validation, for a training record
POOLING = 0.5  # time of a token in the readout's large packs, over that in an evaluation (bench/job.py, the visits)


class RunStage(str, Enum):
    """The stages of a run in their order: the name in its plan, and the title in plan and display."""

    READ = "read", "Reading the records"
    BASE = "base", "Test records: base model"
    READOUT = "readout", "Classifier on the base model"
    LOAD = "load", "Preparing the training"
    TRAIN = "train", "Training"
    VALIDATE = "validate", "Validation during the training"
    WRITE = "write", "Writing the model file"
    CHECK = "check", "Checking the saved file"
    MODEL_SET = "model set", "Model set"
    JUDGE = "judge", "Test records: all models"
    REPORT = "report", "Report"

    shown: str

    def __new__(cls, name: str, title: str) -> RunStage:
        stage = str.__new__(cls, name)
        stage._value_, stage.shown = name, title
        return stage


@dataclass(frozen=True)
class RatingSpeed:
    """Speed with one model: seconds to open it, to rate a record, and to generate a token, all by llama.cpp.

    `decoder_seconds`: to rate a record with our decoder, None if it does not rate in this run. `code_seconds`: more to
    rate it by words and codes, as the tuned file may; 0 without a code branch.
    """

    open_seconds: float
    record_seconds: float
    token_seconds: float
    decoder_seconds: float | None = None
    code_seconds: float = 0.0

    @property
    def in_run_seconds(self) -> float:
        """To rate a record with the engine that rates in this run."""
        return self.record_seconds if self.decoder_seconds is None else self.decoder_seconds


@dataclass(frozen=True)
class Speeds:
    """Measured speeds on this machine, that of training with the code branch if there is one. `convert_seconds`: to
    unpack and pack all tensors that may be changed."""

    training: TrainingThroughput
    rating: RatingSpeed
    convert_seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """The records that a run reads. `search_records`: rated while prompts of a model set are tried.

    `read_seconds`: to find, read and tokenise. `readout_blocks`: depth of the pass over all records for a classifier on
    hidden states; 0 without one. `unlabelled_tokens`: of records without a rating that are trained on, a classifier's
    labels of them being those to learn. `reference_layers`: adapted blocks when the training speed was measured.
    """

    shape: RowShape
    train: int
    dev: int
    test: int
    blocks: int
    reference_layers: int
    read_seconds: float = 0.0
    search_records: int = 0
    readout_blocks: int = 0
    unlabelled_tokens: int = 0


@dataclass(frozen=True)
class JobSettings:
    """The settings that a limit on the time may lower."""

    layers: int
    epochs: float
    model_set_seconds: float
    answers: int = ANSWERS


@dataclass(frozen=True)
class JobStage:
    """A stage of the run: estimated seconds, and the actual ones once it has ended."""

    name: str
    seconds: float
    actual: float | None = None

    @property
    def title(self) -> str:
        return RunStage(self.name).shown


@dataclass(frozen=True)
class JobPlan:
    """Estimated stages of the whole run with these settings; `minutes` is the limit, if one was given.

    `longest_answer` is the seconds of a free-text answer that a model does not end.
    """

    stages: tuple[JobStage, ...]
    settings: JobSettings
    minutes: float | None = None
    longest_answer: float = 0.0

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    @property
    def actual(self) -> float:
        return sum(stage.actual or 0.0 for stage in self.stages)

    @property
    def shown_seconds(self) -> dict[str, float]:
        """Estimated seconds by stage as the display shows them: validations are part of the training."""
        found = {stage.name: stage.seconds for stage in self.stages}
        found["train"] += found.pop("validate")
        return found

    def training_seconds(self, elapsed: float) -> float | None:
        """Time that is left for steps and evaluations after `elapsed` seconds of the run; None without a limit."""
        if self.minutes is None:
            return None
        names = [stage.name for stage in self.stages]
        after = self.stages[names.index("validate") + 1 :]
        return 60 * self.minutes - elapsed - sum(stage.seconds for stage in after)

    def answers_within(self, elapsed: float) -> int:
        """Number of free-text answers for which there is time after `elapsed` seconds, even if none of them ends."""
        if self.minutes is None or not self.longest_answer:
            return self.settings.answers
        later = sum(stage.seconds for stage in self.stages if stage.name in ("judge", "report"))
        room = int((60 * self.minutes - elapsed - later) / self.longest_answer)
        return max(min(FEWEST_ANSWERS, self.settings.answers), min(self.settings.answers, room))

    def finished(self, actual: Mapping[str, float]) -> JobPlan:
        """The same plan with the actual seconds of each stage."""
        stages = tuple(replace(stage, actual=actual.get(stage.name, stage.actual)) for stage in self.stages)
        return replace(self, stages=stages)


def plan_job(work: Work, speeds: Speeds, config: Config, given: frozenset[str] = frozenset()) -> JobPlan:
    """Estimate the run with the resolved settings of `config`; with `minutes` lower those that are not `given` until it
    fits: fewer adapted blocks, then fewer epochs, a shorter model-set search, fewer free-text answers.

    Raises UsageError, with the least time that would do, if even the lowest values do not fit.
    """
    layers = work.blocks if config.layers == "all" else min(int(config.layers), work.blocks)
    budget = config.model_set_budget_seconds
    if "model_set_budget_seconds" not in given:
        budget = min(budget, COMPARED_BUDGET)
    settings = JobSettings(layers, float(config.epochs), budget, min(ANSWERS, work.test))
    longest = LONGEST_ANSWER * speeds.rating.token_seconds
    planned = JobPlan(_stages(work, speeds, settings, config), settings, config.minutes, longest)
    if config.minutes is None:
        return planned
    limit = 60 * config.minutes * (1 - RESERVE)
    for name, values in _lower(work, settings, given):
        for value in values:
            if planned.seconds <= limit:
                return planned
            settings = replace(settings, **{name: value})
            planned = replace(planned, settings=settings, stages=_stages(work, speeds, settings, config))
    if planned.seconds <= limit:
        return planned
    least = math.ceil(planned.seconds / 60 / (1 - RESERVE))
    raise UsageError(
        f"--minutes {config.minutes:g}: the shortest run takes about {planned.seconds / 60:.1f} minutes here; "
        f"give --minutes {least}, or --approach model-set"
    )


def _lower(work: Work, settings: JobSettings, given: frozenset[str]) -> Iterator[tuple[str, Sequence[float]]]:
    """Lower values of each setting that may be changed, in the order in which they are given up."""
    if "layers" not in given:
        yield "layers", range(settings.layers - 1, math.ceil(work.blocks / 3) - 1, -1)
    if "epochs" not in given:
        yield (
            "epochs",
            [each / 10 for each in range(math.ceil(10 * settings.epochs) - 1, int(10 * LEAST_EPOCHS) - 1, -1)],
        )
    if "model_set_budget_seconds" not in given:
        most = math.ceil(settings.model_set_seconds) - 1
        yield "model_set_seconds", [float(each) for each in range(most, int(LEAST_BUDGET) - 1, -1)]
    yield "answers", range(settings.answers - 1, FEWEST_ANSWERS - 1, -1)


def _stages(work: Work, speeds: Speeds, settings: JobSettings, config: Config) -> tuple[JobStage, ...]:
    seconds = {
        "read": work.read_seconds,
        "base": min(BASE_SAMPLE, work.test) * speeds.rating.in_run_seconds,
        **_tuning(work, speeds, settings, config),
        **_rating(work, speeds, settings, config),
        "report": REPORT_SECONDS,
    }
    return tuple(JobStage(stage.value, round(seconds[stage], 3)) for stage in RunStage if stage in seconds)


def _tuning(work: Work, speeds: Speeds, settings: JobSettings, config: Config) -> dict[str, float]:
    """Seconds of the stages in our decoder, and of the saved file."""
    rating = speeds.rating
    rate = with_layers(speeds.training, settings.layers - work.reference_layers)
    row = work.shape.row
    train_tokens = work.train * row + work.unlabelled_tokens
    dev_tokens = work.dev * (row + LABEL_TOKENS)  # each label is scored
    dev_pass = dev_tokens / rate.look_tokens_per_second
    all_blocks = 1 / rate.look_tokens_per_second + rate.trunk_seconds_per_token  # seconds of a token
    depth = work.readout_blocks / work.blocks
    pooling = rate.load_seconds + POOLING * (train_tokens + (work.dev + work.test) * row) * all_blocks * depth
    trunk = work.dev * row * rate.trunk_seconds_per_token  # that of the training rows is made in the same pass
    readout = {"readout": pooling + trunk + FIT_SECONDS * work.train} if depth else {}
    trunk += POOLING * train_tokens * rate.trunk_seconds_per_token
    return readout | {
        "load": rate.load_seconds + (0.0 if depth else trunk),
        "train": settings.epochs * train_tokens / rate.tokens_per_second,
        "validate": (1 + math.ceil(settings.epochs * config.evals_per_epoch)) * dev_pass,
        "write": CONVERSIONS * speeds.convert_seconds * settings.layers / work.blocks,
        "check": rating.open_seconds
        + (work.dev if rating.decoder_seconds is None else min(SERVED_SAMPLE, work.dev)) * rating.record_seconds
        + rate.load_seconds
        + dev_tokens * all_blocks,
    }


def _rating(work: Work, speeds: Speeds, settings: JobSettings, config: Config) -> dict[str, float]:
    """Seconds of model set and test records."""
    rating = speeds.rating
    answers = settings.answers * rating.token_seconds * work.shape.answer
    record = rating.in_run_seconds if config.engine == "torch" else rating.record_seconds
    judge = rating.open_seconds + work.test * record + answers + STATISTICS_SECONDS
    judge += work.test * rating.code_seconds
    if config.approach == "tune" or not settings.model_set_seconds:  # without a search no prompt is evaluated
        return {"judge": judge}
    few_shot = FEW_SHOT * rating.in_run_seconds
    search = SIGNALS_SECONDS + rating.open_seconds + work.search_records * few_shot
    return {
        "model set": min(settings.model_set_seconds, search),
        "judge": judge + rating.open_seconds + min(FEW_SHOT_SAMPLE, work.test) * few_shot,
    }


def with_layers(rate: TrainingThroughput, more: int) -> TrainingThroughput:
    """The speed with so many more (or fewer) adapted blocks than those with which it was measured."""
    step = 1 / rate.tokens_per_second + more * rate.block_seconds_per_token
    look = 1 / rate.look_tokens_per_second + more * rate.block_look_seconds_per_token
    return replace(
        rate,
        tokens_per_second=1 / step,
        look_tokens_per_second=1 / look,
        trunk_seconds_per_token=max(0.0, rate.trunk_seconds_per_token - more * rate.block_look_seconds_per_token),
    )
