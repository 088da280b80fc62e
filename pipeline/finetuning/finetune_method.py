"""One optimiser step over all devices, and the judgement of held-out clips."""

# B batch, C classes

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor
from torch.optim import AdamW

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.clips import chunks
from egoctl.pipeline.finetuning.config import FinetuneConfig
from egoctl.pipeline.finetuning.feed import Share
from egoctl.pipeline.finetuning.run_folder import Sums
from egoctl.pipeline.finetuning.trainee import Item, Trainee
from egoctl.pipeline.records import TeacherSpec


class Stepper:
    """Moves the weights, in all processes alike."""

    def __init__(
        self, fabric: Fabric, config: FinetuneConfig, spec: TeacherSpec, trainee: Trainee
    ) -> None:
        self.trainee = trainee
        self.optimizer = AdamW(
            trainee.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._fabric, self._config, self._spec = fabric, config, spec
        if fabric.world_size > 1:
            self._freeze_unused()
        self._model, self._wrapped = fabric.setup(trainee, self.optimizer)

    def step(self, share: Share, *, rate: float, seed: int) -> Sums:
        """Learn from a step's clips, those of all processes; their sums, of all too.

        The gradient is that of the mean over all of them, however they are cut into processes
        and passes. Without a clip, in any process, nothing is done.

        Raises:
            EgoctlError: if the loss is no longer finite, or a pass is too small for BatchNorm.
        """
        num_clips = self._over_all(len(share.items))[0]
        if num_clips == 0:
            return Sums()
        torch.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        weight = self._fabric.world_size / num_clips
        if not share.items:
            share, weight = self._blank(), 0.0
        loss_sum = right = 0.0
        passes = _passes(share, self._config.pass_size)
        for number, piece in enumerate(passes, start=1):
            with self._fabric.no_backward_sync(self._model, enabled=number < len(passes)):
                logits_BC, label_B = self._logits(piece), self._labels(piece)
                loss = F.cross_entropy(
                    logits_BC,
                    label_B,
                    reduction="sum",
                    label_smoothing=self._config.label_smoothing,
                )
                # Processes' gradients are averaged, so each weighs its own by their number.
                self._fabric.backward(loss * weight)
            if weight:
                loss_sum += loss.item()
                right += int((logits_BC.argmax(dim=1) == label_B).sum())
        loss_sum, right = self._over_all(loss_sum, right)
        if not math.isfinite(loss_sum):
            raise EgoctlError(
                "the loss is no longer finite: the training has blown up, and this step is not "
                "saved. Start a new --run with a lower --lr."
            )
        self._wrapped.step()
        return Sums(loss=loss_sum, right=right, clips=num_clips)

    def top1(self, shares: Iterable[Share]) -> float | None:
        """The share of clips whose label has the largest logit, over all processes."""
        right = total = 0
        self.trainee.eval()
        with torch.no_grad(), self._fabric.autocast():
            for share in shares:
                if share.items:
                    logits_BC = self.trainee(*self._inputs(share))
                    right += int((logits_BC.argmax(dim=1) == self._labels(share)).sum())
                    total += len(share.items)
        all_right, all_total = self._over_all(right, total)
        return all_right / all_total if all_total else None

    def _logits(self, piece: Share) -> Tensor:
        try:
            logits_BC = self._model(*self._inputs(piece))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise EgoctlError(
                "this network's BatchNorm cannot learn from one clip alone, and a pass had one. "
                "Give a larger --batch-size, or a smaller --accumulate."
            ) from error
        assert isinstance(logits_BC, Tensor)
        return logits_BC

    def _inputs(self, share: Share) -> list[Tensor]:
        device = self._fabric.device
        parts = zip(*share.items, strict=True)
        return [torch.stack(part).to(device, non_blocking=True) for part in parts]

    def _labels(self, share: Share) -> Tensor:
        return torch.tensor(share.labels, device=self._fabric.device)

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
        self.trainee.eval()
        self.trainee(*self._inputs(self._blank())).sum().backward()
        for parameter in self.trainee.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None

    def _blank(self) -> Share:
        """Black clips, for a process that has none it could read while others wait for it.

        Their loss counts nothing. Two of them: BatchNorm may want more than one.
        """
        size = (self._spec.num_frames, self._spec.crop_px, self._spec.crop_px, 3)
        item: Item = (torch.zeros(size, dtype=torch.uint8),)
        return Share(items=[item, item], labels=[0, 0])


def _passes(share: Share, size: int) -> Sequence[Share]:
    """The share in pieces; a last piece of one joins the one before: BatchNorm may refuse it."""
    pairs = chunks(list(zip(share.items, share.labels, strict=True)), size)
    if len(pairs) > 1 and len(pairs[-1]) == 1:
        pairs[-2:] = [[*pairs[-2], *pairs[-1]]]
    return [
        Share(items=[item for item, _ in piece], labels=[label for _, label in piece])
        for piece in pairs
    ]
