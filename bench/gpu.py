"""Our trainer and decoder on a GPU, beside Unsloth and TRL + PEFT on the same weights, rows and card, in one call.

    python bench/gpu.py [--given FOLDER] [--seconds 440] [--peer-path FOLDER] [--own-path FOLDER]
    python bench/gpu.py --device cpu --quick            a dry run of everything but the peers, without a GPU
    python bench/gpu.py --table

--given holds what travels with the tree: rows.json (bench/gpu_rows.py) and, where there is room, the real models; those
that are missing get random weights of the same shapes. The two paths are folders of Python packages that the machine
lacks. Each part runs in a process with a time limit; the parts together end within --seconds. A part that fails is a
line with its error; --logs keeps all that the parts wrote to stderr. Results: bench/results/gpu.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import runs
from runs import Entry

HERE = Path(__file__).resolve().parent
RESULTS = runs.RESULTS / "gpu.jsonl"
MARK = "bench/gpu.py"
MODELS = ("SmolLM2-135M", "Gemma 3 270M", "m200")
SIDES = ("Expertune", "Unsloth", "TRL + PEFT")
SHARES = {"folders": 0.15, "Expertune": 0.3, "parity": 0.3, "Unsloth": 0.65, "TRL + PEFT": 1.0}  # of the time left


def main() -> int:
    options = parse()
    if options.table:
        runs.show_table(list(table(runs.read_results(options.results))), MARK)
        return 0
    ends = time.monotonic() + options.seconds
    stamp = {
        **runs.stamp(),
        **({"commit": options.commit} if options.commit else {}),
        "card": card(options.device),
        "quick": options.quick,
    }
    print(stamp, flush=True)
    with tempfile.TemporaryDirectory() as work:
        for part, command in commands(options, Path(work)).items():
            limit = max(10.0, SHARES[part] * (ends - time.monotonic()))
            for found in run(part, command, limit, options):
                runs.append_result(options.results, {**stamp, **found})
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--given", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="one tiny model, two families, a second each")
    parser.add_argument("--seconds", type=float, default=440, help="of the whole bench")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--parts", nargs="+", default=list(SHARES), choices=list(SHARES))
    parser.add_argument("--own-path", type=Path, help="packages that Expertune needs")
    parser.add_argument("--peer-path", type=Path, help="packages that the peers need")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--commit", default="", help="where the machine has no git: the commit that is measured")
    parser.add_argument("--logs", type=Path, help="folder for what each part writes to stderr, tracebacks in full")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="measure nothing; write the table into bench/README.md")
    return parser.parse_args()


def card(device: str) -> str:
    """Name of the GPU and version of torch."""
    name = "torch.cuda.get_device_name(0)" if device == "cuda" else "'CPU'"
    code = f"import torch; print({name}, '· torch', torch.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no GPU: " + (done.stderr.strip().splitlines() or ["?"])[-1][:200]


def commands(options: argparse.Namespace, work: Path) -> dict[str, list[str]]:
    """Part → command, in the order in which they run."""
    models = ["tiny"] if options.quick else options.models
    common = ["--work", work, "--device", options.device, "--models", *models]
    given = ["--given", options.given] if options.given else []
    brief = ["--warm", 0, "--seconds", 1, "--batches", 2] if options.quick else []
    families = ["--families", "llama", "gemma3"] if options.quick else []
    ours = [sys.executable, HERE / "gpu_ours.py"]
    found = {
        "folders": [*ours, "folders", *common, *given],
        "Expertune": [*ours, "speed", *common, *given, *brief],
        "parity": [*ours, "parity", *common, *given, *families],
    }
    if options.given and (options.given / "rows.json").exists() and not options.quick:
        peer = [options.peer_python, HERE / "peer_gpu.py"]
        rows = ["--rows", options.given.resolve() / "rows.json"]
        found |= {"Unsloth": [*peer, "unsloth", *common, *rows], "TRL + PEFT": [*peer, "trl", *common, *rows]}
    return {part: list(map(str, found[part])) for part in SHARES if part in found and part in options.parts}


def run(part: str, command: Sequence[str], limit: float, options: argparse.Namespace) -> Iterator[Entry]:
    """The figures that a part printed before its end or its limit; an error is one more line."""
    start = time.monotonic()
    print(f"{part} … (at most {limit:.0f} s)", flush=True)
    paths = [options.own_path, options.peer_path if part in ("Unsloth", "TRL + PEFT") else None, HERE.parent / "src"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(path.resolve()) for path in paths if path)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env)
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = f"stopped after {limit:.0f} s"
        out.seek(0)
        err.seek(0)
        said, errors = out.read().splitlines(), err.read().splitlines()
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)
        log = options.logs / f"{part.split()[0].lower()}.log"
        log.write_text("\n".join(errors), encoding="utf-8")
    for line in said:
        with suppress(json.JSONDecodeError):
            found = json.loads(line)
            print(f"  {line}", flush=True)
            yield found
    if code != 0:
        last = "; ".join(line.strip() for line in errors[-3:] if line.strip())[-400:]
        print("\n".join(errors[-25:]), flush=True)
        print(f"  did not finish ({code}): {last}", flush=True)
        yield {"side": part, "error": f"{code}: {last}"}
    print(f"  {time.monotonic() - start:.0f} s", flush=True)


# --- table ---


def table(entries: Sequence[Entry]) -> Iterator[str]:
    """The last measured run on a card; without one, that there is none."""
    measured = [each for each in entries if each.get("tokens_s") and not each["quick"] and "CPU" not in each["card"]]
    if not measured:
        yield "Not measured: no GPU was at hand."
        return
    last = measured[-1]
    own = [each for each in entries if (each["date"], each["card"]) == (last["date"], last["card"])]
    real = {each["model"] for each in own if each.get("real") and "model" in each}
    yield from runs.table(
        ("model", "rows a step", "side", "tokens/s", "Expertune's ratio", "peak MB"), list(speed_rows(own))
    )
    yield ""
    for each in own:
        if "records_s" in each:
            yield f"Rating, {each['model']}: {each['records_s']:,.0f} records/s (all labels scored by our decoder)."
    yield ""
    heads = ("decoder against float32 on the CPU", "float32", "its gradient", "bfloat16", "its gradient")
    keys = ("float32", "float32_gradient", "bfloat16", "bfloat16_gradient")
    yield from runs.table(
        heads, [[each["parity"], *(f"{each[key]:.2g}" for key in keys)] for each in own if "parity" in each]
    )
    yield ""
    for each in own:
        if "error" in each:
            yield f"{each['side']}{' ' + each['model'] if 'model' in each else ''} did not run: {each['error']}"
    yield f"{last['card']}; {last['date'][:10]}, commit {last['commit']}."
    yield f"Real weights: {', '.join(sorted(real)) or 'none'}; else random numbers in the same shapes."
    yield "Differences: the largest of a log-probability, the norm of a gradient's."


def speed_rows(own: Sequence[Entry]) -> Iterator[list[str]]:
    found = {(each["model"], each["batch"], each["side"]): each for each in own if each.get("tokens_s")}
    for model, batch in dict.fromkeys(key[:2] for key in found):
        ours = found.get((model, batch, SIDES[0]))
        for side in SIDES:
            each = found.get((model, batch, side))
            if each is None:
                yield [model, str(batch), side, "–", "–", "–"]
                continue
            ratio = f"{ours['tokens_s'] / each['tokens_s']:.2f}" if ours and side != SIDES[0] else ""
            yield [model, str(batch), side, f"{each['tokens_s']:,.0f}", ratio, f"{each['peak_mb']:,}"]


if __name__ == "__main__":
    sys.exit(main())
