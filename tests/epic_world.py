"""Stand-ins for EPIC-KITCHENS: its folders, its CSV files and its IMU clock, in small."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
