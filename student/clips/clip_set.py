"""A split in memory: the clips of a manifest joined with what two stores hold of them.

Training reads random clips thousands of times, a store gives whole shards: so everything a run
needs is read once, in bulk, and every clip that is left out is counted.
"""

# N clips, K stored frames of a clip, F frames the student sees, W IMU samples, A IMU axes (6)
# I image feature width, D teacher feature width, C classes

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import OK, Clip, Segment
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.jpegs import Jpegs, keep_jpegs
from egoctl.student.model.frame_selection import selected_frames
from egoctl.student.model.losses import NO_LABEL
from egoctl.student.model.student_config import FrameSelection, Method
from egoctl.student.settings.train_config import CacheFrames

MISSING = "not extracted yet"
TIME_TOLERANCE_S = 5e-7
"""Manifests and stores write six digits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A clip that cannot be used, and why."""

    clip_id: str
    segment_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSet:
    """The usable clips of one split, in the manifest's order."""

    segments: tuple[Segment, ...]
    """All segments of the split, also those without a usable clip."""
    clips: tuple[Clip, ...]
    segment_N: Tensor
    """Index into segments."""
    label_N: Tensor
    """NO_LABEL where the segment has none."""
    feature_ND: Tensor | None
    """The teacher's features, raw; NaN where has_target_N is False."""
    logits_NC: Tensor | None
    """The teacher's logits, raw, in the columns that were asked for; NaN likewise."""
    has_target_N: Tensor
    is_common_N: Tensor
    """Inputs, IMU and, given a teacher store, a target: any method could use the clip."""
    imu_NWA: Tensor | None
    jpegs: Jpegs | None
    image_feature_NFI: Tensor | None = None
    """Features from a frozen encoder; None: there is none, or they are not computed yet."""
    left_out: tuple[LeftOut, ...]
    digests: Mapping[str, str]
    """Digests of the clips and labels, and of the rows read from each store."""

    def __len__(self) -> int:
        return len(self.clips)

    def left_out_by_reason(self) -> dict[str, int]:
        """Clips per reason, the most frequent first."""
        return dict(Counter(item.reason for item in self.left_out).most_common())


