"""Compares EPIC-KITCHENS' frame columns with its timestamps, and reports where they differ."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from egoctl.pipeline.datasets.epic.annotations import EpicSegment, EpicVideo, is_extension
from egoctl.pipeline.some_names import some_names

PUBLISHED_FPS = 60
PUBLISHED_EXTENSION_FPS = 50
"""Frames a second at which the published JPEGs were cut from any video."""
MAX_FRAMES_OFF = 1.5
"""The columns were rounded from timestamps that were rounded themselves."""
NUM_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameCheck:
    """What the frame columns of some segments amount to."""

    num_checked: int
    num_off: int
    """Segments that would be elsewhere if the columns counted frames of the video."""
    farthest_s: float
    """The largest such shift ..."""
    farthest_id: str | None
    """... and its narration_id."""
    contradicting_ids: tuple[str, ...]
    """Segments whose columns fit their timestamps at no known rate."""


def check_frames(segments: Iterable[EpicSegment], videos: Mapping[str, EpicVideo]) -> FrameCheck:
    """The frame columns against timestamp x rate, for segments whose video is known."""
    num_checked = num_off = 0
    farthest_s, farthest_id = 0.0, None
    contradicting = []
    for segment in segments:
        video = videos.get(segment.video_id)
        if video is None:
            continue
        num_checked += 1
        published = PUBLISHED_EXTENSION_FPS if is_extension(segment.video_id) else PUBLISHED_FPS
        if _frames_off(segment, video.fps) > MAX_FRAMES_OFF:
            num_off += 1
            shift_s = max(
                abs(segment.start_frame / video.fps - segment.start_s),
                abs(segment.stop_frame / video.fps - segment.stop_s),
            )
            if shift_s > farthest_s:
                farthest_s, farthest_id = shift_s, segment.narration_id
            if _frames_off(segment, published) > MAX_FRAMES_OFF:
                contradicting.append(segment.narration_id)
    return FrameCheck(
        num_checked=num_checked,
        num_off=num_off,
        farthest_s=farthest_s,
        farthest_id=farthest_id,
        contradicting_ids=tuple(contradicting),
    )


def frame_lines(check: FrameCheck) -> Iterator[str]:
    """The check for people; no line where all is well."""
    if check.num_off:
        yield (
            f"times come from the timestamps. Read as frames of the videos, start_frame and "
            f"stop_frame would move {check.num_off:,} of {check.num_checked:,} segments, by up to "
            f"{check.farthest_s:.1f} s ({check.farthest_id}): they count the published JPEGs, "
            f"{PUBLISHED_FPS} a second ({PUBLISHED_EXTENSION_FPS} in the extension)."
        )
    if check.contradicting_ids:
        yield (
            f"the frame columns of {some_of(check.contradicting_ids)} fit their timestamps at no "
            "known rate; the timestamps are used."
        )


def some_of(names: Iterable[str]) -> str:
    """The first names in alphabetical order, and how many there are besides."""
    return some_names(sorted(set(names)), most=NUM_SHOWN)


def _frames_off(segment: EpicSegment, fps: float) -> float:
    return max(
        abs(segment.start_frame - segment.start_s * fps),
        abs(segment.stop_frame - segment.stop_s * fps),
    )
