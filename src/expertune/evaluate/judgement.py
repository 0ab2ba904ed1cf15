"""The finished file on the rows that nothing has seen: beside its base, TF-IDF and the majority class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import Config
from ..engine.base import Engine
from ..predict.score import Pass, Rated, rate_pass
from ..progress import Progress
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..stats.conformal import Conformal
from .baselines import majority, tfidf
from .compare import Difference, Evaluation, compare, evaluate
from .coverage import Coverage, conformal_coverage
from .subgroups import SubgroupColumn, subgroups_of
from .verdict import Verdict, verdict


@dataclass(frozen=True)
class Judgement:
    """All raters on the test rows, the judged product first, and the sentence about it.

    `strata` and `coverage` (of its conformal sets, None where it has none) are about the product alone.
    """

    verdict: Verdict
    evaluations: tuple[Evaluation, ...]
    differences: tuple[Difference, ...]
    strata: tuple[SubgroupColumn, ...] = ()
    coverage: Coverage | None = None


def judge(
    name: str,
    product: Pass,
    base: Pass,
    prepared: Dataset,
    config: Config,
    *,
    beside: Mapping[str, Pass] | None = None,
    conformal: Conformal | None = None,
) -> Judgement:
    """`name` is what the product is called in the report ("tuned", "few-shot").

    `beside` holds other products that rated the test rows, by their names; `conformal` the thresholds of this one.
    """
    split, scale = prepared.split, prepared.scale
    raters: dict[str, tuple[Sequence[Rated], float | None]] = {
        name: (product.rated, product.rows_per_second),
        **{other: (found.rated, found.rows_per_second) for other, found in (beside or {}).items()},
        "base": (base.rated, base.rows_per_second),
        "TF-IDF": (tfidf(split.train, split.test, scale, config.seed), None),
        "majority": (majority(split.train, split.test, scale), None),
    }
    evaluations = {
        rater: evaluate(rater, split.test, rated, scale, split.groups, config, speed)
        for rater, (rated, speed) in raters.items()
    }
    others: Mapping[str, Sequence[Rated]] = {rater: rated for rater, (rated, _) in raters.items() if rater != name}
    differences = compare((name, product.rated), others, split.test, scale, split.groups, config)
    product_, base_, tfidf_, majority_ = (evaluations[rater] for rater in (name, "base", "TF-IDF", "majority"))
    facts = (split.test, product.rated, scale, split.groups)
    return Judgement(
        verdict(product_, base_, tfidf_, majority_, differences),
        tuple(evaluations.values()),
        tuple(differences),
        subgroups_of(*facts, config.subgroups, config.confidence_level),
        conformal_coverage(conformal, *facts, config.confidence_level) if conformal else None,
    )


def rate_shown(
    progress: Progress,
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    title: str,
    *,
    generate: bool = False,
) -> Pass:
    """Rate the rows with a served model, with progress under `title`."""
    with progress.stage(title, total=len(examples), unit="rows") as stage:
        return rate_pass(engine, examples, scale, generate=generate, on_row=lambda done, total: stage.advance())


def dev_macro_f1(rated: Pass, prepared: Dataset, config: Config) -> float:
    """What a choice looks at: macro-F1 on the dev rows."""
    found = evaluate("dev", prepared.split.dev, rated.rated, prepared.scale, prepared.split.groups, config)
    return found.macro_f1.value or 0.0
