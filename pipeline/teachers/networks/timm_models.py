"""Teachers from timm: image networks, seen frame by frame, such as timm:vit_small_patch14_dinov2.

A name is timm's own, with or without its tag; a folder, timm:./FOLDER; or the hub's ORG/MODEL.
"""

# B batch, C channels or classes, T frames, H height, W width, D feature width, n frames at once

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import state_sha256
from egoctl.pipeline.teachers.networks import frame_by_frame
from egoctl.pipeline.teachers.protocol import TeacherFacts, name_with
from egoctl.pipeline.teachers.tapped import TappedTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo, net_of_shape, net_with_weights

PREFIX = "timm:"
OPTIONS = {"frames": frame_by_frame.FRAMES_OPTION}
NO_HEAD = "pooled features"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A network of timm's, by its config."""

    place: str
    """What timm.create_model takes."""
    class_names: tuple[str, ...] | None
    spec: TeacherSpec

    def build(self, num_classes: int, *, pretrained: bool = False) -> nn.Module:
        net = _timm().create_model(self.place, pretrained=pretrained, num_classes=num_classes)
        assert isinstance(net, nn.Module)
        return net


class TimmTeacher:
    """A Teacher without classes: the network's pooled features, averaged over the frames."""

    def __init__(self, spec: TeacherSpec, weights: WeightsInfo, net: nn.Module) -> None:
        self.spec = spec
        self.weights = weights
        self.body = net.eval().requires_grad_(False)

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D)."""
        return frame_by_frame.mean_over_frames(self.body, video_BCTHW)

    def logits(self, feature_BD: Tensor) -> Tensor:
        """(B, 0)."""
        return feature_BD[:, :0]


class TimmClassifier(TappedTeacher):
    """A TrainableTeacher: the features are what the network's classifier, spec.tap, reads.

    Logits are linear in the feature, so they are the mean of the frames' logits.
    """

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        """(B, D)."""
        return frame_by_frame.mean_over_frames(self.body, video_BCTHW)


def spec(name: str, *, frames: str = "auto") -> TeacherSpec:
    """The spec by timm's config of the weights; it contains nothing of a folder's path.

    Raises:
        EgoctlError: if timm has no such network, or its config cannot be had.
    """
    return _published(name, frames).spec


def facts(name: str) -> TeacherFacts:
    """Licences and origin, by timm's own records."""
    config = None
    if "/" not in name:
        config = _timm().models.get_pretrained_cfg(name.removeprefix(PREFIX))
    if config is None:
        return TeacherFacts(
            code_licence="Apache-2.0 (timm)",
            weights_licence="see its model card",
            weights_from=name.removeprefix(PREFIX),
        )
    on_hub = f"https://huggingface.co/{config.hf_hub_id}"
    return TeacherFacts(
        code_licence="Apache-2.0 (timm)",
        weights_licence=config.license or "see its model card",
        weights_from=on_hub if config.hf_hub_id else config.url or "none are published",
    )


def load(
    name: str, *, weights: str, device: torch.device, frames: str = "auto"
) -> TimmTeacher | TimmClassifier:
    """The teacher on the device; weights as in lineup.load_teacher.

    Raises:
        EgoctlError: as spec, or if the weights cannot be had or do not fit.
    """
    found = _published(name, frames)
    if weights == "default":
        with _one_line_errors(found.place):
            net = found.build(found.spec.num_classes, pretrained=True)
        info = WeightsInfo(
            source="default",
            sha256=state_sha256(net.state_dict()),
            is_random=False,
            class_names=found.class_names,
        )
    elif found.spec.num_classes:
        net, info = net_with_weights(
            found.spec.name,
            weights,
            build=found.build,
            head_key=f"{found.spec.tap}.weight",
            num_classes=found.spec.num_classes,
            default=None,
        )
    else:
        net, info = net_of_shape(
            found.spec.name,
            weights,
            build=found.build,
            shape_in=lambda checkpoint: 0,
            shape=0,
            default=None,
        )
    return _teacher(found.spec, info, net.to(device))


def _teacher(spec: TeacherSpec, info: WeightsInfo, net: nn.Module) -> TimmTeacher | TimmClassifier:
    if not spec.num_classes:
        return TimmTeacher(spec, info, net)
    head = net.get_submodule(spec.tap)
    assert isinstance(head, nn.Linear)
    return TimmClassifier(replace(spec, num_classes=head.out_features), info, net)


def _published(name: str, frames: str) -> Published:
    timm = _timm()
    given = name.removeprefix(PREFIX)
    place, shown = given, name
    if Path(given).expanduser().is_dir() and given:
        place = f"local-dir:{Path(given).expanduser()}"
    elif "/" in given:
        place = f"hf-hub:{given}"
    elif not timm.is_model(given):
        near = difflib.get_close_matches(given, timm.list_models(), n=3, cutoff=0.4)
        raise EgoctlError(f"timm has no model {given!r}. Near it: {', '.join(near) or 'none'}.")
    # On no device: its sizes are wanted, not its weights.
    with _one_line_errors(place), torch.device("meta"):
        net = timm.create_model(place)
    config = net.pretrained_cfg
    if place.startswith("local-dir:"):
        shown = f"{PREFIX}{config['architecture']}"
    head_name, num_classes, class_names = _classes(net)
    num_frames = frame_by_frame.num_frames(frames)
    if num_frames != frame_by_frame.DEFAULT_FRAMES:
        shown = name_with(shown, {"frames": str(num_frames)})
    data = timm.data.resolve_data_config(pretrained_cfg=config)
    crop_px = min(data["input_size"][1:])
    return Published(
        place=place,
        class_names=class_names,
        spec=TeacherSpec(
            name=shown,
            num_frames=num_frames,
            stride_s=frame_by_frame.EVENLY,
            short_side_px=max(crop_px, int(crop_px / data["crop_pct"])),
            crop_px=crop_px,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            channel_order="rgb",
            tap=head_name,
            feature_dim=net.head_hidden_size,
            num_classes=num_classes,
        ),
    )


def _classes(net: Any) -> tuple[str, int, tuple[str, ...] | None]:
    """The classifier's name, number of classes and their names; 0 where it has no true one.

    timm calls CLIP's projection into the space of its texts a classifier, too, so the classes must
    be ImageNet's, by their number, or have names.
    """
    config, head = net.pretrained_cfg, net.get_classifier()
    names = tuple(config.get("label_names") or ())
    is_true = len(names) == net.num_classes or _timm().data.infer_imagenet_subset(net) is not None
    if not isinstance(head, nn.Linear) or not is_true:
        return NO_HEAD, 0, None
    return config["classifier"], head.out_features, names or None


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise EgoctlError(
            f"teachers called {PREFIX}... need the package {error.name}. pip install 'egoctl[timm]'"
        ) from error
    return timm


@contextmanager
def _one_line_errors(place: str) -> Iterator[None]:
    try:
        yield
    # timm's words for what is not there, cannot be read, or does not fit.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EgoctlError(
            f"timm cannot make {place} ({reason}). Check the name and the network, or pass a "
            "folder, as --teacher timm:./FOLDER."
        ) from error
