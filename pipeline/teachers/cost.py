"""How large a teacher is, and what one clip costs it: counted on the network itself."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import Teacher


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherCost:
    """What fvcore counts; independent of the weights' values."""

    num_parameters: int
    gflops: float
    """Of one clip, 10^9, a multiply-add as one: the unit of the EgoDistill paper's table 3."""


def teacher_cost(name: str) -> TeacherCost:
    """The cost of the teacher of that name, with random weights on the CPU; takes seconds.

    Raises:
        EgoctlError: as load_teacher.
    """
    # Not on torch's meta device: fvcore traces, and tracing fails there.
    return measured_cost(load_teacher(name, weights="random:0", device=torch.device("cpu")))


def measured_cost(teacher: Teacher) -> TeacherCost:
    """The cost of a teacher on the CPU; parameters are those of modules that it has as attributes.

    Counted are, as in the paper, matrix products, convolutions, norms and attention; sums,
    activations and softmax are not.
    """
    with warnings.catch_warnings():
        # fvcore scripts a loss function on import, which torch no longer likes.
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        from fvcore.nn import FlopCountAnalysis

        spec = teacher.spec
        size = (1, 3, spec.num_frames, spec.crop_px, spec.crop_px)
        # Not zeros: a teacher may compute equal frames once.
        video_BCTHW = torch.rand(size, generator=torch.Generator().manual_seed(0))
        whole = _Whole(teacher)
        count = FlopCountAnalysis(whole, video_BCTHW)
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        count.tracer_warnings("none")
        count.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        count.set_op_handle("aten::_convolution_mode", _convolution_flops)
        count.set_op_handle("aten::baddbmm", _product_flops)
        with torch.inference_mode(), _attention_in_parts():
            total = float(count.total())
    return TeacherCost(
        num_parameters=sum(parameter.numel() for parameter in whole.parameters()),
        gflops=total / 1e9,
    )


class _Whole(nn.Module):
    """A teacher as one module, which fvcore wants."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        values = getattr(teacher, "__dict__", {}).values()
        self.parts = nn.ModuleList(value for value in values if isinstance(value, nn.Module))
        self.teacher = teacher  # a part as well, where it is a module itself

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        return self.teacher.logits(self.teacher.feature(video_BCTHW))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Without the one operator that torch makes of nn.MultiheadAttention: it is not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Multiply-adds of operators that fvcore has no count for; it hands over the traced values.


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of softmax(q k^T) v."""
    query, key, value = (_shape(item) for item in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _convolution_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of a convolution whose padding is a word, 'valid' or 'same'."""
    weight, found = _shape(inputs[1]), _shape(outputs[0])
    return math.prod(found) * math.prod(weight[1:])


def _product_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Of x + a b."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _shape(item: Any) -> list[int]:
    return [int(size) for size in item.type().sizes()]
