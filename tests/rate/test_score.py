from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from expertune.engine.base import Generation, Scores
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.errors import EngineError
from expertune.predict.score import rate_examples, rate_pass, sample_of, softmax
from expertune.ratings.scale import answer_opening, make_scale
from expertune.ratings.schema import Example

SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})


class WordEngine:
    """An engine whose model is a rule: a label's log-probability is minus the distance of its length to a number
    in the prompt; its free answer is whatever the prompt says after "say "."""

    name, context = "words", 100

    def __init__(self, slots: int = 3) -> None:
        self.slots = slots
        self.scored: list[str] = []
        self.lock = threading.Lock()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)

    def tokenize(self, prompt: str) -> list[int]:
        return [len(word) for word in prompt.split()]

    def count_tokens(self, prompt: str) -> int:
        return len(self.tokenize(prompt))

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return self.tokenize(answer)

    def turn_end(self) -> list[int]:
        return [0]

    def score(self, prompt: str, answers: Sequence[str]) -> Scores:
        with self.lock:
            self.scored.append(prompt)
        size = int(prompt.split()[1])
        time.sleep(0.003 * (size % 3))  # later rows may end earlier
        if size == 99:
            raise EngineError("words: the engine stopped")
        return Scores(tuple(-math.inf if size == 98 else -abs(len(answer) - size) for answer in answers), size != 97)

    def generate(self, prompt: str, *, max_tokens: int = 256) -> Generation:
        said = prompt.partition("say ")[2].strip()
        text = said[:max_tokens]
        return Generation(text, len(self.tokenize(prompt)), len(text), text == said)

    def close(self) -> None:
        pass


def example(at: int, content: str) -> Example:
    return Example(f"r{at}", "test", ({"role": "user", "content": content},), "", "Match", 1)


def test_labels_probabilities_and_order() -> None:
    rows = [example(at, str(size)) for at, size in enumerate([34, 43, 36, 30, 41, 34, 37, 33])]
    seen: list[tuple[int, int]] = []
    found = rate_examples(WordEngine(), rows, SCALE, on_row=lambda done, total: seen.append((done, total)))
    assert [each.id for each in found] == [row.id for row in rows]
    assert [each.value for each in found] == [1, 0, -1, 1, 0, 1, -1, 1]
    assert [each.label for each in found[:3]] == ["Match", "Does Not Match", "Unknown"]
    assert seen == [(done, 8) for done in range(1, 9)]
    distances = [abs(len(f'{{"rating": "{label}", "rationale": "') - 34) for label in SCALE.labels]
    weights = [math.exp(-distance) for distance in distances]
    assert found[0].probabilities == pytest.approx([weight / sum(weights) for weight in weights])
    assert {(each.answer, each.answer_state, each.answer_value) for each in found} == {(None, None, None)}


def test_free_answers() -> None:
    said = ['{"rating": "Unknown", "rationale": "a"}', "Rating: 0, Rationale: b", "no idea", ""]
    rows = [example(at, f"33 say {text}") for at, text in enumerate(said)]
    found = rate_examples(WordEngine(), rows, SCALE, answered={row.id for row in rows})
    assert [each.answer for each in found] == said
    assert [each.answer_state for each in found] == ["rated", "rated", "unparsable", "unparsable"]
    assert [each.answer_value for each in found] == [-1, 0, None, None]
    assert {each.value for each in found} == {1}  # the label comes from the probabilities alone
    assert rate_examples(WordEngine(), rows[:1], SCALE, answered={rows[0].id}, max_tokens=5)[0].answer == '{"rat'


def test_free_answers_of_a_sample_only() -> None:
    rows = [example(at, "33 say no") for at in range(4)]
    found = rate_examples(WordEngine(), rows, SCALE, answered={rows[1].id, rows[2].id})
    assert [each.answer for each in found] == [None, "no", "no", None]


@pytest.mark.parametrize("slots", [1, 3])
def test_a_model_that_ends_none_of_its_first_answers_is_asked_for_no_more(slots: int) -> None:
    rows = [example(at, f"33 say {'x' * 200}") for at in range(9)]
    ids, seen = {row.id for row in rows[1:]}, list[int]()
    found = rate_examples(WordEngine(slots), rows, SCALE, answered=ids, on_row=lambda done, total: seen.append(done))
    assert [each.id for each in found] == [row.id for row in rows] and sorted(seen) == list(range(1, 10))
    assert [each.answer and len(each.answer) for each in found] == [None, *[160] * 5, *[None] * 3]
    rows[3] = example(3, "33 say no")
    found = rate_examples(WordEngine(slots), rows, SCALE, answered=ids)
    assert [each.answer and len(each.answer) for each in found] == [None, 160, 160, 2, *[160] * 5]


