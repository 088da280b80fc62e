"""The devices and the precision of a fine-tuning run."""

import torch
from lightning_fabric import Fabric

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.config import FinetuneConfig
from egoctl.pipeline.teachers.protocol import pick_device


def fabric_for(config: FinetuneConfig) -> tuple[Fabric, str]:
    """Fabric on the devices asked for, and the precision that it computes in: bf16 or fp32.

    Raises:
        EgoctlError: if there are no such devices here, or not so many.
    """
    device = pick_device(config.device)
    keep_freed_memory(device)
    if config.num_devices > 1 and device.index is not None:
        raise EgoctlError(
            f"--device {config.device} is one device, and --devices asks for "
            f"{config.num_devices}. Pass --device {device.type}, or leave out --devices."
        )
    num_here = torch.cuda.device_count() if device.type == "cuda" else config.num_devices
    if config.num_devices > num_here or (device.type == "mps" and config.num_devices > 1):
        raise EgoctlError(
            f"--devices {config.num_devices}: this machine has {num_here} of kind {device.type}."
        )
    precision = config.precision
    if precision == "auto":
        is_capable = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if is_capable else "fp32"
    # Only GPUs are told by number.
    is_numbered = device.type == "cuda" and device.index is not None
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if is_numbered else config.num_devices,
        strategy="ddp" if config.num_devices > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    return fabric, precision
