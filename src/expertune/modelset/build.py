"""From rated train rows to model_set_config.json, and from the file to chat messages."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ModelSetConfigError
from ..files import write_json
from ..ratings.scale import RatingScale, answer_text
from ..ratings.schema import Rating, Split
from .instruct import definition, synonyms, system_prompt
from .schema import VERSION, output_schema, validate
from .select import select, unconflicted

SHOTS = 8
ANSWER_TOKENS = 256
TURN_TOKENS = 16  # room for what a chat template puts around one message
SMALLEST_CONTEXT = 2048
BYTES_PER_TOKEN = 3.0  # on the safe side for English notes, where four are usual


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
) -> dict[str, Any]:
    """The content of model_set_config.json.

    Examples come from train rows only: of a Split its `train`, else the rows given must be train rows.
    `system` stands in place of our own system prompt. `context` is the model's, in tokens: what does not fit beside
    the longest row (a Split's other parts give no more than this length) is left out. `count_tokens` counts a text
    as the model does; without it tokens are reckoned from bytes. `created_at` is ISO 8601. Whatever the rows could
    not give is listed under "missing". Raises ModelSetConfigError where no valid configuration can be made.
    """
    train = split_or_train.train if isinstance(split_or_train, Split) else tuple(split_or_train)
    parts = split_or_train.parts().values() if isinstance(split_or_train, Split) else (train,)
    longest = max((row.prompt for rows in parts for row in rows), key=len, default="")
    wanted = select(train, scale, shots, seed=seed)
    reasons = not wanted or any(row.rationale.strip() for row in wanted)
    prompt = system or system_prompt(scale, topics, rationales=reasons)
    chosen, num_ctx, cut = _fit(wanted, prompt, longest, context, count_tokens or _reckon)
    config = {
        "version": VERSION,
        "base_model": model_name,
        "system_prompt": prompt,
        "few_shot_examples": [_example(row) for row in chosen],
        "target_topics": topics,
        "rating_mapping": dict(zip(scale.labels, scale.values, strict=True)),
        "created_at": created_at,
        "dataset_size": sum(map(len, parts)),
        "rating_schema": _rating_schema(scale),
        "output_schema": output_schema(list(scale.labels)),
        "decoding": {
            "temperature": 0.0,
            "seed": seed,
            "num_ctx": num_ctx,
            "num_predict": ANSWER_TOKENS,
            "truncate": False,
        },
        "contains_patient_text": True,
        "example_ids": [row.id for row in chosen],
        "missing": [*_missing(train, chosen, scale, shots), *cut],
    }
    return validate(config, source="model set").model_dump(mode="json")


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


def messages(config: Mapping[str, Any], prompt: str) -> list[dict[str, str]]:
    """Chat messages that ask for the rating of a new record, ending with the user's turn.

    What never changes comes first, so that a server's prompt cache holds it for every record.
    """
    turns = [("system", config["system_prompt"])]
    for example in config["few_shot_examples"]:
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


def _fit(
    wanted: Sequence[Rating], system: str, longest: str, context: int, count: Callable[[str], int]
) -> tuple[list[Rating], int, list[str]]:
    """The first examples that fit the context, the context to ask for, and what had to be left out."""
    room = context - count(system) - count(longest) - 2 * TURN_TOKENS - ANSWER_TOKENS
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
