"""MotionFormer: exact against the published network's outputs, in every form."""

# B batch, N tokens, C width, F token frames, P patches of each, h heads

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers.cost import measured_cost
from egoctl.pipeline.teachers.networks.motionformer import MotionFormer, MotionFormerConfig
from egoctl.pipeline.teachers.networks.motionformer_attention import (
    DividedAttention,
    JointAttention,
    TrajectoryAttention,
)
from egoctl.pipeline.teachers.networks.motionformer_teacher import MotionFormerTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.tests.fixtures.student.hashed_weights import clip, fill, tokens
from egoctl.tests.worlds.places import FIXTURES

TEACHER = FIXTURES / "teacher"
SMALL: dict[str, Any] = {
    "num_frames": 8, "crop_px": 64, "width": 96, "depth": 2, "num_heads": 4,
}  # fmt: skip
FORMS = ("plain", "shortcut", "lean")
CODES = {"original": "orig", "corrected": "fixed"}


def filled(**settings: Any) -> MotionFormer:
    net = MotionFormer(MotionFormerConfig(**{**SMALL, **settings}))
    fill(net, gain=1.0)
    return net.eval().double()


def shapes(net: MotionFormer) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in net.state_dict().items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trajectory", CODES)
def test_features_and_logits_are_those_of_the_published_network(form, trajectory) -> None:
    wanted = np.load(TEACHER / f"motionformer_small_traj_{CODES[trajectory]}.npz")
    net = filled(form=form, trajectory=trajectory)

    with torch.inference_mode():
        feature_BD, (verbs_BK, nouns_BK) = net(clip((2, 3, 8, 64, 64)).double())

    np.testing.assert_allclose(feature_BD.numpy(), wanted["feature"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(verbs_BK.numpy(), wanted["logits0"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(nouns_BK.numpy(), wanted["logits1"], rtol=0, atol=1e-12)


def test_the_two_codes_give_other_features() -> None:
    # So a checkpoint in the wrong one is wrong, and says nothing.
    orig, fixed = (
        np.load(TEACHER / f"motionformer_small_traj_{code}.npz")["feature"]
        for code in CODES.values()
    )

    assert np.abs(orig - fixed).max() > 0.5


@pytest.mark.parametrize("form", ["plain", "shortcut"])
@pytest.mark.parametrize("values", CODES)
def test_trajectory_attention_alone_is_the_published_one(form, values) -> None:
    wanted = np.load(TEACHER / "trajectory_attention.npz")[f"attn_out_{CODES[values]}"]
    attention = TrajectoryAttention(96, 4, values=values, form=form)
    fill(attention, gain=2.0)

    found = attention.double()(tokens((2, 37, 96), seed=977).double(), 4)

    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=1e-11)


def test_all_names_and_shapes_of_the_epic_network_are_the_published_ones() -> None:
    with torch.device("meta"):
        net = MotionFormer(MotionFormerConfig())

    assert shapes(net) == json.loads((TEACHER / "motionformer_ek_224_16x4_keys.json").read_text())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("traj_orig", {}),
        ("divided", {"attention": "divided"}),
        ("traj_single94", {"head_sizes": (94,)}),
        (
            "joint_stembed_224px",
            {"attention": "joint", "positions": "joint", "num_frames": 4, "crop_px": 224},
        ),
    ],
)
def test_names_and_shapes_of_other_variants_are_the_published_ones(name, settings) -> None:
    wanted = json.loads((TEACHER / "motionformer_small_keys.json").read_text())[name]["keys"]

    assert shapes(MotionFormer(MotionFormerConfig(**{**SMALL, **settings}))) == wanted


@pytest.mark.parametrize(
    "settings",
    [
        {"crop_px": 224, "num_frames": 4},
        {"crop_px": 336, "num_frames": 2},
        {"head_sizes": (7,), "tap": "norm_cls"},
        {"depth": 1},
        {"num_heads": 3, "mlp_ratio": 2},
    ],
)
@pytest.mark.parametrize("trajectory", CODES)
def test_forms_agree_where_no_fixture_is(settings, trajectory) -> None:
    config = {**SMALL, **settings}
    frames = clip((1, 3, config["num_frames"], config["crop_px"], config["crop_px"])).double()

    with torch.inference_mode():
        plain, shortcut, lean = (
            filled(form=form, trajectory=trajectory, **settings)(frames) for form in FORMS
        )

    for found in (shortcut, lean):
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


def slow_attention(attention: Any, x_BNC: Tensor, seen: dict[int, list[int]]) -> Tensor:
    """Token by token: what `attention` gives if token n attends to the tokens seen[n]."""
    num_heads, width = attention.num_heads, x_BNC.shape[-1]
    dim = width // num_heads
    rows = []
    for x_NC in x_BNC:
        q_NC, k_NC, v_NC = attention.qkv(x_NC).split(width, dim=-1)
        out = torch.zeros_like(x_NC)
        for token, others in seen.items():
            for head in range(num_heads):
                part = slice(head * dim, (head + 1) * dim)
                logits = torch.stack([q_NC[token, part] @ k_NC[n, part] for n in others])
                weights = (logits * dim**-0.5).softmax(dim=0)
                out[token, part] = weights @ v_NC[others][:, part]
        rows.append(attention.proj(out))
    return torch.stack(rows)


def test_joint_attention_equals_a_slow_one() -> None:
    attention = JointAttention(12, 3).double()
    x_BNC = tokens((2, 9, 12), seed=1).double()

    with torch.inference_mode():
        wanted = slow_attention(attention, x_BNC, {n: list(range(9)) for n in range(9)})
        torch.testing.assert_close(attention(x_BNC, 2), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("over", ["time", "space"])
def test_divided_attention_equals_a_slow_one(over) -> None:
    num_frames, num_patches = 3, 4
    seen = {0: list(range(1 + num_frames * num_patches))}
    for frame in range(num_frames):
        for patch in range(num_patches):
            if over == "time":
                group = [1 + f * num_patches + patch for f in range(num_frames)]
            else:
                group = [1 + frame * num_patches + p for p in range(num_patches)]
            seen[1 + frame * num_patches + patch] = [0, *group]
    attention = DividedAttention(12, 3, over=over).double()
    x_BNC = tokens((2, 13, 12), seed=1).double()

    with torch.inference_mode():
        wanted = slow_attention(attention, x_BNC, seen)
        torch.testing.assert_close(attention(x_BNC, num_frames), wanted, rtol=0, atol=1e-12)


def test_divided_blocks_look_along_time_first_and_drop_no_path_there() -> None:
    block: Any = filled(attention="divided", drop_path=0.5).blocks[1].train()
    x_BNC = tokens((4, 129, 96), seed=3).double()
    torch.manual_seed(0)

    found = block(x_BNC, 8)

    torch.manual_seed(0)
    keep = [(torch.rand(4, 1, 1, dtype=torch.float64) < 0.5) / 0.5 for _ in range(2)]
    x = x_BNC + block.timeattn(block.norm3(x_BNC), 8)
    x = x + keep[0] * block.attn(block.norm1(x), 8)
    torch.testing.assert_close(found, x + keep[1] * block.mlp(block.norm2(x)))


@pytest.mark.parametrize("trajectory", CODES)
def test_gradients_are_the_same_in_the_shortcut(trajectory) -> None:
    frames = clip((1, 3, 8, 64, 64)).double()
    found = {}
    for form in FORMS:
        net = filled(form=form, trajectory=trajectory)
        feature_BD, _ = net(frames)
        torch.autograd.backward(feature_BD.square().sum())
        found[form] = {
            name: parameter.grad
            for name, parameter in net.named_parameters()
            # What nothing depends on has no gradient, or one of rounding.
            if parameter.grad is not None and not name.endswith("proj_kv.bias")
        }

    for form in ("shortcut", "lean"):
        for name, gradient in found[form].items():
            torch.testing.assert_close(gradient, found["plain"][name], rtol=1e-9, atol=1e-12)
    assert found["shortcut"].keys() == found["plain"].keys()


def test_bf16_stays_near_float32() -> None:
    net = filled(form="lean").float()
    frames = clip((2, 3, 8, 64, 64))

    with torch.inference_mode():
        wanted, _ = net(frames)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, _ = net(frames)

    cosine_B = torch.nn.functional.cosine_similarity(found.float(), wanted, dim=1)
    assert cosine_B.min() > 0.999


def test_frames_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted frames \(B, \(3, 8, 64, 64\)\), got"):
        filled()(torch.zeros(1, 3, 8, 48, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "local"}, "attention is trajectory or joint or divided, got 'local'"),
        ({"num_frames": 7}, "7 frames are no tubelets of 2"),
        ({"crop_px": 72}, "a crop of 72 px is not cut into 16 px"),
        ({"num_heads": 5}, "width 96 does not divide among 5 heads"),
        ({"positions": "joint"}, "joint positions are for 224 px only, got 64"),
        ({"head_sizes": ()}, "head_sizes must name classes for each head"),
    ],
)
def test_a_config_that_makes_no_network_is_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        MotionFormerConfig(**{**SMALL, **settings})


# === What MotionFormer costs, counted: the published figures, and what the exact shortcuts save ===


def teacher_of(form: str) -> MotionFormerTeacher:
    """The EPIC network with the verb head alone, as the paper counts it; weights as they come."""
    config = MotionFormerConfig(form=form, head_sizes=(97,))  # type: ignore[arg-type]
    spec = TeacherSpec(
        name="motionformer", num_frames=16, stride_s=4 / 30, short_side_px=224, crop_px=224,
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channel_order="bgr", tap="pre_logits",
        feature_dim=768, num_classes=97,
    )  # fmt: skip
    weights = WeightsInfo(source="random:0", sha256="", is_random=True, class_names=None)
    return MotionFormerTeacher(spec, weights, MotionFormer(config))


@pytest.mark.parametrize(
    ("form", "gflops"), [("plain", 369.51), ("shortcut", 204.19), ("lean", 189.19)]
)
def test_one_view_costs(form: str, gflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Counts do not depend on values, and drawing 109 million of them takes seconds.
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda tensor, **_: tensor)
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)

    found = measured_cost(teacher_of(form))

    assert found.num_parameters == 108_911_713
    assert found.gflops == pytest.approx(gflops, abs=0.005)
