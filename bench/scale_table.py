"""The tables of docs/scale.md, from bench/results/scale.jsonl and gpu.jsonl and the functions of `expertune models`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gpu_models
import runs
import scale
from gguf import GGMLQuantizationType as Type

from expertune.config import Config
from expertune.estimate import throughput
from expertune.estimate.capability import REFERENCE, TrainingThroughput, machine_for, needed_memory
from expertune.estimate.plan import Plan
from expertune.files import size_text
from expertune.gguf.read import GGUFFile
from expertune.model.arch import read_config
from expertune.model.memory import (
    MemoryEstimate,
    RowShape,
    adapter_numbers,
    bytes_on_gpu,
    estimate_memory,
    tokens_at_once,
    weights_bytes,
)
from expertune.model.target_modules import first_adapted
from expertune.train.recipe import with_recipe

RECORDS, DEV_RECORDS = 1000, 100
CORES, OF_CORES = 16, 0.7  # a computer, or the processor of each GPU; share of so many cores' speed that is reached
GPUS, GPU_BYTES = 8, 0.9 * 80e9
PEAK, OF_PEAK = 989e12, 0.4  # dense bf16 of an H100 SXM (NVIDIA's data sheet); share reached by large products
LINK, BUS = 200e9, 20e9  # bytes a second between GPUs (NVLink, less than half of its 450 GB/s), and to them (PCIe 5)
MEASURED_GPU = {"SmolLM2-135M": RowShape(127, 19, 192), "m200": RowShape(156, 20, 224)}  # bench/gpu.py's 64 rows
H100 = "NVIDIA H100 80GB HBM3"


@dataclass(frozen=True)
class Model:
    """Numbers of a model with the default recipe. `work`: multiplications per token in each block; `head`: those of the
    output head per token of the answer."""

    work: tuple[float, ...]
    first: int
    head: float
    epochs: float
    batch: int
    adapter: int
    weights: float
    packed: int
    quantized: MemoryEstimate
    as_float32: MemoryEstimate
    on_gpu: int
    on_gpu_quantized: int
    machine: str


@cache
def model_of(name: str) -> Model:
    with tempfile.TemporaryDirectory() as folder, GGUFFile(header(folder, scale.SHAPES[name])) as file:
        return _model(file)


def header(folder: str, shape: gpu_models.Shape) -> Path:
    """A file of the shape without weights; in Q8_0 where the rows are too short for Q4_K."""
    return scale.write_file(Path(folder) / "header.gguf", shape, type=Type.Q8_0 if shape.width % 256 else Type.Q4_K)


def _model(file: GGUFFile) -> Model:
    spec, config = read_config(file), with_recipe(file, Config(), RECORDS)
    first = first_adapted(spec, config.layers)

    def needed(item: int, device: str, *, cached: bool, recomputed: bool = False) -> MemoryEstimate:
        return needed_memory(file, spec, REFERENCE, item, cached, recomputed, device)

    in_bf16, streamed = needed(2, "cuda", cached=True), needed(2, "cuda", cached=False)
    return Model(
        work=tuple(throughput._work(file, spec, index, REFERENCE) for index in range(len(spec.layers))),
        first=first,
        head=spec.width * spec.vocabulary,
        epochs=float(config.epochs),
        batch=config.batch_size,
        adapter=adapter_numbers(file, spec, config.rank, first),
        weights=weights_bytes(file, 1),
        packed=in_bf16.loading,
        quantized=needed(4, "cpu", cached=False, recomputed=True),
        as_float32=needed(4, "cpu", cached=True),
        on_gpu=bytes_on_gpu(file, in_bf16, 2),
        on_gpu_quantized=streamed.base - in_bf16.loading + streamed.adapter + streamed.working,
        machine=machine_for(file),
    )


# --- speed ---


def on_processor(model: Model, entry: runs.Entry, cores: float = 1.0) -> TrainingThroughput:
    """The whole model from the seconds of its first block and its first two, as `throughput.probe` does it."""
    one, two = entry["1"], entry["2"]
    steps, looks = ([each[key] / cores for each in (one, two)] for key in ("step_s", "look_s"))
    tokens, blocks = entry["rows"] * REFERENCE.row, (1, 2)
    each = throughput._seconds_per_work(blocks, looks, model.work)
    return _rate(
        tokens / throughput.carried_over(blocks, steps, model.work, model.first),
        tokens / throughput.carried_over(blocks, looks, model.work, model.first),
        each * sum(model.work[: model.first]) / tokens,
    )


def carried_to(model: Model, entry: runs.Entry) -> runs.Entry:
    """The figures of a smaller model's blocks, longer by the multiplications: for one that was not measured."""
    ratio = model.work[0] / model_of(entry["model"]).work[0]
    longer = {n: {**entry[n], "step_s": ratio * entry[n]["step_s"], "look_s": ratio * entry[n]["look_s"]} for n in "12"}
    return {**entry, **longer}


