"""Teachers from torchvision, with its Kinetics-400 weights."""

import re
from dataclasses import dataclass

import torch
from torchvision.models import get_model, get_model_weights

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import DefaultWeights, StateDict
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


# pytorchvideo's names of the weights of MViT-B, 16x4, and torchvision's.
_MVIT_NAMES = (
    (r"^patch_embed\.patch_model\.", "conv_proj."),
    (r"^cls_positional_encoding\.cls_token$", "pos_encoding.class_token"),
    (r"^cls_positional_encoding\.pos_embed_spatial$", "pos_encoding.spatial_pos"),
    (r"^cls_positional_encoding\.pos_embed_temporal$", "pos_encoding.temporal_pos"),
    (r"^cls_positional_encoding\.pos_embed_class$", "pos_encoding.class_pos"),
    (r"\.attn\.proj\.", ".attn.project.0."),
    (r"\.attn\.pool_([qkv])\.", r".attn.pool_\1.pool."),
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm_act.0."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
    (r"^norm_embed\.", "norm."),
    (r"^head\.proj\.", "head.1."),
)
_OF_ONE_LINEAR = re.compile(r"(.*\.attn)\.q\.(weight|bias)")


def with_torchvision_names(state: StateDict) -> StateDict:
    """The same weights for torchvision's mvit_v1_b; those that have its names are returned as is.

    pytorchvideo keeps query, key and value apart, which are one layer in torchvision.
    """
    if "cls_positional_encoding.cls_token" not in state:
        return state
    renamed: StateDict = {}
    for key, value in state.items():
        if joined := _OF_ONE_LINEAR.fullmatch(key):
            stem, kind = joined.groups()
            # One that is missing makes a wrong shape, which loading refuses.
            names = [f"{stem}.{part}.{kind}" for part in "qkv"]
            renamed[f"{stem}.qkv.{kind}"] = torch.cat([state[n] for n in names if n in state])
        elif not re.search(r"\.attn\.[kv]\.", key):
            for pattern, name in _MVIT_NAMES:
                key = re.sub(pattern, name, key)
            if key.startswith("pos_encoding.class"):
                value = value.flatten()
            elif key.startswith("pos_encoding."):
                value = value.flatten(0, -2)
            renamed[key] = value
    return renamed
