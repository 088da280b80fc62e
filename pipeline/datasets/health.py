"""The health table of a manifest: every video and IMU file opened, a verdict per segment."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from egoctl.pipeline.errors import ImuError, VideoError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.imu.recording import ImuResampler, read_media_imu, summarize_imu
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.imu.telemetry import check_telemetry_package
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.progress import Progress
from egoctl.pipeline.records import IMU_NONE, OK, ImuTrack, Segment
from egoctl.pipeline.sampling import clips_of, imu_times, num_imu_samples
from egoctl.pipeline.text_table import text_table
from egoctl.pipeline.video.frame_source import CUT_MARGIN_S
from egoctl.pipeline.video.pyav_clips import MAX_PAST_END_S, probe_video, scan_frame_times

TRUNCATED = "video_truncated"
VARIABLE_RATE_SHARE = 0.02
"""A video is of variable rate when this share of frame intervals is 10 % off the median."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileHealth:
    """One row of the table: a video and the IMU recording that goes with it."""

    video_id: str
    video_verdict: str
    """'ok' or an error code; the reason explains it."""
    video_reason: str | None = None
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    """1 / median frame interval."""
    is_variable_rate: bool | None = None
    duration_s: float | None = None
    imu_verdict: str = IMU_NONE
    imu_reason: str | None = None
    imu_source: str | None = None
    """The file, the camera, and what reading it left out or put right."""
    accel_rate_hz: float | None = None
    """Samples over the time they cover."""
    gyro_rate_hz: float | None = None
    imu_coverage: float | None = None
    """Share of the video's duration that both sensors cover, 0 to 1."""
    longest_gap_s: float | None = None
    num_non_monotonic: int | None = None
    duplicated_axes: tuple[str, ...] = ()
    accel_norm_mean: float | None = None
    """m/s^2; about 9.8 for a camera that is worn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentVerdict:
    """Whether a segment will give clips: 'ok', or the first problem."""

    segment_id: str
    code: str
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """The table, and numbers of the manifest as a whole."""

    files: tuple[FileHealth, ...]
    segments: tuple[SegmentVerdict, ...]
    num_clips: int
    num_padded: int
    num_unlabelled: int
    segments_per_split: dict[str, int]

    @property
    def num_bad(self) -> int:
        return sum(segment.code != OK for segment in self.segments)

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"num_bad": self.num_bad}, indent=1, allow_nan=False)


def check_manifest(manifest: Manifest) -> Health:
    """Open every file the manifest names. Bad data become verdicts; nothing is raised for them.

    Files in buckets are copied into the cache, one after the other, as extraction will do.

    Raises:
        StoreError: if a bucket cannot be read.
        EgoctlError: if IMU recordings lie inside videos and the package that reads them is not
            installed.
    """
    check_telemetry_package(
        Path(manifest.media(segment.imu_path).url)
        for segment in manifest.segments
        if segment.imu_path is not None
    )
    by_files: dict[tuple[str, str | None], list[Segment]] = {}
    for segment in manifest.segments:
        by_files.setdefault((segment.video_path, segment.imu_path), []).append(segment)
    files: list[FileHealth] = []
    verdicts: dict[str, SegmentVerdict] = {}
    with Progress(len(by_files), title="check", unit="video") as progress:
        for (video_path, imu_path), segments in by_files.items():
            imu = None if imu_path is None else manifest.media(imu_path)
            health, track = _look_at(segments[0].video_id, manifest.media(video_path), imu)
            files.append(health)
            resampler = None if track is None else ImuResampler(track)
            for segment in segments:
                verdict = _verdict(manifest, segment, health, resampler)
                verdicts[segment.segment_id] = verdict
            progress.advance()
    clips = manifest.clips()
    return Health(
        files=tuple(files),
        segments=tuple(verdicts[segment.segment_id] for segment in manifest.segments),
        num_clips=len(clips),
        num_padded=manifest.num_padded(clips),
        num_unlabelled=sum(segment.label is None for segment in manifest.segments),
        segments_per_split=dict(Counter(segment.split for segment in manifest.segments)),
    )


def table_lines(health: Health) -> Iterable[str]:
    """The table for people, then the verdicts that are not ok."""
    numbers = ("fps", "seconds", "accel Hz", "gyro Hz", "covered", "|accel|")
    rows: list[Sequence[str]] = [("video", "codec", "size", *numbers, " verdict")]
    for row in health.files:
        size = f"{row.width}x{row.height}" if row.width else "-"
        fps = _number(row.fps, ".2f") + ("v" if row.is_variable_rate else "")
        verdicts = [row.video_verdict]
        if row.imu_verdict != OK:
            verdicts.append(row.imu_verdict)
        cells = (
            *(fps, _number(row.duration_s, ".2f"), _number(row.accel_rate_hz, ".1f")),
            *(_number(row.gyro_rate_hz, ".1f"), _number(row.imu_coverage, ".0%")),
            _number(row.accel_norm_mean, ".2f"),
        )
        rows.append((row.video_id[-28:], row.codec or "-", size, *cells, " " + ", ".join(verdicts)))
    yield from text_table(rows, "<<<>>>>>><", least=(28, 6, 10, 7, 8, 8, 8, 8, 8), gap=1)
    for row in health.files:
        if row.duplicated_axes or (row.imu_source and ";" in row.imu_source):
            axes = "".join(f"; {axis} all through" for axis in row.duplicated_axes)
            yield f"  {row.imu_source}{axes}"
    splits = ", ".join(f"{name} {count}" for name, count in health.segments_per_split.items())
    yield (
        f"{len(health.segments)} segments ({splits}; {health.num_unlabelled} without a label), "
        f"{health.num_clips} clips, {health.num_padded} of them padded."
    )
    bad = [segment for segment in health.segments if segment.code != OK]
    for segment in bad[:20]:
        yield f"  {segment.segment_id}: {segment.code}: {segment.reason}"
    if len(bad) > 20:
        yield f"  ... and {len(bad) - 20} more; --json lists them all."
    yield (
        f"{len(bad)} of {len(health.segments)} segments will give no full data."
        if bad
        else ("All segments are ok.")
    )


def _look_at(
    video_id: str, media: MediaFile, imu: MediaFile | None
) -> tuple[FileHealth, ImuTrack | None]:
    values: dict[str, object] = {"video_id": video_id, "video_verdict": OK}
    duration_s = None
    try:
        video = _fetched(media)
        info = probe_video(video)
        values |= {"codec": info.codec, "width": info.width, "height": info.height}
        times_s = scan_frame_times(video)
        intervals_s = np.diff(times_s)
        if len(intervals_s):
            median_s = float(np.median(intervals_s))
            is_off = np.abs(intervals_s - median_s) > 0.1 * median_s
            duration_s = float(times_s[-1]) + median_s
            values |= {
                "fps": 1 / median_s,
                "is_variable_rate": bool(is_off.mean() > VARIABLE_RATE_SHARE),
            }
        else:
            duration_s = info.duration_s
        values["duration_s"] = duration_s
        promised_s = info.duration_s
        if duration_s and promised_s and duration_s < promised_s - CUT_MARGIN_S:
            values |= {
                "video_verdict": TRUNCATED,
                "video_reason": f"the video was cut off: its data end at {duration_s:.2f} s of "
                f"the {promised_s:.2f} s its header promises",
            }
    except VideoError as error:
        values |= {"video_verdict": error.code, "video_reason": error.reason}
    track = None
    if imu is not None:
        values["imu_verdict"] = OK
        try:
            track = _read_imu(imu)
            summary = summarize_imu(track)
            values |= {
                "imu_source": track.source,
                "accel_rate_hz": _finite(summary.accel_mean_rate_hz),
                "gyro_rate_hz": _finite(summary.gyro_mean_rate_hz),
                "longest_gap_s": _finite(summary.longest_gap_s),
                "num_non_monotonic": summary.num_non_monotonic,
                "duplicated_axes": summary.duplicated_axes,
                "accel_norm_mean": _finite(summary.accel_norm_mean),
            }
            if duration_s:
                covered_s = min(summary.stop_s, duration_s) - max(summary.start_s, 0.0)
                # A sample speaks for the interval it begins.
                covered_s += 1 / max(summary.accel_rate_hz, summary.gyro_rate_hz)
                share = max(0.0, min(covered_s / duration_s, 1.0))
                values["imu_coverage"] = _finite(share)
            if summary.problems:
                problem = summary.problems[0]
                values |= {"imu_verdict": problem.code, "imu_reason": problem.reason}
        except ImuError as error:
            values |= {"imu_verdict": error.code, "imu_reason": error.reason}
    return FileHealth(**values), track  # type: ignore[arg-type]


def _fetched(media: MediaFile) -> Path:
    try:
        return media.local()
    except FileNotFoundError as error:
        raise VideoError("video_missing", str(error)) from error


def _read_imu(media: MediaFile) -> ImuTrack:
    try:
        return read_media_imu(media)
    except FileNotFoundError as error:
        raise ImuError("imu_missing", f"{error}. Correct imu_path in the manifest.") from error


def _verdict(
    manifest: Manifest, segment: Segment, health: FileHealth, imu: ImuResampler | None
) -> SegmentVerdict:
    # What lies before the cut of a truncated video is as good as any.
    if health.video_verdict not in (OK, TRUNCATED):
        return _bad(segment, health.video_verdict, health.video_reason)
    clips = clips_of(segment, window_s=manifest.window_s, stride_s=manifest.stride_s)
    if health.duration_s and clips[-1].stop_s > health.duration_s + MAX_PAST_END_S:
        if health.video_verdict == TRUNCATED:
            return _bad(segment, TRUNCATED, health.video_reason)
        reason = f"it ends at {clips[-1].stop_s:.2f} s, the video at {health.duration_s:.2f} s"
        return _bad(segment, "past_end", reason)
    if segment.imu_path is None:
        return SegmentVerdict(segment_id=segment.segment_id, code=OK, reason=None)
    if imu is None:
        return _bad(segment, health.imu_verdict, health.imu_reason)
    num_samples = num_imu_samples(manifest.window_s, RATE_HZ)
    for clip in clips:
        try:
            imu.window(imu_times(clip, num_samples, RATE_HZ), span_s=(clip.start_s, clip.stop_s))
        except ImuError as error:
            return _bad(segment, error.code, error.reason)
    return SegmentVerdict(segment_id=segment.segment_id, code=OK, reason=None)


def _bad(segment: Segment, code: str, reason: str | None) -> SegmentVerdict:
    return SegmentVerdict(segment_id=segment.segment_id, code=code, reason=reason)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)
