"""Trunk cache: the upper blocks train as with the whole decoder, on every family; the file, and resuming with it."""

from __future__ import annotations

import logging
import math
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import families
import tiny
from expertune.config import Config
from expertune.errors import Interrupted
from expertune.gguf.read import GGUFFile
from expertune.model.load import Placement, Tunable, load
from expertune.model.states import SharedTokens
from expertune.readout.states import BaseStates, TrainingPass
from expertune.train.batches import micro_batches, training_batch
from expertune.train.checkpoint import CheckpointPlace
from expertune.train.class_balance import Teacher
from expertune.train.code_branch import CodeTokens
from expertune.train.encode import Candidates, Row, unrated_row
from expertune.train.loop import Trainer, TrainingData
from expertune.train.loss import weighted_loss
from expertune.train.trunk import NAME, make_trunk

CANDIDATES = Candidates((30, 31), ((41, 42, 7), (43, 7), (44, 45, 7)))
CODE = CodeTokens((60, 61), (71, 72, 73))
SETTINGS: dict[str, Any] = {
    "rank": 4,
    "alpha": 8.0,
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "evals_per_epoch": 1,
    "checkpoint_seconds": 0.0,
    "class_weight": "none",
}
CPU = torch.device("cpu")
# The packs of the trunk differ from those of a step, so sums run in another order: float32 rounding, relative to the
# largest gradient. Mixtures may also send a token on the edge to another expert; none does here.
ROUNDING = 1e-4


def open_tunable(path: Path, layers: int | str, dtype: torch.dtype = torch.float32) -> Tunable:
    config = Config(**{**SETTINGS, "layers": layers})
    return load(GGUFFile(path), config, Placement(CPU, dtype, True, 1))


def rows_sharing(count: int, seed: int, beginning: int = 8) -> list[Row]:
    """Rows of different lengths with one beginning; the token after it decides the label."""
    draw, rows = np.random.default_rng(seed), []
    for index in range(count):
        label, own = int(draw.integers(0, 3)), draw.integers(200, 400, 9 + index % 5).tolist()
        answer = (*CANDIDATES.shared, *CANDIDATES.own[label], 9)
        prompt = (*range(50, 50 + beginning), 100 + label, *own)
        rows.append(Row(f"r{index}", label, prompt, answer, (1.0,) * len(answer)))
    return rows


