"""Pretraining as a method of the loop: its losses, in training and on clips that are held out."""

# N clips, B clips of a batch, P encoded frames, F frames the student sees, M IMU feature width

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from egoctl.pipeline.runs.method import EpochRow, EpochSteps, Method, shown
from egoctl.student.clips.epochs import epoch_order
from egoctl.student.clips.frames import rows_on, to_device
from egoctl.student.model.losses import feature_l1, nce_loss
from egoctl.student.pretraining.data import EncodedClips, seen_of_encoded
from egoctl.student.pretraining.net import PretrainNet, PretrainOutput
from egoctl.student.settings.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainMetrics(EpochRow):
    """One line of metrics.jsonl. Losses are means over clips."""

    nce: float | None
    """In nats. None where it takes no part, as with the next two."""
    l1: float | None
    retrieval_top1: float | None
    """Share of clips that find their own IMU in the batch; by chance 1 in batch_size."""
    val_loss: float | None = None
    """Loss in eval mode; it and the next three are None without a val split."""
    val_nce: float | None = None
    val_l1: float | None = None
    val_retrieval_top1: float | None = None
    clips_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenBatch:
    """Clips of one batch, and which encoded frames of every clip the student sees."""

    clip_B: Tensor
    seen_NF: Tensor


def whole_batches(order: Tensor, *, batch_size: int, rank: int, num_ranks: int) -> list[Tensor]:
    """This process's share of every whole batch; the clips that fill none wait for other epochs."""
    whole = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
    return list(whole[:, rank::num_ranks])


