"""Where tuning is impossible or loses: the model set, judged on the same rows where an engine can serve the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import Config
from ..engine.base import Engine
from ..errors import EngineError
from ..modelset import build
from ..progress import Progress
from ..rate.score import Pass
from . import outputs
from .judge import Judgement, judge, rate_shown
from .prepare import Prepared


@dataclass(frozen=True)
class ModelSet:
    """The configuration as written, and how it did; `unjudged` says why where it could not be judged."""

    content: dict[str, Any]
    judgement: Judgement | None
    unjudged: str | None


LARGEST_CONTEXT = 8192  # tokens; more examples than fit into it cost more time in every rating than they bring


def fall_back(
    folder: Path,
    prepared: Prepared,
    config: Config,
    progress: Progress,
    *,
    model_name: str,
    serve: Callable[[], Engine] | None,
    base_test: Pass | None,
) -> ModelSet:
    """Build model_set_config.json and judge it with the engine that `serve` opens, None where there is none.

    Raises ModelSetConfigError and OutputError.
    """

    def make(**engine_facts: Any) -> dict[str, Any]:
        content = build.build(
            model_name,
            prepared.split,
            prepared.scale,
            prepared.topics,
            created_at=outputs.now(),
            seed=config.seed,
            **engine_facts,
        )
        build.write(folder / outputs.MODEL_SET, content)
        return content

    if serve is None:
        return ModelSet(make(), None, "the model's file is not on this machine")
    try:
        with contextlib.closing(serve()) as engine:
            content = make(context=engine.context, count_tokens=engine.count_tokens)
            return ModelSet(content, _judge(content, prepared, config, progress, engine, base_test), None)
    except EngineError as error:
        return ModelSet(make(), None, str(error))


def _judge(
    content: dict[str, Any],
    prepared: Prepared,
    config: Config,
    progress: Progress,
    engine: Engine,
    base_test: Pass | None,
) -> Judgement:
    plain = prepared.examples["test"]
    asked = tuple(
        replace(example, messages=tuple(build.messages(content, example.messages[-1]["content"]))) for example in plain
    )

    few_shot = rate_shown(progress, engine, asked, prepared.scale, "Model set, test rows")
    base = base_test or rate_shown(progress, engine, plain, prepared.scale, "Base, test rows")
    return judge("few-shot", few_shot, base, prepared, config)
