"""The students: one frame (or a few) and head IMU in, the teacher's feature and logits out."""

# B batch, N frames, H height, W width or IMU samples, A IMU axes (6)
# I image feature width, M IMU feature width, D teacher feature width, C classes

from typing import NamedTuple, Protocol, Self, cast

import torch
from torch import Tensor, nn

from egoctl.student.model.image_encoder import ImageEncoder, build_image_encoder
from egoctl.student.model.imu_encoder import ImuEncoder
from egoctl.student.model.student_config import StudentConfig

GRU_WIDTH = 512


class StudentOutput(NamedTuple):
    """z, in the units it is trained in (B, D), and raw class logits (B, C)."""

    feature_BD: Tensor
    logits_BC: Tensor


class Student(nn.Module):
    """EgoDistill's student, or one of its two single-sensor variants.

    Image and IMU: concat -> FC -> ReLU -> FC = z. One sensor: one linear layer = z (the paper's
    VisOnly "without the IMU branch and fusion layer"). Then z -> FC -> logits.
    """

    image_mean_I: Tensor
    image_std_I: Tensor
    target_mean_D: Tensor
    target_std_D: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.image: ImageEncoder | None = None
        self.gru: nn.GRU | None = None
        self.imu: ImuEncoder | None = None
        image_dim = imu_dim = 0
        if config.parts.uses_image:
            self.image = build_image_encoder(config.image_encoder, config.image_weights)
            image_dim = self.image.feature_dim
            self.register_buffer("image_mean_I", torch.zeros(image_dim))
            self.register_buffer("image_std_I", torch.ones(image_dim))
            if config.freeze_image_encoder:
                self.image.requires_grad_(False)
            if config.num_frames > 1:
                self.gru = nn.GRU(image_dim, GRU_WIDTH, batch_first=True)
                image_dim = GRU_WIDTH
        if config.parts.uses_imu:
            self.imu = ImuEncoder(
                out=config.imu_out,
                readout=config.imu_readout,
                num_samples=config.imu_samples,
                last_form=config.imu_last_form,
            )
            imu_dim = self.imu.feature_dim
        self.to_feature: nn.Module = nn.Linear(image_dim + imu_dim, config.teacher_dim)
        if config.parts.uses_image and config.parts.uses_imu:
            self.to_feature = nn.Sequential(
                nn.Linear(image_dim + imu_dim, config.fusion_hidden),
                nn.ReLU(),
                nn.Linear(config.fusion_hidden, config.teacher_dim),
            )
        self.to_logits = nn.Linear(config.teacher_dim, config.num_classes)
        self.register_buffer("target_mean_D", torch.zeros(config.teacher_dim))
        self.register_buffer("target_std_D", torch.ones(config.teacher_dim))

    def train(self, mode: bool = True) -> Self:
        """As nn.Module's, but a frozen image encoder stays in eval mode: BatchNorm would move."""
        super().train(mode)
        if self.image is not None and self.config.freeze_image_encoder:
            self.image.eval()
        return self

    def forward(
        self,
        *,
        frames_BNHW3: Tensor | None = None,
        image_feature_BNI: Tensor | None = None,
        imu_BWA: Tensor | None = None,
    ) -> StudentOutput:
        """Frames (uint8) or, of a frozen encoder, their features; IMU with its mean removed.

        Raises:
            ValueError: if an input that the method needs is missing.
        """
        sensors: list[Tensor] = []
        if self.image is not None:
            if image_feature_BNI is None:
                if frames_BNHW3 is None:
                    raise ValueError(f"{self.config.method} needs frames or their features")
                image_feature_BNI = self.image(frames_BNHW3)
            sensors.append(self._over_frames(image_feature_BNI))
        if self.imu is not None:
            if imu_BWA is None:
                raise ValueError(f"{self.config.method} needs IMU")
            sensors.append(self.imu(imu_BWA))
        feature_BD = self.to_feature(torch.cat(sensors, dim=1))
        return StudentOutput(feature_BD, self.to_logits(feature_BD))

    def in_teacher_units(self, feature_BD: Tensor) -> Tensor:
        """z as the teacher's feature, also where it was trained on standardised targets."""
        return feature_BD * self.target_std_D + self.target_mean_D

    def _over_frames(self, image_feature_BNI: Tensor) -> Tensor:
        scaled_BNI = (image_feature_BNI - self.image_mean_I) / self.image_std_I
        if self.gru is None:
            return scaled_BNI[:, 0]
        _, last_1BI = self.gru(scaled_BNI)
        return cast(Tensor, last_1BI[0])


def build_student(config: StudentConfig, *, seed: int) -> Student:
    """A new student; the same seed gives the same initial weights, whatever torch did before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(config)


def num_parameters(student: Student) -> int:
    """All of them, trained or frozen."""
    return sum(parameter.numel() for parameter in student.parameters())


class Scaled(Protocol):
    """What keeps the mean and the std of its inputs and of its target."""

    image_mean_I: Tensor
    image_std_I: Tensor
    target_mean_D: Tensor
    target_std_D: Tensor


MIN_STD = 1e-6
"""A dimension that does not vary is centred, not blown up."""


def set_statistics(net: Scaled, image_feature_NFI: Tensor | None, target_ND: Tensor | None) -> None:
    """Mean and std of the train split, kept with the weights so that evaluation repeats them.

    What is None is not scaled.
    """
    if image_feature_NFI is not None:
        flat = image_feature_NFI.flatten(0, 1).double()
        net.image_mean_I.copy_(flat.mean(dim=0))
        net.image_std_I.copy_(flat.std(dim=0).clamp(min=MIN_STD))
    if target_ND is not None:
        target = target_ND.double()
        net.target_mean_D.copy_(target.mean(dim=0))
        net.target_std_D.copy_(target.std(dim=0).clamp(min=MIN_STD))
