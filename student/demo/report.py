"""What the demo found: results.json, the table, the checks, and what they do not show."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.files.whole_file import write_whole
from egoctl.pipeline.text_table import text_table

MIN_GAIN = 0.08
"""EgoDistill must beat VisOnly-Distill by this much, or the demo shows nothing."""
MAX_NO_GAIN = 0.04
"""A gain up to this is called absent: half of MIN_GAIN, about two standard errors of a pair."""
CLEAR_LEAD = 0.05
LIMITS = """\
What this shows: the path works; with the head's IMU beside the frame a student does better than
with the frame alone, and the gain is the IMU's. What it does not show: that the IMU of real heads
is worth as much; that one loss is better than another; anything about cost at real sizes.
One world, one teacher, one test set.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodResult:
    """A method's per-segment test accuracy, 0 to 1, one per seed."""

    method: str
    top1: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1)

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds; 0 for one seed."""
        return statistics.stdev(self.top1) if len(self.top1) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {"top1": list(self.top1), "top1_mean": self.mean, "top1_std": self.std}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something the demo must show, and whether it did."""

    claim: str
    is_met: bool
    measured: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlResult:
    """Results in the world where heads do not follow the hand."""

    methods: tuple[MethodResult, ...]
    teacher_top1: float

    @property
    def gain(self) -> float:
        return _mean(self.methods, "egodistill") - _mean(self.methods, "visonly-distill")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoResult:
    """Everything the demo measured."""

    methods: tuple[MethodResult, ...]
    teacher_top1: float
    egodistill_other_imu: tuple[float, ...]
    """EgoDistill, each clip with the IMU of another segment's clip; one per seed."""
    control: ControlResult
    ceilings: dict[str, float]
    coupling: dict[str, Any]
    num_test_segments: int
    seconds: float

    def checks(self) -> tuple[Check, ...]:
        best = max(self.methods, key=lambda method: method.mean)
        visual = _mean(self.methods, "visonly-distill")
        gain = _mean(self.methods, "egodistill") - visual
        other_gain = statistics.fmean(self.egodistill_other_imu) - visual
        return (
            Check(
                claim="the teacher is above all students",
                is_met=self.teacher_top1 > best.mean,
                measured=f"{self.teacher_top1:.3f} against {best.mean:.3f} ({best.method})",
            ),
            Check(
                claim=f"egodistill beats visonly-distill by {MIN_GAIN * 100:.0f} points",
                is_met=gain >= MIN_GAIN,
                measured=f"{gain * 100:+.1f} points",
            ),
            Check(
                claim="with another segment's IMU the gain vanishes",
                is_met=other_gain <= MAX_NO_GAIN,
                measured=f"{other_gain * 100:+.1f} points (absent: up to {MAX_NO_GAIN * 100:.0f})",
            ),
            Check(
                claim="in a world without head-hand coupling the gain is absent",
                is_met=self.control.gain <= MAX_NO_GAIN,
                measured=f"{self.control.gain * 100:+.1f} points",
            ),
        )

    def write(self, path: Path) -> None:
        """Write results.json atomically."""
        found: dict[str, Any] = {method.method: method.to_dict() for method in self.methods}
        found["teacher"] = {"top1": [self.teacher_top1], "top1_mean": self.teacher_top1,
                            "top1_std": 0.0}  # fmt: skip
        other = MethodResult(method="other", top1=self.egodistill_other_imu)
        found["egodistill-other-imu"] = other.to_dict()
        for method in self.control.methods:
            found[f"control-{method.method}"] = method.to_dict()
        write_whole(path, json.dumps(found, indent=1) + "\n")

    def lines(self) -> Iterator[str]:
        """The tables, the checks and their limits, for people."""
        yield ""
        yield f"Top-1 per segment, {self.num_test_segments} segments of participants never seen:"
        other = MethodResult(method="egodistill, other IMU", top1=self.egodistill_other_imu)
        yield from _table(
            ("method", "mean", "std", "  per seed"),
            ("teacher", f"{self.teacher_top1:.3f}", "", "  (one teacher)"),
            *(_row(method) for method in (*self.methods, other)),
        )
        yield f"  without head-hand coupling (teacher {self.control.teacher_top1:.3f}):"
        yield from _table(*(_row(method) for method in self.control.methods))
        yield ""
        yield "Ceilings: a network given the true scene at the centre, the IMU, or both"
        yield "  (un-rendered trajectories, one seed; a practical reference, not a proof):"
        names = {"image": "centre of the clip", "imu": "IMU", "both": "both"}
        yield from _table(*((name, f"{self.ceilings[sees]:.3f}") for sees, name in names.items()))
        yield ""
        yield "How strongly heads follow hands here was chosen, not found (ranges per participant):"
        yield from _table(*((name, f"{value}") for name, value in self.coupling.items()), align="<")
        yield ""
        yield from self._pairs()
        yield ""
        yield "Checks:"
        for check in self.checks():
            yield f"  {'ok  ' if check.is_met else 'FAIL'} {check.claim}: {check.measured}"
        yield from self._warnings()
        yield ""
        yield from LIMITS.splitlines()
        yield f"{self.seconds:.0f} s in all."

    def _pairs(self) -> Iterator[str]:
        by_name = {method.method: method for method in self.methods}
        pairs = zip(by_name["egodistill"].top1, by_name["visimu"].top1, strict=True)
        differences = " ".join(f"{(a - b) * 100:+.1f}" for a, b in pairs)
        yield f"egodistill - visimu, points, seed by seed: {differences} (no claim is made of it)"

    def _warnings(self) -> Iterator[str]:
        labels_only = max(_mean(self.methods, "visimu"), _mean(self.methods, "visonly"))
        if self.teacher_top1 < labels_only + CLEAR_LEAD:
            yield (
                f"WARNING: the teacher ({self.teacher_top1:.3f}) is not clearly above a student "
                f"trained on labels alone ({labels_only:.3f}): copying it then hurts."
            )


def _mean(methods: tuple[MethodResult, ...], name: str) -> float:
    return next(method.mean for method in methods if method.method == name)


def _row(method: MethodResult) -> tuple[str, ...]:
    seeds = " ".join(f"{top1:.3f}" for top1 in method.top1)
    return method.method, f"{method.mean:.3f}", f"{method.std:.3f}", f"  {seeds}"


def _table(*rows: tuple[str, ...], align: str = "<>><") -> list[str]:
    # Printed in pieces, with sentences between them: the columns are as wide everywhere.
    return text_table(rows, align, least=(28, 6, 6), indent=2, gap=1)
