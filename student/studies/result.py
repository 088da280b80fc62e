"""A study's result: its tables, the state of its runs, and warnings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.student.studies.plan import StudyPlan, StudyTable
from egoctl.student.studies.study import RunState
from egoctl.student.studies.tables import (
    ClassGain,
    CountGflops,
    TableLine,
    class_gains,
    line_to_dict,
    metrics_of_run,
    study_costs,
    table_lines,
)

EPIC_EVALUATION = frozenset({"P30", "P35", "P37"})
"""EgoDistill's evaluation participants of EPIC-KITCHENS (arXiv:2301.02217, experiments)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilledTable:
    """A table of the plan with its numbers."""

    table: StudyTable
    lines: tuple[TableLine, ...]
    classes: tuple[tuple[str, tuple[ClassGain, ...]], ...]
    """Gains by teacher, in a table of classes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """Every table, and what became of every run."""

    plan: StudyPlan
    states: tuple[RunState, ...]
    tables: tuple[FilledTable, ...]
    warnings: tuple[str, ...]
    num_scored: int | None
    """Segments that the first finished run is scored on."""

    @property
    def failed(self) -> tuple[RunState, ...]:
        return tuple(state for state in self.states if state.state == "failed")

    def to_dict(self) -> dict[str, Any]:
        """As in results.json."""
        return {
            "name": self.plan.name,
            "split": self.plan.split,
            "seeds": list(self.plan.seeds),
            "num_scored": self.num_scored,
            "warnings": list(self.warnings),
            "tables": {
                filled.table.name: {
                    "title": filled.table.title,
                    "metric": filled.table.metric,
                    "against": filled.table.against,
                    "lines": [line_to_dict(line) for line in filled.lines],
                    "classes": {
                        teacher: [
                            {"name": gain.name, "num_segments": gain.num_segments}
                            | gain.gain.to_dict()
                            for gain in gains
                        ]
                        for teacher, gains in filled.classes
                    },
                }
                for filled in self.tables
            },
            "runs": [
                {
                    "row": state.run.row,
                    "teacher": state.run.teacher,
                    "seed": state.run.seed,
                    "folder": str(state.run.folder),
                    "state": state.state,
                    "reason": state.reason,
                }
                for state in self.states
            ],
        }

    def lines(self) -> Iterator[str]:
        """The last lines to print: failed runs by name, and how many runs are in which state."""
        for state in self.failed:
            yield f"FAILED {state.run.name}: {state.reason}"
        counts = {
            name: sum(state.state == name for state in self.states)
            for name in ("done", "found", "failed", "left")
        }
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        yield f"{len(self.states)} runs: {found}. Tables in {self.plan.out}."


def study_result(
    plan: StudyPlan, states: Sequence[RunState], count_gflops: CountGflops
) -> StudyResult:
    """The tables of the runs that are finished."""
    costs = study_costs(plan, states, count_gflops)
    first = next((found for s in states if (found := metrics_of_run(s, "own"))), None)
    return StudyResult(
        plan=plan,
        states=tuple(states),
        tables=tuple(
            FilledTable(
                table=table,
                lines=()
                if table.kind == "classes"
                else tuple(table_lines(plan, table, states, costs)),
                classes=()
                if table.kind != "classes"
                else tuple(
                    (teacher, tuple(class_gains(table, states, teacher)))
                    for teacher in plan.teachers_of(table)
                ),
            )
            for table in plan.tables
        ),
        warnings=tuple(_warnings(plan, states, read_manifest(plan.manifest))),
        num_scored=None if first is None else int(first["num_scored"]),
    )


def _warnings(plan: StudyPlan, states: Sequence[RunState], manifest: Manifest) -> Iterator[str]:
    """What the teachers had seen of the evaluation, once per teacher."""
    people = {s.participant_id for s in manifest.segments if s.split == plan.split}
    is_epic = "epic" in manifest.dataset_name.lower() and bool(people) and people <= EPIC_EVALUATION
    for teacher in plan.teachers:
        found = [metrics_of_run(s, "own") for s in states if s.run.teacher == teacher]
        metrics = next((m for m in found if m is not None), None)
        if metrics is None:
            continue
        memory = metrics.get("teacher_memory")
        if memory is not None and memory["num_seen"]:
            yield (
                f"Teacher {teacher} was fitted to {memory['num_seen']} of the "
                f"{memory['num_scored']} segments that are scored here: its accuracy, and what "
                "students learn of it, is partly memory."
            )
        elif memory is None:
            yield f"What teacher {teacher} was fitted to is unknown: its store does not record it."
        if is_epic and (memory is None or memory["num_seen"]):
            yield (
                f"Teacher {teacher}: participants P30, P35 and P37, who evaluate here, lie inside "
                "the official training split of EPIC-KITCHENS. A released teacher was trained on "
                "these very clips, so its accuracy is one on training data, in the paper too."
            )
