"""Typed, versioned record of a finished run.

fine_tuning_metadata.json is the dump of RunRecord, report.json the dump of report_record.ReportRecord.
Values that are not finite are null in the files. Folders of version 0.1.0, whose files have no `version`, also load.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .config import Config, make_config
from .estimate.job import JobPlan
from .evaluate.automatable import AutomatableShare
from .evaluate.ceiling import ExpertComparison
from .evaluate.compare import Difference, Evaluation
from .evaluate.coverage import Coverage
from .evaluate.judgement import Judgement
from .evaluate.label_errors import LabelErrors
from .evaluate.prevalence import PrevalenceTable, at_prevalence
from .evaluate.subgroups import SubgroupColumn
from .evaluate.verdict import Verdict
from .export.decision import PromptFrame
from .export.summary import ExportSummary
from .files import write_json
from .outputs import METADATA
from .predict.uncertainty import Uncertainty
from .ratings.audit import Finding
from .ratings.codes import WORDS, CodeBranch, LabelScoring, ScoredBy
from .ratings.prompts import PromptTemplate
from .record_section import Section, read
from .registration_record import Registration
from .renamed_settings import current_settings
from .stats.intervals import Estimate
from .stats.learning_curve import LearningCurve
from .train.summary import TrainingSummary

VERSION = 2  # 1 is 0.1.0's, without the key
# callers test for these keys
ABSENT_IF_UNSET = (
    "fine_tuning_info",
    "model_set_info",
    "readout_info",
    "ensemble_info",
    "code_branch",
    "registration",
    "unlabelled",
    "experts",
)

SettingValue = str | int | float | bool | tuple[str, ...] | None


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
    """Present if a readout was fitted: log-probabilities from states after `depth` blocks and from TF-IDF are added.

    `out_of_fold` has macro-F1 and log-loss of "states", "TF-IDF" and "fused" on the training records, by
    cross-validation.
    """

    output_file: str
    depth: int
    features: str
    states_weight: float
    tfidf_weight: float
    out_of_fold: dict[str, dict[str, float]]


class EnsembleInfo(Section):
    """Present if tuned model and readout were fused: the log-probabilities of the tuned model have `tuned_weight`,
    those of the readout the rest. `log_loss` is that of each weight tried on the validation records.
    """

    tuned_weight: Annotated[float, Field(gt=0, lt=1)]
    log_loss: dict[str, float]


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
    """Choice between tuned model, readout, their ensemble and model set, by validation records.

    `dev` holds the figures behind `reason`.
    """

    approach: Literal["tune", "readout", "model-set", "ensemble"]
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
        cls, line: str, judgement: Judgement | None, prevalence: float | None, curves: tuple[LearningCurve, ...] = ()
    ) -> EvaluationRecord:
        """Build from a judgement, or from the `line` alone, which then says why there is none."""
        if judgement is None:
            return cls(verdict=Verdict(line), learning_curves=curves)
        return cls(
            verdict=replace(judgement.verdict, line=line),
            evaluations=judgement.evaluations,
            differences=judgement.differences,
            strata=judgement.strata,
            conformal=judgement.coverage,
            prevalence=at_prevalence(judgement.evaluations[0], prevalence),
            label_errors=judgement.label_errors,
            automatable=judgement.automatable,
            learning_curves=curves,
        )


class AuditRecord(Section):
    """Findings about the ratings; `notes` are remarks about reading them and about the model."""

    rows: int
    by_label: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()


class SplitCounts(Section):
    """Number of records in each part, and of groups that the split kept together."""

    train: int
    dev: int
    test: int
    groups: int = 0


class UnlabelledRecords(Section):
    """Records without a rating, where `--unlabelled` gave a file: read, trained on (`used`), and left out by reason."""

    file: str
    read: int
    used: int
    left_out: dict[str, int]


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

    @property
    def prompts_by_server(self) -> bool:
        """True where Ollama rendered the prompts."""
        return self.base is not None and self.base.prompts_by.startswith("Ollama")


class RunRecord(Section):
    """fine_tuning_metadata.json: inputs, product, evaluation, and what is needed to repeat the run.

    `failed_checks`: why the recommended product is no success; empty if it was judged and passed its checks.
    `prompt_template` is how the prompts were made from columns, where that is known; `rating_codes` are the codes of a
    raw file with their values. `experts` compares several experts with each other and with the product.
    """

    version: int = 1
    processing_info: ProcessingInfo
    fine_tuning_info: FineTuningInfo | None = None
    model_set_info: ModelSetInfo | None = None
    readout_info: ReadoutInfo | None = None
    ensemble_info: EnsembleInfo | None = None
    code_branch: CodeBranchInfo | None = None
    fallback_reason: str | None = None
    failed_checks: tuple[str, ...] = ()
    choice: ApproachChoice | None = None
    verdict: str
    evaluation: EvaluationRecord
    training: TrainingSummary | None = None
    export: ExportSummary | None = None
    rating: Uncertainty | None = None
    conformal: Coverage | None = None
    data_audit: AuditRecord
    split: SplitCounts
    unlabelled: UnlabelledRecords | None = None
    experts: ExpertComparison | None = None
    rating_mapping: dict[str, int]
    rating_codes: dict[str, int] = Field(default_factory=dict)
    prompt_template: PromptTemplate | None = None
    provenance: Provenance
    settings: dict[str, SettingValue]
    seed: int
    timings: dict[str, float]
    plan: JobPlan | None = None
    registration: Registration | None = None

    @property
    def branch(self) -> CodeBranch | None:
        """The codes that the system prompt of the run lists."""
        return self.code_branch.branch if self.code_branch else None

    @property
    def scoring(self) -> LabelScoring:
        """How the tuned model's labels are scored."""
        return self.code_branch.scoring if self.code_branch else WORDS

    @property
    def config(self) -> Config:
        """The settings of the run. Raises UsageError for settings of a later version."""
        return make_config(current_settings(self.settings, warn=False))

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, as in the JSON file."""
        plain = super().to_dict()
        return {key: value for key, value in plain.items() if value is not None or key not in ABSENT_IF_UNSET}

    def write(self, folder: Path) -> None:
        """Write fine_tuning_metadata.json. Raises OutputError."""
        write_json(folder / METADATA, self.to_dict())


def read_record(folder: Path) -> RunRecord:
    """Read the record of a finished run. Raises UsageError if it is missing or damaged."""
    return read(RunRecord, folder / METADATA)
