"""The folder reader: a CSV and videos become a manifest, or a message with file and line."""

import re
from pathlib import Path

import pytest

from egoctl.pipeline.datasets.folder import (
    FolderSource,
    read_annotations,
    read_class_names,
    whole_videos,
)
from egoctl.pipeline.errors import ManifestError
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import Segment
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms

HEADER = "segment_id,video,imu,start_s,stop_s,label,split,participant_id\n"
ROW = "s1,a.mp4,,1.5,6,cut,train,P01\n"


def read(
    folder: Path,
    content: str | bytes,
    *,
    names: tuple[str, ...] = (),
    imu: str | None = "imu",
    manifest_folder: Path | None = None,
    ignore: bool = False,
) -> Manifest:
    ann = folder / "ann.csv"
    ann.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = FolderSource(
        videos=folder / "videos",
        imu=None if imu is None else folder / imu,
        window_s=2.0,
        stride_s=None,
        ignore_unknown_columns=ignore,
    )
    return read_annotations(
        ann, source, manifest_folder=manifest_folder or folder, class_names=names
    )


def refusal(folder: Path, content: str | bytes, **changes: str | None) -> str:
    with pytest.raises(ManifestError) as caught:
        read(folder, content, **changes)  # type: ignore[arg-type]
    return str(caught.value).removeprefix(f"{folder}/")


def test_a_row_becomes_a_segment(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + "s1,day 1/a.mp4,a.csv,1.5,6,cut,train,P01\n")

    assert found.segments == (
        Segment(
            segment_id="s1", video_id="day 1/a.mp4", video_path="videos/day 1/a.mp4",
            imu_path="imu/a.csv", participant_id="P01", start_s=1.5, stop_s=6.0, label=0,
            split="train",
        ),
    )  # fmt: skip
    assert (found.class_names, found.dataset_name) == (("cut",), "ann")
    assert (found.window_s, found.stride_s, found.root) == (2.0, None, tmp_path.resolve())


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + (HEADER + ROW).encode(),
        (HEADER + ROW).replace("\n", "\r\n").encode(),
        (HEADER + ROW).rstrip("\n").encode(),
        (HEADER + "\n" + ROW + "\n\n , ,\n").encode(),
        b"split,stop_s,start_s,participant_id,label,imu,video,segment_id\n"
        b"train,6,1.5,P01,cut,,a.mp4,s1\n",
        b'"segment_id","video","imu","start_s","stop_s","label","split","participant_id"\n'
        b'"s1","a.mp4","","1.5","6","cut","train","P01"\n',
        (HEADER + " s1 , a.mp4 , , 1.5 , 6.0e0 , cut , train , P01 \n").encode(),
    ],
    ids=["byte-order mark", "CRLF", "no last newline", "empty lines", "order", "quotes", "spaces"],
)
def test_how_the_table_was_saved_does_not_matter(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path, content) == read(tmp_path, HEADER + ROW)


def test_a_quoted_cell_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    found = read(tmp_path, HEADER + '"s,""1""\n2","a,b.mp4",,0,1,"cut, chop",train,P01\n')

    (segment,) = found.segments
    assert (segment.segment_id, segment.video_path) == ('s,"1"\n2', "videos/a,b.mp4")
    assert found.class_names == ("cut, chop",)


def test_imu_is_a_file_the_video_itself_or_nothing(tmp_path: Path) -> None:
    rows = "s1,a.mp4,self,0,1,,x,P\ns2,a.mp4,sub/a.csv,0,1,,x,P\ns3,a.mp4,,0,1,,x,P\n"

    found = read(tmp_path, HEADER + rows)

    assert [one.imu_path for one in found.segments] == ["videos/a.mp4", "imu/sub/a.csv", None]


def test_a_manifest_elsewhere_names_the_files_absolutely(tmp_path: Path) -> None:
    found = read(
        tmp_path, HEADER + "s1,a.mp4,a.csv,0,1,,x,P\n", manifest_folder=tmp_path / "manifests"
    )

    (segment,) = found.segments
    assert segment.video_path == str(tmp_path / "videos/a.mp4")
    assert segment.imu_path == str(tmp_path / "imu/a.csv")


# --- labels ---


def labelled(*labels: str) -> str:
    return HEADER + "".join(f"s{k},a.mp4,,0,1,{label},x,P\n" for k, label in enumerate(labels))


def test_names_are_numbered_in_sorted_order_and_an_empty_cell_is_no_label(tmp_path: Path) -> None:
    found = read(tmp_path, labelled("stir", "", "cut", "stir"))

    assert found.class_names == ("cut", "stir")
    assert [one.label for one in found.segments] == [1, None, 0, 1]


def test_numbers_stay_the_numbers_they_are(tmp_path: Path) -> None:
    found = read(tmp_path, labelled("10", "2", ""))

    assert [one.label for one in found.segments] == [10, 2, None]
    assert found.class_names == tuple(str(number) for number in range(11))


