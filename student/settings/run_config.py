"""What every run of a student is asked: where its data are, how long it learns, on what."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from egoctl.pipeline.precision import FabricPrecision
from egoctl.pipeline.schedule import SCHEDULES, ScheduleName
from egoctl.pipeline.setting_checks import refuse_below, refuse_not_positive, refuse_unknown
from egoctl.student.model.student_config import StudentConfig

Device = Literal["auto", "cpu", "cuda", "mps"]
PATHS = ("manifest", "inputs", "teacher", "run", "feature_cache")
MAY_DIFFER = (*PATHS, "device", "num_devices", "num_workers")
"""Where a run reads and computes. What it reads is compared by digest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What training and pretraining share. Defaults are the paper's."""

    manifest: str
    """A manifest (parquet): path or URL."""
    inputs: str
    """Store of frames and IMU: path or URL."""
    teacher: str | None = None
    """Store of the teacher's targets.

    What learns from no teacher needs none."""
    run: str
    """Folder of this run: path or URL."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """Its num_classes, imu_samples and, given a teacher, teacher_dim are taken from the data."""
    val_split: str = "val"
    """Split that decides which epoch is best, if the manifest has it."""
    num_epochs: int = 50
    """Rounds over the clips."""
    batch_size: int = 64
    """Clips of one step, on all devices."""
    learning_rate: float = 1e-4
    """Learning rate of AdamW."""
    schedule: ScheduleName = "steps"
    """steps: x 0.1 at 60 and 80 % of the epochs."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    seed: int = 0
    """Seed of all that is random."""
    allow_missing: bool = False
    """Leave out clips not extracted yet.

    Without it, they are refused."""
    precision: FabricPrecision = "32-true"
    """Precision of the computing."""
    device: Device = "auto"
    """auto, cpu, cuda or mps."""
    num_devices: int = 1
    """How many, a process each; torchrun's number wins."""
    num_workers: int = 0
    """Processes that decode frames; 0: the training process does."""
    feature_cache: Path | None = None
    """Keep a frozen encoder's features in this folder, for other runs."""

    def __post_init__(self) -> None:
        refuse_unknown("schedule", self.schedule, SCHEDULES)
        refuse_unknown("precision", self.precision, get_args(FabricPrecision))
        refuse_unknown("device", self.device, get_args(Device))
        refuse_below("num_epochs", self.num_epochs, least=1)
        refuse_below("batch_size", self.batch_size, least=2)
        refuse_below("num_devices", self.num_devices, least=1)
        refuse_below("num_workers", self.num_workers, least=0)
        refuse_below("seed", self.seed, least=0)
        refuse_not_positive("learning_rate", self.learning_rate)
        refuse_below("weight_decay", self.weight_decay, least=0)

    def to_json(self) -> dict[str, Any]:
        """As in config.json; paths are absolute, so the run can be read from anywhere."""
        values = dataclasses.asdict(self)
        for name in PATHS:
            if values[name] is not None:
                values[name] = absolute(str(values[name]))
        return values


def absolute(url: str) -> str:
    """A URL as it is, a path from the root."""
    # Slow to import, and options are made of this file's record.
    from egoctl.pipeline.files.place import is_remote, local_path

    return url if is_remote(url) else str(Path(local_path(url)).absolute())
