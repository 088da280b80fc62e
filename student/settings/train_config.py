"""What a training run is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.setting_checks import refuse_below, refuse_unknown
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings import run_config
from egoctl.student.settings.run_config import RunConfig, absolute

CacheFrames = Literal["ram", "disk", "none"]
CACHE_FRAMES: tuple[str, ...] = get_args(CacheFrames)
EpochOver = Literal["clips", "segments"]
EPOCH_OVER: tuple[str, ...] = get_args(EpochOver)
LABELS_ONLY = LossConfig(alpha=0.0, beta=0.0)
MAY_DIFFER = frozenset(
    f"train.{name}"
    for name in (
        *run_config.MAY_DIFFER,
        *("pretrain", "cache_frames", "compile", "save_every_steps"),
    )
)
"""Where a run reads and computes. What it reads is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(RunConfig):
    """A training run. Defaults are the paper's for EPIC-Kitchens; Ego4D has 150 epochs, tau 10."""

    pretrain: str | None = None
    """Begin with the IMU encoder of this pretrain-imu run or file.

    A path or URL; the fusion begins with that run's fusion, too."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Used by methods that distill; the others have cross-entropy alone, and need no teacher."""
    train_split: str = "train"
    """Split to train on."""
    epoch_over: EpochOver = "clips"
    """An epoch is all clips, or one random clip of each segment."""
    accumulate: int = 1
    """Shares to take a batch in, to save memory.

    Each device takes its part of a batch in so many shares, one after the other. BatchNorm then
    sees the clips of one share, as it sees those of one device."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights (0.999), which is evaluated.

    None: there is no average, and the weights themselves are evaluated."""
    early_stopping: int | None = None
    """End after so many epochs without a better val top-1."""
    compile: bool = False
    """Use torch.compile."""
    save_every_steps: int | None = None
    """Save within epochs too, not only when stopped there."""
    cache_frames: CacheFrames = "ram"
    """Where frames are kept: ram, disk (of this node), none (in the store).

    They are kept as JPEG. disk: in a file of this node, for later runs too. none: the store is
    read for every batch."""

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)  # super() does not know a class with slots
        refuse_unknown("epoch_over", self.epoch_over, EPOCH_OVER)
        refuse_unknown("cache_frames", self.cache_frames, CACHE_FRAMES)
        refuse_below("accumulate", self.accumulate, least=1)
        refuse_below("early_stopping", self.early_stopping, least=1)
        refuse_below("save_every_steps", self.save_every_steps, least=1)
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
        """As in config.json: the pretraining is a path, too."""
        values = RunConfig.to_json(self)
        if self.pretrain is not None:
            values["pretrain"] = absolute(self.pretrain)
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
