"""Tiny models around a chat template, with the template's own special tokens, as a family's file has them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
from gguf import TokenType

import tiny

DATA = Path(__file__).parent / "data"
SPECIAL = re.compile(r"<\|[^<>|\s']+\|?>|<[^<>|\s']+\|>|<｜[^<>｜]+｜>|\[/?[A-Z_]+\]|</?[a-z:_]+>|\[gMASK\]")
WIDTH, HEADS = 64, 4


def template(name: str) -> str:
    return (DATA / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def make(
    path: Path,
    chat_template: str,
    *,
    eos: str = "</s>",
    bos: str | None = "<s>",
    ends: Sequence[str] = (),
) -> Path:
    """One llama block of random weights. `eos` and `bos` are what the file names so, `ends[0]` its end of a turn.

    `ends` stand beside the special tokens that the template spells. Without `bos` the file wants none in front.
    """
    special = list(dict.fromkeys([bos or "<s>", eos, *ends, *SPECIAL.findall(chat_template)]))
    pieces, _, _, merges = tiny.bpe_vocabulary()
    plain = [piece for piece in pieces if piece not in (tiny.BOS, tiny.EOS, tiny.TURN_BEGIN, tiny.TURN_END)]
    tokens = plain + special
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(1024)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([int(TokenType.NORMAL)] * len(plain) + [int(TokenType.CONTROL)] * len(special))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(bos or "<s>"))
    writer.add_eos_token_id(tokens.index(eos))
    if ends:
        writer.add_eot_token_id(tokens.index(ends[0]))
    writer.add_add_bos_token(bos is not None)
    writer.add_chat_template(chat_template)
    for name, value in _weights(len(tokens)):
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(tokens: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def matrix(rows: int, scale: float = 1.0) -> np.ndarray:
        return rng.standard_normal((rows, WIDTH), dtype=np.float32) * np.float32(scale / np.sqrt(WIDTH))

    yield "token_embd.weight", matrix(tokens)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        yield f"blk.0.{name}.weight", matrix(WIDTH)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        yield f"{name}.weight", np.ones(WIDTH, dtype=np.float32)
    yield "output.weight", matrix(tokens, 4.0)  # spread logits: an adapter can make a token all but certain
