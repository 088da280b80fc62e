"""Students that begin as pretrained: what they take over, and which pretraining they refuse."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.model.student import Student, build_student
from egoctl.student.pretraining.net import PretrainNet
from egoctl.student.pretraining.pretrain import pretrain
from egoctl.student.runs.pretrained_file import initialise, read_pretraining, refuse_misfit
from egoctl.student.training.train import train
from egoctl.tests.worlds.pretrain_world import STUDENT, pretrain_config
from egoctl.tests.worlds.student_world import killed_in_epoch, weights


@pytest.fixture(scope="module")
def both(world) -> str:
    """A finished run of NCE and L1."""
    config = pretrain_config(world, "both", num_epochs=1)
    pretrain(config)
    return config.run


@pytest.fixture(scope="module")
def nce(world) -> str:
    """A finished run of NCE alone."""
    config = pretrain_config(world, "nce", num_epochs=1, losses="nce", teacher=None)
    pretrain(config)
    return config.run


def shape(world, **changes):
    """The student that the world's pretraining is for."""
    sizes = {"imu_samples": 40, "teacher_dim": 8, "num_classes": 3}
    return replace(STUDENT, **{**sizes, **changes})


def student_config(world, run, **changes):
    """A training run of that student."""
    student = {"method": "egodistill", "freeze_image_encoder": True, **changes.pop("student", {})}
    changes.setdefault("feature_cache", world.folder / "image-features")
    return world.config(run=run, student=student, **changes)


# --- what is taken over ---


def test_imu_encoder_fusion_and_their_statistics_arrive_in_the_student(world, both):
    student = build_student(shape(world), seed=7)
    head = student.to_logits.weight.clone()
    image = {name: value.clone() for name, value in student.image.net.state_dict().items()}

    line = initialise(student, read_pretraining(both))

    found, pretrained = student.state_dict(), weights(both, "best")
    shared = {name for name in pretrained if not name.startswith("predictor.")}
    assert shared == {name for name in found if name.split(".")[0] not in ("image", "to_logits")}
    assert all(torch.equal(found[name], pretrained[name]) for name in shared)
    assert torch.equal(student.to_logits.weight, head)
    assert all(
        torch.equal(value, image[name]) for name, value in student.image.net.state_dict().items()
    )
    assert line == f"IMU encoder and fusion begin as pretrained in {both}"


def test_a_pretrained_student_says_at_once_what_the_pretrained_fusion_said(world, both):
    student = build_student(shape(world), seed=0)
    net = PretrainNet(student, uses_nce=True, uses_l1=True)
    net.load_state_dict(weights(both, "best"))
    image_BFI, imu_BWA = torch.randn(4, 1, 512), torch.randn(4, 40, 6)
    ends_B2I = torch.randn(4, 2, 512)
    expected = net.eval()(ends_B2I, image_BFI, imu_BWA).feature_BD
    other = build_student(shape(world), seed=1)

    initialise(other, read_pretraining(both))

    found = other.eval()(image_feature_BNI=image_BFI, imu_BWA=imu_BWA).feature_BD
    assert torch.equal(found, expected)


def test_of_a_pretraining_without_l1_the_imu_encoder_is_taken_alone(world, nce):
    student = build_student(shape(world, teacher_dim=5), seed=1)
    fusion = [value.clone() for value in student.to_feature.state_dict().values()]

    line = initialise(student, read_pretraining(nce))

    assert torch.equal(student.imu.cnn[-1].weight, weights(nce, "best")["imu.cnn.17.weight"])
    assert all(map(torch.equal, fusion, student.to_feature.state_dict().values()))
    assert line.startswith("IMU encoder begin")


def test_a_student_of_imu_alone_takes_the_imu_encoder(world, both):
    config = world.config(run="imu-only", num_epochs=1, pretrain=both)

    train(config)

    assert "IMU encoder begin as pretrained" in (Path(config.run) / "train.log").read_text()


def test_training_begins_as_pretrained_and_tells_it(world, both):
    # So small a rate that only BatchNorm's statistics and nothing else moves.
    config = student_config(world, "begins", num_epochs=1, learning_rate=1e-12, pretrain=both)

    train(config)

    found, pretrained = weights(config.run), weights(both, "best")
    for name in ("imu.cnn.1.weight", "to_feature.2.weight", "image_mean_I", "image_std_I"):
        assert torch.allclose(found[name], pretrained[name], atol=1e-6), name
    assert "begin as pretrained in" in (Path(config.run) / "train.log").read_text()


def test_standardised_targets_stay_those_of_the_pretraining(world):
    before = pretrain_config(
        world, "standard", num_epochs=1, splits=("train", "test"), standardise_targets=True
    )
    pretrain(before)
    config = student_config(
        world,
        "standard-student",
        num_epochs=1,
        pretrain=before.run,
        loss=LossConfig(standardise_targets=True),
    )

    train(config)

    found, pretrained = weights(config.run), weights(before.run, "best")
    assert torch.equal(found["target_mean_D"], pretrained["target_mean_D"])


