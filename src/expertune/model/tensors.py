"""Check that a file has the tensors that its ModelConfig needs, in the shapes that its metadata declare, and no others.

llama.cpp would use a tensor that the decoder does not know, so training and serving would compute different models.
"""

from __future__ import annotations

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile
from .config import GatedDeltaNetConfig, LayerConfig, ModelConfig

ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
FUSED = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v"), "attn_qkv"),
    **dict.fromkeys(("ffn_gate_exps", "ffn_up_exps"), "ffn_gate_up_exps"),
}
NORMS = (
    *("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "attn_norm.bias", "ffn_norm.bias"),
    *("pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2", "ffn_gate_inp.scale", "post_norm"),
)
Shape = tuple[int, ...]


def full_name(name: str) -> str:
    """ "attn_q" → "attn_q.weight"; names with an ending stay, and so does ssm_a, which has none in llama.cpp."""
    return name if name.endswith((".weight", ".bias", ".scale")) or name == "ssm_a" else f"{name}.weight"


def check_tensors(file: GGUFFile, config: ModelConfig) -> None:
    """Raise ModelFileError for a missing tensor or a wrong shape, FineTuningNotSupportedError for a tensor that the
    family's decoder does not know."""
    top = {"token_embd.weight": (config.vocabulary, config.width), full_name(config.output_norm): (config.width,)}
    if per_layer := config.per_layer_embedding_dim:
        all_layers = len(config.layers) * per_layer
        top |= {
            "per_layer_token_embd.weight": (config.vocabulary, all_layers),
            "per_layer_model_proj.weight": (all_layers, config.width),
            "per_layer_proj_norm.weight": (per_layer,),
        }
    known = {*top, "output.weight", *ROPE_FACTORS}
    if config.layernorm:
        known.add("output_norm.bias")
    for name, shape in top.items():
        _check_shape(file, name, (shape,))
    for index, layer in enumerate(config.layers):
        known |= _check_layer(file, config, layer, f"blk.{index}.")
    mtp_prefixes = tuple(f"blk.{len(config.layers) + index}." for index in range(config.mtp_layers))
    unknown = next((name for name in file.tensors if name not in known and not name.startswith(mtp_prefixes)), None)
    if unknown is not None:
        raise FineTuningNotSupportedError(
            f"{file.path}: unknown tensor {unknown} for the architecture {config.family}, so this variant cannot be "
            f"tuned yet; use the model set instead"
        )


def _check_layer(file: GGUFFile, config: ModelConfig, layer: LayerConfig, prefix: str) -> set[str]:
    """Check one block; returns the full names of the tensors that it may have."""
    shapes, known = _shapes(config, layer), set[str]()
    for name in layer.tensors:
        fused = f"{prefix}{FUSED.get(name, name)}.weight"
        if f"{prefix}{full_name(name)}" not in file.tensors and fused in file.tensors:
            name = FUSED.get(name, name)
        file.info(f"{prefix}{full_name(name)}")  # must be there
        known.add(full_name(name))
    known |= {full_name(name) for name in layer.optional}
    if "attn_q.bias" in known:
        known.add("attn_qkv.bias")
    for name in known:
        if f"{prefix}{name}" in file.tensors and name.removesuffix(".weight") in shapes:
            _check_shape(file, prefix + name, shapes[name.removesuffix(".weight")])
    return {prefix + name for name in known}


def _check_shape(file: GGUFFile, name: str, allowed: tuple[Shape, ...]) -> None:
    found = tuple(file.info(name).shape)
    if found not in allowed:
        wanted = " or ".join(str(shape) for shape in allowed)
        raise ModelFileError(
            f"{file.path}: {name} has shape {found}, but the metadata declare {wanted}; re-export the model"
        )


def _shapes(config: ModelConfig, layer: LayerConfig) -> dict[str, tuple[Shape, ...]]:
    """Shapes that the decoder relies on, by name, in numpy's order (out, in)."""
    heads, width, ffn = layer.heads, config.width, layer.feed_forward
    queries, keys = heads.queries * heads.width, heads.keys * heads.width
    fused = config.gated and "ffn_gate" not in layer.tensors  # gate and up in one matrix
    shapes: dict[str, tuple[Shape, ...]] = {
        "attn_q": ((2 * queries if layer.output_gate else queries, width),),
        "attn_k": ((keys, width),),
        "attn_v": ((keys, width),),
        "attn_qkv": ((queries + 2 * keys, width),),
        "attn_output": ((width, queries),),
        "attn_q_norm": ((heads.width,), (heads.queries, heads.width), (queries,)),
        "attn_k_norm": ((heads.width,), (heads.keys, heads.width), (keys,)),
        "attn_sinks": ((heads.queries,),),
        "ffn_gate": ((ffn, width),),
        "ffn_up": ((2 * ffn if fused else ffn, width),),
        "ffn_down": ((width, ffn),),
    }
    shapes |= {**dict.fromkeys(NORMS, ((width,),)), "layer_output_scale": ((1,),)}
    if layer.gated_delta_net is not None:
        shapes |= _delta_shapes(layer.gated_delta_net, layer.conv_kernel, width)
    elif layer.conv_kernel:
        shapes |= {
            "shortconv.in_proj": ((3 * width, width),),
            "shortconv.conv": ((width, layer.conv_kernel),),
            "shortconv.out_proj": ((width, width),),
        }
    if per_layer := config.per_layer_embedding_dim:
        shapes |= {"inp_gate": ((per_layer, width),), "proj": ((width, per_layer),)}
    if config.experts is not None:
        count, inner = config.experts.count, config.experts.width
        shapes |= {
            "ffn_gate_inp": ((count, width),),
            "ffn_gate_exps": ((count, inner, width),),
            "ffn_up_exps": ((count, inner, width),),
            "ffn_gate_up_exps": ((count, 2 * inner, width),),
            "ffn_down_exps": ((count, width, inner),),
            "ffn_down_exps.scale": ((count,),),
            "ffn_gate_inp_shexp": ((width,), (1, width)),
        }
    return shapes


def _delta_shapes(delta: GatedDeltaNetConfig, conv_kernel: int, width: int) -> dict[str, tuple[Shape, ...]]:
    inner = delta.values * delta.width
    return {
        "attn_qkv": ((delta.conv_width, width),),
        "attn_gate": ((inner, width),),
        "ssm_beta": ((delta.values, width),),
        "ssm_alpha": ((delta.values, width),),
        "ssm_ba": ((2 * delta.values, width),),
        "ssm_conv1d": ((delta.conv_width, conv_kernel),),
        "ssm_dt.bias": ((delta.values,),),
        "ssm_a": ((delta.values,),),
        "ssm_norm": ((delta.width,),),
        "ssm_out": ((width, inner),),
    }
