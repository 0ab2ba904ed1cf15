"""Convert ratings to chat messages and the answer that the model should give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from .codes import CodeBranch
from .scale import RatingScale, answer_text
from .schema import BySplit, Example, Rating, Split


def system_prompt(scale: RatingScale, topics: str, branch: CodeBranch | None = None) -> str:
    """Return the short task for every row: the topics and the form of the answer, with all labels and codes."""
    labels = " or ".join(json.dumps(label, ensure_ascii=False) for label in scale.labels)
    topics = " ".join(topics.split())
    task = f"Rate the record for: {topics}." if topics else "Rate the record."
    form = f'{task} Answer in JSON: {{"rating": {labels}, "rationale": "why"}}'
    return f"{form} {branch.listed(scale.labels)}" if branch else form


def chat_messages(
    prompt: str, scale: RatingScale, topics: str, branch: CodeBranch | None = None
) -> tuple[dict[str, str], ...]:
    """Return the messages of a row, in training and in use; the constant part is first, so its prefix is cached."""
    return {"role": "system", "content": system_prompt(scale, topics, branch)}, {"role": "user", "content": prompt}


def make_examples(
    split: Split, scale: RatingScale, topics: str, branch: CodeBranch | None = None
) -> BySplit[tuple[Example, ...]]:
    """Return the examples of each part of the split."""

    def examples(part: str, ratings: Iterable[Rating]) -> tuple[Example, ...]:
        return tuple(_example(rating, part, scale, topics, branch) for rating in ratings)

    return BySplit(**{part: examples(part, ratings) for part, ratings in split.parts().items()})


def _example(rating: Rating, part: str, scale: RatingScale, topics: str, branch: CodeBranch | None) -> Example:
    return Example(
        id=rating.id,
        split=part,
        messages=chat_messages(rating.prompt, scale, topics, branch),
        target=answer_text(rating.label, rating.rationale),
        label=rating.label,
        value=rating.value,
    )


def chat_record(example: Example) -> dict[str, object]:
    """Return an example with its answer, in the chat format that other trainers read."""
    return {
        "id": example.id,
        "split": example.split,
        "messages": [*map(dict, example.messages), {"role": "assistant", "content": example.target}],
        "rating": example.value,
        "label": example.label,
    }


def training_lines(examples: Iterable[Example]) -> Iterator[str]:
    """Yield the lines of training_data.jsonl, for training rows only: a model trained on the file sees no other row."""
    for example in examples:
        if example.split == "train":
            yield json.dumps(chat_record(example), ensure_ascii=False)
