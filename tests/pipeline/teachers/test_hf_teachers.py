"""Teachers from transformers: what config and processor say, and the library's own features."""

# B batch, T frames, C classes, D feature width, H height, W width
# B batch, C classes, D feature width

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import to_pil_image

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_facts, teacher_spec
from egoctl.pipeline.teachers.networks import frame_by_frame
from egoctl.pipeline.teachers.protocol import network_output, targets
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


# === Weights of teachers from transformers, in files, random and fitted; and what is refused ===


# --- weights ---


def test_weights_in_several_files_are_the_same_weights(tmp_path: Path) -> None:
    net = save_model(tmp_path / "one", "dinov2")
    save_model(tmp_path / "many", "dinov2")
    (tmp_path / "many" / "model.safetensors").unlink()
    net.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1

    one, many = (
        load_teacher(f"hf:{tmp_path / name}", weights="default", device=CPU)
        for name in ("one", "many")
    )

    assert one.weights == many.weights
    assert one.weights.source == "default"


def test_random_weights_are_the_same_for_the_same_seed_and_need_no_weights_file(
    tmp_path: Path,
) -> None:
    save_classifier(tmp_path, "videomae")
    (tmp_path / "model.safetensors").unlink()

    first, again, other = (
        load_teacher(f"hf:{tmp_path}", weights=f"random:{seed}", device=CPU) for seed in (1, 1, 2)
    )

    assert first.weights == again.weights != other.weights
    assert first.weights.is_random and first.weights.class_names is None
    assert first.spec.num_classes == 3


def test_a_fitted_classifier_is_saved_and_loaded_with_its_own_classes(tmp_path: Path) -> None:
    save_classifier(tmp_path, "videomae")
    teacher: Any = load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)
    fitted = tmp_path / "fitted.safetensors"
    state = teacher.state()
    state["classifier.weight"] = torch.ones(2, 32)
    state["classifier.bias"] = torch.zeros(2)
    save_checkpoint(fitted, state, class_names=("pour", "peel"))

    found = load_teacher(f"hf:{tmp_path}", weights=str(fitted), device=CPU)

    assert found.spec.num_classes == 2
    assert (found.weights.source, found.weights.class_names) == ("file", ("pour", "peel"))
    feature_BD, logits_BC = network_output(found, clips_of(found))
    torch.testing.assert_close(logits_BC[:, 0], feature_BD.sum(dim=1))


def test_weights_with_names_for_other_classes_than_they_have_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path, "timesformer")
    state = load_file(tmp_path / "model.safetensors")
    save_checkpoint(tmp_path / "odd.safetensors", state, class_names=("pour", "peel"))

    with pytest.raises(EgoctlError, match="classifier of 3 classes and names for 2. Save it again"):
        load_teacher(f"hf:{tmp_path}", weights=str(tmp_path / "odd.safetensors"), device=CPU)


def test_a_classifier_can_be_fitted_body_and_head_apart(tmp_path: Path) -> None:
    net = save_classifier(tmp_path, "videomae")
    teacher: Any = load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)
    trained = {f"body.{name}" for name, _ in teacher.body.named_parameters()}
    trained |= {f"head.{name}" for name, _ in teacher.head.named_parameters()}

    assert {"head.weight", "head.bias"} <= trained
    assert not any("classifier" in name for name in trained)
    assert teacher.state().keys() == net.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in teacher.body.parameters())


def test_a_model_without_a_head_has_nothing_to_fit(tmp_path: Path) -> None:
    save_model(tmp_path, "videomae")

    assert not hasattr(load_teacher(f"hf:{tmp_path}", weights="random:0", device=CPU), "head")


def test_stand_in_class_names_are_no_names(tmp_path: Path) -> None:
    save_classifier(tmp_path, "videomae", id2label={0: "LABEL_0", 1: "LABEL_1"}, label2id={})

    teacher = load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)

    assert (teacher.spec.num_classes, teacher.weights.class_names) == (2, None)


# --- refusals ---


