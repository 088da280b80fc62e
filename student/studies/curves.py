"""A study's pictures: accuracy over the epochs, and against what a student costs."""

import json
import statistics
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from egoctl.pipeline.runs.run_folder import METRICS_FILE
from egoctl.student.studies.plan import TEACHER_ROW
from egoctl.student.studies.result import FilledTable, StudyResult
from egoctl.student.studies.study import RunState
from egoctl.student.studies.tables import IN_PERCENT

DPI = 120
LINES = ("-", "--", ":", "-.")


def draw_curves(result: StudyResult) -> list[Path]:
    """Write curves/*.png into the study's folder: learning per teacher, and tables with costs."""
    folder = Path(result.plan.out) / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for teacher in result.plan.teachers:
        figure = _learning(result, teacher)
        if figure is not None:
            files.append(folder / f"learning-{teacher}.png")
            figure.savefig(files[-1], dpi=DPI)
    for filled in result.tables:
        if any(line.cost and line.value for line in filled.lines):
            files.append(folder / f"{filled.table.name}.png")
            _against_cost(result, filled).savefig(files[-1], dpi=DPI)
    return files


def _learning(result: StudyResult, teacher: str) -> Figure | None:
    """Top-1 on the val split by epoch, mean over seeds; None where no run has such a split."""
    curves = {}
    for row in result.plan.rows:
        states = [
            s
            for s in result.states
            if s.has_metrics and s.run.row == row.name and s.run.teacher in (teacher, None)
        ]
        if curve := list(_mean_curve(states)):
            curves[row.name] = curve
    if not curves:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        # Ten colours come back after ten rows, with another line.
        style = LINES[index // 10 % len(LINES)]
        axes.plot(range(1, len(curve) + 1), curve, linestyle=style, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="top-1 on the val split, mean over seeds, %", title=teacher)
    axes.legend(fontsize="small")
    return figure


def _mean_curve(states: list[RunState]) -> Iterator[float]:
    rows = [
        [json.loads(line)["val_top1"] for line in text.splitlines()]
        for text in ((s.run.folder / METRICS_FILE).read_text("utf-8") for s in states)
    ]
    for values in zip_longest(*rows):
        known = [value for value in values if value is not None]
        if known:
            yield 100 * statistics.fmean(known)


def _against_cost(result: StudyResult, filled: FilledTable) -> Figure:
    """The metric over GFLOPs: a line per method and teacher, bars of one standard deviation."""
    scale = 100 if filled.table.metric in IN_PERCENT else 1
    method_of = {state.run.row: state.run.config.student.method for state in result.states}
    points: dict[str, list[tuple[float, float, float]]] = {}
    for line in filled.lines:
        if line.cost and line.value and line.imu == "own":
            name = f"{method_of[line.row]}, {line.teacher}"
            value = line.value
            points.setdefault(name, []).append(
                (line.cost.gflops, scale * value.mean, scale * (value.std or 0.0))
            )
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, of_method in points.items():
        gflops, means, stds = zip(*sorted(of_method), strict=True)
        axes.errorbar(gflops, means, yerr=stds, marker="o", capsize=3, label=name)
    for line in filled.lines:
        if line.row == TEACHER_ROW and line.value:
            axes.axhline(scale * line.value.mean, linestyle=":", label=f"teacher {line.teacher}")
    axes.set(xlabel="GFLOPs of one clip", ylabel=filled.table.metric, title=filled.table.title)
    axes.legend(fontsize="small")
    return figure
