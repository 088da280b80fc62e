"""docs/teachers.md says what the line-up says."""

import re

import pytest

from egoctl.pipeline.teachers.card import cost_texts
from egoctl.pipeline.teachers.cost import teacher_cost
from egoctl.pipeline.teachers.lineup import teacher_names
from egoctl.tests.repository import teachers_page

SMALL = ("x3d_xs", "x3d_s", "r2plus1d_18")
"""Counted again here, in seconds; the others' costs were counted when the page was written."""


@pytest.fixture(scope="module")
def text() -> str:
    return teachers_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_make_docs_writes_with_the_costs_that_it_shows(text: str) -> None:
    written = teachers_page.page(teachers_page.costs_in(text))

    assert written == text, "run 'make docs'"


def test_every_teacher_on_the_page_has_a_counted_cost(text: str) -> None:
    costs = teachers_page.costs_in(text)

    ours = [card.spec.name for card in teachers_page.our_cards()]
    assert set(ours) <= set(teacher_names())
    assert sorted(costs) == ours, "run 'make docs'"


@pytest.mark.parametrize("name", SMALL)
def test_small_teachers_cost_what_the_page_says(text: str, name: str) -> None:
    assert teachers_page.costs_in(text)[name] == cost_texts(teacher_cost(name)), "run 'make docs'"


# Counted apart from this project, with fvcore 0.1.5.post20221221 on the libraries' own networks.
@pytest.mark.parametrize(
    ("name", "params", "gflops"),
    [
        ("x3d_xs", "3.7943", "0.63"),
        ("mvit_v1_b", "36.6107", "70.80"),
        ("mvit_v2_s", "34.5377", "64.46"),
        ("slowfast_r50", "34.5665", "50.58"),
        ("slowfast_r101", "62.8270", "96.79"),
        ("x3d_m", "3.7943", "4.90"),
        ("x3d_l", "6.1534", "18.93"),
    ],
)
def test_the_pages_costs_are_those_counted_elsewhere(
    text: str, name: str, params: str, gflops: str
) -> None:
    assert teachers_page.costs_in(text)[name] == (params, gflops)


def test_a_row_tells_input_output_and_cost(text: str) -> None:
    assert "| `mvit_v2_s` | 16 | 0.1333 | 224 | 768 | 400 | 34.5377 | 64.46 |" in text
    assert re.search(
        r"\| `mvit_v2_s` \| BSD-3-Clause \(torchvision\) \| BSD-3-Clause \(torchvision\); "
        r"trained on Kinetics-400 \| https://\S+/mvit_v2_s-ae3be167\.pth \|",
        text,
    )


def test_a_page_without_a_teachers_cost_shows_dashes() -> None:
    assert "| `x3d_xs` | 4 | 0.4000 | 160 | 2048 | 400 | - | - |" in teachers_page.page({})
    assert teachers_page.costs_in(teachers_page.page({})) == {}
