"""Plots as inline SVG: they take the page's colours and its width, and hold numbers and fixed words only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 360, 240  # viewBox units; about the pixels of a phone, so that text keeps its size there
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 38
COLOURS = 6  # labels that a plot tells apart
PREVALENCES = {0.001: "0.1 %", 0.005: "0.5 %", 0.02: "2 %", 0.1: "10 %", 0.5: "50 %"}
Points = Sequence[tuple[float, float]]


class Frame:
    """Axes of one plot: data units to viewBox units, ticks, labels."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        height: int = HEIGHT,
        x_ticks: Mapping[float, str] | None = None,
    ) -> None:
        self.x, self.y, self.labels, self.height = _wide(x), _wide(y), labels, height
        self.x_ticks = x_ticks or {tick: f"{tick:g}" for tick in ticks(*self.x)}
        self.marks: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(self.height - BOTTOM - up * (self.height - TOP - BOTTOM), 1),
        )

    def line(self, points: Points, kind: str) -> None:
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in points))
        self.marks.append(f'<polyline class="{kind}" points="{path}"/>')

    def band(self, low: Points, high: Points, kind: str) -> None:
        path = " ".join(f"{x},{y}" for x, y in (self.at(*point) for point in [*low, *reversed(high)]))
        self.marks.append(f'<polygon class="band {kind}" points="{path}"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        across, down = self.at(x, y)
        hint = f"<title>{title}</title>" if title else ""
        self.marks.append(f'<circle class="{kind}" cx="{across}" cy="{down}" r="{radius:.1f}">{hint}</circle>')

    def svg(self, name: str) -> Markup:
        right, floor = WIDTH - RIGHT, self.height - BOTTOM
        grid: list[str] = []
        for tick in ticks(*self.y):
            down = self.at(self.x[0], tick)[1]
            grid.append(
                f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{down}" y2="{down}"/>'
                f'<text x="{LEFT - 6}" y="{down + 4}" text-anchor="end">{tick:g}</text>'
            )
        grid += [
            f'<text x="{self.at(tick, self.y[0])[0]}" y="{floor + 16}" '
            f'text-anchor="{"end" if len(word) > 3 and tick > self.x[1] - 0.01 else "middle"}">{word}</text>'
            for tick, word in self.x_ticks.items()
        ]
        words = (
            f'<text class="axis" x="{(LEFT + right) / 2}" y="{self.height - 4}" text-anchor="middle">'
            f'{self.labels[0]}</text><text class="axis" text-anchor="middle" '
            f'transform="translate(11 {(TOP + floor) / 2}) rotate(-90)">{self.labels[1]}</text>'
        )
        return Markup(
            f'<svg class="plot" viewBox="0 0 {WIDTH} {self.height}" role="img" aria-label="{name}">'
            f"{''.join(grid)}{words}{''.join(self.marks)}</svg>"
        )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(at * step, 10) for at in range(first, last + 1)]


def _wide(span: tuple[float, float]) -> tuple[float, float]:
    """A span that is not empty."""
    low, high = span
    return span if high - low > 1e-12 else (low - 0.5, high + 0.5)


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if row.get("step") is not None and row.get(key) is not None]


