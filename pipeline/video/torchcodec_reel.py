"""What comes on screen in one video file, in order, as torchcodec decodes it.

torchcodec hands out what FFmpeg patched over damage as if it were good. Here PyAV's listing of
the packets shows which frames must come, and FFmpeg's own log which ones it patched.
"""

# H height, W width, 3 channels RGB, N listed frames

import importlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from egoctl.pipeline.errors import VideoError
from egoctl.pipeline.video.clip_plan import TOLERANCE_S, DecodeStats
from egoctl.pipeline.video.frame_source import SEEK_GAIN_S, FrameSource
from egoctl.pipeline.video.pyav_clips import MAX_PAST_END_S
from egoctl.pipeline.video.torchcodec_log import ffmpeg_log

Device = Literal["cpu", "cuda"]

SAME_TIME_S = 1e-4
"""Two readings of one presentation time differ by less: only their rounding differs."""
NUM_REORDERED = 16
"""With B-frames, a frame comes out at most this many frames after it went in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A listed frame, decoded or lost."""

    index: int
    time_s: float
    raw: Any
    """torchcodec's RawFrame; None: the frame is lost."""
    damage: VideoError | None


class Reel:
    """The frames that a video lists, in order, each decoded once unless it is skipped."""

    def __init__(self, path: Path, device: Device, stats: DecodeStats) -> None:
        """Open the video and list its frames.

        Raises:
            VideoError: if it gives no frames at all.
        """
        self._path, self._device, self._stats = path, device, stats
        self._log = ffmpeg_log()
        self._codecs = importlib.import_module("torchcodec.decoders")
        self._converter = self._codecs.ColorConverter(device=device)
        self._converted: tuple[Any, torch.Tensor] | None = None
        self._position = 0
        self._may_skip = True
        self._listed = FrameSource(path, stats)
        self._log.start()
        try:
            self._open()
            self._list_frames()
            self._start()
        except (RuntimeError, ValueError) as error:
            self._let_go()
            raise self._mistrust(first_line(error)) from error
        except VideoError:
            self._let_go()
            raise

    def close(self) -> None:
        self._frames.close()
        self._let_go()
        # A demuxer and its streams know each other, which keeps the file open until Python
        # happens to look for such circles.
        self._demuxer.streams = ()

    @property
    def next_time_s(self) -> float:
        """When the next frame replaces the last one; after the last: when that leaves."""
        if self._position < len(self._times_s):
            return float(self._times_s[self._position])
        if self._is_cut:
            # Another frame came next. Its time may be rounded, so rather end too early.
            return self._listed.end_s - TOLERANCE_S
        return self._listed.end_s + MAX_PAST_END_S + TOLERANCE_S

    def next(self) -> Shown | None:
        """What comes on screen next; None: nothing more."""
        shown = next(self._frames, None)
        if shown is not None:
            self._position = shown.index + 1
        return shown

    def skip_to(self, due_s: float) -> None:
        """Move to the last keyframe up to due_s, if it is so far ahead that this saves decoding.

        A seek may land anywhere. If the keyframe does not come out first and whole, the video
        is decoded from its start instead, which judges every frame in between.
        """
        at = int(np.searchsorted(self._times_s, due_s, side="right")) - 1
        key = self._key_up_to(at)
        if key <= self._position or not self._may_skip:
            return
        if self._times_s[key] - self._times_s[self._position] <= SEEK_GAIN_S:
            return
        self._demuxer.seek(self._first_s + float(self._times_s[key]))
        self._decoder.reset()
        self._stats.seeks += 1
        frames = self._walk(key)
        first = next(frames, None)
        if first is not None and first.damage is None:
            self._frames, self._position = _again(first, frames), key
            return
        self._may_skip = False
        self._demuxer.streams = ()
        self._open()
        self._start()
        for _ in range(self._position):
            next(self._frames)

    def why_it_ended(self, needs: str) -> VideoError:
        """The error of a clip that needs (say, '9.50-11.63 s') more than there is."""
        return self._listed.why_it_ended(needs)

    def upright(self, raw: Any) -> torch.Tensor:
        """(3, H, W) uint8 RGB on the device; made once, however many views show it.

        Raises:
            VideoError: decode_error.
        """
        if self._converted is None or self._converted[0] is not raw:
            try:
                self._converted = (raw, self._converter.convert(raw).data)
            except RuntimeError as error:
                raise VideoError(
                    "decode_error",
                    f"a {raw.pixel_format} frame cannot be made RGB ({first_line(error)})",
                ) from error
        return self._converted[1]

    def _let_go(self) -> None:
        self._log.stop()
        self._listed.close()

    def _open(self) -> None:
        self._demuxer = self._codecs.Demuxer(self._path)

    def _list_frames(self) -> None:
        """When each frame is shown and which are keyframes: two readers must agree on it."""
        times_s = self._listed.scan()
        index = self._demuxer.streams[0].scan()
        num_listed = min(len(times_s), len(index))
        if num_listed == 0:
            raise self._mistrust("it lists no frame")
        self._first_s = float(index.pts_seconds[0])
        self._keys = index.key_frame_indices.numpy()
        stream = self._listed.stream
        last_s = float(index.duration_seconds[-1])
        if last_s <= 0 and stream.average_rate:
            # FFmpeg before 8 leaves it out where there are B-frames.
            promised_s = self._listed.promised_s or 0.0
            last_s = float(1 / stream.average_rate)
            last_s = min(last_s, max(promised_s - float(times_s[-1]), 0.0) or last_s)
        self._listed.end_s = float(times_s[-1]) + last_s
        self._is_cut = self._listed.was_cut_off
        self._num_ahead = NUM_REORDERED if stream.codec_context.has_b_frames else 0
        if self._is_cut:
            # The very last frame is half there, and before it some may be missing in between.
            num_listed = max(num_listed - self._num_ahead, 1)
        elif len(times_s) != len(index):
            raise self._mistrust(f"it lists {len(index)} frames where PyAV lists {len(times_s)}")
        times_s = times_s[:num_listed]
        listed_s = index.pts_seconds.numpy()[:num_listed] - self._first_s
        if np.abs(listed_s - times_s).max() > SAME_TIME_S:
            raise self._mistrust("it lists the frames at other times than PyAV")
        if self._is_cut:
            self._listed.end_s, times_s = float(times_s[-1]), times_s[:-1]
        self._times_s = times_s

    def _start(self) -> None:
        # One thread: a complaint is heard in the thread that decodes, at the packet it is of.
        self._decoder = self._demuxer.streams[0].make_decoder(
            device=self._device, num_ffmpeg_threads=1
        )
        self._frames = self._walk(0)

    def _walk(self, start: int) -> Generator[Shown, None, None]:
        """Every listed frame from start on, those marked that damage may have spread to.

        The decoder has just been started or has just been moved to the keyframe `start`.
        """
        position = sound_from = start
        damage: VideoError | None = None
        for raws, complaint in self._decoded():
            if position == len(self._times_s):
                return
            if complaint is not None:
                damage = damage or self._damage_from(position, complaint)
                sound_from = max(sound_from, self._key_after(position + self._num_ahead))
            for raw in raws:
                at = self._index_of(float(raw.pts_seconds))
                if at is None or at < position:
                    continue
                if at > position:
                    damage = damage or self._damage_from(position, "frames are missing")
                    sound_from = max(sound_from, self._key_after(at - 1))
                for lost in range(position, at):
                    yield self._shown(lost, None, damage)
                damage = damage if at < sound_from else None
                yield self._shown(at, raw, damage)
                position = at + 1
        for lost in range(position, len(self._times_s)):
            damage = damage or self._damage_from(lost, "frames are missing")
            yield self._shown(lost, None, damage)

    def _decoded(self) -> Iterator[tuple[list[Any], str | None]]:
        """Packet by packet, the frames that come out and what FFmpeg complained of."""
        is_over = False
        while not is_over:
            raws: list[Any] = []
            packet, refusal = None, None
            self._log.take()
            try:
                packet = next(self._demuxer, None)
            except RuntimeError as error:
                refusal = first_line(error)
            is_over = packet is None
            try:
                raws = self._decoder.drain() if is_over else self._decoder.decode(packet)
            except RuntimeError as error:
                refusal = first_line(error)
            self._stats.frames_decoded += len(raws)
            yield raws, self._log.take() or refusal

    def _index_of(self, pts_s: float) -> int | None:
        time_s = pts_s - self._first_s
        at = int(np.searchsorted(self._times_s, time_s - SAME_TIME_S))
        is_listed = at < len(self._times_s) and self._times_s[at] <= time_s + SAME_TIME_S
        return at if is_listed else None

    def _key_up_to(self, index: int) -> int:
        at = int(np.searchsorted(self._keys, index, side="right")) - 1
        return int(self._keys[at]) if at >= 0 else 0

    def _key_after(self, index: int) -> int:
        at = int(np.searchsorted(self._keys, index, side="right"))
        return int(self._keys[at]) if at < len(self._keys) else len(self._times_s)

    def _shown(self, index: int, raw: Any, damage: VideoError | None) -> Shown:
        return Shown(index=index, time_s=float(self._times_s[index]), raw=raw, damage=damage)

    def _damage_from(self, index: int, complaint: str) -> VideoError:
        return VideoError(
            "decode_error",
            f"the video is damaged from {self._times_s[index]:.2f} s up to its next keyframe "
            f"(torchcodec: {complaint})",
        )

    def _mistrust(self, why: str) -> VideoError:
        return VideoError(
            "video_unreadable",
            f"torchcodec cannot be trusted with {self._path.name} ({why}). Use --decoder pyav.",
        )


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _again(first: Shown, rest: Generator[Shown, None, None]) -> Generator[Shown, None, None]:
    yield first
    yield from rest
