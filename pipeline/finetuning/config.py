"""Settings of a fine-tuning run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.precision import PRECISIONS
from egoctl.pipeline.schedule import SCHEDULES, ScheduleName
from egoctl.pipeline.setting_checks import refuse_below, refuse_not_positive, refuse_unknown

SCALES = (256 / 224, 320 / 224)
"""Short sides from which a crop of 224 is cut (Patrick et al. 2021, arXiv:2106.05392)."""
MAY_DIFFER = frozenset({"manifest", "weights", "run", "device", "num_devices", "workers"}) | {
    "save_every"
}
"""Where and how often a run computes, reads and saves; content is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """How training clips vary. One draw holds for all frames of a clip."""

    random_crop: bool = True
    """A random square of a frame of random size; else the centre.

    The centre is what extraction sees."""
    short_sides_px: tuple[int, int] | None = None
    """Sizes to cut from, MIN MAX pixels; default: 8/7 and 10/7 of the crop."""
    flip: float = 0.0
    """Share of mirrored clips; 0, as hands are left or right.

    Turning to the left or right means something, too. MotionFormer's own recipe has 0.5."""

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise EgoctlError(f"--flip is a share from 0 to 1, got {self.flip}.")
        if self.short_sides_px is not None:
            low, high = self.short_sides_px
            if not 0 < low <= high:
                raise EgoctlError(f"--short-sides are MIN and MAX pixels, got {low} {high}.")

    def sides_px(self, crop_px: int) -> tuple[int, int]:
        """The smallest and the largest short side for a crop of this size.

        Raises:
            EgoctlError: if the crop does not fit into the smallest.
        """
        if self.short_sides_px is None:
            low, high = (round(scale * crop_px) for scale in SCALES)
            return low, high
        if self.short_sides_px[0] < crop_px:
            raise EgoctlError(
                f"--short-sides {self.short_sides_px[0]} {self.short_sides_px[1]}: this teacher "
                f"sees squares of {crop_px} pixels; give short sides of {crop_px} or more."
            )
        return self.short_sides_px


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """A run. The optimiser's defaults are those of EgoDistill's teacher for EPIC-Kitchens."""

    manifest: str
    """A manifest (parquet): path or URL."""
    teacher: str
    """Name of the network, such as mvit_v2_s."""
    weights: str = "default"
    """'default' (published), a checkpoint file, or 'random:SEED'."""
    run: str
    """Folder of this run."""
    head_only: bool = False
    """Train the last layer, on features computed once."""
    num_epochs: int = 50
    """Rounds over the train split."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    schedule: ScheduleName = "steps"
    """steps: x 0.1 at 60 and 80 % of the epochs."""
    label_smoothing: float = 0.0
    """From 0 to 1."""
    batch_size: int = 64
    """Clips of one step, on all devices."""
    accumulate: int = 1
    """Passes that each device cuts its share of a step into."""
    checkpoint_gradients: bool = False
    """Less memory, a third more computing."""
    augment: Augment = field(default_factory=Augment)
    train_split: str = "train"
    """Split to learn from, or several: train,teacher-train."""
    val_split: str = "val"
    """Split that decides which epoch is best, if the manifest has it."""
    seed: int = 0
    """Seed of all that is random."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    num_devices: int = 1
    """How many of them."""
    precision: str = "auto"
    """auto (bf16 on capable GPUs), fp32, bf16."""
    workers: int | None = None
    """Decoding threads per device; default: one per core."""
    save_every: int = 500
    """Steps between checkpoints.

    These are inside an epoch; there is one at each epoch's end, too."""

    def __post_init__(self) -> None:
        if not self.run:
            raise EgoctlError("--run must name a folder, got an empty text.")
        for name in ("num_epochs", "batch_size", "accumulate", "num_devices", "save_every"):
            refuse_below(_option(name), getattr(self, name), least=1)
        refuse_below("--workers", self.workers, least=1)
        refuse_not_positive("--lr", self.learning_rate)
        refuse_below("--weight-decay", self.weight_decay, least=0)
        if not 0 <= self.label_smoothing < 1:
            raise EgoctlError(f"--label-smoothing is from 0 to below 1, got {self.label_smoothing}")
        refuse_unknown("--schedule", self.schedule, SCHEDULES)
        refuse_unknown("--precision", self.precision, PRECISIONS)
        share = self.num_devices * self.accumulate
        if self.batch_size % share:
            raise EgoctlError(
                f"--batch-size {self.batch_size} must be a multiple of devices x accumulate, "
                f"{self.num_devices} x {self.accumulate} = {share}."
            )

        if self.head_only and self.num_devices > 1:
            raise EgoctlError(
                "--head-only computes the features once and keeps them in one process's memory; "
                "pass --devices 1."
            )

    @property
    def pass_size(self) -> int:
        """Clips that one device sees at once."""
        return self.batch_size // (self.num_devices * self.accumulate)

    def identity(self) -> dict[str, Any]:
        """The settings that decide the weights that come out."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in MAY_DIFFER}


def _option(name: str) -> str:
    name = name.removeprefix("num_").replace("_", "-")
    return f"--{name}"