class PretrainMethod(Method[SeenBatch, PretrainMetrics]):
    """IMU encoder and fusion learn from image features and the teacher's, without labels."""

    num_sums = 5
    """Loss, nce, l1, right, clips."""
    blown_up = (
        "The pretraining has blown up; this is not saved. Try a lower learning rate in a new "
        "--run, and check the stores with 'egoctl store verify'."
    )

    def __init__(
        self,
        fabric: Fabric,
        config: PretrainConfig,
        net: PretrainNet,
        encoded: EncodedClips,
        val: EncodedClips | None,
    ) -> None:
        """val: of the process that writes, if there is a val split."""
        self.module: PretrainNet = net
        self._fabric, self._config = fabric, config
        self._encoded, self._val = encoded, val

    def epoch(self, epoch: int, *, steps_done: int) -> EpochSteps[SeenBatch]:
        """Every clip once, but for those that fill no batch."""
        config, encoded = self._config, self._encoded
        order = epoch_order(
            torch.arange(len(encoded.clips)), "clips", seed=config.seed, epoch=epoch
        )
        batches = whole_batches(
            order,
            batch_size=config.batch_size,
            rank=self._fabric.global_rank,
            num_ranks=self._fabric.world_size,
        )
        seen_NF = seen_of_encoded(encoded, config, epoch=epoch)
        steps = [[SeenBatch(clip_B=clip_B, seen_NF=seen_NF)] for clip_B in batches[steps_done:]]
        return EpochSteps(num_steps=len(batches), steps=steps)

    def loss(self, model: nn.Module, part: SeenBatch) -> tuple[Tensor, Tensor]:
        fabric = self._fabric
        output = self._output(model, self._encoded, part)
        candidate_NM = output.imu_BM
        if self._config.uses_nce and fabric.world_size > 1:
            # A clip's negatives are the others of the whole batch, on whatever device they are.
            gathered = fabric.all_gather(output.imu_BM, sync_grads=True)
            assert isinstance(gathered, Tensor)
            candidate_NM = gathered.flatten(0, 1)
        size = len(part.clip_B)
        first = fabric.global_rank * size if len(candidate_NM) > size else 0
        return self._losses(self._encoded, part, output, candidate_NM, first)

    def metrics(
        self, epoch: int, rate: float, sums: Sequence[float], seconds: float
    ) -> PretrainMetrics:
        return PretrainMetrics(
            epoch=epoch,
            learning_rate=rate,
            clips_per_s=round(sums[-1]) / seconds,
            **self._means(sums),
        )

    def validated(self, row: PretrainMetrics) -> PretrainMetrics:
        if self._val is None:
            return row
        held = {f"val_{name}": value for name, value in self.held_out(self._val).items()}
        return dataclasses.replace(row, **held)

    def held_out(self, encoded: EncodedClips) -> dict[str, Any]:
        """The losses in eval mode, in batches of the same size if there are so many clips.

        The batches are the same in every epoch, and of clips in random order: neighbours of one
        video side by side would make each other harder to tell apart than in training.
        """
        config, device = self._config, self._fabric.device
        self.module.eval()
        order = epoch_order(torch.arange(len(encoded.clips)), "clips", seed=config.seed, epoch=0)
        size = min(config.batch_size, len(order))
        seen_NF = seen_of_encoded(encoded, config, epoch=0)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        sums = torch.zeros(self.num_sums, dtype=dtype, device=device)
        with torch.no_grad():
            for clip_B in whole_batches(order, batch_size=size, rank=0, num_ranks=1):
                batch = SeenBatch(clip_B=clip_B, seen_NF=seen_NF)
                output = self._output(self.module, encoded, batch)
                sums += self._losses(encoded, batch, output, output.imu_BM, 0)[1].to(dtype)
        return self._means(sums.tolist())

    def score(self, row: Mapping[str, Any]) -> float | None:
        return None if row["val_loss"] is None else -row["val_loss"]

    def line(self, row: PretrainMetrics) -> str:
        return (
            f"nce {shown(row.nce)}  l1 {shown(row.l1)}  retrieval top-1 "
            f"{shown(row.retrieval_top1)}  val loss {shown(row.val_loss)}  val top-1 "
            f"{shown(row.val_retrieval_top1)}  {row.clips_per_s:.0f} clips/s"
        )

    def _output(self, model: nn.Module, encoded: EncodedClips, batch: SeenBatch) -> PretrainOutput:
        device, clip_B = self._fabric.device, batch.clip_B
        feature_BPI = encoded.feature_NPI[clip_B]
        seen_BF = batch.seen_NF[clip_B]
        output: PretrainOutput = model(
            to_device(feature_BPI[:, [0, -1]], device),
            to_device(feature_BPI[torch.arange(len(clip_B))[:, None], seen_BF], device),
            to_device(encoded.clips.imu_NWA[clip_B], device),
        )
        return output

    def _losses(
        self,
        encoded: EncodedClips,
        batch: SeenBatch,
        output: PretrainOutput,
        candidate_NM: Tensor,
        first: int,
    ) -> tuple[Tensor, Tensor]:
        """Their sum, and what they add to the sums of an epoch."""
        config, net, size = self._config, self.module, len(batch.clip_B)
        nce = l1 = num_right = output.imu_BM.new_zeros(())
        if output.predicted_BM is not None:
            nce, num_right = nce_loss(
                output.predicted_BM, candidate_NM, temperature=config.temperature, first=first
            )
        target_BD = rows_on(output.imu_BM.device, encoded.clips.feature_ND, batch.clip_B)
        if output.feature_BD is not None:
            assert target_BD is not None, "L1 has targets"
            scaled_BD = (target_BD - net.target_mean_D) / net.target_std_D
            l1 = feature_l1(output.feature_BD, scaled_BD, reduction=config.l1_reduction)
        total = nce + l1
        ones = torch.ones_like(nce)
        return total, torch.stack([total, nce, l1, num_right / size, ones]).detach() * size

    def _means(self, sums: Sequence[float]) -> dict[str, Any]:
        """Means over clips; None for a loss that takes no part."""
        _, nce, l1, num_right, num_clips = sums
        uses_nce, uses_l1 = self._config.uses_nce, self._config.uses_l1
        return {
            "loss": (nce + l1) / num_clips,
            "nce": nce / num_clips if uses_nce else None,
            "l1": l1 / num_clips if uses_l1 else None,
            "retrieval_top1": num_right / num_clips if uses_nce else None,
        }
