"""What comes on screen in one video file, in order, from wherever one jumps to.

This is where FFmpeg's view of a file becomes ours: ticks become seconds from the first frame,
indexes and seeks are checked instead of trusted, and damage becomes a mark on the frames that it
may have spread to. Only this file and video.py import the decoder.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from egoctl.pipeline.errors import VideoError
from egoctl.pipeline.video.clip_plan import DecodeStats

SEEK_GAIN_S = 1.0
"""Jump only where it saves decoding this much: less is gone before the jump is done."""
BLIND_GAP_S = 2.0
"""Without an index, guess that a gap longer than this holds a keyframe."""
BACKSTEPS_S = (0.0, 2.0, 10.0)
"""A seek that lands behind its target is tried again from this much earlier."""
CUT_MARGIN_S = 0.5
"""Headers round; only video that ends this far before its promised end was cut."""
NUM_HEAD_PACKETS = 32
"""The first frame is among these: codecs reorder at most 16."""
NUM_HELD_FRAMES = 8
"""Frames with B-frames are judged this much later: a B-frame shown before a damaged frame may
have been predicted from it, and encoders put rarely more than this many between two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A frame and when it comes on screen; no frame: one was lost that belongs here."""

    time_s: float
    frame: VideoFrame | None
    damage: VideoError | None


class FrameSource:
    """An open video: what comes on screen, in order, from wherever it was last moved to."""

    def __init__(self, path: Path, stats: DecodeStats, *, num_threads: int | None = None) -> None:
        """Open the video; FFmpeg decodes it in num_threads threads (None: one per core).

        Raises:
            VideoError: if it gives no frames at all.
        """
        self._path = path
        self._stats = stats
        self._num_threads = num_threads
        self._blind_gap_s = BLIND_GAP_S
        self._decode_to_s = 0.0
        self._complaint: str | None = None
        self.end_s = 0.0
        """When the last frame that came out leaves the screen."""
        self._is_cut = False
        """Whether reading failed before the end of what the header lists."""
        self._complete_pts: int | None = None
        """Where a cut file's frames are still complete: up to here none is missing."""
        self._open()

    def close(self) -> None:
        self._container.close()

    def next(self) -> Shown | None:
        """What comes on screen next; None: nothing more."""
        return next(self._frames, None)

    def scan(self) -> NDArray[np.float64]:
        """(N,) presentation times of the packets that can still be read, in order."""
        return np.array([self._seconds(pts) for pts in sorted(_shown_pts(self._packets))])

    def is_worth_a_jump(self, now_s: float, due_s: float) -> bool:
        """Whether a keyframe lies so far ahead of now_s that decoding up to it is a waste."""
        if due_s - now_s <= SEEK_GAIN_S or due_s <= self._decode_to_s:
            return False
        entries = self.stream.index_entries
        due_pts = self._pts(due_s)
        # An index may be short: matroska reads it at the first seek, MPEG-TS has none.
        if len(entries) == 0 or entries[len(entries) - 1].timestamp < self._pts(due_s - 1.0):
            return due_s - now_s > self._blind_gap_s
        at = entries.search_timestamp(due_pts)
        return at >= 0 and self._seconds(entries[at].timestamp) - now_s > SEEK_GAIN_S

    def jump(self, due_s: float) -> Shown | None:
        """Move to a keyframe at or before due_s, and give the frame it shows; None: no data."""
        before_s = self.end_s
        for back_s in BACKSTEPS_S:
            try:
                self._container.seek(self._pts(due_s - back_s), stream=self.stream)
            except av.FFmpegError:
                continue
            self._stats.seeks += 1
            # Indexes may hold decoding times, and some demuxers land behind: trust no seek.
            packets = self._demux()
            key = self._keyframe_up_to(due_s, packets)
            if key is not None:
                key_packet, key_pts = key
                self._start(chain([key_packet], packets), from_pts=key_pts)
                first = self.next()
                if first is None or first.time_s < before_s:
                    self._give_up_jumping_to(due_s)
                return first
            if self._is_cut:
                # The keyframe lies behind the cut; where that is, only reading shows.
                self._reopen()
                self.end_s = float(max(self.scan(), default=0.0)) + self._usual_duration_s()
                return None
        self._give_up_jumping_to(due_s)
        self._reopen()
        return self.next()

    def _keyframe_up_to(
        self, due_s: float, packets: Iterator["Packet[VideoStream]"]
    ) -> "tuple[Packet[VideoStream], int] | None":
        due_pts = self._pts(due_s)
        for packet in packets:
            if packet.pts is not None and packet.pts > due_pts:
                return None
            if packet.pts is not None and packet.is_keyframe and not packet.is_corrupt:
                return packet, packet.pts
        return None

    def _give_up_jumping_to(self, due_s: float) -> None:
        # It led back to what had been decoded. Decode through, and be slower to guess again.
        self._decode_to_s = due_s
        self._blind_gap_s *= 2

    @property
    def was_cut_off(self) -> bool:
        """Whether, now that nothing more comes, the header promised more."""
        promised_s = self.promised_s
        is_short = promised_s is not None and self.end_s < promised_s - CUT_MARGIN_S
        return self._is_cut or is_short

    def why_it_ended(self, needs: str) -> VideoError:
        """The error of a clip that needs (say, '9.50-11.63 s') more than there is."""
        promised_s = self.promised_s
        if self.was_cut_off:
            promise = (
                "" if promised_s is None else f" of the {promised_s:.2f} s its header promises"
            )
            return VideoError(
                "video_truncated",
                f"the clip needs {needs} but the video was cut off: its data end at "
                f"{self.end_s:.2f} s{promise}",
            )
        return VideoError(
            "past_end", f"the clip needs {needs} but the video ends at {self.end_s:.2f} s"
        )

    @property
    def promised_s(self) -> float | None:
        """The duration in the header: the stream's, else the file's."""
        if self.stream.time_base is None:
            return None
        if self.stream.duration:
            return float(self.stream.duration * self.stream.time_base)
        if self._container.duration:
            # Matroska: counted from zero, not from the first frame.
            first_s = float(self._first_pts * self.stream.time_base)
            return self._container.duration / av.time_base - first_s
        return None

    def _open(self) -> None:
        self._container = _open_container(self._path)
        try:
            self.stream = _video_stream(self._container, self._path)
            self.stream.thread_type = "AUTO"
            if self._num_threads is not None:
                self.stream.codec_context.thread_count = self._num_threads
            packets = self._demux()
            head = list(islice(packets, NUM_HEAD_PACKETS))
            # Not stream.start_time: AVI has 0 there and shows its first frame at 1.
            first_pts = min(_shown_pts(head), default=None)
            if first_pts is None:
                raise VideoError(
                    "video_unreadable",
                    f"the frames of {self._path.name} carry no presentation times. Remux it into "
                    "an mp4 or mkv that has them.",
                )
        except VideoError:
            self._container.close()
            raise
        self._first_pts = first_pts
        self._start(chain(head, packets), from_pts=first_pts)

    def _reopen(self) -> None:
        # Surer than a seek to the start, which some demuxers refuse.
        self._container.close()
        self._open()

    def _start(self, packets: Iterator["Packet[VideoStream]"], *, from_pts: int) -> None:
        self._packets = packets
        self._sent: set[int] = set()
        self._frames = self._judged(from_pts)

    def _demux(self) -> Iterator["Packet[VideoStream]"]:
        """Packets with data, up to the end or to where reading fails."""
        self._is_cut = False
        self._complete_pts = None
        try:
            for packet in self._container.demux(self.stream):
                if packet.size == 0:
                    continue
                # MPEG-TS goes on after a corrupt packet; a file that was cut ends with one.
                self._is_cut = packet.is_corrupt
                if packet.is_corrupt:
                    self._complaint = self._complaint or "corrupt packet"
                elif packet.dts is not None:
                    self._complete_pts = packet.dts
                yield packet
        except av.FFmpegError as error:
            self._is_cut = True
            self._complaint = self._complaint or error.strerror

    def _decoded(self) -> Iterator[VideoFrame]:
        """Frames as they leave the decoder, in presentation order."""
        for packet in chain(self._packets, [None]):
            if packet is not None:
                if packet.pts is not None and not packet.is_discard:
                    self._sent.add(packet.pts)
                if packet.is_corrupt:
                    continue
            try:
                frames = self.stream.decode(packet)
            except av.FFmpegError as error:
                self._complaint = self._complaint or error.strerror
                continue
            for frame in frames:
                # Behind a cut some frames are missing in front of the last ones. Those up to
                # the last decoding time are complete: a frame is never decoded after its time.
                is_doubtful = packet is None and self._is_cut and self._complete_pts is not None
                if is_doubtful and (frame.pts or 0) > (self._complete_pts or 0):
                    return
                self._stats.frames_decoded += 1
                yield frame

    def _judged(self, from_pts: int) -> Iterator[Shown]:
        """Frames and lost frames in order, those marked that damage may have spread to.

        Damage lasts from the lost or concealed frame up to the next keyframe: all frames
        between are predicted from it, directly or not. FFmpeg flags only the first.
        """
        held: deque[Shown] = deque()
        # Without B-frames nothing is predicted from a later frame.
        num_held = NUM_HELD_FRAMES if self.stream.codec_context.has_b_frames else 0
        damage: VideoError | None = None
        last_pts: int | None = None
        for frame in self._decoded():
            pts = frame.pts
            if pts is None or (last_pts is not None and pts <= last_pts):
                continue
            if last_pts is None:
                # Frames before the keyframe in time cannot be decoded from here: not lost.
                if from_pts is not None and pts < from_pts:
                    continue
                self._sent = {
                    sent for sent in self._sent if sent >= (pts if from_pts is None else from_pts)
                }
            last_pts = pts
            lost = self._lost_before(pts)
            if lost or frame.is_corrupt:
                damage = damage or self._damage_from(min([*lost, pts]))
                held = deque(replace(shown, damage=shown.damage or damage) for shown in held)
                held.extend(self._shown(lost_pts, None, damage) for lost_pts in lost)
            if frame.key_frame and not frame.is_corrupt:
                damage = None
            held.append(self._shown(pts, frame, damage))
            while len(held) > num_held:
                yield self._on_screen(held.popleft())
        # What is missing behind a cut is not damaged, it ended.
        if not self._is_cut:
            # Here without a complaint, too: PyAV keeps those of the last packets to itself.
            lost = sorted(self._sent)
            if lost:
                damage = damage or self._damage_from(lost[0])
                held = deque(replace(shown, damage=shown.damage or damage) for shown in held)
                held.extend(self._shown(lost_pts, None, damage) for lost_pts in lost)
        while held:
            yield self._on_screen(held.popleft())

    def _lost_before(self, pts: int) -> list[int]:
        """Times of frames that went into the decoder, belong before pts and did not come out.

        Without a complaint none is lost: VP8, say, sends frames that are never shown.
        """
        passed = sorted(sent for sent in self._sent if sent < pts)
        self._sent.difference_update(passed, (pts,))
        return passed if self._complaint is not None else []

    def _damage_from(self, pts: int) -> VideoError:
        words = "" if self._complaint is None else f" (FFmpeg: {self._complaint})"
        return VideoError(
            "decode_error",
            f"the video is damaged from {self._seconds(pts):.2f} s up to its next keyframe{words}",
        )

    def _shown(self, pts: int, frame: VideoFrame | None, damage: VideoError | None) -> Shown:
        return Shown(time_s=self._seconds(pts), frame=frame, damage=damage)

    def _on_screen(self, shown: Shown) -> Shown:
        duration_s = 0.0
        if shown.frame is not None and self.stream.time_base:
            duration_s = float(shown.frame.duration * self.stream.time_base)
        self.end_s = shown.time_s + (duration_s if duration_s > 0 else self._usual_duration_s())
        return shown

    def _usual_duration_s(self) -> float:
        return float(1 / self.stream.average_rate) if self.stream.average_rate else 0.0

    def _seconds(self, pts: int) -> float:
        assert self.stream.time_base is not None, "_open checked it"
        return float((pts - self._first_pts) * self.stream.time_base)

    def _pts(self, time_s: float) -> int:
        assert self.stream.time_base is not None, "_open checked it"
        return self._first_pts + math.floor(time_s / self.stream.time_base)


