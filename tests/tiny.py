"""Tiny random models in GGUF with a real tokenizer and chat template inside, made in milliseconds, for any test.

    import tiny
    tiny.make(tmp_path / "model.gguf", vocab="bpe", qtype="Q4_K", types={"ffn_down": "Q6_K"})

llama.cpp loads, tokenises, renders and generates with them. The weights are random, so the answers mean nothing,
but the logits are spread (standard deviation 1 to 3) as those of a trained model are.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BOS, EOS, TURN_BEGIN, TURN_END = "<s>", "</s>", "<|im_start|>", "<|im_end|>"
FILE_TYPES = {
    "F32": "ALL_F32",
    "MXFP4": "MOSTLY_MXFP4_MOE",
    **{f"Q{bits}_K": f"MOSTLY_Q{bits}_K_S" for bits in (3, 4, 5)},
}  # else MOSTLY_<type>
CORPUS = """
Match Does Not Match Unknown {"rating": "Match", "rationale": "cough and fever"} {"rating": "Does Not Match"}
{"rating": "Unknown", "rationale": "the record does not say"} rating rationale the patient has a cough and a fever
respiratory infections emergency department visit system user assistant chief complaint discharge diagnosis triage notes
shortness of breath chest pain abdominal pain injury fall ankle Rate this record against the topic answer with one of
"""
SPACE_BPE, SPACE_SPM = "Ġ", "▁"


def make(
    path: Path | str,
    *,
    architecture: str = "llama",
    width: int | None = None,
    ffn: int | None = None,
    layers: int = 2,
    heads: int = 4,
    kv: int = 2,
    vocab: str = "bpe",
    qtype: str = "F32",
    types: Mapping[str, str] | None = None,
    tied: bool = False,
    rope_freqs: bool = False,
    chat_template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
    context: int = 512,
    extra: Mapping[str, Any] | None = None,
    favour: Sequence[int] = (),
    chains: Sequence[Sequence[int]] = (),
) -> Path:
    """Write a model of `architecture` qwen2 (biases on q, k, v), qwen3 (norms on q, k) or one with llama's tensors.

    `vocab` is "bpe" (byte level, as in Llama 3) or "spm" (as in Llama 2). `qtype` is the type of every matrix;
    `types` overrides it for names that hold the key ({"ffn_down": "Q6_K"}). Norms, biases and rope_freqs are F32.
    `width` is 64, or 256 where a K-quant needs it; `ffn` is twice the width. `extra` adds metadata (str, int,
    float or bool), and wins over ours. `favour` are token ids that the model likes to say anywhere; each of a
    chain makes it want the one that follows, most of all in the first chain.
    """
    wanted = [qtype, *(types or {}).values()]
    if width is None:
        width = 256 if any(gguf.GGML_QUANT_SIZES[GGMLQuantizationType[name]][0] > 64 for name in wanted) else 64
    ffn = ffn or 2 * width
    tokens = {"bpe": bpe_vocabulary, "spm": spm_vocabulary}[vocab]()
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, width, ffn, layers, heads, kv, len(tokens[0]), context, extra or {})
    weights = _weights(architecture, width, ffn, layers, heads, kv, len(tokens[0]), tied, rope_freqs, seed)
    return finish(
        writer,
        _chain(((name, _favour(name, value, favour)) for name, value in weights), chains),
        vocab=vocab,
        qtype=qtype,
        types=types,
        chat_template=chat_template,
    )


def finish(
    writer: gguf.GGUFWriter,
    weights: Iterable[tuple[str, np.ndarray]],
    *,
    vocab: str,
    qtype: str,
    types: Mapping[str, str] | None = None,
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Write tokenizer and tensors after the metadata; a vector stays F32."""
    _add_tokenizer(writer, vocab, {"bpe": bpe_vocabulary, "spm": spm_vocabulary}[vocab](), chat_template)
    for name, value in weights:
        kind = next((typ for part, typ in (types or {}).items() if part in name), qtype)
        if value.ndim == 1 or kind == "F32":
            writer.add_tensor(name, value)
        else:
            writer.add_tensor(name, quantize(value, kind), raw_dtype=GGMLQuantizationType[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES.get(qtype, f"MOSTLY_{qtype}")])
    return _written(writer)


