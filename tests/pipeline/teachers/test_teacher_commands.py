"""`egoctl teachers`: what it tells of a teacher, and the cost that it counts."""

# B batch, C channels or classes, T frames, H height, W width, D feature width

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.records import TeacherSpec
from egoctl.pipeline.teachers import card
from egoctl.pipeline.teachers.card import (
    TeacherList,
    card_lines,
    json_text,
    list_lines,
    teacher_card,
)
from egoctl.pipeline.teachers.cost import measured_cost, teacher_cost
from egoctl.pipeline.teachers.lineup import teacher_facts, teacher_names, teacher_spec
from egoctl.pipeline.teachers.tapped import TappedTeacher
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.tests.worlds.extract_world import MeanTeacher
from egoctl.tests.worlds.invoked import run

NO_INFO = WeightsInfo(source="random:0", sha256="", is_random=True, class_names=None)


# --- list and show ---


def test_list_has_a_line_for_every_teacher_in_order() -> None:
    code, said = run("teachers", "list")

    lines = said.splitlines()
    assert code == 0
    assert " ".join(lines[0].split()) == "name frames every s px feature classes weights"
    assert [line.split()[0] for line in lines[1 : len(teacher_names()) + 1]] == teacher_names()
    (line,) = (line for line in lines if line.startswith("slowfast_r50 "))
    assert line.split(maxsplit=6)[1:] == [
        "32", "0.0667", "224", "2304", "400", "Apache-2.0 (pytorchvideo); trained on Kinetics-400",
    ]  # fmt: skip


def test_list_as_json_has_specs_facts_and_no_costs() -> None:
    found = json.loads(run("teachers", "list", "--json")[1])

    by_name = {teacher["spec"]["name"]: teacher for teacher in found["teachers"]}
    assert sorted(by_name) == teacher_names()
    assert {teacher["cost"] for teacher in found["teachers"]} == {None}
    assert by_name["x3d_xs"]["spec"]["mean"] == [0.45, 0.45, 0.45]
    assert found["failed_plugins"] == []


def test_show_tells_all_of_a_teacher() -> None:
    code, said = run("teachers", "show", "x3d_xs")

    assert code == 0
    assert said.splitlines() == [
        "x3d_xs",
        "  looks at   4 frames, 0.4 s apart (1.6 s)",
        "  size       short side 182 px, its centre 160 x 160 px, RGB",
        "  pixels     (x / 255 - (0.45, 0.45, 0.45)) / (0.225, 0.225, 0.225)",
        "  feature    2048 values, tapped at blocks.5.proj",
        "  classes    400",
        "  cost       3.7943 M parameters, 0.63 GFLOPs a clip (fvcore, a multiply-add as one)",
        "  code       Apache-2.0 (pytorchvideo)",
        "  weights    Apache-2.0 (pytorchvideo); trained on Kinetics-400",
        "  from       https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/X3D_XS.pyth",
        "  comes with egoctl",
    ]


def test_show_as_json_is_the_record() -> None:
    shown = json.loads(run("teachers", "show", "mvit_v2_s", "--no-cost", "--json")[1])

    assert (shown["spec"]["tap"], shown["spec"]["stride_s"]) == ("head.1", pytest.approx(2 / 15))
    assert shown["facts"]["weights_from"] == teacher_facts("mvit_v2_s").weights_from
    assert (shown["options"], shown["comes_with"], shown["cost"]) == ({}, "egoctl", None)


def test_show_without_cost_builds_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr(card, "teacher_cost", refuse)

    said = run("teachers", "show", "x3d_xs", "--no-cost")[1]

    assert "cost" not in said


def test_a_teacher_that_cannot_be_built_here_is_shown_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lacks(name: str) -> None:
        raise EgoctlError(f"teacher {name} needs the package x. pip install 'egoctl[demo]'")

    monkeypatch.setattr(card, "teacher_cost", lacks)

    code, said = run("teachers", "show", "lite0_temporal")
    listed = run("teachers", "list", "--cost")

    assert code == listed[0] == 0
    assert (
        "  cost       not counted: teacher lite0_temporal needs the package x. "
        "pip install 'egoctl[demo]'\n"
    ) in said
    (line,) = (line for line in listed[1].splitlines() if line.startswith("lite0_temporal "))
    assert line.split()[6:8] == ["-", "-"]


def test_a_name_that_no_teacher_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(EgoctlError, match="no teacher is called 'mvit_v2'. Near it: mvit_v2_s"):
        run("teachers", "show", "mvit_v2")


