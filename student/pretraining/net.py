"""The parts of a student that pretraining trains, and the predictor that it needs for that."""

# B batch, F frames, I image feature width, M IMU feature width, W IMU samples, A IMU axes (6)
# D teacher feature width

from typing import NamedTuple

import torch
from torch import Tensor, nn

from egoctl.student.model.student import Student

PREDICTOR_HIDDEN = 1024


class PretrainOutput(NamedTuple):
    """Inputs of the losses: z of the IMU (B, M), zhat (B, M), the fusion's feature (B, D)."""

    imu_BM: Tensor
    predicted_BM: Tensor | None
    """None: without NCE."""
    feature_BD: Tensor | None
    """None: without L1."""


class PretrainNet(nn.Module):
    """IMU encoder and, as the losses need them, fusion and predictor; no image encoder.

    What it shares with a student are that student's own modules, under the same names. The image
    encoder stays outside: it must not be trained here, or it collapses (EgoDistill, sec. 3.4).
    """

    image_mean_I: Tensor
    image_std_I: Tensor
    target_mean_D: Tensor
    target_std_D: Tensor

    def __init__(self, student: Student, *, uses_nce: bool, uses_l1: bool) -> None:
        super().__init__()
        assert student.imu is not None and student.image is not None, "pretraining needs both"
        self.imu = student.imu
        image_dim = student.image.feature_dim
        self.register_buffer("image_mean_I", torch.zeros(image_dim))
        self.register_buffer("image_std_I", torch.ones(image_dim))
        self.predictor: nn.Module | None = None
        if uses_nce:
            self.predictor = nn.Sequential(
                nn.Linear(2 * image_dim, PREDICTOR_HIDDEN),
                nn.ReLU(),
                nn.Linear(PREDICTOR_HIDDEN, self.imu.feature_dim),
            )
        self.gru: nn.GRU | None = None
        self.to_feature: nn.Module | None = None
        if uses_l1:
            self.gru = student.gru
            self.to_feature = student.to_feature
            self.register_buffer("target_mean_D", student.target_mean_D.clone())
            self.register_buffer("target_std_D", student.target_std_D.clone())

    def forward(self, ends_B2I: Tensor, frames_BFI: Tensor, imu_BWA: Tensor) -> PretrainOutput:
        """ends: features of the first and the last frame; frames: of those the student sees."""
        imu_BM = self.imu(imu_BWA)
        predicted_BM = feature_BD = None
        if self.predictor is not None:
            predicted_BM = self.predictor(self._scaled(ends_B2I).flatten(1))
        if self.to_feature is not None:
            scaled_BFI = self._scaled(frames_BFI)
            image_BI = scaled_BFI[:, 0]
            if self.gru is not None:
                image_BI = self.gru(scaled_BFI)[1][0]
            feature_BD = self.to_feature(torch.cat([image_BI, imu_BM], dim=1))
        return PretrainOutput(imu_BM, predicted_BM, feature_BD)

    def _scaled(self, image_feature_BFI: Tensor) -> Tensor:
        return (image_feature_BFI - self.image_mean_I) / self.image_std_I


def build_pretrain_net(
    student: Student, *, uses_nce: bool, uses_l1: bool, seed: int
) -> PretrainNet:
    """The same seed gives the same predictor, whatever torch did before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PretrainNet(student, uses_nce=uses_nce, uses_l1=uses_l1)
