"""What a study writes and prints: results.json, its tables as Markdown and CSV, curves, a page.

The page is the tables with sentences on what follows from them, and what does not.
"""

import csv
import io
import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from egoctl.pipeline.files.whole_file import write_whole
from egoctl.pipeline.runs.run_folder import write_json
from egoctl.pipeline.text_table import markdown_table
from egoctl.student.settings.pretrain_config import DEFAULT_LOSSES
from egoctl.student.studies.curves import draw_curves
from egoctl.student.studies.plan import TEACHER_ROW, StudyPlan
from egoctl.student.studies.result import FilledTable, StudyResult, study_result
from egoctl.student.studies.study import RunState, rows_of
from egoctl.student.studies.tables import (
    CONFIDENCE,
    IN_PERCENT,
    MIN_SEEDS,
    ClassGain,
    CountGflops,
    Spread,
    TableLine,
)

NUM_CLASSES = 5
"""The best and the worst so many of a table of classes are shown."""
PAGE = """\
# {{ plan.title or plan.name }}

Split {{ "%r" | format(plan.split) }}, {{ result.num_scored or "no" }} segments scored, seeds \
{{ plan.seeds | join(", ") }}. Mean and sample standard deviation are over seeds; in brackets the \
95 % interval of the mean difference, seed by seed (Student's t).

Made by `egoctl study {{ plan.name }}.toml` with {{ made_with }}.
{% for warning in result.warnings %}

**Warning.** {{ warning }}
{% endfor %}
{% for filled in result.tables %}

## {{ filled.table.title }}

{% if filled.table.kind == "classes" %}
  {% for teacher, gains in filled.classes %}
{{ filled.table.rows[0] }} minus {{ filled.table.against }}, teacher {{ teacher }}, points of top-1:

    {% if gains %}
{{ class_table(gains) }}

      {% if gains | length > 2 * num_classes %}
The best and the worst {{ num_classes }} of {{ gains | length }} classes.
      {% endif %}
    {% else %}
No seed of both is finished.
    {% endif %}
  {% endfor %}
{% else %}
{{ value_table(filled) }}
  {% set pixels = filled.lines | selectattr("cost") | map(attribute="cost.frame_px") %}
  {% set sides = pixels | unique | sort | join(", ") %}
  {% if sides %}

GFLOPs are 10^9 multiply-adds of one clip, counted by fvcore at {{ sides }} pixels.
  {% endif %}
{% endif %}
{% endfor %}

## Rows

All rows: {{ listed(plan.settings) or "the defaults of train-student" }}. Each differs in:

{{ row_table(plan) }}
{% for pretraining in plan.pretrainings %}

Pretraining {{ pretraining.name }}: {{ listed(pretraining.settings) or "the defaults" }}.
{% endfor %}
{% for (name, reason), seeds in unfinished.items() %}
  {% if loop.first %}

## Not in these tables

  {% endif %}
- {{ name }}, seed {{ seeds | join(", ") }}: {{ reason }}
{% endfor %}
{% if with_conclusions %}

## What follows

  {% for filled in result.tables %}
    {% set table = filled.table %}
    {% for line in filled.lines if line.against is not none %}
      {% set gain = line.against %}
      {% set seeds = gain.values | length %}
      {% set found = interval(gain, table.metric) ~ ", " ~ seeds ~ " seeds" %}
      {% set imu = "" if line.imu == "own" else " with " ~ line.imu ~ " IMU" %}
      {% set teacher = " (teacher " ~ line.teacher ~ ")" if plan.teachers | length > 1 else "" %}
      {% set name = line.row ~ imu ~ teacher %}
      {% if gain.is_clear %}
- {{ table.title }}: {{ name }} has {{ "more" if gain.mean > 0 else "less" }} {{ table.metric }} \
than {{ table.against }}: {{ found }}.
      {% else %}
- {{ table.title }}: no difference of {{ table.metric }} is shown between {{ name }} and \
{{ table.against }}: {{ found }}; \
{{ "0 is inside" if seeds >= min_seeds else "that takes " ~ min_seeds ~ " seeds" }}.
      {% endif %}
    {% endfor %}
    {% for teacher in filled.lines if teacher.row == teacher_row and teacher.value %}
      {% set students = filled.lines | selectattr("teacher", "eq", teacher.teacher)
         | rejectattr("row", "eq", teacher_row) | selectattr("value") | list %}
      {% set above = students | selectattr("value.mean", "gt", teacher.value.mean) | list %}
      {% set mean = number(teacher.value.mean, table.metric) %}
      {% if above %}
- {{ table.title }}: above teacher {{ teacher.teacher }} ({{ mean }}) on average: \
{{ above | map(attribute="row") | join(", ") }}. A teacher below its students has little to \
teach them.
      {% elif students %}
- {{ table.title }}: no row's mean stands above teacher {{ teacher.teacher }} ({{ mean }}).
      {% endif %}
    {% endfor %}
    {% for teacher, gains in filled.classes %}
      {% set clear = gains | selectattr("gain.is_clear") | list %}
      {% set better = clear | selectattr("gain.mean", "gt", 0) | list | length %}
- {{ table.title }}: of {{ gains | length }} classes (teacher {{ teacher }}), {{ table.rows[0] }} \
is better than {{ table.against }} at {{ better }}, worse at {{ clear | length - better }}, and no \
difference is shown at {{ gains | length - clear | length }}.
    {% endfor %}
  {% endfor %}

## What does not follow

  {% if compared %}
- {{ compared | length }} comparisons are made, each at {{ "%.0f" | format(100 * confidence) }}%: \
even if nothing differed, about {{ "%.1f" | format((1 - confidence) * compared | length) }} of the \
intervals would leave out 0 by chance. \
{{ compared | selectattr("is_clear") | list | length }} are called differences.
  {% endif %}
- Spread and intervals are over students' seeds alone: one data set, one evaluation of \
{{ result.num_scored or 0 }} segments, one fit of every teacher. Other data may turn any of it \
round.
- That a difference is not shown does not mean that there is none: see its interval.
  {% if result.states | selectattr("has_metrics") | selectattr("run.pretraining") | list %}
- A pretrained row has had the epochs of its pretraining on top of its own: part of what it gains \
may be training for longer.
    {% set few = plan.rows | rejectattr("labelled_share", "none") %}
    {% set begun_with = few | map(attribute="pretrain") | list %}
    {% for pretraining in plan.pretrainings if pretraining.name in begun_with %}
      {% set losses = pretraining.settings.get("losses", default_losses) %}
- Pretraining {{ pretraining.name }} ({{ losses }}) sees every train clip and no label\
{% if "l1" in losses %}, and the teacher's feature of each: a row that is trained on fewer \
segments has been told of the others by the teacher{% endif %}.
    {% endfor %}
  {% endif %}
  {% if result.tables | selectattr("table.paper") | list %}
- The paper's numbers are of its own data, teachers and code. They stand beside ours for \
comparison; that one is higher says nothing.
  {% endif %}
  {% for warning in result.warnings %}
- {{ warning }}
  {% endfor %}
{% endif %}
"""


