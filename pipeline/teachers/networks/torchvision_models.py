"""Teachers from torchvision, with its Kinetics-400 weights."""

from dataclasses import dataclass

import torch
from torchvision.models import get_model, get_model_weights

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import DefaultWeights
from egoctl.pipeline.teachers.networks.mvit_keys import with_torchvision_names
from egoctl.pipeline.teachers.protocol import TeacherFacts
from egoctl.pipeline.teachers.tapped import TappedTeacher, load_tapped


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What torchvision's weights lack in a form that code can read."""

    num_frames: int
    rate_hz: float
    """Frames per second that the weights were evaluated at, from their documentation."""
    tap: str
    feature_dim: int


FAMILIES = {
    "mvit_v1_b": Family(num_frames=16, rate_hz=7.5, tap="head.1", feature_dim=768),
    "mvit_v2_s": Family(num_frames=16, rate_hz=7.5, tap="head.1", feature_dim=768),
    "swin3d_t": Family(num_frames=32, rate_hz=15, tap="head", feature_dim=768),
    # Evaluated on 128 frames (8.5 s). It is convolutional in time, so a clip of 64/30 s at
    # the same rate takes 32; fewer than 14 do not pass its pooling.
    "s3d": Family(num_frames=32, rate_hz=15, tap="classifier.1", feature_dim=1024),
    "r2plus1d_18": Family(num_frames=16, rate_hz=15, tap="fc", feature_dim=512),
}


def spec(name: str) -> TeacherSpec:
    """The spec of a name in FAMILIES: size, mean and std are those of its default weights."""
    family = FAMILIES[name]
    weights = get_model_weights(name).DEFAULT
    transform = weights.transforms()
    return TeacherSpec(
        name=name,
        num_frames=family.num_frames,
        stride_s=1 / family.rate_hz,
        # Some are trained on frames squeezed to a fixed shape, (128, 171) or (256, 256); ours
        # keep their aspect, and the short side is what such a shape and ours have in common.
        short_side_px=min(transform.resize_size),
        crop_px=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        channel_order="rgb",
        tap=family.tap,
        feature_dim=family.feature_dim,
        num_classes=len(weights.meta["categories"]),
    )


def facts(name: str) -> TeacherFacts:
    """Licences and origin of a name in FAMILIES."""
    return TeacherFacts(
        code_licence="BSD-3-Clause (torchvision)",
        weights_licence="BSD-3-Clause (torchvision); trained on Kinetics-400",
        weights_from=get_model_weights(name).DEFAULT.url,
    )


def load(name: str, *, weights: str, device: torch.device) -> TappedTeacher:
    """The teacher on the device; weights as in lineup.load_teacher."""
    default = get_model_weights(name).DEFAULT
    return load_tapped(
        spec(name),
        weights=weights,
        device=device,
        build=lambda num_classes: get_model(name, weights=None, num_classes=num_classes),
        default=DefaultWeights(
            url=default.url,
            has_hash_in_name=True,
            class_names=tuple(default.meta["categories"]),
        ),
        rename=with_torchvision_names if name == "mvit_v1_b" else None,
    )