def on_gpus(model: Model, flops: float, gpus: int, unpack_s: float, least: float) -> TrainingThroughput:
    """The computed speed: a step's products at `flops` a second, divided among the GPUs; weights that do not fit are
    unpacked by the processor for each use (`unpack_s` a weight); the adapter's gradient is summed over all GPUs.

    `least`: seconds of the shortest step. Each step runs through the blocks without an adapter too (train/loop.py).
    """
    lower, upper = sum(model.work[: model.first]), sum(model.work[model.first :])
    tokens = model.batch * REFERENCE.row
    head = model.head * REFERENCE.answer / REFERENCE.row
    streamed = 0.0 if model.on_gpu <= GPU_BYTES else unpack_s + 2 / BUS
    once, share = model.weights * streamed, tokens / gpus / flops
    reduced = 2 * (gpus - 1) / gpus * 4 * model.adapter / LINK
    step = share * (2 * lower + 4 * upper + 4 * head) + once * (1 + upper / (lower + upper)) + reduced
    look = share * 2 * (lower + upper + head) + once
    return _rate(
        tokens / max(step, least), tokens / max(look, least), 0.0
    )  # on a GPU each step runs through the lower blocks


def _rate(tokens_s: float, look_tokens_s: float, trunk: float) -> TrainingThroughput:
    return TrainingThroughput(tokens_s, look_tokens_s, trunk, "", "", 0, "", False)


def plan_of(model: Model) -> Plan:
    """1,000 records to train on for the default epochs, 100 to validate on before the first and after each."""
    return Plan("", REFERENCE, RECORDS, model.epochs, DEV_RECORDS, 1 + round(model.epochs))


def measured_flops(entry: runs.Entry) -> float:
    """Operations a second of a training that bench/gpu.py measured: all blocks have an adapter."""
    shape, rows = gpu_models.SHAPES_OF[entry["model"]], MEASURED_GPU[entry["model"]]
    with tempfile.TemporaryDirectory() as folder, GGUFFile(header(folder, shape)) as file:
        spec = read_config(file)
        work = sum(throughput._work(file, spec, index, rows) for index in range(len(spec.layers)))
    return entry["tokens_s"] * 4 * (work + shape.width * shape.vocabulary * rows.answer / rows.row)


# --- tables ---


def tables(entries: Sequence[runs.Entry]) -> Iterator[str]:
    last = {each["model"]: each for each in entries if each["1"]["base_memory"] == "cached"}
    found = {name: last[name] for name in scale.SHAPES if name in last}
    on_gpu = gpu_entries()
    slow, fast = max(measured_flops(each) for each in on_gpu), OF_PEAK * PEAK
    least = min(each["batch"] * MEASURED_GPU[each["model"]].row / each["tokens_s"] for each in on_gpu)
    unpack_s = 1e-9 / (CORES * OF_CORES) * min(each["2"]["unpack_ns"] for each in found.values())
    yield from memory_table()
    yield ""
    yield from time_table(found, (slow, fast), unpack_s, least)
    yield ""
    yield from block_table(found)
    yield ""
    yield from gpu_memory_table(on_gpu)
    yield ""
    one = list(found.values())[-1]
    yield (
        f"Blocks: {one['machine']}, one thread, {one['2']['precision']}, {one['rows']} rows a step; "
        f"{one['date'][:10]}, commit {one['commit']}. Unpacking Q4_K into bf16: "
        f"{1e9 / min(each['2']['unpack_ns'] for each in found.values()) / 1e9:.2f} G weights a second and thread. "
        f"GPU speeds between {slow / 1e12:.0f} (measured) and {fast / 1e12:.0f} (assumed) TFLOP/s; "
        f"no step under {1e3 * least:.0f} ms (measured)."
    )


def gpu_entries() -> list[runs.Entry]:
    """The last figures of our trainer on the H100, with 32 rows a step and 4."""
    entries = runs.read_results(runs.RESULTS / "gpu.jsonl")
    wanted = [
        each
        for each in entries
        if each["card"].startswith(H100) and each.get("side") == "Expertune" and each.get("model") in MEASURED_GPU
    ]
    return list(runs.latest(wanted, "model", "batch").values())