def test_a_table_without_labels_has_no_classes(tmp_path: Path) -> None:
    found = read(tmp_path, labelled("", ""))

    assert found.class_names == ()
    assert [one.label for one in found.segments] == [None, None]


def test_a_class_file_fixes_the_order_of_names_and_numbers(tmp_path: Path) -> None:
    names = ("wash", "stir", "cut")

    by_name = read(tmp_path, labelled("cut", "wash", ""), names=names)
    by_number = read(tmp_path, labelled("2", "0", ""), names=names)

    assert by_name == by_number
    assert by_name.class_names == names
    assert [one.label for one in by_name.segments] == [2, 0, None]


def test_classes_that_are_called_by_numbers_are_names_not_positions(tmp_path: Path) -> None:
    found = read(tmp_path, labelled("7", "3"), names=("3", "7"))

    assert [one.label for one in found.segments] == [1, 0]
    with pytest.raises(ManifestError, match="line 2: label '0' is not among the class names"):
        read(tmp_path, labelled("0"), names=("3", "7"))


@pytest.mark.parametrize("label", ["chop", "3", "-1"])
def test_a_label_outside_the_class_file_is_refused(tmp_path: Path, label: str) -> None:
    with pytest.raises(
        ManifestError, match=f"ann.csv, line 3: label '{label}' is not among the class names"
    ):
        read(tmp_path, labelled("cut", label), names=("cut", "stir", "wash"))


@pytest.mark.parametrize("label", ["-1", "3.0", "100001", "nan"])
def test_numbers_that_are_no_class_numbers_are_not_renumbered_in_silence(
    tmp_path: Path, label: str
) -> None:
    assert refusal(tmp_path, labelled("0", "2", label)) == (
        f"ann.csv, line 4: class numbers are 0 to 100000, got {label}. "
        "Number the classes from 0, or name them; leave the cell empty without a label."
    )


def test_a_class_file_has_one_name_a_line(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfwash \r\ncut tomato\r\n")

    assert read_class_names(tmp_path / "classes.txt") == ("wash", "cut tomato")


@pytest.mark.parametrize("content", [b"", b"cut\n\nstir\n", b"cut\nstir\ncut\n"])
def test_a_class_file_with_empty_or_repeated_names_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "classes.txt").write_bytes(content)

    with pytest.raises(ManifestError, match="classes.txt: wanted one class name a line"):
        read_class_names(tmp_path / "classes.txt")


def test_a_class_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin1.txt").write_bytes("rühren\n".encode("latin-1"))

    for name in ("latin1.txt", "missing.txt"):
        with pytest.raises(ManifestError, match=f"{name}: cannot read class names"):
            read_class_names(tmp_path / name)


# --- refusals: file, line, reason ---


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("s2,a.mp4,,6,6,cut,x,P", "segment 's2': need 0 <= start_s < stop_s, got 6 and 6"),
        ("s2,a.mp4,,7,6,cut,x,P", "segment 's2': need 0 <= start_s < stop_s, got 7 and 6"),
        ("s2,a.mp4,,-1,6,cut,x,P", "segment 's2': need 0 <= start_s < stop_s, got -1 and 6"),
        ("s2,a.mp4,,soon,6,cut,x,P", "start_s must be seconds, got 'soon'."),
        ("s2,a.mp4,,0,,cut,x,P", "stop_s must be seconds, got ''."),
        ("s2,a.mp4,,0,00:01:05,cut,x,P", "stop_s must be seconds, got '00:01:05'."),
        ("s2,a.mp4,,0,1_5,cut,x,P", "stop_s must be seconds, got '1_5'."),
        ("s2,a.mp4,,0,nan,cut,x,P", "segment 's2': start_s and stop_s must be finite"),
        ("s2,a.mp4,,0,inf,cut,x,P", "segment 's2': start_s and stop_s must be finite"),
        (",a.mp4,,0,1,cut,x,P", "segment_id is empty."),
        ("s1,a.mp4,,0,1,cut,x,P", "segment_id 's1' was used in line 2 already."),
        ("s2,a.mp4,,0,1,cut,x", "7 cells under 8 columns."),
        ("s2,a.mp4,,0,1,cut,x,P,", "9 cells under 8 columns."),
        ('s2,"a.mp4"b,,0,1,cut,x,P', "not well-formed CSV"),
        ('s2,"a.mp4,,0,1,cut,x,P', "not well-formed CSV (unexpected end of data)."),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_line(
    tmp_path: Path, row: str, reason: str
) -> None:
    message = refusal(tmp_path, HEADER + ROW + row + "\n")

    assert message.startswith(f"ann.csv, line 3: {reason}")


