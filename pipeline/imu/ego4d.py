"""Reads Ego4D's IMU files: one CSV per video, in rad/s and m/s^2, on the canonical video's clock.

What these files are known for is put right where that is sure, left out where it is not, and
counted in the track's source, which every message and `egoctl manifest check` show: empty cells,
absurd values, times out of order, stretches that claim the time of another.
"""

# N rows, then samples of one sensor

import csv
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.telemetry import unreadable
from egoctl.pipeline.records import FloatArray, ImuTrack

_TIME = "canonical_timestamp_ms"
_ACCEL = ["accl_x", "accl_y", "accl_z"]
_GYRO = ["gyro_x", "gyro_y", "gyro_z"]
_NO_VALUE = ["", "NULL", "null", "None", "NaN", "nan"]
_MAX_TIME_MS = 1e8
"""28 hours; no video lasts nearly as long."""
_MAX_ACCEL = 320.0
"""m/s^2: 32 g, the widest range of such sensors."""
_MAX_GYRO = 100.0
"""rad/s: more than twice the usual range of 2000 deg/s."""
_FAR_ROWS = 4
"""Rows written this close (20 ms at 200 Hz) may come in any order: that is jitter."""


def is_ego4d_csv(path: Path) -> bool:
    """Whether the header of a CSV is that of Ego4D's IMU files."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return _TIME in next(csv.reader(file), [])
    except (OSError, csv.Error):
        return False  # the reader of plain files reports what is wrong


def read_ego4d_track(path: Path) -> ImuTrack:
    """The track of one of Ego4D's files, zero at the canonical video's first frame.

    A component of the video that was recorded without IMU stays a gap.

    Raises:
        ImuError: imu_unreadable; imu_missing if a sensor has no column or no usable sample.
    """
    wanted = [_TIME, *_ACCEL, *_GYRO]
    try:
        content = path.read_bytes()
        header = pl.read_csv(content, n_rows=0).columns
        columns = [name for name in wanted if name in header]
        table = pl.read_csv(
            content,
            columns=columns,
            schema_overrides=dict.fromkeys(columns, pl.Float64),
            null_values=_NO_VALUE,
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(path, str(error).partition("\n")[0]) from error
    notes: list[str] = []
    timed = table.filter(pl.col(_TIME).is_finite() & (pl.col(_TIME).abs() < _MAX_TIME_MS))
    _note(notes, len(table) - len(timed), "without a canonical time")
    time_s = timed[_TIME].to_numpy() / 1000
    _note(notes, int(np.count_nonzero(np.diff(time_s) < 0)), "earlier than the row before: sorted")
    order_N, is_contested_N = _in_time_order(time_s)
    _note(notes, int(np.count_nonzero(is_contested_N)), "of a time that another row has: left out")
    timed = timed[order_N[~is_contested_N]]
    accel = _sensor(path, timed, "accelerometer", _ACCEL, _MAX_ACCEL, notes)
    gyro = _sensor(path, timed, "gyroscope", _GYRO, _MAX_GYRO, notes)
    return ImuTrack(
        accel_time_s=accel[0],
        accel_N3=accel[1],
        gyro_time_s=gyro[0],
        gyro_M3=gyro[1],
        source=f"{path} (Ego4D{'; ' if notes else ''}{', '.join(notes)})",
    )


def _in_time_order(time_s: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(N,) rows by time, and which of these are contested: another row claims their time.

    A row whose neighbours in time were both written elsewhere in the file is in a stretch that
    another one overlaps, or is lost; which of the two is right is unknown. A row that
    repeats the time of the one before is contested too.
    """
    order_N = np.argsort(time_s, kind="stable")
    is_far = np.abs(np.diff(order_N)) > _FAR_ROWS
    is_lost_N = np.append(True, is_far) & np.append(is_far, True)
    is_repeated_N = np.append(False, np.diff(time_s[order_N]) == 0)
    return order_N, (is_lost_N & (len(order_N) > 1)) | is_repeated_N


def _sensor(
    path: Path, table: pl.DataFrame, name: str, columns: list[str], limit: float, notes: list[str]
) -> tuple[FloatArray, FloatArray]:
    """One sensor's times (N,) and values (N, 3), of the rows whose three values are sane."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise _no_sensor(path, name, f"it has no column {', '.join(missing)}")
    full = table.drop_nulls(columns)
    values_N3 = full.select(columns).to_numpy()
    is_sane_N = (np.abs(values_N3) <= limit).all(axis=1)
    _note(notes, len(table) - len(full), f"without {name} values")
    _note(notes, int(np.count_nonzero(~is_sane_N)), f"with absurd {name} values")
    if not is_sane_N.any():
        raise _no_sensor(path, name, f"none of its {len(table)} rows has usable values")
    time_s = full[_TIME].to_numpy()[is_sane_N] / 1000
    return time_s, np.ascontiguousarray(values_N3[is_sane_N])


def _no_sensor(path: Path, name: str, reason: str) -> ImuError:
    return ImuError(
        "imu_missing",
        f"{path}: no {name}: {reason}. Some devices of Ego4D recorded one sensor alone; give the "
        "segment no imu_path.",
    )


def _note(notes: list[str], count: int, what: str) -> None:
    if count:
        notes.append(f"{count} rows {what}")
