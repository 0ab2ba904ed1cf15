"""The adapter alone, in the format that llama.cpp loads with --lora."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..gguf.read import GGUFFile
from ..gguf.write import write_adapter


def export_adapter(
    path: Path,
    base: GGUFFile,
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    alpha: float,
    metadata: Mapping[str, str],
) -> None:
    """Write A_RI and B_OR of each layer (`pairs`, by name without ".weight"). Raises OutputError."""
    write_adapter(
        path,
        architecture=str(base.metadata("general.architecture")),
        alpha=alpha,
        tensors={f"{name}.weight": pair for name, pair in pairs.items()},
        metadata=metadata,
    )
