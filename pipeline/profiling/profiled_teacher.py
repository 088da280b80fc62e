"""A teacher as something to profile, from the frames of a clip to logits."""

# B batch, T frames, H height, W width, C channels or classes

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egoctl.pipeline.teachers.cost import WholeTeacher
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_spec
from egoctl.pipeline.teachers.protocol import Teacher, normalise


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfiledTeacher:
    """The teacher of that name; as everywhere it may carry options (motionformer,form=lean)."""

    name: str

    def build(self, device: torch.device) -> nn.Module:
        """With random weights: speed does not depend on them.

        Raises:
            EgoctlError: as load_teacher.
        """
        return _FromFrames(load_teacher(self.name, weights="random:0", device=device))

    def inputs(self, batch_size: int) -> tuple[Tensor, ...]:
        """Frames (B, T, H, W, 3), uint8; not equal, as a teacher may compute equal ones once."""
        spec = teacher_spec(self.name)
        size = (batch_size, spec.num_frames, spec.crop_px, spec.crop_px, 3)
        generator = torch.Generator().manual_seed(0)
        return (torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),)


class _FromFrames(WholeTeacher):
    """Normalises, too: a student's image encoder does."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher)
        self.eval()

    def forward(self, frames_BTHWC: Tensor) -> Tensor:
        return super().forward(normalise(frames_BTHWC, self.teacher.spec))
