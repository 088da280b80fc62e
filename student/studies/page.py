"""A study's tables as Markdown: ours with their spread, the paper's beside them and marked so."""

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from egoctl.student.settings.pretrain_config import DEFAULT_LOSSES
from egoctl.student.studies.plan import TEACHER_ROW, StudyPlan
from egoctl.student.studies.result import FilledTable, StudyResult
from egoctl.student.studies.tables import CONFIDENCE, MIN_SEEDS, ClassGain, Spread, TableLine

IN_PERCENT = ("top1", "top5", "centre_clip_top1", "common_top1", "agreement")
NUM_CLASSES = 5
"""The best and the worst so many of a table of classes are shown."""


def markdown_lines(result: StudyResult) -> Iterator[str]:
    """All of tables.md."""
    yield f"# {result.plan.title or result.plan.name}"
    yield ""
    yield (
        f"Split {result.plan.split!r}, {result.num_scored or 'no'} segments scored, seeds "
        f"{', '.join(str(seed) for seed in result.plan.seeds)}. Mean and sample standard deviation "
        "are over seeds; in brackets the 95 % interval of the mean difference, seed by seed "
        "(Student's t)."
    )
    yield ""
    yield (
        f"Made by `egoctl study {result.plan.name}.toml` with egoctl {version('egoctl')}, torch "
        f"{version('torch')} and Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores."
    )
    for warning in result.warnings:
        yield ""
        yield f"**Warning.** {warning}"
    for filled in result.tables:
        yield ""
        yield f"## {filled.table.title}"
        yield ""
        yield from _class_lines(filled) if filled.table.kind == "classes" else _lines(filled)
    yield ""
    yield from _row_lines(result.plan)
    yield from _unfinished(result)


def _row_lines(plan: StudyPlan) -> Iterator[str]:
    """What each row's name stands for, as the plan has it."""
    yield "## Rows"
    yield ""
    yield f"All rows: {_told(plan.settings) or 'the defaults of train-student'}. Each differs in:"
    yield ""
    yield "| row | differs in |"
    yield "| --- | --- |"
    for row in plan.rows:
        own = {"inputs": row.inputs, "pretrain": row.pretrain, "labelled_share": row.labelled_share}
        given = {name: value for name, value in own.items() if value is not None}
        yield f"| {row.name} | {_told({**given, **row.settings}) or 'nothing'} |"
    for pretraining in plan.pretrainings:
        yield ""
        yield f"Pretraining {pretraining.name}: {_told(pretraining.settings) or 'the defaults'}."


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _lines(filled: FilledTable) -> Iterator[str]:
    table = filled.table
    heads = ["row", "teacher", "IMU", _metric_name(table.metric), "std", "seeds", "per seed"]
    if table.against:
        heads += [f"minus {table.against}", "seed by seed"]
    if table.costs:
        heads += ["GFLOPs", "M parameters"]
    if table.paper:
        heads.append(f"as the paper's ({table.paper_source})")
    yield f"| {' | '.join(heads)} |"
    yield f"|{' --- |' * len(heads)}"
    for line in filled.lines:
        cells = [line.row, line.teacher, line.imu, *_value_cells(line, table.metric)]
        if table.against:
            cells += _gain_cells(line.against, table.metric)
        if table.costs:
            cost = line.cost
            cells += [f"{cost.gflops:.3f}", f"{cost.million_parameters:.2f}"] if cost else ["", ""]
        if table.paper:
            paper = line.paper.numbers if line.paper else {}
            cells.append(", ".join(f"{value:.2f} {dataset}" for dataset, value in paper.items()))
        yield f"| {' | '.join(cells)} |"
    pixels = {line.cost.frame_px for line in filled.lines if line.cost}
    if pixels:
        yield ""
        yield (
            "GFLOPs are 10^9 multiply-adds of one clip, counted by fvcore at "
            f"{', '.join(str(px) for px in sorted(pixels))} pixels."
        )


