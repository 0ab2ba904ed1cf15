"""Write the small base model as a GGUF that llama.cpp and Ollama load: metadata, vocabulary, quantised tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType, TokenType

from expertune.gguf.quants import quantize

# Roles are copied as they are, so a system message works; the BOS token is added by the engine, not here.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DESCRIPTION = (
    "A small English medical language model for examples and tests, pretrained from scratch on MedQuAD and "
    "MTS-Dialog (CC BY 4.0), SYNERGY abstracts (CC0) and PubMedQA abstracts (MIT). Not for medical use."
)


def tensor_type(name: str) -> Type:
    """Matrices of the blocks in Q4_K; the embedding, which is also the output layer, in Q8_0."""
    return Type.Q8_0 if name.startswith("token_embd") else Type.Q4_K


def write_gguf(
    path: Path, shape: Any, tensors: Mapping[str, np.ndarray], tokenizer: Mapping[str, Any], recipe: Mapping[str, Any]
) -> None:
    """`tensors` are float32 under their GGUF names, `tokenizer` is the parsed tokenizer.json, `recipe` says how the
    weights were made.

    Tensors outside the blocks come first, then block by block, and file type last: the order that Ollama's import
    gives a file, so that it keeps its digest there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(temporary, "llama")
    _add_general(writer, recipe)
    _add_shape(writer, shape)
    _add_tokenizer(writer, tokenizer)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_K_S)
    for name in sorted(tensors, key=_place):
        weight = np.ascontiguousarray(tensors[name], dtype=np.float32)
        if weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            kind = tensor_type(name)
            writer.add_tensor(name, quantize(weight, kind, name=name), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(path)


def _place(name: str) -> tuple[int, str]:
    return (int(name.split(".")[1]) if name.startswith("blk.") else -1, name)


def _add_general(writer: gguf.GGUFWriter, recipe: Mapping[str, Any]) -> None:
    writer.add_type("model")
    writer.add_name("Expertune example base")
    writer.add_description(DESCRIPTION)
    writer.add_license("cc-by-4.0")
    writer.add_tags(["medical", "english", "example"])
    writer.add_string("training.command", str(recipe["command"]))
    writer.add_uint32("training.seed", int(recipe["seed"]))
    writer.add_uint32("training.steps", int(recipe["steps"]))
    writer.add_uint64("training.tokens", int(recipe["tokens"]))


def _add_shape(writer: gguf.GGUFWriter, shape: Any) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Mapping[str, Any]) -> None:
    ids = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(special["<|begin_of_text|>"])
    writer.add_eos_token_id(special["<|end_of_text|>"])
    writer.add_pad_token_id(special["<|end_of_text|>"])
    writer.add_eot_token_id(special["<|im_end|>"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
