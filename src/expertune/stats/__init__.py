"""Statistics of ratings: numbers in, numbers out; no record of a run is known here."""
