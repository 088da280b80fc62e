"""Train a student from stored targets. The teacher itself is never loaded.

A run is a pure function of its config and its stores: every epoch's randomness comes from
(seed, epoch), so one that was killed and went on ends with the same weights (on a CPU, bit by bit).
"""

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import AdamW, Optimizer

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.checkpoint import (
    Checkpoint,
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from egoctl.student.data import ClipSet
from egoctl.student.epochs import batches_of, derived_seed, epoch_order
from egoctl.student.frames import FrameLoader, rows_on, to_device
from egoctl.student.losses import NO_LABEL, student_loss
from egoctl.student.model import Student, build_student, num_parameters
from egoctl.student.predict import BATCH, predict, segment_top1
from egoctl.student.run_folder import RunFolder
from egoctl.student.run_place import CHECKPOINTS, run_folder_at
from egoctl.student.run_record import run_record
from egoctl.student.schedule import learning_rate
from egoctl.student.split import (
    Sources,
    Split,
    frame_loader,
    open_sources,
    read_heldout_clips,
    read_train_clips,
    resolved_student,
    set_statistics,
    with_image_features,
)
from egoctl.student.train_clips import write_train_clips
from egoctl.student.train_config import MAY_DIFFER, TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One line of metrics.jsonl. Losses are means over clips; top-1 is a share of 1."""

    epoch: int
    """Counted from 1."""
    learning_rate: float
    loss: float
    kd: float
    gt: float
    l1: float
    train_top1: float | None
    """Per clip, in train mode; None without labels."""
    val_top1: float | None
    """Per segment; None without a val split."""
    clips_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What train has done."""

    run: str
    epochs_done: int
    best_epoch: int
    best_top1: float | None
    """On the val split; None without one (the best epoch is then the last)."""
    last: EpochMetrics | None
    """None if there was nothing left to do."""
    num_clips: int
    num_segments: int
    left_out: Mapping[str, int]
    """Train clips that were not used, by reason."""


def train(config: TrainConfig) -> RunResult:
    """Train, or go on with, the run at config.run.

    Raises:
        EgoctlError: for stores, manifest, run folder or device that do not fit the config, or
            if the loss or the weights are no longer finite.
    """
    _check_device(config)
    fabric = Fabric(
        accelerator=config.device, devices=config.num_devices, precision=config.precision
    )
    fabric.launch()
    with run_folder_at(config.run) as run:
        return _train_in(RunFolder(run, is_writer=fabric.is_global_zero), fabric, config)


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
    folder.claim(run_record(config, shape, sources, train_clips, val_clips), may_differ=MAY_DIFFER)
    if folder.is_writer:
        write_train_clips(folder.path, train_clips)
    # At once: who begins another run there should hear of this one.
    folder.publish()
    student = build_student(shape, seed=config.seed)
    _describe(folder, student, train_clips, val_clips, sources)
    train_split = with_image_features(train_clips, student, config, fabric.device)
    set_statistics(student, train_split, config)
    val_split = None
    if val_clips is not None and len(val_clips) and fabric.is_global_zero:
        val_split = with_image_features(val_clips, student, config, fabric.device)
    try:
        return _run_epochs(fabric, folder, config, student, train_split, val_split)
    finally:
        folder.close()


def _check_device(config: TrainConfig) -> None:
    available = {
        "auto": True,
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available[config.device]:
        raise EgoctlError(f"this machine has no {config.device} device; pass --device cpu or auto.")


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


def _run_epochs(
    fabric: Fabric,
    folder: RunFolder,
    config: TrainConfig,
    student: Student,
    train_split: Split,
    val_split: Split | None,
) -> RunResult:
    optimizer = AdamW(
        [parameter for parameter in student.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    progress = Progress(epochs_done=0, best_epoch=0, best_top1=None)
    found = find_checkpoint(folder.path / CHECKPOINTS / "last")
    loaded = None if found is None else load_checkpoint(found, where=folder.run.name_of(found))
    if loaded is not None:
        student.load_state_dict(loaded.weights)
        progress = loaded.progress
        folder.say(f"going on after epoch {progress.epochs_done}")
    fabric_model, fabric_optimizer = fabric.setup(student, optimizer)
    if loaded is not None:
        optimizer.load_state_dict(loaded.optimizer)
    folder.start_metrics(progress.epochs_done)

    last: EpochMetrics | None = None
    epochs = range(progress.epochs_done + 1, config.num_epochs + 1)
    frames = _frames_of(epochs, fabric, config, train_split)
    val_loader = None
    if val_split is not None:
        val_loader = frame_loader(val_split, config, fabric.device, max_batch=BATCH)
    for epoch in epochs:
        last = _train_epoch(
            fabric, config, student, fabric_model, fabric_optimizer, train_split, frames, epoch
        )
        if fabric.is_global_zero:
            if val_split is not None:
                last = dataclasses.replace(
                    last, val_top1=_validate(student, val_split, val_loader, fabric.device)
                )
            progress = _finish_epoch(folder, config, student, optimizer, progress, last)
        # Also keeps the others waiting until the checkpoint is written.
        progress, last = fabric.broadcast((progress, last))
    return RunResult(
        run=folder.run.url,
        epochs_done=progress.epochs_done,
        best_epoch=progress.best_epoch,
        best_top1=progress.best_top1,
        last=last,
        num_clips=len(train_split.clips),
        num_segments=len(set(train_split.clips.segment_N.tolist())),
        left_out=train_split.clips.left_out_by_reason(),
    )


def _finish_epoch(
    folder: RunFolder,
    config: TrainConfig,
    student: Student,
    optimizer: Optimizer,
    before: Progress,
    metrics: EpochMetrics,
) -> Progress:
    """Write metrics, then the checkpoints; `last` comes last, as it is what a resume believes."""
    top1 = metrics.val_top1
    is_last = metrics.epoch == config.num_epochs
    if top1 is None:
        is_best = is_last and before.best_top1 is None
    else:
        is_best = before.best_top1 is None or top1 > before.best_top1
    progress = Progress(
        epochs_done=metrics.epoch,
        best_epoch=metrics.epoch if is_best else before.best_epoch,
        best_top1=top1 if is_best else before.best_top1,
    )
    folder.add_metrics(dataclasses.asdict(metrics))
    checkpoint = Checkpoint(
        weights={name: value.cpu() for name, value in student.state_dict().items()},
        optimizer=optimizer.state_dict(),
        progress=progress,
    )
    for name in ("best", "last") if is_best else ("last",):
        save_checkpoint(folder.path / CHECKPOINTS / name, checkpoint)
    folder.publish()
    folder.say(
        f"epoch {metrics.epoch}/{config.num_epochs}  loss {metrics.loss:.4f}"
        f"  train top-1 {_shown(metrics.train_top1)}  val top-1 {_shown(top1)}"
        f"  {metrics.clips_per_s:.0f} clips/s"
    )
    return progress


def _train_epoch(
    fabric: Fabric,
    config: TrainConfig,
    student: Student,
    model: torch.nn.Module,
    optimizer: Optimizer,
    split: Split,
    frames: Iterator[Tensor] | None,
    epoch: int,
) -> EpochMetrics:
    start_s = time.perf_counter()
    torch.manual_seed(derived_seed(config.seed, epoch, fabric.global_rank))
    if frames is not None:
        # A number that starting to decode used to draw: without it, runs that go on from an
        # earlier version, or repeat one, would drop out other values.
        torch.empty((), dtype=torch.int64).random_()
    model.train()
    clips = split.clips
    batches = _batches(fabric, config, split, epoch)
    # total, kd, gt, l1, clips, right, labelled: summed on the device, read once an epoch.
    sums = torch.zeros(7, dtype=torch.float64 if fabric.device.type != "mps" else torch.float32)
    sums = sums.to(fabric.device)
    rate = 0.0
    for index, batch in enumerate(batches):
        rate = learning_rate(
            config.schedule,
            config.learning_rate,
            step=(epoch - 1) * len(batches) + index,
            steps_per_epoch=len(batches),
            num_epochs=config.num_epochs,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        label_B = to_device(clips.label_N[batch], fabric.device)
        feature_BD = rows_on(fabric.device, clips.feature_ND, batch)
        if feature_BD is not None:
            feature_BD = (feature_BD - student.target_mean_D) / student.target_std_D
        output = model(
            frames_BNHW3=None if frames is None else next(frames),
            image_feature_BNI=rows_on(fabric.device, split.image_feature_NFI, batch),
            imu_BWA=rows_on(fabric.device, clips.imu_NWA, batch),
        )
        loss = student_loss(
            config.effective_loss,
            student_feature_BD=output.feature_BD,
            student_logits_BC=output.logits_BC,
            label_B=label_B,
            teacher_feature_BD=feature_BD,
            teacher_logits_BC=rows_on(fabric.device, clips.logits_NC, batch),
        )
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss.total)
        optimizer.step()
        with torch.no_grad():
            is_right = output.logits_BC.argmax(dim=1) == label_B
            means = torch.stack([*loss, torch.ones_like(loss.total)]) * len(batch)
            counts = torch.stack([is_right.sum(), (label_B != NO_LABEL).sum()])
            sums += torch.cat([means, counts]).to(sums.dtype)
    total, kd, gt, l1, num_clips, right, labelled = fabric.all_reduce(  # type: ignore[union-attr]
        sums, reduce_op="sum"
    ).tolist()
    _refuse_not_finite(total / num_clips, student, epoch)
    return EpochMetrics(
        epoch=epoch,
        learning_rate=rate,
        loss=total / num_clips,
        kd=kd / num_clips,
        gt=gt / num_clips,
        l1=l1 / num_clips,
        train_top1=right / labelled if labelled else None,
        val_top1=None,
        clips_per_s=num_clips / (time.perf_counter() - start_s),
    )


def _refuse_not_finite(loss: float, student: Student, epoch: int) -> None:
    # The weights too: the epoch's last step can spoil them after a loss that was still finite.
    is_finite = all(bool(weight.isfinite().all()) for weight in student.parameters())
    if not math.isfinite(loss) or not is_finite:
        raise EgoctlError(
            f"epoch {epoch}: loss {loss:g}, weights {'finite' if is_finite else 'not finite'}. "
            "The training has blown up; this epoch is not saved. Try a lower learning rate in a "
            "new --run, and check the stores with 'egoctl store verify'."
        )


def _batches(fabric: Fabric, config: TrainConfig, split: Split, epoch: int) -> list[Tensor]:
    return batches_of(
        epoch_order(split.clips.segment_N, config.epoch_over, seed=config.seed, epoch=epoch),
        batch_size=config.batch_size,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )


def _frames_of(
    epochs: Sequence[int], fabric: Fabric, config: TrainConfig, split: Split
) -> Iterator[Tensor] | None:
    """The frames of every batch of all epochs, so that workers go on between two epochs."""
    if not epochs:
        return None
    # Every epoch has batches of the same sizes.
    max_batch = max(len(batch) for batch in _batches(fabric, config, split, epochs[0]))
    loader = frame_loader(split, config, fabric.device, max_batch=max_batch)
    if loader is None:
        return None
    return loader.batches(
        batch for epoch in epochs for batch in _batches(fabric, config, split, epoch)
    )


def _validate(
    student: Student, split: Split, loader: FrameLoader | None, device: torch.device
) -> float | None:
    predictions = predict(
        student,
        split.clips,
        loader=loader,
        image_feature_NFI=split.image_feature_NFI,
        imu_NWA=split.clips.imu_NWA,
        device=device,
    )
    return segment_top1(predictions, split.clips)


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"
