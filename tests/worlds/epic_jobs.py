"""EPIC-KITCHENS-100 in small, and the paper's job on it through the commands.

Annotations, folders and the faults of the IMU files are the dataset's; the videos are drawn.
Test files name this module in `pytest_plugins` and then ask for `papers`.
PYTEST_DONT_REWRITE: test files also import from it, and it asserts nothing.
"""

from pathlib import Path
from typing import Any

import pytest

from egoctl.tests.worlds.drawn_video import cut_file
from egoctl.tests.worlds.epic_world import (
    row,
    unlabelled,
    write_pair,
    write_rows,
    write_video_info,
)
from egoctl.tests.worlds.extract_world import draw_colours
from egoctl.tests.worlds.places import MANIFESTS
from egoctl.tests.worlds.whole_path import (
    SMALL_STORES,
    SMALL_STUDENT,
    Job,
    Ran,
    egoctl,
    small_machine,
)

VIDEO_S = 7.0
EARLY, LATE = ("00:00:00.50", "00:00:03.00"), ("00:00:04.00", "00:00:06.50")


def imu(folder: Path, video_id: str, **changes: Any) -> None:
    """Sound files of a stream that ends a second before its video, but for what is changed."""
    sound: dict[str, Any] = {"accel_per_s": [198] * 6, "gyro_per_s": [198] * 6}
    write_pair(kitchen(folder, video_id, "meta_data"), video_id, **sound | changes)


def kitchen(folder: Path, video_id: str, kind: str) -> Path:
    """The folder where the download scripts put such files of a video."""
    return folder / "data" / "EPIC-KITCHENS" / video_id[:3] / kind


def film(folder: Path, video_id: str) -> Path:
    """Draw a video where the download scripts put it."""
    return draw_colours(
        kitchen(folder, video_id, "videos") / f"{video_id}.MP4",
        seconds=VIDEO_S,
        # Other pictures than those of other videos.
        first=7 * sum(map(ord, video_id)) % 800,
    )


def write_kitchens(folder: Path) -> None:
    """Annotations of all three official splits, videos, and IMU files with the known faults."""
    annotations = folder / "annotations"
    write_rows(
        annotations / "EPIC_100_train.csv",
        [
            row("P01_101_0", *EARLY, verb_class=0, noun_class=1),
            row("P01_101_1", *LATE, verb_class=1, noun_class=2),
            row("P02_104_0", *EARLY, verb_class=0, noun_class=1),
            row("P02_104_1", *LATE, verb_class=1, noun_class=2),
            row("P02_104_2", "00:00:00.20", "00:00:01.30", verb_class=3, noun_class=8),
            row("P03_110_0", *EARLY, verb_class=0, noun_class=1),
            row("P04_108_0", *EARLY, verb_class=0, noun_class=1),
            row("P05_02_0", *EARLY, verb_class=1, noun_class=2),
            row("P30_101_0", *EARLY, verb_class=0, noun_class=1),
            row("P30_05_0", *EARLY, verb_class=0, noun_class=1),
            row("P35_105_0", *EARLY, verb_class=1, noun_class=2),
            row("P35_105_1", *LATE, verb_class=0, noun_class=1),
            row("P37_103_0", *EARLY, verb_class=1, noun_class=2),
            row("P37_103_1", *LATE, verb_class=0, noun_class=1),
        ],
    )
    write_rows(
        annotations / "EPIC_100_validation.csv",
        [
            row("P18_05_0", *EARLY, verb_class=0, noun_class=1),
            row("P18_05_1", *LATE, verb_class=1, noun_class=2),
        ],
    )
    write_rows(
        annotations / "EPIC_100_test_timestamps.csv",
        [
            unlabelled(row("P06_102_0", *EARLY)),
            unlabelled(row("P06_102_1", *LATE)),
            unlabelled(row("P07_09_0", *EARLY)),
        ],
    )
    write_rows(annotations / "EPIC_100_tail_verbs.csv", [{"verb": 1}])
    write_rows(annotations / "EPIC_100_tail_nouns.csv", [{"noun": 2}])
    write_rows(
        annotations / "EPIC_100_unseen_participant_ids_validation.csv", [{"participant_id": "P18"}]
    )
    filmed = (
        "P01_101", "P02_104", "P03_110", "P05_02", "P30_101", "P30_05", "P35_105", "P37_103",
        "P18_05", "P06_102", "P07_09",
    )  # fmt: skip
    write_video_info(annotations, **dict.fromkeys((*filmed, "P04_108"), (VIDEO_S, 30.0)))
    for video_id in filmed:
        film(folder, video_id)
    broken = kitchen(folder, "P37_103", "videos") / "P37_103.MP4"
    cut_file(broken, broken, at_packet=150)
    imu(folder, "P01_101", spacing_ms=1000 / 225)
    imu(folder, "P02_104", gyro_per_s=[198] * 4)
    imu(folder, "P04_108")
    imu(folder, "P30_101")
    imu(folder, "P35_105", accel_per_s=[198] * 4 + [0] + [198])
    imu(folder, "P37_103")
    imu(folder, "P06_102", gyro_per_s=[198] * 4)


def build(folder: Path, name: str, recipe: str, *more: str) -> Ran:
    """Make NAME.parquet after a recipe of the repository."""
    return egoctl(
        *("manifest", "build", "epic-kitchens", "--annotations", folder / "annotations"),
        *("--data", folder / "data", "--recipe", MANIFESTS / f"{recipe}.toml"),
        *("--stride", "0.2", "--out", folder / f"{name}.parquet", *more),
    )


def extract(folder: Path, name: str, *more: str) -> Ran:
    """Fill the two stores with the clips of NAME.parquet."""
    return egoctl(
        *("extract-teacher", folder / f"{name}.parquet", "--store", folder / "teacher.store"),
        *("--inputs", folder / "inputs.store", *SMALL_STORES, *more),
    )


def train(folder: Path, name: str, run: str, method: str, *more: str) -> Ran:
    """Train the student runs/RUN on NAME.parquet and the two stores."""
    return egoctl(
        *("train-student", folder / f"{name}.parquet", "--store", folder / "teacher.store"),
        *("--inputs", folder / "inputs.store", "--run", folder / "runs" / run),
        *("--method", method, *SMALL_STUDENT, *more),
    )


# Not of the session: the challenge goes on to fill its stores.
@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The paper's division, from the files to an evaluation."""
    folder = tmp_path_factory.mktemp("epic")
    write_kitchens(folder)
    with small_machine(num_classes=97):
        ran = {
            "build": build(folder, "epic", "epic-kitchens-egodistill"),
            "build official": build(folder, "official", "epic-kitchens-official"),
            "check": egoctl("manifest", "check", folder / "epic.parquet"),
            "extract": extract(folder, "epic", "--trained-on", f"{folder}/official.parquet#train"),
            "train": train(folder, "epic", "student", "egodistill"),
            "evaluate": egoctl("evaluate", folder / "runs" / "student"),
        }
    return Job(folder=folder, ran=ran)
