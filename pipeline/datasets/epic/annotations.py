"""Reads the official EPIC-KITCHENS-100 annotation files as they are published.

Timestamps are the truth. The frame columns beside them count frames of the published JPEGs, which
were cut at 60 frames a second (50 in the extension) from videos of 59.94, 50, 47.95, 29.97 and 90:
they are read to be compared, and never become times.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from egoctl.pipeline.datasets.dataset_recipe import NotDownloadedError
from egoctl.pipeline.errors import ManifestError

NUM_VERBS = 97
NUM_NOUNS = 300
SPLIT_FILES = {
    "train": "EPIC_100_train.csv",
    "val": "EPIC_100_validation.csv",
    "test": "EPIC_100_test_timestamps.csv",
}
VIDEO_INFO = "EPIC_100_video_info.csv"
VERB_CLASSES = "EPIC_100_verb_classes.csv"
NOUN_CLASSES = "EPIC_100_noun_classes.csv"

_EXTENSION_ID = re.compile(r"P\d+_\d{3}")
_TIMESTAMP = re.compile(r"(\d+):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_TIMES = (
    "narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp",
    "start_frame", "stop_frame",
)  # fmt: skip
_LABELS = ("narration", "verb_class", "noun_class")


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicSegment:
    """One row of a train, validation or test file."""

    narration_id: str
    participant_id: str
    video_id: str
    start_s: float
    stop_s: float
    start_frame: int
    """Number of the published JPEG, not of the video's frame."""
    stop_frame: int
    verb_class: int | None
    """None in the test file, whose labels are not published; so are the next two."""
    noun_class: int | None
    narration: str | None
    official_split: str
    """train, val or test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicVideo:
    """One row of EPIC_100_video_info.csv."""

    duration_s: float
    fps: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicAnnotations:
    """All that the folder holds."""

    segments: tuple[EpicSegment, ...]
    """Segments of train, val and test, in the files' order."""
    videos: Mapping[str, EpicVideo]
    """By video_id; empty without EPIC_100_video_info.csv."""
    verb_names: tuple[str, ...]
    noun_names: tuple[str, ...]
    absent: tuple[str, ...]
    """A line per file that is not there: its name, and what cannot be had without it."""


def is_extension(video_id: str) -> bool:
    """Whether a video was added for EPIC-KITCHENS-100: P01_101. Only those have IMU."""
    return _EXTENSION_ID.fullmatch(video_id) is not None


def read_epic_annotations(folder: Path) -> EpicAnnotations:
    """The annotations in a folder; files may be absent, as long as one holds segments.

    Raises:
        NotDownloadedError: if no file with segments is there.
        ManifestError: naming file, line and reason.
    """
    absent: list[str] = []

    def has(name: str, without: str) -> bool:
        is_there = (folder / name).is_file()
        if not is_there:
            absent.append(f"{name} is not in {folder}: {without}.")
        return is_there

    segments: list[EpicSegment] = []
    for split, name in SPLIT_FILES.items():
        if has(name, f"no segment of the official {split} split"):
            segments += _segments(folder / name, split)
    if not segments:
        raise NotDownloadedError(
            f"{folder} holds no segments. Wanted one of {', '.join(SPLIT_FILES.values())}, from "
            "github.com/epic-kitchens/epic-kitchens-100-annotations."
        )
    videos: dict[str, EpicVideo] = {}
    if has(VIDEO_INFO, "ends of videos and frame columns are not checked"):
        videos = dict(_videos(folder / VIDEO_INFO))
    names = []
    for file, kind, count in (
        (VERB_CLASSES, "verb", NUM_VERBS),
        (NOUN_CLASSES, "noun", NUM_NOUNS),
    ):
        if has(file, f"classes are named '{kind} 0' to '{kind} {count - 1}'"):
            names.append(_class_names(folder / file, count))
        else:
            names.append(tuple(f"{kind} {number}" for number in range(count)))
    return EpicAnnotations(
        segments=tuple(segments),
        videos=videos,
        verb_names=names[0],
        noun_names=names[1],
        absent=tuple(absent),
    )


def _segments(path: Path, split: str) -> Iterator[EpicSegment]:
    has_labels = split != "test"
    for where, row in _rows(path, (*_TIMES, *_LABELS) if has_labels else _TIMES):
        start_s = _seconds(where, row, "start_timestamp")
        stop_s = _seconds(where, row, "stop_timestamp")
        if start_s >= stop_s:
            raise ManifestError(
                f"{where}: {row['narration_id']} stops at {row['stop_timestamp']}, not after its "
                f"start {row['start_timestamp']}. Correct that row."
            )
        yield EpicSegment(
            narration_id=row["narration_id"],
            participant_id=row["participant_id"],
            video_id=row["video_id"],
            start_s=start_s,
            stop_s=stop_s,
            start_frame=_whole(where, row, "start_frame"),
            stop_frame=_whole(where, row, "stop_frame"),
            verb_class=_whole(where, row, "verb_class", NUM_VERBS) if has_labels else None,
            noun_class=_whole(where, row, "noun_class", NUM_NOUNS) if has_labels else None,
            narration=row["narration"] if has_labels else None,
            official_split=split,
        )


def _videos(path: Path) -> Iterator[tuple[str, EpicVideo]]:
    for where, row in _rows(path, ("video_id", "duration", "fps")):
        duration_s, fps = _number(where, row, "duration"), _number(where, row, "fps")
        if not (duration_s > 0 and fps > 0):
            raise ManifestError(f"{where}: duration and fps must be above 0.")
        yield row["video_id"], EpicVideo(duration_s=duration_s, fps=fps)


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    key_of = {_whole(where, row, "id", count): row["key"] for where, row in _rows(path)}
    if len(key_of) < count or len(set(key_of.values())) < count:
        raise ManifestError(
            f"{path}: wanted {count} classes, each with an id and a key of its own."
        )
    return tuple(key_of[number] for number in range(count))


def _rows(
    path: Path, columns: tuple[str, ...] = ("id", "key")
) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row with the place to name in messages."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or ()
            if missing := [name for name in columns if name not in header]:
                raise ManifestError(
                    f"{path}, line 1: no column {', '.join(missing)}. Take the file as published."
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                # DictReader pads short rows with None and files long ones under None.
                if None in row or any(row[name] is None for name in header):
                    raise ManifestError(f"{where}: wanted {len(header)} cells.")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read ({error}).") from error


def _seconds(where: str, row: Mapping[str, str], column: str) -> float:
    found = _TIMESTAMP.fullmatch(row[column].strip())
    if found is None:
        raise ManifestError(f"{where}: {column} must be HH:MM:SS.ff, got {row[column]!r}.")
    # Rounded: 60 * 2 + 18.98 is 138.98000000000002 in binary.
    return round(int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]), 6)


def _whole(where: str, row: Mapping[str, str], column: str, stop: int | None = None) -> int:
    text = row[column].strip()
    if not (text.isascii() and text.isdigit()) or (stop is not None and int(text) >= stop):
        wanted = "0 or more" if stop is None else f"0 to {stop - 1}"
        raise ManifestError(f"{where}: {column} must be a whole number, {wanted}, got {text!r}.")
    return int(text)


def _number(where: str, row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise ManifestError(f"{where}: {column} must be a number, got {row[column]!r}.") from None
