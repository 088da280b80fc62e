"""Networks of torchvision and timm by name: their features are what their class layer reads."""

import dataclasses
import sys
from urllib.error import URLError

import pytest
import torch
import torchvision.models
from torch import nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.image_encoder import build_image_encoder
from egoctl.student.model.student import build_student
from egoctl.student.model.student_config import StudentConfig


def frames(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 1, size, size, 3), dtype=torch.uint8, generator=generator)


def pixels(frames_BNHW3: torch.Tensor, mean, std) -> torch.Tensor:
    share = frames_BNHW3[:, 0].float() / 255
    return ((share - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)


def read_by_class_layer(whole: nn.Module, layer: nn.Module, shown: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        whole.eval()(shown)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("name", "layer", "feature_dim"),
    [("mobilenet_v3_small", "classifier.3", 1024), ("squeezenet1_1", None, None)],
)
def test_a_network_of_torchvision_is_cut_before_its_last_linear_layer(
    tmp_path, name, layer, feature_dim
):
    if layer is None:
        with pytest.raises(EgoctlError, match=f"torchvision:{name} does not end in one linear"):
            build_image_encoder(f"torchvision:{name}", "random")
        return
    torch.manual_seed(0)
    whole = torchvision.models.get_model(name, weights=None)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    encoder = build_image_encoder(f"torchvision:{name}", str(tmp_path / "whole.pth")).eval()
    shown = frames(224)

    with torch.no_grad():
        found = encoder(shown)

    imagenet = pixels(shown, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = read_by_class_layer(whole, whole.get_submodule(layer), imagenet)
    assert found.shape == (2, 1, feature_dim)
    assert torch.allclose(found[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "mean", "std", "feature_dim"),
    [
        # test_vit was trained on pixels of -1 to 1, 160 a side.
        ("test_vit", 160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 64),
        ("test_efficientnet", 160, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 256),
    ],
)
def test_a_network_of_timm_is_shown_what_its_own_data_config_says(
    tmp_path, name, size, mean, std, feature_dim
):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    encoder = build_image_encoder(f"timm:{name}", str(tmp_path / "whole.pth")).eval()
    shown = frames(size)

    with torch.no_grad():
        found = encoder(shown)
        expected = whole.eval().forward_head(
            whole.forward_features(pixels(shown, mean, std)), pre_logits=True
        )

    assert encoder.size_px == (size, size)
    assert found.shape == (2, 1, feature_dim)
    assert torch.allclose(found[:, 0], expected, atol=1e-4)


def test_stored_frames_of_another_size_are_resized_to_the_networks_own():
    pytest.importorskip("timm")
    encoder = build_image_encoder("timm:test_vit", "random").eval()

    with torch.no_grad():
        small, large = encoder(frames(32)), encoder(frames(224))

    assert small.shape == large.shape == (2, 1, 64)


def test_the_digest_tells_what_a_named_network_is_shown():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    encoder = build_image_encoder("timm:test_vit", "random")
    before = encoder.weights_digest()

    encoder.mean_3 += 1

    assert encoder.weights_digest() != before


def test_a_student_has_the_named_networks_width_and_its_name_in_the_config():
    config = StudentConfig(
        method="visonly",
        image_encoder="torchvision:mobilenet_v3_small",
        image_weights="random",
        teacher_dim=8,
        num_classes=3,
    )

    student = build_student(config, seed=0).eval()

    assert student.to_feature.in_features == 1024
    assert dataclasses.asdict(student.config)["image_encoder"] == "torchvision:mobilenet_v3_small"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", "torchvision has no image network 'resnet19'"),
        ("torchvision:r3d_18", "torchvision has no image network 'r3d_18'"),
        ("torchvision:googlenet", "does not end in one linear class layer"),
        ("timm:resnet_of_nobody", "timm has no network 'resnet_of_nobody'"),
        ("keras:resnet50", "image_encoder 'keras:resnet50' is not known; choose resnet18, "),
        ("timm:", "image_encoder 'timm:' is not known"),
    ],
)
def test_an_unknown_network_is_refused_by_name(name, message):
    pytest.importorskip("timm")

    with pytest.raises(EgoctlError, match=message):
        build_image_encoder(name, "random")


def test_weights_of_another_named_network_are_refused(tmp_path):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "v2.pth")

    with pytest.raises(EgoctlError, match=r"v2\.pth' do not fit MobileNetV3: \d+ names differ"):
        build_image_encoder("torchvision:mobilenet_v3_small", str(tmp_path / "v2.pth"))


def test_without_network_torchvisions_weights_say_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)

    with pytest.raises(EgoctlError, match=r"weights of torchvision:mobilenet_v3_small.*no route"):
        build_image_encoder("torchvision:mobilenet_v3_small", "default")


def test_without_network_timms_weights_say_what_to_do(monkeypatch):
    timm = pytest.importorskip("timm")
    real = timm.create_model

    def create(name, *, pretrained, **options):
        if pretrained:
            raise URLError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", create)

    with pytest.raises(EgoctlError, match="weights of timm:test_vit from the Hugging Face Hub.*no"):
        build_image_encoder("timm:test_vit", "default")


def test_without_timm_its_networks_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(EgoctlError, match=r"timm:resnet18 needs .* pip install 'egoctl\[timm\]'"):
        build_image_encoder("timm:resnet18", "random")
