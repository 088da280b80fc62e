"""Pretrain the IMU encoder and the fusion without labels (EgoDistill, arXiv:2301.02217, sec. 3.4).

NCE: the image features of the first and the last frame are to predict the clip's IMU feature, among
those of the batch's other clips. L1: the fusion's output is to be the teacher's feature.

As in training, an epoch's randomness comes from (seed, epoch): a run that was killed and went on
ends with the same weights (on a CPU, bit by bit).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric

from egoctl.pipeline.devices import fabric_on
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import load_weights
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import LoopConfig
from egoctl.pipeline.runs.run_folder import RunFolder, opened_run_folder
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.student.model.student import Student, build_student, set_statistics
from egoctl.student.model.student_config import StudentConfig
from egoctl.student.pretraining.data import (
    PretrainClips,
    PretrainSources,
    encode_clips,
    open_pretrain_sources,
    read_pretrain_clips,
    shape_of,
)
from egoctl.student.pretraining.net import build_pretrain_net
from egoctl.student.pretraining.pretrain_method import PretrainMethod, PretrainMetrics
from egoctl.student.runs.pretrained_file import PRETRAINED_FILE, MadeFor, write_pretrained
from egoctl.student.runs.run_record import with_defaults
from egoctl.student.settings.pretrain_config import MAY_DIFFER, PretrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult:
    """Summary of a pretraining run."""

    run: str
    file: str
    """For train-student --pretrain; the run does as well."""
    epochs_done: int
    best_epoch: int
    """Epoch of the lowest loss on the val split; without one, the last."""
    last: PretrainMetrics | None
    """None if there was nothing left to do."""
    num_clips: int
    left_out: Mapping[str, int]
    """Clips that were not used, by reason."""

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.run}: {self.epochs_done} epochs on {self.num_clips} clips."
        if self.left_out:
            listed = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            yield f"Left out, clips: {listed}."
        if self.last is None:
            yield "Nothing was left to do."
        elif self.last.val_loss is None:
            yield "No val split, so the last epoch counts as the best."
        yield f"Epoch {self.best_epoch} is in {self.file}, for 'train-student --pretrain'."


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Pretrain, or go on with, the run at config.run.

    Raises:
        EgoctlError: for stores, manifest, run folder or device that do not fit the config, or
            if the loss or the weights are no longer finite.
    """
    fabric = fabric_on(
        device=config.device, num_devices=config.num_devices, precision=config.precision
    )
    fabric.launch()
    if config.batch_size % fabric.world_size:
        raise EgoctlError(
            f"a batch of {config.batch_size} clips cannot be shared equally by "
            f"{fabric.world_size} processes; pass a --batch-size that can."
        )
    with opened_run_folder(config.run, is_writer=fabric.is_global_zero) as folder:
        return _pretrain_in(folder, fabric, config)


def _pretrain_in(folder: RunFolder, fabric: Fabric, config: PretrainConfig) -> PretrainResult:
    sources = open_pretrain_sources(config)
    shape = shape_of(config, sources)
    clips = read_pretrain_clips(config, sources, config.splits)
    if len(clips) < config.batch_size:
        raise EgoctlError(
            f"split {','.join(config.splits)} has {len(clips)} usable clips (left out: "
            f"{dict(clips.left_out)}), fewer than a batch of {config.batch_size}: batches are "
            "whole, as the others in it are a clip's negatives. Pass a smaller --batch-size."
        )
    val_clips = None
    if any(segment.split == config.val_split for segment in sources.manifest.segments):
        val_clips = read_pretrain_clips(config, sources, (config.val_split,))
    student = build_student(shape, seed=config.seed)
    assert student.image is not None, "the config has checked that"
    made_for = _made_for(config, shape, sources, student)
    folder.claim(
        _record(config, made_for, sources, clips, val_clips),
        may_differ=MAY_DIFFER,
        completed=_with_later_settings,
    )
    folder.publish()
    folder.say(f"{config.losses}: {len(clips)} clips of split {','.join(config.splits)}")
    for each in (clips, val_clips):
        for reason, count in (each.left_out if each else {}).items():
            folder.say(f"left out: {count} clips ({reason})")
    net = build_pretrain_net(
        student, uses_nce=config.uses_nce, uses_l1=config.uses_l1, seed=config.seed
    )
    encoded = encode_clips(clips, student.image, config, sources, fabric.device)
    val = None
    if val_clips is not None and len(val_clips) >= 2 and fabric.is_global_zero:
        val = encode_clips(val_clips, student.image, config, sources, fabric.device)
    scales_targets = config.uses_l1 and config.standardise_targets
    # A student takes them over with the weights.
    set_statistics(net, encoded.feature_NPI, clips.feature_ND if scales_targets else None)
    method = PretrainMethod(fabric, config, net, encoded, val)
    loop = EpochLoop(fabric, folder, LoopConfig.of(config), method)
    last = loop.run()
    best = folder.path / CHECKPOINTS / "best"
    if folder.is_writer:
        weights = load_weights(best, where=folder.run.name_of(best))
        write_pretrained(folder.path / PRETRAINED_FILE, weights, made_for)
    return PretrainResult(
        run=folder.run.url,
        file=folder.run.name_of(folder.path / PRETRAINED_FILE),
        epochs_done=loop.state.epochs_done,
        best_epoch=loop.state.best_epoch,
        last=last,
        num_clips=len(clips),
        left_out=clips.left_out,
    )


def _made_for(
    config: PretrainConfig, shape: StudentConfig, sources: PretrainSources, student: Student
) -> MadeFor:
    assert student.image is not None
    teacher = sources.teacher
    return MadeFor(
        imu_out=shape.imu_out,
        imu_readout=shape.imu_readout,
        imu_samples=shape.imu_samples,
        num_frames=shape.num_frames,
        fusion_hidden=shape.fusion_hidden,
        image_encoder=shape.image_encoder,
        image_weights=student.image.weights_digest(),
        teacher_dim=None if teacher is None else shape.teacher_dim,
        teacher=None if teacher is None else teacher.header.fingerprint,
        standardise_targets=None if teacher is None else config.standardise_targets,
    )


def _record(
    config: PretrainConfig,
    made_for: MadeFor,
    sources: PretrainSources,
    clips: PretrainClips,
    val_clips: PretrainClips | None,
) -> dict[str, Any]:
    """Content of config.json: the settings, and digests of the data."""
    return {
        "pretrain": config.to_json(),
        "made_for": dataclasses.asdict(made_for),
        "digests": {
            "train": dict(clips.digests),
            "val": None if val_clips is None else dict(val_clips.digests),
        },
        "fingerprints": {
            "inputs": sources.inputs.header.fingerprint,
            "teacher": made_for.teacher,
        },
    }


def _with_later_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the defaults of settings that its egoctl did not have yet."""
    of_run = with_defaults(PretrainConfig, record.get("pretrain", {}))
    of_student = with_defaults(StudentConfig, of_run.get("student", {}))
    return {**record, "pretrain": of_run | {"student": of_student}}
