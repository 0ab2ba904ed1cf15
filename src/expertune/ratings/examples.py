"""Rating → chat messages and the answer that the model should give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .scale import RatingScale, answer_text
from .schema import Example, Rating, Split


def system_prompt(scale: RatingScale, topics: str) -> str:
    """The short task for every row: the topics and the form of the answer, with all labels."""
    labels = " or ".join(json.dumps(label, ensure_ascii=False) for label in scale.labels)
    topics = " ".join(topics.split())
    task = f"Rate the record for: {topics}." if topics else "Rate the record."
    return f'{task} Answer in JSON: {{"rating": {labels}, "rationale": "why"}}'


def chat_messages(prompt: str, scale: RatingScale, topics: str) -> tuple[dict[str, str], ...]:
    """What the model sees of a row, in training and in use; the constant part first, so that its prefix is cached."""
    return {"role": "system", "content": system_prompt(scale, topics)}, {"role": "user", "content": prompt}


def make_examples(split: Split, scale: RatingScale, topics: str) -> list[Example]:
    """All rows of the split, train first, each with the name of its part."""
    return [_example(rating, part, scale, topics) for part, ratings in split.parts().items() for rating in ratings]


def _example(rating: Rating, part: str, scale: RatingScale, topics: str) -> Example:
    return Example(
        id=rating.id,
        split=part,
        messages=chat_messages(rating.prompt, scale, topics),
        target=answer_text(rating.label, rating.rationale),
        label=rating.label,
        value=rating.value,
    )


def select_part(examples: Sequence[Example], part: str) -> list[Example]:
    return [example for example in examples if example.split == part]


def chat_record(example: Example) -> dict[str, Any]:
    """An example with its answer, in the chat form that other trainers read."""
    return {
        "id": example.id,
        "split": example.split,
        "messages": [*map(dict, example.messages), {"role": "assistant", "content": example.target}],
        "rating": example.value,
        "label": example.label,
    }


def training_lines(examples: Iterable[Example]) -> Iterator[str]:
    """The lines of training_data.jsonl, for the training rows only: whoever trains on the file sees no other row."""
    for example in examples:
        if example.split == "train":
            yield json.dumps(chat_record(example), ensure_ascii=False)