def read_clips(
    manifest: Manifest,
    split: str,
    *,
    method: Method,
    num_frames: int,
    inputs: FeatureStore,
    teacher: FeatureStore | None,
    needs_targets: bool,
    needs_labels: bool,
    allow_missing: bool,
    cache_frames: CacheFrames = "ram",
    logit_columns: tuple[int, ...] | None = None,
    frame_selection: FrameSelection | Literal["all"] = "uniform",
    seed: int = 0,
) -> ClipSet:
    """The split's clips with the inputs that method looks at, and targets if teacher is given.

    Clips that failed, have no IMU where it is needed, no target where needs_targets, or no label
    where needs_labels are left out and listed. logit_columns: which of the teacher's logits, in
    which order; None: all as stored; (): none. seed: for random frames, which are drawn once here;
    to draw them anew every epoch, read all frames.

    Raises:
        EgoctlError: if the split is empty, clips are not extracted yet (unless allow_missing), or
            the frames that are asked for are not stored.
        StoreMismatchError: if a store is of the wrong kind, or holds other clips than these.
        StoreError: if a clip marked ok has values that are not finite.
    """
    segments = manifest.split(split)
    index_of = {segment.segment_id: index for index, segment in enumerate(segments)}
    clips = [clip for clip in manifest.clips() if clip.segment_id in index_of]
    labels = [segments[index_of[clip.segment_id]].label for clip in clips]

    found_inputs = _look_up(clips, inputs, kind="inputs")
    reasons = _reasons(found_inputs["outcome"], "inputs")
    imu_reasons = _reasons(found_inputs["imu_outcome"], "IMU")
    if method.uses_imu:
        reasons = _first(reasons, imu_reasons)
    target_reasons, target_rows = _look_up_targets(clips, teacher, found_inputs)
    if needs_targets:
        reasons = _first(reasons, target_reasons)
    if not allow_missing:
        _refuse_missing(reasons, split)
    if needs_labels:
        reasons = _first(reasons, ["no label" if label is None else None for label in labels])

    keep = np.array([index for index, reason in enumerate(reasons) if reason is None], np.int64)
    has_target = np.array([target_reasons[index] is None for index in keep], dtype=bool)
    has_imu = np.array([imu_reasons[index] is None for index in keep], dtype=bool)
    rows = found_inputs["row"].fill_null(-1).to_numpy()[keep]
    kept = tuple(clips[index] for index in keep)
    label_N = [NO_LABEL if (label := labels[index]) is None else label for index in keep]
    digests = {
        "clips": _digest([(clip.clip_id, label) for clip, label in zip(kept, label_N, strict=True)])
    }
    digests["inputs"] = inputs.digest_of(rows)
    feature_ND = logits_NC = imu_NWA = None
    if teacher is not None:
        feature_ND = _targets(teacher, "feature", target_rows[keep], kept, has_target)
        logits_NC = _logits(teacher, target_rows[keep], kept, has_target, logit_columns)
        digests["teacher"] = teacher.digest_of(target_rows[keep][has_target])
    if method.uses_imu:
        imu_NWA = _float32(inputs.read("imu", rows))
        _refuse_not_finite(imu_NWA.numpy(), kept, inputs, "imu")
    jpegs = None
    if method.uses_image:
        jpegs = keep_jpegs(
            inputs,
            rows,
            _picked_frames(inputs, rows, kept, num_frames, frame_selection, seed),
            cache_frames=cache_frames,
            digest=f"{digests['clips']} {digests['inputs']}",
        )
    return ClipSet(
        segments=segments,
        clips=kept,
        segment_N=torch.tensor([index_of[clip.segment_id] for clip in kept], dtype=torch.int64),
        label_N=torch.tensor(label_N, dtype=torch.int64),
        feature_ND=feature_ND,
        logits_NC=logits_NC,
        has_target_N=torch.from_numpy(has_target),
        is_common_N=torch.from_numpy(has_imu & (has_target | (teacher is None))),
        imu_NWA=imu_NWA,
        jpegs=jpegs,
        left_out=tuple(
            LeftOut(clip_id=clip.clip_id, segment_id=clip.segment_id, reason=reason)
            for clip, reason in zip(clips, reasons, strict=True)
            if reason is not None
        ),
        digests=digests,
    )


def _look_up(clips: list[Clip], store: FeatureStore, *, kind: str) -> pl.DataFrame:
    """The store's rows of these clips, in their order; nulls where it has none."""
    if store.header.kind != kind:
        raise StoreMismatchError(
            f"{store.url} is a store of kind {store.header.kind}, wanted {kind}. "
            "Check which path is the teacher's store and which the inputs'."
        )
    wanted = pl.DataFrame(
        {
            "clip_id": [clip.clip_id for clip in clips],
            "wanted_start_s": [clip.start_s for clip in clips],
            "wanted_stop_s": [clip.stop_s for clip in clips],
        },
        schema={"clip_id": pl.String, "wanted_start_s": pl.Float64, "wanted_stop_s": pl.Float64},
    )
    found = wanted.join(store.rows(), on="clip_id", how="left", maintain_order="left")
    moved = found.filter(
        ((pl.col("start_s") - pl.col("wanted_start_s")).abs() > TIME_TOLERANCE_S)
        | ((pl.col("stop_s") - pl.col("wanted_stop_s")).abs() > TIME_TOLERANCE_S)
    )
    if len(moved):
        row = moved.row(0, named=True)
        raise StoreMismatchError(
            f"clip {row['clip_id']!r} is [{row['wanted_start_s']}, {row['wanted_stop_s']}) s in "
            f"the manifest, but [{row['start_s']}, {row['stop_s']}) s in {store.url} "
            f"({len(moved)} clips differ). The store was made from another manifest."
        )
    return found


def _look_up_targets(
    clips: list[Clip], teacher: FeatureStore | None, found_inputs: pl.DataFrame
) -> tuple[list[str | None], NDArray[np.int64]]:
    """Per clip why it has no target, or None, and its row; -1 where there is none."""
    if teacher is None:
        return ["no teacher store"] * len(clips), np.full(len(clips), -1)
    found = _look_up(clips, teacher, kind="teacher")
    _check_same_videos(clips, found_inputs, found)
    return _reasons(found["outcome"], "teacher"), found["row"].fill_null(-1).to_numpy()


