"""The epochs of a run: steps, metrics, checkpoints, and going on from any of them."""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.runs.checkpoint import (
    Checkpoint,
    Progress,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from egoctl.pipeline.runs.partial_epoch import PartialEpoch
from egoctl.pipeline.runs.run_folder import RunFolder
from egoctl.pipeline.runs.run_place import CHECKPOINTS
from egoctl.pipeline.runs.stop_request import StopRequest
from egoctl.pipeline.runs.weight_average import WeightAverage
from egoctl.pipeline.schedule import learning_rate
from egoctl.student.clips.clip_set import ClipSet
from egoctl.student.clips.epochs import derived_seed
from egoctl.student.clips.frames import rows_on, to_device
from egoctl.student.clips.sources import frame_loader
from egoctl.student.evaluation.predict import BATCH, predict, segment_top1
from egoctl.student.model.losses import NO_LABEL, student_loss
from egoctl.student.model.student import Student
from egoctl.student.settings.train_config import TrainConfig
from egoctl.student.training.train_batches import Share, TrainBatches

STEPS_BETWEEN_AGREEMENTS = 16
"""Several processes ask each other this seldom whether one was told to stop: asking waits."""


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


class TrainLoop:
    """A run on this process's device, from its last checkpoint on."""

    def __init__(
        self,
        fabric: Fabric,
        folder: RunFolder,
        config: TrainConfig,
        student: Student,
        train_clips: ClipSet,
        val_clips: ClipSet | None,
    ) -> None:
        """val_clips: of the process that writes; None without one.

        Raises:
            EgoctlError: if the last checkpoint is damaged or of other processes.
        """
        self._fabric = fabric
        self._folder = folder
        self._config = config
        self._student = student
        self._clips = train_clips
        self._val_clips = val_clips
        self._optimizer = AdamW(
            [parameter for parameter in student.parameters() if parameter.requires_grad],
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
        )
        self.progress = Progress(epochs_done=0, best_epoch=0, best_top1=None)
        self._partial: PartialEpoch | None = None
        found = find_checkpoint(folder.path / CHECKPOINTS / "last")
        loaded = None if found is None else load_checkpoint(found, where=folder.run.name_of(found))
        if loaded is not None:
            student.load_state_dict(loaded.weights)
            self.progress, self._partial = loaded.progress, loaded.partial
            folder.say(f"going on after {_place(self.progress, self._partial)}")
        model: nn.Module = student
        if config.compile:
            model = cast(nn.Module, torch.compile(student))
        self._model, self._fabric_optimizer = fabric.setup(model, self._optimizer)
        if loaded is not None:
            self._optimizer.load_state_dict(loaded.optimizer)
        self._average: WeightAverage | None = None
        if config.ema_decay is not None:
            self._average = WeightAverage(student, decay=config.ema_decay)
            if loaded is not None and loaded.average is not None:
                self._average.load(loaded.average)
        self._batches = TrainBatches(
            train_clips,
            config,
            rank=fabric.global_rank,
            num_ranks=fabric.world_size,
            device=fabric.device,
        )
        self._val_loader = None
        if val_clips is not None:
            self._val_loader = frame_loader(val_clips, config, fabric.device, max_batch=BATCH)

    def run(self) -> EpochMetrics | None:
        """Do what is left; metrics of the last epoch, None if there was none.

        Raises:
            EgoctlError: if the loss or the weights are no longer finite.
            KeyboardInterrupt: if it was asked to stop; everything done is saved.
        """
        self._folder.start_metrics(self.progress.epochs_done)
        epochs = range(self.progress.epochs_done + 1, self._config.num_epochs + 1)
        steps_done = 0 if self._partial is None else self._partial.steps_done
        frames = self._batches.frames(epochs, steps_done=steps_done)
        last: EpochMetrics | None = None
        with StopRequest() as stop:
            for epoch in epochs:
                if self._patience_is_over():
                    self._folder.say(
                        f"stopped early: no better epoch than {self.progress.best_epoch}"
                    )
                    break
                metrics = self._train_epoch(frames, stop, epoch)
                if self._fabric.is_global_zero:
                    if self._val_clips is not None:
                        metrics = dataclasses.replace(metrics, val_top1=self._validated())
                    self.progress = self._finish_epoch(metrics)
                # Also keeps the others waiting until the checkpoint is written.
                self.progress, last = self._fabric.broadcast((self.progress, metrics))
                if epoch != epochs[-1] and self._is_stop_agreed(stop):
                    raise KeyboardInterrupt
        return last

    def _train_epoch(
        self, frames: Iterator[Tensor] | None, stop: StopRequest, epoch: int
    ) -> EpochMetrics:
        start_s = time.perf_counter()
        fabric, config = self._fabric, self._config
        torch.manual_seed(derived_seed(config.seed, epoch, fabric.global_rank))
        if frames is not None:
            # A number that starting to decode used to draw: without it, runs that go on from an
            # earlier version, or repeat one, would drop out other values.
            torch.empty((), dtype=torch.int64).random_()
        self._model.train()
        # total, kd, gt, l1, clips, right, labelled: summed on the device, read once an epoch.
        sums = torch.zeros(7, dtype=torch.float64 if fabric.device.type != "mps" else torch.float32)
        steps_done = 0
        if self._partial is not None:
            self._partial.restore_random(fabric)
            steps_done = self._partial.steps_done
            sums = self._partial.sums_RM[fabric.global_rank]
            start_s -= self._partial.seconds
            self._partial = None
        sums = sums.to(fabric.device)
        steps = self._batches.steps(epoch)
        rate = 0.0
        for number, shares in enumerate(steps[steps_done:], start=steps_done + 1):
            past_steps = (epoch - 1) * len(steps) + number - 1
            rate = learning_rate(
                config.schedule,
                config.learning_rate,
                step=past_steps,
                steps_per_epoch=len(steps),
                num_epochs=config.num_epochs,
            )
            sums += self._step(shares, frames, epoch, rate).to(sums.dtype)
            is_due = (
                config.save_every_steps is not None
                and (past_steps + 1) % config.save_every_steps == 0
            )
            if number == len(steps):
                break
            is_asked = self._is_stop_agreed(stop, number)
            if is_due or is_asked:
                seconds = time.perf_counter() - start_s
                self._save_partial(epoch, number, len(steps), seconds, sums)
            if is_asked:
                raise KeyboardInterrupt
        return self._metrics(epoch, rate, sums, start_s)

    def _step(
        self, shares: list[Share], frames: Iterator[Tensor] | None, epoch: int, rate: float
    ) -> Tensor:
        """Take a step; what it adds to the sums of the epoch."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._fabric_optimizer.zero_grad(set_to_none=True)
        added = torch.stack(
            [self._backward(share, frames, epoch, is_last=share is shares[-1]) for share in shares]
        )
        self._fabric_optimizer.step()
        if self._average is not None:
            self._average.update(self._student)
        return added.sum(dim=0)

    def _backward(
        self, share: Share, frames: Iterator[Tensor] | None, epoch: int, *, is_last: bool
    ) -> Tensor:
        fabric, clips, device = self._fabric, self._clips, self._fabric.device
        label_B = to_device(clips.label_N[share.clip_B], device)
        feature_BD = rows_on(device, clips.feature_ND, share.clip_B)
        if feature_BD is not None:
            feature_BD = (feature_BD - self._student.target_mean_D) / self._student.target_std_D
        is_waiting = fabric.world_size > 1 and not is_last
        with fabric.no_backward_sync(self._model) if is_waiting else nullcontext():
            output = self._model(
                frames_BNHW3=None if frames is None else next(frames),
                image_feature_BNI=self._batches.image_feature(share, epoch),
                imu_BWA=rows_on(device, clips.imu_NWA, share.clip_B),
            )
            loss = student_loss(
                self._config.effective_loss,
                student_feature_BD=output.feature_BD,
                student_logits_BC=output.logits_BC,
                label_B=label_B,
                teacher_feature_BD=feature_BD,
                teacher_logits_BC=rows_on(device, clips.logits_NC, share.clip_B),
                clip_weight=share.clip_weight,
                label_weight=share.label_weight,
            )
            fabric.backward(loss.total)
        with torch.no_grad():
            is_right = output.logits_BC.argmax(dim=1) == label_B
            # The losses are shares of the step's mean, times the number of processes.
            sums = torch.stack([*loss]) * (share.num_step_clips / fabric.world_size)
            counts = torch.stack([is_right.sum(), (label_B != NO_LABEL).sum()])
            return torch.cat([sums, sums.new_full((1,), len(share.clip_B)), counts])

    def _metrics(self, epoch: int, rate: float, sums: Tensor, start_s: float) -> EpochMetrics:
        total, kd, gt, l1, num_clips, right, labelled = self._fabric.all_reduce(  # type: ignore[union-attr]
            sums, reduce_op="sum"
        ).tolist()
        self._refuse_not_finite(total / num_clips, epoch)
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

    def _refuse_not_finite(self, loss: float, epoch: int) -> None:
        # The weights too: the last step can spoil them after a loss that was still finite.
        # What is frozen cannot have changed.
        is_finite = all(
            bool(weight.isfinite().all())
            for weight in self._student.parameters()
            if weight.requires_grad
        )
        if not math.isfinite(loss) or not is_finite:
            raise EgoctlError(
                f"epoch {epoch}: loss {loss:g}, weights {'finite' if is_finite else 'not finite'}. "
                "The training has blown up; this is not saved. Try a lower learning rate in a "
                "new --run, and check the stores with 'egoctl store verify'."
            )

    def _validated(self) -> float | None:
        assert self._val_clips is not None
        worn = nullcontext() if self._average is None else self._average.worn_by(self._student)
        with worn:
            predictions = predict(
                self._student,
                self._val_clips,
                loader=self._val_loader,
                imu_NWA=self._val_clips.imu_NWA,
                device=self._fabric.device,
            )
        return segment_top1(predictions, self._val_clips)

    def _finish_epoch(self, metrics: EpochMetrics) -> Progress:
        """Write metrics, then checkpoints; `last` comes last, as it is what a resume believes."""
        top1, before = metrics.val_top1, self.progress
        is_last = metrics.epoch == self._config.num_epochs
        if top1 is None:
            is_best = is_last and before.best_top1 is None
        else:
            is_best = before.best_top1 is None or top1 > before.best_top1
        progress = Progress(
            epochs_done=metrics.epoch,
            best_epoch=metrics.epoch if is_best else before.best_epoch,
            best_top1=top1 if is_best else before.best_top1,
        )
        self._folder.add_metrics(dataclasses.asdict(metrics))
        for name in ("best", "last") if is_best else ("last",):
            self._save(name, progress, partial=None)
        self._folder.publish()
        self._folder.say(
            f"epoch {metrics.epoch}/{self._config.num_epochs}  loss {metrics.loss:.4f}"
            f"  train top-1 {_shown(metrics.train_top1)}  val top-1 {_shown(top1)}"
            f"  {metrics.clips_per_s:.0f} clips/s"
        )
        return progress

    def _save_partial(
        self, epoch: int, steps_done: int, num_steps: int, seconds: float, sums: Tensor
    ) -> None:
        partial = PartialEpoch.gathered(
            self._fabric, epoch=epoch, steps_done=steps_done, seconds=seconds, sums_M=sums
        )
        self._refuse_not_finite(float(partial.sums_RM[:, 0].sum()), epoch)
        if self._fabric.is_global_zero:
            self._save("last", self.progress, partial=partial)
            self._folder.publish()
            self._folder.say(f"saved after step {steps_done} of {num_steps} of epoch {epoch}")
        self._fabric.barrier()

    def _save(self, name: str, progress: Progress, *, partial: PartialEpoch | None) -> None:
        average = None
        if self._average is not None:
            average = {key: value.cpu() for key, value in self._average.weights.items()}
        checkpoint = Checkpoint(
            weights={key: value.cpu() for key, value in self._student.state_dict().items()},
            optimizer=self._optimizer.state_dict(),
            progress=progress,
            average=average,
            partial=partial,
        )
        save_checkpoint(self._folder.path / CHECKPOINTS / name, checkpoint)

    def _patience_is_over(self) -> bool:
        patience, done = self._config.early_stopping, self.progress
        return (
            patience is not None
            and done.best_top1 is not None
            and done.epochs_done - done.best_epoch >= patience
        )

    def _is_stop_agreed(self, stop: StopRequest, number: int = 0) -> bool:
        """Whether any process was told to stop; all of them give the same answer."""
        if self._fabric.world_size == 1:
            return stop.is_made
        if number % STEPS_BETWEEN_AGREEMENTS:
            return False
        told = torch.tensor(float(stop.is_made), device=self._fabric.device)
        found = self._fabric.all_reduce(told, reduce_op="sum")
        assert isinstance(found, Tensor)
        return bool(found > 0)


def _place(progress: Progress, partial: PartialEpoch | None) -> str:
    if partial is None:
        return f"epoch {progress.epochs_done}"
    return f"step {partial.steps_done} of epoch {partial.epoch}"


def _shown(share: float | None) -> str:
    return "-" if share is None else f"{share:.4f}"
