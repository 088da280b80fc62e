"""Which footage a teacher was fitted to, so that its memory is not mistaken for its judgement."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.records import Segment

Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """The spans of videos that a network's weights were fitted to."""

    dataset: str
    """What people call the data, such as EPIC-KITCHENS-100."""
    num_segments: int
    spans_s: Mapping[str, tuple[Span, ...]]
    """By video_id: [start, stop) seconds, in order, apart from each other."""

    def __post_init__(self) -> None:
        if self.num_segments < 0:
            raise EgoctlError(f"trained_on: {self.num_segments} segments are no count.")
        for video_id, spans in self.spans_s.items():
            ends = [-math.inf, *(end for span in spans for end in span)]
            if not all(math.isfinite(end) for end in ends[1:]) or ends != sorted(ends):
                raise EgoctlError(f"trained_on: spans of video {video_id!r} are out of order.")

    @classmethod
    def of_segments(cls, segments: Iterable[Segment], *, dataset: str) -> "TrainedOn":
        """The footage of these segments."""
        spans: dict[str, list[Span]] = {}
        num_segments = 0
        for segment in segments:
            num_segments += 1
            spans.setdefault(segment.video_id, []).append((segment.start_s, segment.stop_s))
        return cls(
            dataset=dataset,
            num_segments=num_segments,
            spans_s={video_id: _merged(found) for video_id, found in sorted(spans.items())},
        )

    def joined(self, earlier: "TrainedOn | None") -> "TrainedOn":
        """The footage of a network that was fitted to `earlier`, if known, and then to this.

        Segments that are in both are counted twice.
        """
        if earlier is None:
            return self
        names = dict.fromkeys([*earlier.dataset.split(" + "), self.dataset])
        videos = sorted(earlier.spans_s.keys() | self.spans_s.keys())
        return TrainedOn(
            dataset=" + ".join(names),
            num_segments=earlier.num_segments + self.num_segments,
            spans_s={
                video_id: _merged(
                    [*earlier.spans_s.get(video_id, ()), *self.spans_s.get(video_id, ())]
                )
                for video_id in videos
            },
        )

    def saw(self, segment: Segment) -> bool:
        """Whether it learnt from any moment of this segment; videos are known by video_id."""
        return any(
            start_s < segment.stop_s and segment.start_s < stop_s
            for start_s, stop_s in self.spans_s.get(segment.video_id, ())
        )

    def sentence(self) -> str:
        """How much footage it is, for people."""
        return f"fitted to {self.num_segments} segments of {self.dataset}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "num_segments": self.num_segments,
            "spans_s": {key: [list(span) for span in spans] for key, spans in self.spans_s.items()},
        }

    @classmethod
    def from_dict(cls, found: object) -> "TrainedOn":
        """The record in parsed JSON.

        Raises:
            EgoctlError: if it is none.
        """
        try:
            if not isinstance(found, dict):
                raise TypeError("no object")
            dataset, num_segments = found["dataset"], found["num_segments"]
            if not isinstance(dataset, str) or type(num_segments) is not int:
                raise TypeError("dataset or num_segments is of a wrong type")
            return cls(
                dataset=dataset,
                num_segments=num_segments,
                spans_s={
                    name: tuple((_seconds(start_s), _seconds(stop_s)) for start_s, stop_s in spans)
                    for name, spans in found["spans_s"].items()
                },
            )
        # OverflowError: a whole number of hundreds of digits has no float.
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise EgoctlError(f"trained_on is not a record of footage ({error!r}).") from error


def refuse_other_footage(url: str, *, stored: TrainedOn | None, given: TrainedOn | None) -> None:
    """Check that the store at url records the footage that was given, if any was.

    Raises:
        StoreMismatchError: if it does not.
    """
    if given is None or stored == given:
        return
    found = "does not record what its teacher was fitted to"
    if stored is not None:
        found = f"records that its teacher was {stored.sentence()}: other spans"
    raise StoreMismatchError(
        f"{url} {found}, and a store's header never changes. Leave out --trained-on, or give "
        "a new --store (with --reuse nothing is computed again)."
    )


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a time is no number")
    return float(value)


def _merged(spans: list[Span]) -> tuple[Span, ...]:
    """Overlapping and touching spans as one; milliseconds, which is finer than labels are."""
    merged: list[Span] = []
    for start_s, stop_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop_s))
        else:
            merged.append((start_s, stop_s))
    return tuple((round(start_s, 3), round(stop_s, 3)) for start_s, stop_s in merged)
