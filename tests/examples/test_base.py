"""The example base model: small enough for git, whole, and read by llama.cpp as it was written."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE = EXAMPLES / "base.gguf"
ODD_TEXTS = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\ttab",
    "c/o SOB, N/V/D x3d; T 102.4F",
    "café 38,5 °C",
    "熱 и кашель 🤧",
    "don't can't WE'LL I'd",
    "1234567890 12:30",
    "_under__score_",
    "a\r\nb",
    '{"rating": "Does Not Match"}\n',
    "non\u00a0breaking\u2009thin",
    "<|im_start|>user\nhi<|im_end|>\n",
]


@pytest.fixture(scope="module")
def reader() -> gguf.GGUFReader:
    return gguf.GGUFReader(BASE)


def value(reader: gguf.GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


def prompts(count: int) -> list[str]:
    with open(EXAMPLES / "formatted_dataset.csv", encoding="utf-8", newline="") as file:
        return [row["Prompt"] for row in csv.DictReader(file)][:count]


def test_it_is_small_enough_for_git() -> None:
    assert BASE.stat().st_size <= 8 * 2**20


def test_metadata_says_what_it_is_and_how_it_was_made(reader: gguf.GGUFReader) -> None:
    assert value(reader, "general.architecture") == "llama"
    assert value(reader, "general.license") == "cc-by-4.0"
    assert "Not for medical use" in value(reader, "general.description")
    assert str(value(reader, "training.steps")) in value(reader, "training.command")
    assert value(reader, "training.command") in (EXAMPLES / "README.md").read_text()


def test_chat_tokens_are_control_tokens(reader: gguf.GGUFReader) -> None:
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    for mark in ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"):
        assert types[tokens.index(mark)] == gguf.TokenType.CONTROL
    assert tokens[value(reader, "tokenizer.ggml.eot_token_id")] == "<|im_end|>"
    assert "<|im_start|>" in value(reader, "tokenizer.chat_template")


def test_weights_are_finite_and_stored_in_the_order_of_an_import(reader: gguf.GGUFReader) -> None:
    names = [tensor.name for tensor in reader.tensors]
    outside = [name for name in names if not name.startswith("blk.")]
    assert names[: len(outside)] == sorted(outside)
    assert list(reader.fields)[-2:] == ["general.quantization_version", "general.file_type"]
    for tensor in reader.tensors:
        assert np.isfinite(gguf.quants.dequantize(tensor.data, tensor.tensor_type)).all(), tensor.name


@pytest.mark.slow
def test_llama_cpp_splits_texts_as_the_tokenizer_of_the_pretraining(reader: gguf.GGUFReader) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    import llama

    tokens = value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(pair.split(" ")) for pair in value(reader, "tokenizer.ggml.merges")]
    ours = tokenizers.Tokenizer(tokenizers.models.BPE({token: place for place, token in enumerate(tokens)}, merges))
    ours.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ours.add_special_tokens([mark for mark in tokens if mark.startswith("<|")])
    served = llama.Served(BASE)
    for text in ODD_TEXTS + prompts(100):
        theirs = served.post("/tokenize", {"content": text, "parse_special": True})["tokens"]
        assert theirs == ours.encode(text, add_special_tokens=False).ids, text


@pytest.mark.slow
def test_llama_cpp_computes_what_the_pretraining_computed(
    reader: gguf.GGUFReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    import llama

    monkeypatch.syspath_prepend(str(EXAMPLES))
    try:
        make_base = importlib.import_module("make_base")
        model = make_base.Decoder(make_base.Shape())
    finally:
        for name in ("make_base", "base_text", "base_gguf"):
            sys.modules.pop(name, None)
    model.load_state_dict(
        {
            tensor.name: torch.from_numpy(
                gguf.quants.dequantize(tensor.data, tensor.tensor_type)
                .reshape(tuple(reversed(tensor.shape.tolist())))
                .copy()
            )
            for tensor in reader.tensors
        }
    )
    served = llama.Served(BASE)
    for prompt in prompts(4):
        ids = served.post("/tokenize", {"content": prompt, "add_special": True})["tokens"]
        with torch.no_grad():
            ours_V = model(torch.tensor([ids]))[0, -1].log_softmax(-1).numpy()
        theirs_V = served.log_probabilities(ids, len(ours_V))
        # llama.cpp rounds the inputs of a Q4_K product to 8 bits; a wrong RoPE or row order differs by whole units
        assert np.abs(np.exp(ours_V) - np.exp(theirs_V)).sum() / 2 < 0.05