def memory_table() -> Iterator[str]:
    head = ("model", "Q4_K file", "adapter, parameters", "computer, weights quantized", "computer, weights in float32")
    head += ("each GPU, weights in bf16", "each GPU, weights quantized", "`expertune models`: needs")
    rows = []
    for name in scale.SHAPES:
        model = model_of(name)
        sizes = (model.quantized.peak, model.as_float32.peak, model.on_gpu, model.on_gpu_quantized)
        adapter = f"{model.adapter / 1e6:.1f} M"
        rows.append([name, size_text(model.packed), adapter, *map(size_text, sizes), model.machine])
    yield from runs.table(head, rows)


def time_table(
    found: dict[str, runs.Entry], flops: tuple[float, float], unpack_s: float, least: float
) -> Iterator[str]:
    head = ("model", "machine", "weights", "tokens/s", "training", "figure")
    rows = []
    for name in scale.SHAPES:
        model = model_of(name)
        lines: list[tuple[str, str, list[TrainingThroughput], str]] = []
        entry = found.get(name) or carried_to(model, list(found.values())[-1])
        one, many = on_processor(model, entry), on_processor(model, entry, CORES * OF_CORES)
        origin = f"from a block of {entry['model']}" + (", measured" if name in found else ", computed")
        lines.append(("one thread", entry["2"]["precision"], [one], origin))
        lines.append((f"{CORES} cores", entry["2"]["precision"], [many], "computed"))
        kept = "bf16" if model.on_gpu <= GPU_BYTES else "quantized"
        for count in (1, GPUS):
            rates = [on_gpus(model, each, count, unpack_s, least) for each in flops]
            lines.append((f"{count} × H100", kept, rates, "computed"))
        for machine, weights, rates, figure in lines:
            times = [hours_text(plan_of(model).seconds(rate)) for rate in rates]
            speeds = [f"{float(f'{rate.tokens_per_second:.2g}'):,g}" for rate in rates]
            rows.append([name, machine, weights, span(speeds), span(times[::-1]), figure])
    yield from runs.table(head, rows)


def block_table(found: dict[str, runs.Entry]) -> Iterator[str]:
    """Each block's seconds, those that the smallest shape's block gives by its multiplications, and the memory."""
    head = ("block of", "multiplications a token", "step, ms a token", "from the 1B block", "GFLOP/s")
    head += ("peak of 2 blocks and head, MB", "estimate")
    rows, per_work = [], 0.0
    for name, entry in found.items():
        work, tokens = model_of(name).work[0], entry["rows"] * REFERENCE.row
        seconds = (entry["2"]["step_s"] - entry["1"]["step_s"]) / tokens
        per_work = per_work or seconds / work
        error = f"{per_work * work / seconds - 1:+.0%}"
        rows.append([name, f"{work / 1e6:,.0f} M", f"{1e3 * seconds:.1f}", error, f"{4e-9 * work / seconds:.0f}"])
        peak, said = entry["2"]["peak_mb"], entry["2"]["said_mb"]
        rows[-1] += [f"{peak:,.0f}", f"{said:,.0f} ({said / peak - 1:+.0%})"]
    yield from runs.table(head, rows)


def gpu_memory_table(entries: Sequence[runs.Entry]) -> Iterator[str]:
    rows = []
    for entry in entries:
        said, peak = gpu_bytes(entry["model"], entry["batch"]) / 1e6, entry["peak_mb"]
        speed = f"{measured_flops(entry) / 1e12:.0f}"
        rows.append([entry["model"], str(entry["batch"]), speed, f"{peak:,}", f"{said:,.0f} ({said / peak - 1:+.0%})"])
    yield from runs.table(("on the H100", "rows a step", "TFLOP/s", "peak MB, measured", "estimate"), rows)


def gpu_bytes(name: str, batch: int) -> int:
    """The memory that estimate/ gives for a training that bench/gpu.py measured."""
    with tempfile.TemporaryDirectory() as folder, GGUFFile(header(folder, gpu_models.SHAPES_OF[name])) as file:
        spec = read_config(file)
        at_once = tokens_at_once("cuda", spec, 0)
        sizes = {"item": 2, "rank": 16, "batch": batch, "at_once": at_once, "cached": True, "recomputed": False}
        return bytes_on_gpu(file, estimate_memory(file, spec, MEASURED_GPU[name], **sizes), 2)


def span(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 else f"{values[0]} to {values[-1]}"


def hours_text(seconds: float) -> str:
    """Two digits of it: 2.3 h, 4 min, 48 s."""
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (0, "s")) if seconds >= size)
    return f"{float(f'{seconds / max(1, size):.2g}'):,g} {unit}"
