"""The model types of transformers that are teachers, and which of their outputs is the feature."""

# B batch, P tokens or patches, D feature width, n frames at once, H height, W width

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What the library's configs do not contain about a model type."""

    model: str
    """Its class without a classifier ..."""
    part: str | None = None
    """... and the module of it that makes the feature, where the rest is not needed."""
    classifier: str | None = None
    tap: str
    """What the feature is, without a classifier."""
    feature: Callable[[Any], Tensor]
    """The same, of what the module gives back."""
    frames_field: str | None = None
    """The config's field with a video model's number of frames; None: it sees single images."""
    attention: str | Mapping[str, str] = "sdpa"
    """How it attends; set here, as a config may name a kernel to be downloaded, which is code."""
    has_fixed_size: bool = False
    """Whether it takes frames of no other size than config.image_size."""
    strides_s: Mapping[int, float] = field(default_factory=dict)
    """By number of frames: how the published weights were trained, in seconds between frames."""


def _mean_token(output: Any) -> Tensor:
    mean_BD = output.last_hidden_state.mean(dim=1)
    assert isinstance(mean_BD, Tensor)
    return mean_BD


def _first_token(output: Any) -> Tensor:
    first_BD = output.last_hidden_state[:, 0]
    assert isinstance(first_BD, Tensor)
    return first_BD


def _pooled(output: Any) -> Tensor:
    assert isinstance(output.pooler_output, Tensor)
    return output.pooler_output


def _mean_patch(output: Any) -> Tensor:
    last_nPD = output.feature_maps[-1]
    assert isinstance(last_nPD, Tensor)
    if last_nPD.ndim == 4:  # (n, D, H, W), as some configs want it
        return last_nPD.mean(dim=(2, 3))
    return last_nPD[:, 1:].mean(dim=1)  # the first is no patch but the class token


_CLIP = Family(
    model="CLIPVisionModel", tap="pooler_output", feature=_pooled, has_fixed_size=True
)  # fmt: skip
_SIGLIP = replace(_CLIP, model="SiglipVisionModel")
FAMILIES = {
    # Kinetics-400, 16 frames at rate 4 of 30 fps (Tong et al. 2022, arXiv:2203.12602, app. B).
    "videomae": Family(
        model="VideoMAEModel",
        classifier="VideoMAEForVideoClassification",
        tap="mean of last_hidden_state",
        feature=_mean_token,
        frames_field="num_frames",
        has_fixed_size=True,
        strides_s={16: 4 / 30},
    ),
    # 64 frames at 4 fps (Assran et al. 2025, arXiv:2506.09985). What follows the encoder, the
    # predictor, has no part in the feature.
    "vjepa2": Family(
        model="VJEPA2Model",
        part="encoder",
        classifier="VJEPA2ForVideoClassification",
        tap="mean of encoder.last_hidden_state",
        feature=_mean_token,
        frames_field="frames_per_clip",
        strides_s={64: 1 / 4},
    ),
    # Base 8x32, HR 16x16 and L 96x4 at 30 fps (Bertasius et al. 2021, arXiv:2102.05095).
    "timesformer": Family(
        model="TimesformerModel",
        classifier="TimesformerForVideoClassification",
        tap="last_hidden_state[:, 0]",
        feature=_first_token,
        frames_field="num_frames",
        attention="eager",
        strides_s={8: 32 / 30, 16: 16 / 30, 96: 4 / 30},
    ),
    "dinov2": Family(model="Dinov2Model", tap="pooler_output", feature=_pooled),
    "dinov3_vit": Family(model="DINOv3ViTModel", tap="pooler_output", feature=_pooled),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "depth_anything": Family(
        model="DepthAnythingForDepthEstimation",
        part="backbone",
        tap="mean patch of backbone.feature_maps[-1]",
        feature=_mean_patch,
        attention={"": "eager", "backbone_config": "sdpa"},
    ),
}
