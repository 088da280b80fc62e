"""The place of a run within an epoch: enough to go on there to the same bits."""

# R processes, M sums of an epoch's metrics, S bytes of a random generator's state

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

import torch
from lightning_fabric import Fabric
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialEpoch:
    """Sums and random states of all processes, on the CPU; the rest follows from (seed, epoch)."""

    epoch: int
    """Counted from 1."""
    steps_done: int
    seconds: float
    """Time these steps took."""
    sums_RM: Tensor
    cpu_random_RS: Tensor
    device_random_RS: Tensor
    """The accelerator's; (R, 0) without one."""

    @classmethod
    def gathered(
        cls, fabric: Fabric, *, epoch: int, steps_done: int, seconds: float, sums_M: Tensor
    ) -> Self:
        """Every process's part of it; all of them call this after the same step."""
        return cls(
            epoch=epoch,
            steps_done=steps_done,
            seconds=seconds,
            sums_RM=_gathered(fabric, sums_M),
            cpu_random_RS=_gathered(fabric, torch.get_rng_state()),
            device_random_RS=_gathered(fabric, _device_random(fabric.device)),
        )

    def restore_random(self, fabric: Fabric) -> None:
        """Set this process's generators to what they were, so that it draws what comes next.

        Raises:
            EgoctlError: if it was stopped on another number of processes.
        """
        num_before = len(self.sums_RM)
        if num_before != fabric.world_size:
            raise EgoctlError(
                f"this run was stopped within epoch {self.epoch} on {num_before} processes, and "
                f"cannot go on there on {fabric.world_size}. Pass --devices {num_before}; from "
                "the next epoch on their number may change."
            )
        torch.set_rng_state(self.cpu_random_RS[fabric.global_rank])
        state_S = self.device_random_RS[fabric.global_rank]
        if fabric.device.type == "cuda" and len(state_S):
            torch.cuda.set_rng_state(state_S, fabric.device)
        elif fabric.device.type == "mps" and len(state_S):
            torch.mps.set_rng_state(state_S)

    def to_plain(self) -> dict[str, Any]:
        """Its fields, for torch.save; PartialEpoch(**plain) makes it again."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _gathered(fabric: Fabric, values: Tensor) -> Tensor:
    """(R, ...) on the CPU."""
    mine = values.to(fabric.device)
    found = [torch.empty_like(mine) for _ in range(fabric.world_size)]
    if fabric.world_size > 1:
        # Not Fabric's own, which goes through a function that PyTorch has deprecated.
        torch.distributed.all_gather(found, mine)
    else:
        found[0] = mine
    return torch.stack(found).cpu()


def _device_random(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.empty(0, dtype=torch.uint8)
