"""EPIC-KITCHENS-100 as a manifest, from its official annotation files and downloads."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from egoctl.pipeline.datasets.dataset_recipe import (
    DatasetBuild,
    DatasetRecipe,
    NotDownloadedError,
    chosen,
)
from egoctl.pipeline.datasets.epic.annotations import (
    SPLIT_FILES,
    EpicAnnotations,
    EpicSegment,
    EpicVideo,
    is_extension,
    read_epic_annotations,
)
from egoctl.pipeline.datasets.epic.files import EpicFiles
from egoctl.pipeline.datasets.epic.frames import check_frames, frame_lines, some_of
from egoctl.pipeline.datasets.epic.labels import LABELS, class_labels
from egoctl.pipeline.datasets.epic.splits import SPLIT_RULES, WARNINGS, split_of
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import Manifest, portable_path
from egoctl.pipeline.records import WINDOW_S, Segment
from egoctl.pipeline.setting_checks import refuse_below, refuse_unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class EpicSource:
    """Where the files are, and which segments to take how."""

    annotations: Path
    data: Path
    """The folder that holds EPIC-KITCHENS, that folder itself, or a flat folder of files."""
    label: str = "verb"
    """verb, noun, or action: the pairs of verb and noun that occur."""
    split_rule: str = "official"
    only_with_imu: bool = False
    participants: tuple[str, ...] = ()
    """Empty: everybody."""
    keep_classes: tuple[str, ...] = ()
    """Names of the classes to keep; empty: all."""
    min_segments: int = 1
    """Classes with fewer segments are left out."""
    window_s: float = WINDOW_S
    stride_s: float | None = None

    def __post_init__(self) -> None:
        refuse_unknown("--label", self.label, LABELS)
        refuse_unknown("--split", self.split_rule, SPLIT_RULES)
        refuse_below("--min-segments", self.min_segments, least=1)


def epic_source(recipe: DatasetRecipe | None, **given: Any) -> EpicSource:
    """The fields that are given, and the recipe's for those that are None."""
    names = ("label", "split_rule", "min_segments", "window_s", "stride_s")
    return EpicSource(**chosen(recipe, names, given))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """A segment with its files and the split it falls into."""

    segment: EpicSegment
    video: Path
    imu: Path | None
    split: str


def build_epic(source: EpicSource, *, manifest_folder: Path) -> DatasetBuild:
    """The manifest of what the annotations and the data have in common.

    Raises:
        NotDownloadedError: if nothing is left, as files are not there.
        ManifestError: naming file, line and reason if an annotation cannot be used; or if nothing
            is left for another reason.
    """
    annotations = read_epic_annotations(source.annotations)
    if source.split_rule != "official" and not _has_split(annotations, "train"):
        raise ManifestError(
            f"--split {source.split_rule} divides the official training split; put "
            f"{SPLIT_FILES['train']} into {source.annotations}."
        )
    rows, left_out = _found_rows(annotations, source)
    names, label_of = class_labels(annotations, source.label)
    rows, filtered = _of_kept_classes(rows, names, label_of, source)
    rows, clipped, past_end = _within_videos(rows, annotations.videos)
    if not rows:
        reasons = " ".join((*left_out, *past_end, *filtered, *annotations.absent))
        kind = NotDownloadedError if left_out else ManifestError
        raise kind(f"no segment is left. {reasons or 'Check the options.'}")
    manifest = Manifest(
        segments=tuple(
            _segment(row, label_of[row.segment.narration_id], manifest_folder) for row in rows
        ),
        class_names=names,
        dataset_name="EPIC-KITCHENS-100",
        window_s=source.window_s,
        stride_s=source.stride_s,
        root=manifest_folder.resolve(),
    )
    num_used = len({segment.label for segment in manifest.segments} - {None})
    check = check_frames((row.segment for row in rows), annotations.videos)
    return DatasetBuild(
        manifest=manifest,
        notes=(
            *annotations.absent,
            *frame_lines(check),
            *clipped,
            *filtered,
            f"{num_used} of {len(names)} {source.label} classes occur.",
            f"{sum(row.imu is not None for row in rows):,} of {len(rows):,} segments have IMU.",
            *WARNINGS[source.split_rule],
        ),
        left_out=(*left_out, *past_end),
    )


def _has_split(annotations: EpicAnnotations, split: str) -> bool:
    return any(segment.official_split == split for segment in annotations.segments)


