"""Plots of the report, each drawn once with matplotlib: as SVG in the page, as PNG in `plots/` for papers and slides.

They show figures and the names of labels, never the text of a record.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ..evaluate.compare import Evaluation
from ..evaluate.coverage import Coverage
from ..evaluate.prevalence import PrevalenceTable
from ..files import atomic
from ..report_record import ReportRecord
from ..stats.learning_curve import LearningCurve
from ..train.events import DevEvent

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "plots"
PNG_NAMES = ("confusion", "calibration", "coverage", "loss", "dev", "ppv_by_prevalence", "learning_curve")
INK, SOFT, ACCENT, SECOND = "#20272c", "#5d6a72", "#0b6570", "#b2591a"
LABEL_COLOURS = (ACCENT, SECOND, "#5b4b9a", "#7a7a1f", "#a3305f", "#44525a")
PREVALENCES = {0.001: "0.1 %", 0.005: "0.5 %", 0.02: "2 %", 0.1: "10 %", 0.5: "50 %"}
_SIZE, _DPI = (4.8, 3.6), 180  # inches (346 points wide: about the pixels of a phone), dots an inch
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a label may hold dollar signs
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "font.size": 11,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "expertune",  # the same report gives the same file
}


@dataclass(frozen=True)
class Plot:
    """`words` is the alternative text: what the plot shows, with its figures."""

    figure: Figure
    words: str


def draw_plots(report: ReportRecord) -> dict[str, Plot]:
    """Draw what the report has figures for, by name.

    `calibration` is the judged artefact's; the other raters have `calibration_2` and so on, in their order.
    """
    raters = report.evaluations
    steps, dev = (report.curves.steps, report.curves.dev) if report.curves else ((), ())
    train_loss, dev_loss = ([(each.step, each.loss) for each in events] for events in (steps, dev))
    with _style():
        drawn = {
            "confusion": _confusion(raters[0]) if raters else None,
            **{"calibration" + (f"_{at}" if at > 1 else ""): _calibration(each) for at, each in enumerate(raters, 1)},
            "coverage": _coverage(report.conformal) if report.conformal else None,
            "loss": _loss(_finite(train_loss), _finite(dev_loss)),
            "dev": _dev(dev),
            "ppv_by_prevalence": _prevalence(report.prevalence) if report.prevalence else None,
            "learning_curve": _learning_curves(report.learning_curves),
        }
    return {name: plot for name, plot in drawn.items() if plot}


def write_plots(folder: Path, plots: Mapping[str, Plot]) -> None:
    """Write the PNG files, mode 0600, and remove those of an earlier report that this one has no figures for.

    Raises OutputError where the folder cannot be written.
    """
    for name in PNG_NAMES:
        path = Path(folder) / FOLDER / f"{name}.png"
        with contextlib.suppress(OSError):  # the error of the file says what is wrong with the folder
            path.parent.mkdir(mode=0o700, exist_ok=True) if name in plots else path.unlink()
        if name in plots:
            with atomic(path) as file, _style():
                plots[name].figure.savefig(file, format="png")


def svg(name: str, plot: Plot) -> Markup:
    """Give the plot as an <svg> element to be inlined: it names no address, and its ids begin with `name`."""
    from markupsafe import Markup

    stream = io.BytesIO()
    with _style():
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        plot.figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    root = ElementTree.fromstring(stream.getvalue())
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]  # HTML needs no namespaces
        each.attrib = {key.rpartition("}")[2]: _local(key, value, name) for key, value in each.attrib.items()}
        each.text, each.tail = (text if text and text.strip() else None for text in (each.text, each.tail))
    size = {"viewBox": root.attrib["viewBox"], "preserveAspectRatio": "xMidYMid"}
    root.attrib = {"class": "plot", "role": "img", "aria-label": plot.words, **size}
    text = ElementTree.tostring(root, encoding="unicode")
    for at, colour in enumerate((INK, SOFT, *LABEL_COLOURS)):
        text = text.replace(f": {colour}", f": var(--plot-{at}, {colour})")  # report.css has lighter ones for dark mode
    return Markup(text)


def _local(key: str, value: str, name: str) -> str:
    """Make an id, and a reference to one, unique in a page with several plots."""
    if key == "id":
        return f"{name}-{value}"
    return re.sub(r"^#|(?<=url\()#", f"#{name}-", value) if key.endswith("href") or "url(#" in value else value


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Colours and settings of every plot; matplotlib reads them when it draws and again when it saves."""
    from matplotlib import rc_context

    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box takes its place in the PNG
        yield


