"""Pretrain the small base model of the examples from scratch and write it as a GGUF.

    python examples/make_base.py --corpus DIR --steps N            train, then write examples/base.gguf
    python examples/make_base.py --export-only                     write the GGUF from the last checkpoint

Needs torch, gguf and `tokenizers` (pip install expertune[dev]). The learning rate is constant and falls linearly in
the last third, so a checkpoint from the constant part can be finished with another --steps.
Axes: B batch · T token · D model width · H head · E head width · V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import base_text
import numpy as np
import torch
from base_gguf import write_gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SPECIAL = (base_text.BOS, base_text.EOS, base_text.START, base_text.END)


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 4096
    context: int = 1024
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 768
    rope_base: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        return self.width // self.heads


def rope_tables(shape: Shape, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine. *Shape:* (T, E/2) each."""
    steps = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
    angles = torch.outer(torch.arange(tokens, dtype=torch.float64), shape.rope_base**-steps)
    return angles.cos().float(), angles.sin().float()


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on neighbouring pairs, as llama.cpp's "llama" architecture does (ggml rope type NORM)."""
    even, odd = x_BHTE[..., 0::2], x_BHTE[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, named as in GGUF."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        kv_width = shape.kv_heads * shape.head_width
        self.shape = shape
        self.attn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attn_q = nn.Linear(shape.width, shape.width, bias=False)
        self.attn_k = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_v = nn.Linear(shape.width, kv_width, bias=False)
        self.attn_output = nn.Linear(shape.width, shape.width, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.ffn_gate = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x_BTD: Tensor, cos: Tensor, sin: Tensor, mask_TT: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attn_norm(x_BTD), cos, sin, mask_TT)
        h_BTD = self.ffn_norm(x_BTD)
        return x_BTD + self.ffn_down(F.silu(self.ffn_gate(h_BTD)) * self.ffn_up(h_BTD))

    def attention(self, h_BTD: Tensor, cos: Tensor, sin: Tensor, mask_TT: Tensor) -> Tensor:
        batch, tokens, _ = h_BTD.shape
        heads, kv, size = self.shape.heads, self.shape.kv_heads, self.shape.head_width
        q = rotate(self.attn_q(h_BTD).view(batch, tokens, heads, size).transpose(1, 2), cos, sin)
        k = rotate(self.attn_k(h_BTD).view(batch, tokens, kv, size).transpose(1, 2), cos, sin)
        v = self.attn_v(h_BTD).view(batch, tokens, kv, size).transpose(1, 2)
        k, v = (x.repeat_interleave(heads // kv, dim=1) for x in (k, v))
        # plain products: the CPU backward of scaled_dot_product_attention is slower at this size
        scores_BHTT = (q @ k.transpose(-1, -2)) * size**-0.5 + mask_TT
        mixed_BHTE = scores_BHTT.softmax(-1).to(v.dtype) @ v
        return self.attn_output(mixed_BHTE.transpose(1, 2).reshape(batch, tokens, -1))


class Decoder(nn.Module):
    """A llama decoder whose output layer is its embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                last = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if last else 0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits. *Shape:* (B, T, V)."""
        tokens = ids_BT.shape[1]
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        cos, sin = (table.to(dtype) for table in rope_tables(self.shape, tokens))
        mask_TT = torch.full((tokens, tokens), -torch.inf, dtype=dtype).triu(1)
        x_BTD = self.token_embd(ids_BT).to(dtype)
        for block in self.blk:
            x_BTD = block(x_BTD, cos, sin, mask_TT)
        return F.linear(self.output_norm(x_BTD), self.token_embd.weight)


def make_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's splitting rule: llama.cpp's pre-tokenizer "gpt-2"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bare = [text for text in texts for mark in [text] if mark]
    for mark in SPECIAL:
        bare = [text.replace(mark, "\n") for text in bare]
    tokenizer.train_from_iterator(bare, trainer)
    return tokenizer


def prepare(corpus: Path, work: Path, shape: Shape, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of the training and the held-out documents (every 100th), each as one stream."""
    texts = base_text.documents(corpus, seed)
    tokenizer = make_tokenizer(texts[::3], shape.vocabulary)
    tokenizer.save(str(work / "tokenizer.json"))
    held_out = texts[::100]
    kept = [text for place, text in enumerate(texts) if place % 100]
    streams = []
    for name, part in (("train", kept), ("held_out", held_out)):
        encoded = tokenizer.encode_batch_fast(part, add_special_tokens=False)
        streams.append(np.concatenate([np.array(one.ids, dtype=np.uint16) for one in encoded]))
        np.save(work / f"{name}.npy", streams[-1])
    return streams[0], streams[1]


def batch_at(stream: np.ndarray, start: int, rows: int, tokens: int) -> Tensor:
    """`rows` neighbouring windows of the stream, each one token longer for its targets; wraps at the end."""
    index = (start + np.arange(rows)[:, None] * tokens + np.arange(tokens + 1)) % len(stream)
    return torch.from_numpy(stream[index].astype(np.int64))


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def make_optimizers(model: Decoder, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (needs fewer tokens than AdamW), AdamW for embedding and norms."""
    matrices = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and name.startswith("blk.")]
    others = [weight for name, weight in model.named_parameters() if weight.ndim == 1 or not name.startswith("blk.")]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_factor(step: int, steps: int) -> float:
    """Warm-up over 40 steps, constant, then a linear fall over the last third."""
    return min(1.0, (step + 1) / 40, max(0.0, (steps - step) / (steps / 3)))


def train(args: argparse.Namespace, shape: Shape) -> Decoder:
    torch.manual_seed(args.seed)
    model = Decoder(shape)
    optimizers = make_optimizers(model, args.learning_rate)
    step = 0
    if args.resume:
        state = torch.load(args.work / "checkpoint.pt")
        step = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        stream, held_out = (np.load(args.work / f"{name}.npy") for name in ("train", "held_out"))
    else:
        stream, held_out = prepare(args.corpus, args.work, shape, args.seed)
    weights = sum(weight.numel() for weight in model.parameters())
    print(f"{weights:,} weights, {len(stream):,} training tokens, {len(held_out):,} held out", flush=True)
    saved_at = began = time.monotonic()
    begun_at, average = step, 0.0
    while step < args.steps:
        # windows of the full context come last: attention over them is dear, and positions are learnt quickly
        tokens = shape.context if step >= 0.9 * args.steps else 256
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = args.learning_rate * rate_factor(step, args.steps)
        loss = loss_of(model, batch_at(stream, step * args.batch_tokens, args.batch_tokens // tokens, tokens))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        average = loss.item() if not average else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0:
            speed = (step - begun_at) * args.batch_tokens / (time.monotonic() - began)
            print(f"step {step} loss {average:.3f} {speed:.0f} tok/s", flush=True)
        if time.monotonic() - saved_at > args.checkpoint_minutes * 60 or step == args.steps:
            save(args, shape, model, optimizers, step)
            saved_at = time.monotonic()
    return model


def save(
    args: argparse.Namespace, shape: Shape, model: Decoder, optimizers: list[torch.optim.Optimizer], step: int
) -> None:
    state: dict[str, Any] = {
        "step": step,
        "shape": asdict(shape),
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, args.work / "checkpoint.tmp")
    (args.work / "checkpoint.tmp").replace(args.work / "checkpoint.pt")
    export(args, shape, model, step)


def export(args: argparse.Namespace, shape: Shape, model: Decoder, step: int) -> None:
    tensors = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    vocabulary = json.loads((args.work / "tokenizer.json").read_text())
    recipe = {
        "seed": args.seed,
        "steps": step,
        "tokens": step * args.batch_tokens,
        "command": f"python examples/make_base.py --seed {args.seed} --steps {args.steps} "
        f"--learning-rate {args.learning_rate:g} --batch-tokens {args.batch_tokens}",
    }
    write_gguf(args.out, shape, tensors, vocabulary, recipe)


@torch.no_grad()
def perplexity(model: Decoder, stream: np.ndarray, tokens: int = 512) -> float:
    """exp of the mean loss over windows of the held-out stream, in float32."""
    windows = [batch_at(stream, start, 1, tokens) for start in range(0, len(stream) - tokens - 1, tokens)]
    losses = [F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item() for ids in windows]
    return math.exp(sum(losses) / len(losses))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=HERE.parent.parent / "shared/data/corpus")
    parser.add_argument("--work", type=Path, default=HERE.parent / "build/base", help="checkpoint and tokens")
    parser.add_argument("--out", type=Path, default=HERE / "base.gguf")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--checkpoint-minutes", type=float, default=3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--export-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    if args.export_only:
        state = torch.load(args.work / "checkpoint.pt")
        model = Decoder(shape)
        model.load_state_dict(state["model"])
        export(args, shape, model, state["step"])
    else:
        model = train(args, shape)
    print(f"held-out perplexity {perplexity(model, np.load(args.work / 'held_out.npy')):.2f} (float32)")


if __name__ == "__main__":
    main()
