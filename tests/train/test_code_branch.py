"""The code branch: its tokens, its loss and gradient, and the same scores from our decoder and llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import families
import tiny
from expertune.config import Config
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, Tunable, load
from expertune.predict.score import rate_examples
from expertune.ratings.codes import CodeBranch, LabelScoring
from expertune.ratings.examples import chat_messages
from expertune.ratings.scale import answer_text, make_scale
from expertune.ratings.schema import Example
from expertune.train.batches import Batch, training_batch
from expertune.train.class_balance import Teacher, balance
from expertune.train.code_branch import CodeTokens, choose_branch, code_tokens
from expertune.train.cuda_graph import GraphedStep
from expertune.train.encode import Candidates, Row, candidates, encode
from expertune.train.evaluate import evaluate
from expertune.train.loop import Trainer, TrainingData
from expertune.train.loss import log_probabilities, weighted_loss
from expertune.train.rows import training_rows

CODE = CodeTokens((50, 51), (61, 62, 63))
WORDS_ALONE = Candidates((30, 31), ((41, 42, 7), (43, 7), (41, 45, 7)))
WITH_CODES = replace(WORDS_ALONE, code=CODE)
WEIGHTS = (1.0, 2.0, 0.5)
CONFIG = Config(rank=4, alpha=8.0, code_weight=0.25)
SOFT = {"r0": (0.2, 0.5, 0.3)}
SCALE = make_scale({"Match": 1, "Does Not Match": 0, "Unknown": -1})


def tunable_of(folder: Path, family: str = "llama") -> Tunable:
    path = families.make(folder / "tiny.gguf", families.FAMILIES[family])
    tunable = load(GGUFFile(path), CONFIG, Placement(torch.device("cpu"), torch.float32, True, 1))
    draw = torch.Generator().manual_seed(3)
    tunable.lora.values_P.add_(0.05 * torch.randn(tunable.lora.values_P.shape, generator=draw))
    tunable.lora.refresh()
    return tunable


def rows_of(count: int = 4) -> list[Row]:
    draw = np.random.default_rng(0)
    found = []
    for at in range(count):
        prompt = (5, 6, 7, 8, 9, *map(int, draw.integers(70, 200, 3 + at)))
        answer = (*WORDS_ALONE.shared, *WORDS_ALONE.own[at % 3], 9)
        found.append(Row(f"r{at}", at % 3, prompt, answer, (1.0,) * len(answer)))
    return found


def gradient(tunable: Tunable, batch: Batch) -> tuple[float, torch.Tensor]:
    tunable.lora.gradients_P.zero_()
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
    loss = weighted_loss(tunable.decoder, hidden_ND, batch.targets_N, batch.weights_N, batch.decisions)
    loss.backward()
    return float(loss.detach()), tunable.lora.gradients_P.clone()


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen35", "lfm2"])
def test_loss_and_gradient_are_those_of_two_sequences(tmp_path: Path, family: str) -> None:
    """The words alone, and each prompt again with the lead: what the packs share must not matter."""
    tunable, rows = tunable_of(tmp_path, family), rows_of()
    both = balance(CONFIG, WITH_CODES, rows, Teacher(SOFT)).decisions
    found = training_batch(rows, WEIGHTS, both, code=CODE, code_weight=0.25)
    loss, slope_P = gradient(tunable, found)
    words = training_batch(rows, WEIGHTS, balance(CONFIG, WORDS_ALONE, rows, Teacher(SOFT)).decisions)
    expected, expected_P = gradient(tunable, words)
    for row in rows:
        alone = Row(row.id, row.label, (*row.prompt, *CODE.lead), (CODE.codes[row.label],), (0.25,))
        (decision,) = (each for each in both[row.id] if each.tokens == CODE.codes)
        batch = training_batch([alone], WEIGHTS, {row.id: [replace(decision, place=0)]})
        more, more_P = gradient(tunable, batch)
        expected, expected_P = expected + more, expected_P + more_P
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (slope_P - expected_P).abs().max() < 1e-4 * expected_P.abs().max()
    lead_tokens = sum(1 for segment in found.pack.segments if segment.stop - segment.start == len(CODE.lead))
    assert lead_tokens == len(rows)  # the branch costs its lead: the prompt is not repeated


def test_rows_of_one_length_have_the_same_loss_and_gradient(tmp_path: Path) -> None:
    tunable, rows = tunable_of(tmp_path), rows_of()
    decisions = balance(CONFIG, WITH_CODES, rows, Teacher(SOFT)).decisions
    expected, expected_P = gradient(tunable, training_batch(rows, WEIGHTS, decisions, code=CODE, code_weight=0.25))
    tunable.lora.gradients_P.zero_()
    found = GraphedStep(tunable).backward(training_rows(rows, WEIGHTS, decisions, code=CODE, code_weight=0.25), 1.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(tunable.lora.gradients_P, expected_P, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("fills_rows", [False, True])
def test_an_evaluation_scores_the_codes_and_leaves_the_words_alone(tmp_path: Path, fills_rows: bool) -> None:
    tunable, rows = tunable_of(tmp_path), rows_of(7)
    words = evaluate(tunable, rows, WORDS_ALONE, batch_size=3)
    tunable.decoder.fills_rows = fills_rows
    found = evaluate(tunable, rows, WITH_CODES, batch_size=3)
    torch.testing.assert_close(found.log_probabilities_RK, words.log_probabilities_RK, rtol=1e-4, atol=1e-4)
    assert words.code_log_RK is None and found.code_log_RK is not None

    def log_of(prompt: tuple[int, ...], code: int) -> float:
        batch = training_batch([Row("x", 0, (*prompt, *CODE.lead), (code,), (1.0,))], (1.0,))
        with torch.no_grad():
            hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N)
            return float(log_probabilities(tunable.decoder, hidden_ND, batch.targets_N)[0])

    scores_RK = torch.tensor([[log_of(row.prompt, code) for code in CODE.codes] for row in rows])
    torch.testing.assert_close(found.code_log_RK, torch.log_softmax(scores_RK, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_training_learns_both_answers(tmp_path: Path) -> None:
    tunable, rows = tunable_of(tmp_path), rows_of(6)
    config = Config(rank=4, alpha=8.0, epochs=30, batch_size=3, learning_rate=1e-2, code_weight=0.5)
    trainer = Trainer(tunable, TrainingData(rows, rows, WITH_CODES), config)
    list(trainer.run())
    result, truth = trainer.result, torch.tensor([row.label for row in rows])
    assert result.best_code_log_RK is not None
    assert (result.best_log_RK.argmax(-1) == truth).all() and (result.best_code_log_RK.argmax(-1) == truth).all()


def examples(branch: CodeBranch | None) -> list[Example]:
    texts = ["cough and fever", "ankle injury after a fall", "chest pain"]
    found = []
    for at, text in enumerate(texts):
        label, value = SCALE.labels[at], SCALE.values[at]
        messages = chat_messages(text, SCALE, "respiratory infections", branch)
        found.append(Example(str(at), "dev", messages, answer_text(label, "why"), label, value))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("vocab", ["bpe", "spm"])
def test_our_decoder_and_llama_cpp_score_the_codes_alike(tmp_path: Path, vocab: str) -> None:
    path = tiny.make(tmp_path / "tiny.gguf", vocab=vocab, qtype="F32")
    with LlamaCppEngine(path, context=512, threads=1) as engine:
        branch = choose_branch(engine, engine.render(examples(None)[0].messages), 3)
        assert branch is not None
        shown = examples(branch)
        rows, ask = encode(engine, shown, SCALE), candidates(engine, shown[0], SCALE, branch)
        ways = {by: rate_examples(engine, shown, SCALE, scoring=LabelScoring(by, branch)) for by in WAYS}
    with GGUFFile(path) as file:
        tunable = load(file, CONFIG, Placement(torch.device("cpu"), torch.float32, True, 1))
        found = evaluate(tunable, rows, ask, batch_size=3)
    assert found.code_log_RK is not None
    both_RK = torch.log_softmax((found.log_probabilities_RK + found.code_log_RK) / 2, -1)
    for by, log_RK in zip(WAYS, (found.log_probabilities_RK, found.code_log_RK, both_RK), strict=True):
        served_RK = np.array([each.probabilities for each in ways[by]])
        assert np.abs(served_RK - log_RK.exp().numpy()).max() < 2e-3, by
    assert found.code_log_RK.exp().std() > 0.01


WAYS = ("words", "code", "both")


def test_the_codes_are_listed_in_the_system_text() -> None:
    branch = CodeBranch("Code:", (" A", " B", " C"))
    system = chat_messages("x", SCALE, "t", branch)[0]["content"]
    assert (
        system == chat_messages("x", SCALE, "t")[0]["content"] + " Codes: A = Match; B = Does Not Match; C = Unknown."
    )
    assert branch.answers() == ("Code: A", "Code: B", "Code: C")


class Letters:
    """A tokenizer of characters in which some texts are one token, as an engine shows it."""

    def __init__(self, *joined: str) -> None:
        self.joined = joined

    def tokenize(self, prompt: str) -> list[int]:
        tokens: list[int] = []
        while prompt:
            piece = next((each for each in self.joined if prompt.startswith(each)), prompt[0])
            tokens.append(hash(piece))
            prompt = prompt[len(piece) :]
        return tokens

    def continuation(self, prompt: str, answer: str) -> list[int]:
        return self.tokenize(answer)


@pytest.mark.parametrize(
    ("joined", "expected"),
    [
        ((), CodeBranch('{"code": "', ("A", "B"))),
        (('"A',), CodeBranch("Code:\n", ("A", "B"))),  # the quote swallows A, so its codes are not the bare letters
        (('"A', "\nA", "B:"), CodeBranch('{"code": "', ("B", "C"))),
        ((" A", " B", '"A', '"B', "\nA", "\nB"), CodeBranch('{"code": "', ("C", "D"))),
    ],
)
def test_a_code_that_is_not_alone_a_token_is_passed_over(joined: tuple[str, ...], expected: CodeBranch) -> None:
    assert choose_branch(Letters(*joined), "", 2) == expected  # pyright: ignore[reportArgumentType]
    found = code_tokens(Letters(*joined), "", expected)  # pyright: ignore[reportArgumentType]
    assert len(set(found.codes)) == 2
