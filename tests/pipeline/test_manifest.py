"""The manifest's file: what comes back, what its fingerprint covers, what it refuses."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import (
    METADATA_KEY,
    Manifest,
    portable_path,
    read_manifest,
    write_manifest,
)
from egoctl.pipeline.records import Segment


def segment(segment_id: str = "s1", **changes: Any) -> Segment:
    plain = Segment(
        segment_id=segment_id, video_id="v1", video_path="videos/v1.mp4", imu_path="imu/v1.csv",
        participant_id="P01", start_s=1.5, stop_s=6.25, label=1, split="train",
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def manifest(root: Path, *segments: Segment, **changes: Any) -> Manifest:
    plain = Manifest(
        segments=segments or (segment("s1"), segment("s2", label=None, imu_path=None)),
        class_names=("cut", "stir"),
        dataset_name="kitchen",
        window_s=2.0,
        stride_s=0.5,
        root=root,
    )
    return dataclasses.replace(plain, **changes)


def change_metadata(path: Path, **changes: Any) -> None:
    table = pq.read_table(path)
    meta = json.loads(table.schema.metadata[METADATA_KEY]) | changes
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(meta)}), path)


def change_column(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    index = table.schema.get_field_index(name)
    pq.write_table(table.set_column(index, name, values), path)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "clips.parquet"
    write_manifest(manifest(tmp_path), path)
    return path


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    odd = segment("schräg / 'quoted' \n id", start_s=0.1 + 0.2, split="")
    told = manifest(tmp_path.resolve(), segment(), odd, stride_s=None, class_names=("a", "é"))
    path = tmp_path / "new folder" / "clips.parquet"

    write_manifest(told, path)

    assert read_manifest(path) == dataclasses.replace(told, root=path.resolve().parent)


def test_optional_columns_come_back_and_stand_only_in_files_that_use_them(tmp_path: Path) -> None:
    plain = manifest(tmp_path.resolve())
    told = manifest(
        tmp_path.resolve(),
        segment(verb_class=3, noun_class=8, narration="open door"),
        segment("s2"),
    )
    for name, one in (("plain", plain), ("told", told)):
        write_manifest(one, tmp_path / f"{name}.parquet")

    assert read_manifest(tmp_path / "told.parquet") == told
    assert pq.read_schema(tmp_path / "plain.parquet").names == [
        "segment_id", "video_id", "video_path", "imu_path", "participant_id", "start_s", "stop_s",
        "label", "split",
    ]  # fmt: skip
    assert pq.read_schema(tmp_path / "told.parquet").names[9:] == [
        "verb_class", "noun_class", "narration",
    ]  # fmt: skip


def test_writing_leaves_no_other_file_behind(written: Path) -> None:
    assert [file.name for file in written.parent.iterdir()] == ["clips.parquet"]


def test_paths_start_at_the_manifests_folder_wherever_it_moves(
    tmp_path: Path, written: Path
) -> None:
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    shutil.move(written, elsewhere / "clips.parquet")

    found = read_manifest(elsewhere / "clips.parquet")

    assert found.locate("videos/v1.mp4") == elsewhere.resolve() / "videos/v1.mp4"
    assert found.locate("/data/v1.mp4") == Path("/data/v1.mp4")


def test_a_file_below_the_manifest_is_named_relative_and_another_one_absolute() -> None:
    assert portable_path(Path("/data/set/videos/a.mp4"), Path("/data/set")) == "videos/a.mp4"
    assert portable_path(Path("/data/set2/a.mp4"), Path("/data/set")) == "/data/set2/a.mp4"
    assert portable_path(Path("/data/set/../a.mp4"), Path("/data/set")) == "/data/a.mp4"


def test_the_fingerprint_does_not_depend_on_where_files_lie(tmp_path: Path) -> None:
    here = manifest(tmp_path)
    moved = tuple(
        dataclasses.replace(one, video_path="/far/away.mp4", imu_path=None) for one in here.segments
    )
    there = dataclasses.replace(here, segments=moved, root=Path("/far"), dataset_name="other")

    assert there.fingerprint() == here.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"window_s": 2.5},
        {"stride_s": None},
        {"class_names": ("stir", "cut")},
        {"segments": (segment("s1"),)},
        {"segments": (segment("s1"), segment("s3", label=None, imu_path=None))},
        {"segments": (segment("s1", label=0), segment("s2", label=None, imu_path=None))},
        {"segments": (segment("s1", split="val"), segment("s2", label=None, imu_path=None))},
        {"segments": (segment("s1", stop_s=6.26), segment("s2", label=None, imu_path=None))},
    ],
)
def test_the_fingerprint_covers_what_decides_clips_and_labels(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    here = manifest(tmp_path)

    assert dataclasses.replace(here, **changes).fingerprint() != here.fingerprint()


def test_the_fingerprint_survives_the_file(tmp_path: Path, written: Path) -> None:
    assert read_manifest(written).fingerprint() == manifest(tmp_path).fingerprint()


def test_clips_come_in_the_order_of_segments_then_time(tmp_path: Path) -> None:
    found = manifest(tmp_path, segment("b", start_s=3.0, stop_s=6.0), segment("a", stop_s=3.5))

    assert [clip.clip_id for clip in found.clips()] == [
        "b@3.000-5.000", "b@3.500-5.500", "b@4.000-6.000", "a@1.500-3.500",
    ]  # fmt: skip


def test_a_split_is_its_segments_in_order_and_another_name_is_refused(tmp_path: Path) -> None:
    one, two, three = segment("s1"), segment("s2", split="val"), segment("s3")
    found = manifest(tmp_path, one, two, three)

    assert found.split("train") == (one, three)
    with pytest.raises(ManifestError, match=r"has no split 'tset'; it has train, val\.$"):
        found.split("tset")
    empty = dataclasses.replace(found, segments=())
    with pytest.raises(ManifestError, match=r"it has no segments\.$"):
        empty.split("train")


def test_the_summary_counts_segments_clips_and_held_frames(tmp_path: Path) -> None:
    short = segment("b", start_s=0.0, stop_s=1.0, split="val", video_path="videos/v2.mp4")
    found = manifest(tmp_path, segment("a", start_s=0.0, stop_s=3.0), short)

    assert list(found.summary_lines()) == [
        "2 segments of 2 videos, 2 classes, splits: train 1, val 1",
        "4 clips of 2.0000 s, every 0.5 s.",
        "1 of them come from segments shorter than the window: "
        "their first and last frames are held.",
    ]


def test_clips_that_would_share_an_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"0\.0001 s .*millisecond.*--stride"):
        manifest(tmp_path, stride_s=0.0001).clips()


def test_a_missing_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest at .*none.parquet.*manifest build"):
        read_manifest(tmp_path / "none.parquet")


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ann.csv").write_text("segment_id,video\n")

    with pytest.raises(ManifestError, match="ann.csv is not a readable parquet file"):
        read_manifest(tmp_path / "ann.csv")


def test_a_cut_off_manifest_is_refused(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-200])

    with pytest.raises(ManifestError, match="clips.parquet is not a readable parquet file"):
        read_manifest(written)


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"segment_id": ["a"]}), tmp_path / "other.parquet")

    with pytest.raises(ManifestError, match="parquet but not an egoctl manifest.*manifest build"):
        read_manifest(tmp_path / "other.parquet")


def test_a_manifest_without_a_column_names_it(written: Path) -> None:
    table = pq.read_table(written)
    pq.write_table(table.drop_columns(["split", "label"]), written)

    with pytest.raises(ManifestError, match="clips.parquet lacks the columns label, split"):
        read_manifest(written)


def test_a_newer_format_is_refused(written: Path) -> None:
    change_metadata(written, format_version=2)

    with pytest.raises(ManifestError, match="clips.parquet: manifest format 2; .* reads 1"):
        read_manifest(written)


@pytest.mark.parametrize(
    "changes",
    [{"window_s": "two"}, {"class_names": 7}, {"stride_s": []}],
    ids=lambda changes: next(iter(changes)),
)
def test_damaged_metadata_is_refused(written: Path, changes: dict[str, Any]) -> None:
    change_metadata(written, **changes)

    with pytest.raises(ManifestError, match="clips.parquet: damaged manifest .*Build it again"):
        read_manifest(written)


def test_a_column_of_words_where_seconds_belong_is_refused(written: Path) -> None:
    change_column(written, "start_s", pa.array(["soon", "later"]))

    with pytest.raises(ManifestError, match="clips.parquet: damaged manifest"):
        read_manifest(written)


def test_a_null_where_a_value_belongs_is_refused(written: Path) -> None:
    change_column(written, "video_path", pa.array(["videos/v1.mp4", None], pa.string()))

    with pytest.raises(ManifestError, match="clips.parquet: damaged manifest .*video_path"):
        read_manifest(written)


def test_duplicated_ids_are_refused_on_reading_too(written: Path) -> None:
    change_column(written, "segment_id", pa.array(["s1", "s1"]))

    with pytest.raises(ManifestError, match="clips.parquet: segment_id 's1' stands 2 times"):
        read_manifest(written)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"label": 2}, "segment 's1' has label 2, but there are 2 class names"),
        ({"video_path": "../v.mp4"}, r"segment 's1': '\.\./v.mp4' leaves the manifest's folder"),
        ({"imu_path": "imu/../../i.csv"}, r"'imu/\.\./\.\./i.csv' leaves the manifest's folder"),
        ({"video_path": "http://host/v.mp4"}, "segment 's1': http://host/v.mp4 is of no kind that"),
        ({"imu_path": "s3://bucket/../i.csv"}, r"'s3://bucket/\.\./i.csv' leaves the manifest's"),
    ],
)
def test_a_segment_that_cannot_be_used_is_named(
    tmp_path: Path, bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        manifest(tmp_path, segment("s1", **bad))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"segment_id": ""}, "segment_id is empty"),
        ({"stop_s": 1.5}, "segment 's1': need 0 <= start_s < stop_s, got 1.5 and 1.5"),
        ({"start_s": -0.1}, r"segment 's1': need 0 <= start_s < stop_s, got -0\.1"),
        ({"stop_s": float("inf")}, "segment 's1': start_s and stop_s must be finite"),
        ({"start_s": float("nan")}, "segment 's1': start_s and stop_s must be finite"),
        ({"label": -1}, "segment 's1': label must be 0 or more, got -1"),
    ],
)
def test_a_segment_checks_itself(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        segment(**bad)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_window_and_stride_must_be_above_zero(tmp_path: Path, value: float) -> None:
    with pytest.raises(ManifestError, match="window must be above 0 s, got"):
        manifest(tmp_path, window_s=value)
    with pytest.raises(ManifestError, match="stride must be above 0 s, got"):
        manifest(tmp_path, stride_s=value)
