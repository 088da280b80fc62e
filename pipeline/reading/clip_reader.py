"""Reads clips off videos and IMU files, in threads of their own while the teacher computes.

One pass serves any number of teachers and the inputs store: a video is opened once per part,
decoded in order, and every frame that any clip of the part needs in any view is handed out as it
comes by. What becomes of a clip in one store never depends on which others are filled with it.
"""

# T teacher frames, K stored frames, W IMU samples

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from egoctl.pipeline.errors import ImuError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.imu.recording import ImuResampler, read_media_imu
from egoctl.pipeline.imu.sensor import RATE_HZ
from egoctl.pipeline.reading.clip_job import ClipSource, InputsView, Job, TeacherView
from egoctl.pipeline.reading.decoder_pool import DecoderPool
from egoctl.pipeline.records import IMU_NONE, ImuWindow, RowOutcome
from egoctl.pipeline.sampling import imu_times
from egoctl.pipeline.video.decoder_choice import DecoderName, decode_with
from egoctl.pipeline.video.pyav_clips import (
    ClipRequest,
    DecodedClip,
    DecodeStats,
    FailedClip,
    FrameView,
)

_NO_TIMES_S = np.zeros(0)
NO_IMU = RowOutcome(code=IMU_NONE, reason="the manifest names no IMU for this segment")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadClip:
    """One clip of a job in one of the job's views: what was read, or why nothing was."""

    job: int
    index: int
    """Its position in the part."""
    view: str
    """The name of the view among the job's."""
    outcome: RowOutcome = RowOutcome()
    frames: NDArray[np.uint8] | None = None
    """(T, H, W, 3) RGB: only in a teacher's view, and so the rest only in the students'."""
    jpegs: tuple[bytes, ...] = ()
    """K frames."""
    frame_times_s: NDArray[np.float64] | None = None
    """(K,) presentation times of the stored frames."""
    imu: ImuWindow | None = None
    imu_outcome: RowOutcome = NO_IMU


@dataclass
class ReadStats:
    """What the reading cost; written by one thread, read when that is done."""

    decode: DecodeStats = field(default_factory=DecodeStats)
    fetch_s: float = 0.0
    """Seconds of bringing videos out of buckets into the cache."""
    video_s: float = 0.0
    """Seconds of decoding and resizing."""
    jpeg_s: float = 0.0
    imu_s: float = 0.0

    @property
    def busy_s(self) -> float:
        return self.fetch_s + self.video_s + self.jpeg_s + self.imu_s

    @property
    def seconds(self) -> dict[str, float]:
        """Busy seconds by kind of work: fetch, decode, resize, jpeg, imu."""
        resize_s = self.decode.resize_s
        return {
            "fetch": self.fetch_s,
            "decode": self.video_s - resize_s,
            "resize": resize_s,
            "jpeg": self.jpeg_s,
            "imu": self.imu_s,
        }

    def add(self, other: "ReadStats") -> None:
        """Count what another reader cost, too."""
        self.decode.add(other.decode)
        self.fetch_s += other.fetch_s
        self.video_s += other.video_s
        self.jpeg_s += other.jpeg_s
        self.imu_s += other.imu_s


class ClipReader:
    """Iterate it for the ReadClips of all jobs, job by job, read in a thread of its own."""

    def __init__(
        self,
        jobs: Sequence[Job],
        *,
        queue_size: int,
        decoder: DecoderName = "pyav",
    ) -> None:
        reader = JobReader(decoder=decoder)
        self.stats = reader.stats
        self._pool = DecoderPool(iter(jobs), lambda: reader.read, queue_size=queue_size)

    def __iter__(self) -> Iterator[ReadClip]:
        for _, clip in self._pool:
            if clip is not None:
                yield clip

    def close(self) -> None:
        """Stop the thread early."""
        self._pool.close()


