"""Sections of a run's record, and how they are made from what the run found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from .. import outputs
from ..engine.base_model import Base
from ..evaluate.automatable import AutomatableShare
from ..evaluate.compare import Difference, Evaluation
from ..evaluate.coverage import Coverage
from ..evaluate.judgement import Judgement
from ..evaluate.label_errors import LabelErrors
from ..evaluate.prevalence import PrevalenceTable, at_prevalence
from ..evaluate.subgroups import SubgroupColumn
from ..evaluate.verdict import Verdict
from ..export.decision import PromptFrame
from ..ratings.audit import Finding
from ..ratings.codes import CodeBranch, LabelScoring, ScoredBy
from ..ratings.dataset import Dataset
from ..ratings.unlabelled import Unlabelled
from ..stats.intervals import Estimate
from ..stats.learning_curve import LearningCurve
from .section import Section


class ProcessingInfo(Section):
    """Base model and dataset. `dataset_size` counts the usable records."""

    model_name: str
    dataset_size: int
    target_topics: str
    processing_timestamp: str


class FineTuningInfo(Section):
    """Present if a tuned model was made; `success` is False if it failed the quality gate."""

    approach: str
    success: bool = True
    output_file: str
    adapter_file: str


class ModelSetInfo(Section):
    """Present if a model set was made; `judged` is False if no model could rate the test records.

    `success` is True only for a set that was judged and passed its checks, or that was not chosen.
    """

    approach: str
    success: bool = True
    output_file: str
    examples: int
    rule: dict[str, Any]
    judged: bool


class ReadoutInfo(Section):
    """Present if a readout was fitted: the pool of raters by words and by states after `depths` blocks.

    `weights` are by rater; the label that is written has the largest product of probability and `label_weights`. Runs
    before readout.json had version 2 have neither, those before version 3 no `depths`. `out_of_fold` has macro-F1 and
    log-loss of each rater and of "fused" on the training records, by cross-validation.
    """

    output_file: str
    depths: tuple[int, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    label_weights: dict[str, float] = Field(default_factory=dict)
    out_of_fold: dict[str, dict[str, float]]


class CodeBranchInfo(Section):
    """Present if the system prompt lists a code for each label: after `lead` the tuned model answers by it.

    `scored_by` is how the labels of a record are scored, chosen by `validation`: macro-F1 and log-loss of the words,
    the code and both on the validation records. `frame` is the prompt up to the code, None if no two texts around
    the record give it. `temperature` and `note` are those of the decision keys in the file; None if it has none.
    """

    lead: str
    codes: dict[str, str]
    scored_by: ScoredBy
    reason: str
    validation: dict[str, dict[str, float]]
    frame: PromptFrame | None = None
    temperature: float | None = None
    note: str = ""

    @property
    def branch(self) -> CodeBranch:
        return CodeBranch(self.lead, tuple(self.codes.values()))

    @property
    def scoring(self) -> LabelScoring:
        return LabelScoring(self.scored_by, self.branch)


class ValidationComparison(Section):
    """Comparison of two products on the validation records that both rated.

    `set_rates_by` is the rule of the model set, if one of them is; `log_loss` is there if it decided.
    """

    rows: int
    macro_f1: dict[str, Estimate]
    difference: Difference
    set_rates_by: dict[str, Any] = Field(default_factory=dict)
    log_loss: dict[str, Estimate] = Field(default_factory=dict)


class ApproachChoice(Section):
    """Choice between tuned model, readout and model set, by validation records.

    `dev` holds the figures behind `reason`.
    """

    approach: Literal["tune", "readout", "model-set"]
    reason: str
    dev: ValidationComparison | None = None

    @field_validator("dev", mode="before")
    @classmethod
    def _empty_as_none(cls, dev: Any) -> Any:
        return None if dev == {} else dev  # as version 0.1.0 wrote it


class EvaluationRecord(Section):
    """Evaluation of all raters on the test records, the chosen one first; empty if nothing could be evaluated.

    `strata`, `conformal` (coverage of its prediction sets), `prevalence` and `automatable` describe the first rater.
    `label_errors` are of all records, as far as raters that had not learned them rated them; `learning_curves` are of
    cheap raters on the training records.
    """

    verdict: Verdict
    evaluations: tuple[Evaluation, ...] = ()
    differences: tuple[Difference, ...] = ()
    strata: tuple[SubgroupColumn, ...] = ()
    conformal: Coverage | None = None
    prevalence: PrevalenceTable | None = None
    label_errors: LabelErrors | None = None
    automatable: AutomatableShare | None = None
    learning_curves: tuple[LearningCurve, ...] = ()

    @classmethod
    def of(
        cls, judgement: Judgement | None, unjudged: str, prevalence: float | None, *curves: LearningCurve
    ) -> EvaluationRecord:
        """The judgement, or the line `unjudged`, which says why there is none."""
        if judgement is None:
            return cls(verdict=Verdict(unjudged), learning_curves=curves)
        shared = {name: found for name, found in vars(judgement).items() if name in cls.model_fields}
        return cls(**shared, prevalence=at_prevalence(judgement.evaluations[0], prevalence), learning_curves=curves)


class AuditRecord(Section):
    """Findings about the ratings; `notes` are remarks about reading them and about the model."""

    rows: int
    by_label: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, *notes: str) -> AuditRecord:
        """With the dataset's own notes first."""
        audit, notes = dataset.audit, (*dataset.notes, *notes)
        return cls(rows=audit.rows, by_label=dict(audit.by_label), findings=audit.findings, notes=notes)


class SplitCounts(Section):
    """Number of records in each part, and of groups that the split kept together."""

    train: int
    dev: int
    test: int
    groups: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> SplitCounts:
        return cls(**dataset.counts.parts(), groups=len(set(dataset.split.groups.values())))


class UnlabelledRecords(Section):
    """Records without a rating, where `--unlabelled` gave a file: read, trained on (`used`), and left out by reason."""

    file: str
    read: int
    used: int
    left_out: dict[str, int]

    @classmethod
    def of(cls, found: Unlabelled | None, used: int) -> UnlabelledRecords | None:
        if found is None:
            return None
        count = len(found.records)
        unused = {"no tuned model learned them": count - used} if used < count else {}
        return cls(file=found.source, read=found.read, used=used, left_out={**found.left_out, **unused})


class BaseFile(Section):
    """The base model's file, and what rendered its prompts."""

    path: str
    source: str
    prompts_by: str


class Provenance(Section):
    """sha256 of inputs and outputs by name, library versions, and the base."""

    hashes: dict[str, str]
    versions: dict[str, str]
    base: BaseFile | None = None

    @classmethod
    def of(cls, folder: Path, dataset: Dataset, base: Base | None) -> Provenance:
        """With the files that are in the folder now."""
        known = {"input_rows": dataset.input_sha256, **({"base": base.sha256} if base else {})}
        file = base and BaseFile(path=str(base.path), source=base.located.source, prompts_by=base.prompts_by)
        hashes = {**known, **outputs.hashes(folder, outputs.PRODUCTS)}
        return cls(hashes=hashes, versions=outputs.versions(), base=file)

    @property
    def prompts_by_server(self) -> bool:
        """True where Ollama rendered the prompts."""
        return self.base is not None and self.base.prompts_by.startswith("Ollama")
