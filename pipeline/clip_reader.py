"""Reads clips off videos and IMU files in a thread of its own, while the teacher computes.

One pass serves the teacher and the inputs store: a video is opened once per part, decoded in
order, and every frame that any clip of the part needs is handed out as it comes by. What becomes
of a clip in one store never hangs on whether the other is filled in the same pass.
"""

# T teacher frames, K stored frames, W IMU samples

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.imu import RATE_HZ, ImuResampler, read_imu
from egoctl.pipeline.receipt import IMU_NONE, OK, RowOutcome
from egoctl.pipeline.records import Clip, ImuWindow
from egoctl.pipeline.sampling import frame_times, imu_times, uniform_times
from egoctl.pipeline.video import (
    ClipRequest,
    DecodedClip,
    DecodeStats,
    FailedClip,
    FrameView,
    decode_clips,
)

_NO_TIMES_S = np.zeros(0)
NO_IMU = RowOutcome(code=IMU_NONE, reason="the manifest names no IMU for this segment")


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherView:
    """The frames a teacher looks at."""

    num_frames: int
    stride_s: float
    frame: FrameView

    def times_s(self, clip: Clip) -> NDArray[np.float64]:
        """(T,) when it looks at a clip."""
        return frame_times(clip, self.num_frames, self.stride_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class InputsView:
    """The frames and IMU a student reads."""

    num_frames: int
    frame_px: int
    jpeg_quality: int
    imu_samples: int

    @property
    def frame(self) -> FrameView:
        return FrameView(short_side_px=None, crop_px=self.frame_px)

    def times_s(self, clip: Clip) -> NDArray[np.float64]:
        """(K,) when its frames are taken."""
        return uniform_times(clip, self.num_frames)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSource:
    """A clip and the files it is cut from."""

    clip: Clip
    video: Path
    imu: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Clips to read together (one part), and which of the two views they are read for."""

    number: int
    sources: Sequence[ClipSource]
    for_teacher: bool
    for_inputs: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadClip:
    """One clip of a job: its position there, and per view what was read or why nothing was."""

    job: int
    index: int
    teacher_outcome: RowOutcome = RowOutcome()
    """ok also where the job does not read this view; so is inputs_outcome."""
    inputs_outcome: RowOutcome = RowOutcome()
    teacher_frames: NDArray[np.uint8] | None = None
    """(T, H, W, 3) RGB."""
    jpegs: tuple[bytes, ...] = ()
    """K frames."""
    frame_times_s: NDArray[np.float64] | None = None
    """(K,) presentation times of the stored frames."""
    imu: ImuWindow | None = None
    imu_outcome: RowOutcome = NO_IMU

    @property
    def outcome(self) -> RowOutcome:
        """Why a view lacks its frames, the teacher's first; ok: none does."""
        return self.inputs_outcome if self.teacher_outcome.code == OK else self.teacher_outcome


@dataclass
class ReadStats:
    """What the reading cost; written by the reader's thread, read when it is done."""

    decode: DecodeStats = field(default_factory=DecodeStats)
    busy_s: float = 0.0
    """Seconds spent decoding, resizing, encoding JPEG and cutting IMU windows."""


class ClipReader:
    """Iterate it for the ReadClips of all jobs, job by job; close it to stop the thread early."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        teacher: TeacherView | None,
        inputs: InputsView | None,
        queue_size: int,
    ) -> None:
        self.stats = ReadStats()
        self._jobs = jobs
        self._teacher = teacher
        self._inputs = inputs
        self._tracks: dict[Path, ImuResampler | ImuError] = {}
        # Bounded: frames wait here only as long as a batch needs, not a whole part of them.
        self._queue: queue.Queue[ReadClip | BaseException | None] = queue.Queue(queue_size)
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clip-reader", daemon=True)

    def __iter__(self) -> Iterator[ReadClip]:
        self._thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.close()

    def close(self) -> None:
        self._is_closed.set()
        while self._thread.is_alive():
            # The thread may be blocked on a full queue: make room until it has seen the flag.
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                self._thread.join(timeout=0.05)

    def _run(self) -> None:
        try:
            for job in self._jobs:
                for clip in self._read(job):
                    self._queue.put(clip)
                    if self._is_closed.is_set():
                        return
            self._queue.put(None)
        except BaseException as error:  # noqa: BLE001
            # Our own fault, not the data's: the consumer's thread raises it.
            self._queue.put(error)

    def _read(self, job: Job) -> Iterator[ReadClip]:
        by_video: dict[Path, list[int]] = {}
        for index, source in enumerate(job.sources):
            by_video.setdefault(source.video, []).append(index)
        # A track is kept while the next part may go on with the same video.
        wanted = {source.imu for source in job.sources}
        self._tracks = {path: track for path, track in self._tracks.items() if path in wanted}
        for video, indices in by_video.items():
            yield from self._timed(self._read_video(job, video, indices))

    def _timed(self, clips: Iterator[ReadClip]) -> Iterator[ReadClip]:
        while True:
            start = time.perf_counter()
            clip = next(clips, None)
            self.stats.busy_s += time.perf_counter() - start
            if clip is None:
                return
            yield clip

    def _read_video(self, job: Job, video: Path, indices: list[int]) -> Iterator[ReadClip]:
        views: list[TeacherView | InputsView] = []
        if job.for_teacher and self._teacher is not None:
            views.append(self._teacher)
        if job.for_inputs and self._inputs is not None:
            views.append(self._inputs)
        # A request per view, so that each is judged by its own moments alone: read without the
        # other, as after a crash between the two stores, it comes out the same.
        requests = [
            ClipRequest(
                index=index * len(views) + at,
                times_s=tuple(
                    view.times_s(job.sources[index].clip) if view is looking else _NO_TIMES_S
                    for view in views
                ),
            )
            for index in indices
            for at, looking in enumerate(views)
        ]
        found: dict[int, dict[int, DecodedClip | FailedClip]] = {}
        # Clips leave in the order in which their first view, the teacher's if it is read, was
        # finished: so the teacher's batches hang on no other view either.
        order: deque[int] = deque()
        frame_views = [view.frame for view in views]
        for result in decode_clips(video, requests, frame_views, self.stats.decode):
            index, at = divmod(result.index, len(views))
            found.setdefault(index, {})[at] = result
            if at == 0:
                order.append(index)
            while order and len(found[order[0]]) == len(views):
                index = order.popleft()
                yield self._paired(job, index, found.pop(index))

    def _paired(
        self, job: Job, index: int, found: Mapping[int, DecodedClip | FailedClip]
    ) -> ReadClip:
        """One clip from the results of its views, by their place among the job's views."""
        teacher = found[0] if job.for_teacher else None
        inputs = found[len(found) - 1] if job.for_inputs else None
        imu, imu_outcome = self._imu(job.sources[index]) if job.for_inputs else (None, NO_IMU)
        return ReadClip(
            job=job.number,
            index=index,
            teacher_outcome=_outcome(teacher),
            inputs_outcome=_outcome(inputs),
            teacher_frames=teacher.frames[0] if isinstance(teacher, DecodedClip) else None,
            jpegs=self._encoded(inputs.frames[-1]) if isinstance(inputs, DecodedClip) else (),
            frame_times_s=inputs.times_s[-1] if isinstance(inputs, DecodedClip) else None,
            imu=imu,
            imu_outcome=imu_outcome,
        )

    def _encoded(self, frames_KHW3: NDArray[np.uint8]) -> tuple[bytes, ...]:
        assert self._inputs is not None, "frames were read for it"
        return tuple(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(frame),
                quality=self._inputs.jpeg_quality,
                colorspace="RGB",
                colorsubsampling="420",
            )
            for frame in frames_KHW3
        )

    def _imu(self, source: ClipSource) -> tuple[ImuWindow | None, RowOutcome]:
        if source.imu is None or self._inputs is None:
            return None, NO_IMU
        clip = source.clip
        try:
            track = self._track(source.imu)
            times_s = imu_times(clip, self._inputs.imu_samples, RATE_HZ)
            window = track.window(times_s, span_s=(clip.start_s, clip.stop_s))
        except ImuError as error:
            return None, RowOutcome(code=error.code, reason=error.reason)
        return window, RowOutcome()

    def _track(self, path: Path) -> ImuResampler:
        if path not in self._tracks:
            try:
                self._tracks[path] = ImuResampler(read_imu(path))
            except ImuError as error:
                self._tracks[path] = error
        track = self._tracks[path]
        if isinstance(track, ImuError):
            raise track
        return track


def _outcome(result: DecodedClip | FailedClip | None) -> RowOutcome:
    if isinstance(result, FailedClip):
        return RowOutcome(code=result.code, reason=result.reason)
    return RowOutcome()
