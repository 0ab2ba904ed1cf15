"""Training speed and memory on this machine's CPU: ours beside TRL + PEFT, in one run.

    python bench/train_cpu.py --peer-python PEER_VENV/bin/python [--csv formatted_dataset.csv] [--steps 10]

Both tune "m200" (a llama shape of 200 M weights in Q4_K, made on the spot) on the same rows with rank 16, batch 4.
The peer needs an environment of its own: pip install torch trl peft transformers datasets gguf pandas accelerate
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import make_gguf

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "tests/data/ratings/ktas_acuity_subset.csv"


def run(command: list[str]) -> dict:
    """A command's last line as JSON; its errors go to the terminal."""
    found = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    print(found.stdout.rstrip(), flush=True)
    return json.loads(found.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with TRL; without it only ours is measured")
    parser.add_argument("--csv", type=Path, default=ROWS)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--base", type=Path, help="a GGUF that is already there, instead of m200")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = options.base or make_gguf.make(Path(folder) / "m200.gguf", **make_gguf.SIZES["m200"])
        ours = {
            mode: run(
                [
                    sys.executable,
                    HERE / "train_ours.py",
                    base,
                    options.csv,
                    "--steps",
                    options.steps,
                    "--weight-cache",
                    mode,
                ]
            )
            for mode in ("dequantized", "quantized")
        }
        peers = (
            {
                dtype: run(
                    [
                        options.peer_python,
                        HERE / "peer_trl.py",
                        base,
                        options.csv,
                        Path(folder) / dtype,
                        "--steps",
                        options.steps,
                        "--dtype",
                        dtype,
                    ]
                )
                for dtype in ("float32", "bfloat16")
            }
            if options.peer_python
            else {}
        )
    report(ours, peers)


def report(ours: dict[str, dict], peers: dict[str, dict]) -> None:
    best = max((peer["tok_s"] for peer in peers.values()), default=0.0)
    named = {f"Expertune, {mode}": found for mode, found in ours.items()}
    named |= {f"TRL + PEFT, {dtype}": found for dtype, found in peers.items()}
    print(f"\n{'':24} {'tokens/s':>9} {'ratio':>6} {'peak MB':>8} {'load s':>7}")
    for name, found in named.items():
        ratio = f"{found['tok_s'] / best:6.2f}" if best else "     –"
        print(f"{name:24} {found['tok_s']:9.1f} {ratio} {found['peak_rss_mb']:8} {found['load_s']:7.2f}")
    for mode, found in ours.items():
        rate, machine = found["tok_s"] * found["gflop_per_token"], found["machine_gflops"][found["precision"]]
        share = f"{rate:.0f} of the machine's {machine} GFLOP/s in {found['precision']} ({rate / machine:.0%})"
        print(f"{mode}: {share} in the base's products; all would be {machine / found['gflop_per_token']:.0f} tokens/s")


if __name__ == "__main__":
    main()
