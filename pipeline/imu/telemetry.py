"""Reads recorded head motion: plain CSV files, and the telemetry that cameras put into videos."""

# N samples of one sensor, K payloads (about a second of samples each)

import csv
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from egoctl.pipeline.errors import EgoctlError, ImuError
from egoctl.pipeline.imu.aria import aria_tools, is_vrs
from egoctl.pipeline.records import ImuTrack

_ACCEL = ["accel_x", "accel_y", "accel_z"]
_GYRO = ["gyro_x", "gyro_y", "gyro_z"]
_COLUMNS = ["time_s", *_ACCEL, *_GYRO]

_TICK = "0x5449434b"
"""GPMF key TICK, which telemetry_parser leaves unnamed."""


def read_csv_track(path: Path) -> ImuTrack:
    """The track of a CSV with columns time_s, accel_x ... gyro_z, in s, m/s^2 and rad/s.

    Columns may come in any order, and there may be others. A row may leave one sensor's
    cells empty, so both sensors can keep their own clocks in one file. One empty cell of three is
    NaN: it refuses the windows that touch it.

    Raises:
        ImuError: imu_unreadable, naming the line; imu_missing if a sensor has no row.
    """
    try:
        table = pl.read_csv(
            path.read_bytes(),
            columns=_COLUMNS,
            schema_overrides=dict.fromkeys(_COLUMNS, pl.Float64),
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unreadable(path, _first_bad_line(path) or str(error).partition("\n")[0]) from error
    time = pl.col("time_s")
    timeless = table.filter(
        pl.any_horizontal(pl.exclude("time_s").is_not_null()) & ~time.is_finite().fill_null(False)
    )
    if len(timeless):
        raise unreadable(path, _first_bad_line(path) or "time_s holds cells that are no time")
    times, values = [], []
    for sensor, columns in (("accelerometer", _ACCEL), ("gyroscope", _GYRO)):
        rows = table.filter(pl.any_horizontal(pl.col(columns).is_not_null()))
        if len(rows) == 0:
            raise ImuError(
                "imu_missing",
                f"{path}: no row has {sensor} values. Fill {columns[0]} to {columns[2]}, or give "
                "the segment no imu_path.",
            )
        times.append(rows["time_s"].to_numpy())
        values.append(np.ascontiguousarray(rows.select(columns).fill_null(np.nan).to_numpy()))
    return ImuTrack(
        accel_time_s=times[0],
        accel_N3=values[0],
        gyro_time_s=times[1],
        gyro_M3=values[1],
        source=str(path),
    )


def unreadable(path: Path, reason: str) -> ImuError:
    return ImuError("imu_unreadable", f"{path}: {reason}.")


def _first_bad_line(path: Path) -> str | None:
    """What is wrong, with its line; None if a second, slower look finds nothing.

    Only called once the fast reader has refused the file: it does not report where.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            lines = csv.reader(file)
            header = next(lines, [])
            if missing := [name for name in _COLUMNS if name not in header]:
                return (
                    f"line 1: no column {', '.join(missing)}. The header needs "
                    f"{','.join(_COLUMNS)}, in m/s^2 and rad/s"
                )
            for row in lines:
                if (problem := _row_problem(header, row)) is not None:
                    return f"line {lines.line_num}: {problem}"
    except (OSError, csv.Error) as error:
        return str(error)
    return None


def _row_problem(header: list[str], row: list[str]) -> str | None:
    if len(row) > len(header):
        return f"{len(row)} cells under {len(header)} columns"
    cells = {name: cell for name, cell in zip(header, row, strict=False) if name in _COLUMNS}
    for name, cell in cells.items():
        if cell and not _is_number(cell):
            return f"{name} is not a number: {cell!r}"
    if any(cells.values()) and not np.isfinite(float(cells["time_s"] or "nan")):
        return f"time_s must be a time in seconds, got {cells['time_s']!r}"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def check_telemetry_package(imu_paths: Iterable[Path]) -> None:
    """Return if all these recordings can be read with the packages that are installed.

    Raises:
        EgoctlError: if one lies inside a video and telemetry_parser is not installed, or is a VRS
            file and projectaria_tools is not. That is no fault of the recording, so it must not
            be stored as one.
    """
    inside = [path for path in imu_paths if not _is_csv(path)]
    for path in [path for path in inside if is_vrs(path)][:1]:
        aria_tools(path)
    for path in [path for path in inside if not is_vrs(path)][:1]:
        _telemetry_parser(path)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _telemetry_parser(path: Path) -> ModuleType:
    try:
        import telemetry_parser
    except ImportError as error:
        raise EgoctlError(
            f"{path}: reading motion inside a video needs telemetry_parser: "
            "pip install 'egoctl[gopro]'."
        ) from error
    assert isinstance(telemetry_parser, ModuleType)
    return telemetry_parser


def read_video_track(path: Path) -> ImuTrack:
    """The motion track inside a video file, zero at the video's first frame.

    Axes are x, y, z as telemetry_parser names them in its normalised data: a GoPro's own
    orientation matrix is applied, which puts up/down first on every GoPro.

    Raises:
        ImuError: imu_missing if the file carries none; imu_unreadable if it cannot be opened.
        EgoctlError: without telemetry_parser; check_telemetry_package reports that beforehand.
    """
    telemetry_parser = _telemetry_parser(path)
    try:
        # The parser's own words for a file it may not open are those for one without a track.
        path.open("rb").close()
        parser = telemetry_parser.Parser(str(path))
        source = f"{path} ({parser.camera} {parser.model})"
        if parser.camera == "GoPro":
            return gopro_track(parser, source)
        return normalized_track(parser.normalized_imu(), source)
    # The parser answers "no such track" with a bare OSError or ValueError.
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, str(error)) from error
        raise _no_track(path, str(error)) from error


def _no_track(source: Path | str, detail: str) -> ImuError:
    return ImuError(
        "imu_missing",
        f"{source}: the file carries no motion track ({detail}). Give the segment an IMU file, "
        "or no imu_path.",
    )


def normalized_track(rows: list[dict[str, Any]], source: str) -> ImuTrack:
    """A track from telemetry_parser's normalised rows, for cameras other than GoPro.

    Raises:
        ImuError: imu_missing without rows; imu_unreadable if the two sensors differ in rate:
            the rows then pair them by index, and one of them has wrong times.
    """
    accel = [row for row in rows if row["accl"] is not None]
    gyro = [row for row in rows if row["gyro"] is not None]
    if not accel or not gyro:
        raise _no_track(source, f"{len(accel)} accelerometer, {len(gyro)} gyroscope samples")
    if abs(len(accel) - len(gyro)) > 0.01 * len(rows):
        raise ImuError(
            "imu_unreadable",
            f"{source}: {len(accel)} accelerometer and {len(gyro)} gyroscope samples, which "
            "telemetry_parser pairs by index. Export both with their times as CSV.",
        )
    return ImuTrack(
        accel_time_s=np.array([row["timestamp_ms"] for row in accel]) / 1000,
        accel_N3=np.array([row["accl"] for row in accel], dtype=np.float64),
        gyro_time_s=np.array([row["timestamp_ms"] for row in gyro]) / 1000,
        gyro_M3=np.radians(np.array([row["gyro"] for row in gyro], dtype=np.float64)),
        source=source,
    )


def gopro_track(parser: Any, source: str) -> ImuTrack:
    """A track from a telemetry_parser.Parser's raw blocks, each sensor on its own clock.

    The parser's normalised rows pair sample i of one sensor with sample i of the other. A HERO5's
    gyroscope is twice as fast, so there the accelerometer would run at double speed for half of
    every payload and be missing for the rest.

    Raises:
        ImuError: imu_missing if a sensor has no samples.
    """
    blocks = parser.telemetry()
    payloads = [
        [block[sensor] for block in blocks if block.get(sensor, {}).get("Data")]
        for sensor in ("Accelerometer", "Gyroscope")
    ]
    if not all(payloads):
        raise _no_track(source, "it lacks accelerometer or gyroscope samples")
    num_samples = [np.array([len(one["Data"]) for one in sensor]) for sensor in payloads]
    stamps = [_stamps_s(sensor) for sensor in payloads]
    if all(one is not None and len(one) > 1 for one in stamps):
        zero_s = _first_frame_s(blocks)
        if zero_s is None:
            zero_s = min(float(one[0]) for one in stamps if one is not None)
        times = [
            _sample_times(one - zero_s, num_K)
            for one, num_K in zip(stamps, num_samples, strict=True)
            if one is not None
        ]
    else:  # no clock in the file: spread the samples over the track, which starts with the video
        rows = parser.normalized_imu()
        duration_s = rows[-1]["timestamp_ms"] / 1000 * len(rows) / max(len(rows) - 1, 1)
        times = [np.arange(num_K.sum()) * duration_s / num_K.sum() for num_K in num_samples]
    return ImuTrack(
        accel_time_s=times[0],
        accel_N3=np.concatenate([_oriented(one) for one in payloads[0]]),
        gyro_time_s=times[1],
        gyro_M3=np.concatenate([_oriented(one) for one in payloads[1]]),
        source=source,
    )


def _stamps_s(payloads: list[dict[str, Any]]) -> NDArray[np.float64] | None:
    """(K,) when each payload's first sample was taken, on the camera's clock; None if unknown.

    Newer cameras store it in microseconds (STMP), older ones in milliseconds (TICK).
    """
    for key, unit_s in (("TimestampUs", 1e-6), (_TICK, 1e-3)):
        if payloads and all(key in one for one in payloads):
            return np.array([one[key] for one in payloads]) * unit_s
    return None


def _first_frame_s(blocks: list[dict[str, Any]]) -> float | None:
    """The video's first frame on the camera's clock, from the stream of exposures (one a frame).

    Payload k starts k payload lengths into the video. Counting back from several payloads, not
    reading the first stamp alone, matters on a HERO5: its first frame has no exposure, so its
    first stamp is one frame late. In gopro's karma.mp4 the image's own motion agrees with the
    gyroscope to 18 ms (half a frame) this way, and to 52 ms the other.
    """
    stamps_K = _stamps_s([block["Exposure"] for block in blocks if "Exposure" in block])
    if stamps_K is None or len(stamps_K) < 2:
        return None
    # The first few alone: millisecond stamps would let the length's error add up over an hour.
    head_K = stamps_K[:10]
    length_s = float(np.median(np.diff(head_K)))
    return float(np.median(head_K - np.arange(len(head_K)) * length_s))


def _sample_times(start_K: NDArray[np.float64], num_K: NDArray[np.int_]) -> NDArray[np.float64]:
    """(N,) seconds: each payload's samples spread evenly up to the start of the next.

    A payload whose spacing is not within 5 % of the usual one lost samples or has a broken stamp:
    its samples keep the usual spacing, so that the gap or the step back stays to be seen.
    """
    spacing_K = np.diff(start_K) / num_K[:-1]
    usual_s = float(np.median(spacing_K))
    spacing_K = np.append(spacing_K, usual_s)
    spacing_K = np.where(np.abs(spacing_K / usual_s - 1) < 0.05, spacing_K, usual_s)
    first_K = np.cumsum(num_K) - num_K
    index_in_payload = np.arange(num_K.sum()) - np.repeat(first_K, num_K)
    return np.asarray(np.repeat(start_K, num_K) + index_in_payload * np.repeat(spacing_K, num_K))


def _oriented(payload: dict[str, Any]) -> NDArray[np.float64]:
    """(N, 3) in m/s^2 or rad/s; Matrix turns the sensor's axes into the camera's."""
    raw_N3 = np.array([[one["x"], one["y"], one["z"]] for one in payload["Data"]])
    matrix_33 = np.reshape(payload.get("Matrix", np.eye(3)), (3, 3))
    return np.asarray(raw_N3 @ matrix_33.T / payload.get("Scale", 1), dtype=np.float64)
