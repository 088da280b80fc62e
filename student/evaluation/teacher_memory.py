"""How much of what a student is scored on its teacher had seen before.

A teacher answers well about clips that it was fitted to, and a student that learns its answers to
them looks better than either is on new footage.
"""

# S segments, C classes

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from egoctl.pipeline.records import Segment
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.student.evaluation.predict import top_k


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherMemory:
    """Accuracy on the scored segments that the teacher was fitted to, and on the others.

    Shares of 1; None: there is no such segment, or the teacher has no such classes.
    """

    dataset: str
    """What the teacher was fitted to ..."""
    num_segments: int
    """... and how much of it."""
    num_scored: int
    num_seen: int
    """Scored segments that it was fitted to any moment of, found by video_id and time."""
    share_seen: float | None
    top1_seen: float | None
    top1_unseen: float | None
    teacher_top1_seen: float | None
    teacher_top1_unseen: float | None


def teacher_memory(
    trained_on: TrainedOn,
    segments: Sequence[Segment],
    *,
    label_S: Tensor,
    scored_S: Tensor,
    student_SC: Tensor,
    teacher_SC: Tensor | None,
) -> TeacherMemory:
    """Over the scored segments; student_SC and teacher_SC are their probabilities."""
    seen_S = scored_S & torch.tensor([trained_on.saw(s) for s in segments], dtype=torch.bool)
    unseen_S = scored_S & ~seen_S
    num_scored, num_seen = int(scored_S.sum()), int(seen_S.sum())

    def top1(of_SC: Tensor | None, where_S: Tensor) -> float | None:
        return None if of_SC is None else top_k(of_SC[where_S], label_S[where_S], 1)

    return TeacherMemory(
        dataset=trained_on.dataset,
        num_segments=trained_on.num_segments,
        num_scored=num_scored,
        num_seen=num_seen,
        share_seen=num_seen / num_scored if num_scored else None,
        top1_seen=top1(student_SC, seen_S),
        top1_unseen=top1(student_SC, unseen_S),
        teacher_top1_seen=top1(teacher_SC, seen_S),
        teacher_top1_unseen=top1(teacher_SC, unseen_S),
    )
