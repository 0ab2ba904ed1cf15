"""One small training of bench/recipe_grid.py, and its figures.

It trains on what bench/recipe_grid_prepare.py has written. The loop is its own, so that recipes can be tried that the
product does not have: the loss over the whole vocabulary, a branch that answers with a code, averaged states.

Axes: B row · L token of a row · N target place · V token in use · R record · K label · P parameter of the adapter.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from sklearn.metrics import f1_score  # noqa: E402

from expertune.config import make_config  # noqa: E402
from expertune.gguf.read import GGUFFile  # noqa: E402
from expertune.model.load import load, place  # noqa: E402
from expertune.train.rows import pack_of  # noqa: E402

RANK, DECISION_WEIGHT, WARMUP, LAST_PART, AT_ONCE = 16, 20.0, 0.05, 0.34, 32
PARTS, CELL = ("validation", "test"), ("model", "set", "seed")
Record = dict[str, Any]


# --- the model ---


class Student:
    """A model whose adapter can start again at any depth: all blocks have one, the lower ones stay as they start."""

    def __init__(self, path: Path, device: str) -> None:
        dtype = "bf16" if device == "cuda" else "fp32"
        settings = {"device": device, "compute_dtype": dtype, "rank": RANK, "alpha": 2.0 * RANK, "layers": "all"}
        config = make_config({**settings, "threads": 1, "weight_cache": "dequantized"})
        with GGUFFile(path) as file:
            tunable = load(file, config, place(file, config))
        self.decoder, self.lora = tunable.decoder, tunable.lora
        self.decoder.recompute = False
        self._start_P = self.lora.values_P.clone()
        self.device = self.decoder.device

    def restart(self, layers: int | str) -> None:
        """Fresh adapter; only the top `layers` blocks get a gradient."""
        blocks = len(self.decoder.config.layers)
        self.decoder.first_adapted = 0 if layers == "all" else max(0, blocks - int(layers))
        self.lora.load(self._start_P)

    def logits(self, texts: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Logits at (text, token) places, float32 (N, V)."""
        pack = pack_of(texts)
        places_N = torch.tensor([text * pack.row_length + at for text, at in places])
        normed_ND = self.decoder.last_norm(self.decoder.hidden(pack, places_N))
        return self.decoder.head.finish(normed_ND @ self.decoder.head.weight.matrix().t())


# --- one step ---


@dataclass(frozen=True)
class Task:
    """A job, its rating set, and what its steps need on the device."""

    job: Record
    data: Record
    train: list[Record]
    labels_K: torch.Tensor
    codes_K: torch.Tensor
    offsets_K: torch.Tensor
    targets_RK: torch.Tensor

    @classmethod
    def of(cls, job: Record, data: Record, device: torch.device) -> Task:
        split, by_id = data["splits"][str(job["seed"])], {row["id"]: row for row in data["rows"]}
        train, labels = [by_id[id_] for id_ in split["train"]], len(data["own"])
        truth_R = torch.tensor([row["label"] for row in train])
        counts_K = np.maximum(np.bincount(truth_R.numpy(), minlength=labels), 1)
        targets_RK = F.one_hot(truth_R, labels).float()
        if weight := job["soft_label_weight"]:
            targets_RK = (1 - weight) * targets_RK + weight * torch.tensor(split[job["teacher"]]["train"])
        return cls(
            job,
            data,
            train,
            torch.tensor([own[0] for own in data["own"]], device=device),
            torch.tensor(data["codes"], device=device),
            torch.tensor(job["logit_adjustment"] * np.log(counts_K / counts_K.max()), device=device).float(),
            targets_RK.to(device),
        )

    @property
    def opening(self) -> int:
        """Tokens of an answer before the label."""
        return len(self.data["shared"])

    def steps_in_epoch(self) -> int:
        return math.ceil(len(self.train) / self.job["batch_size"])

    def batch(self, step: int) -> list[int]:
        """The step's places in `train`: a new order for each epoch."""
        epoch, at = divmod(step, self.steps_in_epoch())
        order = np.random.default_rng([self.job["seed"], epoch]).permutation(len(self.train))
        size = self.job["batch_size"]
        return order[at * size : (at + 1) * size].tolist()


