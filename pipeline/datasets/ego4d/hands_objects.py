"""Ego4D's Hands + Objects actions as a manifest: EgoDistill's set, and a clean split of it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egoctl.pipeline.datasets.dataset_recipe import DatasetBuild, DatasetRecipe, chosen
from egoctl.pipeline.datasets.ego4d.actions import Ego4dAction, read_actions
from egoctl.pipeline.datasets.ego4d.files import Ego4dFiles, find_ego4d
from egoctl.pipeline.datasets.random_split import split_by_group, split_per_class
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import Manifest, portable_path
from egoctl.pipeline.records import WINDOW_S, Segment
from egoctl.pipeline.setting_checks import refuse_below, refuse_unknown

LABEL = "structured_verb"
SPLIT_RULES = ("egodistill", "by-video")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ego4dSource:
    """Where the download is, and which actions to take how."""

    root: Path
    annotations: Path | None = None
    """fho_main.json, where it is not in the download's own place."""
    videos: str = "full_scale"
    """A folder of the download, or any folder of UID.mp4."""
    label: str = LABEL
    split_rule: str = "egodistill"
    """egodistill: 70 % of each class at random; by-video: whole videos."""
    seed: int = 0
    only_with_imu: bool = True
    min_segments: int = 2
    """Verbs with fewer segments are left out; not where class_names are given."""
    class_names: tuple[str, ...] = ()
    """The verbs to take, in the order of their labels; empty: all that occur, sorted."""
    window_s: float = WINDOW_S
    stride_s: float | None = None

    def __post_init__(self) -> None:
        refuse_unknown("label", self.label, (LABEL,))
        refuse_unknown("split-rule", self.split_rule, SPLIT_RULES)
        refuse_below("--min-segments", self.min_segments, least=1)


def ego4d_source(recipe: DatasetRecipe | None, **given: Any) -> Ego4dSource:
    """The fields that are given, and the recipe's for those that are None."""
    names = ("label", "split_rule", "seed", "min_segments", "window_s", "stride_s")
    return Ego4dSource(**chosen(recipe, names, given))


def build_ego4d(source: Ego4dSource, *, manifest_folder: Path) -> DatasetBuild:
    """The manifest of the usable actions, with paths as seen from manifest_folder.

    It names the files as the downloader will put them, there or not: the same manifest before the
    download and after it, on every machine.

    Raises:
        ManifestError: if annotations are missing or damaged, or nothing is left.
    """
    files = find_ego4d(source.root, videos=source.videos, annotations=source.annotations)
    actions, left_out = read_actions(files.annotations)
    imu_of = {uid: files.has_imu(uid) for uid in {action.video_uid for action in actions}}
    kept = []
    num_of = Counter(
        action.verb for action in actions if imu_of[action.video_uid] or not source.only_with_imu
    )
    for action in actions:
        if source.only_with_imu and not imu_of[action.video_uid]:
            left_out["video without IMU"] += 1
        elif source.class_names and action.verb not in source.class_names:
            left_out["verb not among the class names"] += 1
        elif not source.class_names and num_of[action.verb] < source.min_segments:
            left_out[f"verb with fewer than {source.min_segments} segments"] += 1
        else:
            kept.append(action)
    lines = tuple(f"{count:,} actions: {reason}" for reason, count in left_out.most_common())
    if not kept:
        raise ManifestError(f"{files.annotations}: no action is left. {'; '.join(lines)}.")
    split = _splits(kept, source)
    names = source.class_names or tuple(sorted({action.verb for action in kept}))
    label_of = {name: label for label, name in enumerate(names)}
    imu_paths = {
        uid: portable_path(files.imu_file(uid), manifest_folder) for uid in imu_of if imu_of[uid]
    }
    manifest = Manifest(
        segments=tuple(
            Segment(
                segment_id=action.uid,
                video_id=action.video_uid,
                video_path=portable_path(files.video(action.video_uid), manifest_folder),
                imu_path=imu_paths.get(action.video_uid),
                participant_id=files.participant(action.video_uid),
                start_s=action.start_s,
                stop_s=action.stop_s,
                label=label_of[action.verb],
                split=split[action.uid],
                narration=action.narration,
            )
            for action in kept
        ),
        class_names=names,
        dataset_name="Ego4D Hands + Objects",
        window_s=source.window_s,
        stride_s=source.stride_s,
        root=manifest_folder.resolve(),
    )
    notes = (*_file_notes(manifest, files), *_split_notes(manifest.segments, source))
    return DatasetBuild(manifest=manifest, notes=notes, left_out=lines)


def _splits(actions: Sequence[Ego4dAction], source: Ego4dSource) -> dict[str, str]:
    if source.split_rule == "by-video":
        return split_by_group({one.uid: one.video_uid for one in actions}, seed=source.seed)
    return split_per_class({one.uid: one.verb for one in actions}, seed=source.seed)


def _file_notes(manifest: Manifest, files: Ego4dFiles) -> Iterator[str]:
    uids = {segment.video_id: segment.imu_path for segment in manifest.segments}
    if files.metadata is None:
        yield (
            "there is no ego4d.json: who wore the camera cannot be told, nor whether a video "
            "without a file in imu/ was recorded without IMU or is not downloaded yet."
        )
    if absent := sum(not files.video(uid).is_file() for uid in uids):
        yield f"{absent} of {len(uids)} videos are not in {files.videos} yet."
    absent = sum(
        path is not None and not files.imu_file(uid).is_file() for uid, path in uids.items()
    )
    if absent:
        yield f"{absent} IMU files that ego4d.json promises are not in {files.imu} yet."


def _split_notes(segments: Sequence[Segment], source: Ego4dSource) -> Iterator[str]:
    lasting_s = sum(segment.stop_s - segment.start_s for segment in segments) / len(segments)
    yield f"actions last {lasting_s:.2f} s on average."
    train = {segment.video_id for segment in segments if segment.split == "train"}
    test = {segment.video_id for segment in segments if segment.split == "test"}
    if source.split_rule == "egodistill":
        yield (
            f"{len(train & test)} of {len(train | test)} videos have segments in train and in "
            "test: accuracy here is that of scenes and wearers known from training. The split "
            "rule by-video keeps videos apart."
        )
        return
    learned = {segment.label for segment in segments if segment.split == "train"}
    unseen = {segment.label for segment in segments if segment.split == "test"} - learned
    yield f"no video is in both train ({len(train)} videos) and test ({len(test)} videos)."
    if unseen:
        yield f"{len(unseen)} classes have segments in test and none in train."
