"""Our decoder beside llama.cpp on the real models: hidden states after a block, and probabilities of the labels.

    python bench/parity.py [--models smollm2 gemma3] [--model-dir FOLDER] [--prompts 12] [--threads 1] [--table]

States: of every token of so many example visits, after the block in the middle of the readout's depths and after the
last one; llama.cpp reads a file that ends after that block with its weights unpacked to float32, so that it rounds no
activation. Labels: the probabilities of three times as many visits, from the same float32 weights and from the file as
it is. About 1.1 GB of disk for Gemma 3. --table writes the table of bench/README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / each) for each in ("tests", "src", "bench", "")]

import runs  # noqa: E402
import sets  # noqa: E402
import torch  # noqa: E402

import tiny  # noqa: E402
from decoder_parity import Differences, score_differences, state_differences  # noqa: E402
from expertune.config import Config  # noqa: E402
from expertune.engine.llama_cpp.engine import LlamaCppEngine  # noqa: E402
from expertune.gguf.read import GGUFFile  # noqa: E402
from expertune.model.arch import read_config  # noqa: E402
from expertune.ratings.dataset import load_dataset  # noqa: E402
from expertune.readout.states import depths_of  # noqa: E402

MARK = "bench/parity.py"
HEAD = ("model", "compared", "values", "largest", "mean", "same label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["smollm2", "gemma3"], help="of these, or paths of GGUF files")
    parser.add_argument("--model-dir", type=Path, help="where the real models are kept (default: the cache)")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="also write the table into bench/README.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for name in options.models for row in compared(sets.find_model(name, options.model_dir), options)]
    stamp = runs.stamp()
    lines = [*runs.table(HEAD, rows), "", f"{stamp['date'][:10]}, commit {stamp['commit']}, {stamp['machine']}."]
    runs.show_table(lines, MARK if options.table else "")


def compared(model: Path, options: argparse.Namespace) -> Iterator[list[str]]:
    visits = sets.visits()
    dataset = load_dataset(visits.csv, None, visits.topic, Config())
    some, labels = dataset.examples.train[: 3 * options.prompts], dataset.scale.labels
    with LlamaCppEngine(model, context=2048, threads=options.threads) as engine:
        prompts = [engine.render(each.messages) for each in some]
        tokens = [engine.tokenize(prompt) for prompt in prompts[: options.prompts]]
    with GGUFFile(model) as file:
        blocks = len(read_config(file).layers)
    with tempfile.TemporaryDirectory() as folder:
        for depth in (depths_of(blocks)[1], blocks):
            found = state_differences(model, tokens, depth, Path(folder))
            yield line(model, f"states after block {depth} of {blocks}, relative", found)
        unpacked = tiny.unpack(model, Path(folder) / "f32.gguf")
        for served, kind in ((unpacked, "float32 weights"), (model, "the file as it is")):
            found, same = score_differences(served, model, prompts, labels)
            yield line(model, f"probabilities of the labels, {kind}", found, same)


def line(model: Path, what: str, found: Differences, same: float | None = None) -> list[str]:
    equal = "" if same is None else f"{same:.0%}"
    return [model.name, what, f"{found.count:,}", f"{found.largest:.2g}", f"{found.mean:.2g}", equal]


if __name__ == "__main__":
    main()