def unpack(model: Path, path: Path, *, blocks: int | None = None) -> Path:
    """Write the same model, or its first blocks alone, with every weight in float32, dequantised by gguf-py."""
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    count = reader.fields[f"{architecture}.block_count"].contents()
    blocks, writer = blocks or count, gguf.GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kinds, value = [*field.types, None], field.contents()
            if name.startswith(f"{architecture}.") and isinstance(value, list) and len(value) == count:
                value = value[:blocks]  # one for each block
            writer.add_key_value(name, blocks if name.endswith(".block_count") else value, kinds[0], sub_type=kinds[1])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and int(tensor.name.split(".")[1]) >= blocks:
            continue
        plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(plain, dtype=np.float32))
    return _written(writer)


def _written(writer: gguf.GGUFWriter) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert writer.path is not None
    return Path(writer.path)


def _add_metadata(
    writer: gguf.GGUFWriter,
    width: int,
    ffn: int,
    layers: int,
    heads: int,
    kv: int,
    tokens: int,
    context: int,
    extra: Mapping[str, Any],
) -> None:
    name = writer.arch
    ours: dict[str, Any] = {
        "general.name": "tiny",
        f"{name}.context_length": context,
        f"{name}.embedding_length": width,
        f"{name}.block_count": layers,
        f"{name}.feed_forward_length": ffn,
        f"{name}.attention.head_count": heads,
        f"{name}.attention.head_count_kv": kv,
        f"{name}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{name}.rope.freq_base": 10000.0,
        f"{name}.rope.dimension_count": width // heads,
        f"{name}.vocab_size": tokens,
    }
    for key, value in {**ours, **extra}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](key, value)