def report_study(
    plan: StudyPlan,
    states: Sequence[RunState],
    count_gflops: CountGflops,
    *,
    page: Path | None = None,
) -> StudyResult:
    """Write results.json, tables.md, tables.csv and curves/ into the study's folder.

    page: a file for the tables with sentences on what follows from them.
    """
    result = study_result(plan, states, count_gflops)
    out = Path(plan.out)
    write_json(out / "results.json", result.to_dict())
    write_whole(out / "tables.md", markdown_page(result, with_conclusions=False))
    write_whole(out / "tables.csv", _csv(result))
    draw_curves(result)
    if page is not None:
        write_whole(page, markdown_page(result, with_conclusions=True))
    return result


def plan_lines(plan: StudyPlan, states: Sequence[RunState], only: Sequence[str]) -> Iterator[str]:
    """What a dry run prints: every run with its folder, and how much is left."""
    wanted = rows_of(plan, only)
    shown = [state for state in states if state.run.row in wanted]
    pretrainings = {s.run.pretraining.folder: s.run.pretraining for s in shown if s.run.pretraining}
    for folder, pretraining in pretrainings.items():
        yield f"{'found' if pretraining.is_done else 'to do':<6} pretraining {folder}"
    for state in shown:
        yield f"{'found' if state.has_metrics else 'to do':<6} {state.run.name}: {state.run.folder}"
    left = sum(not state.has_metrics for state in shown)
    before = sum(not pretraining.is_done for pretraining in pretrainings.values())
    yield f"{left} of {len(shown)} runs and {before} of {len(pretrainings)} pretrainings to do."


def markdown_page(result: StudyResult, *, with_conclusions: bool) -> str:
    """The tables as Markdown, ours with their spread, a paper's beside them and marked so.

    with_conclusions: with sentences on what follows from the tables, and what does not.
    """
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.from_string(PAGE).render(
        result=result,
        plan=result.plan,
        with_conclusions=with_conclusions,
        made_with=(
            f"egoctl {version('egoctl')}, torch {version('torch')} and Python "
            f"{platform.python_version()} on {platform.system()} {platform.machine()}, "
            f"{os.cpu_count()} cores"
        ),
        compared=[gain for gain in _gains(result) if gain.interval is not None],
        unfinished=_unfinished(result),
        class_table=_class_table,
        value_table=_value_table,
        row_table=_row_table,
        listed=_listed,
        interval=with_interval,
        number=number,
        num_classes=NUM_CLASSES,
        min_seeds=MIN_SEEDS,
        confidence=CONFIDENCE,
        teacher_row=TEACHER_ROW,
        default_losses=DEFAULT_LOSSES,
    )


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


