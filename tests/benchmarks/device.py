"""How well extraction feeds a device: its speed beside the bare network's, busy share, and MFU.

    python -m egoctl.tests.benchmarks device --device cuda

MFU, the model FLOPs utilisation, is multiply-adds times two per second over the device's peak. The
peak comes from EGOCTL_PEAK_TFLOPS (an H100 SXM: 989 for dense bf16); without it the speed is told
in TFLOP/s alone. On a CPU it runs too, and shows that the script works.
"""

# B batch, T frames, H height, W width, 3 channels RGB

import os
import threading
import time
import warnings
from contextlib import suppress

import torch
from torch import Tensor, nn

from egoctl.pipeline.extraction.extract import extract
from egoctl.pipeline.extraction.part_pass import PassConfig
from egoctl.pipeline.extraction.plan import StoreConfig
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import Teacher, find_batch_size, targets
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, rates
from egoctl.tests.benchmarks.footage import footage_manifest

TEACHER = "mvit_v2_s"
NUM_BATCHES = 4
PEAK = "EGOCTL_PEAK_TFLOPS"
SAMPLE_EVERY_S = 0.1


class _Network(nn.Module):
    """A teacher as fvcore wants it."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self._teacher.logits(self._teacher.feature(video_BCTHW))


class _Busy:
    """Samples how busy a GPU says it is, in a thread."""

    def __init__(self, device: torch.device) -> None:
        self.shares: list[float] = []
        self._device = device
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "_Busy":
        if self._device.type == "cuda":
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _sample(self) -> None:
        # Without NVIDIA's Python package torch cannot ask; then there is no such figure.
        with suppress(ModuleNotFoundError):
            while not self._ends.wait(SAMPLE_EVERY_S):
                self.shares.append(torch.cuda.utilization(self._device) / 100)


def run(setup: Setup) -> list[Figure]:
    """Extraction into new stores and the bare network, in turns."""
    seconds, stride_s = (6.0, 2.0) if setup.device.type == "cpu" else (60.0, 0.1)
    manifest = footage_manifest(setup, stride_s=stride_s, seconds=seconds)
    teacher = load_teacher(TEACHER, weights="random:0", device=setup.device)
    plain = PassConfig(device=setup.device)
    autocast_dtype = torch.bfloat16 if plain.resolved_precision() == "bf16" else None
    batch_size = find_batch_size(teacher, setup.device, autocast_dtype=autocast_dtype)
    size = (batch_size, teacher.spec.num_frames, teacher.spec.crop_px, teacher.spec.crop_px, 3)
    frames_BTHW3 = torch.zeros(size, dtype=torch.uint8, device=setup.device)
    targets(teacher, frames_BTHW3, autocast_dtype=autocast_dtype)
    shares: list[float] = []

    def extract_all() -> float:
        folder = setup.folder / f"stores-{time.monotonic_ns()}"
        with _Busy(setup.device) as busy:
            report = extract(
                manifest,
                {f"{folder}/teacher.store": teacher},
                inputs_url=None,
                config=StoreConfig(),
                run=PassConfig(device=setup.device, batch_size=batch_size),
            )
        if busy.shares:
            shares.append(sum(busy.shares) / len(busy.shares))
        return report.num_read

    def bare() -> float:
        for _ in range(NUM_BATCHES):
            targets(teacher, frames_BTHW3, autocast_dtype=autocast_dtype)
        return NUM_BATCHES * batch_size

    found = alternate({"extract": extract_all, "bare": bare}, repeats=setup.repeats)
    extract_rates, bare_rates = rates(found["extract"]), rates(found["bare"])
    flops = 2.0 * _multiply_adds(teacher, setup.device)
    told = f"{TEACHER}, batches of {batch_size}"

    def figure(name: str, unit: str, values: tuple[float, ...], aim: str | None = None) -> Figure:
        return Figure(benchmark="device", name=f"{told}: {name}", unit=unit, values=values, aim=aim)

    ratios = tuple(a / b for a, b in zip(extract_rates, bare_rates, strict=True))
    speeds = tuple(flops * rate / 1e12 for rate in extract_rates)
    figures = [
        figure("extraction", "clips/s", extract_rates),
        figure("bare network", "clips/s", bare_rates),
        figure("extraction / bare network", "ratio of speeds", ratios, ">= 0.95"),
        figure("extraction", "TFLOP/s", speeds),
    ]
    if (peak := os.environ.get(PEAK)) is not None:
        figures.append(figure("MFU", "share", tuple(s / float(peak) for s in speeds)))
    if shares:
        figures.append(figure("GPU busy (as its driver samples it)", "share", tuple(shares)))
    return figures


def _multiply_adds(teacher: Teacher, device: torch.device) -> float:
    with warnings.catch_warnings():
        # fvcore compiles things on import in a way that torch no longer likes.
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis
    spec = teacher.spec
    size = (1, 3, spec.num_frames, spec.crop_px, spec.crop_px)
    count = FlopCountAnalysis(_Network(teacher), torch.zeros(size, device=device))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with torch.inference_mode():
        return float(count.total())
