"""MotionFormer as a teacher: the published variants, their inputs, and their checkpoints."""

# B batch, C channels, T frames, H height, W width, D feature width, K classes of all heads

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import Checkpoint, DefaultWeights, StateDict
from egoctl.pipeline.teachers.networks.motionformer import (
    MotionFormer,
    MotionFormerConfig,
    Positions,
)
from egoctl.pipeline.teachers.protocol import TeacherFacts, name_with
from egoctl.pipeline.teachers.weights import WeightsInfo, net_of_shape

HOST = "https://dl.fbaipublicfiles.com/motionformer/"
EPIC_HEADS = (97, 300)
"""Verbs and nouns of EPIC-KITCHENS-100."""
KINETICS_HEADS = (400,)
DROP_PATH = 0.2
OPTIONS = {
    "form": ("lean", "shortcut", "plain"),
    "trajectory": ("original", "corrected"),
    "tap": ("pre_logits", "norm_cls"),
    "heads": ("published", "any"),
    "fit": ("whole", "partial"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A published network and what it was trained on."""

    file: str
    """Below HOST."""
    config: MotionFormerConfig
    stride: int
    """In frames at 30 fps."""
    channel_order: str
    """EPIC's frames were read by OpenCV and never turned, so its networks want BGR."""


def _epic(file: str, stride: int, config: MotionFormerConfig) -> Variant:
    config = replace(config, head_sizes=EPIC_HEADS)
    return Variant(file=file, config=config, stride=stride, channel_order="bgr")


def _kinetics(file: str, stride: int, config: MotionFormerConfig) -> Variant:
    config = replace(config, head_sizes=KINETICS_HEADS)
    return Variant(file=file, config=config, stride=stride, channel_order="rgb")


_BASE = MotionFormerConfig(drop_path=DROP_PATH)
_HIGH = replace(_BASE, crop_px=336)
_LONG = replace(_BASE, num_frames=32)
VARIANTS = {
    "motionformer": _epic("ek_motionformer_224_16x4.pyth", 4, _BASE),
    "motionformer_hr": _epic("ek_motionformer_336_16x4.pyth", 4, _HIGH),
    "motionformer_l": _epic("ek_motionformer_224_32x3.pyth", 3, _LONG),
    "motionformer_k400": _kinetics("k400_motionformer_224_16x4.pyth", 4, _BASE),
    "motionformer_k400_hr": _kinetics("k400_motionformer_336_16x8.pyth", 8, _HIGH),
    "motionformer_k400_l": _kinetics("k400_motionformer_224_32x3.pyth", 3, _LONG),
    "motionformer_k400_joint": _kinetics(
        "k400_joint_224_16x4.pyth", 4, replace(_BASE, attention="joint")
    ),
    "motionformer_k400_divided": _kinetics(
        "k400_divided_224_16x4.pyth", 4, replace(_BASE, attention="divided")
    ),
}


class MotionFormerTeacher:
    """A TrainableTeacher of a MotionFormer; its heads' logits lie side by side."""

    def __init__(self, spec: TeacherSpec, weights: WeightsInfo, net: MotionFormer) -> None:
        self.spec = spec
        self.weights = weights
        self.net = net.eval().requires_grad_(False)

    @property
    def body(self) -> nn.Module:
        return self.net

    @property
    def head(self) -> nn.Module:
        """The heads, one or several; they are part of the body."""
        return nn.ModuleList(self.net.get_submodule(name) for name in self.net.config.head_names)

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D)."""
        return self.net.feature(video_BCTHW)

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, K), without a softmax; verbs, then nouns, where there are both."""
        return torch.cat(self.net.logits(feature_BD), dim=1)

    def unite_heads(self, num_classes: int) -> bool:
        """One head in place of several: the first of so many classes, or a new one (then True)."""
        config = self.net.config
        fitting = [
            name
            for name, size in zip(config.head_names, config.head_sizes, strict=True)
            if size == num_classes
        ]
        head = nn.Linear(config.width, num_classes).to(self.net.cls_token.device)
        if fitting:
            head.load_state_dict(self.net.get_submodule(fitting[0]).state_dict())
        for name in config.head_names:
            delattr(self.net, name)
        self.net.head = head.requires_grad_(False)
        self.net.config = replace(config, head_sizes=(num_classes,))
        self.spec = replace(self.spec, num_classes=num_classes, head_sizes=())
        return not fitting

    def state(self) -> StateDict:
        """All weights, under the published names."""
        return self.net.state_dict()


def spec(name: str, **options: str) -> TeacherSpec:
    """The spec of a name in VARIANTS with some of OPTIONS."""
    variant = VARIANTS[name]
    return _spec(name_with(name, options), variant, _config(variant, **options))


def facts(name: str) -> TeacherFacts:
    """Licences and origin of a name in VARIANTS."""
    data = "trained on Kinetics-400"
    if VARIANTS[name].config.head_sizes == EPIC_HEADS:
        data = (
            "trained on EPIC-KITCHENS-100's training split, which EgoDistill's evaluation "
            "participants P30, P35 and P37 are part of"
        )
    return TeacherFacts(
        code_licence="Apache-2.0 (written for egoctl from a description)",
        weights_licence="CC BY-NC 4.0 (facebookresearch/Motionformer): not for commercial use",
        weights_from=HOST + VARIANTS[name].file,
        note=f"{data}; its published cost is that of form=plain, other forms give equal features",
    )


def load(name: str, *, weights: str, device: torch.device, **options: str) -> MotionFormerTeacher:
    """The teacher on the device; weights as in lineup.load_teacher.

    Raises:
        EgoctlError: if the weights cannot be had, do not fit, or are another variant's.
    """
    variant = VARIANTS[name]
    full_name = name_with(name, options)
    config = _config(variant, **options)
    takes_any_heads = options.get("heads") == "any"
    net, info = net_of_shape(
        full_name,
        weights,
        build=MotionFormer,
        shape_in=lambda found: _config_in(
            found, full_name, config, variant, takes_any_heads=takes_any_heads
        ),
        shape=config,
        default=DefaultWeights(url=HOST + variant.file, has_hash_in_name=False, class_names=None),
        allow_partial=options.get("fit") == "partial",
    )
    return MotionFormerTeacher(_spec(full_name, variant, net.config), info, net.to(device))


def _config(variant: Variant, **options: str) -> MotionFormerConfig:
    shaping = {key: options.get(key, OPTIONS[key][0]) for key in ("form", "trajectory", "tap")}
    return replace(variant.config, **shaping)  # type: ignore[arg-type]


def _spec(name: str, variant: Variant, config: MotionFormerConfig) -> TeacherSpec:
    sizes = config.head_sizes
    return TeacherSpec(
        name=name,
        num_frames=config.num_frames,
        stride_s=variant.stride / 30,
        short_side_px=config.crop_px,
        crop_px=config.crop_px,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        channel_order=variant.channel_order,
        tap=config.tap,
        feature_dim=config.width,
        num_classes=sum(sizes),
        head_sizes=sizes if len(sizes) > 1 else (),
    )


def _config_in(
    found: Checkpoint,
    name: str,
    config: MotionFormerConfig,
    variant: Variant,
    *,
    takes_any_heads: bool,
) -> MotionFormerConfig:
    """The config with the checkpoint's own heads and positions, unless it is of another network."""
    sizes = _head_sizes(found)
    if not sizes or min(sizes) < 1:
        raise EgoctlError(
            f"{found.origin} does not fit teacher {name}: it has no head.weight or head0.weight. "
            f"Pass a MotionFormer checkpoint, such as {HOST}{variant.file}."
        )
    # Weights that name their classes were made by us, for the manifest that they name.
    if sizes != config.head_sizes and found.class_names is None and not takes_any_heads:
        raise EgoctlError(
            f"{found.origin} has classifiers of {_counts(sizes)} classes, and teacher {name} of "
            f"{_counts(config.head_sizes)}. Pass the teacher that these weights belong to "
            f"({', '.join(_names_with(sizes)) or 'none has such heads'}), or "
            f"--teacher {name_with(name, {'heads': 'any'})}."
        )
    if found.class_names is not None and len(found.class_names) != sum(sizes):
        raise EgoctlError(
            f"{found.origin} names {len(found.class_names)} classes and its classifiers have "
            f"{sum(sizes)}. Save it again with one name per class."
        )
    for what, theirs, ours in _told_differences(found.training_config, config, variant):
        raise EgoctlError(
            f"{found.origin} was trained with {what} {theirs}, and teacher {name} has {ours}. "
            f"Pass the teacher (of {', '.join(VARIANTS)}), or the option, that it belongs to."
        )
    positions: Positions = "joint" if "st_embed" in found.state else "separate"
    return replace(config, head_sizes=sizes, positions=positions)


def _head_sizes(found: Checkpoint) -> tuple[int, ...]:
    """() for a state without a classifier of one class or more."""
    if "head.weight" in found.state:
        return tuple(found.state["head.weight"].shape[:1])
    sizes: list[int] = []
    while (weight := found.state.get(f"head{len(sizes)}.weight")) is not None:
        sizes.extend(weight.shape[:1] or [0])
    return tuple(sizes)


def _told_differences(
    text: str, config: MotionFormerConfig, variant: Variant
) -> Iterator[tuple[str, str, str]]:
    """What is different in the training config beside the weights: tensors do not show these.

    A network for 336 px has the same tensors as one for 224.
    """
    is_original = str(config.trajectory == "original").lower()
    for field_name, what, ours in (
        ("TRAIN_CROP_SIZE", "crops of", str(config.crop_px)),
        ("NUM_FRAMES", "frames:", str(config.num_frames)),
        ("SAMPLING_RATE", "a frame stride of", str(variant.stride)),
        ("ATTN_LAYER", "attention", config.attention),
        ("USE_ORIGINAL_TRAJ_ATTN_CODE", "USE_ORIGINAL_TRAJ_ATTN_CODE", is_original),
    ):
        found = re.search(rf"^\s*{field_name}:\s*['\"]?(\w+)", text, re.MULTILINE)
        if found is not None and found[1].lower() != ours:
            yield what, found[1], ours


def _names_with(sizes: tuple[int, ...]) -> list[str]:
    return [name for name, variant in VARIANTS.items() if variant.config.head_sizes == sizes]


def _counts(sizes: tuple[int, ...]) -> str:
    return " and ".join(map(str, sizes))
