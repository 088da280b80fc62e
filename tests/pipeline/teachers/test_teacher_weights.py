"""Weights: read strictly, digested by value, never executed."""

import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.checkpoints import read_checkpoint, state_sha256
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.networks import pytorchvideo_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def hub() -> Any:
    return pytorchvideo_models._hub()


@pytest.fixture(scope="module")
def small_net(hub: Any) -> nn.Module:
    """x3d_xs with five classes: the smallest whole network here."""
    torch.manual_seed(5)
    net = hub.x3d_xs(model_num_class=5, head_activation=None).eval()
    assert isinstance(net, nn.Module)
    return net


def test_a_file_gives_its_weights_and_its_number_of_classes(
    small_net: nn.Module, tmp_path: Path
) -> None:
    torch.save({"epoch": 3, "model_state": small_net.state_dict()}, tmp_path / "weights.pyth")
    video_BCTHW = torch.randn(1, 3, 4, 160, 160)

    teacher = load_teacher("x3d_xs", weights=str(tmp_path / "weights.pyth"), device=CPU)

    assert teacher.spec.num_classes == 5
    assert (teacher.weights.source, teacher.weights.is_random) == ("file", False)
    assert teacher.weights.class_names is None
    with torch.inference_mode():
        torch.testing.assert_close(
            teacher.logits(teacher.feature(video_BCTHW)), small_net(video_BCTHW)
        )


