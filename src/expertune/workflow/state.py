"""Records passed between the stages of a run. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..config import Config
from ..engine.base_model import Base
from ..errors import FineTuningNotSupportedError, TrainingFailedError
from ..estimate.job import JobPlan
from ..export.decision import PromptFrame
from ..export.summary import ExportSummary
from ..modelset.members import CandidateModel
from ..predict.score import Pass
from ..ratings.codes import WORDS, CodeBranch, LabelScoring
from ..ratings.dataset import Dataset
from ..record import CodeBranchInfo
from ..register.folder import RegistrationTarget
from ..train.encode import Tokenized
from ..train.events import Event
from ..train.recipe import TrainingPlan
from ..train.summary import TrainingSummary

Result = TypeVar("Result")


@dataclass(frozen=True)
class RunRequest:
    """The user's request. `config` holds the settings as given."""

    model: str
    config: Config
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
class EncodedDataset(Tokenized):
    """Dataset tokenized by the base's engine, and the base's rating of the test records (`test`).

    `frame` is the prompt of the code branch where a decision model's server can render it; `job` is the plan of the
    whole run, None if no speed could be measured.
    """

    test: Pass
    notes: tuple[str, ...]
    folds_system: bool
    job: JobPlan | None
    frame: PromptFrame | None


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


def basis_of(
    dataset: Dataset,
    request: RunRequest,
    models: Models,
    plan: TrainingPlan | NotTuned,
    encoded: EncodedDataset | NotTuned,
) -> Basis:
    """Take the encoded dataset and the plan's settings where they exist, else those of the request."""
    given = frozenset(request.config.model_fields_set)
    if isinstance(encoded, EncodedDataset):
        settings = encoded.plan.config
        return Basis(encoded.dataset, settings, models, encoded.test, encoded.job, given, encoded.branch)
    config = plan.config if isinstance(plan, TrainingPlan) else request.config
    return Basis(dataset, config, models, given=given)
