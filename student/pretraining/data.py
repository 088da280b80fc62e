"""Data of pretraining: the clips of some splits, and image features of a few of their frames.

No label is looked at: splits may be unlabelled, and labels may change under a run.
"""

# N clips, B clips of a batch, K stored frames of a clip, P of them that are encoded, F frames the
# student sees, I image feature width, W IMU samples, A IMU axes (6), D teacher feature width

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.clip_set import ClipSet, read_clips
from egoctl.student.clips.image_features import features_for
from egoctl.student.clips.jpegs import StoredJpegs
from egoctl.student.model.frame_selection import selected_frames
from egoctl.student.model.image_encoder import ImageEncoder
from egoctl.student.model.student_config import METHODS, StudentConfig
from egoctl.student.settings.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainSources:
    """Where the data come from."""

    manifest: Manifest
    inputs: FeatureStore
    teacher: FeatureStore | None
    """None: L1 takes no part."""

    @property
    def num_stored_frames(self) -> int:
        """Frames that the inputs store has of every clip."""
        shape, _ = self.inputs.array_specs()["frames"]
        return shape[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainClips:
    """The usable clips of some splits, in the manifest's order within each."""

    clip_ids: tuple[str, ...]
    imu_NWA: Tensor
    feature_ND: Tensor | None
    """The teacher's, raw; None without L1."""
    left_out: Mapping[str, int]
    """Clips per reason."""
    digests: Mapping[str, str]
    """Digests of the clip ids, and of the rows read from each store, per split."""

    def __len__(self) -> int:
        return len(self.clip_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedClips:
    """Clips with the image features of the frames that the losses look at."""

    clips: PretrainClips
    feature_NPI: Tensor
    """float32 on the CPU; the first and the last of P are the clip's, if NCE is asked for."""
    picked_P: NDArray[np.int64]
    """Which of the stored frames they are of, in time order."""
    num_stored: int
    """Frames of a clip in the store."""


def open_pretrain_sources(config: PretrainConfig) -> PretrainSources:
    """Manifest and stores of the config.

    Raises:
        EgoctlError: if one of them is not there, or NCE has no first and last frame.
    """
    sources = PretrainSources(
        manifest=read_manifest(config.manifest),
        inputs=FeatureStore.open(config.inputs),
        teacher=FeatureStore.open(config.teacher) if config.teacher and config.uses_l1 else None,
    )
    if config.uses_nce and sources.num_stored_frames < 2:
        raise EgoctlError(
            f"NCE compares a clip's first and last frame, and {sources.inputs.url} holds one frame "
            "of each clip. Extract an inputs store with --frames 3, or pass --losses l1."
        )
    return sources


def shape_of(config: PretrainConfig, sources: PretrainSources) -> StudentConfig:
    """The student with the data's own sizes, but for num_classes, which plays no part."""
    imu_shape, _ = sources.inputs.array_specs()["imu"]
    shape = dataclasses.replace(config.student, imu_samples=imu_shape[1])
    if sources.teacher is None:
        return shape
    feature_shape, _ = sources.teacher.array_specs()["feature"]
    return dataclasses.replace(shape, teacher_dim=feature_shape[1])


def read_pretrain_clips(
    config: PretrainConfig, sources: PretrainSources, splits: Sequence[str]
) -> PretrainClips:
    """Clips that have frames, IMU and, for L1, a target; the others are counted.

    Raises:
        EgoctlError: if a split is empty, or clips are not extracted yet (unless allow_missing).
        StoreMismatchError: if a store is of the wrong kind, or holds other clips than these.
    """
    parts = [_read_split(config, sources, split) for split in splits]
    clip_ids = tuple(clip.clip_id for part in parts for clip in part.clips)
    left_out: Counter[str] = Counter()
    digests = {"clips": blake3("\n".join(clip_ids).encode()).hexdigest()}
    for split, part in zip(splits, parts, strict=True):
        left_out.update(part.left_out_by_reason())
        # Not the digest called clips: labels are in it.
        digests |= {
            f"{split} {kind}": part.digests[kind] for kind in part.digests.keys() - {"clips"}
        }
    return PretrainClips(
        clip_ids=clip_ids,
        imu_NWA=torch.cat([part.imu_NWA for part in parts if part.imu_NWA is not None]),
        feature_ND=_joined([part.feature_ND for part in parts]),
        left_out=dict(left_out.most_common()),
        digests=digests,
    )


def _read_split(config: PretrainConfig, sources: PretrainSources, split: str) -> ClipSet:
    return read_clips(
        sources.manifest,
        split,
        # Frames are read for encoding alone, and not kept.
        method=METHODS["imuonly-distill"],
        num_frames=config.student.num_frames,
        inputs=sources.inputs,
        teacher=sources.teacher,
        needs_targets=config.uses_l1,
        needs_labels=False,
        allow_missing=config.allow_missing,
        logit_columns=(),
    )


def _joined(values: Sequence[Tensor | None]) -> Tensor | None:
    there = [value for value in values if value is not None]
    return torch.cat(there) if there else None


def encode_clips(
    clips: PretrainClips,
    encoder: ImageEncoder,
    config: PretrainConfig,
    sources: PretrainSources,
    device: torch.device,
) -> EncodedClips:
    """Every frame that any epoch looks at goes through the frozen encoder once, here.

    Raises:
        EgoctlError: if the store does not hold the frames that the student sees.
        StoreError: if a frame cannot be decoded.
    """
    picked_P = _frames_to_encode(config, sources.num_stored_frames)
    row_of = pl.DataFrame({"clip_id": clips.clip_ids}, schema={"clip_id": pl.String}).join(
        sources.inputs.rows(), on="clip_id", how="left", maintain_order="left"
    )
    jpegs = StoredJpegs(
        sources.inputs.url, row_of["row"].to_numpy(), np.tile(picked_P, (len(clips), 1))
    )
    return EncodedClips(
        clips=clips,
        feature_NPI=features_for(config, encoder, jpegs, device=device),
        picked_P=picked_P,
        num_stored=sources.num_stored_frames,
    )


def _frames_to_encode(config: PretrainConfig, num_stored: int) -> NDArray[np.int64]:
    if config.uses_l1 and config.student.frame_selection == "random":
        return np.arange(num_stored)
    ends = [0, num_stored - 1] if config.uses_nce else []
    if not config.uses_l1:
        return np.array(ends)
    seen_1F = _seen_frames(config, num_stored, num_clips=1, epoch=0)
    return np.unique([*ends, *seen_1F[0].tolist()])


def _seen_frames(
    config: PretrainConfig, num_stored: int, *, num_clips: int, epoch: int
) -> NDArray[np.int64]:
    return selected_frames(
        config.student.frame_selection,
        num_frames=config.student.num_frames,
        num_stored=num_stored,
        num_clips=num_clips,
        seed=config.seed,
        epoch=epoch,
    )


def seen_of_encoded(encoded: EncodedClips, config: PretrainConfig, *, epoch: int) -> Tensor:
    """(N, F) which of the P encoded frames the student sees in that epoch; (N, 0) without L1."""
    num_clips = len(encoded.clips)
    if not config.uses_l1:
        return torch.zeros(num_clips, 0, dtype=torch.int64)
    seen_NF = _seen_frames(config, encoded.num_stored, num_clips=num_clips, epoch=epoch)
    return torch.from_numpy(np.searchsorted(encoded.picked_P, seen_NF))
