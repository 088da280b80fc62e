"""How large a teacher is, and what one clip costs it: counted on the network itself."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from egoctl.pipeline.flop_count import counted_gflops
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import Teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherCost:
    """What fvcore counts; independent of the weights' values."""

    num_parameters: int
    gflops: float
    """10^9 multiply-adds of one clip: the unit of the EgoDistill paper's table 3."""


def teacher_cost(name: str) -> TeacherCost:
    """The cost of the teacher of that name, with random weights on the CPU; takes seconds.

    Raises:
        EgoctlError: as load_teacher.
    """
    # Not on torch's meta device: fvcore traces, and tracing fails there.
    return measured_cost(load_teacher(name, weights="random:0", device=torch.device("cpu")))


def measured_cost(teacher: Teacher) -> TeacherCost:
    """The cost of a teacher on the CPU; parameters are those of modules that it has as attributes.

    What is counted: see counted_gflops.
    """
    spec = teacher.spec
    size = (1, 3, spec.num_frames, spec.crop_px, spec.crop_px)
    # Not zeros: a teacher may compute equal frames once.
    video_BCTHW = torch.rand(size, generator=torch.Generator().manual_seed(0))
    whole = WholeTeacher(teacher)
    return TeacherCost(
        num_parameters=sum(parameter.numel() for parameter in whole.parameters()),
        gflops=counted_gflops(whole, (video_BCTHW,)),
    )


class WholeTeacher(nn.Module):
    """A teacher as one module, which fvcore wants: normalised clips to logits."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        values = getattr(teacher, "__dict__", {}).values()
        self.parts = nn.ModuleList(value for value in values if isinstance(value, nn.Module))
        self.teacher = teacher  # a part as well, where it is a module itself

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.teacher.logits(self.teacher.feature(video_BCTHW))
