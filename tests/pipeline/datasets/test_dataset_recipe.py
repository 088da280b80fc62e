"""Recipes of data sets: read strictly, their counts told beside those of a manifest."""

from pathlib import Path

import pytest

from egoctl.pipeline.datasets.dataset_recipe import (
    DatasetRecipe,
    ExpectedCounts,
    compare_counts,
    read_recipe,
)
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import WINDOW_S, Segment
from egoctl.tests.worlds.places import MANIFESTS

RECIPE = """
name = "tiny"
dataset = "ego4d"
label = "structured_verb"
split_rule = "by-video"
download = "From the next room."
[expected]
source = "the paper"
"""


def read(folder: Path, text: str, *, dataset: str = "ego4d") -> DatasetRecipe:
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, dataset=dataset)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, text)
    return str(caught.value).removeprefix(f"{folder}/")


def test_what_a_recipe_leaves_open_has_a_default(tmp_path: Path) -> None:
    assert read(tmp_path, RECIPE) == DatasetRecipe(
        name="tiny",
        dataset="ego4d",
        label="structured_verb",
        split_rule="by-video",
        download="From the next room.",
        expected=ExpectedCounts(source="the paper"),
        window_s=WINDOW_S,
        stride_s=None,
        min_segments=1,
        seed=0,
    )


def test_all_of_a_recipe_is_read(tmp_path: Path) -> None:
    text = RECIPE.replace(
        "[expected]", "window_s = 2\nstride_s = 0.5\nmin_segments = 2\nseed = 7\n[expected]"
    )
    counts = "segments = 12100\nclasses = 94\nvideos = 3\nparticipants = 2\nsplits = {train = 8500}"

    found = read(tmp_path, text + counts)

    assert (found.window_s, found.stride_s, found.min_segments, found.seed) == (2, 0.5, 2, 7)
    assert found.expected == ExpectedCounts(
        source="the paper",
        segments=12100,
        classes=94,
        videos=3,
        participants=2,
        splits={"train": 8500},
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1" + RECIPE, "tiny.toml: unknown key 'x'. Known: name, dataset, label"),
        (RECIPE + "clips = 1", "expected: unknown key 'clips'. Known: source, segments"),
        (RECIPE.replace('label = "structured_verb"', ""), "tiny.toml: label is missing."),
        (RECIPE.replace('source = "the paper"', ""), "tiny.toml: expected.source is missing."),
        (RECIPE.partition("[expected]")[0], "tiny.toml: expected is missing."),
        (
            "expected = 3" + RECIPE.partition("[expected]")[0],
            "tiny.toml: expected must be a table, got 3.",
        ),
        ("seed = 0.5" + RECIPE, "tiny.toml: seed must be a whole number, got 0.5."),
        ("seed = true" + RECIPE, "tiny.toml: seed must be a whole number, got True."),
        ("window_s = '2'" + RECIPE, "tiny.toml: window_s must be a number, got '2'."),
        ('name = ["a"]' + RECIPE.replace('name = "tiny"', ""), "tiny.toml: name must be text"),
        (
            RECIPE + "segments = '12k'",
            "tiny.toml: expected.segments must be a whole number, got '12k'.",
        ),
        (
            RECIPE + "splits = {train = 'all'}",
            "tiny.toml: expected.splits.train must be a whole number, got 'all'.",
        ),
        (RECIPE + "splits = [1]", "expected.splits must be a table, got [1]."),
        (RECIPE + "splits = 3", "expected.splits must be a table, got 3."),
        ("name = ", "tiny.toml is not TOML: Invalid value"),
    ],
)
def test_a_slip_in_a_recipe_is_refused_and_named(tmp_path: Path, text: str, reason: str) -> None:
    assert reason in refusal(tmp_path, text)


def test_a_recipe_of_another_dataset_is_refused_with_the_command_for_it(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="not of epic-kitchens. Use .*manifest build ego4d'"):
        read(tmp_path, RECIPE, dataset="epic-kitchens")


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.toml: No such file or directory"):
        read_recipe(tmp_path / "none.toml", dataset="ego4d")


@pytest.mark.parametrize("path", sorted(MANIFESTS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_we_ship_are_read_and_called_as_their_file(path: Path) -> None:
    recipe = read_recipe(
        path, dataset="ego4d" if path.stem.startswith("ego4d") else "epic-kitchens"
    )

    assert recipe.name == path.stem
    assert recipe.download and recipe.expected.segments


def test_counts_are_told_beside_the_expected_ones(tmp_path: Path) -> None:
    manifest = Manifest(
        segments=tuple(
            Segment(
                segment_id=f"s{index}", video_id=f"v{index // 2}", video_path="v.mp4",
                imu_path=None, participant_id="P1", start_s=0, stop_s=1, label=0,
                split="train" if index else "test",
            )
            for index in range(3)
        ),
        class_names=("cut", "stir"),
        dataset_name="tiny",
        window_s=2.0,
        stride_s=None,
        root=tmp_path,
    )  # fmt: skip
    expected = ExpectedCounts(
        source="the paper",
        segments=4,
        classes=2,
        videos=1000,
        splits={"train": 1, "val": 5},
    )

    assert list(compare_counts(manifest, expected)) == [
        "segments: 3 (-25.0%); the paper has 4",
        "classes: 2; the paper has 2",
        "videos: 2 (-99.8%); the paper has 1,000",
        "train segments: 2 (+100.0%); the paper has 1",
        "val segments: 0 (-100.0%); the paper has 5",
    ]
