"""The devices and processes that a run computes on."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment

from egoctl.pipeline.devices import keep_freed_memory
from egoctl.pipeline.errors import EgoctlError
from egoctl.student.settings.run_config import Device, Precision


def check_device(device: Device) -> None:
    """Raises EgoctlError: if this machine has no such device."""
    available = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[device]:
        raise EgoctlError(f"this machine has no {device} device; pass --device cpu or auto.")


def launched_fabric(*, device: Device, num_devices: int, precision: Precision) -> Fabric:
    """Its processes are started; under torchrun they are there already, whatever num_devices says.

    Raises:
        EgoctlError: if this machine has no such device.
    """
    check_device(device)
    num_nodes = 1
    if TorchElasticEnvironment.detect():
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    fabric = Fabric(
        accelerator=device, devices=num_devices, num_nodes=num_nodes, precision=precision
    )
    fabric.launch()
    keep_freed_memory(fabric.device)
    return fabric
