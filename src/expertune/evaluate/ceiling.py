"""The experts' own agreement on the test records: the ceiling next to which a model's figures are to be read.

Each expert is compared with the majority of the others (leave one out), and the model with the same labels of the same
records. A record counts where the expert rated it and the others have a majority.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from ..config import Config
from ..predict.score import Rated
from ..ratings.experts import ExpertAgreement, ExpertRatings, expert_agreement, majority
from ..ratings.scale import RatingScale
from ..stats.intervals import KAPPA, MACRO_F1, Estimate, bootstrap, clusters
from .compare import groups_of

READING = "a model in the experts' range rates as one of them does; what it misses there may be their own differences"


@dataclass(frozen=True)
class AgreementWithOthers:
    """Macro-F1 and Cohen's kappa of a rater against the majority of the other experts."""

    macro_f1: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class ExpertCeiling:
    """One expert against the others, on test records and on `all_records` of the file, tied ones included.

    `model` is the product on the test records, against the same labels; None if there was no product to evaluate.
    """

    expert: str
    records: int
    on_test: AgreementWithOthers
    model: AgreementWithOthers | None
    all_records: int
    on_all: AgreementWithOthers


@dataclass(frozen=True)
class ExpertComparison:
    """Agreement of the experts on all records, and the ceiling of each.

    `by_construction`: no two differ on a test record, since all such records are tied and left out of testing, as those
    of two experts without adjudication always are.
    """

    agreement: ExpertAgreement
    ceiling: tuple[ExpertCeiling, ...]
    by_construction: bool

    def sentence(self) -> str:
        """The end of the verdict: the experts next to the model."""
        on_test, on_all, model = (
            _range([found.macro_f1 for each in self.ceiling if (found := getattr(each, part))])
            for part in ("on_test", "on_all", "model")
        )
        if not on_all:
            return " The experts cannot be compared with each other: no record was rated by two of them."
        line = f" The experts themselves reach macro-F1 {on_test or '–'}, each against the majority of the others"
        if self.agreement.tied:
            why = " by construction," if self.by_construction else ""
            line += f",{why} without the {self.agreement.tied} tied records, and {on_all} on all records, tied or not"
        if model:
            line += f"; the model reaches {model} against the same labels of the test records"
        return f"{line} ({READING})."

    def lines(self) -> list[str]:
        """The lines for the terminal."""
        width = max(len(each.expert) for each in self.ceiling)
        rows = [
            f"  {each.expert:{width}} {each.records:7} {' '.join(f'{_short(found):>16}' for found in parts)}"
            for each in self.ceiling
            for parts in [(each.on_test, each.model, each.on_all)]
        ]
        return [
            *self.agreement.lines(),
            "Each expert, and the model on the same test records, against the majority of the other experts "
            f"(macro-F1, kappa); {READING}:",
            f"  {'':{width}} {'records':>7} {'expert':>16} {'model':>16} {'expert, all':>16}",
            *rows,
        ]


def compare_experts(
    panel: ExpertRatings,
    rated: Sequence[Rated],
    test: Collection[str],
    scale: RatingScale,
    groups: Mapping[str, Hashable],
    config: Config,
) -> ExpertComparison:
    """Compare the experts with each other and with the product's ratings of the `test` records, given by their ids.

    `groups` are those of the split; on all records the groups are the patients.
    """
    model = {each.id: each.value for each in rated}
    patients = dict(zip(panel.ids, panel.groups, strict=True))
    values = dict(zip(panel.ids, panel.values, strict=True))
    ceiling = []
    for at, expert in enumerate(panel.experts):
        others = {id: majority([*row[:at], *row[at + 1 :]]) for id, row in values.items()}
        pairs = {
            id: (other, own)
            for id, other in others.items()
            if other is not None and (own := values[id][at]) is not None
        }
        on_test = {id: pair for id, pair in pairs.items() if id in test}
        by_model = {id: (other, model[id]) for id, (other, _) in on_test.items() if id in model}
        ceiling.append(
            ExpertCeiling(
                expert=expert,
                records=len(on_test),
                on_test=_agreement(on_test, scale, groups, config),
                model=_agreement(by_model, scale, groups, config) if rated else None,
                all_records=len(pairs),
                on_all=_agreement(pairs, scale, patients, config),
            )
        )
    differ = any(len({*values[id]} - {None}) > 1 for id in test)
    return ExpertComparison(expert_agreement(panel, scale, config), tuple(ceiling), not differ)


def _agreement(
    pairs: Mapping[str, tuple[int, int]], scale: RatingScale, groups: Mapping[str, Hashable], config: Config
) -> AgreementWithOthers:
    """Agreement of (label of the others, label of the rater) by record."""
    if not pairs:
        return AgreementWithOthers(Estimate(None, None, 0), Estimate(None, None, 0))
    truth, own = ([scale.values.index(pair[side]) for pair in pairs.values()] for side in (0, 1))
    counts = clusters(truth, own, len(scale.labels), groups_of(list(pairs), groups))
    resampling = (config.bootstrap_resamples, config.seed, config.confidence_level)
    return AgreementWithOthers(*bootstrap(counts, [MACRO_F1, KAPPA], *resampling))


def _range(estimates: Sequence[Estimate]) -> str:
    values = [each.value for each in estimates if each.value is not None]
    if not values:
        return ""
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"


def _short(found: AgreementWithOthers | None) -> str:
    if found is None or found.macro_f1.value is None:
        return "–"
    kappa = "–" if found.kappa.value is None else f"{found.kappa.value:.3f}"
    return f"{found.macro_f1.value:.3f}, {kappa}"
