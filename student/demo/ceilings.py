"""Ceilings of accuracy in the demo world: small networks on un-rendered trajectories.

A ceiling here is the accuracy of a network that is given the true scene at the clip's centre, the
IMU, or both, with more segments than the demo renders. It is a practical reference for the
students' accuracies, not a proof of the best possible one.
"""

# N segments, W IMU samples, A IMU axes (6), L latents, C classes

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from egoctl.student.model.imu_encoder import ImuEncoder

CLIP_SAMPLES = 422
HIDDEN = 256
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectories:
    """Segments of the demo world without pictures: the file that `write_trajectories` makes."""

    imu_NWA: NDArray[np.float32]
    latents_NL: NDArray[np.float32]
    """Kind of thing (one-hot), its side, and the hand's place at the segment's middle."""
    label_N: NDArray[np.int64]
    is_test_N: NDArray[np.bool_]

    @classmethod
    def read(cls, path: Path) -> "Trajectories":
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})


class _Reference(nn.Module):
    def __init__(self, num_latents: int, num_classes: int, sees: str) -> None:
        super().__init__()
        self.sees = sees
        self.imu = ImuEncoder(out=HIDDEN, readout="last", num_samples=CLIP_SAMPLES)
        width = {"image": num_latents, "imu": HIDDEN, "both": num_latents + HIDDEN}[sees]
        self.head = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes)
        )

    def forward(self, imu_BWA: Tensor, latents_BL: Tensor) -> Tensor:
        seen: list[Tensor] = []
        if self.sees != "imu":
            seen.append(latents_BL)
        if self.sees != "image":
            seen.append(self.imu(imu_BWA))
        logits_BC = self.head(torch.cat(seen, dim=1))
        assert isinstance(logits_BC, Tensor)
        return logits_BC


def ceiling(path: Path, *, sees: str, seed: int, epochs: int) -> float:
    """Test accuracy (0 to 1) of a network that sees 'image' (true latents), 'imu' or 'both'."""
    data = Trajectories.read(path)
    imu_NWA = torch.from_numpy(data.imu_NWA)
    latents_NL = torch.from_numpy(data.latents_NL)
    label_N = torch.from_numpy(data.label_N)
    train_N = torch.from_numpy(np.flatnonzero(~data.is_test_N))
    test_N = torch.from_numpy(np.flatnonzero(data.is_test_N))
    torch.manual_seed(seed)
    net = _Reference(latents_NL.shape[1], int(label_N.max()) + 1, sees)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE)
    steps_per_epoch = len(train_N) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=LEARNING_RATE, total_steps=epochs * steps_per_epoch
    )
    num_offsets = imu_NWA.shape[1] - CLIP_SAMPLES + 1
    for _ in range(epochs):
        order_N = train_N[torch.randperm(len(train_N))][: steps_per_epoch * BATCH_SIZE]
        for chosen in order_N.reshape(-1, BATCH_SIZE):
            first = int(torch.randint(num_offsets, ()))
            logits_BC = net(_clip(imu_NWA[chosen], first), latents_NL[chosen])
            loss = F.cross_entropy(logits_BC, label_N[chosen])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.inference_mode():
        # As for students: softmax averaged over a segment's clips.
        offsets = (0, (num_offsets - 1) // 2, num_offsets - 1)
        logits = [net(_clip(imu_NWA[test_N], first), latents_NL[test_N]) for first in offsets]
        predicted_N = sum(F.softmax(each, dim=1) for each in logits).argmax(dim=1)  # type: ignore[union-attr]
    return float((predicted_N == label_N[test_N]).float().mean())


def _clip(imu_BWA: Tensor, first: int) -> Tensor:
    window_BWA = imu_BWA[:, first : first + CLIP_SAMPLES]
    return window_BWA - window_BWA.mean(dim=1, keepdim=True)
