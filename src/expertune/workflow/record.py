"""The last files of a run: metadata and report, from the records of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import outputs
from ..config import Config, as_dict
from ..evaluate.judgement import Judgement
from ..evaluate.prevalence import at_prevalence
from ..evaluate.report import plain, write_report
from ..ratings.dataset import Dataset
from .state import Base, Clock

PRODUCTS = (*outputs.TUNED_FILES, outputs.MODEL_SET)


@dataclass(frozen=True)
class Told:
    """What a run has to tell. `line` is the verdict; `info` is {"fine_tuning_info" or "model_set_info": facts}."""

    line: str
    info: Mapping[str, Any]
    judgement: Judgement | None
    training: Mapping[str, Any] | None = None
    export: Mapping[str, Any] | None = None
    history: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    fallback_reason: str | None = None
    rating: Mapping[str, Any] | None = None  # rate.trust.Trust.to_dict(): what the rating of new records needs
    choice: Mapping[str, Any] | None = None  # pipeline.choice.Choice.to_dict()


@dataclass(frozen=True)
class Finished:
    """A run's facts, gathered once for both files."""

    told: Told
    prepared: Dataset
    config: Config
    seconds: Mapping[str, float]
    model_name: str
    provenance: Mapping[str, Any]
    made: str = field(default_factory=outputs.now)

    @property
    def evaluation(self) -> dict[str, Any]:
        """Verdict, all raters and their differences; the latter empty where nothing could be judged."""
        judgement = self.told.judgement
        found = judgement.to_dict() if judgement else {"verdict": {}, "evaluations": [], "differences": []}
        if judgement:
            found["prevalence"] = at_prevalence(found["evaluations"][0], self.config.prevalence)
        return {**found, "verdict": {**found["verdict"], "line": self.told.line}}

    @property
    def audit(self) -> dict[str, Any]:
        return {**self.prepared.audit.to_dict(), "notes": [*self.prepared.notes, *self.told.notes]}


def finish(
    folder: Path, told: Told, *, prepared: Dataset, config: Config, clock: Clock, model_name: str, base: Base | None
) -> dict[str, Any]:
    """Write report.json, report.html and fine_tuning_metadata.json; returns what the last one holds.

    Raises OutputError.
    """
    provenance = {
        "hashes": {
            "input_rows": prepared.input_sha256,
            **({"base": base.sha256} if base else {}),
            **outputs.hashes(folder, PRODUCTS),
        },
        "versions": outputs.versions(),
        "base": {"path": str(base.path), "source": base.located.source, "prompts_by": base.prompts_by}
        if base
        else None,
    }
    finished = Finished(told, prepared, config, clock.seconds, model_name, provenance)
    write_report(folder, _report(finished))
    metadata = plain(_metadata(finished))
    outputs.write_metadata(folder, metadata)
    return metadata


def _report(finished: Finished) -> dict[str, Any]:
    """As evaluate.report documents it."""
    told, prepared = finished.told, finished.prepared
    report = {
        **finished.evaluation,
        "run": {
            "topics": prepared.topics,
            "model": finished.model_name,
            "created": finished.made,
            "seed": finished.config.seed,
            "rows": prepared.counts,
        },
        "audit": finished.audit,
        "provenance": finished.provenance,
        "config": as_dict(finished.config),
        "timings": finished.seconds,
    }
    if told.history:
        by_kind = {kind: [event for event in told.history if event["kind"] == kind] for kind in ("step", "dev")}
        report["curves"] = {"steps": by_kind["step"], "dev": by_kind["dev"]}
    more = {"export": told.export, "choice": told.choice}
    return report | {name: dict(part) for name, part in more.items() if part}


def _metadata(finished: Finished) -> dict[str, Any]:
    told, prepared = finished.told, finished.prepared
    return {
        "processing_info": {
            "model_name": finished.model_name,
            "dataset_size": len(prepared.ratings),
            "target_topics": prepared.topics,
            "processing_timestamp": finished.made,
        },
        **told.info,
        "fallback_reason": told.fallback_reason,
        "choice": told.choice,
        "verdict": told.line,
        "evaluation": finished.evaluation,
        "training": told.training,
        "export": told.export,
        "rating": told.rating,
        "conformal": finished.evaluation.get("conformal"),
        "data_audit": finished.audit,
        "split": {**prepared.counts, "groups": len(set(prepared.split.groups.values()))},
        "rating_mapping": dict(zip(prepared.scale.labels, prepared.scale.values, strict=True)),
        "provenance": finished.provenance,
        "settings": as_dict(finished.config),
        "seed": finished.config.seed,
        "timings": finished.seconds,
    }
