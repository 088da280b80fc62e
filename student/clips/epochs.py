"""Which clips an epoch trains on, in which order: pure functions of (seed, epoch)."""


# N clips, S segments

import numpy as np
import torch
from torch import Tensor

from egoctl.pipeline.runs.method import derived_seed
from egoctl.student.settings.train_config import EpochOver


def epoch_order(segment_N: Tensor, over: EpochOver, *, seed: int, epoch: int) -> Tensor:
    """Clip indices in random order: all N, or one random clip of each segment that has any."""
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    if over == "clips":
        return torch.randperm(len(segment_N), generator=generator)
    # The first of each segment in a random order is a uniformly random one of its clips.
    shuffled = torch.randperm(len(segment_N), generator=generator)
    _, first = np.unique(segment_N[shuffled].numpy(), return_index=True)
    chosen = shuffled[torch.from_numpy(first)]
    return chosen[torch.randperm(len(chosen), generator=generator)]


def batches_of(order: Tensor, *, batch_size: int, rank: int, num_ranks: int) -> list[Tensor]:
    """This process's share of every batch; batch_size counts the clips of all processes.

    All processes get equally many clips (the first few twice if need be), or they would wait for
    each other for ever. A last batch of one joins the one before it: BatchNorm cannot train on it.
    """
    spare = -len(order) % num_ranks
    mine = torch.cat([order, order[:spare]])[rank::num_ranks]
    batches = list(torch.split(mine, max(1, batch_size // num_ranks)))
    if len(batches) > 1 and len(batches[-1]) == 1:
        last = batches.pop()
        batches[-1] = torch.cat([batches[-1], last])
    return batches
