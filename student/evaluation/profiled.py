"""A student as something to profile, from a clip's frames and IMU to logits."""

# B batch, N frames, H height, W width or IMU samples, A IMU axes (6), C classes

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.run_place import run_folder_at
from egoctl.student.model.imu_encoder import NUM_AXES
from egoctl.student.model.student import Student, build_student
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.runs.run_record import read_run


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfiledStudent:
    """A student to profile."""

    config: StudentConfig
    frame_px: int = 224
    """Side of the frames that it is shown."""

    def __post_init__(self) -> None:
        if self.frame_px < 1:
            raise EgoctlError(f"--frame-px must be 1 or more, got {self.frame_px}.")

    @property
    def name(self) -> str:
        """Its method, and what its image encoder is."""
        config = self.config
        if not config.parts.uses_image:
            return config.method
        return f"{config.method} {config.image_encoder} N={config.num_frames}"

    def build(self, device: torch.device) -> nn.Module:
        """With random weights: speed does not depend on them.

        Raises:
            EgoctlError: as build_student.
        """
        shape = dataclasses.replace(self.config, image_weights="random")
        return _FromSensors(build_student(shape, seed=0)).eval().to(device)

    def inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Frames (B, N, H, W, 3), uint8, and IMU (B, W, A): those that the method looks at."""
        config = self.config
        size = (batch_size, config.num_frames, self.frame_px, self.frame_px, 3)
        generator = torch.Generator().manual_seed(0)
        values: list[Tensor] = []
        if config.parts.uses_image:
            values.append(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator))
        if config.parts.uses_imu:
            size_BWA = (batch_size, config.imu_samples, NUM_AXES)
            values.append(torch.randn(size_BWA, generator=generator))
        return tuple(values)


def profiled_student(
    run: str | None, shape: Mapping[str, Any], *, frame_px: int
) -> ProfiledStudent:
    """The student of a run, a path or URL; or without one, that of a shape.

    shape: fields of StudentConfig; None means the default.

    Raises:
        EgoctlError: if there is no such run or shape, or both are given.
    """
    given = {name: value for name, value in shape.items() if value is not None}
    if run is None:
        return ProfiledStudent(config=StudentConfig(**given), frame_px=frame_px)
    if given:
        raise EgoctlError(
            f"{run} has a shape of its own: leave out {', '.join(sorted(given))}, or the run."
        )
    with run_folder_at(run) as place:
        return ProfiledStudent(config=read_run(place).student, frame_px=frame_px)


class _FromSensors(nn.Module):
    """A student with the inputs of its method in order, which fvcore wants."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, *sensors: Tensor) -> Tensor:
        left = list(sensors)
        parts = self.student.config.parts
        frames_BNHW3 = left.pop(0) if parts.uses_image else None
        imu_BWA = left.pop(0) if parts.uses_imu else None
        logits_BC: Tensor = self.student(frames_BNHW3=frames_BNHW3, imu_BWA=imu_BWA).logits_BC
        return logits_BC
