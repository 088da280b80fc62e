"""Fine-tuning as a method of the loop: passes, sums over devices, accuracy on held-out clips."""

# B batch, C classes

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.clips import chunks
from egoctl.pipeline.finetuning.draws import step_seed, steps_of
from egoctl.pipeline.finetuning.feed import (
    CachedFeed,
    Feed,
    FeedPlan,
    FrameFeed,
    StepClips,
    Unread,
)
from egoctl.pipeline.finetuning.trainee import Fit, Item
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.runs.method import EpochRow, EpochSteps, LoopConfig, Method, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneMetrics(EpochRow):
    """One line of metrics.jsonl. The loss is a mean over clips; top-1 is a share of 1."""

    train_top1: float
    val_top1: float | None
    """None without a val split."""
    clips: float
    """Number of clips that could be read."""
    clips_per_s: float


class FinetuneMethod(Method[StepClips, FinetuneMetrics]):
    """A teacher learns the labels of clips that are decoded, or kept as a frozen part sees them."""

    num_sums = 3
    """Loss, right, clips; of all processes, kept by the first."""
    blown_up = (
        "The training is no longer finite: it has blown up, and this is not saved. Start a new "
        "--run with a lower --lr."
    )
    seeds_every_step = True

    def __init__(self, fabric: Fabric, plan: FeedPlan, fit: Fit, spec: TeacherSpec) -> None:
        self.module: nn.Module = fit.trainee
        self.unread = Unread({})
        self._fabric, self._plan, self._fit, self._spec = fabric, plan, fit, spec
        self._config = plan.config
        self._feed: Feed | None = None
        if fabric.world_size > 1:
            self._freeze_unused()

    def optimizer(self, config: LoopConfig) -> Optimizer:
        """AdamW on all weights: its state then fits any number of processes."""
        return AdamW(
            self.module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def begin(self, epochs: range, *, steps_done: int) -> None:
        if self._fit.front is None:
            self._feed = FrameFeed(self._plan, self.unread)
        else:
            self._feed = CachedFeed(
                self._plan,
                self._fit,
                self.unread,
                device=self._fabric.device,
                autocast=self._fabric.autocast,
            )

    def epoch(self, epoch: int, *, steps_done: int) -> EpochSteps[StepClips]:
        steps = steps_of(
            len(self._plan.train),
            self._config.batch_size,
            seed=self._config.seed,
            epoch=epoch,
            rank=self._fabric.global_rank,
            num_ranks=self._fabric.world_size,
        )
        return EpochSteps(num_steps=len(steps), steps=self._passes(epoch, steps, steps_done))

    def _passes(
        self, epoch: int, steps: Sequence[Sequence[int]], steps_done: int
    ) -> Iterator[Sequence[StepClips]]:
        """A step's clips in passes; none if no process could read one."""
        assert self._feed is not None
        rank, num_ranks = self._fabric.global_rank, self._fabric.world_size
        with self._progress(len(steps), epoch) as progress:
            read = self._feed.train(epoch, steps[steps_done:])
            for number, clips in enumerate(read, start=steps_done):
                num_clips = self._over_all(len(clips.items))[0]
                if num_clips:
                    torch.manual_seed(step_seed(self._config.seed, epoch, number, rank))
                    # Processes' gradients are averaged, so each weighs its own by their number.
                    weighted = dataclasses.replace(clips, weight=num_ranks / num_clips)
                    yield _cut(weighted if clips.items else self._blank(), self._config.pass_size)
                else:
                    yield []
                if progress is not None:
                    progress.reach(number + 1, len(steps))

    def loss(self, model: nn.Module, part: StepClips) -> tuple[Tensor, Tensor]:
        """The part of a mean over the step's clips, however they are cut into passes.

        Raises:
            EgoctlError: if the pass is too small for BatchNorm.
        """
        label_B = self._labels(part)
        try:
            logits_BC = model(*self._inputs(part))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise EgoctlError(
                "this network's BatchNorm cannot learn from one clip alone, and a pass had one. "
                "Give a larger --batch-size, or a smaller --accumulate."
            ) from error
        loss = F.cross_entropy(
            logits_BC, label_B, reduction="sum", label_smoothing=self._config.label_smoothing
        )
        sums = torch.zeros(self.num_sums, dtype=torch.float64)
        if part.weight:
            right = int((logits_BC.argmax(dim=1) == label_B).sum())
            sums = sums.new_tensor([loss.item(), right, len(part.labels)])
        return loss * part.weight, sums

    def step_sums(self, sums: Sequence[Tensor]) -> Tensor:
        """Over all processes. Raises EgoctlError: if the loss is no longer finite."""
        mine = torch.zeros(self.num_sums, dtype=torch.float64)
        for each in sums:
            mine += each
        whole = self._over_all(*mine.tolist())
        if not math.isfinite(whole[0]):
            raise EgoctlError(self.blown_up)
        return mine.new_tensor(whole) * self._fabric.is_global_zero

    def metrics(
        self, epoch: int, rate: float, sums: Sequence[float], seconds: float
    ) -> FinetuneMetrics:
        """Raises EgoctlError: if not one clip could be read."""
        loss, right, num_clips = sums
        if num_clips == 0:
            segment_id, reason = next(iter(self.extra()["unread"].items()))
            raise EgoctlError(
                f"no segment of split {self._config.train_split!r} could be read; "
                f"{segment_id!r}: {reason}. See 'egoctl manifest check'."
            )
        return FinetuneMetrics(
            epoch=epoch,
            learning_rate=rate,
            loss=loss / num_clips,
            train_top1=right / num_clips,
            val_top1=None,
            clips=num_clips,
            clips_per_s=num_clips / seconds,
        )

    def validated(self, row: FinetuneMetrics) -> FinetuneMetrics:
        """Adds the share of held-out clips whose label has the largest logit."""
        assert self._feed is not None
        right = total = 0
        self.module.eval()
        with torch.no_grad(), self._fabric.autocast():
            for clips in self._feed.held_out():
                if clips.items:
                    logits_BC = self.module(*self._inputs(clips))
                    right += int((logits_BC.argmax(dim=1) == self._labels(clips)).sum())
                    total += len(clips.items)
        all_right, all_total = self._over_all(right, total)
        return dataclasses.replace(row, val_top1=all_right / all_total if all_total else None)

    def line(self, row: FinetuneMetrics) -> str:
        return (
            f"loss {row.loss:.4f}  train top-1 {row.train_top1:.4f}"
            f"  val top-1 {shown(row.val_top1)}  {row.clips_per_s:.1f} clips/s"
        )

    def extra(self) -> dict[str, Any]:
        """The segments that any process could not read."""
        found: dict[str, str] = {}
        for rank in range(self._fabric.world_size):
            found |= self._fabric.broadcast(self.unread.reasons, src=rank)
        self.unread.reasons = dict(found)
        return {"unread": found}

    def take_extra(self, extra: Mapping[str, Any]) -> None:
        self.unread = Unread(extra["unread"])

    def _inputs(self, clips: StepClips) -> list[Tensor]:
        device = self._fabric.device
        parts = zip(*clips.items, strict=True)
        return [torch.stack(part).to(device, non_blocking=True) for part in parts]

    def _labels(self, clips: StepClips) -> Tensor:
        return torch.tensor(clips.labels, device=self._fabric.device)

    def _over_all(self, *values: float) -> list[float]:
        """The values' sums over the processes."""
        if self._fabric.world_size == 1:
            return list(values)
        summed = self._fabric.all_reduce(
            torch.tensor(values, dtype=torch.float64, device=self._fabric.device), reduce_op="sum"
        )
        assert isinstance(summed, Tensor)
        found: list[float] = summed.tolist()
        return found

    def _freeze_unused(self) -> None:
        """Take weights that no gradient reaches out of those that processes wait for.

        Published networks have some; one process alone leaves them as they are, too.
        """
        self.module.eval()
        self.module(*self._inputs(self._blank())).sum().backward()
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def _blank(self) -> StepClips:
        """Black clips, for a process that has none it could read while others wait for it.

        Their loss counts nothing. Two of them: BatchNorm may want more than one.
        """
        size = (self._spec.num_frames, self._spec.crop_px, self._spec.crop_px, 3)
        item: Item = (torch.zeros(size, dtype=torch.uint8),)
        return StepClips(items=[item, item], labels=[0, 0])

    def _progress(self, num_steps: int, epoch: int) -> AbstractContextManager[Progress | None]:
        if not self._fabric.is_global_zero:
            return nullcontext()
        title = f"epoch {epoch}/{self._config.num_epochs}"
        return Progress(num_steps, title=title, unit="step")


def _cut(clips: StepClips, size: int) -> Sequence[StepClips]:
    """The clips in passes; a last pass of one joins the one before: BatchNorm may refuse it."""
    pairs = chunks(list(zip(clips.items, clips.labels, strict=True)), size)
    if len(pairs) > 1 and len(pairs[-1]) == 1:
        pairs[-2:] = [[*pairs[-2], *pairs[-1]]]
    return [
        dataclasses.replace(
            clips, items=[item for item, _ in piece], labels=[label for _, label in piece]
        )
        for piece in pairs
    ]
