"""Which linear layers of a file get an adapter, by name; torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..gguf.read import GGUFFile
from .config import LayerConfig, ModelConfig

# A block's linear layers, those with one input beside each other. Routed experts and their router stay as they are.
MIXER = (
    ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha", "ssm_ba", "shortconv.in_proj"),
    ("attn_output", "ssm_out", "shortconv.out_proj"),
)
FEED_FORWARD = (("ffn_gate", "ffn_up"), ("ffn_down",), ("ffn_gate_shexp", "ffn_up_shexp"), ("ffn_down_shexp",))
TARGETS = {"all": (*MIXER, *FEED_FORWARD), "attention": MIXER, "feed-forward": FEED_FORWARD}


def adapted_names(file: GGUFFile, spec: ModelConfig, targets: str) -> list[str]:
    """The layers' names without ".weight"; layers of one input are neighbours, as `linear` needs them."""
    return [
        f"blk.{index}.{name}"
        for index, layer in enumerate(spec.layers)
        for names in TARGETS[targets]
        for name in present(file, index, layer, names)
    ]


def present(file: GGUFFile, index: int, layer: LayerConfig, names: Sequence[str]) -> Iterator[str]:
    """Those of a block's layers that are there and used: one that uses another's keys has none of its own."""
    for name in names:
        borrowed = layer.keys_of is not None and name in ("attn_k", "attn_v")
        if f"blk.{index}.{name}.weight" in file.tensors and not borrowed:
            yield name
