"""The demo's whole job on the example base converted to other architectures: prints one row for each.

    python bench/families_job.py [--families llama phi3 mixtral] [--rows 500] [--target-modules attention] [--rank 64]

The function that is tuned is the same in all of them. What differs is which matrices there are to adapt: phi3's are
joined, and of a mixture only attention is adapted.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import pandas as pd  # noqa: E402

import convert_architecture as convert  # noqa: E402
from expertune.fine_tuner import FineTuner  # noqa: E402

SETTINGS = {
    "learning_rate": 3e-3,
    "epochs": 6,
    "batch_size": 8,
    "class_weight": "none",
    "approach": "tune",
}  # demo_fine_tuner.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=["llama", *convert.FAMILIES])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--target-modules", default="all")
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args()
    frame = pd.read_csv(ROOT / "examples" / "formatted_dataset.csv").head(options.rows)
    print("| family | macro-F1 tuned | base | agreement of the file | types written | seconds in all |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in options.families:
        print(
            row(name, frame, target_modules=options.target_modules, rank=options.rank, alpha=2.0 * options.rank),
            flush=True,
        )


def row(name: str, frame: pd.DataFrame, **settings: object) -> str:
    with tempfile.TemporaryDirectory() as folder:
        base = convert.BASE if name == "llama" else convert.make(Path(folder) / "base.gguf", name)
        start = time.perf_counter()
        _, metadata = FineTuner(quiet=True).process_dataset(
            frame, str(base), None, "respiratory infections", Path(folder) / "out", **SETTINGS, **settings
        )
        seconds = time.perf_counter() - start
    if metadata["fallback_reason"] is not None:
        return f"| {name} | {metadata['fallback_reason']} | | | | {seconds:.0f} |"
    f1 = {each["name"]: each["macro_f1"]["value"] for each in metadata["evaluation"]["evaluations"]}
    export = metadata["export"]
    types = ", ".join(f"{each['tensors']} {each['type']}" for each in export["types"])
    return f"| {name} | {f1['tuned']:.3f} | {f1['base']:.3f} | {export['agreement']:.3f} | {types} | {seconds:.0f} |"


if __name__ == "__main__":
    main()
