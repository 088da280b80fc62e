"""Teachers from transformers: what config and processor say, and the library's own features."""

# B batch, T frames, C classes, D feature width, H height, W width

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torchvision.transforms.functional import to_pil_image

from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_spec
from egoctl.pipeline.teachers.networks import frame_by_frame
from egoctl.pipeline.teachers.protocol import targets
from egoctl.tests.worlds.extract_world import World, draw_colours, store_files
from egoctl.tests.worlds.hf_folders import (
    WHOLE,
    edit_json,
    save_classifier,
    save_hub_page,
    save_model,
)
from egoctl.tests.worlds.hub_world import CPU, clips_of

pytest_plugins = ["egoctl.tests.worlds.hub_world"]
pytestmark = pytest.mark.usefixtures("no_hub")
VIDEO = ("videomae", "timesformer", "vjepa2")


def own_pixels(folder: Path, frames_THW3: torch.Tensor, *, is_video: bool) -> torch.Tensor:
    """What the folder's own processor makes of frames that have the network's size already."""
    pictures = [to_pil_image(frame_HW3.numpy()) for frame_HW3 in frames_THW3]
    if is_video:
        processor = transformers.AutoVideoProcessor.from_pretrained(folder)
        found = processor(
            [np.stack([np.asarray(one) for one in pictures])], do_resize=False, return_tensors="pt"
        )
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        found = processor(pictures, do_resize=False, return_tensors="pt")
    (pixels,) = found.values()
    assert isinstance(pixels, torch.Tensor)
    return pixels


OWN_FEATURE: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "videomae": lambda net, x: net.videomae(x).last_hidden_state.mean(dim=1),
    "timesformer": lambda net, x: net(x).last_hidden_state[:, 0],
    "vjepa2": lambda net, x: net.get_vision_features(x).mean(dim=1),
    "dinov2": lambda net, x: net(x).last_hidden_state[:, 0],
    "dinov3_vit": lambda net, x: net(x).last_hidden_state[:, 0],
    "siglip": lambda net, x: net.vision_model(x).pooler_output,
    "clip": lambda net, x: net.vision_model(x).pooler_output,
    "depth_anything": lambda net, x: net.backbone(x).feature_maps[-1][:, 1:].mean(dim=1),
}
"""Of the network as the hub has it, whole; per clip, or per frame."""


# --- the spec is the checkpoint's own ---


def test_a_spec_is_derived_from_config_and_processor(tmp_path: Path) -> None:
    save_model(tmp_path, "videomae", num_frames=16)

    spec = teacher_spec(f"hf:{tmp_path}")

    assert spec.num_frames == 16
    assert spec.stride_s == pytest.approx(4 / 30)
    assert (spec.short_side_px, spec.crop_px) == (36, 32)
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert spec.channel_order == "rgb"
    assert (spec.feature_dim, spec.num_classes) == (32, 0)
    assert spec.tap == "mean of last_hidden_state"


