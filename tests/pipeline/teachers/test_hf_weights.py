"""Weights of teachers from transformers, in files, random and fitted; and what is refused."""

# B batch, C classes, D feature width

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.checkpoints import save_checkpoint
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_spec
from egoctl.pipeline.teachers.protocol import network_output
from egoctl.tests.worlds.hf_folders import edit_json, save_classifier, save_model
from egoctl.tests.worlds.hub_world import CPU, clips_of

pytest_plugins = ["egoctl.tests.worlds.hub_world"]
pytestmark = pytest.mark.usefixtures("no_hub")


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
        ("config.json", "[]", "its config.json tells no model_type"),
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
