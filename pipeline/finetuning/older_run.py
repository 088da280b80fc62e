"""Runs of earlier versions: a checkpoint was one file, the best epoch another.

`checkpoints/last.pt` holds what a run goes on from, `checkpoints/best.safetensors` the teacher of
the best epoch. Both are left as they are: once there are folders `last` and `best`, these count.
"""

from pathlib import Path

import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import RunCheckpoint, RunState
from egoctl.pipeline.runs.partial_epoch import PartialEpoch
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.pipeline.teachers.checkpoints import DAMAGED

OLDER_BEST = f"{CHECKPOINTS}/best.safetensors"


def older_checkpoint(run: Path) -> RunCheckpoint | None:
    """The run's last.pt; None: there is none.

    Raises:
        EgoctlError: if it is damaged.
    """
    file = run / CHECKPOINTS / "last.pt"
    if not file.is_file():
        return None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        state, partial = found["state"], None
        if state["steps_done"]:
            # Steps were seeded one by one, so there is no state of random numbers to keep.
            sums = [state["sums"][name] for name in ("loss", "right", "clips")]
            partial = PartialEpoch(
                epoch=state["epochs_done"] + 1,
                steps_done=state["steps_done"],
                seconds=0.0,
                sums_RM=torch.tensor([sums], dtype=torch.float64),
                cpu_random_RS=torch.empty(1, 0, dtype=torch.uint8),
                device_random_RS=torch.empty(1, 0, dtype=torch.uint8),
            )
        return RunCheckpoint(
            weights=found["trainee"],
            optimizer=found["optimizer"],
            state=RunState(
                epochs_done=state["epochs_done"],
                best_epoch=state["best_epoch"],
                best_top1=state["best_top1"],
            ),
            partial=partial,
            extra={"unread": dict(state["unread"])},
        )
    except DAMAGED as error:
        raise EgoctlError(
            f"{file} is damaged ({type(error).__name__}). Delete it to begin again, or give a new "
            "--run."
        ) from error
