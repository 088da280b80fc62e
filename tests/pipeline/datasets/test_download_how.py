"""What a recipe says of downloading its dataset is printed when it is needed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.datasets.dataset_recipe import NotDownloadedError, read_recipe
from egoctl.pipeline.errors import EgoctlError, ManifestError
from egoctl.tests.worlds.ego4d_world import Ego4dWorld, action
from egoctl.tests.worlds.epic_world import row, touch_imu, touch_videos, write_rows
from egoctl.tests.worlds.places import MANIFESTS

EPIC = MANIFESTS / "epic-kitchens-egodistill.toml"
EGO4D = MANIFESTS / "ego4d-egodistill.toml"


def build(*words: object) -> tuple[str, BaseException | None]:
    """All that `egoctl manifest build` printed, and what ended it."""
    result = CliRunner().invoke(cli.app, ["manifest", "build", *map(str, words)])
    return result.output, result.exception


def build_epic(folder: Path, *more: object) -> tuple[str, BaseException | None]:
    places = ("--annotations", folder / "annotations", "--data", folder / "data")
    return build("epic-kitchens", *places, "--out", folder / "epic.parquet", *more)


def download(recipe: Path) -> str:
    dataset = "ego4d" if recipe.stem.startswith("ego4d") else "epic-kitchens"
    return read_recipe(recipe, dataset=dataset).download.strip()


@pytest.mark.parametrize(
    "words",
    [
        ("epic-kitchens", "--recipe", EPIC, "--how"),
        ("epic-kitchens", "--how", "--recipe", EPIC),
        ("ego4d", "--recipe", EGO4D, "--how"),
        ("ego4d", "--how", "--recipe", EGO4D),
    ],
)
def test_how_prints_the_recipes_words_and_asks_for_nothing_else(words: tuple[object, ...]) -> None:
    said, ended = build(*words)

    recipe = EPIC if words[0] == "epic-kitchens" else EGO4D
    assert said == download(recipe) + "\n"
    assert "https://" in said or "ego4d-data.org" in said
    assert ended is None


def test_how_builds_nothing_where_it_could(tmp_path: Path) -> None:
    write_rows(tmp_path / "annotations" / "EPIC_100_train.csv", [row("P01_101_0")])
    touch_videos(tmp_path / "data", "P01_101")
    touch_imu(tmp_path / "data", "P01_101")

    said, ended = build_epic(tmp_path, "--recipe", EPIC, "--how")

    assert (said, ended) == (download(EPIC) + "\n", None)
    assert not (tmp_path / "epic.parquet").exists()


def test_how_without_a_recipe_asks_for_one() -> None:
    _, ended = build("ego4d", "--how")

    assert isinstance(ended, EgoctlError)
    assert str(ended) == "--how prints how to download a recipe's data; name one with --recipe."


def test_how_of_another_datasets_recipe_is_refused() -> None:
    _, ended = build("ego4d", "--how", "--recipe", EPIC)

    assert isinstance(ended, ManifestError)
    assert "is a recipe of epic-kitchens, not of ego4d" in str(ended)


def test_a_dataset_that_is_not_there_is_told_how_to_download(tmp_path: Path) -> None:
    said, ended = build("ego4d", tmp_path, "--recipe", EGO4D, "--out", tmp_path / "m.parquet")

    assert said == download(EGO4D) + "\n"
    assert isinstance(ended, NotDownloadedError)
    assert "annotations/fho_main.json. Give the folder of Ego4D's downloader" in str(ended)


def test_kitchens_without_annotations_or_data_or_videos_are_told_how(tmp_path: Path) -> None:
    recipe = ("--recipe", EPIC)
    (tmp_path / "annotations").mkdir()
    without_annotations = build_epic(tmp_path, *recipe)
    write_rows(tmp_path / "annotations" / "EPIC_100_train.csv", [row("P01_101_0")])
    without_data = build_epic(tmp_path, *recipe)
    touch_imu(tmp_path / "data", "P01_101")
    without_videos = build_epic(tmp_path, *recipe)

    for (said, ended), reason in (
        (without_annotations, "holds no segments"),
        (without_data, "no folder"),
        (without_videos, "1 segments of 1 videos have no video file"),
    ):
        assert said == download(EPIC) + "\n"
        assert isinstance(ended, NotDownloadedError)
        assert reason in str(ended)


def test_without_a_recipe_the_error_stands_alone(tmp_path: Path) -> None:
    said, ended = build("ego4d", tmp_path, "--out", tmp_path / "m.parquet")

    assert said == ""
    assert isinstance(ended, NotDownloadedError)


def test_other_mistakes_are_not_answered_with_a_download(tmp_path: Path) -> None:
    world = Ego4dWorld(root=tmp_path / "ego4d")
    world.annotate({"v1": [action("a", "cut", 3, 9, is_rejected=True)]})

    said, ended = build("ego4d", world.root, "--recipe", EGO4D, "--out", tmp_path / "m.parquet")

    assert said == ""
    assert isinstance(ended, ManifestError)
    assert "no action is left" in str(ended)
