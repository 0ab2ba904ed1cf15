"""Data of the report: report.json is the dump of ReportRecord.

The package ships the JSON Schemas of both records; `python -m expertune.report_record` regenerates them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import field_validator
from pydantic_core import to_jsonable_python

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
    ReadoutInfo,
    RunRecord,
    Section,
    SettingValue,
    UnlabelledRecords,
)
from .stats.intervals import Estimate, Interval
from .train.events import DevEvent, Event, StepEvent, evaluations_of, steps_of
from .train.summary import TrainingSummary

_FOLDERS = re.compile(  # those of an absolute path in a sentence
    r"""(?<![^\s"'(=,;])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\]+)+[/\\](?=[^\s/\\])"""
)


class RunFacts(Section):
    """Header of the report; `groups` is the number of groups that the split kept together, 0 where it is not known."""

    topics: str
    model: str
    created: str
    seed: int
    rows: dict[str, int]
    groups: int = 0


class Curves(Section):
    """Training events: every step, and every evaluation on the validation records."""

    steps: tuple[StepEvent, ...]
    dev: tuple[DevEvent, ...]

    @classmethod
    def of(cls, history: Sequence[Event]) -> Curves:
        """Sort the events of a training by their kind."""
        return cls(steps=tuple(steps_of(history)), dev=tuple(evaluations_of(history)))


class RandomSample(Section):
    """Random sample of the confident ratings: its size, and the error rate of those that experts have reviewed."""

    records: int
    error_rate: Estimate


class ReviewerPair(Section):
    """Agreement of two experts of a review on the `records` that both rated; they are numbered, not named."""

    first: str
    second: str
    records: int
    share: float
    kappa: float | None
    kappa_interval: Interval | None = None


class ReviewSummary(Section):
    """Summary that `expertune review --page` writes next to its results."""

    random_sample: RandomSample | None = None
    agreement: tuple[ReviewerPair, ...] = ()

    @field_validator("random_sample", mode="before")
    @classmethod
    def _rated(cls, sample: Any) -> Any:
        """None where no record of the sample has been rated."""
        return None if isinstance(sample, dict) and sample.get("error_rate") is None else sample

    def numbered(self) -> tuple[ReviewerPair, ...]:
        """The pairs without the names of the experts."""
        names = sorted({name for each in self.agreement for name in (each.first, each.second)})
        number = {name: f"Expert {at}" for at, name in enumerate(names, start=1)}
        return tuple(
            each.model_copy(update={"first": number[each.first], "second": number[each.second]})
            for each in self.agreement
        )


class ReportRecord(EvaluationRecord):
    """report.json: the data of report.html. Of absolute paths it has only the names of the files."""

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
    readout: ReadoutInfo | None = None
    code_branch: CodeBranchInfo | None = None
    unlabelled: UnlabelledRecords | None = None
    experts: ExpertComparison | None = None
    training: TrainingSummary | None = None
    reviewed: RandomSample | None = None
    reviewers: tuple[ReviewerPair, ...] = ()

    @field_validator("verdict", "choice", "run", "audit", "provenance", "config", "unlabelled", mode="before")
    @classmethod
    def _file_names(cls, section: Any) -> Any:
        return without_folders(to_jsonable_python(section))

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
                groups=counts.groups,
            ),
            audit=run.data_audit,
            provenance=run.provenance,
            config=run.settings,
            timings=run.timings,
            plan=run.plan,
            curves=Curves.of(history) if history else None,
            export=run.export,
            choice=run.choice,
            readout=run.readout_info,
            code_branch=run.code_branch,
            unlabelled=run.unlabelled,
            experts=run.experts,
            training=run.training,
        )


def without_folders(value: Any) -> Any:
    """Leave of each absolute path in plain values, alone or in a sentence, the name of its file."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if not isinstance(value, str):
        return value
    if ": " not in value and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return PureWindowsPath(value).name
    return _FOLDERS.sub("", value)


def schemas() -> Mapping[str, Mapping[str, object]]:
    """JSON Schemas of both records, by file name in the package."""
    kinds = {"run_record.schema.json": RunRecord, "report_record.schema.json": ReportRecord}
    return {name: kind.model_json_schema(mode="serialization") for name, kind in kinds.items()}


if __name__ == "__main__":
    for name, schema in schemas().items():
        write_json(Path(__file__).with_name(name), schema)