def _axes(height: float = _SIZE[1]) -> tuple[Figure, Axes]:
    """Make axes in a figure of their own: pyplot would keep it for the whole process."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_SIZE[0], height), dpi=_DPI, layout="constrained")
    return figure, figure.add_subplot()


def _name(label: str, width: int = 16, lines: int = 2) -> str:
    """Break a label over at most so many lines, so that it takes no more than a third of the plot."""
    label = "".join(each if each.isprintable() else " " for each in label)  # XML has no control characters
    if any(unicodedata.east_asian_width(each) in "WF" for each in label):
        width = 8  # such a sign is as wide as two
    if lines == 1:
        return label if len(label) <= width else f"{label[: width - 1]}…"
    return "\n".join(textwrap.wrap(label, width, max_lines=lines, placeholder=" …"))


def _legend(figure: Figure, columns: int) -> None:
    """Place the legend below the axes, where it covers no figure."""
    figure.legend(loc="outside lower center", ncols=columns, handlelength=1.2)


def _confusion(rater: Evaluation) -> Plot:
    count = len(rater.labels)
    figure, axes = _axes(max(_SIZE[1], 2 + 0.45 * count))
    shares = [[records / (sum(line) or 1) for records in line] for line in rater.confusion]
    axes.imshow(shares, cmap="GnBu", vmin=0, vmax=1, aspect="auto")
    for row, line in enumerate(rater.confusion):
        for column, records in enumerate(line):
            ink = "white" if shares[row][column] > 0.6 else INK
            axes.text(column, row, str(records), ha="center", va="center", color=ink)
    axes.set_yticks(range(count), [_name(label) for label in rater.labels])
    if count <= 3:
        axes.set_xticks(range(count), [_name(label, 12) for label in rater.labels])
    else:  # slanted, so that they do not meet
        names = [_name(label, lines=1) for label in rater.labels]
        axes.set_xticks(range(count), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set(title="Confusion matrix", xlabel=f"predicted ({rater.name})", ylabel="expert")
    axes.spines[:].set_visible(False)
    return Plot(figure, f"Confusion matrix of {rater.name}: {rater.rows} records, expert by predicted label.")


def _calibration(rater: Evaluation) -> Plot | None:
    filled = [each for each in rater.calibration.bins if each.accuracy.n]
    if not filled:
        return None
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], ":", color=SOFT)
    most = max(each.accuracy.n for each in filled)
    for each in filled:
        x, y = each.confidence or 0.0, each.accuracy.value or 0.0
        n, interval = each.accuracy.n, each.accuracy.interval
        if interval:
            axes.plot([x, x], [interval.low, interval.high], color=ACCENT, alpha=0.6)
        axes.plot(x, y, "o", color=ACCENT, markersize=4 + 6 * math.sqrt(n / most))
        axes.annotate(str(n), (x, y), (6, 4), textcoords="offset points", color=SOFT, fontsize=9, annotation_clip=False)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), title=f"Calibration: {_name(rater.name, 28, 1)}")
    axes.set(xlabel="confidence (numbers: records)", ylabel="share correct")
    said = ", ".join(f"{x.confidence:.2f} → {x.accuracy.value:.2f} (n = {x.accuracy.n})" for x in filled)
    return Plot(figure, f"Calibration of {rater.name}: mean confidence → share correct, by bin: {said}.")


def _coverage(found: Coverage) -> Plot | None:
    lines = [each for each in found.labels if each.covered.value is not None]
    if not lines:
        return None
    figure, axes = _axes(1.2 + 0.6 * len(lines))
    for at, each in enumerate(lines):
        interval = each.covered.interval
        if interval:
            axes.plot([interval.low, interval.high], [at, at], color=ACCENT)
        axes.plot(each.covered.value or 0.0, at, "o", color=ACCENT)
    axes.axvline(found.nominal, color=SECOND, label=f"nominal: {found.nominal:.2f}")
    axes.set_yticks(range(len(lines)), [f"{_name(each.label)}\nn = {each.covered.n}" for each in lines])
    axes.set(xlim=(0, 1.02), ylim=(len(lines) - 0.5, -0.5), title="Coverage by label")
    axes.set_xlabel("sets that contain the expert’s label")
    _legend(figure, 1)
    said = ", ".join(f"{each.label} {each.covered.value:.2f} (n = {each.covered.n})" for each in lines)
    return Plot(figure, f"Conformal coverage by label, nominal {found.nominal:.2f}: {said}.")


Points = Sequence[tuple[float, float]]


def _finite(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(y)]


def _smooth(points: Points) -> Points:
    reach = max(1, len(points) // 20)
    near = [[y for _, y in points[max(0, at - reach) : at + reach + 1]] for at in range(len(points))]
    return [(x, sum(values) / len(values)) for (x, _), values in zip(points, near, strict=True)]


def _loss(train: Points, dev: Points) -> Plot | None:
    if not train and not dev:
        return None
    figure, axes = _axes()
    if train:
        axes.plot(*zip(*train, strict=True), color=ACCENT, linewidth=0.8, alpha=0.35)
        axes.plot(*zip(*_smooth(train), strict=True), color=ACCENT, linewidth=2, label="training (running mean)")
    if dev:
        axes.plot(*zip(*dev, strict=True), "o-", color=SECOND, label="validation")
    axes.set(title="Loss in training", xlabel="step", ylabel="loss (nats per token)")
    axes.set(ylim=(0, 1.05 * max(y for _, y in [*train, *dev]) or 1))
    _legend(figure, 2)
    curves = {"training": train, "validation": dev}
    said = ", ".join(
        f"{name} from {points[0][1]:.3f} to {points[-1][1]:.3f}" for name, points in curves.items() if points
    )
    return Plot(figure, f"Loss by step: {said}.")


def _dev(dev: Sequence[DevEvent]) -> Plot | None:
    points = _finite([(each.step, each.macro_f1) for each in dev])
    if not points:
        return None
    figure, axes = _axes()
    axes.plot(*zip(*points, strict=True), "o-", color=SECOND)
    kept = _finite([(each.step, each.macro_f1) for each in dev if each.best])[-1:]
    for x, y in kept:
        axes.plot(x, y, "o", markersize=13, markerfacecolor="none", color=SECOND)
    axes.set(title="Macro-F1 on validation records", ylim=(0, 1.02))
    axes.set(xlabel="step (ring: the checkpoint kept)", ylabel="macro-F1")
    said = ", ".join(f"step {x:g}: {y:.3f}" for x, y in points)
    said += f"; kept: step {kept[0][0]:g}" if kept else ""
    return Plot(figure, f"Macro-F1 on the validation records: {said}.")


def _prevalence(table: PrevalenceTable) -> Plot | None:
    drawn = [(colour, each) for colour, each in zip(LABEL_COLOURS, table.labels, strict=False) if each.curve]
    if not drawn:
        return None
    # one row of names, or two columns of them, for which the figure grows
    columns = len(drawn) if sum(5 + len(each.label) for _, each in drawn) <= 50 else 2
    figure, axes = _axes(_SIZE[1] + (0 if columns == len(drawn) else 0.4 * math.ceil(len(drawn) / 2)))
    for colour, each in drawn:
        x = [point.prevalence for point in each.curve]
        low, high = [point.low for point in each.curve], [point.high for point in each.curve]
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.plot(x, [point.ppv for point in each.curve], color=colour, label=_name(each.label))
        if each.ppv.value is not None and x[0] <= each.prevalence <= x[-1]:
            axes.plot(each.prevalence, each.ppv.value, "o", color=colour)
    axes.set(title="PPV by prevalence", xscale="log", ylim=(0, 1.02), xlabel="prevalence of the label", ylabel="PPV")
    axes.set_xticks(list(PREVALENCES), list(PREVALENCES.values()))
    axes.minorticks_off()
    _legend(figure, columns)
    said = ", ".join(f"{each.label} {each.curve[0].ppv:.2f} to {each.curve[-1].ppv:.2f}" for _, each in drawn)
    return Plot(figure, f"PPV by prevalence, from 0.1 % to 50 %: {said}.")


def _learning_curves(curves: Sequence[LearningCurve]) -> Plot | None:
    if not curves:
        return None
    figure, axes = _axes()
    said = []
    for at, (colour, curve) in enumerate(zip(LABEL_COLOURS, curves, strict=False)):
        points = [(each.records * 1.02**at, each.macro_f1) for each in curve.points]  # so that bars do not meet
        for x, figure_of in points:
            if figure_of.interval:
                axes.plot([x, x], [figure_of.interval.low, figure_of.interval.high], color=colour, alpha=0.5)
        drawn = [(x, each.value) for x, each in points if each.value is not None]
        if drawn:
            axes.plot(*zip(*drawn, strict=True), "o-", color=colour, label=curve.rater)
        said += [curve.line()]
    axes.set(title="Learning curve", xlabel="records learned from", ylabel="macro-F1, cross-validated")
    axes.set(ylim=(0, 1.02), xlim=(0, None))
    _legend(figure, 1)
    return Plot(figure, f"{'. '.join(said)}.")