def _open_container(path: Path) -> InputContainer:
    try:
        if path.stat().st_size == 0:
            raise VideoError("video_unreadable", f"{path.name} cannot be read: the file is empty")
        return av.open(str(path), "r", metadata_errors="replace")
    except (OSError, av.FFmpegError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | av.FFmpegError) -> VideoError:
    if isinstance(error, FileNotFoundError):
        return VideoError("video_missing", f"there is no file {path}")
    if isinstance(error, OSError):
        return VideoError("video_unreadable", f"{path.name} cannot be read: {error.strerror}")
    return VideoError(
        "video_unreadable",
        f"{path.name} is not a video, or its recording was never finished "
        f"(FFmpeg: {error.strerror})",
    )


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise VideoError("no_video_stream", f"{path.name} holds no video, only other streams")
    if stream.codec_context is None or stream.time_base is None:
        raise VideoError("video_unreadable", f"this FFmpeg has no decoder for {path.name}")
    return stream


def _shown_pts(packets: Iterable["Packet[VideoStream]"]) -> Iterator[int]:
    """Presentation times of packets that hold a whole frame, and one meant to be shown."""
    for packet in packets:
        # An edit list discards frames that only others are predicted from.
        if packet.pts is not None and not packet.is_discard and not packet.is_corrupt:
            yield packet.pts
