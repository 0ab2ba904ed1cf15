"""Write what the experts decided, and a summary of their agreement that a report can show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import OutputError, UsageError
from ..files import remove_leftovers, write_json
from ..stats.intervals import Estimate, Interval
from .journal import PageJournal
from .session import Session, Status
from .source import write_results


@dataclass(frozen=True)
class Results:
    """Where the results go. The summary is next to it: `review.csv` and `review.summary.json`."""

    output: Path

    @property
    def summary(self) -> Path:
        return self.output.with_suffix(".summary.json")

    @property
    def _fact(self) -> str:
        """The journal's note that this file was written from it."""
        return f"output {self.output.resolve()}"

    def check(self, source: Path, journal: PageJournal) -> None:
        """Raises UsageError for an output that is the input, or a file that was not written from this journal."""
        if self.output.suffix.lower() != ".csv":
            raise UsageError(f"{self.output}: the results are a .csv file; choose another --output")
        if self.output.exists() and self.output.samefile(source):
            raise UsageError(f"{self.output}: is the input itself; choose another --output")
        if self.output.exists() and journal.fact(self._fact) is None:
            raise UsageError(f"{self.output}: exists already; move it or choose another --output")
        remove_leftovers(self.output.parent, self.output.name, self.summary.name)

    def write(self, session: Session) -> str:
        """Write both files, and return a line for the user. An error comes as that line too: the page goes on."""
        finals, status = session.finals(), session.status(exact=True)
        try:
            session.journal.fact(self._fact, "written")  # first: a page that is killed now must start again
            count = write_results(session.source, finals, self.output)
            write_json(self.summary, summary(session.source.work, status))
        except OutputError as error:
            return str(error)
        left = status.open_conflicts
        waiting = f"; {left:,} on which experts differ wait for adjudication" if left else ""
        return f"{self.output.name}: {count:,} records with a rating{waiting}"


def summary(work: str, status: Status) -> dict[str, object]:
    """Counts, agreement and the random sample's error rate, without any text of a record."""
    return {
        "work": work,
        "records": status.total,
        "rated": status.done,
        "raters": dict(status.raters),
        "differ": status.open_conflicts,
        "agreement": [
            {**each._asdict(), "kappa_interval": _plain(each.kappa_interval), "share": each.share}
            for each in status.agreements
        ],
        "random_sample": {"records": status.sample_total, "error_rate": _plain(status.sample)},
    }


def _plain(figure: Estimate | Interval | None) -> dict[str, Any] | None:
    return None if figure is None else asdict(figure)