def _check_same_videos(clips: list[Clip], left: pl.DataFrame, right: pl.DataFrame) -> None:
    differ = (left["clip_key"] != right["clip_key"]).fill_null(False)
    if differ.any():
        first = clips[differ.arg_true()[0]]
        raise StoreMismatchError(
            f"the two stores saw other videos: clip {first.clip_id!r} of {first.video_id!r} has "
            f"two clip keys ({differ.sum()} clips differ). Extract both from the same files."
        )


def _reasons(outcomes: pl.Series, what: str) -> list[str | None]:
    return [
        None if outcome == OK else f"{what}: {MISSING if outcome is None else outcome}"
        for outcome in outcomes
    ]


def _first(left: list[str | None], right: list[str | None]) -> list[str | None]:
    return [a if a is not None else b for a, b in zip(left, right, strict=True)]


def _refuse_missing(reasons: list[str | None], split: str) -> None:
    counts = Counter(reason for reason in reasons if reason and reason.endswith(MISSING))
    if counts:
        listed = "; ".join(f"{reason} {count}" for reason, count in counts.items())
        raise EgoctlError(
            f"{sum(counts.values())} of {len(reasons)} clips of split {split!r} are missing "
            f"({listed}). Finish 'egoctl extract-teacher', or pass --allow-missing to go without."
        )


def _targets(
    store: FeatureStore,
    array: str,
    rows: NDArray[np.int64],
    clips: tuple[Clip, ...],
    is_there: NDArray[np.bool_],
) -> Tensor:
    read = _float32(store.read(array, rows[is_there]))
    there = tuple(clip for clip, has_row in zip(clips, is_there, strict=True) if has_row)
    _refuse_not_finite(read.numpy(), there, store, array)
    if is_there.all():
        return read
    out = torch.full((len(rows), *read.shape[1:]), torch.nan)
    out[torch.from_numpy(is_there)] = read
    return out


def _logits(
    store: FeatureStore,
    rows: NDArray[np.int64],
    clips: tuple[Clip, ...],
    is_there: NDArray[np.bool_],
    columns: tuple[int, ...] | None,
) -> Tensor | None:
    # A teacher without classes has features only.
    if "logits" not in store.array_specs() or columns == ():
        return None
    logits_NC = _targets(store, "logits", rows, clips, is_there)
    return logits_NC if columns is None else logits_NC[:, list(columns)]


def _refuse_not_finite(
    values: NDArray[Any], clips: tuple[Clip, ...], store: FeatureStore, array: str
) -> None:
    is_finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    bad = np.flatnonzero(~is_finite)
    if len(bad):
        raise StoreError(
            f"{store.url}: clip {clips[bad[0]].clip_id!r} is marked ok, but its {array} has values "
            f"that are not finite ({len(bad)} of {len(clips)} clips). "
            f"Run 'egoctl store verify {store.url}'."
        )


def _picked_frames(
    store: FeatureStore,
    rows: NDArray[np.int64],
    clips: tuple[Clip, ...],
    num_frames: int,
    selection: FrameSelection | Literal["all"],
    seed: int,
) -> NDArray[np.int64]:
    """(N, F) which of the stored frames are kept."""
    times_NK = store.read("frame_time", rows)
    _refuse_not_finite(times_NK, clips, store, "frame_time")
    num_clips, num_stored = times_NK.shape
    if selection == "all":
        return np.tile(np.arange(num_stored), (num_clips, 1))
    return selected_frames(
        selection,
        num_frames=num_frames,
        num_stored=num_stored,
        num_clips=num_clips,
        seed=seed,
        epoch=0,
    )


def _float32(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _digest(rows: list[tuple[str, int]]) -> str:
    digest = blake3()
    for clip_id, label in rows:
        digest.update(f"{clip_id}\t{label}\n".encode())
    return digest.hexdigest()
