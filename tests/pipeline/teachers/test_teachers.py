"""Teachers: the line-up, frames in and targets out, and where features are tapped."""

# B batch, T frames, C channels or classes, H height, W width, D feature width

import os
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.video.mvit import MSBlockConfig, MViT

from egoctl.pipeline import devices
from egoctl.pipeline.devices import pick_device
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.checkpoints import read_checkpoint, state_sha256
from egoctl.pipeline.teachers.lineup import load_teacher, teacher_names, teacher_spec
from egoctl.pipeline.teachers.networks import pytorchvideo_models
from egoctl.pipeline.teachers.protocol import (
    find_batch_size,
    largest_good_batch,
    normalise,
    targets,
)
from egoctl.pipeline.teachers.tapped import TappedTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo

CPU = torch.device("cpu")
NO_INFO = WeightsInfo(source="random:0", sha256="", is_random=True, class_names=None)


@pytest.fixture(scope="module")
def hub() -> Any:
    return pytorchvideo_models._hub()


def lively(net: nn.Module) -> nn.Module:
    """The same network with weights under which the input still matters at the end."""
    torch.manual_seed(5)
    for module in net.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return net.eval()


def clips(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def frames(spec: TeacherSpec, num_clips: int = 2) -> Tensor:
    size = (num_clips, spec.num_frames, spec.crop_px, spec.crop_px, 3)
    generator = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


# --- The line-up ---------------------------------------------------------------------------


def test_the_line_up_is_sorted_and_knows_the_video_networks() -> None:
    names = teacher_names()

    assert names == sorted(names)
    assert {
        "lite0_temporal", "motionformer", "motionformer_hr", "motionformer_l",
        "mvit_base_16x4", "mvit_v1_b", "mvit_v2_s", "r2plus1d_18", "s3d", "slowfast_r101",
        "slowfast_r50", "swin3d_t", "x3d_l", "x3d_m", "x3d_s", "x3d_xs",
    } <= set(names)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "num_frames", "stride_s", "short_side_px", "crop_px", "feature_dim"),
    [
        ("lite0_temporal", 8, 8 / 30, 128, 128, 768),
        ("mvit_base_16x4", 16, 4 / 30, 256, 224, 768),
        ("mvit_v1_b", 16, 4 / 30, 256, 224, 768),
        ("mvit_v2_s", 16, 4 / 30, 256, 224, 768),
        ("r2plus1d_18", 16, 2 / 30, 128, 112, 512),
        ("s3d", 32, 2 / 30, 256, 224, 1024),
        ("slowfast_r101", 32, 2 / 30, 256, 224, 2304),
        ("slowfast_r50", 32, 2 / 30, 256, 224, 2304),
        ("swin3d_t", 32, 2 / 30, 256, 224, 768),
        ("x3d_l", 16, 5 / 30, 356, 312, 2048),
        ("x3d_m", 16, 5 / 30, 256, 224, 2048),
        ("x3d_s", 13, 6 / 30, 182, 160, 2048),
        ("x3d_xs", 4, 12 / 30, 182, 160, 2048),
    ],
)
def test_a_spec_says_what_the_published_weights_were_trained_on(
    name: str,
    num_frames: int,
    stride_s: float,
    short_side_px: int,
    crop_px: int,
    feature_dim: int,
) -> None:
    spec = teacher_spec(name)

    assert spec.name == name
    assert spec.num_frames == num_frames
    assert spec.stride_s == pytest.approx(stride_s)
    assert (spec.short_side_px, spec.crop_px) == (short_side_px, crop_px)
    assert spec.feature_dim == feature_dim
    assert spec.channel_order == "rgb"


def test_mean_and_std_are_those_of_each_sources_weights() -> None:
    assert (teacher_spec("x3d_m").mean, teacher_spec("x3d_m").std) == ((0.45,) * 3, (0.225,) * 3)
    assert teacher_spec("mvit_v2_s").mean == (0.45, 0.45, 0.45)
    assert teacher_spec("swin3d_t").mean == (0.485, 0.456, 0.406)
    assert teacher_spec("s3d").std == (0.22803, 0.22145, 0.216989)
    assert teacher_spec("lite0_temporal").std == (0.229, 0.224, 0.225)


def test_an_unknown_teacher_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(EgoctlError, match="no teacher is called 'x3dm'.*x3d_m"):
        teacher_spec("x3dm")
    with pytest.raises(EgoctlError, match="There are lite0_temporal, .*x3d_xs"):
        load_teacher("7777", weights="random:0", device=CPU)


# --- Frames in, targets out -----------------------------------------------------------------


def test_normalise_scales_each_channel_by_its_own_mean_and_std() -> None:
    spec = teacher_spec("swin3d_t")
    frames_BTHWC = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)

    video_BCTHW = normalise(frames_BTHWC, spec)

    assert video_BCTHW.shape == (2, 3, 3, 4, 5)
    assert video_BCTHW.dtype == torch.float32
    for channel in range(3):
        pixel = int(frames_BTHWC[1, 2, 3, 4, channel])
        wanted = (pixel / 255 - spec.mean[channel]) / spec.std[channel]
        assert float(video_BCTHW[1, channel, 2, 3, 4]) == pytest.approx(wanted, abs=1e-5)


