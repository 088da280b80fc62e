"""What the data sets of the field would cost: the arithmetic behind docs/scale.md.

`python -m egoctl.tests.benchmarks.scale` measures what it calculates with and prints the tables;
with every figure given as an option it only calculates. Only the teacher's time is not measured:
it is its operations over a GPU's peak and a range of how much of that is reached.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.tests.benchmarks import scale_inputs
from egoctl.tests.benchmarks.scale_inputs import PartBytes, Requests, part_bytes

GMACS = {"as published": 369.5, "as egoctl runs it": 189.2}
"""Of MotionFormer, per view of 16 frames of 224 px; a MAC is two operations."""
PEAK_FLOPS = 989e12
"""Of an H100 SXM, bf16 without sparsity, as its maker states it."""
MFU = (0.5, 0.2)
"""Which share of the peak is reached: the best and the worst that is reckoned with."""
NUM_WORKERS = 64
PART_ROWS = StoreConfig().part_rows
ACTS = ("fill", "start", "try", "train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Videos, and the clips that are cut from them."""

    name: str
    num_frames: float
    """If every frame is decoded once, as it is where clips lie close to each other."""
    num_clips: int

    @property
    def num_parts(self) -> int:
        return math.ceil(self.num_clips / PART_ROWS)


WORKLOADS = (
    # 700 videos of 47.95 to 90 frames/s: duration times rate, summed over EPIC_100_video_info.csv.
    Workload(name="EPIC-100", num_frames=19.81e6, num_clips=90_000),
    Workload(name="Ego4D", num_frames=3670 * 3600 * 30, num_clips=3670 * 3600),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What was measured."""

    fps_480p: float
    """Frames a second of one core's time; so is fps_1080p."""
    fps_1080p: float
    jpeg_bytes: int
    requests: dict[str, Requests]
    """Of each part of both stores, by act."""

    def command(self) -> str:
        """Prints the same tables again."""
        of_acts = " ".join(
            f"--{act} {found.writes:g},{found.reads:g}" for act, found in self.requests.items()
        )
        return (
            "python -m egoctl.tests.benchmarks.scale "
            f"--fps-480p {self.fps_480p:.0f} --fps-1080p {self.fps_1080p:.0f} "
            f"--jpeg-bytes {self.jpeg_bytes} {of_acts}"
        )


def main(arguments: Sequence[str]) -> None:
    """Print the tables."""
    asked = _parser().parse_args(arguments)
    inputs = _inputs(asked)
    print(f"    {inputs.command()}\n")
    print("\n".join(lines(inputs)))


def lines(inputs: Inputs) -> Iterator[str]:
    """The tables, as in docs/scale.md."""
    yield _row("", *(work.name for work in WORKLOADS))
    yield _row("---", *("---:" for _ in WORKLOADS))
    yield from _work_rows(inputs)
    yield from _byte_rows(part_bytes(inputs.jpeg_bytes))
    yield ""
    yield _row("requests to a bucket, thousands", *(work.name for work in WORKLOADS))
    yield _row("---", *("---:" for _ in WORKLOADS))
    yield from _request_rows(inputs.requests)


def decode_core_hours(work: Workload, fps: float) -> float:
    return work.num_frames / fps / 3600


def gpu_hours(work: Workload, gmacs: float, mfu: float) -> float:
    return work.num_clips * gmacs * 2e9 / (PEAK_FLOPS * mfu) / 3600


def _work_rows(inputs: Inputs) -> Iterator[str]:
    yield _row("clips", *(f"{work.num_clips:,}" for work in WORKLOADS))
    yield _row(f"parts of {PART_ROWS}", *(f"{work.num_parts:,}" for work in WORKLOADS))
    yield _row("frames to decode, millions", *(_short(w.num_frames / 1e6) for w in WORKLOADS))
    for size, fps in (("1080p", inputs.fps_1080p), ("480p", inputs.fps_480p)):
        hours = (_short(decode_core_hours(work, fps)) for work in WORKLOADS)
        yield _row(f"decoding and resizing from {size}, core-hours", *hours)
    for name, gmacs in GMACS.items():
        spans = (
            " to ".join(_short(gpu_hours(work, gmacs, mfu)) for mfu in MFU) for work in WORKLOADS
        )
        yield _row(f"MotionFormer {name}, H100-hours (calculated)", *spans)
    for size, fps in (("1080p", inputs.fps_1080p), ("480p", inputs.fps_480p)):
        cores = (
            _short(decode_core_hours(w, fps) / gpu_hours(w, GMACS["as published"], MFU[0]))
            for w in WORKLOADS
        )
        yield _row(f"cores that feed one such GPU from {size}", *cores)


def _byte_rows(parts: dict[str, PartBytes]) -> Iterator[str]:
    teacher, inputs = parts["teacher"].shards, parts["inputs"].shards
    of_what = {
        "targets (feature 768, logits 397; float16)": sum(teacher.values()),
        "frames (3 JPEG of 224 px) and their times": inputs["frames"] + inputs["frame_time"],
        "IMU (422 x 6 float32) and its means": inputs["imu"] + inputs["imu_mean"],
        "clips, receipts, statistics of both stores": sum(part.others for part in parts.values()),
    }
    for what, num_bytes in of_what.items():
        sizes = (_short(num_bytes / PART_ROWS * work.num_clips / 1e9) for work in WORKLOADS)
        yield _row(f"{what}, GB", *sizes)


def _request_rows(requests: dict[str, Requests]) -> Iterator[str]:
    others = NUM_WORKERS - 1
    of_what = {
        "filling both stores": ("fill", 1),
        "a worker that starts when they are full": ("start", 1),
        f"{NUM_WORKERS} workers without --parts, besides filling: at most": ("try", others),
        "a node that reads all of it to train": ("train", 1),
    }
    for what, (act, times) in of_what.items():
        for kind in ("writes", "reads"):
            per_part = getattr(requests[act], kind) * times
            counts = (_short(per_part * work.num_parts / 1e3) for work in WORKLOADS)
            yield _row(f"{what}, {'PUT and LIST' if kind == 'writes' else 'GET and HEAD'}", *counts)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    """Two digits: none of this is known better."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _inputs(asked: argparse.Namespace) -> Inputs:
    fps: dict[int, float | None] = {480: asked.fps_480p, 1080: asked.fps_1080p}
    with tempfile.TemporaryDirectory() as name:
        for height_px, width_px in ((480, 854), (1080, 1920)):
            if fps[height_px] is None:
                folder = Path(name) / str(height_px)
                mbits = scale_inputs.draw_footage(folder, width_px=width_px, height_px=height_px)
                fps[height_px], _ = scale_inputs.decode_speed(folder)
                print(f"drawn {height_px}p: {mbits:.1f} Mbit/s, {fps[height_px]:.0f} frames/s")
    jpeg_bytes = asked.jpeg_bytes
    if jpeg_bytes is None:
        found_fps, found_bytes = scale_inputs.decode_speed(asked.footage)
        print(f"{asked.footage}: {found_fps:.0f} frames/s, {found_bytes:,.0f} bytes a JPEG")
        jpeg_bytes = round(found_bytes)
    given = {act: getattr(asked, act) for act in ACTS}
    if None in given.values():
        given = scale_inputs.requests_per_part()
    assert fps[480] is not None and fps[1080] is not None, "given or measured"
    return Inputs(fps_480p=fps[480], fps_1080p=fps[1080], jpeg_bytes=jpeg_bytes, requests=given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m egoctl.tests.benchmarks.scale",
        description="Print the tables of docs/scale.md; what is not given is measured.",
    )
    parser.add_argument("--fps-480p", type=float, help="frames a second of one core's time")
    parser.add_argument("--fps-1080p", type=float, help="the same of 1080p")
    parser.add_argument("--jpeg-bytes", type=int, help="mean size of a stored frame")
    parser.add_argument(
        "--footage",
        type=Path,
        default=Path("../shared/data/gopro"),
        help="folder of real videos, for --jpeg-bytes",
    )
    for act in ACTS:
        parser.add_argument(
            f"--{act}", type=_requests, metavar="W,R", help="writes and reads for each part"
        )
    return parser


def _requests(text: str) -> Requests:
    writes, reads = text.split(",")
    return Requests(writes=float(writes), reads=float(reads))


if __name__ == "__main__":
    main(sys.argv[1:])
