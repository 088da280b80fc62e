"""MotionFormer's three forms side by side: seconds, operations and memory of the same features.

    python -m egoctl.tests.benchmarks motionformer [--device cuda]

As a script of its own, `python -m egoctl.tests.benchmarks.motionformer FORM`, it makes one forward
pass on the CPU, for its parent to see how much memory that took.
"""

# B batch, T frames, H height, W width

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from egoctl.pipeline.teachers.networks.motionformer import MotionFormer, MotionFormerConfig
from egoctl.tests.benchmarks.figures import Figure, Setup, alternate, seconds_ratios
from egoctl.tests.benchmarks.measured_process import measured

FORMS = ("plain", "shortcut", "lean")
GPU_BATCH = 8


def run(setup: Setup) -> list[Figure]:
    """Random weights, the same in each form; float32 on a CPU, bf16 on a GPU."""
    # Here, so that the script's memory is the network's.
    from egoctl.pipeline.teachers.cost import measured_cost
    from egoctl.pipeline.teachers.lineup import load_teacher

    is_cuda = setup.device.type == "cuda"
    batch = GPU_BATCH if is_cuda else 1
    nets = {form: _net(form, setup) for form in FORMS}
    config = nets["plain"].config
    size = (batch, 3, config.num_frames, config.crop_px, config.crop_px)
    frames_BCTHW = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(setup.device)

    def forward(form: str) -> float:
        _feature(nets[form], frames_BCTHW)
        return batch

    features = {form: _feature(nets[form], frames_BCTHW).float() for form in FORMS}
    found = alternate({form: partial(forward, form) for form in FORMS}, repeats=setup.repeats)
    told = f"MotionFormer, batch {batch}, {'bf16' if is_cuda else 'float32'}"

    def figure(name: str, unit: str, values: tuple[float, ...], aim: str | None = None) -> Figure:
        return Figure(
            benchmark="motionformer", name=f"{told}: {name}", unit=unit, values=values, aim=aim
        )

    figures = []
    for form in FORMS:
        seconds = tuple(sample.seconds / batch for sample in found[form])
        figures.append(figure(form, "s per clip", seconds))
        figures.append(figure(form, "peak memory, MiB", (_peak_bytes(form, setup) / 2**20,)))
    for form in ("shortcut", "lean"):
        ratios = seconds_ratios(found["plain"], found[form])
        apart = float((features[form] - features["plain"]).abs().max())
        figures.append(figure(f"plain / {form}", "ratio of seconds", ratios, ">= 1.5"))
        figures.append(figure(f"{form} against plain", "largest difference", (apart,)))
    if not setup.is_quick:
        for form in FORMS:
            teacher = load_teacher(
                f"motionformer,form={form}", weights="random:0", device=torch.device("cpu")
            )
            figures.append(figure(form, "GMAC (fvcore)", (measured_cost(teacher).gflops,)))
    return figures


def _net(form: str, setup: Setup) -> MotionFormer:
    shape = {"width": 96, "depth": 2, "num_heads": 4} if setup.is_quick else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = MotionFormer(MotionFormerConfig(form=form, **shape))  # type: ignore[arg-type]
    return net.eval().to(setup.device)


def _feature(net: MotionFormer, frames_BCTHW: Tensor) -> Tensor:
    device = frames_BCTHW.device
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"),
    ):
        feature_BD = net.feature(frames_BCTHW)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return feature_BD


def _peak_bytes(form: str, setup: Setup) -> float:
    """Of a GPU what torch allocated, weights included; of a CPU a whole process's."""
    if setup.device.type != "cuda":
        quick = ["quick"] if setup.is_quick else []
        return measured([sys.executable, "-m", __name__, form, *quick]).peak_bytes
    torch.cuda.empty_cache()
    net = _net(form, setup)
    torch.cuda.reset_peak_memory_stats(setup.device)
    before = torch.cuda.memory_allocated(setup.device)
    config = net.config
    size = (GPU_BATCH, 3, config.num_frames, config.crop_px, config.crop_px)
    _feature(net, torch.zeros(size, device=setup.device))
    weights = sum(value.numel() * value.element_size() for value in net.parameters())
    return float(torch.cuda.max_memory_allocated(setup.device) - before + weights)


def _once(form: str, is_quick: bool) -> None:
    setup = Setup(folder=Path(), is_quick=is_quick)
    net = _net(form, setup)
    _feature(net, torch.zeros(1, 3, 16, 224, 224))


if __name__ == "__main__":
    _once(sys.argv[1], is_quick="quick" in sys.argv)
