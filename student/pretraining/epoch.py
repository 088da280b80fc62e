"""One epoch of pretraining, and the same losses on clips that are held out."""

# N clips, B clips of a batch, P encoded frames, F frames the student sees, M IMU feature width

import math
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.schedule import learning_rate
from egoctl.student.clips.epochs import derived_seed, epoch_order
from egoctl.student.clips.frames import rows_on, to_device
from egoctl.student.model.losses import feature_l1, nce_loss
from egoctl.student.pretraining.data import EncodedClips, seen_of_encoded
from egoctl.student.pretraining.net import PretrainNet, PretrainOutput
from egoctl.student.settings.pretrain_config import PretrainConfig


class Means(NamedTuple):
    """Losses as means over clips, of which there were num_clips; None: takes no part."""

    loss: float
    nce: float | None
    l1: float | None
    retrieval_top1: float | None
    num_clips: int


def whole_batches(order: Tensor, *, batch_size: int, rank: int, num_ranks: int) -> list[Tensor]:
    """This process's share of every whole batch; the clips that fill none wait for other epochs."""
    whole = order[: len(order) // batch_size * batch_size].view(-1, batch_size)
    return list(whole[:, rank::num_ranks])


def train_epoch(
    fabric: Fabric,
    config: PretrainConfig,
    net: PretrainNet,
    model: nn.Module,
    optimizer: Optimizer,
    encoded: EncodedClips,
    epoch: int,
) -> tuple[Means, float]:
    """Train on every clip once, but for those that fill no batch; also the last learning rate.

    model: the net as Fabric wrapped it.

    Raises:
        EgoctlError: if the loss or a weight is not finite at its end.
    """
    torch.manual_seed(derived_seed(config.seed, epoch, fabric.global_rank))
    model.train()
    order = epoch_order(torch.arange(len(encoded.clips)), "clips", seed=config.seed, epoch=epoch)
    batches = whole_batches(
        order,
        batch_size=config.batch_size,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )
    seen_NF = seen_of_encoded(encoded, config, epoch=epoch)
    sums = _no_sums(fabric.device)
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
        output = _output(model, encoded, batch, seen_NF, fabric.device)
        candidate_NM = output.imu_BM
        if config.uses_nce and fabric.world_size > 1:
            # A clip's negatives are the others of the whole batch, on whatever device they are.
            gathered = fabric.all_gather(output.imu_BM, sync_grads=True)
            assert isinstance(gathered, Tensor)
            candidate_NM = gathered.flatten(0, 1)
        first = fabric.global_rank * len(batch) if len(candidate_NM) > len(batch) else 0
        total, parts = _losses(config, net, encoded, batch, output, candidate_NM, first)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(total)
        optimizer.step()
        sums += parts.to(sums.dtype)
    fabric.all_reduce(sums, reduce_op="sum")
    means = _means(config, sums)
    _refuse_not_finite(means.loss, net, epoch)
    return means, rate


def held_out(
    config: PretrainConfig, net: PretrainNet, encoded: EncodedClips, device: torch.device
) -> Means:
    """The losses in eval mode, in batches of the same size if there are so many clips.

    The batches are the same in every epoch, and of clips in random order: neighbours of one
    video side by side would make each other harder to tell apart than in training.
    """
    net.eval()
    order = epoch_order(torch.arange(len(encoded.clips)), "clips", seed=config.seed, epoch=0)
    size = min(config.batch_size, len(order))
    seen_NF = seen_of_encoded(encoded, config, epoch=0)
    sums = _no_sums(device)
    with torch.no_grad():
        for batch in whole_batches(order, batch_size=size, rank=0, num_ranks=1):
            output = _output(net, encoded, batch, seen_NF, device)
            _, parts = _losses(config, net, encoded, batch, output, output.imu_BM, 0)
            sums += parts.to(sums.dtype)
    return _means(config, sums)


def _output(
    model: nn.Module, encoded: EncodedClips, batch: Tensor, seen_NF: Tensor, device: torch.device
) -> PretrainOutput:
    feature_BPI = encoded.feature_NPI[batch]
    seen_BF = seen_NF[batch]
    output: PretrainOutput = model(
        to_device(feature_BPI[:, [0, -1]], device),
        to_device(feature_BPI[torch.arange(len(batch))[:, None], seen_BF], device),
        to_device(encoded.clips.imu_NWA[batch], device),
    )
    return output


def _losses(
    config: PretrainConfig,
    net: PretrainNet,
    encoded: EncodedClips,
    batch: Tensor,
    output: PretrainOutput,
    candidate_NM: Tensor,
    first: int,
) -> tuple[Tensor, Tensor]:
    """Their sum; and, for the epoch's means, the sums over clips: nce, l1, right, clips."""
    nce = l1 = num_right = output.imu_BM.new_zeros(())
    if output.predicted_BM is not None:
        nce, num_right = nce_loss(
            output.predicted_BM, candidate_NM, temperature=config.temperature, first=first
        )
    target_BD = rows_on(output.imu_BM.device, encoded.clips.feature_ND, batch)
    if output.feature_BD is not None:
        assert target_BD is not None, "L1 has targets"
        scaled_BD = (target_BD - net.target_mean_D) / net.target_std_D
        l1 = feature_l1(output.feature_BD, scaled_BD, reduction=config.l1_reduction)
    of_one = torch.stack([nce, l1, num_right / len(batch), torch.ones_like(nce)]).detach()
    return nce + l1, of_one * len(batch)


def _no_sums(device: torch.device) -> Tensor:
    # Summed on the device, read once an epoch; MPS has no float64.
    return torch.zeros(4, dtype=torch.float32 if device.type == "mps" else torch.float64).to(device)


def _means(config: PretrainConfig, sums: Tensor) -> Means:
    nce, l1, num_right, num_clips = sums.tolist()
    return Means(
        loss=(nce + l1) / num_clips,
        nce=nce / num_clips if config.uses_nce else None,
        l1=l1 / num_clips if config.uses_l1 else None,
        retrieval_top1=num_right / num_clips if config.uses_nce else None,
        num_clips=round(num_clips),
    )


def _refuse_not_finite(loss: float, net: PretrainNet, epoch: int) -> None:
    # The weights too: the epoch's last step can spoil them after a loss that was still finite.
    is_finite = all(bool(weight.isfinite().all()) for weight in net.parameters())
    if not math.isfinite(loss) or not is_finite:
        raise EgoctlError(
            f"epoch {epoch}: loss {loss:g}, weights {'finite' if is_finite else 'not finite'}. "
            "The pretraining has blown up; this epoch is not saved. Try a lower learning rate in "
            "a new --run, and check the stores with 'egoctl store verify'."
        )
