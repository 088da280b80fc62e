"""Which clip still waits for which moment of a video. Bookkeeping only: no decoder in here.

Frames arrive in presentation order, each with the time the next one replaces it. The plan knows
the clips that a frame belongs to, holds it as long as one of them is unfinished, and gives clips
back in the order in which their last moment passes.
"""

# T frames, H height, W width, 3 channels RGB

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from egoctl.pipeline.errors import VideoError

TOLERANCE_S = 1e-3
"""A frame counts as on screen this much before its time, so that rounded times find it."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipRequest:
    """The moments one clip is to be seen at."""

    index: int
    """The caller's own number, given back with the result."""
    times_s: tuple[NDArray[np.float64], ...]
    """One (T,) array per view: seconds from the video's first frame. Empty: not in this view."""

    def __post_init__(self) -> None:
        for times_s in self.times_s:
            if times_s.ndim != 1 or not np.isfinite(times_s).all():
                raise ValueError(f"clip {self.index}: each view needs a (T,) array of finite times")
        if not any(len(times_s) for times_s in self.times_s):
            raise ValueError(f"clip {self.index}: at least one view needs a time")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedClip:
    """What a clip looked like."""

    index: int
    frames: tuple[Picture, ...]
    """Per view (T, H, W, 3) RGB, upright; without times (0, 0, 0, 3)."""
    times_s: tuple[NDArray[np.float64], ...]
    """Per view (T,): presentation times of the frames that were taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedClip:
    """Why a clip has no frames: a short code for tables, a sentence for people."""

    index: int
    code: str
    reason: str


@dataclass(slots=True)
class DecodeStats:
    """What decoding cost; added up over every video that is given the same record."""

    frames_decoded: int = 0
    frames_spanned: int = 0
    """Distinct frames between the first and last moment of some clip: the least to decode."""
    frames_used: int = 0
    """Distinct frames that were converted and handed out."""
    seeks: int = 0
    resize_s: float = 0.0
    """Seconds spent making pictures of frames: scaling, colours, cropping."""

    def add(self, other: "DecodeStats") -> None:
        """Count what another decoder cost, too."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class _OpenClip:
    """A clip whose frames are still arriving."""

    def __init__(self, request: ClipRequest) -> None:
        self.index = request.index
        # Due times: the moment itself may be rounded down to just before its frame.
        self.due_s = tuple(times_s + TOLERANCE_S for times_s in request.times_s)
        self.first_due_s = float(np.concatenate(self.due_s).min())
        self.last_due_s = float(np.concatenate(self.due_s).max())
        self.pictures: list[list[Picture | None]] = [[None] * len(due) for due in self.due_s]
        self.times_s = [np.zeros(len(due)) for due in self.due_s]
        self.damage: VideoError | None = None

    def result(self) -> DecodedClip | FailedClip:
        if self.damage is not None:
            return self.failed(self.damage)
        return DecodedClip(
            index=self.index,
            frames=tuple(
                np.stack([picture for picture in pictures if picture is not None])
                if pictures
                else np.zeros((0, 0, 0, 3), np.uint8)
                for pictures in self.pictures
            ),
            times_s=tuple(self.times_s),
        )

    def failed(self, error: VideoError) -> FailedClip:
        return FailedClip(index=self.index, code=error.code, reason=error.reason)

    def span(self) -> str:
        """What the clip needs, for a message: '9.50-11.63 s'."""
        return f"{self.first_due_s - TOLERANCE_S:.2f}-{self.last_due_s - TOLERANCE_S:.2f} s"


class ClipPlan:
    """All clips of one video, served while its frames go by in presentation order."""

    def __init__(self, requests: Sequence[ClipRequest], num_views: int, stats: DecodeStats) -> None:
        """What is asked of a video.

        Raises:
            ValueError: if a request has not one array of times per view.
        """
        for request in requests:
            if len(request.times_s) != num_views:
                raise ValueError(
                    f"clip {request.index} has times for {len(request.times_s)} views, "
                    f"but {num_views} views are asked for"
                )
        clips = [_OpenClip(request) for request in requests]
        clips.sort(key=lambda clip: (clip.last_due_s, clip.index))
        self._open = deque(clips)
        self._waiting = [_due_in_order(clips, view) for view in range(num_views)]
        self._spans = _union([(clip.first_due_s, clip.last_due_s) for clip in clips])
        self._stats = stats

    @property
    def next_due_s(self) -> float | None:
        """The earliest moment no frame was given for yet; None: every clip is complete."""
        return min((queue[0][0] for queue in self._waiting if queue), default=None)

    def show(
        self,
        time_s: float,
        until_s: float,
        damage: VideoError | None,
        picture_of: Callable[[int], Picture],
    ) -> None:
        """Give the frame on screen in [time_s, until_s) to the clips that wait for it.

        picture_of(view) makes the picture; it is called once per view, and only where needed.
        """
        self._stats.frames_spanned += self.is_inside_a_clip(time_s, until_s)
        if damage is not None:
            for clip in self._open:
                if clip.first_due_s < until_s and clip.last_due_s >= time_s:
                    clip.damage = clip.damage or damage
        is_used = False
        for view, queue in enumerate(self._waiting):
            picture: Picture | None = None
            while queue and queue[0][0] < until_s:
                _, clip, position = queue.popleft()
                if damage is not None:  # also a moment before the first frame, which is damaged
                    clip.damage = clip.damage or damage
                if clip.damage is not None:
                    continue
                if picture is None:
                    try:
                        picture = picture_of(view)
                    except VideoError as error:
                        clip.damage = error
                        continue
                    is_used = True
                clip.pictures[view][position] = picture
                clip.times_s[view][position] = time_s
        self._stats.frames_used += is_used

    def is_inside_a_clip(self, time_s: float, until_s: float | None = None) -> bool:
        """Whether a clip's span reaches into [time_s, until_s); time_s never goes back.

        Nothing in a span is jumped over: whether damage in there fails the clip must not depend
        on what other clips are decoded beside it.
        """
        while self._spans and self._spans[0][1] < time_s:
            self._spans.popleft()
        start_s = self._spans[0][0] if self._spans else math.inf
        return start_s < (time_s if until_s is None else until_s)

    def finished(self, until_s: float) -> Iterator[DecodedClip | FailedClip]:
        """Clips whose last moment lies before until_s. Their pictures are let go."""
        while self._open and self._open[0].last_due_s < until_s:
            yield self._open.popleft().result()

    def unfinished(self, why: Callable[[str], VideoError]) -> Iterator[FailedClip]:
        """Every clip that is left, failed; why(span) words the error for what it needed."""
        while self._open:
            clip = self._open.popleft()
            yield clip.failed(clip.damage or why(clip.span()))


def _due_in_order(clips: Sequence[_OpenClip], view: int) -> deque[tuple[float, _OpenClip, int]]:
    """(due_s, clip, position in the clip) of one view, earliest first."""
    waiting = [
        (float(due_s), clip, position)
        for clip in clips
        for position, due_s in enumerate(clip.due_s[view])
    ]
    return deque(sorted(waiting, key=lambda item: item[0]))


def _union(spans: list[tuple[float, float]]) -> deque[tuple[float, float]]:
    """The spans with overlaps merged, in order."""
    merged: deque[tuple[float, float]] = deque()
    for start_s, stop_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop_s, merged[-1][1]))
        else:
            merged.append((start_s, stop_s))
    return merged
