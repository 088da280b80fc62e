"""Profiles of networks as a table, next to the numbers in the EgoDistill paper."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from egoctl.pipeline.profiling.network_profile import BatchProfile, MachineProfile, NetworkProfile
from egoctl.pipeline.text_table import text_table


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperRow:
    """A row of the EgoDistill paper's table 3 (arXiv:2301.02217): theirs, not measured here."""

    name: str
    gflops: float
    ms_per_clip: float
    """On an NVIDIA A40 at batch 32."""
    million_parameters: float


PAPER_TABLE_3 = (
    PaperRow(name="MotionFormer", gflops=369.51, ms_per_clip=10.70, million_parameters=108.91),
    PaperRow(name="AdaFuse", gflops=15.20, ms_per_clip=2.04, million_parameters=38.85),
    PaperRow(name="STTS", gflops=7.19, ms_per_clip=1.63, million_parameters=36.63),
    PaperRow(name="ListenToLook", gflops=3.10, ms_per_clip=0.43, million_parameters=25.53),
    PaperRow(name="EgoDistill", gflops=1.91, ms_per_clip=0.25, million_parameters=20.56),
)
PAPER_NOTE = (
    "Their 20.56 M parameters cannot be derived from the paper's text: read as it is written, "
    "with one frame and 97 classes, the student has 13.23 M and 1.888 GFLOPs."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """The first network over the second, in one measure."""

    measure: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileReport:
    """Everything that was measured, and the paper's table."""

    machine: MachineProfile
    networks: tuple[NetworkProfile, ...]
    ratios: tuple[Ratio, ...]
    """The first network over the second; () for one alone."""
    paper: tuple[PaperRow, ...] = PAPER_TABLE_3
    paper_note: str = PAPER_NOTE


def profile_report(machine: MachineProfile, networks: Sequence[NetworkProfile]) -> ProfileReport:
    """The report of one or two networks: a student, and its teacher."""
    ratios = tuple(_ratios(*networks)) if len(networks) == 2 else ()
    return ProfileReport(machine=machine, networks=tuple(networks), ratios=ratios)


def report_lines(report: ProfileReport) -> list[str]:
    """The table for people."""
    machine = report.machine
    head = ["", *(network.name for network in report.networks)]
    rows = [head + (["student : teacher"] if report.ratios else [])]
    ratios = {ratio.measure: _ratio_text(ratio.value) for ratio in report.ratios}
    for measure, cells in _measures(report.networks):
        rows.append([measure, *cells, *([ratios.get(measure, "")] if ratios else [])])
    paper = [["", "GFLOPs", "ms a clip", "parameters, M"]]
    for row in report.paper:
        numbers = (row.gflops, row.ms_per_clip, row.million_parameters)
        paper.append([row.name, *(f"{number:.2f}" for number in numbers)])
    return [
        f"{machine.device}, torch {machine.torch_version} with {machine.torch_threads} threads, "
        f"{machine.precision}; median of {machine.repeats}, in turns (smallest to largest)",
        "",
        *text_table(rows, "<>"),
        "",
        "GFLOPs are 10^9 multiply-adds of one clip as fvcore counts them, and those of a GRU, of "
        "which it counts none. Peak memory is, on a GPU, what torch allocated; on a CPU a whole "
        "process's, with interpreter and libraries.",
        "",
        "The EgoDistill paper's table 3: the paper's numbers on an NVIDIA A40 at batch 32, "
        "not measured here",
        "",
        *text_table(paper, "<>"),
        "",
        report.paper_note,
    ]


def _ratios(student: NetworkProfile, teacher: NetworkProfile) -> Iterator[Ratio]:
    # A teacher may be without parameters, such as one of frame means.
    if teacher.num_parameters:
        share = student.num_parameters / teacher.num_parameters
        yield Ratio(measure="parameters, M", value=share)
    if teacher.gflops:
        yield Ratio(measure="GFLOPs", value=student.gflops / teacher.gflops)
    for mine, theirs in zip(student.batches, teacher.batches, strict=True):
        # Within a round, so that a slow minute cancels out.
        rounds = zip(mine.ms_per_clip, theirs.ms_per_clip, strict=True)
        slower = statistics.median(a / b for a, b in rounds)
        title = f"batch {mine.batch_size}:"
        yield Ratio(measure=f"{title} ms a clip", value=slower)
        yield Ratio(measure=f"{title} clips/s", value=1 / slower)
        if mine.peak_mib is not None and theirs.peak_mib is not None:
            yield Ratio(measure=f"{title} peak MiB", value=mine.peak_mib / theirs.peak_mib)


def _measures(networks: Sequence[NetworkProfile]) -> Iterator[tuple[str, list[str]]]:
    yield "parameters, M", [f"{network.num_parameters / 1e6:.2f}" for network in networks]
    yield "GFLOPs", [_shown(network.gflops) for network in networks]
    for batches in zip(*(network.batches for network in networks), strict=True):
        title = f"batch {batches[0].batch_size}:"
        yield f"{title} ms a clip", [_time_text(batch) for batch in batches]
        yield f"{title} clips/s", [_shown(batch.clips_per_s) for batch in batches]
        yield f"{title} peak MiB", [_peak_text(batch) for batch in batches]


def _time_text(batch: BatchProfile) -> str:
    low, high = min(batch.ms_per_clip), max(batch.ms_per_clip)
    return f"{_shown(batch.median_ms_per_clip)} ({_shown(low)} to {_shown(high)})"


def _peak_text(batch: BatchProfile) -> str:
    return "n/a" if batch.peak_mib is None else f"{batch.peak_mib:,.0f}"


def _ratio_text(value: float) -> str:
    return f"1 : {_shown(1 / value)}" if value < 1 else f"{_shown(value)} : 1"


def _shown(value: float) -> str:
    """Four digits or more, without an exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