def test_a_model_type_that_is_no_teacher_is_answered_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))

    with pytest.raises(EgoctlError, match="of type bert, .* types: videomae, vjepa2, timesformer"):
        teacher_spec(f"hf:{tmp_path}")


def test_weights_that_lack_a_tensor_are_refused_by_its_name(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(EgoctlError, match=r"hf:dinov2: 1 weights are missing.*layernorm.weight"):
        load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(EgoctlError, match="has no model.safetensors, and pickled weights are not"):
        load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)


def test_a_video_networks_number_of_frames_cannot_be_set(tmp_path: Path) -> None:
    save_model(tmp_path, "videomae")

    with pytest.raises(EgoctlError, match="looks at 4 frames, not 8. Leave out frames="):
        teacher_spec(f"hf:{tmp_path},frames=8")


def test_frames_of_another_size_than_the_network_takes_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, "clip")
    edit_json(tmp_path / "preprocessor_config.json", crop_size={"height": 48, "width": 48})

    with pytest.raises(EgoctlError, match="gives frames of 48 px and its network takes 32 px"):
        teacher_spec(f"hf:{tmp_path}")


def test_one_mean_and_std_are_those_of_every_channel(tmp_path: Path) -> None:
    save_model(tmp_path, "dinov2")
    edit_json(tmp_path / "preprocessor_config.json", image_mean=0.5, image_std=0.25)

    spec = teacher_spec(f"hf:{tmp_path}")

    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        ("config.json", "[]", "its config.json has no model_type"),
        ("config.json", '{"model_type": "dinov2", "hidden_size": "x"}', "had .*hidden_size"),
        ("model.safetensors.index.json", "{", "model.safetensors.index.json of .* cannot be had"),
        ("model.safetensors.index.json", "{}", "model.safetensors.index.json of .*weight_map"),
        ("preprocessor_config.json", '{"image_processor_type": "BitImageProcessor",'
         '"image_mean": [0.5], "size": {"shortest_edge": 36}}', "is for 1 channels, not for RGB"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_of_its_form_is_one_line(
    tmp_path: Path, file_name: str, content: str, message: str
) -> None:
    save_model(tmp_path, "dinov2")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / file_name).write_text(content)

    with pytest.raises(EgoctlError, match=message) as caught:
        load_teacher(f"hf:{tmp_path}", weights="default", device=CPU)

    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_told_as_such() -> None:
    with pytest.raises(EgoctlError, match="no folder './not-here'. Write hf:FOLDER"):
        teacher_spec("hf:./not-here")


# === What such teachers have in common: no package, no hub, and licences ===


@pytest.mark.parametrize(
    ("teacher", "package", "extra"),
    [("hf:facebook/dinov2-base", "transformers", "hf"), ("timm:test_vit", "timm", "timm")],
)
def test_a_missing_package_is_answered_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, teacher: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(
        EgoctlError, match=rf"need the package {package}. pip install 'egoctl\[{extra}\]'"
    ):
        teacher_spec(teacher)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("hf:nobody/no-model", "config.json of nobody/no-model cannot be had"),
        ("timm:nobody/no-model", "timm cannot make hf-hub:nobody/no-model"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_one_line(teacher: str, message: str) -> None:
    with pytest.raises(EgoctlError, match=message) as caught:
        teacher_spec(teacher)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "licence", "page"),
    [
        ("hf:facebook/dinov2-base", "Apache-2.0", "facebook/dinov2-base"),
        ("timm:vit_small_patch14_dinov2", "apache-2.0", "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_licences_are_told_where_they_are_known(teacher: str, licence: str, page: str) -> None:
    facts = teacher_facts(teacher)

    assert facts.weights_licence == licence
    assert facts.weights_from == f"https://huggingface.co/{page}"


@pytest.mark.parametrize("library", ["hf", "timm"])
def test_a_licence_that_is_not_known_is_on_the_models_card(library: str) -> None:
    assert teacher_facts(f"{library}:nobody/no-model").weights_licence == "see its model card"
