"""Devices, precision and processes: which a run computes with, and how memory is kept there."""

import ctypes
import functools
import os
from typing import TYPE_CHECKING

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.precision import FabricPrecision

if TYPE_CHECKING:
    from lightning_fabric import Fabric  # takes seconds to import, and extraction needs none

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER_BYTES = 2**31 - 1


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether the device had no room; by its words, as only CUDA has a type for it."""
    return "out of memory" in str(error).lower()


def pick_device(name: str) -> torch.device:
    """The device called name; 'auto' is cuda, else mps, else cpu.

    Raises:
        EgoctlError: if torch has no such device here.
    """
    if name == "auto":
        name = next((kind for kind in ("cuda", "mps") if _num_devices(kind)), "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EgoctlError(
            f"no device is called {name!r}. Pass --device auto, cpu, cuda, cuda:N or mps."
        ) from error
    if (device.index or 0) >= _num_devices(device.type):
        raise EgoctlError(
            f"--device {name}: torch sees {_num_devices(device.type)} {device.type} devices here. "
            f"Pass --device auto or cpu."
        )
    return device


def _num_devices(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    return int(kind == "cpu")


def resolved_precision(precision: str, device: torch.device) -> str:
    """'fp32' or 'bf16': auto takes bf16 on GPUs that compute in it."""
    if precision != "auto":
        return precision
    is_capable = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if is_capable else "fp32"


def fabric_on(*, device: str, num_devices: int, precision: FabricPrecision) -> "Fabric":
    """Fabric on the devices asked for; precision in Fabric's words, device as for pick_device.

    Its processes are not started yet: call `launch`. Under torchrun they are there already,
    whatever num_devices is.

    Raises:
        EgoctlError: if there are no such devices here, or not so many.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    picked = pick_device(device)
    keep_freed_memory(picked)
    num_nodes = 1
    if TorchElasticEnvironment.detect():
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    elif num_devices > 1:
        _check_number(device, picked, num_devices)
    # Only GPUs have numbers.
    is_numbered = picked.type == "cuda" and picked.index is not None
    return Fabric(
        accelerator=picked.type,
        devices=[picked.index] if is_numbered else num_devices,
        num_nodes=num_nodes,
        strategy="ddp" if num_devices * num_nodes > 1 else "auto",
        precision=precision,
    )


def _check_number(device: str, picked: torch.device, num_devices: int) -> None:
    if picked.index is not None:
        raise EgoctlError(
            f"--device {device} is one device, and --devices asks for {num_devices}. "
            f"Pass --device {picked.type}, or leave out --devices."
        )
    num_here = num_devices if picked.type == "cpu" else _num_devices(picked.type)
    if num_devices > num_here:
        raise EgoctlError(
            f"--devices {num_devices}: this machine has {num_here} of kind {picked.type}."
        )


def keep_freed_memory(device: torch.device) -> None:
    """Tell glibc to keep this process's freed memory, if its networks run on the CPU.

    With another C library nothing happens. glibc gives large blocks back to the kernel at once,
    and taking them again costs a page fault for every 4 KiB. A batch of a video network frees
    gigabytes: a third of its time went there (mvit_v2_s on two cores), and almost half of the time
    of a student with the mean read-out. The price is that memory stays at its peak, somewhat above
    what it was, as kept blocks are not joined as well.
    """
    if device.type == "cpu":
        _keep()


@functools.cache
def _keep() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Blocks that were mapped one by one would still be unmapped one by one.
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)