@pytest.mark.parametrize("key", [None, "model_state", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_state_dict_is_found_where_training_scripts_put_it(
    key: str | None, prefix: str, tmp_path: Path
) -> None:
    state = {f"{prefix}fc.weight": torch.ones(2, 3), f"{prefix}fc.bias": torch.zeros(2)}
    torch.save({"epoch": 3, key: state} if key else state, tmp_path / "w.pyth")

    found = read_checkpoint(tmp_path / "w.pyth").state

    assert list(found) == ["fc.weight", "fc.bias"]
    assert found["fc.weight"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_safetensors_and_torch_files_of_the_same_weights_have_one_digest(
    small_net: nn.Module, tmp_path: Path
) -> None:
    state = small_net.state_dict()
    torch.save({"model_state": state}, tmp_path / "a.pyth")
    save_file(state, tmp_path / "b.safetensors", metadata={"class_names": '["a","b","c","d","e"]'})

    a = load_teacher("x3d_xs", weights=str(tmp_path / "a.pyth"), device=CPU)
    b = load_teacher("x3d_xs", weights=str(tmp_path / "b.safetensors"), device=CPU)

    assert a.weights.sha256 == b.weights.sha256
    assert b.weights.class_names == ("a", "b", "c", "d", "e")


def test_the_digest_tells_names_dtypes_shapes_and_values_apart_but_not_order() -> None:
    ones = torch.ones(2, 3)
    digest = state_sha256({"a": ones, "b": torch.zeros(1)})

    assert digest == state_sha256({"b": torch.zeros(1), "a": ones.clone()})
    others = [
        {"a": ones, "c": torch.zeros(1)},
        {"a": ones.view(3, 2), "b": torch.zeros(1)},
        {"a": ones.bfloat16(), "b": torch.zeros(1)},
        {"a": ones, "b": torch.full((1,), 1e-30)},
        {"a": ones},
    ]
    assert len({digest, *map(state_sha256, others)}) == 6


def test_random_weights_repeat_for_a_seed_and_leave_the_global_random_state() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)

    torch.manual_seed(7)
    first = load_teacher("x3d_xs", weights="random:1", device=CPU).weights
    found = torch.rand(3)
    again = load_teacher("x3d_xs", weights="random:1", device=CPU).weights
    other = load_teacher("x3d_xs", weights="random:2", device=CPU).weights

    assert first == again
    assert first.sha256 != other.sha256
    assert (first.source, first.is_random, first.class_names) == ("random:1", True, None)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("weights", ["random", "random:", "random:-1", "random:x"])
def test_random_weights_without_a_seed_are_refused(weights: str) -> None:
    with pytest.raises(EgoctlError, match="written random:SEED, as random:0, got"):
        load_teacher("x3d_xs", weights=weights, device=CPU)


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match="no weights file .*gone.pyth.*default, random:SEED"):
        load_teacher("x3d_xs", weights=str(tmp_path / "gone.pyth"), device=CPU)


def test_what_does_not_fit_is_counted_and_named(small_net: nn.Module, tmp_path: Path) -> None:
    state = dict(small_net.state_dict())
    del state["blocks.0.conv.conv_t.weight"]
    state["blocks.0.norm.bias"] = torch.zeros(25)
    state["extra"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")

    with pytest.raises(EgoctlError) as caught:
        load_teacher("x3d_xs", weights=str(tmp_path / "w.safetensors"), device=CPU)

    message = str(caught.value)
    assert "w.safetensors does not fit teacher x3d_xs" in message
    assert "1 missing (blocks.0.conv.conv_t.weight)" in message
    assert "1 unexpected (extra)" in message
    assert "1 of another shape (blocks.0.norm.bias: (25,), wanted (24,))" in message


def test_weights_of_another_network_are_refused(small_net: nn.Module, tmp_path: Path) -> None:
    save_file(small_net.state_dict(), tmp_path / "w.safetensors")

    with pytest.raises(EgoctlError, match="teacher r2plus1d_18: it has no classifier fc.weight"):
        load_teacher("r2plus1d_18", weights=str(tmp_path / "w.safetensors"), device=CPU)


def test_class_names_must_be_as_many_as_classes(small_net: nn.Module, tmp_path: Path) -> None:
    save_file(small_net.state_dict(), tmp_path / "w.safetensors", metadata={"class_names": '["a"]'})

    with pytest.raises(EgoctlError, match="names 1 classes and its classifier has 5"):
        load_teacher("x3d_xs", weights=str(tmp_path / "w.safetensors"), device=CPU)


class MakesFolder:
    """A pickle that runs code when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"model_state": MakesFolder(tmp_path / "ran")}, tmp_path / "evil.pyth")

    with pytest.raises(EgoctlError, match=r"evil.pyth cannot be read as plain .*\(posix.mkdir\)"):
        read_checkpoint(tmp_path / "evil.pyth")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pyth", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", b"PK\x03\x04cut short", b"hello world"]
)
def test_a_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(EgoctlError, match=name):
        read_checkpoint(tmp_path / name)


def test_a_file_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "net": {}}, tmp_path / "w.pyth")
    with pytest.raises(EgoctlError, match="2 entries that are no tensors .epoch, net."):
        read_checkpoint(tmp_path / "w.pyth")

    torch.save([1, 2], tmp_path / "w.pyth")
    with pytest.raises(EgoctlError, match="holds no state dict"):
        read_checkpoint(tmp_path / "w.pyth")


def test_without_a_network_the_message_tells_what_to_download_and_where_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(url: str, **_: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    with pytest.raises(EgoctlError) as caught:
        load_teacher("x3d_m", weights="default", device=CPU)

    message = str(caught.value)
    assert "the weights of teacher x3d_m" in message
    assert "/kinetics/X3D_M.pyth to " + str(tmp_path / "checkpoints" / "X3D_M.pyth") in message
    assert "Download X3D_M.pyth by hand and pass --weights PATH." in message


def test_of_a_download_nothing_is_said_where_results_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talking(url: str, **_: Any) -> dict[str, Any]:
        print("Downloading:", url)
        return {}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", talking)

    with pytest.raises(EgoctlError):
        load_teacher("x3d_m", weights="default", device=CPU)

    said = capsys.readouterr()
    assert said.out == "" and "Downloading: https://" in said.err


@pytest.mark.parametrize(
    ("name", "key", "checks_hash", "first_class"),
    [("x3d_xs", "model_state", False, None), ("r2plus1d_18", None, True, "abseiling")],
)
def test_default_weights_come_from_the_models_own_address_and_are_only_tensors(
    name: str,
    key: str | None,
    checks_hash: bool,
    first_class: str | None,
    hub: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = hub.x3d_xs() if name == "x3d_xs" else get_model(name)
    asked: dict[str, Any] = {}

    def online(url: str, **options: Any) -> dict[str, Any]:
        asked.update(options, url=url)
        return {key: net.state_dict()} if key else net.state_dict()

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", online)

    teacher = load_teacher(name, weights="default", device=CPU)

    assert asked["url"].startswith("https://")
    assert asked["weights_only"] is True
    assert asked["check_hash"] is checks_hash
    assert teacher.weights.source == "default"
    assert teacher.weights.sha256 == state_sha256(net.state_dict())
    names = teacher.weights.class_names
    assert (names[0] if names else None) == first_class
    assert teacher.spec.num_classes == 400
