"""The examples in docstrings do what they show, each in a folder with what its module needs."""

import doctest
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.tests.worlds.small_stores import clip_rows, small_store


def no_files(folder: Path) -> None:
    """For examples that read nothing."""


def small_files(folder: Path) -> None:
    """clips.parquet: segments a, b and c of 3 s; teacher.store and inputs.store with their clips.

    The teacher's features have 5 numbers, its classes are cut, stir and wash.
    """
    segments = tuple(
        Segment(
            segment_id=name, video_id="v1", video_path="videos/v1.mp4", imu_path="imu/v1.csv",
            participant_id="P01", start_s=3.0 * at, stop_s=3.0 * at + 3.0, label=at,
            split="train" if name < "c" else "test",
        )
        for at, name in enumerate("abc")
    )  # fmt: skip
    manifest = Manifest(
        segments=segments, class_names=("cut", "stir", "wash"), dataset_name="kitchen",
        window_s=2.0, stride_s=1.0, root=folder,
    )  # fmt: skip
    write_manifest(manifest, folder / "clips.parquet")
    small_store(str(folder / "teacher.store"), clip_rows("abc"))
    small_store(str(folder / "inputs.store"), clip_rows("abc"), kind="inputs")


def student_files(folder: Path) -> None:
    """manifest.parquet, teacher.store and inputs.store of the world that students are tested on."""
    # Loads torch, which the other examples do without.
    from egoctl.tests.worlds.student_world import make_world

    make_world(folder)


def video_files(folder: Path) -> None:
    """clips.parquet: a segment of 3 s in a drawn video, three clips without IMU."""
    from egoctl.tests.worlds.extract_world import World, draw_colours

    world = World(folder=folder)
    draw_colours(world.videos / "a.mp4", seconds=3.2)
    world.manifest([{"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 3}])


MODULES: dict[str, Callable[[Path], None]] = {
    "egoctl.pipeline.extraction.extract": video_files,
    "egoctl.pipeline.manifest": small_files,
    "egoctl.pipeline.some_names": no_files,
    "egoctl.pipeline.store.feature_store": small_files,
    "egoctl.pipeline.teachers.protocol": no_files,
    "egoctl.pipeline.text_table": no_files,
    "egoctl.student.clip_dataset": student_files,
}
"""Modules with examples, and what makes the files that lie in the folder where they run."""


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_do_what_they_show(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MODULES[module](tmp_path)
    monkeypatch.chdir(tmp_path)

    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.ELLIPSIS)

    assert result.attempted > 0
    assert result.failed == 0


def test_every_module_with_an_example_is_listed() -> None:
    root = Path(__file__).resolve().parents[2]
    with_examples = {
        ".".join(("egoctl", *file.relative_to(root).with_suffix("").parts))
        for side in ("pipeline", "student")
        for file in (root / side).rglob("*.py")
        if ">>> " in file.read_text(encoding="utf-8")
    }

    assert with_examples == set(MODULES)
