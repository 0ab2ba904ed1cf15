"""Tokens equal llama.cpp's own vectors, through the engine and a file of weights around each vocabulary."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from expertune.engine.llama_cpp.engine import LlamaCppEngine
from expertune.engine.llama_cpp.tokens import Tokenizer
from expertune.ratings.scale import answer_opening
from expertune.train.code_branch import choose_branch, code_tokens, is_decision

OURS = Path(__file__).parents[1] / "data/vocab"
# larger vocabularies with their vectors (llama.cpp's models/ folder): checked where they are
MORE = Path(os.environ.get("EXPERTUNE_VOCABULARIES", Path(__file__).parents[3] / "shared/data/vocab"))
SEPARATOR = "\n__ggml_vocab_test__\n"
WIDTH = 64


@pytest.fixture(
    scope="module",
    params=[
        "llama-spm",
        "gpt-2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama-bpe", "qwen2", "qwen35", "gemma-4", "phi-3")),
    ],
)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, LlamaCppEngine]]:
    name = f"ggml-vocab-{request.param}.gguf"
    vocabulary = next((folder / name for folder in (OURS, MORE) if (folder / name).is_file()), None)
    if vocabulary is None:
        pytest.skip(f"{name} is too large to keep here; set EXPERTUNE_VOCABULARIES to llama.cpp's models folder")
    path = tmp_path_factory.mktemp("tokens") / "model.gguf"
    _model_around(vocabulary, path)
    with LlamaCppEngine(path, threads=1) as engine:
        yield vocabulary, engine


def _model_around(vocabulary: Path, path: Path) -> None:
    """One llama block of zeros, F16, with this vocabulary: a vocabulary alone cannot be served.

    The tokenizer's entries are copied as bytes: gguf-py takes 24 seconds to read and write 260,000 tokens.
    """
    count, tokens, entries = _tokenizer(vocabulary.read_bytes())
    settings = {
        "context_length": 4096,
        "embedding_length": WIDTH,
        "block_count": 1,
        "feed_forward_length": WIDTH,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
    }
    keys = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
        *(_text(f"llama.{key}") + struct.pack("<II", 4, value) for key, value in settings.items()),
    ]
    matrices = [
        f"blk.0.{name}" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]
    norms = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]
    infos, data = b"", b""
    for name, rows in [("token_embd", tokens), *((name, WIDTH) for name in matrices), *((name, 0) for name in norms)]:
        shape = struct.pack("<IQQ", 2, WIDTH, rows) if rows else struct.pack("<IQ", 1, WIDTH)
        infos += _text(f"{name}.weight") + shape + struct.pack("<IQ", 1 if rows else 0, len(data))  # type 1 is F16
        data += bytes(2 * WIDTH * rows) if rows else struct.pack("<f", 1.0) * WIDTH
    head = b"GGUF" + struct.pack("<IQQ", 3, 1 + len(matrices) + len(norms), count + len(keys)) + b"".join(keys)
    head += entries + infos
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _tokenizer(data: bytes) -> tuple[int, int, bytes]:
    """The tokenizer's metadata entries of a GGUF: how many, how many tokens they list, their bytes as they are."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    count, tokens, entries, at = 0, 0, [], 24

    def after(kind: int, at: int) -> int:
        if kind == 8:
            return at + 8 + struct.unpack_from("<Q", data, at)[0]
        if kind != 9:
            return at + sizes[kind]
        inner, length = struct.unpack_from("<IQ", data, at)
        at += 12
        for _ in range(length if inner == 8 else 0):
            at += 8 + struct.unpack_from("<Q", data, at)[0]
        return at if inner == 8 else at + length * sizes[inner]

    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        begin, value = at, after(8, at)
        key = data[begin + 8 : value].decode()
        (kind,) = struct.unpack_from("<I", data, value)
        at = after(kind, value + 4)
        if key.startswith("tokenizer."):
            count, entries = count + 1, [*entries, data[begin:at]]
        if key == "tokenizer.ggml.tokens":
            (tokens,) = struct.unpack_from("<Q", data, value + 8)
    return count, tokens, b"".join(entries)


def _vectors(vocabulary: Path) -> list[tuple[str, list[int]]]:
    """llama.cpp's texts and ids (tests/test-tokenizer-0.cpp reads them so)."""
    texts = (vocabulary.parent / f"{vocabulary.name}.inp").read_bytes().decode("utf-8").split(SEPARATOR)
    lines = (vocabulary.parent / f"{vocabulary.name}.out").read_text("utf-8").splitlines()
    return [(text, [int(token) for token in line.split()]) for text, line in zip(texts, lines, strict=False)]


def test_tokens_equal_llama_cpps_vectors(served: tuple[Path, LlamaCppEngine]):
    vocabulary, engine = served
    vectors = _vectors(vocabulary)
    assert len(vectors) > 40
    begin = engine.tokenize("")  # BOS, for the vocabularies that have one
    for text, expected in vectors:
        assert engine.tokenize(text) == begin + expected, text
        # no information is lost: the tokens' bytes are the text (a SentencePiece text begins with a blank)
        written = b"".join(piece for _, piece in engine._tokens(text, begin=False, special=False))
        assert written in (text.encode(), b" " + text.encode()), text


def test_continuations_of_real_vocabularies(served: tuple[Path, LlamaCppEngine]):
    """Prompt and answer are tokenised as one text wherever the prompt's tokens stay as they are."""
    _, engine = served
    prompt, answer = "Rate this record.\n", '{"rating": "Does Not Match", "rationale": "cough"}'
    assert engine.tokenize(prompt) + engine.continuation(prompt, answer) == engine.tokenize(prompt + answer)
    # "recording" is other tokens than "record" and what follows it, so the answer is tokenised by itself
    apart = engine.tokenize("Rate this record") + engine.continuation("Rate this record", "ing")
    text = engine._server.ask("/detokenize", {"tokens": apart})["content"]
    assert text.endswith("Rate this recording")


def test_what_is_remembered_of_answers_is_what_a_new_tokenizer_finds(served: tuple[Path, LlamaCppEngine]):
    _, engine = served
    answers = [*map(answer_opening, ("Match", "Does Not Match", "不符合", "")), " A", "</s>"]
    for record in ("cough", "cough ", "🩺\n", "<|im_start|>user\nfever", ""):
        prompt = engine.render([{"role": "user", "content": record}])
        for text in (prompt, prompt + record):
            assert engine.spelled(text, answers) == Tokenizer(engine._server.ask).spelled(text, answers)


def test_the_codes_are_one_token_each_after_their_lead(served: tuple[Path, LlamaCppEngine]) -> None:
    _, engine = served
    prompt = engine.render([{"role": "user", "content": "cough"}])
    branch = choose_branch(engine, prompt, 30)
    assert branch is not None and is_decision(engine, prompt, branch)
    found, begin = code_tokens(engine, prompt, branch), engine.tokenize(prompt)
    assert len(set(found.codes)) == 30
    for answer, code in zip(branch.answers(), found.codes, strict=True):
        assert engine.tokenize(prompt + answer) == [*begin, *found.lead, code]
    assert engine.tokenize(prompt + branch.lead) == [*begin, *found.lead]
