"""What a benchmark measures, and how a measurement is made fair.

Speeds of one machine differ by tens of per cent from minute to minute. So two things are only
ever compared side by side, in turns and in one process, and every figure shows its spread.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """How a run of the benchmarks is done."""

    folder: Path
    """For everything they write; the caller removes it."""
    repeats: int = 3
    is_quick: bool = False
    """Sizes that only show that a benchmark works; its figures mean nothing."""
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A quantity and its value in every repeat."""

    benchmark: str
    name: str
    unit: str
    values: tuple[float, ...]
    aim: str | None = None
    """What we want it to be, such as '<= 1.10'. Nothing fails where it is not."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"{self.benchmark}, {self.name}: a figure needs one value or more")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_json(self) -> dict[str, Any]:
        """With every value, so that others can compute another spread."""
        return {
            "benchmark": self.benchmark,
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "values": list(self.values),
            "aim": self.aim,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One timed call: how much it did, and the seconds it took."""

    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        """Amount per second."""
        return self.amount / self.seconds


def timed(work: Callable[[], float]) -> Sample:
    """One call of work, which returns how much it has done."""
    start = time.perf_counter()
    amount = work()
    return Sample(amount=amount, seconds=time.perf_counter() - start)


def alternate(
    sides: Mapping[str, Callable[[], float]], *, repeats: int
) -> dict[str, tuple[Sample, ...]]:
    """Every side's samples, taken in turns (A B A B ...), so that noise falls on all alike."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            samples[name].append(timed(work))
    return {name: tuple(taken) for name, taken in samples.items()}


def rates(samples: Iterable[Sample]) -> tuple[float, ...]:
    """Amount per second of each sample."""
    return tuple(sample.rate for sample in samples)


def seconds_ratios(above: Sequence[Sample], *below: Sequence[Sample]) -> tuple[float, ...]:
    """Per round: seconds of above over the sum of the seconds of below."""
    return tuple(
        sample.seconds / sum(part.seconds for part in parts)
        for sample, *parts in zip(above, *below, strict=True)
    )


def shown(value: float) -> str:
    """Three significant digits, and no exponent: 1.04, 0.00213, 41,300."""
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, decimals):,.{max(decimals, 0)}f}"


def spread(figure: Figure) -> str:
    """The smallest and the largest value; one alone has no spread."""
    if len(figure.values) == 1:
        return "one value"
    return f"{shown(min(figure.values))} to {shown(max(figure.values))}"
