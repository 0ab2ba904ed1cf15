"""Train the adapter of a tuned model and write it, with progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import outputs
from ..estimate.job import JobPlan, RunStage
from ..export.quant_types import WeightUpdate
from ..gguf.read import GGUFFile
from ..gguf.write import write_adapter
from ..predict.score import Rated
from ..torch_engine import rated_rows
from ..train.advice import failed
from ..train.class_balance import Teacher
from ..train.encode import Tokenized
from ..train.events import Event
from ..train.summary import TrainingSummary, summarize_training
from ..workspace import Workspace

if TYPE_CHECKING:
    from ..train.ranks import Ranks


@dataclass(frozen=True)
class TrainedAdapter:
    """The trained adapter as matrices, and the record of its training.

    `base_dev` and `adapter_dev` are the validation records by our decoder, without and with the adapter; `code_dev`
    those with the adapter by the codes of the labels, empty without a code branch.
    """

    update: WeightUpdate
    summary: TrainingSummary
    history: tuple[Event, ...]
    base_dev: tuple[Rated, ...]
    adapter_dev: tuple[Rated, ...]
    code_dev: tuple[Rated, ...]


def train_adapter(
    file: GGUFFile,
    tokens: Tokenized,
    teacher: Teacher,
    job: JobPlan | None,
    ws: Workspace,
    should_stop: Callable[[], bool],
    ranks: Ranks,
) -> TrainedAdapter:
    """Train and write the adapter. Float copies of the base are freed before the engine loads the file.

    Raises TrainingFailedError if it is not better than the base, Interrupted, RankLostError and OutputError.
    """
    from ..model.load import load, place  # imports torch, which only tuning needs
    from ..train.checkpoint import CheckpointPlace
    from ..train.distributed import Job, begin
    from ..train.loop import Trainer, TrainingData

    config, data, base = tokens.plan.config, TrainingData.of(tokens, teacher), tokens.plan.base
    longest = max(row.length for part in tokens.rows.in_order for row in part)
    checkpoints = CheckpointPlace(ws.checkpoints, tokens.plan.run_id, ws.resume)
    placement = place(file, config)
    ranks = begin(ranks, Job(base.path.absolute(), base.sha256, config, data, longest, checkpoints))
    with ws.part("load"):
        tunable = load(file, config, placement, row_tokens=longest)
    load_seconds = ws.parts["load"]
    trainer = Trainer(tunable, data, config, checkpoints=checkpoints, should_stop=should_stop, ranks=ranks)
    if trainer.trunk_rows:
        shown = ws.progress.stage_if_needed(RunStage.LOAD.shown, trainer.trunk_rows, unit="records")
        with ws.part("load"), shown as advance:
            trainer.read_trunk(advance)
    with ws.progress.stage(RunStage.TRAIN.shown, total=trainer.steps, done=trainer.step, unit="steps"):
        for event in trainer.run(job.training_seconds(ws.elapsed) if job else None):
            ws.progress.show(event)
            ws.tracking.event(event)
    result = trainer.result
    for part, kind in (("train", "step"), ("validate", "dev")):
        ws.parts[part] = sum(event.seconds for event in result.history if event.kind == kind)
    if result.best_step == 0:
        base = f"the {len(data.dev)} validation records over the base (macro-F1 {result.base_macro_f1:.3f})"
        raise failed(f"training gained nothing on {base}", result.history)
    lora, family, about = tunable.lora, tunable.model_config.family, tokens.plan.provenance
    adapter = ws.folder / outputs.ADAPTER
    write_adapter(adapter, architecture=family, alpha=lora.alpha, tensors=lora.pairs(), metadata=about)
    by_decoder = (result.base_log_RK, result.best_log_RK, result.best_code_log_RK)
    return TrainedAdapter(
        WeightUpdate(lora.pairs(), lora.scale),
        summarize_training(config, result, tunable, load_seconds, len(data.train) - data.rated),
        result.history,
        *(rated_rows(log_RK, data.dev, tokens.dataset.scale) for log_RK in by_decoder),
    )
