"""Build model_set_config.json from rated train rows: the prompt, its few-shot examples and the context they need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import outputs
from ..config import Config
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale, answer_text
from ..ratings.schema import Rating, Split
from .config import VERSION, ModelSetConfig, invalid_as_config_error, output_schema, unjudged
from .records import Decoding, FewShotExample, RatingLabel, Rule
from .select import select, unconflicted
from .system_prompt import definition, synonyms, system_prompt
from .terms import summary_text
from .training_signals import NOTHING, TrainingSignals, gather
from .word_pool import FittedWords

SHOTS = 8
BOUNDARIES = 2  # of the shots, where there is material for them
ANSWER_TOKENS = 256
TURN_TOKENS = 16  # room for what a chat template puts around one message
SMALLEST_CONTEXT = 2048
BYTES_PER_TOKEN = 3.0  # on the safe side for English notes, where four are usual
LONGER_ROWS = 1.1  # a row that was not counted may be denser in tokens than the longest one that was


@dataclass(frozen=True)
class Recipe:
    """One way to prompt: the number of examples, boundary cases among them, which ones, and the summary or not."""

    name: str
    shots: int = SHOTS
    boundaries: int = BOUNDARIES
    variant: int = 0
    summary: bool = True


DECISION = Recipe("decision template", 0, 0, 0, False)  # the prompt is in the model's file


def recipes(labels: int, *, redact: bool = False) -> tuple[Recipe, ...]:
    """The recipes worth trying, the best guess first; for a redacted set only the one without examples and words."""
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


def estimate_tokens(text: str) -> int:
    """Tokens of a text by its bytes, for a model that is not at hand."""
    return round(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN) + 1


@dataclass(frozen=True)
class BuildInputs:
    """All that a set is built from but its recipe. Examples come from the split's train rows only.

    `digest` is the sha256 of the model's file, `created_at` is ISO 8601. `signals` give boundary cases and summary: a
    redacted set takes none. `context` is the model's, in tokens; `count_tokens` counts a text as the model does.
    `decides`: the model is a decision model.
    """

    model_name: str
    split: Split
    scale: RatingScale
    topics: str
    created_at: str
    seed: int
    digest: str | None = None
    signals: TrainingSignals = NOTHING
    redact: bool = False
    decides: bool = False
    context: int = 4096
    count_tokens: Callable[[str], int] = estimate_tokens


def inputs_of(model_name: str, dataset: Dataset, config: Config, words: FittedWords | None = None) -> BuildInputs:
    """Inputs from a dataset, with the signals of its train rows; `words` as in `gather`."""
    split, scale, topics = dataset.split, dataset.scale, dataset.topics
    signals = NOTHING if config.redact else gather(split, scale, seed=config.seed, words=words)
    return BuildInputs(
        model_name, split, scale, topics, outputs.now(), config.seed, signals=signals, redact=config.redact
    )


@invalid_as_config_error()
def build(inputs: BuildInputs, recipe: Recipe) -> ModelSetConfig:
    """The set with the base model as its only member, not judged.

    What does not fit the context next to the longest row of any part is left out, and so listed under "missing" as is
    whatever the rows could not give. Raises ModelSetConfigError where no valid configuration can be made.
    """
    scale, train, signals = inputs.scale, inputs.split.train, inputs.signals
    wanted = select(
        train,
        scale,
        recipe.shots,
        seed=inputs.seed + recipe.variant,
        variant=recipe.variant,
        boundaries=signals.boundaries[: recipe.boundaries],
    )
    summary = signals.summary and signals.summary.model_copy(update={"shown": recipe.summary})
    prompt = system_prompt(scale, inputs.topics, rationales=not wanted or any(row.rationale.strip() for row in wanted))
    prompt += summary_text(summary) if summary and summary.shown else ""
    chosen, num_ctx, cut = _fit(wanted, prompt, inputs)
    return ModelSetConfig(
        **_facts(inputs),
        system_prompt=prompt,
        few_shot_examples=tuple(map(_example, chosen)),
        decoding=Decoding(
            temperature=0.0, seed=inputs.seed, num_ctx=num_ctx, num_predict=ANSWER_TOKENS, truncate=False
        ),
        example_ids=tuple(row.id for row in chosen),
        missing=(*_missing(train, chosen, scale, recipe.shots), *cut),
        context_summary=summary,
    )


def _facts(inputs: BuildInputs) -> dict[str, Any]:
    scale = inputs.scale
    return {
        "version": VERSION,
        "base_model": inputs.model_name,
        "target_topics": inputs.topics,
        "rating_mapping": dict(zip(scale.labels, scale.values, strict=True)),
        "created_at": inputs.created_at,
        "dataset_size": sum(map(len, inputs.split.parts().values())),
        "rating_schema": tuple(
            RatingLabel(
                label=label, value=value, definition=definition(scale, value), synonyms=tuple(synonyms(scale, value))
            )
            for label, value in zip(scale.labels, scale.values, strict=True)
        ),
        "output_schema": output_schema(list(scale.labels)),
        "contains_patient_text": not inputs.redact,
        "redacted": inputs.redact,
        "rule": Rule(kind="single", members=(inputs.model_name,), reason="nothing was judged"),
        "models": (unjudged(inputs.model_name, inputs.digest, decision=inputs.decides),),
        "screening": None,
        "tfidf": None,
    }


def _example(row: Rating) -> FewShotExample:
    answer = answer_text(row.label, row.rationale)
    return FewShotExample(id=row.id, prompt=row.prompt, answer=answer, label=row.label, rating=row.value)


def _longest(split: Split, count: Callable[[str], int]) -> int:
    """Tokens that the longest row may take; of a test row only the length is used, its text goes to no engine."""
    seen = max((row.prompt for row in (*split.train, *split.dev)), key=len, default="")
    unseen = max((len(row.prompt) for row in split.test), default=0)
    tokens = count(seen)
    return tokens if unseen <= len(seen) else math.ceil(tokens * LONGER_ROWS * unseen / max(1, len(seen)))


def _fit(wanted: Sequence[Rating], system: str, inputs: BuildInputs) -> tuple[list[Rating], int, list[str]]:
    """The first examples that fit the context, the context to request, and what had to be left out."""
    context, count = inputs.context, inputs.count_tokens
    room = context - count(system) - _longest(inputs.split, count) - 2 * TURN_TOKENS - ANSWER_TOKENS
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
    """For each label what is missing of an even share of the examples."""
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
