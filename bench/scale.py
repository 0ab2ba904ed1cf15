"""Time and memory at 1 to 70 B parameters: one block of each shape is measured here, all else is computed from it.

    python bench/scale.py [--models "Llama 3.1 8B" …] [--rows 2]
    python bench/scale.py --table          measure nothing; write the tables into docs/scale.md

A file of one block and one of two, with random weights in Q4_K and the real widths, heads and vocabulary, are trained
a step each, in a process of their own; the difference is a whole block, forward and backward. Times are processor
seconds of one thread, which other work changes little. The figures of the whole model come from these by the functions
of `expertune models` (estimate/). Results: bench/results/scale.jsonl.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import runs
from gguf import GGMLQuantizationType as Type
from gpu_models import Shape, add_header

from expertune.config import Config
from expertune.gguf import quants
from expertune.gguf.read import GGUFFile

PAGE, RESULTS, MARK = runs.ROOT / "docs" / "scale.md", runs.RESULTS / "scale.jsonl", "bench/scale.py"
SHAPES = {  # config.json of the models' pages on Hugging Face
    "Llama 3.2 1B": Shape("1b.gguf", "llama", 2048, 8192, 16, 32, 8, 64, 128256, 5e5, 1e-5),
    "Llama 3.1 8B": Shape("8b.gguf", "llama", 4096, 14336, 32, 32, 8, 128, 128256, 5e5, 1e-5, tied=False),
    "Qwen 2.5 32B": Shape("32b.gguf", "qwen2", 5120, 27648, 64, 40, 8, 128, 152064, 1e6, 1e-6, tied=False),
    "Llama 3.3 70B": Shape("70b.gguf", "llama", 8192, 28672, 80, 64, 8, 128, 128256, 5e5, 1e-5, tied=False),
}
TILE = 64  # rows of random weights that a matrix repeats: their values do not change the cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--rows", type=int, default=2, help="of 250 tokens in a step")
    parser.add_argument("--weight-cache", default="dequantized", choices=("quantized", "dequantized"))
    parser.add_argument("--compute-dtype", default="auto", choices=("auto", "fp32", "bf16"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="measure nothing; write the tables into docs/scale.md")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        from scale_table import tables

        runs.put_between(PAGE, MARK, list(tables(runs.read_results(options.results))))
    elif options.child:
        print(json.dumps(measured(options.child, options)))
    else:
        for name in options.models:
            runs.append_result(options.results, {**runs.stamp(), "model": name, **in_children(name, options)})


def in_children(name: str, options: argparse.Namespace) -> runs.Entry:
    """Figures of the model's first block alone, and of two, each in a fresh process."""
    found: runs.Entry = {"rows": options.rows}
    flags = ["--rows", options.rows, "--weight-cache", options.weight_cache]
    flags += ["--compute-dtype", options.compute_dtype]
    for blocks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = fill(write_file(Path(folder) / "blocks.gguf", SHAPES[name], blocks))
            log = Path(folder) / "log"
            child = runs.run_child([sys.executable, __file__, "--child", path, *flags], log)
        if child.code:
            sys.exit(f"{name}, {blocks} blocks: {child.last_error}")
        found[str(blocks)] = child.last_json
        print(name, blocks, child.last_json, flush=True)
    return found


# --- the files ---


def write_file(path: Path, shape: Shape, blocks: int | None = None, type: Type = Type.Q4_K) -> Path:
    """A GGUF with the header of the model, and zeros that take no place on the disk for its tensors."""
    writer = gguf.GGUFWriter(path, shape.family)
    add_header(writer, shape, blocks or shape.layers)
    total = 0
    for name, dims in tensors(shape, blocks or shape.layers):
        kind = Type.F32 if len(dims) == 1 else type
        block, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = math.prod(dims) // block * size
        writer.add_tensor_info(name, dims, np.dtype(np.float32), nbytes, raw_dtype=kind)
        total += gguf.GGUFWriter.ggml_pad(nbytes, writer.data_alignment)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, gguf.GGUFWriter.ggml_pad(path.stat().st_size, writer.data_alignment) + total)
    return path


