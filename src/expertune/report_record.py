"""Data of the report: report.json is the dump of ReportRecord.

The package ships the JSON Schemas of both records; `python -m expertune.report_record` regenerates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .estimate.job import JobPlan
from .evaluate.ceiling import ExpertComparison
from .export.summary import ExportSummary
from .files import write_json
from .record import (
    VERSION,
    ApproachChoice,
    AuditRecord,
    CodeBranchInfo,
    EvaluationRecord,
    Provenance,
    RunRecord,
    Section,
    SettingValue,
    UnlabelledRecords,
)
from .train.events import DevEvent, StepEvent


class RunFacts(Section):
    """Header of the report."""

    topics: str
    model: str
    created: str
    seed: int
    rows: dict[str, int]


@dataclass(frozen=True)
class _Step:
    kind: Literal["step"]


@dataclass(frozen=True)
class _Dev:
    kind: Literal["dev"]


@dataclass(frozen=True)
class StepRecord(StepEvent, _Step):
    """A step of the training, with its kind as the first key."""


@dataclass(frozen=True)
class DevRecord(DevEvent, _Dev):
    """An evaluation on the validation records, with its kind as the first key."""


class Curves(Section):
    """Training events: every step, and every evaluation on the validation records."""

    steps: tuple[StepRecord, ...]
    dev: tuple[DevRecord, ...]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, Any]]) -> Curves:
        """Sort the events of a training by their kind."""
        steps, dev = ([event for event in history if event["kind"] == kind] for kind in ("step", "dev"))
        return cls.model_validate({"steps": steps, "dev": dev})


class ReportRecord(EvaluationRecord):
    """report.json: the data of report.html."""

    version: int = 1
    run: RunFacts
    audit: AuditRecord
    provenance: Provenance
    config: dict[str, SettingValue]
    timings: dict[str, float]
    plan: JobPlan | None = None
    curves: Curves | None = None
    export: ExportSummary | None = None
    choice: ApproachChoice | None = None
    code_branch: CodeBranchInfo | None = None
    unlabelled: UnlabelledRecords | None = None
    experts: ExpertComparison | None = None

    @classmethod
    def of_run(cls, run: RunRecord, history: Sequence[Mapping[str, Any]] = ()) -> ReportRecord:
        """Build from a run's record; `history` holds the events of its training."""
        info, counts = run.processing_info, run.split
        return cls(
            **dict(run.evaluation),
            version=VERSION,
            run=RunFacts(
                topics=info.target_topics,
                model=info.model_name,
                created=info.processing_timestamp,
                seed=run.seed,
                rows={"train": counts.train, "dev": counts.dev, "test": counts.test},
            ),
            audit=run.data_audit,
            provenance=run.provenance,
            config=run.settings,
            timings=run.timings,
            plan=run.plan,
            curves=Curves.of(history) if history else None,
            export=run.export,
            choice=run.choice,
            code_branch=run.code_branch,
            unlabelled=run.unlabelled,
            experts=run.experts,
        )


def schemas() -> Mapping[str, dict[str, Any]]:
    """JSON Schemas of both records, by file name in the package."""
    kinds = {"run_record.schema.json": RunRecord, "report_record.schema.json": ReportRecord}
    return {name: kind.model_json_schema(mode="serialization") for name, kind in kinds.items()}


if __name__ == "__main__":
    for name, schema in schemas().items():
        write_json(Path(__file__).with_name(name), schema)