def _found_rows(
    annotations: EpicAnnotations, source: EpicSource
) -> tuple[list[_Row], tuple[str, ...]]:
    """The segments of the split rule whose files are there, and a line for those that lack some."""
    if unknown := set(source.participants) - {s.participant_id for s in annotations.segments}:
        raise ManifestError(f"--participants: nobody is called {', '.join(sorted(unknown))}.")
    files = EpicFiles(source.data)
    rows: list[_Row] = []
    without_video: list[EpicSegment] = []
    without_imu: list[EpicSegment] = []
    for segment in annotations.segments:
        if source.participants and segment.participant_id not in source.participants:
            continue
        imu = files.accel_csv(segment.participant_id, segment.video_id)
        split = split_of(segment, source.split_rule, has_imu=imu is not None)
        with_imu = split_of(segment, source.split_rule, has_imu=True)
        if with_imu is not None and is_extension(segment.video_id) and imu is None:
            # Counted where IMU is asked for; elsewhere a note has the number of segments with it.
            if source.only_with_imu or split != with_imu:
                without_imu.append(segment)
        if split is None or (source.only_with_imu and imu is None):
            continue
        video = files.video(segment.participant_id, segment.video_id)
        if video is None:
            without_video.append(segment)
            continue
        rows.append(_Row(segment=segment, video=video, imu=imu, split=split))
    return rows, (
        *_missing(without_video, f"have no video file in {source.data}"),
        *_missing(without_imu, f"have no -accl.csv and -gyro.csv in {source.data}"),
    )


def _missing(segments: Sequence[EpicSegment], what: str) -> tuple[str, ...]:
    if not segments:
        return ()
    videos = {segment.video_id for segment in segments}
    return (f"{len(segments):,} segments of {len(videos)} videos {what}: {some_of(videos)}.",)


def _of_kept_classes(
    rows: list[_Row],
    names: Sequence[str],
    label_of: dict[str, int | None],
    source: EpicSource,
) -> tuple[list[_Row], tuple[str, ...]]:
    """The rows whose class is kept (and those without a label), and a line if some are not."""
    if unknown := sorted(set(source.keep_classes) - set(names)):
        raise ManifestError(
            f"--classes names {some_of(unknown)}, but no {source.label} is called so."
        )
    counts = Counter(label_of[row.segment.narration_id] for row in rows)
    kept = {
        number
        for number, count in counts.items()
        if number is None
        or (
            count >= source.min_segments
            and (not source.keep_classes or names[number] in source.keep_classes)
        )
    }
    left = [row for row in rows if label_of[row.segment.narration_id] in kept]
    if len(left) == len(rows):
        return rows, ()
    return left, (
        f"{len(rows) - len(left):,} segments of {len(set(counts) - kept)} classes left out by "
        "--classes and --min-segments.",
    )


def _within_videos(
    rows: list[_Row], videos: Mapping[str, EpicVideo]
) -> tuple[list[_Row], tuple[str, ...], tuple[str, ...]]:
    """The rows, ending where their videos end; a line if some were cut, and one if some are out."""
    within: list[_Row] = []
    cut_ids, out_ids = [], []
    for row in rows:
        segment, video = row.segment, videos.get(row.segment.video_id)
        if video is not None and segment.start_s >= video.duration_s:
            out_ids.append(segment.narration_id)
            continue
        if video is not None and segment.stop_s > video.duration_s:
            cut_ids.append(segment.narration_id)
            row = replace(row, segment=replace(segment, stop_s=round(video.duration_s, 6)))
        within.append(row)
    cut = (f"cut at the end of their video: {len(cut_ids)} segments ({some_of(cut_ids)}).",)
    out = (f"begin after the end of their video: {len(out_ids)} segments ({some_of(out_ids)}).",)
    return within, cut if cut_ids else (), out if out_ids else ()


def _segment(row: _Row, label: int | None, manifest_folder: Path) -> Segment:
    segment = row.segment
    return Segment(
        segment_id=segment.narration_id,
        video_id=segment.video_id,
        video_path=portable_path(row.video, manifest_folder),
        imu_path=None if row.imu is None else portable_path(row.imu, manifest_folder),
        participant_id=segment.participant_id,
        start_s=segment.start_s,
        stop_s=segment.stop_s,
        label=label,
        split=row.split,
        verb_class=segment.verb_class,
        noun_class=segment.noun_class,
        narration=segment.narration,
    )
