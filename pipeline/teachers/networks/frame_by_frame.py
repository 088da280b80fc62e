"""What teachers that know single images share: every frame by itself, then the mean over time."""

# B batch, C channels, T frames, H height, W width, D feature width, n frames at once, N of all

from collections.abc import Callable

import torch
from torch import Tensor

DEFAULT_FRAMES = 8
FRAMES_OPTION = ("auto", "1", "2", "4", "8", "16", "32")
"""What `frames=` may be; auto is 8, or what a video network was trained with."""
EVENLY = float("inf")
"""A stride_s that no window is long enough for: frames then lie evenly over the whole window."""
FRAMES_AT_ONCE = 32
"""A bound on memory: 4 clips of 32 frames would otherwise be a batch of 128 images."""


def num_frames(frames: str) -> int:
    """How many frames an image network sees of a clip."""
    return DEFAULT_FRAMES if frames == "auto" else int(frames)


def mean_over_frames(encode: Callable[[Tensor], Tensor], video_BCTHW: Tensor) -> Tensor:
    """(B, D): the mean of encode's (n, D) over the clip's frames, which it gets as (n, C, H, W)."""
    frames_BTCHW = video_BCTHW.transpose(1, 2)
    chunks = torch.split(frames_BTCHW.flatten(0, 1), FRAMES_AT_ONCE)
    feature_ND = torch.cat([encode(chunk_nCHW) for chunk_nCHW in chunks])
    return feature_ND.view(*frames_BTCHW.shape[:2], -1).mean(dim=1)