def test_frames_without_a_stride_are_told_in_words_and_in_valid_json() -> None:
    found = replace(teacher_card("x3d_xs", with_cost=False), spec=small_spec(stride_s=float("inf")))
    listed = TeacherList(teachers=(found,), prefixes=(), failed_plugins=())

    assert card_lines(found)[1] == "  looks at   6 frames, spread evenly over the clip"
    assert list_lines(listed)[1].split()[1:4] == ["6", "even", "4"]
    assert json.loads(json_text(listed))["teachers"][0]["spec"]["stride_s"] is None


# --- cost ---


class Attention(nn.Module):
    """One attention over 6 x 4 x 4 pixels of 3 channels, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 10)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        tokens = video_BCTHW.flatten(2).transpose(1, 2)
        seen = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        logits_BC = self.head(seen.mean(dim=1))
        assert isinstance(logits_BC, Tensor)
        return logits_BC


def small_spec(**changes: Any) -> TeacherSpec:
    small: dict[str, Any] = {
        "num_frames": 6,
        "short_side_px": 4,
        "crop_px": 4,
        "tap": "head",
        "feature_dim": 3,
    }
    return replace(teacher_spec("x3d_xs"), **(small | changes))


def test_attention_in_one_call_is_counted_as_its_two_products() -> None:
    teacher = TappedTeacher(small_spec(num_classes=10), NO_INFO, Attention())

    cost = measured_cost(teacher)

    assert cost.num_parameters == 3 * 10 + 10
    # q k^T and its product with v: each 96 x 96 dot products of 3; the head 3 x 10.
    assert cost.gflops * 1e9 == pytest.approx(2 * 96 * 96 * 3 + 3 * 10)


class OneOperator(Attention):
    """The same attention by torch's own module, with projections of 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        tokens = video_BCTHW.flatten(2).transpose(1, 2)
        logits_BC = self.head(self.attention(tokens, tokens, tokens)[0].mean(dim=1))
        assert isinstance(logits_BC, Tensor)
        return logits_BC


def test_attention_by_torchs_own_module_is_counted_too() -> None:
    cost = measured_cost(TappedTeacher(small_spec(num_classes=10), NO_INFO, OneOperator()))

    assert cost.gflops * 1e9 == pytest.approx(2 * 96 * 96 * 3 + 3 * 10 + 4 * 96 * 3 * 3)
    assert torch.backends.mha.get_fastpath_enabled()


class WordPadded(nn.Module):
    """A convolution whose padding is a word, then a sum of products, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, (1, 2, 2), stride=(1, 2, 2), padding="valid")
        self.head = nn.Linear(3, 10)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        tokens = self.conv(video_BCTHW).flatten(2).transpose(1, 2)
        mixed = torch.baddbmm(tokens.mT, tokens.mT, tokens @ tokens.mT).mean(dim=2)
        logits_BC = self.head(mixed)
        assert isinstance(logits_BC, Tensor)
        return logits_BC


def test_convolutions_with_a_word_for_padding_and_sums_of_products_are_counted() -> None:
    cost = measured_cost(TappedTeacher(small_spec(num_classes=10), NO_INFO, WordPadded()))

    # 6 x 2 x 2 positions of 3 channels, each of 3 x 2 x 2; two products of 24 x 24 x 3; the head.
    assert cost.gflops * 1e9 == pytest.approx(24 * 3 * 12 + 2 * 24 * 24 * 3 + 3 * 10)


def test_a_teacher_without_modules_has_no_parameters_and_its_products_count() -> None:
    cost = measured_cost(MeanTeacher())

    assert cost.num_parameters == 0
    # 48 features times 48 x 5; pooling is not counted.
    assert cost.gflops * 1e9 == pytest.approx(48 * 5)


def test_equal_frames_do_not_make_a_teacher_cheap_that_computes_different_frames_once() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs egoctl[demo]")

    cost = teacher_cost("lite0_temporal")

    # Eight frames of Lite0 at 128 px; of frames that are all equal it is 0.22.
    assert 1 < cost.gflops < 1.5


@pytest.mark.parametrize(
    ("name", "params", "gflops"),
    [("x3d_xs", 3.7943, 0.63), ("x3d_s", 3.7943, 2.03), ("r2plus1d_18", 31.51, 40.65)],
)
def test_counted_costs_are_those_of_the_published_networks(
    name: str, params: float, gflops: float
) -> None:
    cost = teacher_cost(name)

    assert round(cost.num_parameters / 1e6, 4 if params < 10 else 2) == params
    assert math.isclose(cost.gflops, gflops, abs_tol=0.01)


def test_counting_leaves_torchs_random_state_as_it_was() -> None:
    before = torch.random.get_rng_state()

    measured_cost(MeanTeacher())

    assert torch.equal(before, torch.random.get_rng_state())
