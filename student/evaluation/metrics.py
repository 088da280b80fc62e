"""The numbers of an evaluation: the student's answers against labels, and beside the teacher's."""

# N clips, S segments, D teacher feature width, C classes

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import Sources
from egoctl.student.evaluation.predict import (
    Predictions,
    centre_clips,
    mean_over_segments,
    segment_labels,
    top_k,
)
from egoctl.student.evaluation.teacher_memory import TeacherMemory, teacher_memory
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.model.student_config import StudentConfig

ImuFrom = Literal["own", "other", "zero"]
NO_CLIP = "no usable clip"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassMetrics:
    """One class of the per-class table; shares of 1 over its labelled segments with a clip."""

    name: str
    num_segments: int
    top1: float
    teacher_top1: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What evaluate found. Accuracies and agreement are shares of 1; None: not known."""

    method: str
    split: str
    imu: ImuFrom
    num_segments: int
    """All segments of the split; num_scored are labelled and have a usable clip."""
    num_scored: int
    num_clips: int
    top1: float | None
    """Per segment, softmax averaged over its clips."""
    top5: float | None
    """Within the five best classes; of five classes or fewer always right."""
    centre_clip_top1: float | None
    """Per segment, by the clip nearest to its middle alone."""
    common_top1: float | None
    """As top1, but from the clips with inputs, IMU and (if a teacher store is known) a target.

    These are the same for every method, whatever it looks at.
    """
    num_common: int
    """Segments that common_top1 is over."""
    feature_l1: float | None
    """Mean over clips of the L1 norm to the teacher's feature, in its units."""
    feature_cosine: float | None
    num_target_clips: int
    """Clips with a stored teacher target; the two fields above are over them."""
    agreement: float | None
    """Share of the num_teacher_segments where student and teacher name the same class."""
    teacher_top1: float | None
    teacher_top5: float | None
    num_teacher_segments: int
    """Segments with a clip that has a target."""
    num_teacher_scored: int
    """Segments with a target and a label; the teacher's top1 and top5 are over these."""
    teacher_memory: TeacherMemory | None
    """What of the split the teacher had seen; None: no teacher, or its store does not record it."""
    left_out: Mapping[str, int]
    """Segments without a score, by reason."""
    clips_left_out: Mapping[str, int]
    per_class: tuple[ClassMetrics, ...]


def teacher_segments(clips: ClipSet) -> Tensor | None:
    """(S, C) the teacher's mean softmax over the manifest's classes alone, however many it knows.

    NaN rows without target, None if its classes are not the manifest's.
    """
    if clips.logits_NC is None:
        return None
    has = clips.has_target_N
    return mean_over_segments(
        clips.logits_NC[has].softmax(dim=1), clips.segment_N[has], len(clips.segments)
    )


def metrics_of(
    shape: StudentConfig,
    split: str,
    imu: ImuFrom,
    clips: ClipSet,
    predictions: Predictions,
    teacher_SC: Tensor | None,
    sources: Sources,
) -> Metrics:
    """All of them; teacher_SC as from teacher_segments."""
    label_S = segment_labels(clips)
    student_SC = mean_over_segments(
        predictions.probability_NC, clips.segment_N, len(clips.segments)
    )
    centre = centre_clips(clips)
    l1, cosine = _feature_distances(shape, clips, predictions)
    both_S = (
        torch.zeros(len(label_S), dtype=torch.bool)
        if teacher_SC is None
        else ~teacher_SC.isnan().any(dim=1)
    )
    agreement = None
    if teacher_SC is not None and both_S.any():
        agreement = float(
            (student_SC[both_S].argmax(dim=1) == teacher_SC[both_S].argmax(dim=1)).double().mean()
        )
    scored_S = (label_S != NO_LABEL) & ~student_SC.isnan().any(dim=1)
    trained_on = None if sources.teacher is None else sources.teacher.header.trained_on
    common_SC = mean_over_segments(
        predictions.probability_NC[clips.is_common_N],
        clips.segment_N[clips.is_common_N],
        len(clips.segments),
    )
    return Metrics(
        method=shape.method,
        split=split,
        imu=imu,
        num_segments=len(clips.segments),
        num_scored=int(scored_S.sum()),
        num_clips=len(clips),
        top1=top_k(student_SC, label_S, 1),
        top5=top_k(student_SC, label_S, 5),
        centre_clip_top1=top_k(predictions.probability_NC[centre], clips.label_N[centre], 1),
        common_top1=top_k(common_SC, label_S, 1),
        num_common=int((scored_S & ~common_SC.isnan().any(dim=1)).sum()),
        feature_l1=l1,
        feature_cosine=cosine,
        num_target_clips=int(clips.has_target_N.sum()),
        agreement=agreement,
        teacher_top1=None if teacher_SC is None else top_k(teacher_SC, label_S, 1),
        teacher_top5=None if teacher_SC is None else top_k(teacher_SC, label_S, 5),
        num_teacher_segments=int(both_S.sum()),
        num_teacher_scored=int((scored_S & both_S).sum()),
        teacher_memory=None
        if trained_on is None
        else teacher_memory(
            trained_on,
            clips.segments,
            label_S=label_S,
            scored_S=scored_S,
            student_SC=student_SC,
            teacher_SC=teacher_SC,
        ),
        left_out=_segments_left_out(clips),
        clips_left_out=clips.left_out_by_reason(),
        per_class=_per_class(
            sources.manifest.class_names, label_S, scored_S, student_SC, teacher_SC
        ),
    )


def _feature_distances(
    shape: StudentConfig, clips: ClipSet, predictions: Predictions
) -> tuple[float | None, float | None]:
    """(L1 norm, cosine) over the clips with a target; None for a method that learns no feature."""
    has = clips.has_target_N
    if not shape.parts.distills or clips.feature_ND is None or not has.any():
        return None, None
    student_ND, teacher_ND = predictions.feature_ND[has], clips.feature_ND[has]
    return (
        float((student_ND - teacher_ND).abs().sum(dim=1).mean()),
        float(F.cosine_similarity(student_ND, teacher_ND, dim=1).mean()),
    )


def _segments_left_out(clips: ClipSet) -> dict[str, int]:
    """Per reason, the segments without a score; the reason is that of the first clip lost."""
    reason_of: dict[str, str] = {}
    for item in clips.left_out:
        reason_of.setdefault(item.segment_id, item.reason)
    present = set(clips.segment_N.tolist())
    reasons = [
        reason_of.get(segment.segment_id, NO_CLIP) if index not in present else "no label"
        for index, segment in enumerate(clips.segments)
        if index not in present or segment.label is None
    ]
    return dict(Counter(reasons).most_common())


def _per_class(
    names: tuple[str, ...],
    label_S: Tensor,
    scored_S: Tensor,
    student_SC: Tensor,
    teacher_SC: Tensor | None,
) -> tuple[ClassMetrics, ...]:
    """Classes with at least one scored segment, in the order of their labels."""
    rows = []
    for label in sorted(set(label_S[scored_S].tolist())):
        mine = scored_S & (label_S == label)
        top1 = top_k(student_SC[mine], label_S[mine], 1)
        assert top1 is not None, "a scored segment has a label and no NaN"
        rows.append(
            ClassMetrics(
                name=names[label],
                num_segments=int(mine.sum()),
                top1=top1,
                teacher_top1=(
                    None if teacher_SC is None else top_k(teacher_SC[mine], label_S[mine], 1)
                ),
            )
        )
    return tuple(rows)
