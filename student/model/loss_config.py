"""What a student is trained by: the weights of the losses, without the networks' library."""

from dataclasses import dataclass
from typing import Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.setting_checks import refuse_below, refuse_not_positive, refuse_unknown

L1Reduction = Literal["norm", "mean"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """total = alpha * KD + (1 - alpha) * GT + beta * L1."""

    alpha: float = 0.95
    """Weight of KD against labels."""
    beta: float = 1.0
    """Weight of the feature's L1."""
    tau: float = 1.0
    """Temperature of KD.

    The paper's is 1 for EPIC-Kitchens, 10 for Ego4D."""
    kd_tau_squared: bool = False
    """Multiply KD by tau squared.

    As in Hinton et al. 2015; the paper's equation does not."""
    l1_reduction: L1Reduction = "norm"
    """L1 summed over the feature's dimensions (norm), or their mean.

    The paper has the sum."""
    standardise_targets: bool = False
    """Mean 0, std 1 of features, before L1.

    Of every dimension of the target, over the train split."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise EgoctlError(f"alpha must be in [0, 1], got {self.alpha}.")
        refuse_below("beta", self.beta, least=0)
        refuse_not_positive("tau", self.tau)
        refuse_unknown("l1_reduction", self.l1_reduction, get_args(L1Reduction))