def _weights(
    architecture: str,
    width: int,
    ffn: int,
    layers: int,
    heads: int,
    kv: int,
    tokens: int,
    tied: bool,
    rope_freqs: bool,
    seed: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor as float32: matrices (out, in), vectors (width,)."""
    rng, head = np.random.default_rng(seed), width // heads

    def linear(out: int, inp: int, scale: float = 1.0) -> np.ndarray:
        return rng.standard_normal((out, inp), dtype=np.float32) * np.float32(scale / np.sqrt(inp))

    def norm(size: int) -> np.ndarray:
        return 1 + np.float32(0.1) * rng.standard_normal(size, dtype=np.float32)

    yield "token_embd.weight", linear(tokens, width, 2.0)
    for block in range(layers):
        yield f"blk.{block}.attn_norm.weight", norm(width)
        yield f"blk.{block}.ffn_norm.weight", norm(width)
        shapes = {
            "attn_q": (heads * head, width),
            "attn_k": (kv * head, width),
            "attn_v": (kv * head, width),
            "attn_output": (width, heads * head),
            "ffn_gate": (ffn, width),
            "ffn_up": (ffn, width),
            "ffn_down": (width, ffn),
        }
        for name, (out, inp) in shapes.items():
            yield f"blk.{block}.{name}.weight", linear(out, inp)
            if architecture == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                yield f"blk.{block}.{name}.bias", norm(out) - 1
        if architecture == "qwen3":
            yield f"blk.{block}.attn_q_norm.weight", norm(head)
            yield f"blk.{block}.attn_k_norm.weight", norm(head)
    if rope_freqs:
        yield "rope_freqs.weight", np.linspace(1, 8, head // 2, dtype=np.float32)
    yield "output_norm.weight", norm(width)
    if not tied:
        yield "output.weight", linear(tokens, width, 2.0)


def _favour(name: str, value: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Every embedding gets a part in one direction, and the outputs of `tokens` look there."""
    if tokens and name == "token_embd.weight":
        value = value + np.float32(0.75)
    if tokens and name == "output.weight":
        value = value.copy()
        value[list(tokens)] += np.float32(0.5)
    return value


def _chain(
    weights: Iterable[tuple[str, np.ndarray]], chains: Sequence[Sequence[int]]
) -> Iterator[tuple[str, np.ndarray]]:
    """The blocks add little to the embeddings, and each token's output looks at the embedding of the one before."""
    embedding = np.empty(0)
    for name, value in weights:
        if name == "token_embd.weight":
            embedding = value
        if chains and ("attn_output" in name or "ffn_down" in name):
            value = value * np.float32(0.01)
        if chains and name == "output.weight":
            value = value.copy()
            for rank, tokens in enumerate(chains):
                for before, after in itertools.pairwise(tokens):
                    value[after] += np.float32(2 - rank / 2) * embedding[before] / np.linalg.norm(embedding[before])
        yield name, value


# --- quantising, by ggml's own code (F16 and BF16 by gguf-py) ---


@functools.cache
def _ggml() -> ctypes.CDLL:
    package = importlib.util.find_spec("xllamacpp")
    assert package and package.submodule_search_locations
    folder = Path(next(iter(package.submodule_search_locations)))
    library = ctypes.CDLL(str(next(p for p in sorted(folder.glob("xllamacpp*")) if p.suffix in (".so", ".pyd"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library


def quantize(weight_OI: np.ndarray, qtype: str) -> np.ndarray:
    """float32 (O, I), or (E, O, I) → packed rows, uint8. Types that need an importance matrix get one of ones."""
    kind = GGMLQuantizationType[qtype]
    if weight_OI.ndim == 3:
        return np.stack([quantize(each_OI, qtype) for each_OI in weight_OI])
    if qtype in ("F16", "BF16"):
        return gguf.quants.quantize(weight_OI, kind).view(np.uint8)
    rows, width = weight_OI.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert width % block == 0, f"{qtype} needs rows that are multiples of {block}, not {width}"
    weight_OI = np.ascontiguousarray(weight_OI, dtype=np.float32)
    packed = np.zeros((rows, width // block * size), dtype=np.uint8)
    importance = np.ones(width, dtype=np.float32)
    written = _ggml().ggml_quantize_chunk(
        int(kind),
        weight_OI.ctypes.data,
        packed.ctypes.data,
        0,
        rows,
        width,
        importance.ctypes.data if qtype.startswith("IQ") else None,
    )
    assert written == packed.nbytes
    return packed


# --- vocabularies ---

Vocabulary = tuple[list[str], list[float], list[int], list[str]]  # tokens, scores, types, merges


def _add_tokenizer(writer: gguf.GGUFWriter, kind: str, vocabulary: Vocabulary, chat_template: str | None) -> None:
    tokens, scores, types, merges = vocabulary
    writer.add_tokenizer_model("gpt2" if kind == "bpe" else "llama")
    writer.add_tokenizer_pre("llama-bpe" if kind == "bpe" else "default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind == "bpe":
        writer.add_token_merges(merges)
    else:
        writer.add_token_scores(scores)
        writer.add_unk_token_id(tokens.index("<unk>"))
    writer.add_bos_token_id(tokens.index(BOS))
    writer.add_eos_token_id(tokens.index(EOS))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _learn(words: Counter[tuple[str, ...]], count: int) -> list[tuple[str, str]]:
    """`count` merges of byte-pair encoding, the most frequent pair first (ties by text, so that it is stable)."""
    merges = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): times for word, times in words.items()})
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def _words(space: str) -> Counter[tuple[str, ...]]:
    return Counter(tuple(space + word) for word in CORPUS.split()) + Counter(tuple(w) for w in CORPUS.split())


@functools.cache
def bpe_vocabulary() -> Vocabulary:
    """256 byte tokens, 240 merges, control tokens: the "gpt2" model."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(rest))]
    merges = _learn(_words(SPACE_BPE), 240)
    pieces = list(dict.fromkeys([*alphabet, *(left + right for left, right in merges)]))
    control = [BOS, EOS, TURN_BEGIN, TURN_END]
    types = [int(TokenType.NORMAL)] * len(pieces) + [int(TokenType.CONTROL)] * len(control)
    tokens = pieces + control
    return tokens, [0.0] * len(tokens), types, [f"{left} {right}" for left, right in merges]


@functools.cache
def spm_vocabulary() -> Vocabulary:
    """Unknown, control, 256 byte tokens, characters, 240 merged pieces: the "llama" model."""
    words = _words(SPACE_SPM)
    characters = sorted({character for word in words for character in word})
    merged = list(dict.fromkeys(left + right for left, right in _learn(words, 240)))
    pieces = [*merged, *characters]
    tokens = ["<unk>", BOS, EOS, TURN_BEGIN, TURN_END, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [
        int(TokenType.UNKNOWN),
        *[int(TokenType.CONTROL)] * 4,
        *[int(TokenType.BYTE)] * 256,
        *[int(TokenType.NORMAL)] * len(pieces),
    ]
    scores = [0.0] * 261 + [-float(rank) for rank in range(len(pieces))]
    return tokens, scores, types, []
