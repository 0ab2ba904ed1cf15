"""Our decoder beside llama.cpp on one file in float32: hidden states after some block, and scores of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import tiny
from expertune.config import Config
from expertune.engine.label_scoring import distinguishing
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.attention import Segment
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, load
from expertune.predict.score import softmax
from expertune.ratings.scale import answer_opening
from expertune.train.encode import Candidates, Row
from expertune.train.evaluate import evaluate
from llama import Served


@dataclass(frozen=True)
class Differences:
    """The largest and the mean difference, and how many were compared."""

    largest: float
    mean: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Differences:
        return cls(max(values), float(np.mean(values)), len(values))


def state_differences(model: Path, prompts: Sequence[list[int]], depth: int, folder: Path) -> Differences:
    """Of each token's state after `depth` blocks and the output norm: length of the difference over that of the state.

    llama.cpp reads a file that ends after that block, in float32; our decoder reads the file as it is.
    """
    ends_there = tiny.unpack(model, folder / f"blocks-{depth}.gguf", blocks=depth)
    with GGUFFile(model) as file:
        decoder = load(file, Config(), Placement(torch.device("cpu"), torch.float32, True, 1), blocks=depth).decoder
    served, found = Served(ends_there, context=max(map(len, prompts)) + 1, states=True), list[float]()
    for tokens in prompts:
        pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
        (x_TD,) = decoder.states(pack, (depth,))
        ours_TD, theirs_TD = decoder.last_norm(x_TD).detach().numpy(), served.states(tokens)
        assert ours_TD.shape == theirs_TD.shape
        norms_T = np.linalg.norm(theirs_TD, axis=1)
        found += (np.linalg.norm(ours_TD - theirs_TD, axis=1) / norms_T).tolist()
    del served
    ends_there.unlink()
    return Differences.of(found)


def score_differences(
    served: Path, ours: Path, prompts: Sequence[str], labels: Sequence[str]
) -> tuple[Differences, float]:
    """Differences of the labels' probabilities, those of `served` by llama.cpp as a run has it, those of `ours` by our
    decoder as training evaluates; and the share of the prompts with the same likeliest label."""
    answers = [answer_opening(label) for label in labels]
    with LlamaCppEngine(served, context=2048, threads=1) as engine:
        theirs_RK = np.array([softmax(engine.score(prompt, answers).log_probs) for prompt in prompts])
        tokens = [engine.tokenize(prompt) for prompt in prompts]
        shared, own = distinguishing([engine.continuation(prompts[0], answer) for answer in answers])
        full = engine.continuation(prompts[0], answers[0])
    rows = [Row(str(at), 0, tuple(each), tuple(full), (1.0,) * len(full)) for at, each in enumerate(tokens)]
    with GGUFFile(ours) as file:
        tunable = load(file, Config(), Placement(torch.device("cpu"), torch.float32, True, 1))
        candidates = Candidates(tuple(shared), tuple(map(tuple, own)))
        ours_RK = evaluate(tunable, rows, candidates, batch_size=8).log_probabilities_RK.exp().numpy()
    same = float((ours_RK.argmax(1) == theirs_RK.argmax(1)).mean())
    return Differences.of(np.abs(ours_RK - theirs_RK).ravel().tolist()), same
