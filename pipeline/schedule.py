"""Learning rates as functions of the step, so that a resumed run needs no scheduler's state."""

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

ScheduleName = Literal["steps", "onecycle"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)

DECAY = 0.1
MILESTONES = (0.6, 0.8)
"""The paper's epochs 30 and 40 of 50, 90 and 120 of 150."""
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "epic": {"schedule": "steps", "num_epochs": 50, "tau": 1.0},
    "ego4d": {"schedule": "steps", "num_epochs": 150, "tau": 10.0},
    "short": {"schedule": "onecycle", "num_epochs": 30, "learning_rate": 1e-3},
}
"""Settings by the name that may be given for a schedule; the first two are the paper's."""
ONECYCLE_RISE = 0.3
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 25e4


def learning_rate(
    schedule: ScheduleName, peak: float, *, step: int, steps_per_epoch: int, num_epochs: int
) -> float:
    """The rate of a step, counted from 0 over the whole run.

    steps: peak, a tenth of it from 60 % of the epochs, a hundredth from 80 %.
    onecycle: a half cosine up from peak/25 over 30 % of the steps, then down to nearly 0
    (Smith and Topin 2018, arXiv:1708.07120).
    """
    if schedule == "steps":
        epoch = step // steps_per_epoch
        passed = sum(epoch >= round(share * num_epochs) for share in MILESTONES)
        return peak * DECAY**passed
    last = steps_per_epoch * num_epochs - 1
    top = ONECYCLE_RISE * (last + 1) - 1
    if step <= top:
        return _cosine(peak * ONECYCLE_START, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, peak * ONECYCLE_END, (step - top) / (last - top))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
