"""Load a run's output folder: what it takes to rate new records with its product."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..engine.decision import Question
from ..errors import DatasetError, ModelSetConfigError, UsageError
from ..evaluate.compare import Evaluation
from ..export.agreement import Noise
from ..files import sha256
from ..modelset.config import ModelSetConfig, read
from ..outputs import METADATA, MODEL_SET, READOUT
from ..predict.score import Messages
from ..predict.uncertainty import Uncertainty, checked_uncertainty
from ..ratings.codes import WORDS, LabelScoring
from ..ratings.examples import chat_messages, system_prompt
from ..ratings.prompts import PromptTemplate
from ..ratings.scale import RatingScale, answer_opening, make_scale
from ..readout.record import ReadoutRecord
from ..readout.record import read as read_readout
from ..record import RunRecord, read_record

Product = Literal["tuned", "readout", "model-set"]
ANSWER_ROOM = 192  # tokens of context next to the longest row, for free answers


@dataclass(frozen=True)
class Artifact:
    """The product of a run, ready to be served.

    `messages` turns a record's prompt into chat messages. `file` is the tuned model, None for the other products;
    `model_name` is the base. `sha256` is of the file that answers (tuned: `file`, else the base), None where the run
    did not have it. `registered` is the name in Ollama, `served` the sha256 of its blob there (the file's tensors, if
    not the file). `prompts_by_server` says that Ollama wrote the prompts when the product was made. `config_id` is the
    sha256 of everything in the folder that decides a rating, but for the model files. `model_set` is there where more
    than the base model can give an opinion; each member is then asked by its own messages. `noise` is how far
    two correct readers of the tuned file differ, where the run measured it. `question` is there where the file is a
    decision model that was judged by its decision interface. `template` makes the prompts of raw records, None where
    the run does not know how its prompts were made. `evaluation` is that on the run's test records, None where the
    product was not evaluated.
    """

    kind: Product
    folder: Path
    scale: RatingScale
    messages: Messages
    model_name: str
    sha256: str | None
    prompts_by_server: bool
    context: int
    seed: int
    config_id: str
    trust: Uncertainty
    file: Path | None = None
    registered: str | None = None
    served: str | None = None
    model_set: ModelSetConfig | None = None
    readout: ReadoutRecord | None = None
    scoring: LabelScoring = WORDS
    noise: Noise | None = None
    question: Question | None = None
    topics: str = ""
    template: PromptTemplate | None = None
    evaluation: Evaluation | None = None


def load_product(folder: Path, wanted: Product | None = None) -> Artifact:
    """The recommended product in the output folder of a finished run, or the `wanted` one.

    Calibration, conformal thresholds and novelty were learnt for the recommended product only.

    Raises UsageError for a folder that holds none or a damaged one, and for a model file that is not the judged one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give the output folder of a finished run")
    record = read_record(folder) if (folder / METADATA).exists() else None  # a model set also works alone
    try:
        recommended = _recommended(folder, record)
        kind = wanted or recommended
        if record is not None and kind != recommended:
            record = record.model_copy(update={"rating": None})
        if (found := _product(folder, record, kind)) is not None:
            judged = record.evaluation.evaluations if record is not None and kind == recommended else ()
            return replace(found, evaluation=judged[0] if judged else None)
    except (KeyError, TypeError, ValueError, AttributeError, DatasetError) as error:
        raise UsageError(
            f"{folder / METADATA}: damaged, or of another version ({type(error).__name__}); run expertune tune again"
        ) from None
    except ModelSetConfigError as error:
        raise UsageError(str(error)) from None
    if wanted is not None:
        raise UsageError(f"{folder}: holds no {wanted} product; give another folder, or rate with another --product")
    raise UsageError(f"{folder}: holds neither a tuned model nor a model set; give the output folder of a finished run")


def _product(folder: Path, record: RunRecord | None, kind: Product) -> Artifact | None:
    if record is not None and record.fine_tuning_info is not None and kind == "tuned":
        return _tuned(folder, record, record.fine_tuning_info.output_file)
    if record is not None and record.readout_info is not None and kind == "readout":
        return _readout(folder, record)
    return _model_set(folder, record) if (folder / MODEL_SET).exists() and kind == "model-set" else None


