"""Whether a file holds the tensors that its Spec needs, in the shapes that its metadata promise, and no others.

A tensor that the decoder does not know would be left out of what is trained, but not of what is served.
"""

from __future__ import annotations

from ..errors import FineTuningNotSupportedError, ModelFileError
from ..gguf.read import GGUFFile
from .config import GatedDeltaNetConfig, LayerConfig, ModelConfig

MAY_BE_ON_TOP = ("output.weight", "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
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
    """ "attn_q" → "attn_q.weight"; names with an ending stay, and so does the one that has none in llama.cpp."""
    return name if name.endswith((".weight", ".bias", ".scale")) or name == "ssm_a" else f"{name}.weight"


def check_tensors(file: GGUFFile, spec: ModelConfig) -> None:
    """Raises ModelFileError for a tensor that is missing or has another shape, FineTuningNotSupportedError for one
    that the family's decoder does not know."""
    top = {"token_embd.weight": (spec.vocabulary, spec.width), full_name(spec.output_norm): (spec.width,)}
    if spec.own_input:
        own = len(spec.layers) * spec.own_input
        top |= {"per_layer_token_embd.weight": (spec.vocabulary, own), "per_layer_model_proj.weight": (own, spec.width)}
        top["per_layer_proj_norm.weight"] = (spec.own_input,)
    known = {*top, *MAY_BE_ON_TOP}
    if spec.centred:
        known.add("output_norm.bias")
    for name, shape in top.items():
        _need(file, name)
        _hold(file, name, (shape,))
    for index, layer in enumerate(spec.layers):
        known |= _check_layer(file, spec, layer, f"blk.{index}.")
    spare = tuple(f"blk.{len(spec.layers) + index}." for index in range(spec.spare))
    unknown = next((name for name in file.tensors if name not in known and not name.startswith(spare)), None)
    if unknown is not None:
        raise FineTuningNotSupportedError(
            f"{file.path}: holds {unknown}, which Expertune's {spec.family} does not know, so this variant cannot be "
            f"tuned yet; use the model set instead"
        )


def _check_layer(file: GGUFFile, spec: ModelConfig, layer: LayerConfig, prefix: str) -> set[str]:
    """The full names that may be in this block."""
    shapes, known = _shapes(spec, layer), set[str]()
    for name in layer.tensors:
        fused = f"{prefix}{FUSED.get(name, name)}.weight"
        if f"{prefix}{full_name(name)}" not in file.tensors and fused in file.tensors:
            name = FUSED.get(name, name)
        _need(file, f"{prefix}{full_name(name)}")
        known.add(full_name(name))
    known |= {full_name(name) for name in layer.optional}
    if "attn_q.bias" in known:
        known.add("attn_qkv.bias")
    for name in known:
        if f"{prefix}{name}" in file.tensors and name.removesuffix(".weight") in shapes:
            _hold(file, prefix + name, shapes[name.removesuffix(".weight")])
    return {prefix + name for name in known}


def _need(file: GGUFFile, name: str) -> None:
    if name not in file.tensors:
        raise ModelFileError(f"{file.path}: the tensor {name} is missing; export the model again")


def _hold(file: GGUFFile, name: str, allowed: tuple[Shape, ...]) -> None:
    found = tuple(file.tensors[name].shape)
    if found not in allowed:
        wanted = " or ".join(str(shape) for shape in allowed)
        raise ModelFileError(f"{file.path}: {name} has shape {found}, its metadata say {wanted}")


def _shapes(spec: ModelConfig, layer: LayerConfig) -> dict[str, tuple[Shape, ...]]:
    """The shapes that the decoder relies on, by name; numpy's order, (out, in)."""
    heads, width, ffn = layer.heads, spec.width, layer.feed_forward
    queries, keys = heads.queries * heads.width, heads.keys * heads.width
    both = spec.gated and "ffn_gate" not in layer.tensors  # gate and up in one matrix
    shapes: dict[str, tuple[Shape, ...]] = {
        "attn_q": ((2 * queries if layer.gated else queries, width),),
        "attn_k": ((keys, width),),
        "attn_v": ((keys, width),),
        "attn_qkv": ((queries + 2 * keys, width),),
        "attn_output": ((width, queries),),
        "attn_q_norm": ((heads.width,), (heads.queries, heads.width), (queries,)),
        "attn_k_norm": ((heads.width,), (heads.keys, heads.width), (keys,)),
        "attn_sinks": ((heads.queries,),),
        "ffn_gate": ((ffn, width),),
        "ffn_up": ((2 * ffn if both else ffn, width),),
        "ffn_down": ((width, ffn),),
    }
    shapes |= {**dict.fromkeys(NORMS, ((width,),)), "layer_output_scale": ((1,),)}
    if layer.delta is not None:
        shapes |= _delta_shapes(layer.delta, layer.taps, width)
    elif layer.taps:
        shapes |= {
            "shortconv.in_proj": ((3 * width, width),),
            "shortconv.conv": ((width, layer.taps),),
            "shortconv.out_proj": ((width, width),),
        }
    if spec.own_input:
        shapes |= {"inp_gate": ((spec.own_input, width),), "proj": ((width, spec.own_input),)}
    if spec.experts is not None:
        count, inner = spec.experts.count, spec.experts.width
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


def _delta_shapes(delta: GatedDeltaNetConfig, taps: int, width: int) -> dict[str, tuple[Shape, ...]]:
    inner = delta.values * delta.width
    return {
        "attn_qkv": ((delta.convolved, width),),
        "attn_gate": ((inner, width),),
        "ssm_beta": ((delta.values, width),),
        "ssm_alpha": ((delta.values, width),),
        "ssm_ba": ((2 * delta.values, width),),
        "ssm_conv1d": ((delta.convolved, taps),),
        "ssm_dt.bias": ((delta.values,),),
        "ssm_a": ((delta.values,),),
        "ssm_norm": ((delta.width,),),
        "ssm_out": ((width, inner),),
    }
