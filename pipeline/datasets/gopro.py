"""A folder of GoPro files as a manifest: motion lies inside every file, chapters belong together.

A camera closes a file after some minutes and goes on in the next. GX010001.MP4 and GX020001.MP4
are chapters 1 and 2 of recording 0001, as are GOPR0001.MP4 and GP010001.MP4 of older cameras.
Every chapter stays a video of its own, with its own clock; what they share is participant_id.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from egoctl.pipeline.datasets.folder import FolderSource, read_annotations, whole_videos
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import Segment

_CHAPTER = re.compile(r"(?:(G[A-Z])(?P<chapter>\d{2})|GOPR)(?P<number>\d{4})", re.IGNORECASE)


def recording_of(video_id: str) -> str:
    """The recording that a file is a chapter of: its folder and number, or else its own name."""
    path = PurePosixPath(video_id)
    found = _CHAPTER.fullmatch(path.stem)
    return str(path.parent / (path.stem if found is None else f"recording {found['number']}"))


def gopro_folder(
    source: FolderSource, *, manifest_folder: Path, labels: Path | None = None
) -> tuple[Manifest, list[str]]:
    """Dense windows over all files of a folder, or the segments of a CSV; and what was left out.

    The CSV is that of `manifest build folder`, with imu empty or self. Where it names no
    participant, and without it, the recording is used as one.

    Raises:
        ManifestError: if the folder holds no video that can be read, or a row cannot be used.
    """
    if labels is not None:
        manifest = read_annotations(labels, source, manifest_folder=manifest_folder)
        return replace(manifest, segments=tuple(map(_with_motion, manifest.segments))), []
    manifest, left_out = whole_videos(source, manifest_folder=manifest_folder, imu_inside=True)
    is_copy = _small_copies({segment.video_id for segment in manifest.segments})
    left_out += [f"{name}: the camera's small copy of another file" for name in sorted(is_copy)]
    segments = tuple(
        _with_motion(replace(segment, participant_id=""))
        for segment in manifest.segments
        if segment.video_id not in is_copy
    )
    return replace(manifest, segments=segments), left_out


def _with_motion(segment: Segment) -> Segment:
    return replace(
        segment,
        imu_path=segment.video_path,
        participant_id=segment.participant_id or recording_of(segment.video_id),
    )


def _small_copies(video_ids: set[str]) -> set[str]:
    """Those that are the LRV file of one of the others: GL010001.LRV of GX010001.MP4."""

    def place(video_id: str) -> tuple[str, str]:
        path = PurePosixPath(video_id)
        return str(path.parent), path.stem[2:].lower()

    copies = {name for name in video_ids if name.lower().endswith(".lrv")}
    originals = {place(name) for name in video_ids - copies}
    return {name for name in copies if place(name) in originals}


def chapter_lines(manifest: Manifest) -> Iterator[str]:
    """A line per recording of several files, for people."""
    files: dict[str, set[str]] = {}
    for segment in manifest.segments:
        files.setdefault(recording_of(segment.video_id), set()).add(segment.video_id)
    for recording, chapters in files.items():
        if len(chapters) > 1:
            yield f"{recording}: {len(chapters)} chapters ({', '.join(sorted(chapters))})"
