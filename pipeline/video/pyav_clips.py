"""Videos as the rest of the pipeline sees them: facts, a digest, and clips of frames.

Three habits of video files decide its shape. Frame rates lie, so a frame is found by its
presentation time and never by a number. Clips overlap, so a video is decoded once, in order,
and each picture is made once and shared. Files are damaged, so a bad span costs the clips that
touch it and no others.
"""

# T frames, H height, W width, 3 channels RGB, N frames of a whole video

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from blake3 import blake3
from numpy.typing import NDArray

from egoctl.pipeline.errors import VideoError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.video.clip_plan import (
    TOLERANCE_S,
    ClipPlan,
    ClipRequest,
    DecodedClip,
    DecodeStats,
    FailedClip,
    Picture,
)
from egoctl.pipeline.video.frame_source import FrameSource

DECODER = f"pyav-{av.__version__}"
"""Part of a recipe: another FFmpeg may round a pixel differently."""
RESIZE = "swscale-bilinear"

MAX_PAST_END_S = 0.1
"""A time this far past the last frame's end still shows it: annotated ends are often rounded."""

WHOLE_FILE_BYTES = 64 * 2**20
EDGE_BYTES = 2**20
BLOCK_BYTES = 64 * 2**10
NUM_BLOCKS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoInfo:
    """A video's header, once its first frame has been decoded."""

    codec: str
    width: int
    """Upright, in pixels, as is the height."""
    height: int
    rotation_deg: int
    """How far the stored picture is turned clockwise to be upright: 0, 90, 180 or 270."""
    pixel_format: str
    average_fps: float | None
    duration_s: float | None
    """None: unknown. The health table measures it with scan_frame_times."""
    num_frames: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameView:
    """How frames leave the decoder: upright RGB, crop_px x crop_px."""

    short_side_px: int | None
    """The short side becomes this long, then the centre square is cut out. None: the whole
    frame is squashed into the square."""
    crop_px: int
    crop_at: tuple[float, float] = (0.5, 0.5)
    """Where the square lies in what the frame has to spare: (down, right), 0 to 1."""

    def __post_init__(self) -> None:
        if self.crop_px < 1 or (self.short_side_px or self.crop_px) < self.crop_px:
            raise ValueError(
                f"need 0 < crop_px <= short_side_px, got {self.crop_px} and {self.short_side_px}"
            )


def probe_video(path: Path) -> VideoInfo:
    """The header of a video whose first frame can be decoded.

    Raises:
        VideoError: video_missing, video_unreadable or no_video_stream.
    """
    with closing(FrameSource(path, DecodeStats())) as source:
        shown = source.next()
        if shown is None or shown.frame is None:
            raise VideoError("video_unreadable", f"no frame of {path.name} can be decoded")
        stream, frame = source.stream, shown.frame
        turns = _quarter_turns(frame)
        size = (frame.width, frame.height)
        width, height = size if turns % 2 == 0 else size[::-1]
        return VideoInfo(
            codec=stream.codec_context.name,
            width=width,
            height=height,
            rotation_deg=-turns % 4 * 90,
            pixel_format=frame.format.name,
            average_fps=float(stream.average_rate) if stream.average_rate else None,
            duration_s=source.promised_s,
            num_frames=stream.frames or None,
        )


def scan_frame_times(path: Path) -> NDArray[np.float64]:
    """(N,) presentation times in seconds from the first frame, in order; nothing is decoded.

    Raises:
        VideoError: as probe_video.
    """
    with closing(FrameSource(path, DecodeStats())) as source:
        return source.scan()


