"""One figure with an interval from those of several splits of the same records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Figure = Mapping[str, float | None]
Z95 = 1.959964


def pooled(figures: Sequence[Figure]) -> Figure | None:
    """The mean, with an interval by Rubin's rules: the splits' mean variance plus (1 + 1/k) times that between them.

    The splits are of the same records, so their number does not narrow the interval: it is that of one split, widened
    by what the split and the training's start change (Rubin 1987, chapter 3; Student's t with his degrees of freedom).
    None for no figures; without an interval where one of them has none.
    """
    from scipy.stats import t

    values = [each["value"] for each in figures if each["value"] is not None]
    if not values or len(values) < len(figures):
        return None
    count, mean = len(values), sum(values) / len(values)
    widths = [each["high"] - each["low"] for each in figures if each["high"] is not None and each["low"] is not None]
    if len(widths) < count:
        return {"value": mean, "low": None, "high": None}
    within = sum((width / 2 / Z95) ** 2 for width in widths) / count
    between = sum((value - mean) ** 2 for value in values) / (count - 1) * (1 + 1 / count) if count > 1 else 0.0
    total = within + between
    freedom = (count - 1) * (total / between) ** 2 if between > 0 else math.inf
    reach = (float(t.ppf(0.975, freedom)) if math.isfinite(freedom) else Z95) * math.sqrt(total)
    return {"value": mean, "low": mean - reach, "high": mean + reach}
