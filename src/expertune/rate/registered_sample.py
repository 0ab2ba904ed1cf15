"""Compare the answers of an Ollama server with those that it gave when the model was registered.

The file was then verified; since, the server may have got other settings, such as OLLAMA_KV_CACHE_TYPE=q8_0, which
change probabilities and labels without a word.

Axes: N record · K label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import EngineError
from ..export.agreement import Noise
from ..files import write_json
from ..outputs import REGISTRATION_SAMPLE
from ..predict.score import Rated
from ..record.section import Section
from .artifact import Artifact
from .serve import ServedModel

RECORDS = 12
LEAST_GAP = 0.01  # one server gave such differences when a prompt was in its cache
LEAST_MARGIN = 0.1


class SampledRecord(Section):
    """Prompt of a record, and its label probabilities as the server gave them at registration."""

    prompt: str
    probabilities: tuple[float, ...]


class RegisteredSample(Section):
    """registration_sample.json: the first test records that the registered model rated, text included.

    `served` is the sha256 of the server's file, `ollama` its version.
    """

    version: int = 1
    served: str
    ollama: str
    records: tuple[SampledRecord, ...]


def write_sample(folder: Path, served: str, ollama: str, prompts: Sequence[str], rated: Sequence[Rated]) -> None:
    """Write the first records next to the run's other files, mode 0600. Raises OutputError."""
    records = [
        SampledRecord(prompt=prompt, probabilities=each.probabilities)
        for prompt, each in zip(prompts[:RECORDS], rated, strict=False)
    ]
    sample = RegisteredSample(served=served, ollama=ollama, records=tuple(records))
    write_json(folder / REGISTRATION_SAMPLE, sample.model_dump(mode="json"))


def change_since_registration(product: Artifact, served: ServedModel) -> str | None:
    """One line if the server's answers changed by more than the noise that the run measured; else None.

    None also where there is nothing to compare: another product or engine, or a model registered before version 0.2.0.
    """
    if served.scorer.name != "ollama" or product.registered is None:
        return None
    try:
        sample = RegisteredSample.model_validate_json((product.folder / REGISTRATION_SAMPLE).read_bytes())
    except (OSError, ValueError):
        return None
    if sample.served != served.digest or not sample.records:
        return None
    try:
        now = [served.scorer.score(each.prompt).probabilities for each in sample.records]
    except EngineError as error:
        return f"the registration's sample could not be rated, so Ollama's answers were not compared ({error})"
    found = _difference([each.probabilities for each in sample.records], now, product.noise)
    return f"Ollama answers otherwise than at registration (then version {sample.ollama}): {found}" if found else None


def _difference(before: Sequence[Sequence[float]], now: Sequence[Sequence[float]], noise: Noise | None) -> str | None:
    before_NK, now_NK = np.asarray(before), np.asarray(now)
    limit = max(LEAST_GAP, noise.mean if noise else 0.0)
    gap = float(np.abs(before_NK - now_NK).max(axis=1).mean())
    best_NK = np.sort(before_NK, axis=1)
    clear_N = best_NK[:, -1] - best_NK[:, -2] > max(LEAST_MARGIN, noise.margin if noise else 0.0)
    other_N = before_NK.argmax(1) != now_NK.argmax(1)
    if gap <= limit and not (other_N & clear_N).any():
        return None
    return (
        f"{other_N.sum()} of {len(other_N)} sample records get another label, probabilities differ by {gap:.3f} "
        f"(reading explains {limit:.3f}); see the server's settings, such as OLLAMA_KV_CACHE_TYPE"
    )