def step_loss(student: Student, task: Task, chosen: list[int]) -> torch.Tensor:
    """Mean loss of a batch: language modelling of the answers, the choice among the labels, and among the codes."""
    rows, data = [task.train[at] for at in chosen], task.data
    texts = [(*row["prompt"], *row["answer"][:-1]) for row in rows]
    places = [(at, len(row["prompt"]) - 1 + own) for at, row in enumerate(rows) for own in range(len(row["answer"]))]
    starts = np.cumsum([0] + [len(row["answer"]) for row in rows])[:-1]
    answers = len(places)
    if task.job["code"]:
        texts += [(*row["code_prompt"], *data["lead"]) for row in rows]
        places += [(len(rows) + at, len(texts[len(rows) + at]) - 1) for at in range(len(rows))]
    logits_NV = student.logits(texts, places)
    targets_N = torch.tensor([token for row in rows for token in row["answer"]], device=student.device)
    decisions_B = torch.tensor(starts + task.opening, device=student.device)
    targets_BK = task.targets_RK[torch.tensor(chosen, device=student.device)]
    total, weight = answer_loss(task, logits_NV[:answers], targets_N, decisions_B, targets_BK)
    if task.job["code"]:
        codes_B = task.codes_K[torch.tensor([row["label"] for row in rows], device=student.device)]
        total = total + among(logits_NV[answers:], task.codes_K, task.offsets_K, targets_BK)
        total = total + F.cross_entropy(logits_NV[answers:], codes_B, reduction="sum")
        weight += (DECISION_WEIGHT + 1) * len(rows)
    return total / weight


