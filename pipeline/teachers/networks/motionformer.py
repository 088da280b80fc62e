"""MotionFormer, the teacher of the EgoDistill paper: a ViT over tubelets of a clip.

Source: Patrick et al. 2021, arXiv:2106.05392. Written from a description of the published
network; the names of its parameters are theirs, so their checkpoints load.
"""

# B batch, T frames, H height, W width, C width (768), F = T / 2 token frames, P patches of each
# N = 1 + F x P tokens, D feature width, K classes

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoctl.pipeline.teachers.networks.motionformer_attention import (
    DividedAttention,
    JointAttention,
    TrajectoryAttention,
    Values,
)

Attention = Literal["trajectory", "joint", "divided"]
Positions = Literal["separate", "joint"]
NetForm = Literal["plain", "shortcut", "lean"]
Tap = Literal["pre_logits", "norm_cls"]
TABLE_SIDE = 14
"""Positions are kept for 14 x 14 patches, whatever the crop; other grids resize them."""
NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionFormerConfig:
    """A network's shape. Defaults: the one published for EPIC-KITCHENS-100, 16x4 at 224 px."""

    num_frames: int = 16
    crop_px: int = 224
    patch_px: int = 16
    patch_frames: int = 2
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    head_sizes: tuple[int, ...] = (97, 300)
    """Classes of each head. One head is called `head`, several `head0`, `head1`, ..."""
    attention: Attention = "trajectory"
    trajectory: Values = "original"
    """What released checkpoints were trained with; 'corrected' gives them other features."""
    positions: Positions = "separate"
    tap: Tap = "pre_logits"
    """The feature: after the tanh that the class layer sits on, or the class token before it."""
    form: NetForm = "plain"
    """How it is computed, with equal outputs. plain: as published. shortcut: without the products
    that cancel. lean: and without the last block's patches, which nothing reads."""
    drop_path: float = 0.0
    """Stochastic depth of the last block while training; linearly less before (published: 0.2)."""

    def __post_init__(self) -> None:
        for name, got, choices in (
            ("attention", self.attention, get_args(Attention)),
            ("trajectory", self.trajectory, get_args(Values)),
            ("positions", self.positions, get_args(Positions)),
            ("tap", self.tap, get_args(Tap)),
            ("form", self.form, get_args(NetForm)),
        ):
            if got not in choices:
                raise ValueError(f"{name} is {' or '.join(choices)}, got {got!r}")
        if self.num_frames % self.patch_frames:
            raise ValueError(f"{self.num_frames} frames are no tubelets of {self.patch_frames}")
        if self.crop_px < 1 or self.crop_px % self.patch_px:
            raise ValueError(f"a crop of {self.crop_px} px is not cut into {self.patch_px} px")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} does not divide among {self.num_heads} heads")
        if not self.head_sizes or min(self.head_sizes) < 1:
            raise ValueError(f"head_sizes must name classes for each head, got {self.head_sizes}")
        if self.positions == "joint" and self.side != TABLE_SIDE:
            raise ValueError(f"joint positions are for 224 px only, got {self.crop_px}")

    @property
    def token_frames(self) -> int:
        return self.num_frames // self.patch_frames

    @property
    def side(self) -> int:
        """Patches along a side of the crop."""
        return self.crop_px // self.patch_px

    @property
    def head_names(self) -> tuple[str, ...]:
        if len(self.head_sizes) == 1:
            return ("head",)
        return tuple(f"head{number}" for number in range(len(self.head_sizes)))


class _Patches(nn.Module):
    def __init__(self, proj: nn.Module) -> None:
        super().__init__()
        self.proj = proj


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class _PreLogits(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x))


class Block(nn.Module):
    """A pre-norm transformer block; with divided attention, time comes before space."""

    def __init__(self, config: MotionFormerConfig, *, drop_path: float, is_for_class: bool) -> None:
        super().__init__()
        width = config.width
        self.drop_path = drop_path
        self.is_for_class = is_for_class
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn: nn.Module
        self.timeattn: nn.Module | None = None
        if config.attention == "trajectory":
            self.attn = TrajectoryAttention(
                width,
                config.num_heads,
                values=config.trajectory,
                form="plain" if config.form == "plain" else "shortcut",
            )
        elif config.attention == "joint":
            self.attn = JointAttention(width, config.num_heads)
        else:
            self.attn = DividedAttention(width, config.num_heads, over="space")
            self.timeattn = DividedAttention(width, config.num_heads, over="time")
            self.norm3 = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = _Mlp(width, config.mlp_ratio * width)

    def forward(self, x_BNC: Tensor, num_frames: int) -> Tensor:
        """(B, N, C); (B, 1, C), the class token, of a block that is only asked for it."""
        if self.timeattn is not None:
            x_BNC = x_BNC + self.timeattn(self.norm3(x_BNC), num_frames)
        if self.is_for_class and isinstance(self.attn, TrajectoryAttention):
            x_BNC = x_BNC[:, :1] + self._dropped(self.attn.of_class(self.norm1(x_BNC)))
        else:
            x_BNC = x_BNC + self._dropped(self.attn(self.norm1(x_BNC), num_frames))
        return x_BNC + self._dropped(self.mlp(self.norm2(x_BNC)))

    def _dropped(self, x_BNC: Tensor) -> Tensor:
        """Stochastic depth: of some clips of a training batch, nothing."""
        if not self.training or self.drop_path == 0:
            return x_BNC
        keep = 1 - self.drop_path
        is_kept_B11 = torch.rand(len(x_BNC), 1, 1, device=x_BNC.device, dtype=x_BNC.dtype) < keep
        return x_BNC * is_kept_B11 / keep


