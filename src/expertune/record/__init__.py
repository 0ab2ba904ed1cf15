"""Typed, versioned record of a finished run.

fine_tuning_metadata.json is the dump of RunRecord, report.json the dump of report_record.ReportRecord.
Values that are not finite are null in the files. Folders of version 0.1.0, whose files have no `version`, also load.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from ..config import Config, make_config
from ..estimate.job import JobPlan
from ..evaluate.ceiling import ExpertComparison
from ..evaluate.coverage import Coverage
from ..export.summary import ExportSummary
from ..files import write_json
from ..outputs import METADATA
from ..predict.uncertainty import Uncertainty
from ..ratings.codes import WORDS, CodeBranch, LabelScoring
from ..ratings.prompts import PromptTemplate
from ..renamed_settings import current_settings
from ..train.summary import TrainingSummary
from .registration import Registration
from .section import Section, read
from .sections import (
    ApproachChoice,
    AuditRecord,
    CodeBranchInfo,
    EvaluationRecord,
    FineTuningInfo,
    ModelSetInfo,
    ProcessingInfo,
    Provenance,
    ReadoutInfo,
    SplitCounts,
    UnlabelledRecords,
)

VERSION = 2  # 1 is 0.1.0's, without the key
# callers test for these keys
ABSENT_IF_UNSET = (
    "fine_tuning_info",
    "model_set_info",
    "readout_info",
    "code_branch",
    "registration",
    "unlabelled",
    "experts",
)

SettingValue = str | int | float | bool | tuple[str, ...] | None


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
