"""The records that the stages of a run hand to each other. No torch here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config, as_dict
from ..engine.llama_cpp.engine import LlamaCppEngine
from ..engine.locate import Located
from ..engine.ollama.render import OllamaRenderer
from ..errors import FineTuningNotSupportedError, TrainingFailedError
from ..export.summary import ExportSummary
from ..modelset.members import CandidateModel
from ..predict.score import Pass
from ..ratings.dataset import Dataset
from ..register.folder import RegistrationTarget
from ..train.encode import Candidates, Row
from ..train.summary import TrainingSummary


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for. `config` holds the settings as given."""

    model: str
    config: Config
    resume: bool = False
    fallback: bool = True
    allow_remote: bool = False
    registration: RegistrationTarget | None = None


@dataclass(frozen=True)
class NotTuned:
    """There is no tuned model, and why. `error` is None where none was asked for (--approach model-set)."""

    error: FineTuningNotSupportedError | TrainingFailedError | None = None

    @property
    def reason(self) -> str | None:
        return str(self.error) if self.error else None


@dataclass(frozen=True)
class Base:
    """The base file, how Ollama serves it, and who renders its prompts (None: the file's own template)."""

    name: str
    located: Located
    sha256: str
    renderer: OllamaRenderer | None = None

    @property
    def path(self) -> Path:
        return self.located.path

    @property
    def prompts_by(self) -> str:
        return f"Ollama {self.renderer.server.version_text}" if self.renderer else "the file's own template"

    def open(
        self, *, context: int, threads: int | None, file: Path | None = None, adapter: Path | None = None
    ) -> LlamaCppEngine:
        """llama.cpp on the base, or on another `file` of this run, with prompts as the base's server renders them."""
        return LlamaCppEngine(
            file or self.path, adapter=adapter, context=context, threads=threads, renderer=self.renderer
        )


@dataclass(frozen=True)
class Models:
    """What there is to tune or to prompt. `candidates` are the models of a model set, the base first."""

    base: Base | NotTuned
    candidates: tuple[CandidateModel, ...]


@dataclass(frozen=True)
class TrainingPlan:
    """What is to be trained: settings with nothing left open. Plans with the same `run_id` make the same adapter."""

    dataset: Dataset
    base: Base
    config: Config
    run_id: str


@dataclass(frozen=True)
class EncodedDataset:
    """The dataset as the base's engine tokenizes it, without records that are too long, and the base's predictions."""

    dataset: Dataset
    rows: Mapping[str, tuple[Row, ...]]
    candidates: Candidates
    context: int
    dev: Pass
    test: Pass
    notes: tuple[str, ...]
    folds_system: bool
    plan: TrainingPlan


@dataclass(frozen=True)
class Tuned:
    """A finished model file that beats its base on the validation records."""

    file: Path
    dev: Pass
    training: TrainingSummary
    export: ExportSummary
    history: tuple[Mapping[str, Any], ...]
    encoded: EncodedDataset


@dataclass(frozen=True)
class Basis:
    """What a model set and the evaluation stand on: the dataset and settings as far as the tuning came."""

    dataset: Dataset
    config: Config
    models: Models
    base_test: Pass | None = None

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
    """The latest of each: the encoded dataset where there is one, the plan's settings where there is a plan."""
    found = Basis(dataset, request.config, models)
    if isinstance(plan, TrainingPlan):
        found = replace(found, config=plan.config)
    return found if isinstance(encoded, NotTuned) else replace(found, dataset=encoded.dataset, base_test=encoded.test)


def run_identity(base: Base, dataset: Dataset, config: Config) -> str:
    """Hash of all that decides an adapter."""
    facts = {
        "base": base.sha256,
        "rows": dataset.input_sha256,
        "topics": dataset.topics,
        "labels": dataset.scale.labels,
        "settings": as_dict(config),
        "prompts": [base.renderer is not None, base.located.template],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