def test_a_folders_name_and_place_are_not_in_the_spec(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")

    assert teacher_spec(f"hf:{tmp_path}").name == "hf:dinov2"
    assert teacher_spec(f"hf:{tmp_path},frames=4").name == "hf:dinov2,frames=4"
    assert teacher_spec(f"hf:{tmp_path},frames=8") == teacher_spec(f"hf:{tmp_path}")


def test_an_image_network_looks_at_frames_evenly_over_any_window(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")

    assert teacher_spec(f"hf:{tmp_path}").num_frames == 8
    assert teacher_spec(f"hf:{tmp_path},frames=16").num_frames == 16
    assert teacher_spec(f"hf:{tmp_path}").stride_s == float("inf")


def test_a_processor_that_tells_frames_per_second_is_believed(tmp_path: Path) -> None:
    save_model(tmp_path, "vjepa2")
    edit_json(tmp_path / "video_preprocessor_config.json", fps=4)

    assert teacher_spec(f"hf:{tmp_path}").stride_s == 0.25


def test_a_processor_that_does_not_normalise_is_believed(tmp_path: Path) -> None:
    save_model(tmp_path, "clip")
    edit_json(tmp_path / "preprocessor_config.json", do_normalize=False)

    spec = teacher_spec(f"hf:{tmp_path}")

    assert (spec.mean, spec.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("page", "num_frames", "stride_s", "sizes", "feature_dim", "num_classes", "tap"),
    [
        ("videomae-base", 16, 4 / 30, (224, 224), 768, 0, "mean of last_hidden_state"),
        ("timesformer-k400", 8, 32 / 30, (224, 224), 768, 400, "classifier"),
        ("vjepa2-vitl", 64, 1 / 4, (292, 256), 1024, 0, "mean of encoder.last_hidden_state"),
        ("dinov2-base", 8, float("inf"), (256, 224), 768, 0, "pooler_output"),
        ("clip-vit-base", 8, float("inf"), (224, 224), 768, 0, "pooler_output"),
    ],
)
def test_files_as_hub_pages_have_them_are_understood(
    tmp_path: Path,
    page: str,
    num_frames: int,
    stride_s: float,
    sizes: tuple[int, int],
    feature_dim: int,
    num_classes: int,
    tap: str,
) -> None:
    save_hub_page(tmp_path, page)

    spec = teacher_spec(f"hf:{tmp_path}")

    assert spec.num_frames == num_frames
    assert spec.stride_s == pytest.approx(stride_s)
    assert (spec.short_side_px, spec.crop_px) == sizes
    assert (spec.feature_dim, spec.num_classes, spec.tap) == (feature_dim, num_classes, tap)


# --- features are the library's ---


@pytest.mark.parametrize("model_type", WHOLE)
def test_the_feature_is_what_processor_and_network_give(tmp_path: Path, model_type: str) -> None:
    net = save_model(tmp_path, model_type)
    teacher = load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)
    frames_BTHW3 = clips_of(teacher)

    found = targets(teacher, frames_BTHW3)

    is_video = model_type in VIDEO
    for feature_D, frames_THW3 in zip(found.feature_ND, frames_BTHW3, strict=True):
        pixels = own_pixels(tmp_path, frames_THW3, is_video=is_video)
        with torch.inference_mode():
            wanted_D = OWN_FEATURE[model_type](net, pixels).mean(dim=0)
        np.testing.assert_allclose(feature_D, wanted_D, rtol=1e-4, atol=1e-5)
    assert np.abs(found.feature_ND[0] - found.feature_ND[1]).max() > 1e-3, "else it sees nothing"
    assert found.logits_NC.shape == (2, 0)


@pytest.mark.parametrize("model_type", VIDEO)
def test_a_classifiers_logits_are_the_librarys_and_follow_from_the_feature(
    tmp_path: Path, model_type: str
) -> None:
    net = save_classifier(tmp_path, model_type)
    teacher = load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)
    frames_BTHW3 = clips_of(teacher)

    found = targets(teacher, frames_BTHW3)

    for logits_C, frames_THW3 in zip(found.logits_NC, frames_BTHW3, strict=True):
        with torch.inference_mode():
            wanted_1C = net(own_pixels(tmp_path, frames_THW3, is_video=True)).logits
        np.testing.assert_allclose(logits_C, wanted_1C[0], rtol=1e-4, atol=1e-5)
    by_hand_NC = found.feature_ND @ net.classifier.weight.detach().numpy().T
    by_hand_NC += net.classifier.bias.detach().numpy()
    np.testing.assert_allclose(found.logits_NC, by_hand_NC, rtol=1e-4, atol=1e-5)
    assert (teacher.spec.tap, teacher.spec.num_classes) == ("classifier", 3)
    assert teacher.weights.class_names == ("cut", "stir", "wash")


def test_frames_go_through_an_image_network_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path, "clip")
    teacher = load_teacher(f"hf:{tmp_path},frames=4", weights="default", device=CPU)
    frames_BTHW3 = clips_of(teacher, 3)
    at_once = targets(teacher, frames_BTHW3).feature_ND

    monkeypatch.setattr(frame_by_frame, "FRAMES_AT_ONCE", 5)

    np.testing.assert_allclose(targets(teacher, frames_BTHW3).feature_ND, at_once, atol=1e-5)


def test_a_store_of_a_folders_teacher_tells_nothing_of_the_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "secret-place", "clip")
    world = World(folder=tmp_path / "world")
    draw_colours(world.videos / "a.mp4", seconds=3)
    manifest = world.manifest(
        [{"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 3}], stride_s=0.5
    )
    teacher = load_teacher(f"hf:{tmp_path / 'secret-place'}", weights="default", device=CPU)

    report = world.extract(manifest, teacher=teacher, inputs_url=None)

    store = FeatureStore.open(world.teacher_url)
    assert (report.num_read, report.failures) == (3, [])
    assert store.array_specs() == {"feature": ((3, 32), "float32")}
    assert np.isfinite(store.read("feature", np.arange(3))).all()
    assert store.header.recipe["teacher"] == "hf:clip"
    assert store.header.recipe["stride_s"] == 0.25  # the window of 2 s in 8
    assert not any(b"secret-place" in content for content in store_files(store.url).values())
