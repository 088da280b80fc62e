"""What a pretraining run of the IMU branch is asked to do."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.losses import L1Reduction
from egoctl.student.model import StudentConfig
from egoctl.student.schedule import SCHEDULES, ScheduleName
from egoctl.student.train_config import Device, Precision, absolute

PretrainLosses = Literal["nce+l1", "nce", "l1"]
MAY_DIFFER = frozenset(
    f"pretrain.{name}"
    for name in (
        *("manifest", "inputs", "teacher", "run", "feature_cache"),
        *("device", "num_devices", "num_workers"),
    )
)
"""Where a run reads and computes. What it reads is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """A pretraining run. Defaults are the paper's."""

    manifest: str
    """Path or URL, as are the next three. No label is read from it."""
    inputs: str
    """The inputs store."""
    teacher: str | None = None
    """The teacher store; nce alone does without."""
    run: str
    """The folder that the run is kept in."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The student that it is for. imu_samples and teacher_dim are taken from the data."""
    losses: PretrainLosses = "nce+l1"
    splits: tuple[str, ...] = ("train",)
    val_split: str = "val"
    """Decides which epoch is best, if the manifest has it."""
    temperature: float = 0.1
    l1_reduction: L1Reduction = "norm"
    """norm: sum over the feature's dimensions (the paper's). mean: divided by their number."""
    standardise_targets: bool = False
    """Give every dimension of the target mean 0 and std 1 over the clips before L1."""
    num_epochs: int = 50
    batch_size: int = 64
    """Of all devices together; a clip's negatives are the others of its batch."""
    learning_rate: float = 1e-4
    schedule: ScheduleName = "steps"
    weight_decay: float = 0.01
    seed: int = 0
    allow_missing: bool = False
    """Train without clips that are not extracted yet, instead of refusing."""
    precision: Precision = "32-true"
    device: Device = "auto"
    num_devices: int = 1
    num_workers: int = 0
    """Processes that decode frames, once; 0: the training process does."""
    feature_cache: Path | None = None
    """Keep the image encoder's features in this folder."""

    def __post_init__(self) -> None:
        for name, got, choices in (
            ("losses", self.losses, get_args(PretrainLosses)),
            ("l1_reduction", self.l1_reduction, get_args(L1Reduction)),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, get_args(Precision)),
            ("device", self.device, get_args(Device)),
        ):
            if got not in choices:
                raise EgoctlError(f"{name} {got!r} is not known; choose {', '.join(choices)}.")
        for name, least, value in (
            ("num_epochs", 1, self.num_epochs),
            ("batch_size", 2, self.batch_size),
            ("num_devices", 1, self.num_devices),
            ("num_workers", 0, self.num_workers),
            ("seed", 0, self.seed),
        ):
            if value < least:
                raise EgoctlError(f"{name} must be {least} or more, got {value}.")
        if not self.learning_rate > 0 or self.weight_decay < 0 or not self.temperature > 0:
            raise EgoctlError(
                "learning_rate and temperature must be above 0, weight_decay 0 or more."
            )
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
        """The IMU's feature is to be told from the first and the last frame."""
        return self.losses != "l1"

    @property
    def uses_l1(self) -> bool:
        """The fusion's output is to be the teacher's feature."""
        return self.losses != "nce"

    def to_json(self) -> dict[str, Any]:
        """As in config.json; paths are absolute, so the run can be read from anywhere."""
        values = dataclasses.asdict(self)
        for name in ("manifest", "inputs", "teacher", "run", "feature_cache"):
            if values[name] is not None:
                values[name] = absolute(str(values[name]))
        values["splits"] = list(self.splits)
        return values
