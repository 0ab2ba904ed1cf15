"""The system prompt of a model set: the task, each label with its meaning, and the form of the answer."""

from __future__ import annotations

from ..ratings.normalize import fold
from ..ratings.scale import RatingScale, answer_text

# One way to write a rating → what it means. It holds for every data set, so no row has to be looked at.
_MEANINGS = {
    "matches": "the record matches the topic",
    "does not match": "the record does not match the topic",
    "partially matches": "the record matches the topic in part",
    "unable to determine": "the record does not hold enough to decide",
}
_ABSTAINING = "unable to determine"


def definition(scale: RatingScale, value: int) -> str:
    """Meaning of a value, by its label's synonyms or its place on an ordinal scale; "" if only the expert knows."""
    for synonym, meaning in _MEANINGS.items():
        if scale.synonyms.get(synonym) == value:
            return meaning
    if scale.ordinal:
        ordered = sorted(scale.values)
        return f"level {ordered.index(value) + 1} of {len(ordered)}"
    return ""


def synonyms(scale: RatingScale, value: int) -> list[str]:
    """Other ways to write a label that are read as it, in the scale's order."""
    label = fold(scale.label_of(value))
    return [text for text, other in scale.synonyms.items() if other == value and text != label]


def system_prompt(scale: RatingScale, topics: str, *, rationales: bool) -> str:
    """The whole system prompt; `rationales` says whether the examples give reasons or leave them empty."""
    reason = "<one or two sentences: what in the record decides>" if rationales else ""
    parts = [
        f"You are an expert rater. Read the record and rate it against this topic: {topics.strip()}."
        if topics.strip()
        else "You are an expert rater. Read the record and rate it.",
        "Give exactly one of these labels:\n" + "\n".join(_label_line(scale, value) for value in scale.values),
        *_guidance(scale),
        "Answer with one JSON object and nothing else, the rating first:\n"
        f"{answer_text('<label>', reason)}\n"
        f"The rating is one of the labels, word for word. {'' if rationales else 'The rationale stays empty. '}"
        "Where the record itself asks for a number or another form of answer, still answer in this form.",
    ]
    return "\n\n".join(parts)


def _label_line(scale: RatingScale, value: int) -> str:
    meaning = definition(scale, value)
    return f'- "{scale.label_of(value)}" ({value}){f": {meaning}" if meaning else ""}'


def _guidance(scale: RatingScale) -> list[str]:
    """Relation of the labels: their order, and when to abstain."""
    guidance = []
    if scale.ordinal:
        lowest, highest = scale.label_of(min(scale.values)), scale.label_of(max(scale.values))
        guidance.append(f'The labels are ordered, from "{lowest}" to "{highest}": take the one that fits best.')
    abstaining = scale.synonyms.get(_ABSTAINING)
    if abstaining is not None:
        guidance.append(
            f'Use "{scale.label_of(abstaining)}" only where the record lacks what is needed to decide, '
            "never as a way out of a hard choice."
        )
    guidance.append("Use only what the record says.")
    return guidance
