"""Names of the linear layers that get an adapter (PEFT: target_modules). No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..gguf.read import GGUFFile
from .config import LayerConfig, ModelConfig

# Linear layers of a block, grouped by their input. Routed experts and their router get no adapter.
MIXER = (
    ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_gate", "ssm_beta", "ssm_alpha", "ssm_ba", "shortconv.in_proj"),
    ("attn_output", "ssm_out", "shortconv.out_proj"),
)
FEED_FORWARD = (("ffn_gate", "ffn_up"), ("ffn_down",), ("ffn_gate_shexp", "ffn_up_shexp"), ("ffn_down_shexp",))
TARGETS = {"all": (*MIXER, *FEED_FORWARD), "attention": MIXER, "feed-forward": FEED_FORWARD}


def first_adapted(config: ModelConfig, layers: int | str) -> int:
    """Index of the lowest block with an adapter, if the top `layers` have one; "all" and an unresolved "auto" are 0."""
    return max(0, len(config.layers) - layers) if isinstance(layers, int) else 0


def trunk_blocks(config: ModelConfig, first: int) -> int:
    """Number of blocks whose result the blocks from `first` on need only as the residual stream.

    A block that reuses the keys and values of a lower one (Gemma's shared K/V) keeps that one out of the trunk.
    """
    reused = [layer.kv_shared_with for layer in config.layers[first:] if layer.kv_shared_with is not None]
    lowest = min([first, *reused])
    return first if lowest == first else trunk_blocks(config, lowest)


def adapted_names(file: GGUFFile, config: ModelConfig, targets: str, first: int = 0) -> list[str]:
    """Names without ".weight", from block `first` on; layers with the same input are adjacent, as FusedLinear needs."""
    return [
        f"blk.{index}.{name}"
        for index, layer in enumerate(config.layers[first:], first)
        for names in TARGETS[targets]
        for name in present(file, index, layer, names)
    ]


def present(file: GGUFFile, index: int, layer: LayerConfig, names: Sequence[str]) -> Iterator[str]:
    """Those of `names` that the block has and uses: a layer that reuses another's keys ignores its own."""
    for name in names:
        shared = layer.kv_shared_with is not None and name in ("attn_k", "attn_v")
        if f"blk.{index}.{name}.weight" in file.tensors and not shared:
            yield name
