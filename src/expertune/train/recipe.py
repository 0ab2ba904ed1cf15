"""The plan of a training: "auto" resolved by the model's size (docs/decisions/0011, 0016), and what identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from .. import __version__, outputs
from ..config import AUTO, Config, as_dict, with_changes
from ..engine.base_model import Base
from ..files import write_text
from ..gguf.read import GGUFFile
from ..model.arch import read_config
from ..model.hparams import Keys
from ..ratings.dataset import Dataset
from ..ratings.examples import training_lines

# Learning rate of LoRA by model width, from sweeps over Llama models of 1 to 70 B (Schulman et al., LoRA Without
# Regret, 2025; tinker-cookbook, hyperparam_utils.get_lr: 5e-5 · 10 · (2000 / width) ** 0.781). Our measurements on
# models of width 256 to 640 follow the same formula at batches of 4; larger batches take its root times more.
RATE_AT_2000, EXPONENT, BATCH = 5e-4, 0.781, 4
LOWEST, HIGHEST = 5e-5, 3e-3
EPOCHS = 5.0  # with soft labels the labels' log-loss no longer rises after the second (docs/decisions/0016)
FEWER_EPOCHS, MANY_RECORDS = 4.0, 500  # the fifth epoch of 570 triage records added 0.006 to validation macro-F1
LEAST_LAYERS = 10


@dataclass(frozen=True)
class TrainingPlan:
    """Inputs of a training. `config` has all settings resolved, `requested` holds them as given."""

    dataset: Dataset
    base: Base
    config: Config
    requested: Config

    @property
    def run_id(self) -> str:
        """Hash of everything that determines the adapter."""
        base, dataset = self.base, self.dataset
        facts = {
            "base": base.sha256,
            "rows": dataset.input_sha256,
            "unlabelled": dataset.unlabelled and dataset.unlabelled.sha256,
            "topics": dataset.topics,
            "labels": dataset.scale.labels,
            "settings": as_dict(self.config),
            "prompts": [base.renderer is not None, base.located.template],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def provenance(self) -> dict[str, str]:
        """Metadata of the files that the training makes."""
        return {
            "general.name": f"{self.base.name} tuned by Expertune",
            "expertune.version": __version__,
            "expertune.base.sha256": self.base.sha256,
            "expertune.run": self.run_id,
        }

    def line(self) -> str:
        """Describe the settings that decide the training's time."""
        own = self.config
        return (
            f"LoRA of rank {own.rank} on {self.base.name}: {own.layers} blocks, {own.epochs:g} epochs, batches of "
            f"{own.batch_size}, learning rate {own.learning_rate:g}, {own.compute_dtype} on {own.device}, "
            f"{own.threads} threads"
        )

    def write(self, folder: Path) -> None:
        """Write training_data.jsonl and training_config.yaml. Raises OutputError."""
        lines = training_lines(self.dataset.examples.train)
        write_text(folder / outputs.TRAINING_DATA, "".join(f"{line}\n" for line in lines))
        run = {"input": self.dataset.source, "model": self.base.name, "topics": self.dataset.topics}
        outputs.write_config(folder / outputs.TRAINING_CONFIG, self.config, run)


def training_plan(dataset: Dataset, base: Base, requested: Config, first: Config | None) -> TrainingPlan:
    """With the settings of the resumed run (`first`) if there is one, else those requested, with numbers for "auto".

    Raises FineTuningNotSupportedError for an architecture that cannot be tuned.
    """
    from ..model.load import resolve  # imports torch

    with GGUFFile(base.path) as file:
        read_config(file)
        config = first or with_recipe(file, resolve(file, requested), len(dataset.examples.train))
    return TrainingPlan(dataset, base, config, requested)


def learning_rate(width: int, batch: int) -> float:
    """Peak learning rate for a model of this width at so many records a step, rounded to two digits."""
    rate = RATE_AT_2000 * (2000 / width) ** EXPONENT * math.sqrt(batch / BATCH)
    return float(f"{min(max(rate, LOWEST), HIGHEST):.1e}")


def layers(blocks: int) -> int:
    """Blocks with an adapter in a model of so many: the top third, but at least ten (docs/decisions/0016)."""
    return min(blocks, max(LEAST_LAYERS, math.ceil(blocks / 3)))


def epochs(records: int) -> float:
    """Passes over so many training records."""
    return FEWER_EPOCHS if records >= MANY_RECORDS else EPOCHS


def with_recipe(file: GGUFFile, config: Config, records: int = 0) -> Config:
    """Replace "auto" in the training settings by numbers; `records` are those to train on."""
    width = Keys(file).count("embedding_length")
    batch = config.batch_size * config.gradient_accumulation_steps
    rate = learning_rate(width, batch) if config.learning_rate == AUTO else config.learning_rate
    passes = epochs(records) if config.epochs == AUTO else config.epochs
    top = layers(len(read_config(file).layers)) if config.layers == AUTO else config.layers
    return with_changes(config, learning_rate=rate, epochs=passes, layers=top)