def test_a_bgr_teacher_sees_blue_first_and_mean_and_std_are_in_its_order() -> None:
    spec = replace(
        teacher_spec("x3d_xs"), channel_order="bgr", mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 2.0)
    )
    red_BTHWC = torch.zeros((1, 1, 1, 1, 3), dtype=torch.uint8)
    red_BTHWC[..., 0] = 255

    assert normalise(red_BTHWC, spec).flatten().tolist() == pytest.approx([0.0, -0.1, 0.4])


def test_normalise_refuses_frames_that_are_already_floats() -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(B, T, H, W, 3\), got torch.float32"):
        normalise(torch.zeros(1, 4, 8, 8, 3), teacher_spec("x3d_xs"))


class FrameMeans:
    """A teacher that returns the clip's mean colour, and from it two logits."""

    def __init__(self) -> None:
        self.spec = replace(
            teacher_spec("x3d_xs"), num_frames=2, crop_px=4, feature_dim=3, num_classes=2
        )
        self.weights = NO_INFO
        self.matrix_CD = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0]])

    def feature(self, video_BCTHW: Tensor) -> Tensor:
        self.is_inference = torch.is_inference_mode_enabled()
        self.is_autocast = torch.is_autocast_enabled("cpu")
        mean_BC = video_BCTHW.mean(dim=(2, 3, 4))
        return mean_BC.bfloat16() if self.is_autocast else mean_BC

    def logits(self, feature_BD: Tensor) -> Tensor:
        return feature_BD @ self.matrix_CD.T


def test_targets_are_float32_numpy_rows_one_per_clip() -> None:
    teacher = FrameMeans()
    white_BTHWC = torch.full((3, 2, 4, 4, 3), 255, dtype=torch.uint8)

    found = targets(teacher, white_BTHWC)

    white = (1 - 0.45) / 0.225
    np.testing.assert_allclose(found.feature_ND, np.full((3, 3), white), rtol=1e-6)
    np.testing.assert_allclose(found.logits_NC, [[3 * white, 0.0]] * 3, rtol=1e-6)
    assert found.feature_ND.dtype == found.logits_NC.dtype == np.float32
    assert teacher.is_inference and not teacher.is_autocast


def test_in_mixed_precision_the_logits_still_follow_from_the_feature_that_is_returned() -> None:
    teacher = FrameMeans()

    found = targets(teacher, frames(teacher.spec), autocast_dtype=torch.bfloat16)

    assert teacher.is_autocast
    assert found.feature_ND.dtype == np.float32
    np.testing.assert_allclose(
        found.logits_NC, found.feature_ND @ teacher.matrix_CD.numpy().T, rtol=1e-6, atol=1e-6
    )


def test_targets_refuse_frames_of_another_count() -> None:
    with pytest.raises(ValueError, match=r"x3d_xs wants frames of \(B, 2, 4, 4, 3\), got"):
        targets(FrameMeans(), torch.zeros((1, 3, 4, 4, 3), dtype=torch.uint8))


# --- Devices and batch size -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "picked"),
    [({"cuda", "mps", "cpu"}, "cuda"), ({"mps", "cpu"}, "mps"), ({"cpu"}, "cpu")],
)
def test_auto_picks_cuda_then_mps_then_cpu(
    present: set[str], picked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_num_devices", lambda kind: int(kind in present))

    assert pick_device("auto").type == picked


def test_a_device_that_is_not_there_or_does_not_exist_is_refused() -> None:
    with pytest.raises(EgoctlError, match=r"--device cuda:99: torch sees \d+ cuda devices"):
        pick_device("cuda:99")
    with pytest.raises(EgoctlError, match="no device is called 'gpu'.*cuda:N"):
        pick_device("gpu")


def test_on_a_cpu_the_batch_is_four_clips() -> None:
    assert find_batch_size(FrameMeans(), CPU) == 4


@pytest.mark.parametrize(
    ("clips_per_s", "best"),
    [
        ({1: 10.0, 2: 19.0, 4: 35.0, 8: 36.0}, 4),  # 8 gains less than 5 %
        ({1: 10.0, 2: 9.0}, 1),
        ({1: 10.0, 2: 20.0}, 2),  # 4 does not fit
        ({}, None),
        ({2**power: 2.0**power for power in range(12)}, 256),
    ],
)
def test_the_batch_doubles_while_it_fits_and_gains(
    clips_per_s: dict[int, float], best: int | None
) -> None:
    def measure(batch_size: int) -> float:
        if batch_size not in clips_per_s:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return clips_per_s[batch_size]

    assert largest_good_batch(measure) == best


def test_another_failure_while_trying_batches_is_not_taken_for_lack_of_memory() -> None:
    def measure(batch_size: int) -> float:
        raise RuntimeError("illegal instruction")

    with pytest.raises(RuntimeError, match="illegal instruction"):
        largest_good_batch(measure)


# --- Taps: feature and projection give the library's own logits -------------------------------


@dataclass(frozen=True, kw_only=True)
class Tap:
    """A library's network, small where it can be, and its clip (T, H = W)."""

    name: str
    make: Callable[[Any], nn.Module]
    num_frames: int
    size_px: int


def small_mvit() -> nn.Module:
    """torchvision's class behind mvit_v1_b and mvit_v2_s, whose own sizes are fixed."""
    blocks = [
        MSBlockConfig(
            num_heads=2,
            input_channels=96,
            output_channels=num_out,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, 2, 2],
            stride_kv=[1, 2, 2],
        )
        for num_out in (96, 768)
    ]
    net = MViT(
        spatial_size=(64, 64),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=False,
    )
    assert isinstance(net, nn.Module)
    return net


