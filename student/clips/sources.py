"""Where a run's clips come from: its manifest and stores, opened, and the splits read of them."""

import dataclasses
from dataclasses import dataclass

import torch

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.teacher_columns import TeacherColumns, columns_in
from egoctl.student.clips.clip_set import ClipSet, read_clips
from egoctl.student.clips.frames import FrameLoader
from egoctl.student.clips.image_features import features_for
from egoctl.student.model.student import Student
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.settings.train_config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """A run's manifest and stores, opened."""

    manifest: Manifest
    inputs: FeatureStore
    teacher: FeatureStore | None

    def teacher_columns(self) -> TeacherColumns | None:
        """Which of the teacher's logits are the manifest's classes; None without a teacher."""
        if self.teacher is None:
            return None
        return columns_in(self.teacher, self.manifest.class_names)


def open_sources(config: TrainConfig) -> Sources:
    """Manifest and stores of the config.

    Raises:
        EgoctlError: if one of them is not there.
    """
    return Sources(
        manifest=read_manifest(config.manifest),
        inputs=FeatureStore.open(config.inputs),
        teacher=None if config.teacher is None else FeatureStore.open(config.teacher),
    )


def resolved_student(config: TrainConfig, sources: Sources) -> StudentConfig:
    """The student with the data's own sizes.

    Raises:
        EgoctlError: if the manifest has no classes.
        StoreMismatchError: if KD is asked for and the teacher knows other classes.
    """
    names = sources.manifest.class_names
    if not names:
        raise EgoctlError(
            f"{config.manifest} has no classes, so there is nothing to classify. Write a label "
            "for every segment into an ANN.csv, and make a manifest of it with 'egoctl manifest "
            "build folder ANN.csv'."
        )
    imu_shape, _ = sources.inputs.array_specs().get("imu", ((0, config.student.imu_samples), ""))
    shape = dataclasses.replace(
        config.student,
        num_classes=len(names),
        imu_samples=imu_shape[1],
    )
    if sources.teacher is None:
        return shape
    specs = sources.teacher.array_specs()
    if config.effective_loss.alpha > 0 and "logits" not in specs:
        raise StoreMismatchError(
            f"KD needs logits, and {sources.teacher.url} holds features only: its teacher has no "
            "classes. Pass --alpha 0 to learn from labels and L1 only."
        )
    columns = sources.teacher_columns()
    if config.effective_loss.alpha > 0 and columns is not None and columns.columns_C is None:
        raise StoreMismatchError(
            f"KD needs the same classes in {config.manifest} and in {sources.teacher.url}: "
            f"{columns.reason}. Pass --alpha 0 to learn from labels and L1 only."
        )
    return dataclasses.replace(shape, teacher_dim=specs["feature"][0][1])


def read_train_clips(config: TrainConfig, sources: Sources) -> ClipSet:
    """The train split; targets only for a method that distills, labels required for the others."""
    distills = config.student.parts.distills
    return read_clips(
        sources.manifest,
        config.train_split,
        method=config.student.parts,
        num_frames=config.student.num_frames,
        inputs=sources.inputs,
        teacher=sources.teacher if distills else None,
        logit_columns=_logit_columns(sources),
        needs_targets=distills,
        needs_labels=not distills,
        allow_missing=config.allow_missing,
        cache_frames=config.cache_frames,
        # Random ones are drawn from all of them, every epoch.
        frame_selection=(
            "all" if config.student.frame_selection == "random" else config.student.frame_selection
        ),
    )


def read_heldout_clips(
    config: TrainConfig, sources: Sources, split: str, *, with_targets: bool
) -> ClipSet:
    """A split to evaluate on: clips without inputs are left out, those without targets are not."""
    return read_clips(
        sources.manifest,
        split,
        method=config.student.parts,
        num_frames=config.student.num_frames,
        inputs=sources.inputs,
        teacher=sources.teacher if with_targets else None,
        logit_columns=_logit_columns(sources),
        needs_targets=False,
        needs_labels=False,
        allow_missing=True,
        cache_frames=config.cache_frames,
        frame_selection=config.student.frame_selection,
        seed=config.seed,
    )


def _logit_columns(sources: Sources) -> tuple[int, ...] | None:
    columns = sources.teacher_columns()
    if columns is None or columns.columns_C is None:
        return ()
    # Cutting would copy them all.
    return None if columns.are_all else columns.columns_C


def with_image_features(
    clips: ClipSet, student: Student, config: TrainConfig, device: torch.device
) -> ClipSet:
    """The clips with a frozen encoder's features, computed here; every process computes all."""
    if student.image is None or clips.jpegs is None or not config.student.freeze_image_encoder:
        return clips
    feature_NFI = features_for(config, student.image, clips.jpegs, device=device)
    return dataclasses.replace(clips, image_feature_NFI=feature_NFI)


def frame_loader(
    clips: ClipSet, config: TrainConfig, device: torch.device, *, max_batch: int
) -> FrameLoader | None:
    """Decodes the clips' frames; None where the student sees none, or features of them."""
    if clips.jpegs is None or clips.image_feature_NFI is not None:
        return None
    return FrameLoader(
        clips.jpegs, max_batch=max_batch, num_workers=config.num_workers, device=device
    )
