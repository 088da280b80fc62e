"""Score a trained student on a split, beside its teacher, from the same stored targets."""

# N clips, S segments, D teacher feature width, C classes, W IMU samples, A IMU axes (6)

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.checkpoint import find_checkpoint, load_weights
from egoctl.student.data import ClipSet
from egoctl.student.losses import NO_LABEL
from egoctl.student.model import Student, StudentConfig, build_student
from egoctl.student.predict import (
    BATCH,
    Predictions,
    centre_clips,
    mean_over_segments,
    predict,
    segment_labels,
    top_k,
)
from egoctl.student.run_folder import write_json
from egoctl.student.run_record import read_run, refuse_other_data
from egoctl.student.split import (
    Sources,
    frame_loader,
    open_sources,
    read_heldout_clips,
    with_image_features,
)

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
    """What evaluate found. Accuracies and agreement are shares of 1; None: cannot be told."""

    method: str
    split: str
    imu: ImuFrom
    num_segments: int
    """Of the split; labelled and with a usable clip are num_scored."""
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
    """Clips whose teacher target is stored; the two lines above are over them."""
    agreement: float | None
    """Share of the num_teacher_segments where student and teacher name the same class."""
    teacher_top1: float | None
    teacher_top5: float | None
    num_teacher_segments: int
    """Segments with a clip that has a target."""
    num_teacher_scored: int
    """Those of them with a label: what the teacher's top1 and top5 are over."""
    left_out: Mapping[str, int]
    """Segments without a score, by reason."""
    clips_left_out: Mapping[str, int]
    per_class: tuple[ClassMetrics, ...]


def evaluate(
    run_dir: Path, *, split: str = "test", imu: ImuFrom = "own", device: str = "cpu"
) -> Metrics:
    """Score the run's best checkpoint; write predictions and metrics into the run's folder.

    imu: each clip's own; "other", that of a clip of another segment; "zero", none. The last two
    tell how much of an accuracy is the IMU's. They, and every split but "test", get files of
    their own (metrics-val-imu-other.json).

    Raises:
        EgoctlError: if there is no such run or split, or nothing in it can be used.
        StoreMismatchError: if manifest or stores are not those that the run was trained on.
    """
    if imu not in get_args(ImuFrom):
        raise EgoctlError(f"imu is own, other or zero, got {imu!r}.")
    record = read_run(run_dir)
    config, shape = record.train, record.student
    if imu != "own" and not shape.parts.uses_imu:
        raise EgoctlError(f"{run_dir}: {shape.method} has no IMU to exchange; use --imu own.")
    student = load_student(run_dir)
    sources = open_sources(config)
    refuse_other_data(run_dir, record, sources)
    clips = read_heldout_clips(config, sources, split, with_targets=True)
    if not len(clips):
        raise EgoctlError(
            f"split {split!r} has no usable clip (left out: {clips.left_out_by_reason()})."
        )
    student.to(device)
    data = with_image_features(clips, student, config, torch.device(device))
    predictions = predict(
        student,
        clips,
        loader=frame_loader(data, config, torch.device(device), max_batch=BATCH),
        image_feature_NFI=data.image_feature_NFI,
        imu_NWA=exchanged_imu(clips, imu, seed=config.seed),
        device=torch.device(device),
    )
    teacher_SC = _teacher_segments(clips, sources)
    metrics = _metrics(shape, split, imu, clips, predictions, teacher_SC, sources)
    suffix = _file_suffix(split, imu)
    _write_predictions(run_dir / f"predictions{suffix}.parquet", clips, predictions, teacher_SC)
    write_json(run_dir / f"metrics{suffix}.json", dataclasses.asdict(metrics))
    return metrics


def load_student(run_dir: Path) -> Student:
    """The run's best student (its last, while it trains without a val split), in eval mode.

    Raises:
        EgoctlError: if there is none, or its weights are damaged.
    """
    shape = read_run(run_dir).student
    for name in ("best", "last"):
        if found := find_checkpoint(run_dir / "checkpoints" / name):
            break
    else:
        raise EgoctlError(f"{run_dir} has no checkpoint yet. Go on with its training first.")
    # "random": all weights are in the checkpoint, nothing needs to be fetched.
    student = build_student(dataclasses.replace(shape, image_weights="random"), seed=0)
    try:
        student.load_state_dict(load_weights(found))
    except RuntimeError as error:
        raise EgoctlError(f"{found} does not fit the run's config: {error}") from error
    return student.eval()


def exchanged_imu(clips: ClipSet, imu: ImuFrom, *, seed: int) -> Tensor | None:
    """(N, W, A) the IMU each clip is shown; None if the method has none.

    "other" sends the segments round one random cycle, so none keeps its own.

    Raises:
        EgoctlError: for "other" with fewer than two segments.
    """
    if imu == "own" or clips.imu_NWA is None:
        return clips.imu_NWA
    if imu == "zero":
        return torch.zeros_like(clips.imu_NWA)
    clips_of: dict[int, list[int]] = {}
    for index, segment in enumerate(clips.segment_N.tolist()):
        clips_of.setdefault(segment, []).append(index)
    if len(clips_of) < 2:
        raise EgoctlError("--imu other needs at least two segments with clips.")
    present = sorted(clips_of)
    order = torch.randperm(len(present), generator=torch.Generator().manual_seed(seed)).tolist()
    source = torch.empty(len(clips), dtype=torch.int64)
    for place, here in enumerate(order):
        donors = clips_of[present[order[(place + 1) % len(order)]]]
        for number, index in enumerate(clips_of[present[here]]):
            source[index] = donors[number % len(donors)]
    return clips.imu_NWA[source]


def _file_suffix(split: str, imu: ImuFrom) -> str:
    # Quoted: a split's name may hold any characters, also a slash.
    of_split = "" if split == "test" else f"-{quote(split, safe='')}"
    return of_split + ("" if imu == "own" else f"-imu-{imu}")


def _teacher_segments(clips: ClipSet, sources: Sources) -> Tensor | None:
    """(S, C) the teacher's mean softmax; NaN rows without target, None if classes differ."""
    if clips.logits_NC is None or not sources.teacher_has_our_classes():
        return None
    has = clips.has_target_N
    return mean_over_segments(
        clips.logits_NC[has].softmax(dim=1), clips.segment_N[has], len(clips.segments)
    )


def _metrics(
    shape: StudentConfig,
    split: str,
    imu: ImuFrom,
    clips: ClipSet,
    predictions: Predictions,
    teacher_SC: Tensor | None,
    sources: Sources,
) -> Metrics:
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


def _write_predictions(
    file: Path, clips: ClipSet, predictions: Predictions, teacher_SC: Tensor | None
) -> None:
    """One row per segment with a clip, atomically."""
    student_SC = mean_over_segments(
        predictions.probability_NC, clips.segment_N, len(clips.segments)
    )
    rows = [
        {
            "segment_id": segment.segment_id,
            "label": segment.label,
            "predicted": int(student_SC[index].argmax()),
            "probabilities": student_SC[index].tolist(),
            "teacher_predicted": (
                None
                if teacher_SC is None or math.isnan(float(teacher_SC[index, 0]))
                else int(teacher_SC[index].argmax())
            ),
        }
        for index, segment in enumerate(clips.segments)
        if not math.isnan(float(student_SC[index, 0]))
    ]
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    pl.DataFrame(
        rows,
        schema={
            "segment_id": pl.String,
            "label": pl.Int64,
            "predicted": pl.Int64,
            "probabilities": pl.List(pl.Float32),
            "teacher_predicted": pl.Int64,
        },
    ).write_parquet(part)
    part.replace(file)
