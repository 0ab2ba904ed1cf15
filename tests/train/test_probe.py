"""The rate of a few blocks, carried over to all: the arithmetic with planted timings, and that it runs on families."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import families
import tiny
from expertune.config import Config
from expertune.engine.base_model import find_base
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.estimate import throughput as probes
from expertune.estimate.capability import TrainingThroughput
from expertune.estimate.job import Speeds, Work
from expertune.estimate.plan import REFERENCE_PLAN, Plan, planned
from expertune.estimate.run_time import Served, measured
from expertune.estimate.throughput import carried_over, probe, whole_blocks
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config
from expertune.model.load import load
from expertune.model.memory import RowShape
from expertune.ratings.codes import CodeBranch
from expertune.ratings.dataset import load_dataset
from expertune.train.batches import dev_batch, training_batch
from expertune.train.code_branch import choose_branch
from expertune.train.encode import Tokenized, candidates, encode_all, rows_by_part
from expertune.train.recipe import TrainingPlan
from expertune.train.rows import training_rows

VISITS = Path(__file__).resolve().parents[2] / "examples/formatted_dataset.csv"
SHORT = RowShape(prompt=24, answer=8, longest=40, shared=6)
RATE = TrainingThroughput(100.0, 200.0, 0.0, "cpu", "fp32", 1, "cached", False)


def test_blocks_are_carried_over_by_their_work():
    work = [1.0] * 10
    assert carried_over([1, 4], [2.0, 5.0], work) == pytest.approx(2.0 + 9 * 1.0)
    uneven = [1.0, 1.0, 2.0, 1.0, 2.0, 7.0]  # the last one is an end, in the first timing too
    assert carried_over([1, 4], [2.0, 2.0 + 8.0], uneven) == pytest.approx(2.0 + 2.0 * 7.0)
    assert carried_over([1], [3.0], [1.0]) == 3.0
    assert carried_over([1, 2], [3.0, 2.5], work) == 3.0  # noise gives no negative seconds


def test_a_model_of_few_blocks_is_timed_whole():
    assert carried_over([1, 3], [2.0, 5.0], [1.0, 1.0, 1.0]) == pytest.approx(5.0)


def test_each_kind_of_layer_is_met(tmp_path: Path):
    with GGUFFile(families.make(tmp_path / "a.gguf", families.FAMILIES["gemma3"])) as file:
        layers = read_config(file).layers
    assert whole_blocks(layers, [1e6] * 7) == 6  # five with a window, then one that sees all
    assert whole_blocks(layers, [3e8] * 7) == 1
    assert whole_blocks(layers[:1] * 40, [1e6] * 40) == 3
    assert whole_blocks(layers[:1], [1e6]) == 1
    distinct = [replace(layers[0], feed_forward=size) for size in range(20)]
    assert whole_blocks(distinct, [1e6] * 20) == 8


def test_the_parts_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Timings as they would be if a block took 10 ms, the rest 30, and a look half of it."""

    def seconds(parts, config, data):
        steps = [0.03 + 0.01 * (len(part.model_config.layers) - 1) for part in parts]
        return [each / 2 for each in steps], steps

    monkeypatch.setattr(probes, "_seconds", seconds)
    path = tiny.make(tmp_path / "a.gguf", layers=12)
    for layers, steps, trunk in (("all", 0.14, 0.0), (9, 0.11, 0.015)):
        rate = probe(path, SHORT, Config(threads=1, compute_dtype="fp32", layers=layers, batch_size=4))
        assert rate.tokens_per_second == pytest.approx(4 * 32 / steps)
        assert rate.look_tokens_per_second == pytest.approx(4 * 32 / (steps / 2))
        assert rate.trunk_seconds_per_token == pytest.approx(trunk / (4 * 32))
    assert (rate.device, rate.precision, rate.threads, rate.recomputed) == ("cpu", "fp32", 1, False)


