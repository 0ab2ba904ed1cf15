"""Convert the example base to another architecture without changing its function.

    convert_architecture.make(tmp_path / "base.gguf", "phi3")

So the whole job can run, and its quality be measured, on architectures without a small trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

BASE = Path(__file__).resolve().parents[1] / "examples" / "base.gguf"
EXPERTS = {"expert_count": 4, "expert_used_count": 2}
SCALES = {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0, "attention.scale": 0.125}
# name → architecture, additional metadata
FAMILIES: dict[str, tuple[str, dict[str, float | int]]] = {
    "qwen2": ("qwen2", {}),
    "phi3": ("phi3", {}),
    "granite": ("granite", SCALES),
    "mixtral": ("llama", EXPERTS),
    "granitemoe": ("granitemoe", {**EXPERTS, **SCALES}),
}
Packed = tuple[np.ndarray, GGMLQuantizationType]


def make(path: Path, family: str) -> Path:
    """Write the example base as a model of `family`."""
    reader, (architecture, own) = gguf.GGUFReader(BASE), FAMILIES[family]
    writer = gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kinds = [*field.types, None]
            name = name.replace("llama.", f"{architecture}.") if name.startswith("llama.") else name
            writer.add_key_value(name, field.contents(), kinds[0], sub_type=kinds[1])
    for name, value in own.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{architecture}.{name}", value)
    tensors = {tensor.name: (np.array(tensor.data), tensor.tensor_type) for tensor in reader.tensors}
    layers, heads = (int(reader.fields[f"llama.{key}"].contents()) for key in ("block_count", "attention.head_count"))
    for name, (value, kind) in _converted(tensors, family, layers, heads):
        writer.add_tensor(name, value, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _converted(tensors: dict[str, Packed], family: str, layers: int, heads: int) -> Iterator[tuple[str, Packed]]:
    for index in range(layers):
        prefix = f"blk.{index}."
        if family in ("qwen2", "phi3"):  # NeoX-style RoPE
            width = len(tensors[f"{prefix}attn_q.weight"][0]) // heads
            for name in ("attn_q", "attn_k"):
                value, kind = tensors[f"{prefix}{name}.weight"]
                tensors[f"{prefix}{name}.weight"] = _to_neox_style(value, width), kind
        if family == "qwen2":
            for name in ("attn_q", "attn_k", "attn_v"):
                rows = len(tensors[f"{prefix}{name}.weight"][0])
                tensors[f"{prefix}{name}.bias"] = np.zeros(rows, np.float32), GGMLQuantizationType.F32
        if family == "phi3":
            _join(tensors, prefix, ("attn_q", "attn_k", "attn_v"), "attn_qkv")
            _join(tensors, prefix, ("ffn_gate", "ffn_up"), "ffn_up")
        if family in ("mixtral", "granitemoe"):
            _copy_experts(tensors, prefix, index)
    yield from tensors.items()


def _to_neox_style(rows_OB: np.ndarray, width: int) -> np.ndarray:
    """Reorder the rows of each head from adjacent pairs to NeoX-style pairs."""
    return rows_OB.reshape(-1, width // 2, 2, rows_OB.shape[-1]).swapaxes(1, 2).reshape(rows_OB.shape)


def _join(tensors: dict[str, Packed], prefix: str, names: tuple[str, ...], into: str) -> None:
    parts = [tensors.pop(f"{prefix}{name}.weight") for name in names]
    assert len({kind for _, kind in parts}) == 1, "rows of different types cannot be in one matrix"
    tensors[f"{prefix}{into}.weight"] = np.concatenate([value for value, _ in parts]), parts[0][1]


def _copy_experts(tensors: dict[str, Packed], prefix: str, seed: int) -> None:
    """Every expert is a copy of the dense network, so the choice of the random router does not matter."""
    count, width = EXPERTS["expert_count"], len(tensors["output_norm.weight"][0])
    for name in ("ffn_gate", "ffn_up", "ffn_down"):
        value, kind = tensors.pop(f"{prefix}{name}.weight")
        tensors[f"{prefix}{name}_exps.weight"] = np.stack([value] * count), kind
    router_ED = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32) / width**0.5
    tensors[f"{prefix}ffn_gate_inp.weight"] = router_ED, GGMLQuantizationType.F32