def gradients(tunable: Tunable, rows: list[Row], start_TD: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    batch = training_batch(rows, (1.0,) * 3, shared=8)
    hidden_ND = tunable.decoder.hidden(batch.pack, batch.places_N, start_TD)
    weighted_loss(tunable.decoder, hidden_ND, batch.targets_N, batch.weights_N).backward()
    lora = tunable.lora
    return {layer.name: torch.cat([p(layer.name, lora.gradients_P).flatten() for p in (lora.a, lora.b)])
            for layer in lora.layers}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_upper_blocks_get_the_gradient_that_they_get_in_a_whole_training(tmp_path: Path, name: str) -> None:
    path = families.make(tmp_path / "a.gguf", families.FAMILIES[name])
    upper, whole = open_tunable(path, 1), open_tunable(path, "all")
    assert 0 < len(upper.lora.layers) < len(whole.lora.layers)
    draw = torch.Generator().manual_seed(1)
    upper.lora.values_P.add_(0.02 * torch.randn(upper.lora.values_P.shape, generator=draw))
    for layer in upper.lora.layers:
        for part in ("a", "b"):
            getattr(whole.lora, part)(layer.name, whole.lora.values_P).copy_(
                getattr(upper.lora, part)(layer.name, upper.lora.values_P)
            )
    for tunable in (upper, whole):
        tunable.lora.refresh()
    rows = rows_sharing(7, 0)
    packs = [(training_batch(rows, (1.0,) * 3, shared=8).pack, rows)]
    trunk = make_trunk(upper, lambda: packs, CheckpointPlace(tmp_path, "run"), lambda rows: None)
    assert trunk is not None
    some = [rows[5], rows[2], rows[3]]
    start_TD = trunk.start(training_batch(some, (1.0,) * 3, shared=8).pack)
    expected = gradients(whole, some)
    largest = max(float(each.abs().max()) for each in expected.values())
    for with_cache in (True, False):
        upper.lora.gradients_P.zero_()
        found = gradients(upper, some, start_TD if with_cache else None)
        for layer, values in found.items():
            torch.testing.assert_close(values, expected[layer], rtol=0, atol=ROUNDING * largest)


def test_blocks_whose_keys_and_values_are_reused_are_not_in_the_trunk(tmp_path: Path) -> None:
    path = families.make(tmp_path / "a.gguf", families.FAMILIES["gemma4 small"])
    tunable = open_tunable(path, 1)
    # the last layer reuses those of the fourth; so the fifth runs too, which reuses those of the third
    assert [layer.kv_shared_with for layer in tunable.model_config.layers] == [None, None, None, None, 2, 3]
    assert (tunable.decoder.first_adapted, tunable.decoder.trunk_blocks) == (5, 2)


def test_a_batch_is_split_by_the_tokens_that_are_computed() -> None:
    rows = rows_sharing(4, 0)
    computed = 8 + sum(row.length - 8 for row in rows)
    assert [len(micro_batches(rows, limit, 8)) for limit in (computed, computed - 1)] == [1, 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("base") / "tiny.gguf", qtype="Q8_0", layers=3)


def trainer_of(
    tunable: Tunable,
    folder: Path | None,
    *,
    resume: bool = False,
    stop_at: int = 1000,
    run_id: str = "run",
    labels: Candidates = CANDIDATES,
) -> Trainer:
    data = TrainingData(rows_sharing(22, 0), rows_sharing(9, 1), labels)
    place = CheckpointPlace(folder, run_id, resume) if folder is not None else None
    config = Config(layers=2, **SETTINGS)
    trainer = Trainer(tunable, data, config, checkpoints=place, should_stop=lambda: trainer.step >= stop_at)
    return trainer


def losses(trainer: Trainer) -> list[float]:
    return [event.loss for event in trainer.run()]


@pytest.mark.slow
def test_a_training_with_the_cache_equals_one_without_it(base: Path, tmp_path: Path) -> None:
    with_cache, without = open_tunable(base, 2), open_tunable(base, 2)
    trainer = trainer_of(with_cache, tmp_path)
    seen: list[int] = []
    assert trainer.trunk_rows == 22 + 9
    trainer.read_trunk(seen.append)
    assert seen[0] == 0 and sum(seen) == 22 + 9
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert losses(trainer) == pytest.approx(losses(trainer_of(without, None)), abs=1e-4)
    torch.testing.assert_close(with_cache.lora.values_P, without.lora.values_P, rtol=1e-3, atol=1e-4)
    assert not (tmp_path / NAME).exists()


def test_the_file_is_in_the_compute_dtype(base: Path, tmp_path: Path) -> None:
    sizes = []
    for dtype in (torch.float32, torch.bfloat16):
        trainer_of(open_tunable(base, 2, dtype), tmp_path).read_trunk()
        sizes.append((tmp_path / NAME).stat().st_size - 32)
    assert sizes[0] == 2 * sizes[1]


@pytest.mark.parametrize("damage", ["none", "cut", "changed", "missing"])
def test_a_resumed_run_gives_the_same_adapter_bit_for_bit(base: Path, tmp_path: Path, damage: str) -> None:
    whole, first, second = (open_tunable(base, 2) for _ in range(3))
    unbroken = trainer_of(whole, tmp_path / "whole")
    unbroken.read_trunk()
    expected = losses(unbroken)
    stopped = trainer_of(first, tmp_path / "run", stop_at=7)
    stopped.read_trunk()
    with pytest.raises(Interrupted):
        losses(stopped)
    path = tmp_path / "run" / NAME
    made = path.stat().st_ino
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage != "none":
        path.write_bytes(content[:-5] if damage == "cut" else content[:-1] + b"?")
    resumed = trainer_of(second, tmp_path / "run", resume=True)
    seen: list[int] = []
    resumed.read_trunk(seen.append)
    assert bool(seen) == (damage != "none")
    assert path.read_bytes() == content
    assert (path.stat().st_ino == made) == (damage == "none")
    losses(resumed)
    assert [event.loss for event in resumed.result.history] == expected
    assert torch.equal(second.lora.values_P, whole.lora.values_P)
    assert trainer_of(second, tmp_path / "run", resume=True).trunk_rows == 0  # all steps are done


def test_a_stop_leaves_no_part_of_the_file(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(open_tunable(base, 2), tmp_path, stop_at=0)
    with pytest.raises(Interrupted, match="--resume"):
        trainer.read_trunk()
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_another_run_is_not_used(base: Path, tmp_path: Path) -> None:
    tunable = open_tunable(base, 2)
    trainer_of(tunable, tmp_path, run_id="another").read_trunk()
    made = (tmp_path / NAME).stat().st_ino
    shutil.copy(tmp_path / NAME, tmp_path / "kept")  # so that its number is not given to the new file
    trainer_of(tunable, tmp_path, resume=True).read_trunk()
    assert (tmp_path / NAME).stat().st_ino != made


@pytest.mark.slow
def test_a_full_disk_costs_time_and_not_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk._replace(free=1000))
    full, without = open_tunable(base, 2), open_tunable(base, 2)
    trainer = trainer_of(full, tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.read_trunk()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["no trunk cache"]
    assert losses(trainer) == losses(trainer_of(without, None))


def test_nothing_is_cached_if_every_block_has_an_adapter(base: Path, tmp_path: Path) -> None:
    trainer = trainer_of(open_tunable(base, "all"), tmp_path)
    trainer.read_trunk()
    assert trainer.trunk_rows == 0 and not (tmp_path / NAME).exists()


@pytest.mark.parametrize("layers", [1, 2, "all"])
@pytest.mark.parametrize("shared", [8, 0])
@pytest.mark.parametrize("code", [None, CODE])
def test_the_states_that_a_readout_reads_on_the_way_are_those_of_the_prompts_alone(
    base: Path, tmp_path: Path, layers: int | str, shared: int, code: CodeTokens | None
) -> None:
    states = BaseStates(base, Config(layers=layers, **{**SETTINGS, "compute_dtype": "fp32"}))
    train = [replace(row, prompt=row.prompt[8 - shared :]) for row in rows_sharing(22, 0)]
    dev = [replace(row, id=f"dev {row.id}") for row in rows_sharing(9, 1)]
    prompts = [row.prompt for row in train]
    place = CheckpointPlace(tmp_path, "run")
    seen: list[int] = []
    rows = TrainingPass(train, dev, replace(CANDIDATES, code=code), place)
    common = SharedTokens.of(prompts)
    found = states.of_training(rows, common, seen.append)
    assert sum(seen) == len(train)
    np.testing.assert_allclose(found, states.of(prompts, common), rtol=0, atol=1e-4 * abs(found).max())
    assert (tmp_path / NAME).exists() == (layers != "all")


@pytest.mark.slow
@pytest.mark.parametrize("code", [None, CODE])
def test_the_training_takes_the_trunk_that_the_readout_wrote(
    base: Path, tmp_path: Path, code: CodeTokens | None
) -> None:
    states = BaseStates(base, Config(layers=2, **{**SETTINGS, "compute_dtype": "fp32"}))
    labels = replace(CANDIDATES, code=code)
    rows = TrainingPass(rows_sharing(22, 0), rows_sharing(9, 1), labels, CheckpointPlace(tmp_path, "run"))
    states.of_training(rows, SharedTokens(8, 2), lambda rows: None)
    made = (tmp_path / NAME).stat().st_ino
    tunable, without = open_tunable(base, 2), open_tunable(base, 2)
    trainer = trainer_of(tunable, tmp_path, labels=labels)
    trainer.read_trunk()
    assert (tmp_path / NAME).stat().st_ino == made
    assert losses(trainer) == pytest.approx(losses(trainer_of(without, None, labels=labels)), abs=1e-4)


def test_rows_without_a_rating_are_in_the_same_pass_whatever_they_are_rated(base: Path, tmp_path: Path) -> None:
    """Their labels are known after the pass; one of them has another beginning and is shorter than that of the rest."""
    states = BaseStates(base, Config(layers=2, **{**SETTINGS, "compute_dtype": "fp32"}))
    rated, place = rows_sharing(22, 0), CheckpointPlace(tmp_path, "run")
    dev = [replace(row, id=f"dev {row.id}") for row in rows_sharing(9, 1)]
    prompts = [(*rated[0].prompt[:8], 103, 210 + at, 220 + at) for at in range(6)] + [(50, 60, 61)]
    unrated = [unrated_row(f"u{at}", prompt, CANDIDATES) for at, prompt in enumerate(prompts)]
    found = states.of_training(
        TrainingPass([*rated, *unrated], dev, CANDIDATES, place), SharedTokens(8, 2), lambda rows: None
    )
    alone = states.of([row.prompt for row in (*rated, *unrated)], SharedTokens(8, 2))
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-4 * abs(found).max())
    made = (tmp_path / NAME).stat().st_ino
    soft = {row.id: (0.1, 0.2, 0.7) for row in unrated}
    learned = [*rated, *(unrated_row(row.id, row.prompt, CANDIDATES, 2) for row in unrated)]
    tunable = open_tunable(base, 2)
    trainer = Trainer(
        tunable, TrainingData(learned, dev, CANDIDATES, Teacher(soft)), Config(layers=2, **SETTINGS), checkpoints=place
    )
    trainer.read_trunk()
    assert (tmp_path / NAME).stat().st_ino == made and trainer.schedule.steps_in_epoch == 8
    assert all(math.isfinite(loss) for loss in losses(trainer))
