"""Records of finished runs, as small as they can be: each test says only what it is about."""

from __future__ import annotations

from typing import Any

from expertune.record import RunRecord

MAPPING = {"Match": 1, "Does Not Match": 0, "Unknown": -1}
TUNED = {"approach": "lora_on_gguf", "output_file": "fine_tuned_model.gguf", "adapter_file": "fine_tuned_adapter.gguf"}
MODEL_SET = {
    "approach": "meta_prompting",
    "output_file": "model_set_config.json",
    "examples": 0,
    "rule": {},
    "judged": False,
}
EXPORT = {
    "types": [],
    "base_types": {},
    "bytes": 1,
    "base_bytes": 1,
    "agreement": 1.0,
    "probability_gap": 0.0,
    "agreement_passed": True,
    "agreement_rows": 50,
    "rounds": [],
    "rows_per_second": 1.0,
    "base_rows_per_second": 1.0,
}
PARTS: dict[str, Any] = {
    "processing_info": {
        "model_name": "base.gguf",
        "dataset_size": 100,
        "target_topics": "respiratory infections",
        "processing_timestamp": "2026-01-01T00:00:00+00:00",
    },
    "fine_tuning_info": TUNED,
    "fallback_reason": None,
    "verdict": "The tuned model is better.",
    "evaluation": {"verdict": {"line": "The tuned model is better.", "base": "better", "majority": "better"}},
    "export": EXPORT,
    "data_audit": {"rows": 100, "by_label": {"Match": 100}, "findings": []},
    "split": {"train": 70, "dev": 10, "test": 20},
    "rating_mapping": MAPPING,
    "provenance": {
        "hashes": {"base": "0" * 64},
        "versions": {},
        "base": {"path": "base.gguf", "source": "file", "prompts_by": "the file's own template"},
    },
    "settings": {},
    "seed": 42,
    "timings": {},
}


def plain_record(**changes: Any) -> dict[str, Any]:
    """The JSON of a tuned run; a mapping among `changes` changes keys of its part, None takes the part out."""
    found = {name: _changed(PARTS.get(name), changes.get(name, {})) for name in {**PARTS, **changes}}
    return {name: part for name, part in found.items() if part is not None}


def run_record(**changes: Any) -> RunRecord:
    """`plain_record` as it is read."""
    return RunRecord.model_validate(plain_record(**changes))


def _changed(part: Any, change: Any) -> Any:
    if isinstance(part, dict) and isinstance(change, dict):
        return {**part, **change}
    return part if change == {} else change
