"""The three models of bench/gpu.py: the real files where they are given, else random weights of exactly their shapes.

Also each of them as the Hugging Face folder that the peers read, with the same weights (bfloat16).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import make_gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from expertune.gguf import quants
from expertune.gguf.read import GGUFFile

ROPE_LOCAL = 10000.0  # Gemma 3's layers with a window


@dataclass(frozen=True)
class Shape:
    """A model to make up: as in the metadata of the real file."""

    file: str
    family: str
    width: int
    ffn: int
    layers: int
    heads: int
    kv: int
    head: int
    vocabulary: int
    rope: float
    epsilon: float
    window: int = 0
    tied: bool = True


SHAPES = {
    "SmolLM2-135M": Shape("smollm2-135m-instruct-q4_1.gguf", "llama", 576, 1536, 30, 9, 3, 64, 49152, 100000.0, 1e-5),
    "Gemma 3 270M": Shape("gemma-3-270m-q4_k_m.gguf", "gemma3", 640, 2048, 18, 4, 1, 256, 262144, 1e6, 1e-6, 512),
    "m200": Shape("m200.gguf", "llama", 768, 2048, 24, 12, 4, 64, 32000, 10000.0, 1e-5, tied=False),
}
QUICK = {"tiny": Shape("tiny.gguf", "llama", 64, 128, 2, 4, 2, 16, 512, 10000.0, 1e-5)}
SHAPES_OF = SHAPES | QUICK


def find(name: str, given: Path | None, work: Path) -> tuple[Path, bool]:
    """The model's file, and whether it holds the real weights; makes it in `work` where it is not given."""
    shape = SHAPES_OF[name]
    if given is not None and (given / shape.file).exists():
        return given / shape.file, True
    path = work / shape.file
    if not path.exists():
        if name == "m200":
            make_gguf.make(path, **make_gguf.SIZES["m200"], type="Q8_0")  # Q4_K takes the processor far longer
        else:
            make_up(path, shape)
    return path, False


def add_header(writer: gguf.GGUFWriter, shape: Shape, blocks: int) -> None:
    """The keys that the decoder reads, for so many blocks."""
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope)
    writer.add_rope_dimension_count(shape.head)
    writer.add_vocab_size(shape.vocabulary)
    if shape.window:
        writer.add_sliding_window(shape.window)


def make_up(path: Path, shape: Shape, seed: int = 0) -> None:
    """Random weights in Q8_0, norms near 1, and no vocabulary: the bench's rows are tokens already."""
    draw, writer, prefix = np.random.default_rng(seed), gguf.GGUFWriter(path, shape.family), "blk.{}."
    add_header(writer, shape, shape.layers)

    def matrix(name: str, outputs: int, inputs: int) -> None:
        weight_OI = draw.standard_normal((outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        writer.add_tensor(name, quants.quantize(weight_OI, Type.Q8_0, threads=2), raw_dtype=Type.Q8_0)

    matrix("token_embd.weight", shape.vocabulary, shape.width)
    wide, narrow = shape.heads * shape.head, shape.kv * shape.head
    for block in map(prefix.format, range(shape.layers)):
        for name, outputs, inputs in (
            ("attn_q", wide, shape.width),
            ("attn_k", narrow, shape.width),
            ("attn_v", narrow, shape.width),
            ("attn_output", shape.width, wide),
            ("ffn_gate", shape.ffn, shape.width),
            ("ffn_up", shape.ffn, shape.width),
            ("ffn_down", shape.width, shape.ffn),
        ):
            matrix(f"{block}{name}.weight", outputs, inputs)
        for name, size in norms(shape).items():
            writer.add_tensor(f"{block}{name}.weight", 1 + 0.1 * draw.standard_normal(size, dtype=np.float32))
    writer.add_tensor("output_norm.weight", 1 + 0.1 * draw.standard_normal(shape.width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def norms(shape: Shape) -> dict[str, int]:
    """Norms of a block and their widths."""
    found = {"attn_norm": shape.width, "ffn_norm": shape.width}
    if shape.family == "gemma3":
        found |= {"attn_q_norm": shape.head, "attn_k_norm": shape.head}
        found |= {"post_attention_norm": shape.width, "post_ffw_norm": shape.width}
    return found


# --- the peers' folder ---

NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
AFTER = {
    "llama": {"ffn_norm": "post_attention_layernorm"},
    "gemma3": {
        "ffn_norm": "pre_feedforward_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}


def as_folder(path: Path, shape: Shape, out: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write the dequantised weights as a Hugging Face folder with a tokenizer of one word: rows are tokens already."""
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    out.mkdir(parents=True, exist_ok=True)
    with GGUFFile(path) as file:
        weights = {
            hugging_face_name(name, shape): convert(file, name, shape).to(dtype).contiguous()
            for name in file.tensors
            if name != "rope_freqs.weight"
        }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = {**hugging_face_config(shape), "dtype": str(dtype).removeprefix("torch.")}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(str(out))
    return out


def hugging_face_name(name: str, shape: Shape) -> str:
    outer = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, block, own = stem.split(".")
    return f"model.layers.{block}.{(NAMES | AFTER[shape.family])[own]}.weight"


def convert(file: GGUFFile, name: str, shape: Shape) -> torch.Tensor:
    """A tensor's values as transformers keeps them: rotary pairs as halves of a head, Gemma's norms less one."""
    info = file.tensors[name]
    values = torch.from_numpy(
        np.array(quants.dequantize(file.blocks(name), info.type), dtype=np.float32).reshape(info.shape)
    )
    if shape.family == "gemma3" and "norm" in name:
        return values - 1
    if shape.family == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
        return values.unflatten(0, (-1, shape.head // 2, 2)).transpose(1, 2).flatten(0, 2)
    return values


def hugging_face_config(shape: Shape) -> dict[str, Any]:
    common = {
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 8192,
        "rms_norm_eps": shape.epsilon,
        "tie_word_embeddings": shape.tied,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    whole = {"rope_type": "default", "rope_theta": shape.rope}
    if shape.family == "llama":
        return {
            **common,
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "rope_parameters": whole,
        }
    local = {"rope_type": "default", "rope_theta": ROPE_LOCAL}
    return {
        **common,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": shape.head,
        "sliding_window": shape.window,
        "layer_types": ["sliding_attention" if (layer + 1) % 6 else "full_attention" for layer in range(shape.layers)],
        "rope_parameters": {"full_attention": whole, "sliding_attention": local},
    }