def test_a_sample_is_drawn_by_its_seed_in_the_order_of_the_records() -> None:
    rows = [example(at, "x") for at in range(30)]
    one, again, other = (sample_of(rows, 10, seed) for seed in (1, 1, 2))
    assert one == again != other and len({row.id for row in one}) == 10
    assert [rows.index(row) for row in one] == sorted(rows.index(row) for row in one)
    assert sample_of(rows, 50, 1) == rows and sample_of([], 50, 1) == []


def test_no_rows() -> None:
    assert rate_examples(WordEngine(), [], SCALE) == []
    assert rate_pass(WordEngine(), [], SCALE).prompt_tokens == 0


def test_pass() -> None:
    found = rate_pass(WordEngine(), [example(0, "33 two three"), example(1, "40")], SCALE)
    assert found.prompt_tokens == 4 + 2
    assert found.rows_per_second == pytest.approx(2 / found.seconds)
    assert [each.id for each in found.rated] == ["r0", "r1"]


def test_an_interrupt_begins_no_further_row() -> None:
    engine = WordEngine(slots=2)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rate_examples(engine, [example(at, "35") for at in range(200)], SCALE, on_row=stop)
    assert len(engine.scored) < 200
    assert not [each for each in threading.enumerate() if each.name.startswith("rate")]


def test_an_engine_error_ends_the_pass() -> None:
    engine = WordEngine(slots=1)
    with pytest.raises(EngineError, match="the engine stopped"):
        rate_examples(engine, [example(at, "99" if at == 2 else "35") for at in range(200)], SCALE)
    assert len(engine.scored) < 200


def test_no_probability_at_all() -> None:
    with pytest.raises(EngineError, match="row r0: words gave no probability"):
        rate_examples(WordEngine(), [example(0, "98")], SCALE)


@given(
    st.lists(st.floats(-1e5, 0) | st.just(-math.inf), min_size=1, max_size=6).filter(lambda s: max(s) > -math.inf),
    st.floats(-100, 100),
)
def test_softmax(scores: list[float], shift: float) -> None:
    shares = softmax(scores)
    assert sum(shares) == pytest.approx(1.0) and min(shares) >= 0
    assert softmax([score + shift for score in scores]) == pytest.approx(shares, abs=1e-9)
    assert shares[scores.index(max(scores))] == max(shares)


@pytest.mark.slow
def test_with_a_served_model(tmp_path: Path) -> None:
    """A real file in the embedded engine: probabilities are the engine's, and neither order nor slots change them."""
    rows = [
        example(at, f"Rate this record: {words}")
        for at, words in enumerate(
            ["cough and fever", "ankle injury, fall", "chest pain", "the record does not say", "shortness of breath"]
        )
    ]
    with LlamaCppEngine(tiny.make(tmp_path / "model.gguf"), slots=2, threads=1) as engine:
        timed = rate_pass(engine, rows, SCALE, answered={row.id for row in rows})
        backwards = rate_examples(engine, rows[::-1], SCALE)[::-1]
        prompts = [engine.render(row.messages) for row in rows]
        openings = [answer_opening(label) for label in SCALE.labels]
        scores = [engine.score(prompt, openings).log_probs for prompt in prompts]
        tokens = sum(len(engine.tokenize(prompt)) for prompt in prompts)
    assert [each.id for each in timed.rated] == [each.id for each in backwards] == [row.id for row in rows]
    for each, again, score in zip(timed.rated, backwards, scores, strict=True):
        assert each.probabilities == pytest.approx(softmax(score), abs=1e-3)
        assert again.probabilities == pytest.approx(each.probabilities, abs=1e-3)
        assert each.label == SCALE.labels[each.probabilities.index(max(each.probabilities))]
        # random weights write nothing that can be read, and that is never taken for a rating
        assert each.answer and (each.answer_state, each.answer_value) == ("unparsable", None)
    assert len({each.probabilities for each in timed.rated}) == len(rows)
    assert timed.prompt_tokens == tokens > 5 * len(rows)
    assert timed.seconds > 0 and timed.rows_per_second > 0
