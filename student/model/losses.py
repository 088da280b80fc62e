"""EgoDistill's losses (arXiv:2301.02217, eq. 3 to 6): match feature, logits and label."""

# B batch, D feature width, C classes

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.student.model.loss_config import L1Reduction, LossConfig

NO_LABEL = -1


class LossParts(NamedTuple):
    """The losses of a batch, as scalars. A part with weight 0 is not computed and is 0."""

    total: Tensor
    kd: Tensor
    gt: Tensor
    l1: Tensor


def feature_l1(student_BD: Tensor, teacher_BD: Tensor, *, reduction: L1Reduction) -> Tensor:
    """Mean over clips of the L1 norm of the difference (eq. 3); or of its mean over D."""
    _check_shapes(student_BD, teacher_BD)
    distance_BD = (_precise(student_BD) - _precise(teacher_BD)).abs()
    per_clip_B = distance_BD.sum(dim=1) if reduction == "norm" else distance_BD.mean(dim=1)
    return per_clip_B.mean()


def logit_kl(
    student_BC: Tensor, teacher_BC: Tensor, *, tau: float, tau_squared: bool = False
) -> Tensor:
    """Mean over clips of KL(teacher || student) of the classes softened by tau (eq. 4), in nats."""
    _check_shapes(student_BC, teacher_BC)
    log_p_BC = F.log_softmax(_precise(teacher_BC) / tau, dim=1)
    log_q_BC = F.log_softmax(_precise(student_BC) / tau, dim=1)
    kl = F.kl_div(log_q_BC, log_p_BC, reduction="batchmean", log_target=True)
    return kl * tau**2 if tau_squared else kl


def label_cross_entropy(student_BC: Tensor, label_B: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled clips, in nats; 0 if none has a label."""
    total = F.cross_entropy(_precise(student_BC), label_B, ignore_index=NO_LABEL, reduction="sum")
    return total / (label_B != NO_LABEL).sum().clamp(min=1)


def student_loss(
    config: LossConfig,
    *,
    student_feature_BD: Tensor,
    student_logits_BC: Tensor,
    label_B: Tensor,
    teacher_feature_BD: Tensor | None,
    teacher_logits_BC: Tensor | None,
    clip_weight: float = 1.0,
    label_weight: float = 1.0,
) -> LossParts:
    """The weighted sum and its parts (eq. 6).

    clip_weight, label_weight: of these clips' and these labels' means, in total and parts alike,
    where a batch is taken in several shares.

    Raises:
        ValueError: if a part with a weight above 0 lacks its target.
    """
    zero = torch.zeros((), device=student_logits_BC.device)
    kd, gt, l1 = zero, zero, zero
    if config.alpha > 0:
        if teacher_logits_BC is None:
            raise ValueError("alpha > 0 needs teacher_logits_BC")
        kd = logit_kl(
            student_logits_BC, teacher_logits_BC, tau=config.tau, tau_squared=config.kd_tau_squared
        )
    if config.alpha < 1:
        gt = label_cross_entropy(student_logits_BC, label_B)
    if config.beta > 0:
        if teacher_feature_BD is None:
            raise ValueError("beta > 0 needs teacher_feature_BD")
        l1 = feature_l1(student_feature_BD, teacher_feature_BD, reduction=config.l1_reduction)
    kd, gt, l1 = clip_weight * kd, label_weight * gt, clip_weight * l1
    total = config.alpha * kd + (1 - config.alpha) * gt + config.beta * l1
    return LossParts(total=total, kd=kd, gt=gt, l1=l1)


def _precise(values: Tensor) -> Tensor:
    """In float32, or in float64 if they are: half precision loses clips in a sum, and is 0.04 off
    for a cosine that is divided by 0.1."""
    return values if values.dtype == torch.float64 else values.float()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must share one shape, got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}"
        )


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