def small_s3d() -> nn.Module:
    """s3d with a pooling window that fits 64 px and leaves several positions."""
    net = get_model("s3d")
    net.avgpool = nn.AvgPool3d((1, 1, 2), stride=1)
    assert isinstance(net, nn.Module)
    return net


TAPS = [
    Tap(
        name="x3d_xs",
        make=lambda hub: hub.x3d_xs(head_activation=None),
        num_frames=4,
        size_px=160,
    ),
    Tap(
        name="slowfast_r50",
        make=lambda hub: hub.slowfast_r50(head_pool_kernel_sizes=((8, 2, 2), (32, 2, 2))),
        num_frames=32,
        size_px=64,
    ),
    # Two positions before the projection, averaged after it.
    Tap(
        name="slowfast_r50",
        make=lambda hub: hub.slowfast_r50(head_pool_kernel_sizes=((8, 1, 2), (32, 1, 2))),
        num_frames=32,
        size_px=64,
    ),
    Tap(
        name="mvit_base_16x4",
        make=lambda hub: hub.mvit_base_16x4(spatial_size=64, temporal_size=4),
        num_frames=4,
        size_px=64,
    ),
    Tap(name="mvit_v1_b", make=lambda _: small_mvit(), num_frames=4, size_px=64),
    Tap(name="swin3d_t", make=lambda _: get_model("swin3d_t"), num_frames=4, size_px=32),
    Tap(name="s3d", make=lambda _: small_s3d(), num_frames=16, size_px=64),
    Tap(name="r2plus1d_18", make=lambda _: get_model("r2plus1d_18"), num_frames=4, size_px=32),
]


@pytest.mark.parametrize("tap", TAPS, ids=lambda tap: f"{tap.name}-{tap.num_frames}f")
def test_the_projection_of_the_feature_is_what_the_library_says(tap: Tap, hub: Any) -> None:
    net = lively(tap.make(hub))
    video_BCTHW = clips(2, 3, tap.num_frames, tap.size_px, tap.size_px)
    entry = pytorchvideo_models.ENTRIES.get(tap.name)
    pack = entry.family.pack if entry else None
    with torch.inference_mode():
        library_BC = net(video_BCTHW if pack is None else pack(video_BCTHW))

        teacher = TappedTeacher(teacher_spec(tap.name), NO_INFO, net, pack=pack)
        feature_BD = teacher.feature(video_BCTHW)
        logits_BC = teacher.logits(feature_BD)

    assert feature_BD.shape == (2, teacher.spec.feature_dim)
    spread = float((library_BC[0] - library_BC[1]).abs().max())
    assert spread > 1e-3, "the two clips must differ, or this compares biases only"
    torch.testing.assert_close(logits_BC, library_BC, rtol=1e-4, atol=1e-4 * max(spread, 1.0))


def test_the_softmax_of_x3d_logits_is_the_hubs_own_output(hub: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hubs_own = hub.x3d_xs(pretrained=False).eval()
    teacher = load_teacher("x3d_xs", weights="random:0", device=CPU)
    frames_BTHWC = frames(teacher.spec)

    found = targets(teacher, frames_BTHWC)

    with torch.inference_mode():
        probability_BC = hubs_own(normalise(frames_BTHWC, teacher.spec))
    softmaxed_BC = torch.from_numpy(found.logits_NC).softmax(dim=1)
    torch.testing.assert_close(softmaxed_BC, probability_BC, rtol=1e-5, atol=1e-8)
    assert found.feature_ND.shape == (2, 2048)


def test_slowfast_gets_every_fourth_frame_spread_to_the_last_and_all_frames() -> None:
    video_BCTHW = torch.arange(32.0).view(1, 1, 32, 1, 1)

    slow, fast = pytorchvideo_models.slow_and_fast(video_BCTHW)

    assert slow.flatten().tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert fast.flatten().tolist() == list(range(32))


# === Weights: read strictly, digested by value, never executed ===


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
