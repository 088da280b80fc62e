"""A page of a study: its tables, and what follows from them and what does not.

Every sentence about a number is chosen by that number; nothing is typed in by hand.
"""

from collections.abc import Iterator

from egoctl.student.settings.pretrain_config import DEFAULT_LOSSES
from egoctl.student.studies.page import markdown_lines, number, with_interval
from egoctl.student.studies.plan import TEACHER_ROW
from egoctl.student.studies.result import FilledTable, StudyResult
from egoctl.student.studies.tables import CONFIDENCE, MIN_SEEDS, Spread, TableLine


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