def test_the_rows_that_are_timed_have_the_code_branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A lead of 3 tokens after each of 4 prompts, a place for its code, and in an evaluation one for each code."""
    plain, coded = (probes._data(replace(SHORT, lead=lead), vocabulary=50, count=4) for lead in (0, 3))
    steps = [training_batch(each.train, (1.0, 1.0), code=each.candidates.code) for each in (plain, coded)]
    looks = [dev_batch(each.dev, each.candidates).batch for each in (plain, coded)]
    for (without, with_codes), places in ((steps, 1), (looks, 2)):
        computed = [sum(each.stop - each.start for each in one.pack.segments) for one in (without, with_codes)]
        assert computed[1] - computed[0] == 4 * 3
        assert len(with_codes.targets_N) - len(without.targets_N) == 4 * places
    on_cuda = [training_rows(each.train, (1.0, 1.0), code=each.candidates.code).pack for each in (plain, coded)]
    assert [len(each.segments) for each in on_cuda] == [4, 8]  # the lead with the prompt again
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    rate = probe(tiny.make(tmp_path / "a.gguf"), replace(SHORT, lead=3), Config(threads=1, compute_dtype="fp32"))
    assert min(rate.tokens_per_second, rate.look_tokens_per_second) > 0


@pytest.mark.slow
def test_a_run_with_a_code_branch_is_planned_with_its_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The visits and the example base: the lead that is timed is that of the training."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("expertune.estimate.throughput.probe", lambda path, shape, config: RATE)
    path, config = VISITS.with_name("base.gguf"), Config()
    data, base = load_dataset(VISITS, None, "respiratory infections", config), find_base(str(path), None, context=1024)
    with LlamaCppEngine(path, context=1024, threads=1) as engine:

        def times(branch: CodeBranch | None) -> tuple[Work, Speeds]:
            whole = data.with_codes(branch)
            answers = candidates(engine, whole.examples.train[0], whole.scale, branch)
            every = encode_all(engine, whole, answers, rationale_weight=1.0, on_row=lambda: None)
            rows, kept = rows_by_part(every, whole, 1024, drop=True)
            plan = TrainingPlan(whole, base, config, config)
            return measured(Tokenized(plan, kept, rows, answers, branch, 1024), Served(engine, engine, 0.1))

        prompt = engine.render(data.examples.train[0].messages)
        branch = choose_branch(engine, prompt, len(data.scale.labels))
        assert branch is not None
        work, speeds = times(branch)
        assert work.shape.lead == len(engine.continuation(prompt, branch.lead)) > 1
        assert speeds.rating.code_seconds >= 0 < speeds.rating.record_seconds
        work, speeds = times(None)
        assert work.shape.lead == speeds.rating.code_seconds == 0


def test_the_logits_of_what_is_timed_are_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After one block a head that shares the embeddings is certain of the token itself: denormal probabilities."""
    timed = []

    def seconds(parts, config, data):
        timed.extend(parts)
        return [1.0] * len(parts), [1.0] * len(parts)

    monkeypatch.setattr(probes, "_seconds", seconds)
    path, config = tiny.make(tmp_path / "a.gguf", layers=4), Config(threads=1, compute_dtype="fp32")
    probe(path, SHORT, config)
    assert len(timed) == 2
    with GGUFFile(path) as file:
        for part in timed:
            plain = load(file, config, part.placement, blocks=len(part.model_config.layers)).decoder
            x_ND = torch.randn(3, part.model_config.width, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(part.decoder.logits(x_ND), 1e-3 * plain.logits(x_ND))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss", "mixtral", "phi3", "gemma4 small", "lfm2", "qwen35"])
@pytest.mark.parametrize(("weight_cache", "base_memory"), [("dequantized", "cached"), ("quantized", "packed")])
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weight_cache: str, base_memory: str):
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    config = Config(threads=1, compute_dtype="fp32", weight_cache=weight_cache)
    rate = probe(families.make(tmp_path / "a.gguf", families.FAMILIES[name]), SHORT, config)
    assert min(rate.tokens_per_second, rate.look_tokens_per_second) > 0
    assert rate.base_memory == base_memory


def test_one_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "SECONDS", 0.0)
    assert probe(tiny.make(tmp_path / "a.gguf", layers=1), SHORT, Config(threads=1, compute_dtype="fp32"))


def test_the_shortest_of_the_rounds(monkeypatch: pytest.MonkeyPatch):
    lasts, now = iter([9.0, 1.0, 0.3, 0.4, 0.2, 0.5]), [0.0]

    def run():
        now[0] += next(lasts)

    monkeypatch.setattr(probes.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(probes, "SECONDS", 10.5)
    assert probes.best_seconds([run, run]) == pytest.approx([0.3, 0.4])


# --- what there is to do ---


def test_seconds_are_tokens_over_the_rate():
    assert REFERENCE_PLAN.seconds(RATE) == 1000 * 250 / 100
    plan = Plan("", RowShape(90, 10, 120), rows=70, epochs=3.0, dev_rows=10, validations=7)
    assert plan.seconds(RATE) == 3 * 70 * 100 / 100 + 7 * 10 * 100 / 200
    with_trunk = replace(RATE, trunk_seconds_per_token=0.01)
    assert plan.seconds(with_trunk) == plan.seconds(RATE) + (70 + 10) * 100 * 0.01


@pytest.mark.slow
def test_a_file_is_counted_by_the_models_tokenizer(tmp_path: Path):
    data = Path(__file__).resolve().parents[2] / "examples" / "formatted_dataset.csv"
    prepared = load_dataset(data, None, "", Config())
    plan = planned(prepared, tiny.make(tmp_path / "a.gguf", context=4096))
    assert (plan.rows, plan.dev_rows) == (prepared.counts.train, prepared.counts.dev)
    assert (plan.epochs, plan.validations) == (5.0, 6)
    assert 0 < plan.shape.shared < plan.shape.prompt
    assert plan.shape.row <= plan.shape.longest
