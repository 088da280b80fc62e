"""How large, fast and hungry networks are on this machine, measured side by side.

Speeds of one machine differ by tens of per cent from minute to minute, so networks are timed in
turns (A B A B ...) in one process, and every time comes with its spread.
"""

import itertools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn

from egoctl.pipeline.devices import is_out_of_memory, keep_freed_memory, pick_device
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.flop_count import counted_gflops
from egoctl.pipeline.setting_checks import refuse_below, refuse_unknown

PRECISIONS = ("fp32", "bf16")
SAMPLE_S = 0.2
"""A timing repeats a pass until so much time has gone by: one pass of a student is too short."""
MIB = 2**20


class Profiled(Protocol):
    """A network to profile: a recipe rather than the network, for other processes to follow."""

    @property
    def name(self) -> str: ...

    def build(self, device: torch.device) -> nn.Module:
        """In eval mode, with random weights; its forward takes what inputs gives."""
        ...

    def inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """The network's inputs for so many clips, on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileConfig:
    """What is measured, and how often."""

    device: torch.device
    precision: str = "fp32"
    batch_sizes: tuple[int, ...] = (1, 32)
    repeats: int = 5
    with_memory: bool = True

    def __post_init__(self) -> None:
        refuse_unknown("--precision", self.precision, PRECISIONS)
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise EgoctlError(f"--batch must be numbers of 1 or more, got {self.batch_sizes}.")
        refuse_below("--repeats", self.repeats, least=1)

    @classmethod
    def from_options(
        cls, *, device: str, precision: str, batch: str | None, repeats: int | None, quick: bool
    ) -> Self:
        """batch: numbers with commas between. quick: one clip, timed once, without memory.

        Raises:
            EgoctlError: for values that cannot be used.
        """
        sizes = (batch or ("1" if quick else "1,32")).split(",")
        if not all(size.strip().isdecimal() for size in sizes):
            raise EgoctlError(f"--batch is numbers with commas between, as in 1,32; got {batch!r}.")
        return cls(
            device=pick_device(device),
            precision=precision,
            batch_sizes=tuple(int(size) for size in sizes),
            repeats=(1 if quick else 5) if repeats is None else repeats,
            with_memory=not quick,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchProfile:
    """A network at one batch size."""

    batch_size: int
    ms_per_clip: tuple[float, ...]
    """Time of a batch over its clips, of every repeat. At batch 1 it is the latency."""
    median_ms_per_clip: float
    clips_per_s: float
    """By the median."""
    peak_mib: float | None
    """CUDA: allocated for weights, inputs and all between. CPU: of a process of its own, with
    interpreter and libraries. None: not measured, or not to be had."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkProfile:
    """A network's size, and its speed per batch size."""

    name: str
    num_parameters: int
    gflops: float
    """10^9 multiply-adds of one clip; see counted_gflops."""
    batches: tuple[BatchProfile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineProfile:
    """What it was measured on."""

    device: str
    torch_version: str
    torch_threads: int
    precision: str
    repeats: int


def profile(networks: Sequence[Profiled], config: ProfileConfig) -> tuple[NetworkProfile, ...]:
    """The networks' profiles, in their order; they are timed in turns.

    Raises:
        EgoctlError: as a network's build; or if a batch does not fit into memory.
    """
    cpu = torch.device("cpu")
    sizes = []
    for network in networks:
        built = network.build(cpu)
        num_parameters = sum(parameter.numel() for parameter in built.parameters())
        sizes.append((num_parameters, counted_gflops(built, network.inputs(1))))
        del built
    # First: a batch that is too large ends another process than this one.
    peaks = {
        (network.name, batch_size): _peak_mib(network, batch_size, config)
        for network, batch_size in itertools.product(networks, config.batch_sizes)
    }
    keep_freed_memory(config.device)
    nets = [network.build(config.device) for network in networks]
    timed = {
        batch_size: _timed(
            [
                _pass(net, network, batch_size, config)
                for net, network in zip(nets, networks, strict=True)
            ],
            repeats=config.repeats,
        )
        for batch_size in config.batch_sizes
    }
    return tuple(
        NetworkProfile(
            name=network.name,
            num_parameters=sizes[at][0],
            gflops=sizes[at][1],
            batches=tuple(
                _batch_profile(batch_size, timed[batch_size][at], peaks[network.name, batch_size])
                for batch_size in config.batch_sizes
            ),
        )
        for at, network in enumerate(networks)
    )


def machine_profile(config: ProfileConfig) -> MachineProfile:
    """This machine, as far as it bears on speed."""
    is_cuda = config.device.type == "cuda"
    return MachineProfile(
        device=torch.cuda.get_device_name(config.device) if is_cuda else _processor(config.device),
        torch_version=torch.__version__,
        torch_threads=torch.get_num_threads(),
        precision=config.precision,
        repeats=config.repeats,
    )


def _batch_profile(
    batch_size: int, seconds: tuple[float, ...], peak_mib: float | None
) -> BatchProfile:
    ms_per_clip = tuple(1000 * each / batch_size for each in seconds)
    median = statistics.median(ms_per_clip)
    return BatchProfile(
        batch_size=batch_size,
        ms_per_clip=ms_per_clip,
        median_ms_per_clip=median,
        clips_per_s=1000 / median,
        peak_mib=peak_mib,
    )


def _pass(
    net: nn.Module, network: Profiled, batch_size: int, config: ProfileConfig
) -> Callable[[], None]:
    """One forward pass, waited for; the inputs are on the device already."""
    inputs = tuple(value.to(config.device) for value in network.inputs(batch_size))

    def forward() -> None:
        with (
            _refusing_too_large(network.name, batch_size),
            torch.inference_mode(),
            torch.autocast(
                config.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
            ),
        ):
            net(*inputs)
            _wait_for(config.device)

    return forward


@contextmanager
def _refusing_too_large(name: str, batch_size: int) -> Iterator[None]:
    """A user's mistake instead of torch's own error where a GPU's memory is full."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise EgoctlError(
            f"{name}: a batch of {batch_size} does not fit into memory. Pass a smaller --batch."
        ) from error


def _timed(passes: Sequence[Callable[[], None]], *, repeats: int) -> list[tuple[float, ...]]:
    """Seconds per pass, of every repeat, after a round of warming up."""
    rounds = [[_sample_s(one) for one in passes] for _ in range(1 + repeats)]
    return list(zip(*rounds[1:], strict=True))


def _sample_s(one: Callable[[], None]) -> float:
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < SAMPLE_S:
        one()
        count += 1
    return (time.perf_counter() - start) / count


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_mib(network: Profiled, batch_size: int, config: ProfileConfig) -> float | None:
    if not config.with_memory:
        return None
    if config.device.type == "cuda":
        return _cuda_peak_mib(network, batch_size, config)
    if config.device.type != "cpu" or not Path("/proc/self/status").is_file():
        return None
    # Spawned: what this process holds must not count.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            job = pool.submit(_process_peak_mib, network, batch_size, config)
            return job.result()
        except BrokenProcessPool as error:
            raise EgoctlError(
                f"{network.name}: the process that tried a batch of {batch_size} was killed, most "
                "likely for its memory. Pass a smaller --batch."
            ) from error


def _cuda_peak_mib(network: Profiled, batch_size: int, config: ProfileConfig) -> float:
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(config.device)
    one = _pass(network.build(config.device), network, batch_size, config)
    torch.cuda.reset_peak_memory_stats(config.device)
    one()
    return (torch.cuda.max_memory_allocated(config.device) - before) / MIB


def _process_peak_mib(network: Profiled, batch_size: int, config: ProfileConfig) -> float:
    """Peak memory of this process, after one pass; Linux keeps it as VmHWM.

    Not ru_maxrss: in that a new process inherits the peak of the one that started it.
    """
    # As where it is timed: kept memory takes more, and too large a batch must end this process.
    keep_freed_memory(config.device)
    _pass(network.build(config.device), network, batch_size, config)()
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError("/proc/self/status has no VmHWM")


def _processor(device: torch.device) -> str:
    """The processor's model, where the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return device.type
