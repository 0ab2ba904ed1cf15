"""Load a run's output folder: what it takes to rate new records with its product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DatasetError, ModelSetConfigError, UsageError
from ..files import sha256
from ..modelset.config import ModelSetConfig, read
from ..outputs import METADATA, MODEL_SET
from ..predict.score import Messages
from ..predict.uncertainty import Uncertainty, read_uncertainty
from ..ratings.examples import chat_messages, system_prompt
from ..ratings.scale import RatingScale, answer_opening, make_scale

ANSWER_ROOM = 192  # tokens of context next to the longest row, for free answers


@dataclass(frozen=True)
class Artifact:
    """The product of a run, ready to be served.

    `messages` turns a record's prompt into chat messages. `file` is the tuned model, None for a model set; `model_name`
    is the base. `sha256` is of the file that answers (tuned: `file`, model set: the base), None where the run did not
    have it. `registered` is the name in Ollama, `served` the sha256 of its blob there (the file's tensors, if not
    the file). `prompts_by_server` says that Ollama wrote the prompts when the product was made. `config_id` is the
    sha256 of everything in the folder that decides a rating, but for the model files. `model_set` is there where more
    than the base model can give an opinion; each member is then asked by its own messages.
    """

    kind: Literal["tuned", "model-set"]
    folder: Path
    scale: RatingScale
    messages: Messages
    file: Path | None
    model_name: str
    sha256: str | None
    registered: str | None
    served: str | None
    prompts_by_server: bool
    context: int
    seed: int
    config_id: str
    trust: Uncertainty
    model_set: ModelSetConfig | None = None


def load_product(folder: Path) -> Artifact:
    """The product in the output folder of a finished run.

    Raises UsageError for a folder that holds none or a damaged one, and for a model file that is not the judged one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the output folder of a finished run")
    metadata = _read_metadata(folder)
    try:
        if metadata is not None and "fine_tuning_info" in metadata:
            return _tuned(folder, metadata)
        if (folder / MODEL_SET).exists():
            return _model_set(folder, metadata or {})
    except (KeyError, TypeError, ValueError, AttributeError, DatasetError) as error:
        raise UsageError(
            f"{folder / METADATA}: damaged, or of another version ({type(error).__name__}); run expertune tune again"
        ) from None
    except ModelSetConfigError as error:
        raise UsageError(str(error)) from None
    raise UsageError(f"{folder}: holds neither a tuned model nor a model set; give the output folder of a finished run")


def _read_metadata(folder: Path) -> dict[str, Any] | None:
    """None where there is none: a model set also works alone."""
    path = folder / METADATA
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({type(error).__name__}); run expertune tune again") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: damaged, it is not a JSON object; run expertune tune again")
    return content


def _tuned(folder: Path, metadata: Mapping[str, Any]) -> Artifact:
    scale = make_scale(metadata["rating_mapping"])
    topics = str(metadata["processing_info"]["target_topics"])
    file = folder / metadata["fine_tuning_info"]["output_file"]
    judged = str(metadata["provenance"]["hashes"][file.name])
    _check_file(file, judged)
    registration = metadata.get("registration") or {}
    return Artifact(
        kind="tuned",
        folder=folder,
        scale=scale,
        messages=lambda prompt: chat_messages(prompt, scale, topics),
        file=file,
        model_name=str(metadata["processing_info"]["model_name"]),
        sha256=judged,
        registered=str(registration["name"]) if registration.get("registered") else None,
        served=registration.get("served"),
        prompts_by_server=prompts_by_server(metadata),
        context=int(metadata["settings"]["max_tokens"]) + ANSWER_ROOM,
        seed=int(metadata["seed"]),
        config_id=_config_id("tuned", scale, system_prompt(scale, topics), ()),
        trust=read_uncertainty(metadata.get("rating"), scale),
    )


def _model_set(folder: Path, metadata: Mapping[str, Any]) -> Artifact:
    config = read(folder / MODEL_SET)
    scale = make_scale(config.rating_mapping)
    shots = [(each.prompt, each.answer) for each in config.few_shot_examples]
    hashes = (metadata.get("provenance") or {}).get("hashes") or {}
    if MODEL_SET in hashes:
        _check_file(folder / MODEL_SET, str(hashes[MODEL_SET]))
    if config.has_votes:
        content = config.model_dump(mode="json", include={"rule", "models", "tfidf"})
        shots.append((json.dumps([content[key] for key in ("rule", "models", "tfidf")], sort_keys=True), ""))
    return Artifact(
        kind="model-set",
        folder=folder,
        scale=scale,
        messages=config.messages,
        file=None,
        model_name=config.base_model,
        sha256=hashes.get("base"),
        registered=None,
        served=None,
        prompts_by_server=prompts_by_server(metadata),
        context=config.decoding.num_ctx,
        seed=config.decoding.seed,
        config_id=_config_id("model-set", scale, config.system_prompt, shots),
        trust=read_uncertainty(metadata.get("rating"), scale),
        model_set=config if config.has_votes else None,
    )


def _check_file(file: Path, judged: str) -> None:
    """The metadata's figures speak of one file only."""
    try:
        found = sha256(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); copy the run's whole folder") from None
    if found != judged:
        raise UsageError(
            f"{file}: not the file that was judged (its sha256 differs from {METADATA}); copy it again, or tune again"
        )


def prompts_by_server(metadata: Mapping[str, Any]) -> bool:
    """Whether Ollama wrote the prompts of a run, by its metadata."""
    base = (metadata.get("provenance") or {}).get("base") or {}
    return str(base.get("prompts_by", "")).startswith("Ollama")


def _config_id(kind: str, scale: RatingScale, system: str, shots: Sequence[tuple[str, str]]) -> str:
    facts = [kind, scale.labels, scale.values, [answer_opening(label) for label in scale.labels], system, list(shots)]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
