"""Anybody's own data: a folder of videos and a CSV of what happens when.

ANN.csv has one row per segment: segment_id, video, imu, start_s, stop_s, label, split,
participant_id. `video` and `imu` are relative to their folders; imu is empty (there is none) or
`self` (inside the video file). Labels are class names, or class numbers.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from egoctl.pipeline.errors import ManifestError, VideoError
from egoctl.pipeline.manifest import Manifest, portable_path
from egoctl.pipeline.records import Segment
from egoctl.pipeline.video.pyav_clips import scan_frame_times

COLUMNS = (
    "segment_id", "video", "imu", "start_s", "stop_s", "label", "split", "participant_id",
)  # fmt: skip
MAX_LABEL = 100_000
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".360", ".lrv")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderSource:
    """Where the files are and how segments become clips."""

    videos: Path
    imu: Path | None
    window_s: float
    stride_s: float | None
    ignore_unknown_columns: bool = False


def read_annotations(
    ann_csv: Path, source: FolderSource, *, manifest_folder: Path, class_names: Sequence[str] = ()
) -> Manifest:
    """The manifest of ann_csv, with paths as seen from manifest_folder.

    Byte-order mark, CRLF and column order do not matter. class_names fixes the labels' order;
    without it names are sorted and numbers name themselves.

    Raises:
        ManifestError: naming file, line and reason, if any row cannot be used.
    """
    rows = list(_rows(ann_csv, source))
    if not rows:
        raise ManifestError(f"{ann_csv} holds no segment. Write one row per segment.")
    names = tuple(class_names) or _class_names(ann_csv, rows)
    number_of = {name: number for number, name in enumerate(names)}
    if not any(name.isdigit() for name in names):
        number_of |= {str(number): number for number in range(len(names))}
    segments: list[Segment] = []
    line_of: dict[str, int] = {}
    for line, row in rows:
        where = f"{ann_csv}, line {line}"
        segment_id = row["segment_id"]
        if segment_id in line_of:
            raise ManifestError(
                f"{where}: segment_id {segment_id!r} was used in line {line_of[segment_id]} "
                "already. Give every segment its own id."
            )
        line_of[segment_id] = line
        if row["label"] and row["label"] not in number_of:
            raise ManifestError(f"{where}: label {row['label']!r} is not among the class names.")
        try:
            segments.append(_segment(row, source, manifest_folder, number_of.get(row["label"])))
        except ManifestError as error:
            raise ManifestError(f"{where}: {error}") from error
    return Manifest(
        segments=tuple(segments),
        class_names=names,
        dataset_name=ann_csv.stem,
        window_s=source.window_s,
        stride_s=source.stride_s,
        root=manifest_folder.resolve(),
    )


def read_class_names(path: Path) -> tuple[str, ...]:
    """One name a line; line i names label i.

    Raises:
        ManifestError: if the file is missing, or a name is empty or repeated.
    """
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read class names ({error}).") from error
    if not names or "" in names or len(set(names)) < len(names):
        raise ManifestError(f"{path}: wanted one class name a line, none empty, none twice.")
    return names


def whole_videos(
    source: FolderSource, *, manifest_folder: Path, imu_inside: bool
) -> tuple[Manifest, list[str]]:
    """One unlabelled segment per video, for dense windows; and a line per video left out.

    Raises:
        ManifestError: if the folder holds no video that can be read.
    """
    files = sorted(
        file
        for file in source.videos.rglob("*")
        if file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()
    )
    segments: list[Segment] = []
    left_out: list[str] = []
    for file in files:
        name = file.relative_to(source.videos).as_posix()
        try:
            times_s = scan_frame_times(file)
        except VideoError as error:
            left_out.append(f"{name}: {error.reason} ({error.code})")
            continue
        # The last frame stays on screen about as long as the one before it.
        last_s = float(times_s[-1] - times_s[-2]) if len(times_s) > 1 else 1 / 30
        stop_s = round(float(times_s[-1]) + last_s, 6)
        row = dict.fromkeys(COLUMNS, "") | {
            "segment_id": name, "video": name, "imu": "self" if imu_inside else "",
            "start_s": "0", "stop_s": str(stop_s), "split": "unlabelled",
            "participant_id": "unknown",
        }  # fmt: skip
        if not imu_inside and source.imu is not None:
            row["imu"] = Path(name).with_suffix(".csv").as_posix()
        segments.append(_segment(row, source, manifest_folder, None))
    if not segments:
        raise ManifestError(
            f"{source.videos} holds no readable video ({', '.join(VIDEO_SUFFIXES)}; "
            f"{len(left_out)} could not be read). Check --videos."
        )
    manifest = Manifest(
        segments=tuple(segments),
        class_names=(),
        dataset_name=source.videos.name,
        window_s=source.window_s,
        stride_s=source.stride_s,
        root=manifest_folder.resolve(),
    )
    return manifest, left_out


def _rows(ann_csv: Path, source: FolderSource) -> Iterator[tuple[int, dict[str, str]]]:
    if not ann_csv.is_file():
        raise ManifestError(f"no annotation file at {ann_csv}.")
    try:
        # utf-8-sig drops the byte-order mark that spreadsheets write.
        text = ann_csv.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{ann_csv}, line {line}: not UTF-8 text ({error.reason}). Save it as UTF-8."
        ) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(ann_csv, header, source.ignore_unknown_columns)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise ManifestError(
                    f"{ann_csv}, line {reader.line_num}: {len(cells)} cells under "
                    f"{len(header)} columns."
                )
            stripped = (cell.strip() for cell in cells)
            yield reader.line_num, dict(zip(header, stripped, strict=True))
    except csv.Error as error:
        raise ManifestError(
            f"{ann_csv}, line {reader.line_num}: not well-formed CSV ({error})."
        ) from error


def _check_header(ann_csv: Path, header: list[str], ignore_unknown: bool) -> None:
    missing = [name for name in COLUMNS if name not in header]
    unknown = [name for name in header if name not in COLUMNS]
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing or twice or (unknown and not ignore_unknown):
        faults = [
            f"{fault}: {', '.join(map(repr, names))}"
            for fault, names in (("missing", missing), ("unknown", unknown), ("twice", twice))
            if names
        ]
        hint = "" if missing or twice else " Remove them, or pass --ignore-unknown-columns."
        raise ManifestError(
            f"{ann_csv}, line 1: wrong columns ({'; '.join(faults)}). "
            f"Wanted: {', '.join(COLUMNS)}.{hint}"
        )


def _class_names(ann_csv: Path, rows: Sequence[tuple[int, dict[str, str]]]) -> tuple[str, ...]:
    labels = {row["label"] for _, row in rows} - {""}
    if not all(_is_number(label) for label in labels):
        return tuple(sorted(labels))
    for line, row in rows:
        label = row["label"]
        # 3.0 and -1 are what tables make of unlabelled rows: as names they would be renumbered.
        is_class = label.isascii() and label.isdigit() and int(label) <= MAX_LABEL
        if label and not is_class:
            raise ManifestError(
                f"{ann_csv}, line {line}: class numbers are 0 to {MAX_LABEL}, got {label}. "
                "Number the classes from 0, or name them; leave the cell empty without a label."
            )
    return tuple(str(number) for number in range(max(map(int, labels), default=-1) + 1))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _segment(
    row: dict[str, str], source: FolderSource, manifest_folder: Path, label: int | None
) -> Segment:
    video = _inside(source.videos, row["video"], "video")
    imu_path: str | None = None
    if row["imu"] == "self":
        imu_path = portable_path(video, manifest_folder)
    elif row["imu"]:
        if source.imu is None:
            raise ManifestError(f"imu names {row['imu']!r}, but no --imu folder was given.")
        imu_path = portable_path(_inside(source.imu, row["imu"], "imu"), manifest_folder)
    return Segment(
        segment_id=row["segment_id"],
        video_id=row["video"],
        video_path=portable_path(video, manifest_folder),
        imu_path=imu_path,
        participant_id=row["participant_id"],
        start_s=_seconds(row, "start_s"),
        stop_s=_seconds(row, "stop_s"),
        label=label,
        split=row["split"],
    )


def _inside(folder: Path, name: str, column: str) -> Path:
    parts = PurePosixPath(name).parts
    is_outside = name.startswith(("/", "~")) or ".." in parts or "://" in name
    if not name or is_outside or "\\" in name or "\0" in name:
        raise ManifestError(
            f"{column} {name!r} leaves its folder {folder}. Name a file inside that folder."
        )
    return folder / name


def _seconds(row: dict[str, str], column: str) -> float:
    try:
        # float() by itself reads the slip 1_5 as 15.
        return float(row[column].replace("_", "?"))
    except ValueError:
        raise ManifestError(f"{column} must be seconds, got {row[column]!r}.") from None
