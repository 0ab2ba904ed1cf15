"""The table of bench/job.py: one column a side, from entries of one run only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import runs
from runs import Entry

MARK = "bench/job.py"
TITLES = {
    "ours": "Expertune",
    "trl-bf16": "TRL + PEFT, bfloat16",
    "trl-fp32": "TRL + PEFT, float32",
    "unsloth": "Unsloth, CPU mode",
}
# our stage names and the peers', by what they do
STAGES = {
    "start, read, load": ("start and end", "read", "start and load"),
    "train": ("train",),
    "merge, write and quantise the file": ("export", "merge", "convert", "quantise"),
    "model set": ("model set",),
    "rate and judge the test records": ("judge", "rate"),
}


def tables(entries: Sequence[Entry], sides: Sequence[str]) -> Iterator[str]:
    """A table of each run, the one that was measured last first."""
    of_runs = list(dict.fromkeys(each["run"] for each in reversed(entries)))
    for run in of_runs or [None]:
        yield from table(entries, sides, run)
        yield ""


def table(entries: Sequence[Entry], sides: Sequence[str], run: str | None = None) -> Iterator[str]:
    """`run` is the one that was measured last unless it is given."""
    if not entries:
        yield "Nothing has been measured yet."
        return
    run = run or entries[-1]["run"]
    found = {side: entry for (side,), entry in runs.latest([e for e in entries if e["run"] == run], "side").items()}
    missing = {"not_measured": "not measured"}
    columns = [found.get(side, missing) for side in sides]
    yield from runs.table(("", *(TITLES.get(side, side) for side in sides)), list(rows(columns, found.get("ours"))))
    yield ""
    yield from notes(columns)


def rows(columns: Sequence[Entry], ours: Entry | None) -> Iterator[list[str]]:
    known = {stage for names in STAGES.values() for stage in names}
    for title, names in STAGES.items():
        yield [f"{title}, s", *(seconds(each, names) for each in columns)]
    if any(set(each.get("stages", ())) - known for each in columns):
        yield ["other, s", *(seconds(each, set(each.get("stages", ())) - known) for each in columns)]
    yield ["**whole job, s**", *(cell(each, lambda e: f"**{e['seconds']:,.0f}**") for each in columns)]
    yield [
        "processor time of the whole job, seconds",
        *(cell(each, lambda e: f"{e['cpu_seconds']:,.0f}") for each in columns),
    ]
    yield ["peak memory, MB", *(cell(each, lambda e: f"{e['peak_mb']:,.0f}") for each in columns)]
    yield ["training steps", *(cell(each, steps) for each in columns)]
    yield ["tokens/s in training", *(cell(each, lambda e: rate(e.get("training"))) for each in columns)]
    for title, name in (("macro-F1", "macro_f1"), ("accuracy", "accuracy"), ("log-loss", "log_loss")):
        yield [
            title,
            *(cell(each, lambda e, name=name: runs.figure((e["figures"] or {}).get(name))) for each in columns),
        ]
    yield ["macro-F1, Expertune less this", *(cell(each, lambda e: difference(e, ours)) for each in columns)]
    yield ["file, MB", *(cell(each, file) for each in columns)]


def cell(entry: Entry, told) -> str:
    return "–" if "not_measured" in entry else told(entry)


def seconds(entry: Entry, names: Sequence[str] | set[str]) -> str:
    if "not_measured" in entry:
        return "–"
    found = [entry["stages"][name] for name in names if name in entry["stages"]]
    return f"{sum(found):,.0f}" if found else "–"


def steps(entry: Entry) -> str:
    return f"{entry['training']['steps']:,}" if entry.get("training") else "–"


def rate(training: Mapping[str, float] | None) -> str:
    return f"{training['tokens_per_second']:,.0f}" if training and training.get("tokens_per_second") else "–"


def difference(entry: Entry, ours: Entry | None) -> str:
    """Only beside the very measurement of ours that the peer's file was compared with."""
    if entry.get("ours_less_this") is None or ours is None or ours["date"] > entry["date"]:
        return "–"
    return runs.figure(entry["ours_less_this"], sign=True)


def file(entry: Entry) -> str:
    if not entry.get("file"):
        return "–"
    return f"{entry['file']['bytes'] / 1e6:,.0f} ({', '.join(entry['file']['types'])})"


def notes(columns: Sequence[Entry]) -> Iterator[str]:
    measured = [each for each in columns if "not_measured" not in each]
    if measured:
        last = measured[-1]
        rows_ = measured[0]["rows"]
        yield (
            f"{last['records']} ({rows_['train']} records to train on, {rows_['test']} to test), {last['model']}, "
            f"{last['threads']} threads; {last['machine']}; run {last['run']}, "
            f"{', '.join(sorted({each['date'][:10] for each in measured}))}, commit "
            f"{', '.join(sorted({each['commit'] for each in measured}))}; load when a side began "
            f"{', '.join(str(each['load']) for each in measured)}."
        )
        if measured[0]["side"] == "ours":
            yield f"Expertune recommended: {measured[0]['recommended']}."
    for each in columns:
        if each.get("not_measured") and "side" in each:
            yield f"{TITLES[each['side']]}: not measured: {each['not_measured']}."
