"""Where tuning is impossible or loses: the model set, judged on the same rows where an engine can serve the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..engine.llama_cpp import LlamaCppEngine
from ..errors import EngineError
from ..modelset import build
from ..progress import Progress
from ..rate.score import Pass, rate_pass
from . import outputs
from .judge import Judgement, judge
from .prepare import Prepared


@dataclass(frozen=True)
class ModelSet:
    """The configuration as written, and how it did; `unjudged` says why where it could not be judged."""

    content: dict[str, Any]
    judgement: Judgement | None
    unjudged: str | None


def fall_back(
    folder: Path,
    prepared: Prepared,
    config: Config,
    progress: Progress,
    *,
    model_name: str,
    model_path: Path | None,
    base_test: Pass | None,
) -> ModelSet:
    """Build model_set_config.json and judge it. Raises ModelSetConfigError and OutputError."""
    content = build.build(
        model_name,
        prepared.split,
        prepared.scale,
        prepared.topics,
        created_at=outputs.now(),
        seed=config.seed,
        system=None,
    )
    build.write(folder / outputs.MODEL_SET, content)
    if model_path is None:
        return ModelSet(content, None, "the model's file is not on this machine")
    try:
        return ModelSet(content, _judge(content, prepared, config, progress, model_path, base_test), None)
    except EngineError as error:
        return ModelSet(content, None, str(error))


def _judge(
    content: dict[str, Any],
    prepared: Prepared,
    config: Config,
    progress: Progress,
    model_path: Path,
    base_test: Pass | None,
) -> Judgement:
    examples = prepared.examples["test"]
    asked = tuple(
        replace(example, messages=tuple(build.messages(content, example.messages[-1]["content"])))
        for example in examples
    )
    with LlamaCppEngine(model_path, context=content["decoding"]["num_ctx"], threads=config.threads) as engine:
        passes = []
        for title, rows in (("Model set, test rows", asked), ("Base, test rows", examples)):
            if rows is examples and base_test is not None:
                passes.append(base_test)
                continue
            with progress.stage(title, total=len(rows), unit="rows") as stage:
                passes.append(rate_pass(engine, rows, prepared.scale, on_row=lambda done, total: stage.advance()))
    return judge("few-shot", passes[0], passes[1], prepared, config)