def _value_cells(line: TableLine, metric: str) -> list[str]:
    if line.value is None:
        return ["-", "", "0", ""]
    if line.row == TEACHER_ROW:
        return [number(line.value.mean, metric), "", "one teacher", ""]
    std = line.value.std
    return [
        number(line.value.mean, metric),
        "" if std is None else number(std, metric),
        str(len(line.value.values)),
        " ".join(number(value, metric) for value in line.value.values),
    ]


def _gain_cells(gain: Spread | None, metric: str) -> list[str]:
    if gain is None:
        return ["", ""]
    each = " ".join(number(value, metric, signed=True) for value in gain.values)
    return [with_interval(gain, metric), each]


def with_interval(gain: Spread, metric: str) -> str:
    """A difference, and its interval if there is one."""
    mean = number(gain.mean, metric, signed=True)
    if gain.interval is None:
        return f"{mean} (one seed)"
    low, high = (number(end, metric, signed=True) for end in gain.interval)
    return f"{mean} [{low}, {high}]"


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """As tables show it: shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.2f}" if metric in IN_PERCENT else f"{value:{sign}.4g}"


def _metric_name(metric: str) -> str:
    return f"{metric}, %" if metric in IN_PERCENT else metric


def _class_lines(filled: FilledTable) -> Iterator[str]:
    table = filled.table
    for teacher, gains in filled.classes:
        yield f"{table.rows[0]} minus {table.against}, teacher {teacher}, points of top-1:"
        yield ""
        if not gains:
            yield "No seed of both is finished."
            continue
        yield "| class | segments | gain | seeds |"
        yield "| --- | --- | --- | --- |"
        for gain in shown_classes(gains):
            cells = [gain.name.replace("|", "/"), str(gain.num_segments),
                     with_interval(gain.gain, "top1"), str(len(gain.gain.values))]  # fmt: skip
            yield f"| {' | '.join(cells)} |"
        yield ""
        if len(gains) > 2 * NUM_CLASSES:
            yield f"The best and the worst {NUM_CLASSES} of {len(gains)} classes."


def shown_classes(gains: tuple[ClassGain, ...]) -> tuple[ClassGain, ...]:
    """The best and the worst few."""
    if len(gains) <= 2 * NUM_CLASSES:
        return gains
    return (*gains[:NUM_CLASSES], *gains[-NUM_CLASSES:])


def _unfinished(result: StudyResult) -> Iterator[str]:
    seeds_of: dict[tuple[str, str], list[int]] = {}
    for state in result.states:
        if not state.has_metrics:
            name = " ".join(filter(None, (state.run.row, state.run.teacher)))
            seeds_of.setdefault((name, state.reason or "not run yet"), []).append(state.run.seed)
    if seeds_of:
        yield ""
        yield "## Not in these tables"
        yield ""
    for (name, reason), seeds in seeds_of.items():
        yield f"- {name}, seed {', '.join(str(seed) for seed in seeds)}: {reason}"


def page_lines(result: StudyResult) -> Iterator[str]:
    """The whole page."""
    yield from markdown_lines(result)
    yield ""
    yield "## What follows"
    yield ""
    for filled in result.tables:
        yield from _sentences(filled, names_teacher=len(result.plan.teachers) > 1)
    yield ""
    yield "## What does not follow"
    yield ""
    yield from _limits(result)


def _sentences(filled: FilledTable, *, names_teacher: bool) -> Iterator[str]:
    for line in filled.lines:
        if line.against is not None:
            told = _comparison(line, filled, names_teacher=names_teacher)
            yield f"- {filled.table.title}: {told}"
    yield from _teacher_sentences(filled)
    for teacher, gains in filled.classes:
        clear = [gain for gain in gains if gain.gain.is_clear]
        better = sum(gain.gain.mean > 0 for gain in clear)
        yield (
            f"- {filled.table.title}: of {len(gains)} classes (teacher {teacher}), "
            f"{filled.table.rows[0]} is better than {filled.table.against} at {better}, worse at "
            f"{len(clear) - better}, and no difference is shown at {len(gains) - len(clear)}."
        )


def _comparison(line: TableLine, filled: FilledTable, *, names_teacher: bool) -> str:
    gain, other, metric = line.against, filled.table.against, filled.table.metric
    assert gain is not None, "the caller has looked"
    name = line.row if line.imu == "own" else f"{line.row} with {line.imu} IMU"
    if names_teacher:
        name += f" (teacher {line.teacher})"
    told = f"{with_interval(gain, metric)}, {len(gain.values)} seeds"
    if not gain.is_clear:
        few = len(gain.values) < MIN_SEEDS
        why = f"that takes {MIN_SEEDS} seeds" if few else "0 is inside"
        return f"no difference of {metric} is shown between {name} and {other}: {told}; {why}."
    return f"{name} has {'more' if gain.mean > 0 else 'less'} {metric} than {other}: {told}."


def _teacher_sentences(filled: FilledTable) -> Iterator[str]:
    """Whether the students stay below their teacher, where the table shows it."""
    for teacher_line in filled.lines:
        if teacher_line.row != TEACHER_ROW or teacher_line.value is None:
            continue
        students = [
            line
            for line in filled.lines
            if line.teacher == teacher_line.teacher and line.row != TEACHER_ROW and line.value
        ]
        above = [line.row for line in students if _is_above(line.value, teacher_line.value)]
        mean = number(teacher_line.value.mean, filled.table.metric)
        told = f"teacher {teacher_line.teacher} ({mean})"
        if above:
            yield (
                f"- {filled.table.title}: above {told} on average: {', '.join(above)}. A "
                "teacher below its students has little to teach them."
            )
        elif students:
            yield f"- {filled.table.title}: no row's mean stands above {told}."


def _is_above(value: Spread | None, teacher: Spread) -> bool:
    return value is not None and value.mean > teacher.mean


def _seen_by_pretraining(result: StudyResult) -> Iterator[str]:
    """Where rows of few segments begin with a pretraining, what that has seen of the others."""
    plan = result.plan
    used = {row.pretrain for row in plan.rows if row.labelled_share is not None}
    for pretraining in plan.pretrainings:
        if pretraining.name not in used:
            continue
        losses = pretraining.settings.get("losses", DEFAULT_LOSSES)
        told = f"- Pretraining {pretraining.name} ({losses}) sees every train clip and no label"
        if "l1" in losses:
            told += (
                ", and the teacher's feature of each: a row that is trained on fewer segments "
                "has been told of the others by the teacher"
            )
        yield f"{told}."


def _limits(result: StudyResult) -> Iterator[str]:
    gains = [
        gain
        for filled in result.tables
        for gain in (
            *(line.against for line in filled.lines),
            *(found.gain for _, classes in filled.classes for found in classes),
        )
        if gain is not None and gain.interval is not None
    ]
    if gains:
        yield (
            f"- {len(gains)} comparisons are made, each at {CONFIDENCE:.0%}: even if nothing "
            f"differed, about {(1 - CONFIDENCE) * len(gains):.1f} of the intervals would leave "
            f"out 0 by chance. {sum(gain.is_clear for gain in gains)} are called differences."
        )
    yield (
        "- Spread and intervals are over students' seeds alone: one data set, one evaluation of "
        f"{result.num_scored or 0} segments, one fit of every teacher. Other data may turn any of "
        "it round."
    )
    yield "- That a difference is not shown does not mean that there is none: see its interval."
    if any(state.run.pretraining for state in result.states if state.has_metrics):
        yield (
            "- A pretrained row has had the epochs of its pretraining on top of its own: part of "
            "what it gains may be training for longer."
        )
        yield from _seen_by_pretraining(result)
    if any(filled.table.paper for filled in result.tables):
        yield (
            "- The paper's numbers are of its own data, teachers and code. They stand beside ours "
            "for comparison; that one is higher says nothing."
        )
    yield from (f"- {warning}" for warning in result.warnings)
