"""Write a GGUF of any size with random weights and a real vocabulary, to measure speed and memory on.

Of the llama family, or of qwen3: with norms over the heads and no output matrix.

    python bench/make_gguf.py m200.gguf --width 768 --ffn 2048 --layers 24 --heads 12 --kv 4

"m200" as above (113 MB in Q4_K); "7b": --width 4096 --ffn 11008 --layers 32 --heads 32 --kv 32 (3.9 GB).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from expertune.gguf.quants import quantize

VOCABULARY = Path(__file__).resolve().parent.parent / "tests/data/vocab/ggml-vocab-llama-spm.gguf"
SIZES = {
    "m200": {"width": 768, "ffn": 2048, "layers": 24, "heads": 12, "kv": 4},
    "7b": {"width": 4096, "ffn": 11008, "layers": 32, "heads": 32, "kv": 32},
}


def make(
    path: Path,
    *,
    width: int,
    ffn: int,
    layers: int,
    heads: int,
    kv: int,
    type: str = "Q4_K",
    family: str = "llama",
    seed: int = 0,
) -> Path:
    """Random weights of a sensible size; norms near 1. Speed and memory do not hang on the weights' values."""
    reader, draw = gguf.GGUFReader(VOCABULARY), np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, family)
    for key, field in reader.fields.items():
        if key.startswith("tokenizer."):
            if field.types[0] == gguf.GGUFValueType.ARRAY:
                writer.add_array(key, field.contents())
            else:
                writer.add_key_value(key, field.contents(), field.types[0])
    head, tokens = width // heads, len(reader.fields["tokenizer.ggml.tokens"].data)
    _add_metadata(writer, width, ffn, layers, heads, kv, tokens)

    def linear(name: str, outputs: int, inputs: int) -> None:
        weight_OI = draw.standard_normal((outputs, inputs), dtype=np.float32) / np.float32(np.sqrt(inputs))
        writer.add_tensor(name, quantize(weight_OI, Type[type], threads=2), raw_dtype=Type[type])

    def norm(name: str, size: int = width) -> None:
        writer.add_tensor(name, 1 + 0.1 * draw.standard_normal(size, dtype=np.float32))

    linear("token_embd.weight", tokens, width)
    for block in range(layers):
        norm(f"blk.{block}.attn_norm.weight")
        norm(f"blk.{block}.ffn_norm.weight")
        if family == "qwen3":
            norm(f"blk.{block}.attn_q_norm.weight", head)
            norm(f"blk.{block}.attn_k_norm.weight", head)
        for name, outputs, inputs in (
            ("attn_q", heads * head, width),
            ("attn_k", kv * head, width),
            ("attn_v", kv * head, width),
            ("attn_output", width, heads * head),
            ("ffn_gate", ffn, width),
            ("ffn_up", ffn, width),
            ("ffn_down", width, ffn),
        ):
            linear(f"blk.{block}.{name}.weight", outputs, inputs)
    norm("output_norm.weight")
    if family != "qwen3":
        linear("output.weight", tokens, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, width: int, ffn: int, layers: int, heads: int, kv: int, tokens: int) -> None:
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    for name, value in SIZES["m200"].items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--type", default="Q4_K")
    parser.add_argument("--family", default="llama", choices=("llama", "qwen3"))
    options = parser.parse_args()
    make(**vars(options))
