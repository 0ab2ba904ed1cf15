"""A model that has memorised its rows generates them after the rendered prompt and ends its turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import talkers
from expertune.config import Config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.gguf.write import write_adapter
from expertune.model.load import Placement, Tunable, load
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import answer_text, make_scale
from expertune.ratings.schema import Example
from expertune.train.encode import Row, candidates, encode
from expertune.train.events import StepEvent
from expertune.train.loop import Trainer, TrainingData

SCALE = make_scale({"Match": 1, "Does Not Match": 0})
LEARNT = 0.02  # nats a token: each is then by far the likeliest
CONFIG = Config(
    rank=16,
    alpha=32.0,
    epochs=100,
    batch_size=2,
    learning_rate=5e-3,
    evals_per_epoch=1,
    early_stopping_patience=1000,
    class_weight="none",
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def example(label: str, prompt: str, reason: str) -> Example:
    messages = chat_messages(prompt, SCALE, "")
    value = dict(zip(SCALE.labels, SCALE.values, strict=True))[label]
    return Example(prompt, "train", messages, answer_text(label, reason), label, value)


EXAMPLES = [
    example("Match", "cough and fever " * 4, "cough and fever"),
    example("Does Not Match", "ankle injury " * 4, "an injury </think>"),
]


@pytest.mark.parametrize(
    ("template", "eos", "ends"),
    [
        (talkers.template("qwen3"), "<|im_end|>", ()),  # thinks, switched off
        (talkers.template("deepseek-r1-distill"), "<｜end▁of▁sentence｜>", ()),  # opens a thought, closed by us
        (talkers.template("gpt-oss"), "<|return|>", ("<|call|>",)),  # answers in a channel
        (GEMMA, "<eos>", ("<end_of_turn>",)),  # no system role
    ],
    ids=["qwen3", "deepseek-r1", "gpt-oss", "gemma"],
)
def test_the_answer_and_the_end_of_the_turn_are_learnt(tmp_path: Path, template: str, eos: str, ends: tuple[str, ...]):
    base = talkers.make(tmp_path / "base.gguf", template, eos=eos, ends=ends)
    with LlamaCppEngine(base, threads=1) as engine:
        ask = candidates(engine, EXAMPLES[0], SCALE)
        rows = encode(engine, EXAMPLES, SCALE)
        assert [row.answer[-1:] for row in rows] == [tuple(engine.turn_end())] * 2
    file = GGUFFile(base)
    tunable = load(file, CONFIG, Placement(torch.device("cpu"), torch.float32, True, 1))
    learn(Trainer(tunable, TrainingData(rows, rows, ask), CONFIG))
    said = speak(file, tunable, tmp_path / "adapter.gguf", rows)
    assert said == [(each.target, True) for each in EXAMPLES]


def learn(trainer: Trainer) -> None:
    for event in trainer.run():
        if isinstance(event, StepEvent) and event.loss < LEARNT:
            return
    raise AssertionError("two rows were not learnt by heart")


def speak(file: GGUFFile, tunable: Tunable, adapter: Path, rows: list[Row]) -> list[tuple[str, bool]]:
    """Freely generated answers of the tuned model, and whether each ended right after the row's last token."""
    lora = tunable.lora
    write_adapter(
        adapter, architecture=tunable.model_config.family, alpha=lora.alpha, tensors=lora.pairs(), metadata={}
    )
    with LlamaCppEngine(file.path, adapter=adapter, threads=1) as engine:
        answers = [engine.generate(engine.render(each.messages), max_tokens=200) for each in EXAMPLES]
    assert [answer.answer_tokens for answer in answers] == [len(row.answer) for row in rows]
    return [(answer.text, answer.finished) for answer in answers]
