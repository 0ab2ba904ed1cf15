"""Labels in many scripts; on a byte-level vocabulary most of their characters are cut into several tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from expertune.config import Config
from expertune.engine.label_scoring import distinguishing
from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.gguf.read import GGUFFile
from expertune.model.attention import Segment
from expertune.model.forward_context import Pack
from expertune.model.load import Placement, load
from expertune.ratings.scale import answer_opening

FILES = {  # tests/data/label_scripts holds rows with these
    "chinese": ["符合", "不符合"],
    "french": ["Élevé", "Faible"],
    "german": ["Übereinstimmung", "Keine Übereinstimmung"],
    "symbol": ["≥ 5", "below 5"],
}
LABEL_SETS = {
    **FILES,
    "polish": ["Zgodność", "Żadne"],
    "czech": ["Částečně", "Shoda"],
    "hebrew": ["מתאים", "לא מתאים"],
    "hindi": ["हाँ", "नहीं"],
    "thai": ["ตรง", "ไม่ตรง"],
    "emoji": ["👍", "👎", "🤷‍♀️"],
    "english": ["Match", "Does Not Match", "Unknown"],
}
ASK = [{"role": "system", "content": "Rate this record."}, {"role": "user", "content": "cough and fever"}]


def split(engine: LlamaCppEngine, prompt: str, labels: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """The tokens before the labels part, and those of each label that are scored."""
    ids, spelled = engine.spelled(prompt, [answer_opening(label) for label in labels])
    begin, tails = distinguishing([[token for token, _ in answer] for answer in spelled])
    return ids + begin, tails


def summed(
    start: list[int], tails: list[list[int]], log_probs: Callable[[list[int]], np.ndarray | dict[int, float]]
) -> list[float]:
    """Each tail's log-probability, token by token; `log_probs(tokens)` is that of every token after them."""
    return [sum(float(log_probs(start + tail[:at])[token]) for at, token in enumerate(tail)) for tail in tails]


class Decoder:
    """Our own decoder in float32; `cached` keeps the weights unpacked."""

    def __init__(self, path: Path, *, cached: bool = False) -> None:
        self.file = GGUFFile(path)
        placement = Placement(torch.device("cpu"), torch.float32, cached, 1)
        self.tunable = load(self.file, Config(), placement)

    def log_probs(self, tokens: list[int]) -> np.ndarray:
        pack = Pack(torch.tensor(tokens), torch.arange(len(tokens)), (Segment(0, len(tokens)),))
        with torch.no_grad():
            hidden_ND = self.tunable.decoder.hidden(pack, torch.tensor([len(tokens) - 1]))
            return torch.log_softmax(self.tunable.decoder.logits(hidden_ND), -1)[0].numpy()

    def close(self) -> None:
        self.file.close()
