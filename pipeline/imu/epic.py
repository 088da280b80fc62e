"""Reads the IMU of EPIC-KITCHENS: two CSV files a video, on a clock that counts in payloads.

The dataset's tool gave no sample a time of its own. A GoPro writes its samples in payloads of about
a second; payload n was stamped n * 1000 ms, whenever it was measured, and its samples were spread
behind that stamp. So times are trusted to the second only, a stream ends a payload or three before
its video, and a slow drift stays in: repair_clock mends what the file itself gives away.
"""

# N samples of one sensor, K payloads (about a second of samples each)

from pathlib import Path

import numpy as np
import polars as pl

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu.telemetry import unreadable
from egoctl.pipeline.records import FloatArray, ImuTrack

ACCEL_SUFFIX = "-accl.csv"
GYRO_SUFFIX = "-gyro.csv"
PAYLOAD_S = 1.0

_TIME = "Milliseconds"
_ACCEL = ("AcclX", "AcclY", "AcclZ")
_GYRO = ("GyroX", "GyroY", "GyroZ")
_STAMP_SLACK_S = 0.0015
"""The first sample of a payload carries its stamp, to the millisecond."""
_FULL_SHARE = 0.9
"""A payload with fewer of the usual number of samples than this lost some."""


def is_epic_pair(path: Path) -> bool:
    """Whether an imu_path names the accelerometer's half of a pair; the other lies beside it."""
    return path.name.endswith(ACCEL_SUFFIX)


def gyro_name(accel_name: str) -> str:
    """The name (or URL) of the gyroscope's file: P01_101-accl.csv has P01_101-gyro.csv."""
    return accel_name[: -len(ACCEL_SUFFIX)] + GYRO_SUFFIX


def read_epic_pair(accel_csv: Path, gyro_csv: Path) -> ImuTrack:
    """The track of PXX_1YY-accl.csv (m/s^2) and PXX_1YY-gyro.csv (rad/s), clocks repaired.

    Axes stay in the camera's order. The files may differ in length and in rate.

    Raises:
        ImuError: imu_missing, or imu_unreadable with file and line.
    """
    accel_time_s, accel_N3 = _read_sensor(accel_csv, _ACCEL)
    gyro_time_s, gyro_M3 = _read_sensor(gyro_csv, _GYRO)
    return ImuTrack(
        accel_time_s=repair_clock(accel_time_s),
        accel_N3=accel_N3,
        gyro_time_s=repair_clock(gyro_time_s),
        gyro_M3=gyro_M3,
        source=str(accel_csv),
    )


def repair_clock(time_s: FloatArray) -> FloatArray:
    """(N,) the samples of every payload spread evenly over its second.

    Some files space them at 225 Hz and leave a hole before the next payload, though the sensor
    went on at 198 Hz. A payload that holds under nine tenths of the usual number of samples lost
    some (or is the last): it keeps the usual spacing, so that the hole stays to be seen. Payloads
    that are absent, repeated or go backwards stay as they are, for the checks to find; and so
    does a file whose samples do not begin at whole seconds: it has a clock of its own.
    """
    if len(time_s) == 0:
        return time_s
    number_N = np.floor((time_s + _STAMP_SLACK_S) / PAYLOAD_S)
    is_first_N = np.append(True, (np.diff(number_N) != 0) | (np.diff(time_s) <= 0))
    first_K = np.flatnonzero(is_first_N)
    stamp_K = number_N[first_K] * PAYLOAD_S
    num_K = np.diff(np.append(first_K, len(time_s)))
    is_stamped_K = np.abs(time_s[first_K] - stamp_K) <= _STAMP_SLACK_S
    if not is_stamped_K.mean() > 0.5:
        return time_s
    usual_num = np.median(num_K[is_stamped_K])
    spacing_K = PAYLOAD_S / np.where(num_K >= _FULL_SHARE * usual_num, num_K, usual_num)
    index_in_payload_N = np.arange(len(time_s)) - np.repeat(first_K, num_K)
    even_N = np.repeat(stamp_K, num_K) + index_in_payload_N * np.repeat(spacing_K, num_K)
    return np.where(np.repeat(is_stamped_K, num_K), even_N, time_s)


def _read_sensor(path: Path, axes: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """(N,) seconds and (N, 3) values; an empty cell of a sample is NaN."""
    columns = [_TIME, *axes]
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ImuError(
            "imu_missing",
            f"{path}: no such file. EPIC-KITCHENS gives accelerometer and gyroscope in two files, "
            f"NAME{ACCEL_SUFFIX} and NAME{GYRO_SUFFIX}; put both into one folder.",
        ) from error
    except OSError as error:
        raise unreadable(path, str(error.strerror)) from error
    try:
        # As text first: a cast that fails then names the line.
        text = pl.read_csv(content, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise unreadable(path, str(error).partition("\n")[0]) from error
    text = text.rename({name: name.strip() for name in text.columns})
    if missing := [name for name in columns if name not in text.columns]:
        raise unreadable(
            path, f"line 1: no column {', '.join(missing)}. The header needs {','.join(columns)}"
        )
    text = text.select(pl.col(columns).str.strip_chars())
    table = text.cast(pl.Float64, strict=False)
    for name in columns:
        is_bad = text[name].is_not_null() & table[name].is_null() & (text[name] != "")
        if name == _TIME:
            is_bad = is_bad | ~table[name].is_finite().fill_null(False)
        if (bad := is_bad.arg_true()).len():
            row = int(bad[0])
            raise unreadable(path, f"line {row + 2}: {name} is not a number: {text[name][row]!r}")
    if len(table) == 0:
        raise ImuError("imu_missing", f"{path}: it holds no sample.")
    values_N3 = table.select(axes).fill_null(np.nan).to_numpy()
    return table[_TIME].to_numpy() / 1000, np.ascontiguousarray(values_N3)
