"""Fingerprints of recipes, and what differs between two."""

import pytest

from egoctl.pipeline.recipe import Json, Recipe, differences, fingerprint

RECIPE: Recipe = {
    "teacher": {"name": "mvit_v2_s", "mean": [0.45, 0.45, 0.45]},
    "stride_s": 0.1333,
    "weights_are_random": False,
}


def test_the_order_of_fields_does_not_matter() -> None:
    other: Recipe = {
        "weights_are_random": False,
        "stride_s": 0.1333,
        "teacher": {"mean": [0.45, 0.45, 0.45], "name": "mvit_v2_s"},
    }

    assert fingerprint(other) == fingerprint(RECIPE)
    assert differences(other, RECIPE) == []


def test_a_fingerprint_is_the_same_today_and_tomorrow() -> None:
    # blake3 of {"a": 1, "b": [true, null]}; a change would orphan every store there is.
    expected = "5a2097dcdc5f86ecfb0c7c031248f4654595f494b939f7bdb8f43071a32a7f20"

    assert fingerprint({"b": [True, None], "a": 1}) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stride_s", 0.1334),
        ("weights_are_random", True),
        ("teacher", {"name": "mvit_v2_s", "mean": [0.45, 0.45, 0.5]}),
        ("teacher", {"name": "MVIT_V2_S", "mean": [0.45, 0.45, 0.45]}),
        ("new", None),
    ],
)
def test_any_other_value_gives_another_fingerprint(field: str, value: Json) -> None:
    other = dict(RECIPE) | {field: value}

    assert fingerprint(other) != fingerprint(RECIPE)


def test_the_order_within_a_list_matters() -> None:
    assert fingerprint({"mean": [1, 2]}) != fingerprint({"mean": [2, 1]})


def test_nan_has_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"stride_s": float("nan")})


def test_differences_name_nested_fields_and_both_values() -> None:
    wanted: Recipe = {
        "teacher": {"name": "slowfast_r50", "mean": [0.45, 0.45, 0.45]},
        "stride_s": 0.1667,
        "weights_are_random": False,
    }

    assert differences(RECIPE, wanted) == [
        "stride_s: store 0.1333, this run 0.1667",
        'teacher.name: store "mvit_v2_s", this run "slowfast_r50"',
    ]


def test_a_field_of_one_side_only_is_a_difference() -> None:
    assert differences({"crop_px": 224}, {"decoder": {"name": "pyav"}}) == [
        "crop_px: store 224, this run (none)",
        'decoder.name: store (none), this run "pyav"',
    ]


def test_a_number_and_its_text_differ() -> None:
    assert differences({"size": 224}, {"size": "224"}) == ['size: store 224, this run "224"']
