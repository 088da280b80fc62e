"""The manifest: which spans of which videos, and the windows that cut them into clips.

A parquet file, one row per segment; class names, dataset name and clip window live in its
metadata. Paths are relative to the manifest's folder or absolute, or URLs of files in a bucket; the
manifest may lie in a bucket itself. docs/manifest.md is its format.
"""

import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from blake3 import blake3

from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.files.cache import MediaFile
from egoctl.pipeline.files.place import file_at, is_remote
from egoctl.pipeline.records import Clip, Segment
from egoctl.pipeline.sampling import clips_of

if TYPE_CHECKING:
    import pyarrow as pa  # slow to import, and many who name a manifest read none

FORMAT_VERSION = 1
METADATA_KEY = b"egoctl.manifest"

_COLUMNS = {
    "segment_id": "string",
    "video_id": "string",
    "video_path": "string",
    "imu_path": "string",
    "participant_id": "string",
    "start_s": "double",
    "stop_s": "double",
    "label": "int64",
    "split": "string",
}
"""Arrow's type of every column that a file must have."""
_MAY_BE_NULL = ("imu_path", "label")
_OPTIONAL = {"verb_class": "int64", "noun_class": "int64", "narration": "string"}
"""Columns that a file may lack; written where a segment has a value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Segments, their classes, and the clip window.

    >>> manifest = Manifest(
    ...     segments=(
    ...         Segment(
    ...             segment_id="s1", video_id="v1", video_path="v1.mp4", imu_path=None,
    ...             participant_id="P01", start_s=3.0, stop_s=6.0, label=0, split="train",
    ...         ),
    ...     ),
    ...     class_names=("cut",), dataset_name="kitchen", window_s=2.0, stride_s=1.0, root="videos",
    ... )
    >>> [clip.clip_id for clip in manifest.clips()]
    ['s1@3.000-5.000', 's1@4.000-6.000']
    """

    segments: tuple[Segment, ...]
    class_names: tuple[str, ...]
    """Name of label i."""
    dataset_name: str
    window_s: float
    stride_s: float | None
    """Seconds between the starts of two clips of a segment; None: one clip, in the middle."""
    root: Path | str
    """The folder that relative paths start from: a Path, or the URL of one in a bucket."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window_s) and self.window_s > 0):
            raise ManifestError(f"the window must be above 0 s, got {self.window_s}")
        if self.stride_s is not None and not (math.isfinite(self.stride_s) and self.stride_s > 0):
            raise ManifestError(f"the stride must be above 0 s, got {self.stride_s}")
        counts = Counter(segment.segment_id for segment in self.segments)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ManifestError(
                f"segment_id {twice[0]!r} stands {counts[twice[0]]} times; ids must be unique."
            )
        for segment in self.segments:
            if segment.label is not None and segment.label >= len(self.class_names):
                raise ManifestError(
                    f"segment {segment.segment_id!r} has label {segment.label}, but there are "
                    f"{len(self.class_names)} class names."
                )
            for path in (segment.video_path, segment.imu_path):
                if path is not None:
                    _check_inside(segment, path)

    def clips(self) -> list[Clip]:
        """Every clip, in the order of the segments and then of time.

        Raises:
            ManifestError: if the stride is so small that two clips share one clip_id.
        """
        clips = [
            clip
            for segment in self.segments
            for clip in clips_of(segment, window_s=self.window_s, stride_s=self.stride_s)
        ]
        if len({clip.clip_id for clip in clips}) < len(clips):
            raise ManifestError(
                f"a stride of {self.stride_s} s gives clips less than a millisecond apart; "
                "use a larger --stride."
            )
        return clips

    def split(self, name: str) -> tuple[Segment, ...]:
        """The segments of a split, in the manifest's order.

        Raises:
            ManifestError: if there are none; it names the splits that there are.
        """
        segments = tuple(segment for segment in self.segments if segment.split == name)
        if not segments:
            known = ", ".join(sorted({segment.split for segment in self.segments}))
            raise ManifestError(
                f"the manifest has no split {name!r}; it has {known or 'no segments'}."
            )
        return segments

    def num_padded(self, clips: list[Clip]) -> int:
        """How many of the clips are shorter than the window and so hold their edge frames."""
        return sum(clip.stop_s - clip.start_s < self.window_s - 1e-5 for clip in clips)

    def media(self, path: str) -> MediaFile:
        """The file that a video_path or imu_path names; nothing is fetched."""
        path = path.removeprefix("file://")
        if is_remote(path) or path.startswith("/"):
            return MediaFile(url=path)
        if isinstance(self.root, Path):
            return MediaFile(url=str(self.root / path))
        return MediaFile(url=f"{self.root}/{path}")

    def locate(self, path: str) -> Path:
        """Where a video_path or imu_path is on this machine; fetched first if it must be.

        Raises:
            FileNotFoundError: if a bucket has no such file.
            StoreError: if it cannot be fetched.
        """
        return self.media(path).local()

    def summary_lines(self) -> Iterator[str]:
        """What the manifest holds, for people."""
        clips = self.clips()
        splits = Counter(segment.split for segment in self.segments)
        videos = {segment.video_path for segment in self.segments}
        yield (
            f"{len(self.segments)} segments of {len(videos)} videos, "
            f"{len(self.class_names)} classes, splits: "
            + ", ".join(f"{name or '(none)'} {count}" for name, count in splits.items())
        )
        stride = "one per segment" if self.stride_s is None else f"every {self.stride_s:g} s"
        yield f"{len(clips)} clips of {self.window_s:.4f} s, {stride}."
        if num_padded := self.num_padded(clips):
            yield (
                f"{num_padded} of them come from segments shorter than the window: "
                "their first and last frames are held."
            )

    def fingerprint(self) -> str:
        """Digest of everything that decides clips and labels; the same wherever the file lies."""
        rows = [
            [s.segment_id, s.video_id, s.start_s, s.stop_s, s.label, s.split] for s in self.segments
        ]
        text = json.dumps([self.class_names, self.window_s, self.stride_s, rows])
        return blake3(text.encode()).hexdigest()


def read_manifest(path: Path | str) -> Manifest:
    """The manifest at path, which may be a URL.

    >>> manifest = read_manifest("clips.parquet")
    >>> manifest.class_names
    ('cut', 'stir', 'wash')
    >>> [segment.segment_id for segment in manifest.split("test")]
    ['c']

    Raises:
        ManifestError: if there is none, or it is not a manifest of this format.
        StoreError: if its bucket cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place, name = file_at(str(path))
    if place.path is not None:
        file = place.path / name
        folder: Path | str = file.resolve().parent
        content = file if file.is_file() else None
    else:
        folder, found = place.url, place.read(name)
        content = None if found is None else pa.BufferReader(found)
    if content is None:
        raise ManifestError(f"no manifest at {path}. Make one with 'egoctl manifest build'.")
    try:
        table = pq.read_table(content)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path} is not a readable parquet file: {error}") from error
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ManifestError(
            f"{path} is parquet but not an egoctl manifest (it lacks their metadata). "
            "Make one with 'egoctl manifest build'."
        )
    if missing := [name for name in _COLUMNS if name not in table.column_names]:
        raise ManifestError(f"{path} lacks the columns {', '.join(missing)}.")
    try:
        meta = json.loads(raw)
        version = meta["format_version"]
        if version != FORMAT_VERSION:
            raise ManifestError(
                f"manifest format {version}; this egoctl reads {FORMAT_VERSION}. Update egoctl."
            )
        schema = _schema_with(name for name in _OPTIONAL if name in table.column_names)
        rows = table.select(schema.names).cast(schema).to_pylist()
        stride_s = meta["stride_s"]
        return Manifest(
            segments=tuple(Segment(**row) for row in rows),
            class_names=tuple(str(name) for name in meta["class_names"]),
            dataset_name=str(meta["dataset_name"]),
            window_s=float(meta["window_s"]),
            stride_s=None if stride_s is None else float(stride_s),
            root=folder,
        )
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{path}: damaged manifest ({error}). Build it again.") from error
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def write_manifest(manifest: Manifest, path: Path | str) -> None:
    """Write atomically to a path or a URL: a reader sees the old file or the whole new one.

    Raises:
        StoreError: if it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = {
        "format_version": FORMAT_VERSION,
        "dataset_name": manifest.dataset_name,
        "class_names": list(manifest.class_names),
        "window_s": manifest.window_s,
        "stride_s": manifest.stride_s,
        "time_base": "presentation time, seconds from the video stream's first frame",
    }
    used = [
        name
        for name in _OPTIONAL
        if any(getattr(segment, name) is not None for segment in manifest.segments)
    ]
    schema = _schema_with(used).with_metadata({METADATA_KEY: json.dumps(meta).encode()})
    rows = [
        {name: getattr(segment, name) for name in schema.names} for segment in manifest.segments
    ]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    place, name = file_at(str(path))
    place.put(name, file.getvalue())


def portable_path(file: Path, manifest_folder: Path) -> str:
    """How a manifest in manifest_folder names file: relative where it lies below, else absolute."""
    absolute = Path(os.path.abspath(file))
    folder = Path(os.path.abspath(manifest_folder))
    return (
        absolute.relative_to(folder).as_posix()
        if absolute.is_relative_to(folder)
        else str(absolute)
    )


def _schema_with(optional: Iterable[str]) -> "pa.Schema":
    import pyarrow as pa

    columns = _COLUMNS | {name: _OPTIONAL[name] for name in optional}
    is_nullable = {*_MAY_BE_NULL, *_OPTIONAL}
    return pa.schema(
        [
            pa.field(name, pa.type_for_alias(kind), nullable=name in is_nullable)
            for name, kind in columns.items()
        ]
    )


def _check_inside(segment: Segment, path: str) -> None:
    path = path.removeprefix("file://")
    if "://" in path and not is_remote(path):
        raise ManifestError(
            f"segment {segment.segment_id!r}: {path} is of no kind that can be read; give a path, "
            "or a URL that starts with s3://, gs://, az:// or file://."
        )
    if not PurePosixPath(path).is_absolute() and ".." in PurePosixPath(path).parts:
        raise ManifestError(
            f"segment {segment.segment_id!r}: {path!r} leaves the manifest's folder. "
            "Use a path below it, or an absolute one."
        )
