"""What a student is trained by: the weights of the losses, without the networks' library."""

from dataclasses import dataclass
from typing import Literal, get_args

from egoctl.pipeline.errors import EgoctlError

L1Reduction = Literal["norm", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """total = alpha * KD + (1 - alpha) * GT + beta * L1."""

    alpha: float = 0.95
    beta: float = 1.0
    tau: float = 1.0
    """Temperature of KD: the paper's 1 for EPIC-Kitchens; 10 for Ego4D."""
    kd_tau_squared: bool = False
    """Multiply KD by tau**2 (Hinton et al. 2015); the paper's equation does not."""
    l1_reduction: L1Reduction = "norm"
    """norm: sum over the feature's dimensions (the paper's). mean: divided by their number."""
    standardise_targets: bool = False
    """Give every dimension of the target mean 0 and std 1 over the train split before L1."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise EgoctlError(f"alpha must be in [0, 1], got {self.alpha}.")
        if self.beta < 0:
            raise EgoctlError(f"beta must be 0 or more, got {self.beta}.")
        if not self.tau > 0:
            raise EgoctlError(f"tau must be above 0, got {self.tau}.")
        if self.l1_reduction not in get_args(L1Reduction):
            raise EgoctlError(f"l1_reduction is norm or mean, got {self.l1_reduction!r}.")
