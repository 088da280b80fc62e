"""A study's runs as tables: mean and spread over seeds, differences seed by seed, costs."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import t as student_t
from torch import Tensor, nn

from egoctl.pipeline.runs.run_folder import CONFIG_FILE, read_json
from egoctl.pipeline.store import FeatureStore
from egoctl.student.evaluation.profiled import ProfiledStudent
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.studies.plan import TEACHER_ROW, PaperNumber, StudyPlan, StudyTable
from egoctl.student.studies.study import RunState

CountGflops = Callable[[nn.Module, tuple[Tensor, ...]], float]
IN_PERCENT = ("top1", "top5", "centre_clip_top1", "common_top1", "agreement")
PAPER_FRAME_PX = 224
CONFIDENCE = 0.95
MIN_SEEDS = 3
"""Fewer may agree by chance, to the last digit where there are few segments to answer."""
_OF_TEACHER = {"top1": "teacher_top1", "top5": "teacher_top5"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A number per seed."""

    of_seed: tuple[tuple[int, float], ...]

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(value for _, value in self.of_seed)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's t interval of the mean, CONFIDENCE; None for a single seed.

        Over seeds alone: other data or another teacher may give other results.
        """
        if self.std is None:
            return None
        num = len(self.values)
        reach = student_t.ppf((1 + CONFIDENCE) / 2, num - 1) * self.std / math.sqrt(num)
        return self.mean - float(reach), self.mean + float(reach)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0; False with fewer than MIN_SEEDS."""
        if self.interval is None or len(self.values) < MIN_SEEDS:
            return False
        return not self.interval[0] <= 0 <= self.interval[1]

    def minus(self, other: "Spread") -> "Spread | None":
        """The differences of the seeds that both have; None if there is none."""
        theirs = dict(other.of_seed)
        pairs = tuple(
            (seed, value - theirs[seed]) for seed, value in self.of_seed if seed in theirs
        )
        return Spread(of_seed=pairs) if pairs else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "std": self.std,
            "interval": self.interval,
            "num_seeds": len(self.values),
            "of_seed": {str(seed): value for seed, value in self.of_seed},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a student costs per clip."""

    gflops: float
    """10^9 multiply-adds, as the paper counts."""
    million_parameters: float
    frame_px: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TableLine:
    """A row with a teacher and the IMU that it was shown."""

    row: str
    teacher: str
    imu: str
    value: Spread | None
    """None: no run of it is finished, or it has no such number."""
    against: Spread | None
    """The difference to the table's row of comparison."""
    paper: PaperNumber | None
    cost: Cost | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassGain:
    """A class, and how much better one row is at it than another, as shares of 1."""

    name: str
    num_segments: int
    gain: Spread


def metrics_of_run(state: RunState, imu: str) -> dict[str, Any] | None:
    """What evaluate wrote of the run; None if it is not finished or was not shown that IMU."""
    if not state.has_metrics or imu not in state.run.imu:
        return None
    file = state.run.metrics_file(imu)
    return read_json(file, where=str(file))


def table_lines(
    plan: StudyPlan, table: StudyTable, states: Sequence[RunState], costs: Mapping[str, Cost]
) -> Iterator[TableLine]:
    """Every row with every teacher and IMU of the table; rows that have no IMU only as they are."""
    for row in table.rows:
        for teacher in plan.teachers_of(table):
            for imu in table.imu if row != TEACHER_ROW else ("own",):
                if not _is_shown(states, row, imu):
                    continue
                value = spread(states, row, teacher, imu, table.metric)
                against = None
                if table.against is not None and value is not None and row != TEACHER_ROW:
                    other = spread(states, table.against, teacher, "own", table.metric)
                    is_itself = row == table.against and imu == "own"
                    against = None if other is None or is_itself else value.minus(other)
                yield TableLine(
                    row=row,
                    teacher=teacher,
                    imu=imu,
                    value=value,
                    against=against,
                    paper=_paper(table, row, teacher) if imu == "own" else None,
                    cost=costs.get(row) if table.costs else None,
                )


