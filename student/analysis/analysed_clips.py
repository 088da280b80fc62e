"""A table of clips: how well features are reconstructed, how the head moved, who predicted what."""

# N clips, W IMU samples, A IMU axes (6), C classes

from dataclasses import dataclass

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.student.analysis.analysed_run import AnalysedRun
from egoctl.student.analysis.feature_space import l1_norms
from egoctl.student.model.losses import NO_LABEL

NUM_MOTION_GROUPS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipResult:
    """One clip; None: there is no label, target or IMU, or the teacher has other classes."""

    clip_id: str
    segment_id: str
    label: str | None
    predicted: str
    teacher_predicted: str | None
    other_predicted: str | None
    cosine: float | None
    l1_norm: float | None
    other_cosine: float | None
    accel_rms: float | None
    """m/s^2, of the three axes together, each without its mean over the clip."""
    gyro_rms: float | None
    """rad/s, likewise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionGroup:
    """Clips that are alike in how much the head turned."""

    gyro_rms_from: float
    gyro_rms_to: float
    num_clips: int
    cosine: float
    other_cosine: float | None


def clip_table(
    run: AnalysedRun, other: AnalysedRun | None, *, is_near: bool, other_is_near: bool
) -> pl.DataFrame:
    """A row per clip with ClipResult's fields; other has the same clips as run.

    is_near: the student was trained to be near the run's teacher.
    """
    clips, names = run.clips, run.class_names
    nothing: list[float | None] = [None] * len(clips)
    accel = gyro = nothing
    imu_NWA = clips.imu_NWA
    if imu_NWA is None and other is not None:
        imu_NWA = other.clips.imu_NWA
    if imu_NWA is not None:
        accel, gyro = (
            axes_NW3.square().sum(dim=2).mean(dim=1).sqrt().tolist()
            for axes_NW3 in (imu_NWA[..., :3], imu_NWA[..., 3:])
        )
    teacher: list[str | None] = [None] * len(clips)
    if clips.logits_NC is not None:
        teacher = _names(clips.logits_NC, names, clips.has_target_N)
    columns = {
        "clip_id": [clip.clip_id for clip in clips.clips],
        "segment_id": [clip.segment_id for clip in clips.clips],
        "label": [None if at == NO_LABEL else names[at] for at in clips.label_N.tolist()],
        "predicted": _names(run.probability_NC, names),
        "teacher_predicted": teacher,
        "other_predicted": nothing if other is None else _names(other.probability_NC, names),
        "cosine": _cosines(run.feature_ND, clips.feature_ND) if is_near else nothing,
        "l1_norm": _distances(run.feature_ND, clips.feature_ND) if is_near else nothing,
        "other_cosine": (
            _cosines(other.feature_ND, clips.feature_ND)
            if other is not None and other_is_near
            else nothing
        ),
        "accel_rms": accel,
        "gyro_rms": gyro,
    }
    text = ("clip_id", "segment_id", "label", "predicted", "teacher_predicted", "other_predicted")
    schema = {name: pl.String if name in text else pl.Float64 for name in columns}
    return pl.DataFrame(columns, schema=schema)


def best_and_worst(
    table: pl.DataFrame, *, at_most: int
) -> tuple[tuple[ClipResult, ...], tuple[ClipResult, ...]]:
    """The clips with the largest and with the smallest cosine, one of each segment at most.

    With few segments the two do not overlap: half of them are best, half worst.
    """
    ranked = table.drop_nulls("cosine").sort("cosine", "l1_norm", descending=[True, False])
    # A segment's clips look alike: its best clip represents it, or its worst.
    best = ranked.unique("segment_id", keep="first", maintain_order=True)
    worst = ranked.reverse().unique("segment_id", keep="first", maintain_order=True)
    count = min(at_most, len(best) // 2)
    return _results(best.head(count)), _results(worst.head(count))


def _results(table: pl.DataFrame) -> tuple[ClipResult, ...]:
    return tuple(ClipResult(**row) for row in table.iter_rows(named=True))


def by_motion(table: pl.DataFrame) -> tuple[MotionGroup, ...]:
    """Groups of equally many clips, from still heads to fast ones; () with fewer clips than 4."""
    sorted_by = table.drop_nulls(["cosine", "gyro_rms"]).sort("gyro_rms", "clip_id")
    if len(sorted_by) < NUM_MOTION_GROUPS:
        return ()
    edges = [round(len(sorted_by) * n / NUM_MOTION_GROUPS) for n in range(NUM_MOTION_GROUPS + 1)]
    groups = []
    for start, stop in zip(edges, edges[1:], strict=False):
        here = sorted_by[start:stop]
        others = here["other_cosine"].to_list()
        groups.append(
            MotionGroup(
                gyro_rms_from=float(here["gyro_rms"][0]),
                gyro_rms_to=float(here["gyro_rms"][-1]),
                num_clips=len(here),
                cosine=_mean(here["cosine"].to_list()),
                other_cosine=None if None in others else _mean(others),
            )
        )
    return tuple(groups)


def _names(
    score_NC: Tensor, names: tuple[str, ...], has_N: Tensor | None = None
) -> list[str | None]:
    there = [True] * len(score_NC) if has_N is None else has_N.tolist()
    answers = score_NC.nan_to_num().argmax(dim=1).tolist()
    return [names[answer] if has else None for answer, has in zip(answers, there, strict=True)]


def _cosines(student_ND: Tensor, teacher_ND: Tensor | None) -> list[float | None]:
    assert teacher_ND is not None, "only what has targets can be near them"
    return _without_nan(F.cosine_similarity(student_ND, teacher_ND, dim=1))


def _distances(student_ND: Tensor, teacher_ND: Tensor | None) -> list[float | None]:
    assert teacher_ND is not None, "only what has targets can be near them"
    return _without_nan(l1_norms(student_ND, teacher_ND))


def _without_nan(value_N: Tensor) -> list[float | None]:
    lost_N = torch.isnan(value_N).tolist()
    return [None if lost else value for value, lost in zip(value_N.tolist(), lost_N, strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
