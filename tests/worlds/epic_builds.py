"""Builds of EPIC-KITCHENS manifests for tests: a folder of stand-ins, and what is said of it.

Test files name this module in `pytest_plugins` and then ask for `kitchen`.
PYTEST_DONT_REWRITE: test files also import from it, and it asserts nothing.
"""

from pathlib import Path
from typing import Any

import pytest

from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild
from egoctl.pipeline.datasets.epic.kitchens import EpicSource, build_epic
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import Manifest
from egoctl.tests.worlds.epic_world import row, touch_imu, touch_videos, unlabelled, write_rows


def build(folder: Path, **changes: Any) -> DatasetBuild:
    """The manifest of folder/annotations and folder/data."""
    places = {"annotations": folder / "annotations", "data": folder / "data"}
    return build_epic(EpicSource(**(places | changes)), manifest_folder=folder)


def refusal(folder: Path, **changes: Any) -> str:
    """What a build is refused with, the folder left out of its paths."""
    with pytest.raises(EgoctlError) as caught:
        build(folder, **changes)
    return str(caught.value).replace(f"{folder}/", "")


def splits(manifest: Manifest) -> dict[str, str]:
    """Of each segment."""
    return {segment.segment_id: segment.split for segment in manifest.segments}


def write_train(folder: Path, *rows: dict[str, object]) -> None:
    """Put these in place of the rows of the training split."""
    write_rows(folder / "annotations" / "EPIC_100_train.csv", rows)


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    """Two people of the training split and P30, old and extension videos; val and test."""
    write_train(
        tmp_path,
        row("P01_01_0"), row("P01_101_0", verb_class=0), row("P02_102_0"),
        row("P30_01_0"), row("P30_101_0"), row("P30_101_1", noun_class=2),
    )  # fmt: skip
    annotations = tmp_path / "annotations"
    write_rows(annotations / "EPIC_100_validation.csv", [row("P01_11_0")])
    write_rows(annotations / "EPIC_100_test_timestamps.csv", [unlabelled(row("P01_107_0"))])
    touch_videos(
        tmp_path / "data",
        "P01_01", "P01_101", "P02_102", "P30_01", "P30_101", "P01_11", "P01_107",
    )  # fmt: skip
    touch_imu(tmp_path / "data", "P01_101", "P02_102", "P30_101", "P01_107")
    return tmp_path