def answer_loss(
    task: Task, logits_NV: torch.Tensor, targets_N: torch.Tensor, decisions_B: torch.Tensor, targets_BK: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Sum and weight; "full" weights the label's token over the vocabulary, "labels" adds the choice among labels."""
    weights_N = torch.ones(len(targets_N), device=logits_NV.device)
    if task.job["loss"] == "full":
        weights_N[decisions_B] = DECISION_WEIGHT
        shift_NK = torch.zeros(len(targets_N), len(task.labels_K), device=logits_NV.device)
        shift_NK[decisions_B] = task.offsets_K
        logits_NV = logits_NV.index_add(1, task.labels_K, shift_NK)
    total = (F.cross_entropy(logits_NV, targets_N, reduction="none") * weights_N).sum()
    weight = len(targets_N) + DECISION_WEIGHT * len(decisions_B)
    if task.job["loss"] == "full":
        return total, weight - len(decisions_B)
    return total + among(logits_NV[decisions_B], task.labels_K, task.offsets_K, targets_BK), weight


def among(
    logits_BV: torch.Tensor, tokens_K: torch.Tensor, offsets_K: torch.Tensor, targets_BK: torch.Tensor
) -> torch.Tensor:
    """Weighted cross-entropy of a softmax over these tokens alone, with the logit adjustment."""
    log_BK = torch.log_softmax(logits_BV[:, tokens_K] + offsets_K, dim=-1)
    return -DECISION_WEIGHT * (targets_BK * log_BK).sum()


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine to 0."""
    warm = max(1, math.ceil(WARMUP * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


# --- one training ---


def trained(student: Student, job: Record, data: Record) -> Record:
    """Train once: settings, rows, and figures on validation records per epoch and on both parts at the end."""
    task, began = Task.of(job, data, student.device), time.perf_counter()
    student.restart(job["layers"])
    values_P, per = student.lora.values_P, task.steps_in_epoch()
    values_P.grad = student.lora.gradients_P
    optimiser = torch.optim.AdamW([values_P], lr=job["learning_rate"], weight_decay=0.0)
    steps = math.ceil(job["epochs"] * per)
    looks, mean_P, averaged = [], torch.zeros_like(values_P), 0
    for step in range(steps):
        one_step(student, task, step, optimiser, rate_at(step, steps, job["learning_rate"]))
        if step >= steps * (1 - LAST_PART):
            averaged += 1
            mean_P += (values_P - mean_P) / averaged
        if (step + 1) % per == 0 or step + 1 == steps:
            looks.append({"epoch": (step + 1) / per, **rated(student, task, "validation")})
    found = {part: teachers(task, part) for part in PARTS}
    for part in PARTS:
        found[part]["last"] = rated(student, task, part)
    student.lora.load(mean_P)
    for part in PARTS:
        found[part]["averaged"] = rated(student, task, part)
    return entry(task.job, sizes(data, job), looks, found, time.perf_counter() - began, steps)


def one_step(student: Student, task: Task, step: int, optimiser: torch.optim.Optimizer, rate: float) -> None:
    gradients_P = student.lora.gradients_P.zero_()
    step_loss(student, task, task.batch(step)).backward()
    gradients_P.mul_(torch.clamp(1.0 / (torch.linalg.vector_norm(gradients_P) + 1e-9), max=1.0))
    optimiser.param_groups[0]["lr"] = rate
    optimiser.step()
    student.lora.refresh()


def sizes(data: Record, job: Record) -> dict[str, int]:
    split = data["splits"][str(job["seed"])]
    return {part: len(split[part]) for part in ("train", *PARTS)}


def entry(job: Record, rows: Record, looks: list[Record], found: Record, seconds: float, steps: int) -> Record:
    """A line of results: figures, no text and no id."""
    cell = {name: job[name] for name in CELL}
    settings = {name: value for name, value in job.items() if name not in CELL}
    spent = {"seconds": round(seconds, 1), "steps": steps}
    return {**cell, "settings": settings, "rows": rows, **found, "looks": looks, **spent}


# --- figures ---


def rated(student: Student, task: Task, part: str) -> Record:
    """Figures of the words, and with a code branch those of the codes and of the mean of both."""
    rows, truth = part_of(task, part)
    words_RK = scores(student, [(*row["prompt"], *task.data["shared"]) for row in rows], task.labels_K)
    found = figures(words_RK, truth)
    if task.job["code"]:
        codes_RK = scores(student, [(*row["code_prompt"], *task.data["lead"]) for row in rows], task.codes_K)
        found["code"] = figures(codes_RK, truth)
        found["words_and_code"] = figures((words_RK + codes_RK) / 2, truth)
    return found


@torch.no_grad()
def scores(student: Student, texts: Sequence[tuple[int, ...]], tokens_K: torch.Tensor) -> np.ndarray:
    """Log-probability of each label among the labels, after each text, (R, K)."""
    found_RK, order = np.zeros((len(texts), len(tokens_K))), sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        places = [(at, len(texts[own]) - 1) for at, own in enumerate(some)]
        logits_BV = student.logits([texts[own] for own in some], places)
        found_RK[some] = torch.log_softmax(logits_BV[:, tokens_K], dim=-1).double().cpu().numpy()
    return found_RK


def part_of(task: Task, part: str) -> tuple[list[Record], list[int]]:
    by_id = {row["id"]: row for row in task.data["rows"]}
    rows = [by_id[id_] for id_ in task.data["splits"][str(task.job["seed"])][part]]
    return rows, [row["label"] for row in rows]


def teachers(task: Task, part: str) -> Record:
    """Figures of TF-IDF, and of the fused readout where there is one, on the same records."""
    split, (_, truth) = task.data["splits"][str(task.job["seed"])], part_of(task, part)
    return {name: figures(floored_log(split[name][part]), truth) for name in ("tfidf", "fused") if name in split}


def floored_log(shares_RK: Sequence[Sequence[float]]) -> np.ndarray:
    return np.log(np.maximum(np.asarray(shares_RK), 1e-6))


def figures(log_RK: np.ndarray, truth: Sequence[int]) -> Record:
    """Macro-F1 of the likeliest label, and log-loss after normalising, in nats."""
    log_RK = log_RK - np.logaddexp.reduce(log_RK, axis=1, keepdims=True)
    macro_f1 = float(f1_score(truth, log_RK.argmax(1), average="macro"))
    return {"macro_f1": macro_f1, "log_loss": -float(log_RK[np.arange(len(truth)), list(truth)].mean())}
