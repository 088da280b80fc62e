"""What the figures were measured on: without it they mean nothing."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("egoctl", "torch", "torchvision", "av", "zarr", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """The processor, the software, and how busy it was before the first benchmark."""

    cpu: str
    num_cores: int
    torch_threads: int
    device: str
    """What the networks run on: 'cpu', or the name of a GPU."""
    load_1min: float
    """Processes that wanted to run in the last minute; well above 0 the figures are too low."""
    python: str
    versions: dict[str, str]

    @classmethod
    def here(cls, device: torch.device) -> "Machine":
        is_cuda = device.type == "cuda"
        return cls(
            cpu=_cpu_model(),
            num_cores=os.cpu_count() or 1,
            torch_threads=torch.get_num_threads(),
            device=torch.cuda.get_device_name(device) if is_cuda else device.type,
            load_1min=os.getloadavg()[0],
            python=f"{platform.python_version()}, {platform.system()} {platform.machine()}",
            versions={name: version(name) for name in PACKAGES},
        )

    def lines(self) -> Iterator[str]:
        """For people."""
        yield (
            f"{self.cpu}, {self.num_cores} cores, torch with {self.torch_threads} threads "
            f"on {self.device}, load {self.load_1min:.1f} at the start"
        )
        yield f"Python {self.python}; " + ", ".join(
            f"{name} {number}" for name, number in self.versions.items()
        )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
