"""Ratings that a tuning learns in twenty steps, for tests of what a run does rather than of how well it rates."""

from __future__ import annotations

import random

import pandas as pd

KINDS = ((1, "cough and fever"), (0, "ankle injury after a fall"), (-1, "no complaint was written down"))


def easy_records(count: int = 60) -> pd.DataFrame:
    """Short records with the columns that a run needs: three words tell the label, every third has each."""
    ages = random.Random(0)
    return pd.DataFrame(
        {
            "Row_ID": str(at + 1),
            "Prompt": f"Visit {at + 1}, age {ages.randint(1, 95)}: {words}.",
            "Standardized_Rating": value,
            "Rationale of Rating": words,
        }
        for at, (value, words) in ((at, KINDS[at % len(KINDS)]) for at in range(count))
    )