def tensors(shape: Shape, blocks: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape (out, in) of each tensor."""
    wide, narrow = shape.heads * shape.head, shape.kv * shape.head
    yield "token_embd.weight", (shape.vocabulary, shape.width)
    for block in range(blocks):
        of_block = {
            "attn_norm": (shape.width,),
            "ffn_norm": (shape.width,),
            "attn_q": (wide, shape.width),
            "attn_k": (narrow, shape.width),
            "attn_v": (narrow, shape.width),
            "attn_output": (shape.width, wide),
            "ffn_gate": (shape.ffn, shape.width),
            "ffn_up": (shape.ffn, shape.width),
            "ffn_down": (shape.width, shape.ffn),
        }
        yield from ((f"blk.{block}.{name}.weight", dims) for name, dims in of_block.items())
        if shape.family == "qwen2":
            sizes = {"q": wide, "k": narrow, "v": narrow}
            yield from ((f"blk.{block}.attn_{each}.bias", (size,)) for each, size in sizes.items())
    yield "output_norm.weight", (shape.width,)
    if not shape.tied:
        yield "output.weight", (shape.vocabulary, shape.width)


def fill(path: Path) -> Path:
    """Write random weights of a sensible size into the file."""
    draw = np.random.default_rng(0)
    with GGUFFile(path) as file, open(path, "r+b") as out:
        for info in file.tensors.values():
            out.seek(info.offset)
            if len(info.shape) == 1:
                out.write((1 + 0.1 * draw.standard_normal(info.shape, dtype=np.float32)).tobytes())
                continue
            tile = draw.standard_normal((TILE, info.width), dtype=np.float32) / np.float32(math.sqrt(info.width))
            packed = quants.quantize(tile, info.type).tobytes()
            for _ in range(info.rows // TILE):
                out.write(packed)
    return path


# --- a block ---


def measured(path: Path, options: argparse.Namespace) -> runs.Entry:
    """Seconds of a step and of an evaluation, peak memory, and what estimate/ says of that; loads what a run loads."""
    import pandas  # noqa: F401
    import sklearn.linear_model  # noqa: F401

    import expertune.fine_tuner  # noqa: F401
    from expertune.config import with_changes
    from expertune.estimate import throughput
    from expertune.estimate.capability import REFERENCE
    from expertune.model.arch import read_config
    from expertune.model.load import load, place
    from expertune.model.memory import estimate_memory
    from expertune.train.evaluate import evaluate
    from expertune.train.loop import Trainer
    from expertune.train.recipe import with_recipe

    given = {"weight_cache": options.weight_cache, "compute_dtype": options.compute_dtype, "device": "cpu"}
    config = Config(layers="all", batch_size=options.rows, threads=1, **given)
    with GGUFFile(path) as file:
        spec, placement = read_config(file), place(file, config)
        config = with_changes(with_recipe(file, config), gradient_accumulation_steps=1)
        part = throughput._flattened(load(file, config, placement, row_tokens=REFERENCE.longest))
        data = throughput._data(REFERENCE, spec.vocabulary, options.rows)
        trainer = Trainer(part, data, config)
        look = partial(evaluate, part, data.dev, data.candidates, batch_size=options.rows)
        found = {"look_s": processor_seconds(look), "step_s": processor_seconds(trainer.one_step)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        said = estimate_memory(
            file,
            spec,
            REFERENCE,
            item=placement.dtype.itemsize,
            rank=config.rank,
            batch=options.rows,
            at_once=options.rows * REFERENCE.row,
            cached=placement.cached,
            recomputed=part.decoder.recompute,
        )
        found |= {"peak_mb": peak / 1e6, "said_mb": said.peak / 1e6, "unpack_ns": unpack_nanoseconds(file)}
    return {key: round(value, 4) for key, value in found.items()} | placement.describe()


def processor_seconds(work: Callable[[], object], times: int = 2) -> float:
    """The least processor time of some calls, the first of which sets up the kernels."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def unpack_nanoseconds(file: GGUFFile) -> float:
    """Time to unpack a weight into bfloat16, as for a GPU that does not hold the weights."""
    import torch

    from expertune.model.weights import unpack

    info = file.tensors["blk.0.ffn_up.weight"]
    packed, out = file.blocks(info.name), torch.empty(info.shape, dtype=torch.bfloat16)
    return 1e9 * processor_seconds(lambda: unpack(packed, info.type, out, threads=1)) / math.prod(info.shape)


if __name__ == "__main__":
    main()
