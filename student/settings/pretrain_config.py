"""What a pretraining run of the IMU branch is asked to do."""

from dataclasses import dataclass
from typing import Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.setting_checks import refuse_not_positive, refuse_unknown
from egoctl.student.model.loss_config import L1Reduction
from egoctl.student.settings import run_config
from egoctl.student.settings.run_config import RunConfig

PretrainLosses = Literal["nce+l1", "nce", "l1"]
DEFAULT_LOSSES: PretrainLosses = "nce+l1"
MAY_DIFFER = frozenset(f"pretrain.{name}" for name in run_config.MAY_DIFFER)
"""Where a run reads and computes. What it reads is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig(RunConfig):
    """A pretraining run. Defaults are the paper's. No label is read from the manifest."""

    losses: PretrainLosses = DEFAULT_LOSSES
    """nce: match a clip's IMU with its two frames. l1: match the teacher's feature.

    nce alone needs no teacher."""
    batch_size: int = 64
    """Clips of one step, on all devices; the others of a batch are a clip's negatives."""
    splits: tuple[str, ...] = ("train",)
    """Splits to learn from, as in train,unlabelled. Labels do not count."""
    temperature: float = 0.1
    """Temperature of NCE."""
    l1_reduction: L1Reduction = "norm"
    """L1 summed over the feature's dimensions (norm), or their mean."""
    standardise_targets: bool = False
    """Mean 0, std 1 of features, before L1."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # super() does not know a class with slots
        refuse_unknown("losses", self.losses, get_args(PretrainLosses))
        refuse_unknown("l1_reduction", self.l1_reduction, get_args(L1Reduction))
        refuse_not_positive("temperature", self.temperature)
        if not self.splits or self.val_split in self.splits:
            raise EgoctlError(
                f"splits {','.join(self.splits)!r} must be one or more, and without the val split "
                f"{self.val_split!r}: it decides which epoch is best."
            )
        if len(set(self.splits)) < len(self.splits):
            raise EgoctlError(f"splits {','.join(self.splits)!r} names one twice.")
        if self.uses_l1 and self.teacher is None:
            raise EgoctlError(
                f"losses {self.losses} learn from a teacher: pass the teacher's store, or "
                "--losses nce."
            )
        if not (self.student.parts.uses_image and self.student.parts.uses_imu):
            raise EgoctlError(
                f"{self.student.method} does not see both image and IMU: nothing to pretrain."
            )

    @property
    def uses_nce(self) -> bool:
        """Whether the IMU's feature is predicted from the first and the last frame."""
        return self.losses != "l1"

    @property
    def uses_l1(self) -> bool:
        """Whether the fusion's output is to be the teacher's feature."""
        return self.losses != "nce"
