"""Teachers from Hugging Face transformers: a hub name, hf:ORG/MODEL, or a folder, hf:./FOLDER.

Where a model's processor squeezes frames into a shape, ours keep their aspect and are cut, as
everywhere in egoctl; frames that have the model's shape already are prepared alike.
"""

# B batch, C channels or classes, T frames, H height, W width, D feature width

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import (
    Checkpoint,
    read_checkpoint,
    state_sha256,
)
from egoctl.pipeline.teachers.networks import frame_by_frame, hf_files
from egoctl.pipeline.teachers.networks.hf_families import FAMILIES, Family
from egoctl.pipeline.teachers.networks.hf_files import PREFIX
from egoctl.pipeline.teachers.protocol import TeacherFacts, name_with
from egoctl.pipeline.teachers.tapped import TappedTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo, net_with_weights

CLASSIFIER = "classifier"
OPTIONS = {"frames": frame_by_frame.FRAMES_OPTION}
WEIGHTS_LICENCES = {
    "MCG-NJU/videomae-base": "CC BY-NC 4.0",
    "facebook/timesformer-base-finetuned-k400": "CC BY-NC 4.0",
    "facebook/dinov2-base": "Apache-2.0",
    "google/siglip-base-patch16-224": "Apache-2.0",
    "depth-anything/Depth-Anything-V2-Small-hf": "Apache-2.0",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What a folder or hub page contains."""

    place: str
    model_type: str
    has_head: bool
    config: Any
    """An object of the library's class of configs."""
    spec: TeacherSpec

    @property
    def family(self) -> Family:
        return FAMILIES[self.model_type]

    @property
    def class_name(self) -> str:
        """The library's class that is built."""
        head = self.family.classifier if self.has_head else None
        return head or self.family.model


class HfTeacher:
    """A Teacher without classes: a network's feature, pooled as its family does."""

    def __init__(
        self, spec: TeacherSpec, weights: WeightsInfo, net: nn.Module, family: Family
    ) -> None:
        self.spec = spec
        self.weights = weights
        self.body = net.eval().requires_grad_(False)
        self._family = family

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D); for an image network, the mean over the frames."""
        if self._family.frames_field is None:
            return frame_by_frame.mean_over_frames(self._encoded, video_BCTHW)
        return self._encoded(video_BCTHW.transpose(1, 2))

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, 0)."""
        return feature_BD[:, :0]

    def _encoded(self, pixels: Tensor) -> Tensor:
        return self._family.feature(self.body(pixels))


class HfClassifier(TappedTeacher):
    """A TrainableTeacher: the feature is what the checkpoint's own classifier reads."""

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D): the classifier's input, which the library still calls logits."""
        feature_BD = self.body(video_BCTHW.transpose(1, 2)).logits
        assert isinstance(feature_BD, Tensor)
        return feature_BD


def spec(name: str, *, frames: str = "auto") -> TeacherSpec:
    """The spec by the model's config and processor; it contains nothing of a folder's path.

    Raises:
        EgoctlError: if they cannot be had, or the model is of a type that is not supported.
    """
    return _published(name, frames).spec


def facts(name: str) -> TeacherFacts:
    """Licences and origin."""
    place = hf_files.place_of(name)
    is_local = hf_files.is_local(place)
    return TeacherFacts(
        code_licence="Apache-2.0 (transformers)",
        weights_licence=WEIGHTS_LICENCES.get(place, "see its model card"),
        weights_from=f"the folder {place}" if is_local else f"https://huggingface.co/{place}",
        note="a folder tells no origin; ask whoever made it" if is_local else "",
    )


def load(
    name: str, *, weights: str, device: torch.device, frames: str = "auto"
) -> HfTeacher | HfClassifier:
    """The teacher on the device; weights as in lineup.load_teacher, 'default' those of the place.

    Raises:
        EgoctlError: as spec, or if the weights cannot be had or do not fit.
    """
    found = _published(name, frames)
    if weights.partition(":")[0] == "random":
        net, info = net_with_weights(
            found.spec.name,
            weights,
            build=lambda num_classes: _built(found, num_classes, None),
            head_key=f"{CLASSIFIER}.weight",
            num_classes=found.spec.num_classes,
            default=None,
        )
        return _teacher(found, info, net, device)
    is_default = weights == "default"
    checkpoint = (
        hf_files.read_weights(found.place) if is_default else read_checkpoint(Path(weights))
    )
    num_classes = found.spec.num_classes
    if found.has_head and f"{CLASSIFIER}.weight" in checkpoint.state:
        num_classes = len(checkpoint.state[f"{CLASSIFIER}.weight"])
    names = _class_names(found.config) if is_default else checkpoint.class_names
    if found.has_head and names is not None and len(names) != num_classes:
        raise EgoctlError(
            f"{checkpoint.origin} has a classifier of {num_classes} classes and names for "
            f"{len(names)}. Save it again with one name per class."
        )
    net = _built(found, num_classes, checkpoint)
    info = WeightsInfo(
        source="default" if is_default else "file",
        sha256=state_sha256(net.state_dict()),
        is_random=False,
        class_names=names if found.has_head else None,
        trained_on=checkpoint.trained_on,
    )
    return _teacher(found, info, net, device)


