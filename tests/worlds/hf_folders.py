"""Tiny untrained models of Hugging Face's classes, saved as the hub has them: for tests."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CLASS_NAMES = ("cut", "stir", "wash")


def config_of(model_type: str, **changes: Any) -> Any:
    """A network of 32 channels for frames of 32 px; video networks look at 4 (V-JEPA 2: 8)."""
    vit = {**SMALL, "image_size": 32, "patch_size": 8, "intermediate_size": 48}
    if model_type == "videomae":
        return transformers.VideoMAEConfig(
            **{**vit, "num_frames": 4, "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1,
               "decoder_num_attention_heads": 2, "decoder_intermediate_size": 48, **changes}
        )  # fmt: skip
    if model_type == "timesformer":
        return transformers.TimesformerConfig(**{**vit, "num_frames": 4, **changes})
    if model_type == "vjepa2":
        return transformers.VJEPA2Config(
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8,
               "crop_size": 32, "frames_per_clip": 8, "pred_hidden_size": 24, "mlp_ratio": 2,
               "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1, **changes}
        )  # fmt: skip
    if model_type == "dinov2":
        return transformers.Dinov2Config(**{**SMALL, "image_size": 56, "patch_size": 8, **changes})
    if model_type == "dinov3_vit":
        return transformers.DINOv3ViTConfig(**{**vit, **changes})
    if model_type == "siglip":
        return transformers.SiglipConfig(vision_config=vit, text_config={**_text(), **changes})
    if model_type == "clip":
        return transformers.CLIPConfig(
            vision_config={**vit, "projection_dim": 16},
            text_config={**_text(), "projection_dim": 16},
            projection_dim=16,
        )
    assert model_type == "depth_anything"
    backbone = transformers.Dinov2Config(
        **SMALL, image_size=32, patch_size=8, out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )  # fmt: skip
    return transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=8, reassemble_hidden_size=32,
        reassemble_factors=[1, 1], neck_hidden_sizes=[8, 8], fusion_hidden_size=8,
        head_hidden_size=8,
    )  # fmt: skip


WHOLE = {
    "videomae": "VideoMAEForPreTraining",
    "timesformer": "TimesformerModel",
    "vjepa2": "VJEPA2Model",
    "dinov2": "Dinov2Model",
    "dinov3_vit": "DINOv3ViTModel",
    "siglip": "SiglipModel",
    "clip": "CLIPModel",
    "depth_anything": "DepthAnythingForDepthEstimation",
}
"""What the hub's checkpoints are of."""
CLASSIFIERS = {
    "videomae": "VideoMAEForVideoClassification",
    "timesformer": "TimesformerForVideoClassification",
    "vjepa2": "VJEPA2ForVideoClassification",
}
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "videomae": ("VideoMAEVideoProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "timesformer": ("VideoMAEVideoProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "vjepa2": ("VJEPA2VideoProcessor", {"crop_size": 32}),
    "dinov2": ("BitImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
    "dinov3_vit": ("DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "siglip": ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "depth_anything": (
        "DPTImageProcessor",
        {"size": {"height": 32, "width": 32}, "keep_aspect_ratio": True,
         "ensure_multiple_of": 8},
    ),
}  # fmt: skip


_VIT_B = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16}
_CUT = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 2}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HUB_PAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "videomae-base": (
        {**_VIT_B, "architectures": ["VideoMAEForPreTraining"], "model_type": "videomae",
         "image_size": 224, "num_frames": 16, "tubelet_size": 2, "torch_dtype": "float32"},
        {**_CUT, **_IMAGENET, "feature_extractor_type": "VideoMAEFeatureExtractor",
         "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    ),
    "timesformer-k400": (
        {**_VIT_B, "architectures": ["TimesformerForVideoClassification"], "num_frames": 8,
         "model_type": "timesformer", "image_size": 224,
         "id2label": {str(index): f"class {index}" for index in range(400)}},
        {**_CUT, "feature_extractor_type": "VideoMAEFeatureExtractor",
         "image_mean": [0.45, 0.45, 0.45], "image_std": [0.225, 0.225, 0.225],
         "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}},
    ),
    "vjepa2-vitl": (
        {"architectures": ["VJEPA2Model"], "model_type": "vjepa2", "crop_size": 256,
         "frames_per_clip": 64, "hidden_size": 1024},
        {**_CUT, **_IMAGENET, "video_processor_type": "VJEPA2VideoProcessor",
         "size": {"shortest_edge": 292}, "crop_size": {"height": 256, "width": 256}},
    ),
    "dinov2-base": (
        {**_VIT_B, "architectures": ["Dinov2Model"], "model_type": "dinov2", "image_size": 518},
        {**_CUT, **_IMAGENET, "image_processor_type": "BitImageProcessor",
         "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    ),
    "clip-vit-base": (
        {"architectures": ["CLIPModel"], "model_type": "clip",
         "vision_config": {"model_type": "clip_vision_model", "patch_size": 32}},
        {**_CUT, **_IMAGENET, "feature_extractor_type": "CLIPFeatureExtractor",
         "size": 224, "crop_size": 224},
    ),
}  # fmt: skip


def save_model(
    folder: Path, model_type: str, *, class_name: str | None = None, **changes: Any
) -> Any:
    """Write weights, config and processor into the folder; the network."""
    torch.manual_seed(3)
    net = getattr(transformers, class_name or WHOLE[model_type])(config_of(model_type, **changes))
    for parameter in net.parameters():
        # Untrained networks are all but deaf to what they see.
        torch.nn.init.normal_(parameter, std=0.2)
    net.eval().save_pretrained(folder)
    processor_name, settings = PROCESSORS[model_type]
    getattr(transformers, processor_name)(**settings).save_pretrained(folder)
    return net


def save_classifier(folder: Path, model_type: str, **changes: Any) -> Any:
    """The same with a head of three named classes."""
    names = dict(enumerate(CLASS_NAMES))
    return save_model(
        folder,
        model_type,
        class_name=CLASSIFIERS[model_type],
        **{"id2label": names, "label2id": {v: k for k, v in names.items()}, **changes},
    )


def save_hub_page(folder: Path, page: str) -> None:
    """Write config and processor alone, in the words of years ago that hub pages still have."""
    config, processor = HUB_PAGES[page]
    name = "video_" if "video_processor_type" in processor else ""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / f"{name}preprocessor_config.json").write_text(json.dumps(processor))


def edit_json(file: Path, **changes: object) -> None:
    """Set these entries of the file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _text() -> dict[str, Any]:
    return {**SMALL, "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 8}