@pytest.mark.parametrize("column", ["video", "imu"])
@pytest.mark.parametrize(
    "path", ["../x.mp4", "day1/../../x.mp4", "/abs/x.mp4", "C:\\x.mp4", "~/x.mp4", "http://h/x.mp4"]
)
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, column: str, path: str) -> None:
    row = ROW.replace("a.mp4,", f"{path},") if column == "video" else ROW.replace(",,", f",{path},")

    message = refusal(tmp_path, HEADER + row)

    folder = tmp_path / ("videos" if column == "video" else "imu")
    assert message == (
        f"ann.csv, line 2: {column} {path!r} leaves its folder {folder}. "
        "Name a file inside that folder."
    )


def test_dots_within_a_name_are_fine(tmp_path: Path) -> None:
    (segment,) = read(tmp_path, HEADER + ROW.replace("a.mp4", "take..2/a.b.mp4")).segments

    assert segment.video_path == "videos/take..2/a.b.mp4"


def test_a_row_without_a_video_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, HEADER + ROW.replace("a.mp4", ""))

    assert message.startswith("ann.csv, line 2: video ''")


def test_an_imu_name_without_an_imu_folder_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, HEADER + ROW.replace(",,", ",a.csv,"), imu=None)

    assert message == "ann.csv, line 2: imu names 'a.csv', but no --imu folder was given."


def test_columns_that_are_missing_unknown_or_twice_are_all_named(tmp_path: Path) -> None:
    header = "segment_id,video,video,start_s,stop_s,label,split,narration\n"

    assert refusal(tmp_path, header).startswith(
        "ann.csv, line 1: wrong columns (missing: 'imu', 'participant_id'; "
        "unknown: 'narration'; twice: 'video'). Wanted: segment_id, video, imu, start_s, "
    )


def test_unknown_columns_are_refused_unless_told_to_ignore_them(tmp_path: Path) -> None:
    content = HEADER.replace("video,", "video,noun,") + ROW.replace("a.mp4,", "a.mp4,onion,")

    message = refusal(tmp_path, content)

    assert "(unknown: 'noun')" in message
    assert message.endswith("Remove them, or pass --ignore-unknown-columns.")
    assert read(tmp_path, content, ignore=True) == read(tmp_path, HEADER + ROW)


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    content = (HEADER + ROW + ROW.replace("s1", "rühren")).encode("latin-1")

    message = refusal(tmp_path, content)

    assert message.startswith("ann.csv, line 3: not UTF-8 text (")
    assert message.endswith("Save it as UTF-8.")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "line 1: wrong columns (missing: "), (HEADER, "holds no segment.")],
    ids=["empty", "header only"],
)
def test_a_file_without_segments_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    source = FolderSource(videos=tmp_path, imu=None, window_s=2.0, stride_s=None)

    with pytest.raises(ManifestError, match=re.escape(f"no annotation file at {tmp_path}/none")):
        read_annotations(tmp_path / "none.csv", source, manifest_folder=tmp_path)


# --- whole videos ---


def test_whole_videos_are_one_unlabelled_segment_each(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "day1").mkdir(parents=True)
    draw_video(videos / "day1" / "b.MP4", even_times_ms(20, fps=20))
    draw_video(videos / "a.mp4", even_times_ms(40, fps=20))
    (videos / "notes.txt").write_text("not a video")
    source = FolderSource(videos=videos, imu=tmp_path / "imu", window_s=0.5, stride_s=0.25)

    manifest, left_out = whole_videos(source, manifest_folder=tmp_path, imu_inside=False)

    assert left_out == []
    found = [
        (one.segment_id, one.video_path, one.imu_path, one.start_s, one.stop_s, one.label)
        for one in manifest.segments
    ]
    assert found == [
        ("a.mp4", "videos/a.mp4", "imu/a.csv", 0.0, 2.0, None),
        ("day1/b.MP4", "videos/day1/b.MP4", "imu/day1/b.csv", 0.0, 1.0, None),
    ]
    assert len(manifest.clips()) == 7 + 3


def test_a_video_that_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    draw_video(tmp_path / "a.mp4", even_times_ms(10))
    (tmp_path / "b.mp4").write_bytes(b"this is no video")
    source = FolderSource(videos=tmp_path, imu=None, window_s=2.0, stride_s=1.0)

    manifest, (line,) = whole_videos(source, manifest_folder=tmp_path, imu_inside=True)

    assert [(one.segment_id, one.imu_path) for one in manifest.segments] == [("a.mp4", "a.mp4")]
    assert line.startswith("b.mp4: ")


def test_a_folder_without_a_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"this is no video")
    source = FolderSource(videos=tmp_path, imu=None, window_s=2.0, stride_s=1.0)

    with pytest.raises(ManifestError, match="no readable video .*1 could not be read.*--videos"):
        whole_videos(source, manifest_folder=tmp_path, imu_inside=False)