class JobReader:
    """Reads one job after the other in the thread that calls it."""

    def __init__(self, *, decoder: DecoderName = "pyav", num_threads: int | None = None) -> None:
        """pyav decodes in num_threads threads; None: one per core."""
        self.stats = ReadStats()
        self._decode = decode_with(decoder, num_threads=num_threads)
        self._tracks: dict[MediaFile, ImuResampler | ImuError] = {}

    def read(self, job: Job) -> Iterator[ReadClip]:
        """Every clip of the job in each view; those of one view in the order they are complete."""
        by_video: dict[MediaFile, list[int]] = {}
        for at, source in enumerate(job.sources):
            by_video.setdefault(source.video, []).append(at)
        # A track is kept while the next part may go on with the same video.
        wanted = {source.imu for source in job.sources}
        self._tracks = {imu: track for imu, track in self._tracks.items() if imu in wanted}
        for video, places in by_video.items():
            yield from self._read_video(job, video, places)

    def _decoded(
        self, video: MediaFile, requests: Sequence[ClipRequest], views: Sequence[FrameView]
    ) -> Iterator[DecodedClip | FailedClip]:
        start = time.perf_counter()
        try:
            path = video.local()
        except FileNotFoundError as error:
            for request in requests:
                yield FailedClip(index=request.index, code="video_missing", reason=str(error))
            return
        finally:
            self.stats.fetch_s += time.perf_counter() - start
        clips = self._decode(path, requests, views, self.stats.decode)
        # The consumer's time between two clips is not ours.
        while True:
            start = time.perf_counter()
            clip = next(clips, None)
            self.stats.video_s += time.perf_counter() - start
            if clip is None:
                return
            yield clip

    def _read_video(self, job: Job, video: MediaFile, places: list[int]) -> Iterator[ReadClip]:
        names, views = list(job.views), list(job.views.values())
        # Views that look at frames of one size share them: each is made once.
        sizes = list(dict.fromkeys(view.frame for view in views))
        # A request per view, so that each is judged by its own moments alone: whatever else is
        # read in the same pass, it comes out the same, and at the same place in its order.
        requests = [
            ClipRequest(
                index=place * len(views) + number,
                times_s=tuple(
                    view.times_s(job.sources[place].clip) if view.frame == size else _NO_TIMES_S
                    for size in sizes
                ),
            )
            for place in places
            for number, view in enumerate(views)
        ]
        for result in self._decoded(video, requests, sizes):
            place, number = divmod(result.index, len(views))
            at = sizes.index(views[number].frame)
            yield self._read_clip(job, place, names[number], at, result)

    def _read_clip(
        self, job: Job, place: int, name: str, at: int, result: DecodedClip | FailedClip
    ) -> ReadClip:
        """A clip in the view of that name, whose frames are the at-th of the result's."""
        view = job.views[name]
        found = ReadClip(job=job.number, index=job.row(place), view=name)
        if isinstance(view, InputsView):
            imu, imu_outcome = self._imu(job.sources[place], view)
            found = replace(found, imu=imu, imu_outcome=imu_outcome)
        if isinstance(result, FailedClip):
            return replace(found, outcome=RowOutcome(code=result.code, reason=result.reason))
        if isinstance(view, TeacherView):
            return replace(found, frames=result.frames[at])
        jpegs = self._encoded(result.frames[at], view.jpeg_quality)
        return replace(found, jpegs=jpegs, frame_times_s=result.times_s[at])

    def _encoded(self, frames_KHW3: NDArray[np.uint8], quality: int) -> tuple[bytes, ...]:
        start = time.perf_counter()
        jpegs = tuple(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(frame),
                quality=quality,
                colorspace="RGB",
                colorsubsampling="420",
            )
            for frame in frames_KHW3
        )
        self.stats.jpeg_s += time.perf_counter() - start
        return jpegs

    def _imu(self, source: ClipSource, view: InputsView) -> tuple[ImuWindow | None, RowOutcome]:
        if source.imu is None:
            return None, NO_IMU
        clip = source.clip
        start = time.perf_counter()
        try:
            track = self._track(source.imu)
            times_s = imu_times(clip, view.imu_samples, RATE_HZ)
            window = track.window(times_s, span_s=(clip.start_s, clip.stop_s))
        except ImuError as error:
            return None, RowOutcome(code=error.code, reason=error.reason)
        finally:
            self.stats.imu_s += time.perf_counter() - start
        return window, RowOutcome()

    def _track(self, imu: MediaFile) -> ImuResampler:
        if imu not in self._tracks:
            try:
                self._tracks[imu] = ImuResampler(read_media_imu(imu))
            except FileNotFoundError as error:
                reason = f"{error}. Correct imu_path in the manifest."
                self._tracks[imu] = ImuError("imu_missing", reason)
            except ImuError as error:
                self._tracks[imu] = error
        track = self._tracks[imu]
        if isinstance(track, ImuError):
            raise track
        return track
