"""MViT-B, 16x4, has two homes: pytorchvideo's names of its weights as torchvision's."""

import re

import torch

from egoctl.pipeline.teachers.checkpoints import StateDict

_RENAMED = (
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
            for pattern, name in _RENAMED:
                key = re.sub(pattern, name, key)
            if key.startswith("pos_encoding.class"):
                value = value.flatten()
            elif key.startswith("pos_encoding."):
                value = value.flatten(0, -2)
            renamed[key] = value
    return renamed
