"""The loss that ties IMU to what changes between frames (EgoDistill, arXiv:2301.02217, eq. 7)."""

# B queries of this process, N candidates (B of every process), M IMU feature width

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class NceParts(NamedTuple):
    """The mean loss over B, in nats, and how many queries found their own IMU among N."""

    loss: Tensor
    num_right: Tensor


def nce_loss(
    predicted_BM: Tensor, candidate_NM: Tensor, *, temperature: float, first: int = 0
) -> NceParts:
    """-log of the share that exp(cos/temperature) of the own candidate has in the sum over all.

    first: candidate first + i is query i's own; the others are its negatives.

    Raises:
        ValueError: if there are no negatives, or not every query has a candidate of its own.
    """
    num_queries, num_candidates = len(predicted_BM), len(candidate_NM)
    if num_candidates < 2 or not 0 <= first <= num_candidates - num_queries:
        raise ValueError(
            f"need 2 candidates or more, and one for each query: got {num_candidates} for "
            f"{num_queries} queries that begin at {first}"
        )
    # normalize divides by at least 1e-12: a feature of zeros has cosine 0 with all, not NaN.
    query_BM = F.normalize(_precise(predicted_BM), dim=1)
    cosine_BN = query_BM @ F.normalize(_precise(candidate_NM), dim=1).T
    own_B = torch.arange(first, first + num_queries, device=cosine_BN.device)
    loss = F.cross_entropy(cosine_BN / temperature, own_B)
    return NceParts(loss=loss, num_right=(cosine_BN.argmax(dim=1) == own_B).sum())


def _precise(values: Tensor) -> Tensor:
    """Divided by 0.1, a cosine of bfloat16 would be off by 0.04."""
    return values if values.dtype == torch.float64 else values.float()
