"""The last files of a run: metadata and report, from the records of its stages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config, as_dict
from ..evaluate.report import plain, write_report
from . import outputs
from .judge import Judgement
from .prepare import Prepared
from .records import Base, Clock

PRODUCTS = (outputs.TRAINING_DATA, outputs.TRAINING_CONFIG, outputs.ADAPTER, outputs.MODEL, outputs.MODELFILE, outputs.MODEL_SET)


def finish(folder: Path, *, prepared: Prepared, config: Config, clock: Clock, model_name: str, base: Base | None,
           line: str, judgement: Judgement | None, info: Mapping[str, Any], training: Mapping[str, Any] | None = None,
           export: Mapping[str, Any] | None = None, history: tuple[Mapping[str, Any], ...] = (),
           notes: tuple[str, ...] = (), fallback_reason: str | None = None) -> dict[str, Any]:
    """Write report.json, report.html and fine_tuning_metadata.json; returns what the last one holds.

    `info` is the fine_tuning_info or model_set_info section, with its name as the key. Raises OutputError.
    """
    made = outputs.now()
    evaluation = {**(judgement.to_dict() if judgement else {"evaluations": [], "differences": []}),
                  "verdict": {**(judgement.verdict.to_dict() if judgement else {}), "line": line}}
    provenance = {
        "hashes": {"input_rows": prepared.input_sha256, **({"base": base.sha256} if base else {}),
                   **outputs.hashes(folder, PRODUCTS)},
        "versions": outputs.versions(),
        "base": {"path": str(base.path), "source": base.source} if base else None,
    }
    audit = {**prepared.audit.to_dict(), "notes": [*prepared.notes, *notes]}
    run = {"topics": prepared.topics, "model": model_name, "created": made, "seed": config.seed, "rows": prepared.counts}
    report = {"verdict": evaluation["verdict"], "run": run, "evaluations": evaluation["evaluations"],
              "differences": evaluation["differences"], "audit": audit, "provenance": provenance,
              "config": as_dict(config), "timings": clock.seconds}
    if history:
        report["curves"] = {"steps": [event for event in history if event["kind"] == "step"],
                            "dev": [event for event in history if event["kind"] == "dev"]}
    if export:
        report["export"] = dict(export)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # plotting libraries warn about fonts; the user can do nothing about it
        write_report(folder, report)
    metadata = plain({
        "processing_info": {"model_name": model_name, "dataset_size": len(prepared.ratings), "target_topics": prepared.topics,
                            "processing_timestamp": made},
        **info, "fallback_reason": fallback_reason, "verdict": line, "evaluation": evaluation, "training": training,
        "export": export, "data_audit": audit, "split": {**prepared.counts, "groups": len(set(prepared.split.groups.values()))},
        "rating_mapping": dict(zip(prepared.scale.labels, prepared.scale.values, strict=True)), "provenance": provenance,
        "settings": as_dict(config), "seed": config.seed, "timings": clock.seconds,
    })
    outputs.write_metadata(folder, metadata)
    return metadata
