"""Fit a teacher to the labels of a manifest.

Every step's randomness comes from the seed, the epoch and the step, so a run that was killed and
went on ends with the same weights (on a CPU, bit by bit).
"""

import dataclasses
import shutil
from collections.abc import Sequence

from lightning_fabric import Fabric

from egoctl.pipeline.devices import fabric_on, pick_device, resolved_precision
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import is_remote
from egoctl.pipeline.files.whole_file import whole_file
from egoctl.pipeline.finetuning.clips import Example, examples_of, train_examples
from egoctl.pipeline.finetuning.config import FinetuneConfig
from egoctl.pipeline.finetuning.feed import FeedPlan
from egoctl.pipeline.finetuning.finetune_method import FinetuneMethod
from egoctl.pipeline.finetuning.older_run import OLDER_BEST, older_checkpoint
from egoctl.pipeline.finetuning.report import FinetuneReport, caveats
from egoctl.pipeline.finetuning.trainee import as_trainable, checkpoint_blocks, fit_of, set_classes
from egoctl.pipeline.manifest import Manifest, read_manifest
from egoctl.pipeline.precision import FABRIC_PRECISION
from egoctl.pipeline.reading.clip_job import teacher_view
from egoctl.pipeline.runs.checkpoint import find_checkpoint, load_weights
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.runs.method import LoopConfig
from egoctl.pipeline.runs.run_folder import RunFolder, opened_run_folder
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import TrainableTeacher
from egoctl.pipeline.trained_on import TrainedOn

WEIGHTS_FILE = "teacher.safetensors"


def finetune(config: FinetuneConfig) -> FinetuneReport | None:
    """Fit, or go on with, the run at config.run; None in processes other than the first.

    Raises:
        EgoctlError: for a manifest, weights, run folder or device that do not fit the config, or
            if the loss is no longer finite.
    """
    precision = resolved_precision(config.precision, pick_device(config.device))
    fabric = fabric_on(
        device=config.device,
        num_devices=config.num_devices,
        precision=FABRIC_PRECISION[precision],
    )
    fabric.launch()
    if is_remote(config.run):
        raise EgoctlError(f"--run {config.run}: give a folder on this machine.")
    with opened_run_folder(config.run, is_writer=fabric.is_global_zero) as folder:
        return _finetune_in(folder, fabric, config, precision)


def _finetune_in(
    folder: RunFolder, fabric: Fabric, config: FinetuneConfig, precision: str
) -> FinetuneReport | None:
    manifest = read_manifest(config.manifest)
    train = train_examples(manifest, config.train_split)
    held_out = examples_of(manifest, config.val_split)
    teacher = as_trainable(
        load_teacher(config.teacher, weights=config.weights, device=fabric.device)
    )
    plan = FeedPlan(
        config=config,
        view=teacher_view(teacher.spec, manifest.window_s),
        window_s=manifest.window_s,
        sides_px=config.augment.sides_px(teacher.spec.crop_px),
        train=train,
        held_out=held_out[fabric.global_rank :: fabric.world_size],
    )
    record = {
        **config.identity(),
        "precision": precision,
        "short_sides_px": plan.sides_px,
        "teacher": teacher.spec.name,
        "weights_sha256": teacher.weights.sha256,
        "manifest_fingerprint": manifest.fingerprint(),
    }
    folder.claim(record, may_differ=frozenset())
    is_new_head = set_classes(teacher, manifest.class_names, seed=config.seed)
    fit = fit_of(teacher, head_only=config.head_only)
    if fit.front is not None and fabric.world_size > 1:
        raise EgoctlError(
            "what is frozen here is computed once and kept in one process's memory; "
            "pass --devices 1."
        )
    count = sum(parameter.numel() for parameter in fit.trainee.parameters())
    folder.say(
        f"{teacher.spec.name} with {'a new head' if is_new_head else 'its own head'} of "
        f"{len(manifest.class_names)} classes: {count:,} parameters to train, {len(train)} "
        f"segments, {len(held_out)} held out, in {precision} on {fabric.device}"
    )
    labels = {example.label for example in train}
    for line in caveats(teacher.weights, manifest.class_names, labels):
        folder.say(line)
    if config.checkpoint_gradients:
        num_blocks = 0 if config.head_only else checkpoint_blocks(teacher.body)
        folder.say(
            f"{num_blocks} blocks are computed again in the backward pass"
            if num_blocks
            else "gradient checkpointing: not available, nothing trained is made of blocks"
        )
    method = FinetuneMethod(fabric, plan, fit, teacher.spec)
    settings = dataclasses.replace(LoopConfig.of(config), save_every_steps=config.save_every)
    loop = EpochLoop(fabric, folder, settings, method, older=older_checkpoint(folder.path))
    loop.run()
    if not folder.is_writer:
        return None
    _write_best(folder, teacher, method, manifest, train)
    return FinetuneReport(
        run=str(folder.path),
        weights=str(folder.path / WEIGHTS_FILE),
        teacher=teacher.spec.name,
        epochs_done=loop.state.epochs_done,
        best_epoch=loop.state.best_epoch,
        best_top1=loop.state.best_top1,
        num_segments=len(train),
        num_held_out=len(held_out),
        num_classes=len(manifest.class_names),
        unread=method.unread.reasons,
    )


def _write_best(
    folder: RunFolder,
    teacher: TrainableTeacher,
    method: FinetuneMethod,
    manifest: Manifest,
    train: Sequence[Example],
) -> None:
    """Write the best epoch's teacher for extraction to load."""
    best = find_checkpoint(folder.path / CHECKPOINTS / "best")
    with whole_file(folder.path / WEIGHTS_FILE) as part:
        if best is None:
            shutil.copyfile(folder.path / OLDER_BEST, part)
            return
        method.module.load_state_dict(load_weights(best, where=folder.run.name_of(best)))
        now = TrainedOn.of_segments(
            (example.segment for example in train), dataset=manifest.dataset_name
        )
        save_checkpoint(
            part,
            teacher.state(),
            class_names=manifest.class_names,
            trained_on=now.joined(teacher.weights.trained_on),
        )
