"""The student's IMU branch: a dilated causal CNN over the clip's 422 samples.

The network is the one of Brossard et al. 2020 ("Denoising IMU Gyroscopes with Deep Learning for
Open-Loop Attitude Estimation"), which EgoDistill names; its parameter names are kept.
"""

# B batch, W IMU samples, A IMU axes (6), M output channels

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoctl.student.model.student_config import ImuLastForm, ImuReadout

NUM_AXES = 6
KERNEL = 7
CHANNELS = (16, 32, 64, 128)
DILATIONS = (1, 4, 16, 64)
PADDING = (KERNEL - 1) * sum(DILATIONS)
RECEPTIVE_FIELD = PADDING + 1
"""511 samples, more than a clip's 422: only the last output has seen the whole clip."""
STRIDE = 4
"""Each dilation is this times the one before it, which is what makes the short way exact."""


class ImuEncoder(nn.Module):
    """IMU windows (B, W, 6) to features (B, feature_dim).

    Read-outs of the (B, M, W) output: its mean over time, its last step, or all of it.

    last_form: how read-out last is computed in training. exact: the last step alone. full: every
    step, of which the last is taken: then BatchNorm's statistics, also those kept for eval mode,
    are of all positions instead of those that the last step needs. Eval mode is always exact.
    """

    mean_u: Tensor
    std_u: Tensor

    def __init__(
        self, *, out: int, readout: ImuReadout, num_samples: int, last_form: ImuLastForm = "exact"
    ) -> None:
        super().__init__()
        self.last_form = last_form
        self.readout = readout
        self.feature_dim = out * num_samples if readout == "flatten" else out
        self.register_buffer("mean_u", torch.zeros(NUM_AXES))
        self.register_buffer("std_u", torch.ones(NUM_AXES))
        layers: list[nn.Module] = [nn.ReplicationPad1d((PADDING, 0))]
        channels = NUM_AXES
        for wider, dilation in zip(CHANNELS, DILATIONS, strict=True):
            layers += [
                nn.Conv1d(channels, wider, KERNEL, dilation=dilation),
                nn.BatchNorm1d(wider),
                nn.GELU(),
                nn.Dropout(0.1),
            ]
            channels = wider
        layers.append(nn.Conv1d(channels, out, 1))
        self.cnn = nn.Sequential(*layers)

    def forward(self, imu_BWA: Tensor) -> Tensor:
        """(B, feature_dim)."""
        is_exact = self.last_form == "exact" or not self.training
        if self.readout == "last" and is_exact:
            return self.last_step(imu_BWA)
        out_BMW = self.all_steps(imu_BWA)
        if self.readout == "last":
            return out_BMW[..., -1]
        return out_BMW.mean(dim=-1) if self.readout == "mean" else out_BMW.flatten(1)

    def all_steps(self, imu_BWA: Tensor) -> Tensor:
        """(B, M, W): one output per sample, each from that sample and those before it."""
        return cast(Tensor, self.cnn(self._scaled(imu_BWA)))

    def last_step(self, imu_BWA: Tensor) -> Tensor:
        """(B, M): all_steps(...)[..., -1] for about a fortieth of the work.

        The last output needs every 4th, 16th, 64th position of the inner layers only, so a
        dilated convolution becomes one of stride 4 on the last 511 samples. The same in eval
        mode; in train mode BatchNorm's statistics come from those positions alone.
        """
        hidden = self._scaled(imu_BWA)[..., -RECEPTIVE_FIELD:]
        hidden = F.pad(hidden, (RECEPTIVE_FIELD - hidden.shape[-1], 0), mode="replicate")
        for layer in list(self.cnn)[1:]:
            if isinstance(layer, nn.Conv1d) and layer.kernel_size[0] == KERNEL:
                hidden = F.conv1d(hidden, layer.weight, layer.bias, stride=STRIDE)
            else:
                hidden = layer(hidden)
        return hidden[..., 0]

    def _scaled(self, imu_BWA: Tensor) -> Tensor:
        return ((imu_BWA - self.mean_u) / self.std_u).transpose(1, 2)
