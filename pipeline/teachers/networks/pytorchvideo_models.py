"""Teachers from pytorchvideo's model zoo: X3D, SlowFast and MViT on Kinetics-400."""

# B batch, C channels, T frames, H height, W width

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import DefaultWeights
from egoctl.pipeline.teachers.protocol import TeacherFacts
from egoctl.pipeline.teachers.tapped import Pack, TappedTeacher, load_tapped

SLOW_EVERY = 4
"""SlowFast's slow pathway sees every 4th frame."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """How a hub entry is called, and how its input is packed."""

    module: str
    """The module of pytorchvideo.models.hub that lists the entry's checkpoint."""
    classes_argument: str
    tap: str
    feature_dim: int
    arguments: tuple[tuple[str, Any], ...] = ()
    pack: Pack | None = None


def slow_and_fast(video_BCTHW: Tensor) -> list[Tensor]:
    """[slow, fast]: T // 4 frames spread from the first to the last, and all T."""
    num_frames = video_BCTHW.shape[2]
    index = torch.linspace(0, num_frames - 1, num_frames // SLOW_EVERY).long()
    return [video_BCTHW[:, :, index.to(video_BCTHW.device)], video_BCTHW]


X3D = Family(
    module="x3d",
    classes_argument="model_num_class",
    tap="blocks.5.proj",
    feature_dim=2048,
    # The hub's head ends in a softmax, which would be taken of the feature.
    arguments=(("head_activation", None),),
)
SLOWFAST = Family(
    module="slowfast",
    classes_argument="model_num_class",
    tap="blocks.6.proj",
    feature_dim=2304,
    pack=slow_and_fast,
)
MVIT = Family(
    module="vision_transformers",
    classes_argument="head_num_classes",
    tap="head.proj",
    feature_dim=768,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One hub entry and the input it was trained on."""

    family: Family
    num_frames: int
    stride: int
    """In frames at 30 fps, as the model zoo counts."""
    short_side_px: int
    crop_px: int


ENTRIES = {
    "x3d_xs": Entry(family=X3D, num_frames=4, stride=12, short_side_px=182, crop_px=160),
    "x3d_s": Entry(family=X3D, num_frames=13, stride=6, short_side_px=182, crop_px=160),
    "x3d_m": Entry(family=X3D, num_frames=16, stride=5, short_side_px=256, crop_px=224),
    "x3d_l": Entry(family=X3D, num_frames=16, stride=5, short_side_px=356, crop_px=312),
    "slowfast_r50": Entry(family=SLOWFAST, num_frames=32, stride=2, short_side_px=256, crop_px=224),
    "slowfast_r101": Entry(
        family=SLOWFAST, num_frames=32, stride=2, short_side_px=256, crop_px=224
    ),
    "mvit_base_16x4": Entry(family=MVIT, num_frames=16, stride=4, short_side_px=256, crop_px=224),
}


def spec(name: str) -> TeacherSpec:
    """The spec of a name in ENTRIES."""
    entry = ENTRIES[name]
    return TeacherSpec(
        name=name,
        num_frames=entry.num_frames,
        stride_s=entry.stride / 30,
        short_side_px=entry.short_side_px,
        crop_px=entry.crop_px,
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        channel_order="rgb",
        tap=entry.family.tap,
        feature_dim=entry.family.feature_dim,
        num_classes=400,
    )


def facts(name: str) -> TeacherFacts:
    """Licences and origin of a name in ENTRIES."""
    return TeacherFacts(
        code_licence="Apache-2.0 (pytorchvideo)",
        weights_licence="Apache-2.0 (pytorchvideo); trained on Kinetics-400",
        weights_from=_checkpoint_url(name),
    )


def load(name: str, *, weights: str, device: torch.device) -> TappedTeacher:
    """The teacher on the device; weights as in lineup.load_teacher."""
    family = ENTRIES[name].family
    hub = _hub()

    def build(num_classes: int) -> nn.Module:
        arguments = {**dict(family.arguments), family.classes_argument: num_classes}
        net = getattr(hub, name)(pretrained=False, **arguments)
        assert isinstance(net, nn.Module)
        for module in net.modules():
            # The norms of MViT's pooled attention were left at torch's 1e-5; its weights were
            # trained with 1e-6, as torchvision's copy has it: features differ by 6e-4.
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
        return net

    return load_tapped(
        spec(name),
        weights=weights,
        device=device,
        build=build,
        default=DefaultWeights(
            url=_checkpoint_url(name),
            has_hash_in_name=False,
            class_names=None,
        ),
        pack=family.pack,
    )


def _checkpoint_url(name: str) -> str:
    return str(getattr(_hub(), ENTRIES[name].family.module).checkpoint_paths[name])


def _hub() -> ModuleType:
    with warnings.catch_warnings():
        # Importing it imports fvcore's focal loss, which is scripted; nothing here uses that.
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.script.* is deprecated", category=FutureWarning
        )
        from pytorchvideo.models import hub
    assert isinstance(hub, ModuleType)
    return hub