def video_digest(media: MediaFile) -> str:
    """blake3 of the content, in hex: what makes two files the same video.

    Above 64 MiB it is taken over the size, both ends and 64 evenly spaced blocks. Reading
    terabytes before the first clip would cost hours, and two encodings that agree in size, in
    the header (first or last mebibyte) and in all blocks do not occur by accident. An edit of
    a few bytes elsewhere in a large file goes unnoticed. Of a bucket's large file only these
    bytes are fetched.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if a file on this machine cannot be read, and
        StoreError: if that is known from its place, or a bucket cannot be read.
    """
    size = media.num_bytes()
    if size <= WHOLE_FILE_BYTES:
        return blake3(media.local().read_bytes()).hexdigest()
    starts = [block * (size - BLOCK_BYTES) // (NUM_BLOCKS - 1) for block in range(NUM_BLOCKS)]
    blocks = [(start, start + BLOCK_BYTES) for start in starts]
    digest = blake3(size.to_bytes(8, "little"))
    for content in media.ranges([(0, EDGE_BYTES), *blocks, (size - EDGE_BYTES, size)]):
        digest.update(content)
    return digest.hexdigest()


def decode_clips(
    path: Path,
    requests: Sequence[ClipRequest],
    views: Sequence[FrameView],
    stats: DecodeStats,
    *,
    num_threads: int | None = None,
) -> Generator[DecodedClip | FailedClip, None, None]:
    """Every clip, each as soon as its last frame is known: ordered by last time, then index.

    The frame of time t is the last one with a presentation time up to t + 1 ms. Bad data never
    raises: it makes FailedClips, whose codes are video_missing, video_unreadable,
    no_video_stream, video_truncated, decode_error and past_end. FFmpeg takes num_threads threads
    (None: one per core); frames do not depend on it.

    Raises:
        ValueError: if a request has not one array of times per view.
    """
    return _decode(path, ClipPlan(requests, len(views), stats), views, stats, num_threads)


def _decode(
    path: Path,
    plan: ClipPlan,
    views: Sequence[FrameView],
    stats: DecodeStats,
    num_threads: int | None,
) -> Generator[DecodedClip | FailedClip, None, None]:
    due_s = plan.next_due_s
    if due_s is None:
        return
    try:
        source = FrameSource(path, stats, num_threads=num_threads)
    except VideoError as error:
        failure = error  # a lambda may not name what the except block unbinds
        yield from plan.unfinished(lambda _: failure)
        return
    with closing(source):
        lenses = [_Lens(view) for view in views]
        shown = source.jump(due_s) if source.is_worth_a_jump(0.0, due_s) else source.next()
        while shown is not None:
            following = source.next()
            if following is not None:
                until_s = following.time_s
            elif source.was_cut_off:
                # Another frame came next. Durations are rounded, so rather end too early.
                until_s = source.end_s - TOLERANCE_S
            else:
                until_s = source.end_s + MAX_PAST_END_S + TOLERANCE_S
            plan.show(
                shown.time_s, until_s, shown.damage, partial(_picture, lenses, stats, shown.frame)
            )
            yield from plan.finished(until_s)
            due_s = plan.next_due_s
            if due_s is None:
                return
            if following is not None and not plan.is_inside_a_clip(following.time_s):
                if source.is_worth_a_jump(following.time_s, due_s):
                    following = source.jump(due_s)
            shown = following
        yield from plan.unfinished(source.why_it_ended)


class _Lens:
    """Makes one view's pictures. The scaler is kept: setting it up costs more than using it."""

    def __init__(self, view: FrameView) -> None:
        self._view = view
        self._scaler = VideoReformatter()

    def picture(self, frame: VideoFrame) -> Picture:
        crop_px, short_side_px = self._view.crop_px, self._view.short_side_px
        width = height = crop_px
        if short_side_px is not None:
            scale = short_side_px / min(frame.width, frame.height)
            width, height = round(frame.width * scale), round(frame.height * scale)
        # One thread: at these sizes starting more takes longer than the scaling.
        rgb = self._scaler.reformat(
            frame, width, height, "rgb24", interpolation="BILINEAR", threads=1
        )
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(height, plane.line_size)
        # Lines may be padded to an alignment, so they are cut before they become pixels.
        stored_HW3 = rows[:, : width * 3].reshape(height, width, 3)
        upright_HW3 = np.rot90(stored_HW3, _quarter_turns(frame))
        down, right = self._view.crop_at
        top = int((upright_HW3.shape[0] - crop_px) * down)
        left = int((upright_HW3.shape[1] - crop_px) * right)
        # A copy, or each picture would keep its whole uncropped frame in memory.
        return upright_HW3[top : top + crop_px, left : left + crop_px].copy()


def _picture(
    lenses: Sequence[_Lens], stats: DecodeStats, frame: VideoFrame | None, view: int
) -> Picture:
    assert frame is not None, "a lost frame is damaged, and the plan asks for no picture of it"
    start = time.perf_counter()
    try:
        return lenses[view].picture(frame)
    except av.FFmpegError as error:
        raise VideoError(
            "decode_error", f"a {frame.format.name} frame cannot be made RGB ({error.strerror})"
        ) from error
    finally:
        stats.resize_s += time.perf_counter() - start


def _quarter_turns(frame: VideoFrame) -> int:
    """Counterclockwise quarter turns that put the stored picture upright: 0 to 3."""
    return round(frame.rotation / 90) % 4
