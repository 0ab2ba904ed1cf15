"""From rated train rows to model_set_config.json, and from the file to chat messages."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelSetConfigError
from ..files import write_json
from ..ratings.scale import RatingScale, answer_text
from ..ratings.schema import Rating, Split
from .schema import VERSION, output_schema, validate
from .select import select, unconflicted
from .system_prompt import definition, synonyms, system_prompt
from .terms import summary_text
from .training_signals import NOTHING, TrainingSignals

SHOTS = 8
BOUNDARIES = 2  # of the shots, where there is material for them
ANSWER_TOKENS = 256
TURN_TOKENS = 16  # room for what a chat template puts around one message
SMALLEST_CONTEXT = 2048
BYTES_PER_TOKEN = 3.0  # on the safe side for English notes, where four are usual
LONGER_ROWS = 1.1  # a row that was not counted may be denser in tokens than the longest one that was


@dataclass(frozen=True)
class Recipe:
    """One way to ask: how many examples, how many of them boundary cases, which ones, and with the summary or not."""

    name: str
    shots: int = SHOTS
    boundaries: int = BOUNDARIES
    variant: int = 0
    summary: bool = True


def recipes(labels: int, *, redact: bool = False) -> tuple[Recipe, ...]:
    """What is worth trying, the best guess first; only what needs no examples and no words for a redacted set."""
    zero = Recipe("zero-shot", 0, 0, 0, False)
    if redact:
        return (zero,)
    return (
        Recipe("examples and summary"),
        Recipe("zero-shot with summary", 0, 0),
        zero,
        Recipe("one example of each label", labels, 0, summary=False),
        Recipe("other examples", SHOTS, BOUNDARIES, 1, False),
        Recipe("many examples", 2 * SHOTS, 2 * BOUNDARIES, 2, True),
    )


def build(
    model_name: str,
    split_or_train: Split | Sequence[Rating],
    scale: RatingScale,
    topics: str,
    *,
    created_at: str,
    seed: int,
    system: str | None = None,
    shots: int = SHOTS,
    context: int = 4096,
    count_tokens: Callable[[str], int] | None = None,
    recipe: Recipe | None = None,
    material: TrainingSignals = NOTHING,
    redact: bool = False,
    digest: str | None = None,
) -> dict[str, Any]:
    """The content of model_set_config.json.

    Examples come from train rows only: of a Split its `train`, else the rows given must be train rows.
    `system` stands in place of our own system prompt. `context` is the model's, in tokens: what does not fit beside
    the longest row (a Split's other parts give no more than this length) is left out. `count_tokens` counts a text
    as the model does; without it tokens are reckoned from bytes. No text of a test row is counted. `recipe` says how
    many examples there are (else `shots`), `material` is what boundary cases and summary come from, `digest` the sha256
    of the model's file. A redacted set holds no example and no word of a row. `created_at` is ISO 8601. Whatever the
    rows could not give is listed under "missing". Raises ModelSetConfigError where no valid configuration can be made.
    """
    parts = split_or_train.parts() if isinstance(split_or_train, Split) else {"train": tuple(split_or_train)}
    recipe = Recipe("zero-shot", 0, 0, 0, False) if redact else recipe or Recipe("examples", shots)
    wanted = select(
        parts["train"],
        scale,
        recipe.shots,
        seed=seed + recipe.variant,
        variant=recipe.variant,
        boundaries=material.boundaries[: recipe.boundaries],
    )
    summary = None if redact or material.summary is None else {"shown": recipe.summary, **material.summary}
    if system is None:
        system = system_prompt(scale, topics, rationales=not wanted or any(row.rationale.strip() for row in wanted))
    prompt = system + (summary_text(summary) if summary is not None and recipe.summary else "")
    count = count_tokens or _reckon
    chosen, num_ctx, cut = _fit(wanted, prompt, _longest(parts, count), context, count)
    config = {
        **_about(model_name, scale, topics, created_at, sum(map(len, parts.values()))),
        "system_prompt": prompt,
        "few_shot_examples": [_example(row) for row in chosen],
        "decoding": _decoding(seed, num_ctx),
        "contains_patient_text": not redact,
        "redacted": redact,
        "example_ids": [row.id for row in chosen],
        "missing": [*_missing(parts["train"], chosen, scale, recipe.shots), *cut],
        "rule": {"kind": "single", "members": [model_name], "reason": "nothing was judged"},
        "models": [unjudged(model_name, digest)],
        "context_summary": summary,
        "screening": None,
        "tfidf": None,
    }
    return validate(config, source="model set").model_dump(mode="json")


def _decoding(seed: int, num_ctx: int) -> dict[str, Any]:
    return {
        "temperature": 0.0,
        "seed": seed,
        "num_ctx": num_ctx,
        "num_predict": ANSWER_TOKENS,
        "truncate": False,
    }


def _about(model_name: str, scale: RatingScale, topics: str, created_at: str, rows: int) -> dict[str, Any]:
    """What hangs on no choice."""
    return {
        "version": VERSION,
        "base_model": model_name,
        "target_topics": topics,
        "rating_mapping": dict(zip(scale.labels, scale.values, strict=True)),
        "created_at": created_at,
        "dataset_size": rows,
        "rating_schema": _rating_schema(scale),
        "output_schema": output_schema(list(scale.labels)),
    }


def unjudged(name: str, digest: str | None) -> dict[str, Any]:
    """The entry in "models" of a model that nothing is known of; it rates alone."""
    unknown = ("calibration", "dev_agreement", "seconds_per_record", "prompt_tokens", "asking")
    return {"name": name, "digest": digest, "weight": 1.0, **dict.fromkeys(unknown)}


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same set without a word of a row: the base model alone, asked without examples, and not judged as such."""
    content = validate(config).model_dump(mode="json")
    summary, base = content["context_summary"], content["models"][0]
    prompt = content["system_prompt"]
    if summary is not None and summary["shown"]:
        prompt = prompt.removesuffix(summary_text(summary))
    content |= {
        "system_prompt": prompt,
        "few_shot_examples": [],
        "example_ids": [],
        "contains_patient_text": False,
        "redacted": True,
        "rule": {"kind": "single", "members": [base["name"]], "reason": "redacted; not judged without its examples"},
        "models": [unjudged(base["name"], base["digest"])],
        "context_summary": None,
        "screening": None,
        "tfidf": None,
    }
    return validate(content).model_dump(mode="json")


def write(path: Path, config: Mapping[str, Any]) -> None:
    """Check and write the file, whole or not at all, mode 0600. Raises ModelSetConfigError and OutputError."""
    write_json(path, validate(config, source=Path(path).name).model_dump(mode="json"))


def read(path: Path) -> dict[str, Any]:
    """The content of a file, checked. Raises ModelSetConfigError, one line with the file's name."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelSetConfigError(f"{path}: cannot be read as JSON ({type(error).__name__}); check the file") from None
    return validate(content, source=str(path)).model_dump(mode="json")


def messages(config: Mapping[str, Any], prompt: str, model: str | None = None) -> list[dict[str, str]]:
    """Chat messages that ask a model of the set (None: the base) for a new record, ending with the user's turn.

    What never changes comes first, so that a server's prompt cache holds it for every record.
    Raises ModelSetConfigError where no model is named and another one, or more than the base model, rates.
    """
    if model is None and config["rule"]["members"] != [config["base_model"]]:
        rating = " and ".join(config["rule"]["members"])
        raise ModelSetConfigError(f"this model set rates by {rating}, not by {config['base_model']} alone")
    own = next((each["asking"] for each in config["models"] if each["name"] == model), None) or config
    turns = [("system", own["system_prompt"])]
    for example in own["few_shot_examples"]:
        turns += [("user", example["prompt"]), ("assistant", example["answer"])]
    return [{"role": role, "content": content} for role, content in (*turns, ("user", prompt))]


def _example(row: Rating) -> dict[str, Any]:
    return {
        "id": row.id,
        "prompt": row.prompt,
        "answer": answer_text(row.label, row.rationale),
        "label": row.label,
        "rating": row.value,
    }


def _rating_schema(scale: RatingScale) -> list[dict[str, Any]]:
    return [
        {"label": label, "value": value, "definition": definition(scale, value), "synonyms": synonyms(scale, value)}
        for label, value in zip(scale.labels, scale.values, strict=True)
    ]


def _reckon(text: str) -> int:
    return round(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN) + 1


def _longest(parts: Mapping[str, Sequence[Rating]], count: Callable[[str], int]) -> int:
    """Tokens that the longest row may take; a test row is only measured, its text goes to no engine."""
    seen = max((row.prompt for name, rows in parts.items() if name != "test" for row in rows), key=len, default="")
    unseen = max((len(row.prompt) for row in parts.get("test", ())), default=0)
    tokens = count(seen)
    return tokens if unseen <= len(seen) else math.ceil(tokens * LONGER_ROWS * unseen / max(1, len(seen)))


def _fit(
    wanted: Sequence[Rating], system: str, longest: int, context: int, count: Callable[[str], int]
) -> tuple[list[Rating], int, list[str]]:
    """The first examples that fit the context, the context to ask for, and what had to be left out."""
    room = context - count(system) - longest - 2 * TURN_TOKENS - ANSWER_TOKENS
    notes = [] if room >= 0 else [f"room for the longest rows: they do not fit the model's context of {context} tokens"]
    chosen: list[Rating] = []
    for row in wanted:
        needed = count(row.prompt) + count(answer_text(row.label, row.rationale)) + 2 * TURN_TOKENS
        if needed > room:
            notes.append(
                f"room for {len(wanted) - len(chosen)} of {len(wanted)} examples: "
                f"the model's context holds {context} tokens"
            )
            break
        room -= needed
        chosen.append(row)
    num_ctx = SMALLEST_CONTEXT
    while num_ctx < context - room:
        num_ctx *= 2
    return chosen, min(num_ctx, context), notes


def _missing(train: Sequence[Rating], chosen: Sequence[Rating], scale: RatingScale, shots: int) -> list[str]:
    """For each label what could not be had of an even share of the examples."""
    notes = []
    rated, usable, used = (Counter(row.value for row in rows) for rows in (train, unconflicted(train), chosen))
    share = max(1, shots // len(scale.labels)) if shots > 0 else 0
    for label, value in zip(scale.labels, scale.values, strict=True):
        if not rated[value]:
            notes.append(f'rows rated "{label}": there is none among the train rows')
        elif not usable[value]:
            notes.append(f'an example of "{label}": its train rows are empty or their text was rated in two ways')
        elif usable[value] < share:
            notes.append(f'examples of "{label}": {usable[value]} in place of {share}, there are no more train rows')
        elif share and not used[value]:
            notes.append(f'an example of "{label}": the other labels took the {len(chosen)} that there was room for')
    return notes
