"""Train a student from stored targets. The teacher itself is never loaded.

A run is a pure function of its config and its stores: every epoch's randomness comes from
(seed, epoch), and a checkpoint within an epoch keeps the state of the random numbers, so one that
was killed and went on ends with the same weights (on a CPU, bit by bit).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lightning_fabric import Fabric

from egoctl.pipeline.devices import fabric_on
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import LoopConfig
from egoctl.pipeline.runs.run_folder import RunFolder, opened_run_folder
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.sources import (
    Sources,
    open_sources,
    read_heldout_clips,
    read_train_clips,
    resolved_student,
    with_image_features,
)
from egoctl.student.evaluation.report import left_out_lines
from egoctl.student.model.student import Student, build_student, num_parameters, set_statistics
from egoctl.student.runs.pretrained_file import (
    Pretraining,
    initialise,
    read_pretraining,
    refuse_misfit,
)
from egoctl.student.runs.run_record import run_record, with_later_settings
from egoctl.student.runs.trained_clips import write_trained_clips
from egoctl.student.settings.train_config import MAY_DIFFER, TrainConfig
from egoctl.student.training.student_method import EpochMetrics, StudentMethod


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """Summary of a training run."""

    run: str
    epochs_done: int
    best_epoch: int
    best_top1: float | None
    """Top-1 on the val split; None without one (the best epoch is then the last)."""
    last: EpochMetrics | None
    """None if there was nothing left to do."""
    num_clips: int
    num_segments: int
    left_out: Mapping[str, int]
    """Train clips that were not used, by reason."""
    val_left_out: Mapping[str, int] | None = None
    """Val clips that were not used, by reason; None: the manifest has no val split."""


def train(config: TrainConfig) -> RunResult:
    """Train, or go on with, the run at config.run.

    Raises:
        EgoctlError: for stores, manifest, run folder or device that do not fit the config, or
            if the loss or the weights are no longer finite.
    """
    fabric = fabric_on(
        device=config.device, num_devices=config.num_devices, precision=config.precision
    )
    fabric.launch()
    with opened_run_folder(config.run, is_writer=fabric.is_global_zero) as folder:
        return _train_in(folder, fabric, config)


def _train_in(folder: RunFolder, fabric: Fabric, config: TrainConfig) -> RunResult:
    sources = open_sources(config)
    shape = resolved_student(config, sources)
    train_clips = read_train_clips(config, sources)
    if len(train_clips) < 2:
        raise EgoctlError(
            f"split {config.train_split!r} has {len(train_clips)} usable clips (left out: "
            f"{train_clips.left_out_by_reason()}); training needs at least 2."
        )
    val_clips = None
    if any(segment.split == config.val_split for segment in sources.manifest.segments):
        val_clips = read_heldout_clips(config, sources, config.val_split, with_targets=False)
    if not val_clips and config.early_stopping is not None:
        found = "the manifest has none"
        if val_clips is not None:
            found = f"no clip of it can be used (left out: {val_clips.left_out_by_reason()})"
        raise EgoctlError(
            f"--early-stopping looks at accuracy on split {config.val_split!r}, and {found}. "
            "Give it one, or train without --early-stopping."
        )
    student = build_student(shape, seed=config.seed)
    pretraining = _pretraining_for(student, config, sources)
    folder.claim(
        run_record(config, shape, sources, train_clips, val_clips, pretraining),
        may_differ=MAY_DIFFER,
        completed=with_later_settings,
    )
    if folder.is_writer:
        write_trained_clips(folder.path, train_clips)
    # At once, so that another run that is begun there finds this one.
    folder.publish()
    _describe(folder, student, train_clips, val_clips, sources)
    train_clips = with_image_features(train_clips, student, config, fabric.device)
    scales_targets = config.effective_loss.standardise_targets
    set_statistics(
        student,
        train_clips.image_feature_NFI,
        train_clips.feature_ND if scales_targets else None,
    )
    if pretraining is not None:
        # After the statistics: those that the fusion was pretrained with go with it.
        folder.say(initialise(student, pretraining))
    scored_clips = None
    if val_clips and fabric.is_global_zero:
        scored_clips = with_image_features(val_clips, student, config, fabric.device)
    method = StudentMethod(fabric, config, student, train_clips, scored_clips)
    loop = EpochLoop(fabric, folder, LoopConfig.of(config), method)
    last = loop.run()
    return RunResult(
        run=folder.run.url,
        epochs_done=loop.state.epochs_done,
        best_epoch=loop.state.best_epoch,
        best_top1=loop.state.best_top1,
        last=last,
        num_clips=len(train_clips),
        num_segments=len(set(train_clips.segment_N.tolist())),
        left_out=train_clips.left_out_by_reason(),
        val_left_out=None if val_clips is None else val_clips.left_out_by_reason(),
    )


def _pretraining_for(student: Student, config: TrainConfig, sources: Sources) -> Pretraining | None:
    """The weights that the student begins with, checked before the run folder is taken."""
    if config.pretrain is None:
        return None
    pretraining = read_pretraining(config.pretrain)
    teacher = sources.teacher if config.student.parts.distills else None
    refuse_misfit(
        student,
        pretraining,
        teacher=None if teacher is None else teacher.header.fingerprint,
        standardise_targets=config.effective_loss.standardise_targets,
    )
    return pretraining


def _describe(
    folder: RunFolder,
    student: Student,
    train_clips: ClipSet,
    val_clips: ClipSet | None,
    sources: Sources,
) -> None:
    folder.say(
        f"{student.config.method}: {num_parameters(student):,} parameters, "
        f"{len(train_clips)} clips of {len(train_clips.segments)} segments"
    )
    for clips in (train_clips, val_clips):
        if clips is not None:
            for reason, count in clips.left_out_by_reason().items():
                folder.say(f"left out of {clips.segments[0].split}: {count} clips ({reason})")
    columns = sources.teacher_columns()
    if train_clips.logits_NC is not None and columns is not None and not columns.are_all:
        folder.say(columns.line())


def run_lines(result: RunResult) -> Iterator[str]:
    """Summary of a run, for people."""
    yield (
        f"{result.run}: {result.epochs_done} epochs on {result.num_clips} clips of "
        f"{result.num_segments} segments."
    )
    yield from left_out_lines("train clips", result.left_out)
    if result.best_top1 is not None:
        yield f"Best on the val split: epoch {result.best_epoch}, top-1 {result.best_top1:.4f}."
    elif result.val_left_out is None:
        yield "No val split, so the last epoch counts as the best."
    else:
        yield from left_out_lines("val clips", result.val_left_out)
        yield "No clip of the val split could be scored, so the last epoch counts as the best."
    if result.last is None:
        yield "Nothing was left to do."