class MotionFormer(nn.Module):
    """The whole network; `patch_embed`, which nothing uses, is in the published files too."""

    def __init__(self, config: MotionFormerConfig) -> None:
        super().__init__()
        self.config = config
        width, patch_px = config.width, config.patch_px
        tubelet = (config.patch_frames, patch_px, patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, TABLE_SIDE**2 + 1, width))
        if config.positions == "separate":
            self.temp_embed = nn.Parameter(torch.zeros(1, config.token_frames, width))
        else:
            num_tokens = config.token_frames * TABLE_SIDE**2 + 1
            self.st_embed = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.patch_embed = _Patches(nn.Conv2d(3, width, patch_px, stride=patch_px))
        self.patch_embed_3d = _Patches(nn.Conv3d(3, width, tubelet, stride=tubelet))
        self.blocks = nn.ModuleList(
            Block(
                config,
                drop_path=config.drop_path * index / max(config.depth - 1, 1),
                is_for_class=config.form == "lean" and index == config.depth - 1,
            )
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.pre_logits = _PreLogits(width)
        for name, num_classes in zip(config.head_names, config.head_sizes, strict=True):
            self.add_module(name, nn.Linear(width, num_classes))
        self.apply(_initialise)
        for name, parameter in self.named_parameters(recurse=False):
            if name != "temp_embed":
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, frames_BCTHW: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The feature (B, D), and raw logits (B, K) of each head.

        Raises:
            ValueError: if the frames are not of the config's count and size.
        """
        feature_BD = self.feature(frames_BCTHW)
        return feature_BD, self.logits(feature_BD)

    def feature(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, D), at the config's tap; between -1 and 1 for 'pre_logits'."""
        x_BNC = self.tokens(frames_BCTHW)
        for block in self.blocks:
            x_BNC = block(x_BNC, self.config.token_frames)
        # Of all tokens, as published, so that costs are counted of the same thing.
        class_BD: Tensor = self.norm(x_BNC)[:, 0]
        return class_BD if self.config.tap == "norm_cls" else self.pre_logits(class_BD)

    def logits(self, feature_BD: Tensor) -> tuple[Tensor, ...]:
        """Raw logits (B, K) of each head, from a feature of the config's tap."""
        if self.config.tap == "norm_cls":
            feature_BD = self.pre_logits(feature_BD)
        return tuple(getattr(self, name)(feature_BD) for name in self.config.head_names)

    def tokens(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, N, C): what the first block sees."""
        config = self.config
        wanted = (3, config.num_frames, config.crop_px, config.crop_px)
        if frames_BCTHW.ndim != 5 or frames_BCTHW.shape[1:] != wanted:
            raise ValueError(f"wanted frames (B, {wanted}), got {tuple(frames_BCTHW.shape)}")
        patches_BSC = self.patch_embed_3d.proj(frames_BCTHW).flatten(2).transpose(1, 2)
        class_B1C = self.cls_token.expand(len(frames_BCTHW), -1, -1)
        return torch.cat([class_B1C, patches_BSC], dim=1) + self.positions()

    def positions(self) -> Tensor:
        """(1, N, C): of every token; the class token has a place, but no time."""
        if self.config.positions == "joint":
            return self.st_embed
        class_11C, table_1PC = torch.split(self.pos_embed, [1, TABLE_SIDE**2], dim=1)
        if self.config.side != TABLE_SIDE:
            # As published: bicubic, corners not aligned.
            table_1CHW = torch.unflatten(table_1PC.transpose(1, 2), 2, (TABLE_SIDE, TABLE_SIDE))
            size = (self.config.side, self.config.side)
            resized = F.interpolate(table_1CHW, size=size, mode="bicubic", align_corners=False)
            table_1PC = resized.flatten(2).transpose(1, 2)
        of_patches_1FPC = self.temp_embed.unsqueeze(2) + table_1PC.unsqueeze(1)
        return torch.cat([class_11C, of_patches_1FPC.flatten(1, 2)], dim=1)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