def test_a_file_that_was_copied_elsewhere_serves_as_well(world, both, tmp_path):
    copy = tmp_path / "imu.safetensors"
    shutil.copy(Path(both) / "pretrained.safetensors", copy)

    found = read_pretraining(str(copy))

    assert found.digest == read_pretraining(both).digest
    assert found.made_for == read_pretraining(both).made_for


# --- going on ---


def test_a_killed_student_goes_on_with_the_same_pretraining_to_the_same_bits(
    world, both, monkeypatch
):
    alone = student_config(world, "student-alone", num_epochs=3, pretrain=both)
    killed = student_config(world, "student-killed", num_epochs=3, pretrain=both)
    train(alone)

    killed_in_epoch(killed, 2, monkeypatch)
    train(killed)

    one, two = weights(alone.run), weights(killed.run)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_does_not_go_on_with_another_pretraining_or_without_one(world, both):
    other = pretrain_config(world, "other", num_epochs=1, seed=0, learning_rate=1e-3)
    pretrain(other)
    config = student_config(world, "student", num_epochs=1, pretrain=both)
    train(config)

    for pretraining in (other.run, None):
        with pytest.raises(EgoctlError, match=r"digests\.pretraining: run .*, now"):
            train(replace(config, pretrain=pretraining))

    assert train(config).last is None


def test_a_pretraining_may_move(world, both, tmp_path):
    config = student_config(world, "moves", num_epochs=1, pretrain=both)
    train(config)
    shutil.copytree(both, tmp_path / "moved")

    assert train(replace(config, pretrain=str(tmp_path / "moved"))).last is None


# --- refusals ---


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"imu_readout": "mean"}, "imu_readout last there, mean here"),
        ({"imu_out": 8}, "imu_out 16 there, 8 here"),
        ({"fusion_hidden": 32}, "fusion_hidden 16 there, 32 here"),
        ({"num_frames": 3}, "num_frames 1 there, 3 here"),
        (
            {"image_encoder": "torchvision:mobilenet_v3_small"},
            "image_encoder resnet18 there, torchvision:mobilenet_v3_small here",
        ),
    ],
)
def test_a_student_of_another_shape_is_refused_by_name(world, both, student, message):
    config = student_config(world, "misfit", pretrain=both, student=student)

    with pytest.raises(EgoctlError, match=message) as caught:
        train(config)

    assert "\n" not in str(caught.value)
    # Refused before the run folder was taken.
    assert not Path(config.run).exists()


def misfit(student: Student, pretraining, *, teacher=None, standardise_targets=False) -> str:
    with pytest.raises(EgoctlError) as caught:
        refuse_misfit(
            student, pretraining, teacher=teacher, standardise_targets=standardise_targets
        )
    return str(caught.value)


def test_the_same_image_encoder_with_other_weights_is_another(world, both):
    # Random weights follow from the seed; the pretraining's was 0.
    student = build_student(shape(world), seed=1)

    assert "image_weights" in misfit(student, read_pretraining(both))


def test_other_targets_are_refused(world, both):
    student = build_student(shape(world), seed=0)
    teacher = world.teacher.header.fingerprint

    assert "teacher_dim 8 there, 5 here" in misfit(
        build_student(shape(world, teacher_dim=5), seed=0), read_pretraining(both), teacher=teacher
    )
    assert "there, another-teacher here" in misfit(
        student, read_pretraining(both), teacher="another-teacher"
    )
    assert "standardise_targets False there, True here" in misfit(
        student, read_pretraining(both), teacher=teacher, standardise_targets=True
    )
    # Who learns from labels alone has no targets that could be others.
    refuse_misfit(student, read_pretraining(both), teacher=None, standardise_targets=True)


def test_a_student_without_imu_has_nothing_to_take_over(world, both):
    student = build_student(shape(world, method="visonly"), seed=0)

    assert misfit(student, read_pretraining(both)) == (
        "--pretrain gives an IMU encoder, and visonly has none. Leave it out."
    )


def test_what_is_no_pretraining_is_refused(world, both, tmp_path):
    plain, torn = tmp_path / "plain.safetensors", tmp_path / "torn.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, plain)
    content = (Path(both) / "pretrained.safetensors").read_bytes()
    torn.write_bytes(content[: len(content) // 2])

    with pytest.raises(EgoctlError, match="no pretrained.safetensors in .*Finish that run"):
        read_pretraining(str(tmp_path / "nowhere"))
    with pytest.raises(EgoctlError, match="is no pretrained.safetensors of 'egoctl pretrain-imu'"):
        read_pretraining(str(plain))
    with pytest.raises(EgoctlError, match="torn.safetensors is damaged"):
        read_pretraining(str(torn))
