"""Stand-ins for EPIC-KITCHENS: its folders, its CSV files and its IMU clock, in small."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from egoctl.tests.worlds.places import DATA

EPIC100 = DATA / "epic100"
needs_epic100 = pytest.mark.skipif(
    not EPIC100.is_dir(), reason=f"no EPIC-KITCHENS-100 annotations in {EPIC100}"
)
SEGMENT_COLUMNS = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp",
    "stop_timestamp", "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun",
    "noun_class", "all_nouns", "all_noun_classes",
)  # fmt: skip


def stamped_ms(num_per_s: Sequence[int], *, spacing_ms: float | None = None) -> NDArray[np.float64]:
    """(N,) the dataset's clock: payload n at n * 1000 ms, its samples evenly behind that."""
    payloads = [
        1000 * number + np.arange(num) * (1000 / max(num, 1) if spacing_ms is None else spacing_ms)
        for number, num in enumerate(num_per_s)
    ]
    return np.concatenate(payloads)


def write_pair(
    folder: Path,
    name: str,
    *,
    accel_per_s: Sequence[int],
    gyro_per_s: Sequence[int],
    spacing_ms: float | None = None,
) -> Path:
    """Write NAME-accl.csv and NAME-gyro.csv of a worn camera; the path of the first.

    The values are those of the true, even times; spacing_ms crowds the stamps alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for sensor, axis, num_per_s in (("accl", "Accl", accel_per_s), ("gyro", "Gyro", gyro_per_s)):
        true_s = stamped_ms(num_per_s) / 1000
        phases = np.pi * true_s[:, None] + [0.0, 0.5, 1.0]
        values_N3 = np.sin(phases) + ([9.8, 0, 0] if sensor == "accl" else 0)
        times_ms = stamped_ms(num_per_s, spacing_ms=spacing_ms)
        with (folder / f"{name}-{sensor}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Milliseconds", *(f"{axis}{letter}" for letter in "XYZ")])
            for time_ms, values in zip(times_ms, values_N3, strict=True):
                writer.writerow([f"{time_ms:.6f}", *(f"{value:.6f}" for value in values)])
    return folder / f"{name}-accl.csv"


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a CSV whose columns are those of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(
    narration_id: str, start: str = "00:00:01.00", stop: str = "00:00:03.50", **changes: object
) -> dict[str, object]:
    """A row of a train or validation file; the video is what stands before the id's last part."""
    video_id = narration_id.rpartition("_")[0]
    fps = 50 if len(video_id) == 7 else 60
    plain = {
        "narration_id": narration_id,
        "participant_id": video_id[:3],
        "video_id": video_id,
        "narration_timestamp": start,
        "start_timestamp": start,
        "stop_timestamp": stop,
        "start_frame": int(_seconds(start) * fps),
        "stop_frame": int(_seconds(stop) * fps),
        "narration": "open door",
        "verb": "open",
        "verb_class": 3,
        "noun": "door",
        "noun_class": 8,
        "all_nouns": "['door']",
        "all_noun_classes": "[8]",
    }
    assert tuple(plain) == SEGMENT_COLUMNS
    return plain | changes


def unlabelled(plain: Mapping[str, object]) -> dict[str, object]:
    """A row of the test file: what row() gives, up to the frames."""
    return {name: plain[name] for name in SEGMENT_COLUMNS[:8]}


def write_video_info(folder: Path, **videos: tuple[float, float]) -> Path:
    """Write EPIC_100_video_info.csv from VIDEO_ID=(seconds, fps)."""
    return write_rows(
        folder / "EPIC_100_video_info.csv",
        [
            {"video_id": name, "duration": seconds, "fps": fps, "resolution": "1920x1080"}
            for name, (seconds, fps) in videos.items()
        ],
    )


def touch_videos(data: Path, *video_ids: str) -> None:
    """Empty files where the download scripts put videos: enough to be found."""
    for video_id in video_ids:
        file = data / "EPIC-KITCHENS" / video_id[:3] / "videos" / f"{video_id}.MP4"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def touch_imu(data: Path, *video_ids: str) -> None:
    """Empty pairs where the download scripts put them."""
    for video_id in video_ids:
        for half in ("accl", "gyro"):
            file = data / "EPIC-KITCHENS" / video_id[:3] / "meta_data" / f"{video_id}-{half}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()


def _seconds(timestamp: str) -> float:
    hours, minutes, seconds = timestamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
