"""What a training run is asked to do."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.place import is_remote, local_path
from egoctl.student.epochs import EPOCH_OVER, EpochOver
from egoctl.student.jpegs import CACHE_FRAMES, CacheFrames
from egoctl.student.losses import LossConfig
from egoctl.student.model import StudentConfig
from egoctl.student.schedule import SCHEDULES, ScheduleName

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["32-true", "bf16-mixed"]
LABELS_ONLY = LossConfig(alpha=0.0, beta=0.0)
MAY_DIFFER = frozenset(
    f"train.{name}"
    for name in (
        *("manifest", "inputs", "teacher", "run", "feature_cache", "pretrain"),
        *("device", "num_devices", "num_workers", "cache_frames", "compile", "save_every_steps"),
    )
)
"""Where a run reads and computes. What it reads is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run. Defaults are the paper's for EPIC-Kitchens; Ego4D has 150 epochs, tau 10."""

    manifest: str
    """Path or URL, as are the next three."""
    inputs: str
    """The inputs store."""
    teacher: str | None = None
    """The teacher store; methods that learn from labels alone do without."""
    run: str
    """The folder that the run is kept in."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """num_classes, imu_samples and, given a teacher, teacher_dim are taken from the data."""
    pretrain: str | None = None
    """A run of pretrain-imu (path or URL) or its file: as what IMU encoder and fusion begin."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Of methods that distill; the others have cross-entropy alone."""
    train_split: str = "train"
    val_split: str = "val"
    """Decides which epoch is best, if the manifest has it."""
    num_epochs: int = 50
    epoch_over: EpochOver = "clips"
    """clips: all of them every epoch. segments: one random clip of each."""
    batch_size: int = 64
    """Of all devices and shares together."""
    accumulate: int = 1
    """Shares that a device takes its part of a batch in, one after the other, to save memory.
    BatchNorm then sees the clips of one share, as it sees those of one device."""
    learning_rate: float = 1e-4
    schedule: ScheduleName = "steps"
    weight_decay: float = 0.01
    ema_decay: float | None = None
    """Of a moving average of the weights, which is then what is evaluated; None: no average."""
    early_stopping: int | None = None
    """End after so many epochs in a row without a better top-1 on the val split."""
    seed: int = 0
    allow_missing: bool = False
    """Train without clips that are not extracted yet, instead of refusing."""
    precision: Precision = "32-true"
    compile: bool = False
    """Use torch.compile."""
    save_every_steps: int | None = None
    """Save within epochs too; a run that is asked to stop saves in any case."""
    device: Device = "auto"
    num_devices: int = 1
    num_workers: int = 0
    """Processes that decode frames; 0: the training process does."""
    cache_frames: CacheFrames = "ram"
    """Where the frames' JPEG bytes are kept. disk: in a file of this node, for later runs too.
    none: in the store, which is read for every batch."""
    feature_cache: Path | None = None
    """Keep a frozen image encoder's features in this folder."""

    def __post_init__(self) -> None:
        for name, got, choices in (
            ("epoch_over", self.epoch_over, EPOCH_OVER),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, get_args(Precision)),
            ("device", self.device, get_args(Device)),
            ("cache_frames", self.cache_frames, CACHE_FRAMES),
        ):
            if got not in choices:
                raise EgoctlError(f"{name} {got!r} is not known; choose {', '.join(choices)}.")
        for name, least, value in (
            ("num_epochs", 1, self.num_epochs),
            ("batch_size", 2, self.batch_size),
            ("num_devices", 1, self.num_devices),
            ("accumulate", 1, self.accumulate),
            ("early_stopping", 1, self.early_stopping),
            ("save_every_steps", 1, self.save_every_steps),
            ("num_workers", 0, self.num_workers),
            ("seed", 0, self.seed),
        ):
            if value is not None and value < least:
                raise EgoctlError(f"{name} must be {least} or more, got {value}.")
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise EgoctlError("learning_rate must be above 0, weight_decay 0 or more.")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise EgoctlError(f"ema_decay must be between 0 and 1, got {self.ema_decay}.")
        if self.student.parts.distills and self.teacher is None:
            raise EgoctlError(
                f"method {self.student.method} learns from a teacher: pass the teacher's store."
            )

    @property
    def effective_loss(self) -> LossConfig:
        """The loss, or cross-entropy alone for a method without a teacher."""
        return self.loss if self.student.parts.distills else LABELS_ONLY

    def to_json(self) -> dict[str, Any]:
        """As in config.json; paths are absolute, so the run can be read from anywhere."""
        values = dataclasses.asdict(self)
        for name in ("manifest", "inputs", "teacher", "run", "feature_cache", "pretrain"):
            if values[name] is not None:
                values[name] = absolute(str(values[name]))
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The config that to_json wrote."""
        cache = values["feature_cache"]
        return cls(
            **{
                **values,
                "feature_cache": None if cache is None else Path(cache),
                "student": StudentConfig(**values["student"]),
                "loss": LossConfig(**values["loss"]),
            }
        )


def absolute(url: str) -> str:
    """A URL as it is, a path from the root."""
    return url if is_remote(url) else str(Path(local_path(url)).absolute())