def _published(name: str, frames: str) -> Published:
    place = hf_files.place_of(name)
    raw = hf_files.read_config(place)
    model_type = raw["model_type"]
    family = FAMILIES.get(model_type)
    if family is None:
        raise EgoctlError(
            f"{name} is a model of type {model_type}, which is no teacher here. "
            f"Supported types: {', '.join(FAMILIES)}."
        )
    has_head = family.classifier in (raw.get("architectures") or [])
    config = hf_files.read_typed_config(place, family.model)
    pixels = hf_files.read_pixels(place, is_video=family.frames_field is not None)
    num_frames, stride_s = _sampling(name, family, config, frames, pixels.rate_hz)
    if family.has_fixed_size and pixels.crop_px != config.image_size:
        raise EgoctlError(
            f"{name}: its processor gives frames of {pixels.crop_px} px and its network takes "
            f"{config.image_size} px. Correct crop_size or size in its preprocessor_config.json."
        )
    shown = f"{PREFIX}{model_type}" if hf_files.is_local(place) else name
    is_usual = family.frames_field is not None or num_frames == frame_by_frame.DEFAULT_FRAMES
    return Published(
        place=place,
        model_type=model_type,
        has_head=has_head,
        config=config,
        spec=TeacherSpec(
            name=shown if is_usual else name_with(shown, {"frames": str(num_frames)}),
            num_frames=num_frames,
            stride_s=stride_s,
            short_side_px=pixels.short_side_px,
            crop_px=pixels.crop_px,
            mean=pixels.mean,
            std=pixels.std,
            channel_order="rgb",
            tap=CLASSIFIER if has_head else family.tap,
            feature_dim=getattr(config, "backbone_config", config).hidden_size,
            num_classes=config.num_labels if has_head else 0,
        ),
    )


def _sampling(
    name: str, family: Family, config: Any, frames: str, rate_hz: float | None
) -> tuple[int, float]:
    """How many frames, and how many seconds apart."""
    if family.frames_field is None:
        return frame_by_frame.num_frames(frames), frame_by_frame.EVENLY
    own = int(getattr(config, family.frames_field))
    if frames not in ("auto", str(own)):
        raise EgoctlError(f"{name} looks at {own} frames, not {frames}. Leave out frames=.")
    if rate_hz is not None:
        return own, 1 / rate_hz
    return own, family.strides_s.get(own, frame_by_frame.EVENLY)


def _built(found: Published, num_classes: int, checkpoint: Checkpoint | None) -> nn.Module:
    """The network with the checkpoint's weights, or with random ones, as float32 on the CPU."""
    family = found.family
    transformers = hf_files.transformers_library()
    config = type(found.config).from_dict(found.config.to_dict())
    if found.has_head:
        config.num_labels = num_classes
    kind = getattr(transformers, found.class_name)
    settings = {"attn_implementation": family.attention, "dtype": torch.float32}
    with hf_files.quiet():
        if checkpoint is None:
            net = kind._from_config(config, **settings)
        else:
            net = _loaded(kind, config, found.spec.name, checkpoint, settings)
    if family.part is not None and not found.has_head:
        net = net.get_submodule(family.part)
    assert isinstance(net, nn.Module)
    return net


def _loaded(
    kind: Any, config: Any, name: str, checkpoint: Checkpoint, settings: Mapping[str, Any]
) -> nn.Module:
    net, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=checkpoint.state,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **settings,
    )
    # What it does not need, such as a decoder or a text tower, may be there.
    lacking = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if lacking:
        raise EgoctlError(
            f"{checkpoint.origin} does not fit teacher {name}: {len(lacking)} weights are missing "
            f"or of another shape ({', '.join(lacking[:3])}). Pass weights of {name}."
        )
    assert isinstance(net, nn.Module)
    return net


def _teacher(
    found: Published, info: WeightsInfo, net: nn.Module, device: torch.device
) -> HfTeacher | HfClassifier:
    net = net.to(device)
    if not found.has_head:
        return HfTeacher(found.spec, info, net, found.family)
    num_classes = len(net.get_submodule(CLASSIFIER).weight)  # type: ignore[arg-type]
    return HfClassifier(replace(found.spec, num_classes=num_classes), info, net)


def _class_names(config: Any) -> tuple[str, ...] | None:
    """None where the config has only the library's stand-ins, LABEL_0 and so on."""
    names = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    stand_ins = tuple(f"LABEL_{index}" for index in range(config.num_labels))
    return None if names == stand_ins else names
