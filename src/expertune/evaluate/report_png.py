"""The report's plots as PNG files in `plots/`, for papers and slides: figures and label names, no row's text."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic
from .report_plots import COLOURS, PREVALENCES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FOLDER = "plots"
INK, SOFT, ACCENT, SECOND = "#20272c", "#5d6a72", "#0b6570", "#b2591a"
LABEL_INKS = ("#0b6570", "#b2591a", "#5b4b9a", "#7a7a1f", "#a3305f", "#44525a")  # --c0 to --c5 of the page
_SIZE, _DPI = (5.2, 3.9), 160  # inches, dots an inch


def write_plots(folder: Path, report: Mapping[str, Any]) -> tuple[Path, ...]:
    """The PNG files that the report has figures for, mode 0600; those of an earlier report that it has none for go.

    Raises OutputError where the folder cannot be written.
    """
    written = []
    for name, draw in PLOTS.items():
        path = Path(folder) / FOLDER / f"{name}.png"
        with _axes() as axes:
            drawn = draw(axes, report)
            if drawn:
                _save(axes, path)
        if drawn:
            written.append(path)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
    return tuple(written)


@contextlib.contextmanager
def _axes() -> Iterator[Axes]:
    """Axes of a figure of their own: pyplot would keep it for the whole process."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "text.parse_math": False,  # a label may hold dollar signs
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "font.size": 10,
    }
    with rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands in its place
        yield Figure(figsize=_SIZE, dpi=_DPI, layout="constrained").add_subplot()


def _save(axes: Axes, path: Path) -> None:
    figure = axes.get_figure(root=True)
    if figure is not None:
        with contextlib.suppress(OSError):  # what is wrong with the folder, the file's error says
            path.parent.mkdir(mode=0o700, exist_ok=True)
        with atomic(path) as file:
            figure.savefig(file, format="png")


def _main(report: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next(iter(report.get("evaluations") or ()), None)


def _confusion(axes: Axes, report: Mapping[str, Any]) -> bool:
    main = _main(report)
    if main is None:
        return False
    shares = [[count / (sum(line) or 1) for count in line] for line in main["confusion"]]
    axes.imshow(shares, cmap="GnBu", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(main["confusion"]):
        for column, count in enumerate(line):
            ink = "white" if shares[row][column] > 0.6 else INK
            axes.text(column, row, str(count), ha="center", va="center", color=ink)
    places = range(len(main["labels"]))
    axes.set_xticks(places, main["labels"], rotation=20 if len(places) > 3 else 0)
    axes.set_yticks(places, main["labels"])
    axes.set(xlabel=f"rated by: {main['name']}", ylabel="expert")
    axes.spines[:].set_visible(False)
    return True


def _calibration(axes: Axes, report: Mapping[str, Any]) -> bool:
    main = _main(report)
    filled = [each for each in main["calibration"]["bins"] if each["accuracy"]["n"]] if main else []
    axes.plot([0, 1], [0, 1], ":", color=SOFT, label="_")
    for each in filled:
        value, interval = each["accuracy"]["value"], each["accuracy"]["interval"]
        axes.plot([each["confidence"]] * 2, [interval["low"], interval["high"]], color=ACCENT, alpha=0.6)
        axes.plot(each["confidence"], value, "o", color=ACCENT)
        axes.annotate(
            f"n = {each['accuracy']['n']}", (each["confidence"], value), (5, 3), textcoords="offset points", color=SOFT
        )
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="share that was right")
    return bool(filled)


def _coverage(axes: Axes, report: Mapping[str, Any]) -> bool:
    found = report.get("conformal")
    lines = [each for each in found["labels"] if each["covered"]["value"] is not None] if found else []
    if not found or not lines:
        return False
    for at, each in enumerate(lines):
        interval = each["covered"]["interval"]
        axes.plot([interval["low"], interval["high"]], [at, at], color=ACCENT)
        axes.plot(each["covered"]["value"], at, "o", color=ACCENT)
    axes.axvline(found["nominal"], color=SECOND, label="promised")
    words = [f"{each['label']}\nn = {each['covered']['n']}, {each['mean_size']:.2f} labels" for each in lines]
    axes.set_yticks(range(len(lines)), words)
    axes.set(xlim=(0, 1.02), ylim=(len(lines) - 0.5, -0.5), xlabel="share of the sets that hold the true label")
    axes.legend(frameon=False, loc="lower left")
    return True


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    sound = [row for row in rows if row.get("step") is not None and row.get(key) is not None]
    return [row["step"] for row in sound], [row[key] for row in sound]


def _loss(axes: Axes, report: Mapping[str, Any]) -> bool:
    curves = report.get("curves") or {}
    train, dev = _points(curves.get("steps") or (), "loss"), _points(curves.get("dev") or (), "loss")
    if train[0]:
        axes.plot(*train, color=ACCENT, linewidth=1, label="training")
    if dev[0]:
        axes.plot(*dev, "o-", color=SECOND, label="dev rows")
    axes.set(xlabel="step", ylabel="loss, nats a token", ylim=(0, None))
    if train[0] or dev[0]:
        axes.legend(frameon=False)
    return bool(train[0] or dev[0])


def _dev(axes: Axes, report: Mapping[str, Any]) -> bool:
    looks = (report.get("curves") or {}).get("dev") or ()
    steps, values = _points(looks, "macro_f1")
    kept = [look for look in looks if look.get("best") and look.get("macro_f1") is not None]
    axes.plot(steps, values, "o-", color=SECOND)
    for look in kept[-1:]:
        axes.plot(look["step"], look["macro_f1"], "o", markersize=13, markerfacecolor="none", color=SECOND)
    axes.set(xlabel="step", ylabel="macro-F1 on dev", ylim=(0, 1.02))
    return bool(steps)


def _prevalence(axes: Axes, report: Mapping[str, Any]) -> bool:
    found = (report.get("prevalence") or {}).get("labels") or []
    drawn = [(ink, each) for ink, each in zip(LABEL_INKS, found[:COLOURS], strict=False) if each["curve"]]
    for ink, each in drawn:
        x = [point["prevalence"] for point in each["curve"]]
        low, ppv, high = ([point[key] for point in each["curve"]] for key in ("low", "ppv", "high"))
        axes.fill_between(x, low, high, color=ink, alpha=0.12, linewidth=0)
        axes.plot(x, ppv, color=ink, label=each["label"])
        if each["ppv"]["value"] is not None and x[0] <= each["prevalence"] <= x[-1]:
            axes.plot(each["prevalence"], each["ppv"]["value"], "o", color=ink)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="label’s share of the records", ylabel="PPV")
    axes.set_xticks(list(PREVALENCES), list(PREVALENCES.values()))
    axes.minorticks_off()
    if drawn:
        axes.legend(frameon=False)
    return bool(drawn)


PLOTS: Mapping[str, Callable[[Axes, Mapping[str, Any]], bool]] = {
    "confusion": _confusion,
    "calibration": _calibration,
    "coverage": _coverage,
    "loss": _loss,
    "dev": _dev,
    "ppv_by_prevalence": _prevalence,
}