def loss_plot(steps: Sequence[Mapping[str, Any]], dev: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Training loss by step (thin: each step; thick: running mean) and dev loss (dots)."""
    train_points, dev_points = _points(steps, "loss"), _points(dev, "loss")
    both = train_points + dev_points
    if not both:
        return None
    frame = Frame((0, max(x for x, _ in both)), (0, 1.05 * max(y for _, y in both)), ("step", "loss, nats a token"))
    if train_points:
        frame.line(train_points, "thin")
        frame.line(_smooth(train_points), "curve")
    if dev_points:
        frame.line(dev_points, "other")
        for x, y in dev_points:
            frame.dot(x, y, 3, "otherdot", f"dev, step {x:g}: {y:.3f}")
    return frame.svg("Loss by step")


def _smooth(points: Points) -> list[tuple[float, float]]:
    """Running mean over a tenth of the steps."""
    reach = max(1, len(points) // 20)
    means = []
    for at, (x, _) in enumerate(points):
        near = [y for _, y in points[max(0, at - reach) : at + reach + 1]]
        means.append((x, sum(near) / len(near)))
    return means


def dev_plot(dev: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Macro-F1 of the dev rows at each look; the ring is the state that was kept."""
    points = _points(dev, "macro_f1")
    if not points:
        return None
    frame = Frame((0, max(x for x, _ in points)), (0, 1), ("step", "macro-F1 on dev"))
    frame.line(points, "other")
    for x, y in points:
        frame.dot(x, y, 3, "otherdot", f"step {x:g}: {y:.3f}")
    kept = [row["step"] for row in dev if row.get("best")]
    for x, y in points:
        if kept and x == kept[-1]:
            frame.dot(x, y, 7, "ring", f"kept: step {x:g}, {y:.3f}")
    return frame.svg("Macro-F1 of the dev rows by step")


def reliability_plot(bins: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Accuracy against confidence by bin; the larger the dot, the more rows; whiskers are the intervals."""
    filled = [each for each in bins if each["accuracy"]["n"]]
    if not filled:
        return None
    frame = Frame((0, 1), (0, 1), ("confidence", "share that was right"), height=300)
    frame.line([(0, 0), (1, 1)], "ideal")
    most = max(each["accuracy"]["n"] for each in filled)
    for each in filled:
        x, accuracy = each["confidence"], each["accuracy"]
        if accuracy["interval"]:
            frame.line([(x, accuracy["interval"]["low"]), (x, accuracy["interval"]["high"])], "whisker")
        frame.dot(x, accuracy["value"], 3 + 6 * math.sqrt(accuracy["n"] / most), "dot", f"{accuracy['n']} rows")
    return frame.svg("Share of right ratings by confidence")


def prevalence_plot(labels: Sequence[Mapping[str, Any]]) -> Markup | None:
    """PPV against prevalence (logarithmic), with intervals as bands; the dots are the prevalences of the table."""
    drawn = [(at, each) for at, each in enumerate(labels[:COLOURS]) if each["curve"]]
    if not drawn:
        return None
    shown = {math.log10(at): word for at, word in PREVALENCES.items()}
    frame = Frame((math.log10(0.001), math.log10(0.5)), (0, 1), ("share of the records", "PPV"), 280, shown)
    for at, each in drawn:
        low, high = (
            [(math.log10(point["prevalence"]), point[end]) for point in each["curve"]] for end in ("low", "high")
        )
        frame.band(low, high, f"b{at}")
    for at, each in drawn:
        frame.line([(math.log10(point["prevalence"]), point["ppv"]) for point in each["curve"]], f"c{at}")
        if each["ppv"]["value"] is not None and 0.001 <= each["prevalence"] <= 0.5:
            title = f"{each['ppv']['value']:.3f} at {100 * each['prevalence']:.3g} %"
            frame.dot(math.log10(each["prevalence"]), each["ppv"]["value"], 4, f"d{at}", title)
    return frame.svg("PPV by prevalence")


def whisker_plot(estimate: Mapping[str, Any], nominal: float | None = None) -> Markup:
    """One estimate from 0 to 1 with its interval, to be read down a table's column; `nominal` is a mark beside it."""
    if estimate["value"] is None:
        return Markup("")
    span, whisker = 150, ""
    if estimate["interval"]:
        low, high = (5 + span * min(1.0, max(0.0, estimate["interval"][end])) for end in ("low", "high"))
        whisker = f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="8" y2="8"/>'
    mark = ""
    if nominal is not None:
        mark = f'<line class="nominal" x1="{5 + span * nominal:.1f}" x2="{5 + span * nominal:.1f}" y1="2" y2="14"/>'
    dot = 5 + span * min(1.0, max(0.0, estimate["value"]))
    return Markup(
        f'<svg class="forest" viewBox="0 0 {span + 10} 16" aria-hidden="true">'
        f'<line class="grid" x1="5" x2="{span + 5}" y1="8" y2="8"/>{mark}{whisker}'
        f'<circle class="dot" cx="{dot:.1f}" cy="8" r="3.5"/></svg>'
    )
