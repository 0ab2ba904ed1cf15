"""Records passed between the stages of a run. Does not import torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..config import Config, as_dict
from ..engine.base_model import Base
from ..errors import FineTuningNotSupportedError, TrainingFailedError
from ..estimate.job import JobPlan
from ..export.decision import PromptFrame
from ..export.summary import ExportSummary
from ..modelset.members import CandidateModel
from ..predict.score import Pass
from ..ratings.codes import WORDS, CodeBranch, LabelScoring
from ..ratings.dataset import Dataset
from ..ratings.schema import BySplit
from ..record import CodeBranchInfo
from ..register.folder import RegistrationTarget
from ..train.encode import Candidates, Row
from ..train.events import Event
from ..train.summary import TrainingSummary

Result = TypeVar("Result")


@dataclass(frozen=True)
class RunRequest:
    """The user's request. `config` holds the settings as given."""

    model: str
    config: Config
    resume: bool = False
    fallback: bool = True
    allow_remote: bool = False
    registration: RegistrationTarget | None = None


@dataclass(frozen=True)
class NotTuned:
    """Reason for not having a tuned model. `error` is None if none was requested (--approach model-set)."""

    error: FineTuningNotSupportedError | TrainingFailedError | None = None

    @property
    def reason(self) -> str | None:
        return str(self.error) if self.error else None


def as_value(stage: Callable[[], Result]) -> Result | NotTuned:
    """Run the stage; an error that leads to the fallback becomes NotTuned."""
    try:
        return stage()
    except (FineTuningNotSupportedError, TrainingFailedError) as error:
        return NotTuned(error)


@dataclass(frozen=True)
class Models:
    """The base to tune, and the `candidates` for a model set, the base first."""

    base: Base | NotTuned
    candidates: tuple[CandidateModel, ...]

    @property
    def compared(self) -> tuple[CandidateModel, ...]:
        """The candidates as raters that a tuned model or a readout is compared with."""
        return tuple(each.compared for each in self.candidates)


@dataclass(frozen=True)
class TrainingPlan:
    """Inputs of the training, with all settings resolved. Plans with the same `run_id` make the same adapter.

    `requested` holds the settings as given; `job` is the plan of the whole run, None if no speed could be measured.
    """

    dataset: Dataset
    base: Base
    config: Config
    run_id: str
    requested: Config
    job: JobPlan | None = None


@dataclass(frozen=True)
class TokenRows(BySplit[tuple[Row, ...]]):
    """The token rows of each part, and of the records without a rating."""

    unlabelled: tuple[Row, ...] = ()

    @property
    def in_order(self) -> tuple[tuple[Row, ...], ...]:
        """Those to train on first."""
        return self.train, self.unlabelled, self.dev, self.test


@dataclass(frozen=True)
class EncodedDataset:
    """Dataset tokenized by the base's engine, without records that are too long, and the base's rating of the test
    records. `branch` is the code branch, `frame` its prompt where a decision model's server can render it.
    """

    dataset: Dataset
    rows: TokenRows
    candidates: Candidates
    context: int
    test: Pass
    notes: tuple[str, ...]
    folds_system: bool
    plan: TrainingPlan
    branch: CodeBranch | None = None
    frame: PromptFrame | None = None


@dataclass(frozen=True)
class Tuned:
    """Merged model file that is better than its base on the validation records."""

    file: Path
    dev: Pass
    training: TrainingSummary
    export: ExportSummary
    history: tuple[Event, ...]
    encoded: EncodedDataset
    code_branch: CodeBranchInfo | None = None

    @property
    def scoring(self) -> LabelScoring:
        """How the file's labels are scored."""
        return self.code_branch.scoring if self.code_branch else WORDS


@dataclass(frozen=True)
class Basis:
    """Dataset and settings for model set and evaluation: the latest that the tuning stages produced.

    `given`: names of the settings that the user gave; `job`: the plan of the run, if there is one; `branch`: the codes
    that the dataset's system prompt lists.
    """

    dataset: Dataset
    config: Config
    models: Models
    base_test: Pass | None = None
    job: JobPlan | None = None
    given: frozenset[str] = frozenset()
    branch: CodeBranch | None = None

    @property
    def base(self) -> Base | None:
        return self.models.base if isinstance(self.models.base, Base) else None


def basis_of(
    dataset: Dataset,
    request: RunRequest,
    models: Models,
    plan: TrainingPlan | NotTuned,
    encoded: EncodedDataset | NotTuned,
) -> Basis:
    """Take the encoded dataset and the plan's settings where they exist, else those of the request."""
    basis = Basis(dataset, request.config, models, given=frozenset(request.config.model_fields_set))
    if isinstance(plan, TrainingPlan):
        basis = replace(basis, config=plan.config)
    if isinstance(encoded, NotTuned):
        return basis
    plan, branch = encoded.plan, encoded.branch
    tokenized = {"dataset": encoded.dataset, "base_test": encoded.test, "branch": branch}
    return replace(basis, config=plan.config, job=plan.job, **tokenized)


def run_identity(base: Base, dataset: Dataset, config: Config) -> str:
    """Hash of everything that determines the adapter."""
    facts = {
        "base": base.sha256,
        "rows": dataset.input_sha256,
        "unlabelled": dataset.unlabelled and dataset.unlabelled.sha256,
        "topics": dataset.topics,
        "labels": dataset.scale.labels,
        "settings": as_dict(config),
        "prompts": [base.renderer is not None, base.located.template],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
