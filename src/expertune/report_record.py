"""Data of the report: report.json is the dump of ReportRecord.

The package ships the JSON Schemas of both records; `python -m expertune.report_record` regenerates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from .train.events import DevEvent, Event, StepEvent, evaluations_of, steps_of


class RunFacts(Section):
    """Header of the report."""

    topics: str
    model: str
    created: str
    seed: int
    rows: dict[str, int]


class Curves(Section):
    """Training events: every step, and every evaluation on the validation records."""

    steps: tuple[StepEvent, ...]
    dev: tuple[DevEvent, ...]

    @classmethod
    def of(cls, history: Sequence[Event]) -> Curves:
        """Sort the events of a training by their kind."""
        return cls(steps=tuple(steps_of(history)), dev=tuple(evaluations_of(history)))


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
    def of_run(cls, run: RunRecord, history: Sequence[Event] = ()) -> ReportRecord:
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