def _is_shown(states: Sequence[RunState], row: str, imu: str) -> bool:
    return row == TEACHER_ROW or any(s.run.row == row and imu in s.run.imu for s in states)


def spread(
    states: Sequence[RunState], row: str, teacher: str, imu: str, metric: str
) -> Spread | None:
    """The metric of a row's finished runs by seed; for the teacher, that of the first run found."""
    is_teacher = row == TEACHER_ROW
    name = _OF_TEACHER.get(metric, "") if is_teacher else metric
    found = []
    for state in states:
        run = state.run
        if run.teacher != teacher and (is_teacher or run.teacher is not None):
            continue
        if not is_teacher and run.row != row:
            continue
        value = (metrics_of_run(state, imu) or {}).get(name)
        if value is not None:
            found.append((run.seed, float(value)))
            if is_teacher:
                # One teacher: every run was evaluated beside the same answers.
                break
    return Spread(of_seed=tuple(sorted(found))) if found else None


def class_gains(table: StudyTable, states: Sequence[RunState], teacher: str) -> list[ClassGain]:
    """Every class, the largest gain first, over the seeds that both rows have."""
    assert table.against is not None, "the plan has checked that"
    ours = _per_class(states, table.rows[0], teacher)
    theirs = _per_class(states, table.against, teacher)
    gains = []
    for name, (num_segments, value) in ours.items():
        gain = value.minus(theirs[name][1]) if name in theirs else None
        if gain is not None:
            gains.append(ClassGain(name=name, num_segments=num_segments, gain=gain))
    return sorted(gains, key=lambda found: (-found.gain.mean, found.name))


def _per_class(states: Sequence[RunState], row: str, teacher: str) -> dict[str, tuple[int, Spread]]:
    found: dict[str, tuple[int, list[tuple[int, float]]]] = {}
    for state in states:
        if state.run.row == row and state.run.teacher in (teacher, None):
            for entry in (metrics_of_run(state, "own") or {"per_class": ()})["per_class"]:
                _, values = found.setdefault(entry["name"], (entry["num_segments"], []))
                values.append((state.run.seed, entry["top1"]))
    return {
        name: (num, Spread(of_seed=tuple(sorted(values)))) for name, (num, values) in found.items()
    }


def _paper(table: StudyTable, row: str, teacher: str) -> PaperNumber | None:
    return next(
        (p for p in table.paper if p.row == row and p.teacher in (teacher, None)),
        None,
    )


def line_to_dict(line: TableLine) -> dict[str, Any]:
    """For JSON."""
    return {
        "row": line.row,
        "teacher": line.teacher,
        "imu": line.imu,
        **(line.value.to_dict() if line.value else {"num_seeds": 0}),
        "against": line.against.to_dict() if line.against else None,
        "paper": dict(line.paper.numbers) if line.paper else None,
        "cost": dataclasses.asdict(line.cost) if line.cost else None,
    }


def study_costs(
    plan: StudyPlan, states: Sequence[RunState], count_gflops: CountGflops
) -> dict[str, Cost]:
    """Costs by row: of rows in tables with costs that have a finished run."""
    wanted = {row for table in plan.tables if table.costs for row in table.rows}
    costs: dict[str, Cost] = {}
    for state in states:
        if state.has_metrics and state.run.row in wanted - costs.keys():
            costs[state.run.row] = _cost(state, count_gflops)
    return costs


def _cost(state: RunState, count_gflops: CountGflops) -> Cost:
    file = state.run.folder / CONFIG_FILE
    shape = StudentConfig(**read_json(file, where=str(file))["student"])
    inputs = FeatureStore.open(state.run.config.inputs)
    frame_px = inputs.header.recipe.get("frame_px", PAPER_FRAME_PX)
    inputs.close()
    assert isinstance(frame_px, int), "the recipe has whole pixels"
    student = ProfiledStudent(config=shape, frame_px=frame_px)
    network = student.build(torch.device("cpu"))
    return Cost(
        gflops=count_gflops(network, student.inputs(1)),
        million_parameters=sum(p.numel() for p in network.parameters()) / 1e6,
        frame_px=frame_px,
    )
