"""Evaluate a product on the test records, together with its base, TF-IDF and the majority class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..config import Config
from ..engine.base import Engine
from ..predict.score import Pass, Rated, rate_pass
from ..progress import Progress
from ..ratings.codes import WORDS, LabelScoring
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from ..stats.conformal import Conformal
from .automatable import AutomatableShare
from .baselines import majority, tfidf
from .ceiling import ExpertComparison, compare_experts
from .compare import Difference, Evaluation, compare, evaluate, sampled_truth
from .coverage import Coverage, conformal_coverage
from .label_errors import LabelErrors
from .subgroups import SubgroupColumn, subgroups_of
from .verdict import WORD_COUNTS, Verdict, verdict


@dataclass(frozen=True)
class Judgement:
    """Evaluations of all raters on the test records, the product first, and the verdict on it.

    `strata`, `coverage` (of its conformal sets, None if it has none) and `automatable` describe the product alone.
    `experts` compares it with several experts, if there are. `raters` are the predictions that were evaluated, by name
    in the same order.
    """

    verdict: Verdict
    evaluations: tuple[Evaluation, ...]
    differences: tuple[Difference, ...]
    strata: tuple[SubgroupColumn, ...] = ()
    coverage: Coverage | None = None
    experts: ExpertComparison | None = None
    raters: Mapping[str, Sequence[Rated]] = field(default_factory=dict)
    label_errors: LabelErrors | None = None
    automatable: AutomatableShare | None = None


def judge(
    name: str,
    product: Pass,
    base: Pass,
    dataset: Dataset,
    config: Config,
    *,
    others: Mapping[str, Pass] | None = None,
    conformal: Conformal | None = None,
) -> Judgement:
    """Compare the product with base, TF-IDF and majority class, and with `others`: passes of further products by name,
    each over all test records or a sample of them.

    `name` is the product's name in the report ("tuned", "few-shot"); `conformal` holds its thresholds. A product that
    is a TF-IDF classifier is not compared with TF-IDF, whose figures are there all the same.
    """
    split, scale = dataset.split, dataset.scale
    raters: dict[str, tuple[Sequence[Rated], float | None]] = {
        name: (product.rated, product.rows_per_second),
        **{other: (each.rated, each.rows_per_second) for other, each in (others or {}).items()},
        "base": (base.rated, base.rows_per_second),
        "TF-IDF": (tfidf(split.train, split.test, scale, config.seed), None),
        "majority": (majority(split.train, split.test, scale), None),
    }
    evaluations = {
        rater: evaluate(rater, sampled_truth(split.test, rated), rated, scale, split.groups, config, speed)
        for rater, (rated, speed) in raters.items()
    }
    itself = (name, "TF-IDF") if name == WORD_COUNTS else (name,)
    rivals: Mapping[str, Sequence[Rated]] = {
        rater: rated for rater, (rated, _) in raters.items() if rater not in itself
    }
    differences = compare((name, product.rated), rivals, split.test, scale, split.groups, config)
    product_, base_, tfidf_, majority_ = (evaluations[rater] for rater in (name, "base", "TF-IDF", "majority"))
    on_test = (split.test, product.rated, scale, split.groups)
    found, experts = (
        verdict(product_, base_, tfidf_, majority_, differences),
        experts_of(dataset, config, product.rated),
    )
    return Judgement(
        replace(found, line=found.line + experts.sentence()) if experts else found,
        tuple(evaluations.values()),
        tuple(differences),
        subgroups_of(*on_test, config.subgroups, config.confidence_level),
        conformal_coverage(conformal, *on_test, config.confidence_level) if conformal else None,
        experts,
        {rater: rated for rater, (rated, _) in raters.items()},
    )


def experts_of(dataset: Dataset, config: Config, rated: Sequence[Rated] = ()) -> ExpertComparison | None:
    """Compare several experts with each other and with the product's ratings; None where there is one expert."""
    if dataset.experts is None:
        return None
    test = {row.id for row in dataset.split.test}
    return compare_experts(dataset.experts, rated, test, dataset.scale, dataset.split.groups, config)


def rate_shown(
    progress: Progress,
    engine: Engine,
    examples: Sequence[Example],
    scale: RatingScale,
    title: str,
    *,
    answered: Collection[str] = (),
    scoring: LabelScoring = WORDS,
) -> Pass:
    """Rate the examples with a served model, with progress under `title`; `answered` as in `rate_examples`."""
    with progress.stage(title, total=len(examples), unit="records") as stage:
        return rate_pass(
            engine, examples, scale, answered=answered, scoring=scoring, on_row=lambda done, total: stage.advance()
        )


def dev_macro_f1(rated: Sequence[Rated], dataset: Dataset, config: Config) -> float:
    """Macro-F1 on the validation records, the criterion of every choice."""
    evaluation = evaluate("dev", dataset.split.dev, rated, dataset.scale, dataset.split.groups, config)
    return evaluation.macro_f1.value or 0.0
