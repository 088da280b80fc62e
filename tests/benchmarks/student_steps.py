"""A student's steps as training takes them, on batches from wherever a benchmark has them."""

# B clips of a batch, F frames of a clip

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.losses import student_loss
from egoctl.student.model.student import Student


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What a step takes, on the device."""

    frames_BFHW3: Tensor | None = None
    image_feature_BFI: Tensor | None = None
    """Of a frozen encoder, instead of frames."""
    imu_BWA: Tensor
    label_B: Tensor
    feature_BD: Tensor
    logits_BC: Tensor


def learn(
    student: Student,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    loss_config: LossConfig,
) -> float:
    """One step for each batch; how many clips these were. A GPU is done with them by then."""
    num_clips = 0
    student.train()
    for batch in batches:
        output = student(
            frames_BNHW3=batch.frames_BFHW3,
            image_feature_BNI=batch.image_feature_BFI,
            imu_BWA=batch.imu_BWA,
        )
        loss = student_loss(
            loss_config,
            student_feature_BD=output.feature_BD,
            student_logits_BC=output.logits_BC,
            label_B=batch.label_B,
            teacher_feature_BD=batch.feature_BD,
            teacher_logits_BC=batch.logits_BC,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        optimizer.step()
        num_clips += len(batch.label_B)
    loss.total.item()
    return num_clips