def _recommended(folder: Path, record: RunRecord | None) -> Product:
    if record is not None and record.choice is not None and record.choice.approach == "readout":
        return "readout"
    return "tuned" if record is not None and record.fine_tuning_info is not None else "model-set"


def _tuned(folder: Path, record: RunRecord, output_file: str) -> Artifact:
    file, branch, scoring, registration = folder / output_file, record.branch, record.scoring, record.registration
    judged = _checked_file(file, record.provenance.hashes[file.name])
    ways = [] if branch is None or scoring.by == "words" else [(scoring.by, branch.lead)]
    return replace(
        _of_record("tuned", folder, record, judged, ways),
        file=file,
        registered=registration.name if registration and registration.registered else None,
        served=registration.served if registration else None,
        scoring=scoring,
        noise=record.export.noise if record.export else None,
        topics=record.processing_info.target_topics,
    )


def _readout(folder: Path, record: RunRecord) -> Artifact:
    judged = _checked_file(folder / READOUT, record.provenance.hashes[READOUT])
    found = _of_record("readout", folder, record, record.provenance.hashes["base"], [(judged, "")])
    return replace(found, readout=read_readout(folder / READOUT))


def _of_record(
    kind: Product, folder: Path, record: RunRecord, digest: str, facts: Sequence[tuple[str, str]]
) -> Artifact:
    """What a tuned model and a readout have in common; `facts` decide a rating too."""
    scale, topics, branch = make_scale(record.rating_mapping), record.processing_info.target_topics, record.branch
    return Artifact(
        kind=kind,
        folder=folder,
        scale=scale,
        messages=lambda prompt: chat_messages(prompt, scale, topics, branch),
        model_name=record.processing_info.model_name,
        sha256=digest,
        prompts_by_server=record.provenance.prompts_by_server,
        context=record.config.max_tokens + ANSWER_ROOM,
        seed=record.seed,
        config_id=_config_id(kind, scale, system_prompt(scale, topics, branch), facts),
        trust=checked_uncertainty(record.rating, scale),
        template=record.prompt_template,
    )


def _model_set(folder: Path, record: RunRecord | None) -> Artifact:
    config = read(folder / MODEL_SET)
    scale = make_scale(config.rating_mapping)
    shots = [(each.prompt, each.answer) for each in config.few_shot_examples]
    hashes = record.provenance.hashes if record else {}
    if MODEL_SET in hashes:
        _checked_file(folder / MODEL_SET, hashes[MODEL_SET])
    if config.has_votes:
        content = config.model_dump(mode="json", include={"rule", "models", "tfidf"})
        shots.append((json.dumps([content[key] for key in ("rule", "models", "tfidf")], sort_keys=True), ""))
    return Artifact(
        kind="model-set",
        folder=folder,
        scale=scale,
        messages=config.messages,
        model_name=config.base_model,
        sha256=hashes.get("base"),
        prompts_by_server=record.provenance.prompts_by_server if record else False,
        context=config.decoding.num_ctx,
        seed=config.decoding.seed,
        config_id=_config_id("model-set", scale, config.system_prompt, shots),
        trust=checked_uncertainty(record.rating if record else None, scale),
        model_set=config if config.has_votes else None,
        question=config.question() if config.models[0].decision else None,
        template=record.prompt_template if record else None,
    )


def _checked_file(file: Path, judged: str) -> str:
    """The digest of the file, which must be the one that the metadata's figures are about."""
    try:
        found = sha256(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); copy the run's whole folder") from None
    if found != judged:
        raise UsageError(
            f"{file}: not the file that was judged (its sha256 differs from {METADATA}); copy it again, or tune again"
        )
    return judged


def _config_id(kind: str, scale: RatingScale, system: str, shots: Sequence[tuple[str, str]]) -> str:
    facts = [kind, scale.labels, scale.values, [answer_opening(label) for label in scale.labels], system, list(shots)]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
