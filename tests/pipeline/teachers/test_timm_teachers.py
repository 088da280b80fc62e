"""Teachers from timm: what its configs say, and its own features, frame by frame."""

# B batch, T frames, C channels or classes, D feature width, H height, W width

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_spec
from egoctl.pipeline.teachers.protocol import targets
from egoctl.tests.worlds.hub_world import CPU, clips_of

pytest_plugins = ["egoctl.tests.worlds.hub_world"]
pytestmark = pytest.mark.usefixtures("no_hub")


def saved(folder: Path, name: str = "test_vit", **settings: Any) -> Any:
    """An untrained network in a folder as the hub has them; the network."""
    torch.manual_seed(3)
    config = settings.pop("config", {})
    net = timm.create_model(name, **settings).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_for_hf(net, str(folder), model_config=config, safe_serialization=True)
    return net


def own_transform(net: Any) -> Any:
    """timm's own preparation of a picture, without resizing what has the network's size."""
    data = timm.data.resolve_model_data_config(net)
    return timm.data.create_transform(**{**data, "crop_pct": 1.0})


def test_a_spec_is_derived_from_timms_config_of_the_weights() -> None:
    spec = teacher_spec("timm:vit_small_patch14_dinov2")

    assert (spec.name, spec.num_frames) == ("timm:vit_small_patch14_dinov2", 8)
    assert spec.stride_s == float("inf")
    assert (spec.short_side_px, spec.crop_px) == (518, 518)
    assert (spec.mean, spec.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (spec.tap, spec.feature_dim, spec.num_classes) == ("pooled features", 384, 0)


def test_a_crop_share_tells_the_short_side() -> None:
    spec = teacher_spec("timm:resnet18,frames=4")

    assert (spec.short_side_px, spec.crop_px) == (235, 224)  # 224 / 0.95
    assert (spec.name, spec.num_frames) == ("timm:resnet18,frames=4", 4)
    assert (spec.tap, spec.feature_dim, spec.num_classes) == ("fc", 512, 1000)


def test_a_projection_that_timm_calls_a_classifier_is_none() -> None:
    spec = teacher_spec("timm:vit_base_patch16_clip_224.openai")

    assert (spec.feature_dim, spec.num_classes) == (768, 0)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_feature_is_what_timm_gives_per_frame_averaged(
    tmp_path: Path, num_classes: int
) -> None:
    names = {"label_names": ["cut", "stir", "wash"]} if num_classes else {}
    net = saved(tmp_path, num_classes=num_classes, config=names)
    teacher = load_teacher(f"timm:{tmp_path},frames=2", weights="default", device=CPU)
    frames_BTHW3 = clips_of(teacher)

    found = targets(teacher, frames_BTHW3)

    transform = own_transform(net)
    for clip in range(2):
        pictures = [transform(to_picture(frame_HW3.numpy())) for frame_HW3 in frames_BTHW3[clip]]
        with torch.inference_mode():
            tokens = net.forward_features(torch.stack(pictures))
            wanted_TD = net.forward_head(tokens, pre_logits=True)
            logits_TC = net.forward_head(tokens)
        np.testing.assert_allclose(found.feature_ND[clip], wanted_TD.mean(0), rtol=1e-4, atol=1e-5)
        if num_classes:
            np.testing.assert_allclose(
                found.logits_NC[clip], logits_TC.mean(0), rtol=1e-4, atol=1e-4
            )
    assert found.logits_NC.shape == (2, num_classes)
    assert np.abs(found.feature_ND[0] - found.feature_ND[1]).max() > 1e-3, "else it sees nothing"


def test_a_folders_place_is_not_in_the_spec_and_its_class_names_are_known(tmp_path: Path) -> None:
    saved(tmp_path, num_classes=3, config={"label_names": ["cut", "stir", "wash"]})

    teacher = load_teacher(f"timm:{tmp_path}", weights="default", device=CPU)

    assert teacher.spec.name == "timm:test_vit"
    assert teacher.weights.class_names == ("cut", "stir", "wash")
    assert (teacher.weights.source, teacher.weights.is_random) == ("default", False)


def test_random_weights_are_the_same_for_the_same_seed() -> None:
    first, again, other = (
        load_teacher("timm:test_vit", weights=f"random:{seed}", device=CPU) for seed in (1, 1, 2)
    )

    assert first.weights == again.weights != other.weights


def test_a_fitted_classifier_is_saved_and_loaded_with_its_own_classes(tmp_path: Path) -> None:
    teacher: Any = load_teacher("timm:test_resnet", weights="random:0", device=CPU)
    state = teacher.state() | {"fc.weight": torch.ones(2, 96), "fc.bias": torch.zeros(2)}
    save_checkpoint(tmp_path / "fitted.safetensors", state, class_names=("pour", "peel"))

    found = load_teacher(
        "timm:test_resnet", weights=str(tmp_path / "fitted.safetensors"), device=CPU
    )

    assert found.spec.num_classes == 2
    assert found.weights.class_names == ("pour", "peel")
    assert not any(name.startswith("fc.") for name, _ in teacher.body.named_parameters())


def test_weights_of_a_network_without_classes_are_loaded_from_a_file(tmp_path: Path) -> None:
    net = saved(tmp_path, num_classes=0)
    file = tmp_path / "model.safetensors"

    teacher = load_teacher(f"timm:{tmp_path}", weights=str(file), device=CPU)

    assert teacher.weights.source == "file"
    default = load_teacher(f"timm:{tmp_path}", weights="default", device=CPU)
    assert teacher.weights.sha256 == default.weights.sha256
    assert teacher.spec.feature_dim == net.num_features


def test_an_unknown_model_is_answered_with_the_nearest() -> None:
    with pytest.raises(EgoctlError, match="timm has no model 'resnet19'. Near it: resnet"):
        teacher_spec("timm:resnet19")


def test_published_weights_that_cannot_be_fetched_are_one_line() -> None:
    with pytest.raises(EgoctlError, match="timm cannot make test_vit .* Check the name and the"):
        load_teacher("timm:test_vit", weights="default", device=CPU)


def to_picture(frame_HW3: Any) -> Any:
    """As a PIL image, which timm's transforms begin with."""
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(frame_HW3)
