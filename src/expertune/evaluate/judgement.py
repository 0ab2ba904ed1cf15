"""Evaluate a product on the test records, together with its base, TF-IDF and the majority class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..config import Config
from ..engine.base import Engine
from ..predict.score import Pass, Rated, rate_pass
from ..predict.uncertainty import Uncertainty, fit_uncertainty
from ..progress import Progress
from ..ratings.codes import WORDS, LabelScoring
from ..ratings.dataset import Dataset
from ..ratings.scale import RatingScale
from ..ratings.schema import Example
from .automatable import AutomatableShare, automatable_share
from .baselines import majority, tfidf
from .ceiling import ExpertComparison, compare_experts
from .compare import Difference, Evaluation, compare, evaluate, sampled_truth
from .coverage import Coverage, conformal_coverage
from .label_errors import ByRater, LabelErrors, UnseenRatings, likely_label_errors
from .subgroups import SubgroupColumn, subgroups_of
from .verdict import Verdict, verdict


@dataclass(frozen=True)
class Judgement:
    """Evaluations of all raters on the test records, the product first, and the verdict on it.

    `uncertainty`, `strata`, `conformal` (coverage of its sets, None if it has none) and `automatable` describe the
    product alone. `experts` compares it with several experts, if there are. `raters` are the predictions that were
    evaluated, by name in the same order.
    """

    verdict: Verdict
    evaluations: tuple[Evaluation, ...]
    differences: tuple[Difference, ...]
    uncertainty: Uncertainty
    strata: tuple[SubgroupColumn, ...]
    conformal: Coverage | None
    experts: ExpertComparison | None
    raters: ByRater
    label_errors: LabelErrors
    automatable: AutomatableShare


def judge(
    name: str,
    dev: ByRater,
    passes: Mapping[str, Pass],
    base: Pass,
    train: UnseenRatings,
    dataset: Dataset,
    config: Config,
) -> Judgement:
    """Compare the product `name` with the other `passes`, the base, TF-IDF and the majority class.

    `passes` are over the test records or a sample of them, by the rater's name in the report ("tuned", "few-shot"),
    the product's over all; `dev` has the predictions of validation records, the product's among them, and `train` those
    of training records.
    """
    split, scale, product = dataset.split, dataset.scale, passes[name].rated
    raters: dict[str, tuple[Sequence[Rated], float | None]] = {
        name: (product, passes[name].rows_per_second),
        **{other: (each.rated, each.rows_per_second) for other, each in passes.items() if other != name},
        "base": (base.rated, base.rows_per_second),
        "TF-IDF": (tfidf(split.train, split.test, scale, config.seed), None),
        "majority": (majority(split.train, split.test, scale), None),
    }
    evaluations = {
        rater: evaluate(rater, sampled_truth(split.test, rated), rated, scale, split.groups, config, speed)
        for rater, (rated, speed) in raters.items()
    }
    by_name = {rater: rated for rater, (rated, _) in raters.items()}
    rivals = {rater: rated for rater, rated in by_name.items() if rater != name}
    differences = compare((name, product), rivals, split.test, scale, split.groups, config)
    product_, base_, tfidf_, majority_ = (evaluations[rater] for rater in (name, "base", "TF-IDF", "majority"))
    found = verdict(product_, base_, tfidf_, majority_, differences)
    uncertainty, experts = _uncertainty(dev[name], dataset, config), experts_of(dataset, config, product)
    on_test, conformal = (split.test, product, scale, split.groups), uncertainty.conformal
    both = (split.dev, dev[name]), (split.test, product)
    return Judgement(
        replace(found, line=found.line + experts.sentence()) if experts else found,
        tuple(evaluations.values()),
        tuple(differences),
        uncertainty,
        subgroups_of(*on_test, config.subgroups, config.confidence_level),
        conformal_coverage(conformal, *on_test, config.confidence_level) if conformal else None,
        experts,
        by_name,
        _label_errors(train, {name: dev[name], **dev}, by_name, dataset),
        automatable_share(*both, scale, split.groups, uncertainty.calibration, config),
    )


def _uncertainty(dev: Sequence[Rated], dataset: Dataset, config: Config) -> Uncertainty:
    """Fitted on the validation records that the product has rated."""
    known = {each.id for each in dev}
    examples = [example for example in dataset.examples.dev if example.id in known]
    return fit_uncertainty(dev, dataset.examples.train, examples, dataset.scale, seed=config.seed)


def _label_errors(train: UnseenRatings, by_dev: ByRater, by_test: ByRater, dataset: Dataset) -> LabelErrors:
    """Of all parts; the product is the first rater of validation and test records."""
    split, scale = dataset.split, dataset.scale
    dev = UnseenRatings.by_consensus("dev", split.dev, by_dev, scale)
    test = UnseenRatings.by_consensus("test", split.test, by_test, scale)
    return likely_label_errors([train, dev, test], scale)


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