def _numbers(values: Iterable[float], metric: str, *, signed: bool = False) -> str:
    return " ".join(number(value, metric, signed=signed) for value in values)


def _value_table(filled: FilledTable) -> str:
    table = filled.table
    metric = f"{table.metric}, %" if table.metric in IN_PERCENT else table.metric
    heads = ["row", "teacher", "IMU", metric, "std", "seeds", "per seed"]
    if table.against:
        heads += [f"minus {table.against}", "seed by seed"]
    if table.costs:
        heads += ["GFLOPs", "M parameters"]
    if table.paper:
        heads.append(f"as the paper's ({table.paper_source})")
    rows = []
    for line in filled.lines:
        cells = [line.row, line.teacher, line.imu, *_value_cells(line, table.metric)]
        if table.against:
            gain = line.against
            cells += (
                ["", ""]
                if gain is None
                else [
                    with_interval(gain, table.metric),
                    _numbers(gain.values, table.metric, signed=True),
                ]
            )
        if table.costs:
            cost = line.cost
            cells += [f"{cost.gflops:.3f}", f"{cost.million_parameters:.2f}"] if cost else ["", ""]
        if table.paper:
            paper = line.paper.numbers if line.paper else {}
            cells.append(", ".join(f"{value:.2f} {dataset}" for dataset, value in paper.items()))
        rows.append(cells)
    return "\n".join(markdown_table(heads, rows))


def _value_cells(line: TableLine, metric: str) -> list[str]:
    value = line.value
    if value is None:
        return ["-", "", "0", ""]
    mean = number(value.mean, metric)
    if line.row == TEACHER_ROW:
        return [mean, "", "one teacher", ""]
    std = "" if value.std is None else number(value.std, metric)
    return [mean, std, str(len(value.values)), _numbers(value.values, metric)]


def _class_table(gains: Sequence[ClassGain]) -> str:
    if len(gains) > 2 * NUM_CLASSES:
        gains = [*gains[:NUM_CLASSES], *gains[-NUM_CLASSES:]]
    rows = (
        (c.name, str(c.num_segments), with_interval(c.gain, "top1"), str(len(c.gain.values)))
        for c in gains
    )
    return "\n".join(markdown_table(("class", "segments", "gain", "seeds"), rows))


def _row_table(plan: StudyPlan) -> str:
    """What each row's name stands for, as the plan has it."""
    rows = []
    for row in plan.rows:
        own = {"inputs": row.inputs, "pretrain": row.pretrain, "labelled_share": row.labelled_share}
        given = {name: value for name, value in own.items() if value is not None}
        rows.append((row.name, _listed({**given, **row.settings}) or "nothing"))
    return "\n".join(markdown_table(("row", "differs in"), rows))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _gains(result: StudyResult) -> Iterator[Spread]:
    for filled in result.tables:
        yield from (line.against for line in filled.lines if line.against is not None)
        yield from (found.gain for _, classes in filled.classes for found in classes)


def _unfinished(result: StudyResult) -> dict[tuple[str, str], list[int]]:
    """The seeds that lack, by run and reason."""
    seeds_of: dict[tuple[str, str], list[int]] = {}
    for state in result.states:
        if not state.has_metrics:
            name = " ".join(filter(None, (state.run.row, state.run.teacher)))
            seeds_of.setdefault((name, state.reason or "not run yet"), []).append(state.run.seed)
    return seeds_of


def _csv(result: StudyResult) -> str:
    """A line per number: of every table, row, teacher, IMU and seed, and the means."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["table", "row", "teacher", "imu", "metric", "class", "seed", "value", "std", "num_seeds"]
    )

    for filled in result.tables:
        for where, found in _named_spreads(filled):
            for seed, value in found.of_seed:
                writer.writerow([*where, seed, value, "", 1])
            writer.writerow([*where, "mean", found.mean, found.std, len(found.values)])
    return text.getvalue()


def _named_spreads(filled: FilledTable) -> Iterator[tuple[tuple[str, ...], Spread]]:
    """Every number of a table, with the first six columns of its lines."""
    table = filled.table
    for line in filled.lines:
        for metric, found in ((table.metric, line.value), (f"{table.metric} gain", line.against)):
            if found is not None:
                yield (table.name, line.row, line.teacher, line.imu, metric, ""), found
    for teacher, gains in filled.classes:
        for gain in gains:
            yield (table.name, table.rows[0], teacher, "own", "top1 gain", gain.name), gain.gain
