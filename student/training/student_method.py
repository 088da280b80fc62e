"""Training a student as a method of the loop: its losses, what an epoch reports, its validation."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from egoctl.pipeline.runs.method import EpochRow, EpochSteps, Method, shown
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.frames import rows_on, to_device
from egoctl.student.clips.sources import frame_loader
from egoctl.student.evaluation.predict import BATCH, predict, segment_top1
from egoctl.student.model.losses import NO_LABEL, student_loss
from egoctl.student.model.student import Student
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train_batches import StepShare, TrainBatches


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics(EpochRow):
    """One line of metrics.jsonl. Losses are means over clips; top-1 is a share of 1."""

    kd: float
    gt: float
    l1: float
    train_top1: float | None
    """Per clip, in train mode; None without labels."""
    val_top1: float | None
    """Per segment; None without a val split."""
    clips_per_s: float


class StudentMethod(Method[StepShare, EpochMetrics]):
    """A student learns from labels and, if its method distills, from stored targets."""

    num_sums = 7
    """Loss, kd, gt, l1, clips, right, labelled."""
    blown_up = (
        "The training has blown up; this is not saved. Try a lower learning rate in a new --run, "
        "and check the stores with 'egoctl store verify'."
    )

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        student: Student,
        train_clips: ClipSet,
        val_clips: ClipSet | None,
    ) -> None:
        """val_clips: of the process that writes; None without one.

        Raises:
            EgoctlError: if the batch cannot be shared equally by the processes.
        """
        self.module: Student = student
        self._fabric, self._config = fabric, config
        self._clips, self._val_clips = train_clips, val_clips
        self._batches = TrainBatches(
            train_clips,
            config,
            rank=fabric.global_rank,
            num_ranks=fabric.world_size,
            device=fabric.device,
        )
        self._frames: Iterator[Tensor] | None = None
        self._epoch = 0
        self._val_loader = None
        if val_clips is not None:
            self._val_loader = frame_loader(val_clips, config, fabric.device, max_batch=BATCH)

    def begin(self, epochs: range, *, steps_done: int) -> None:
        self._frames = self._batches.frames(epochs, steps_done=steps_done)

    def epoch(self, epoch: int, *, steps_done: int) -> EpochSteps[StepShare]:
        self._epoch = epoch
        if self._frames is not None:
            # A number that starting to decode used to draw: without it, runs that go on from an
            # earlier version, or repeat one, would drop out other values.
            torch.empty((), dtype=torch.int64).random_()
        steps = self._batches.steps(epoch)
        return EpochSteps(num_steps=len(steps), steps=steps[steps_done:])

    def loss(self, model: nn.Module, part: StepShare) -> tuple[Tensor, Tensor]:
        clips, student, device = self._clips, self.module, self._fabric.device
        label_B = to_device(clips.label_N[part.clip_B], device)
        feature_BD = rows_on(device, clips.feature_ND, part.clip_B)
        if feature_BD is not None:
            feature_BD = (feature_BD - student.target_mean_D) / student.target_std_D
        output = model(
            frames_BNHW3=None if self._frames is None else next(self._frames),
            image_feature_BNI=self._batches.image_feature(part, self._epoch),
            imu_BWA=rows_on(device, clips.imu_NWA, part.clip_B),
        )
        loss = student_loss(
            self._config.effective_loss,
            student_feature_BD=output.feature_BD,
            student_logits_BC=output.logits_BC,
            label_B=label_B,
            teacher_feature_BD=feature_BD,
            teacher_logits_BC=rows_on(device, clips.logits_NC, part.clip_B),
            clip_weight=part.clip_weight,
            label_weight=part.label_weight,
        )
        with torch.no_grad():
            is_right = output.logits_BC.argmax(dim=1) == label_B
            # The losses are shares of the step's mean, times the number of processes.
            sums = torch.stack([*loss]) * (part.num_step_clips / self._fabric.world_size)
            counts = torch.stack([is_right.sum(), (label_B != NO_LABEL).sum()])
            return loss.total, torch.cat([sums, sums.new_full((1,), len(part.clip_B)), counts])

    def metrics(
        self, epoch: int, rate: float, sums: Sequence[float], seconds: float
    ) -> EpochMetrics:
        total, kd, gt, l1, num_clips, right, labelled = sums
        return EpochMetrics(
            epoch=epoch,
            learning_rate=rate,
            loss=total / num_clips,
            kd=kd / num_clips,
            gt=gt / num_clips,
            l1=l1 / num_clips,
            train_top1=right / labelled if labelled else None,
            val_top1=None,
            clips_per_s=num_clips / seconds,
        )

    def validated(self, row: EpochMetrics) -> EpochMetrics:
        clips = self._val_clips
        if clips is None:
            return row
        predictions = predict(
            self.module,
            clips,
            loader=self._val_loader,
            imu_NWA=clips.imu_NWA,
            device=self._fabric.device,
        )
        return dataclasses.replace(row, val_top1=segment_top1(predictions, clips))

    def line(self, row: EpochMetrics) -> str:
        return (
            f"loss {row.loss:.4f}  train top-1 {shown(row.train_top1)}"
            f"  val top-1 {shown(row.val_top1)}  {row.clips_per_s:.0f} clips/s"
        )
