"""What a teacher was fitted to: kept with its targets, and told beside every accuracy."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.extraction.placement import footage_named
from egoctl.pipeline.manifest import Manifest, write_manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.sharing.card import CardFacts, card
from egoctl.pipeline.sharing.copy import copy_store
from egoctl.pipeline.sharing.info import info_lines, store_info
from egoctl.pipeline.sharing.merge import merge
from egoctl.pipeline.sharing.selection import Selection
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store import header as store_header
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.tests.worlds.extract_world import MeanTeacher, World, draw_colours
from egoctl.tests.worlds.small_stores import clip_rows, small_store

FOOTAGE = TrainedOn(
    dataset="EPIC-KITCHENS-100", num_segments=3, spans_s={"a": ((1.0, 4.0), (6.0, 7.5))}
)
OTHER = TrainedOn(dataset="Ego4D", num_segments=9, spans_s={"a": ((0.0, 90.0),)})
ROWS = clip_rows("abcdef")
LICENCES = {"--teacher-license": "MIT", "--dataset-license": "CC0"}


def segment(video_id, start_s, stop_s, *, split="train", segment_id="s"):
    return Segment(
        segment_id=segment_id,
        video_id=video_id,
        video_path=f"{video_id}.mp4",
        imu_path=None,
        participant_id="P01",
        start_s=start_s,
        stop_s=stop_s,
        label=None,
        split=split,
    )


class TellingTeacher(MeanTeacher):
    """Its weights tell what they were fitted to."""

    def __init__(self, trained_on):
        super().__init__()
        self.weights = dataclasses.replace(self.weights, trained_on=trained_on)


@pytest.fixture
def world(tmp_path):
    world = World(folder=tmp_path)
    draw_colours(world.videos / "v.mp4", seconds=3)
    return world


@pytest.fixture
def manifest(world):
    return world.manifest([{"segment_id": "s", "video": "v.mp4", "start_s": 0, "stop_s": 2.5}])


# --- what was seen ---


@pytest.mark.parametrize(
    ("video_id", "start_s", "stop_s", "is_seen"),
    [
        ("a", 1.0, 4.0, True),
        ("a", 3.9, 6.0, True),  # its beginning
        ("a", 0.0, 1.1, True),  # its end
        ("a", 0.0, 90.0, True),
        ("a", 4.0, 6.0, False),  # ends where the next begins: no moment in common
        ("a", 7.5, 9.0, False),
        ("b", 1.0, 4.0, False),
    ],
)
def test_a_segment_was_seen_if_any_moment_of_it_was(video_id, start_s, stop_s, is_seen):
    assert FOOTAGE.saw(segment(video_id, start_s, stop_s)) is is_seen


# --- the header ---


def test_a_header_that_tells_nothing_is_written_as_it_always_was(tmp_path):
    store = small_store(str(tmp_path / "s"), ROWS)

    written = json.loads((tmp_path / "s" / "store.json").read_text())

    assert store.header.trained_on is None
    assert list(written) == [
        "format_version",
        "kind",
        "recipe",
        "fingerprint",
        "class_names",
        "part_rows",
        "arrays",
        "blake3",
    ]


def test_the_footage_survives_being_written_and_is_no_part_of_the_recipe(tmp_path):
    plain = small_store(str(tmp_path / "plain"), ROWS)

    store = small_store(str(tmp_path / "s"), ROWS, trained_on=FOOTAGE)

    assert FeatureStore.open(store.url).header.trained_on == FOOTAGE
    assert store.header.fingerprint == plain.header.fingerprint
    assert "the teacher was fitted to 3 segments of EPIC-KITCHENS-100" in list(info_lines(store))
    assert not any("fitted" in line for line in info_lines(plain))
    assert store_info(store)["trained_on"] == FOOTAGE.to_dict()


def test_a_header_too_long_for_any_reader_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store_header, "MAX_HEADER_BYTES", 500)

    with pytest.raises(StoreError, match="bytes; 500 are allowed.*fewer spans"):
        small_store(str(tmp_path / "s"), ROWS, trained_on=FOOTAGE)
    assert not (tmp_path / "s" / "store.json").exists()


def test_the_card_tells_it_without_becoming_html(tmp_path):
    hostile = dataclasses.replace(FOOTAGE, dataset="<b>\n# x")
    store = small_store(str(tmp_path / "s"), ROWS, trained_on=hostile)

    lines = card(store, CardFacts(licences=LICENCES)).splitlines()

    assert (
        r"The teacher was fitted to 3 segments of \<b\> # x; `store.json` names their spans."
        in lines
    )


def test_copies_keep_it(tmp_path):
    store = small_store(str(tmp_path / "s"), ROWS, trained_on=FOOTAGE)
    some = Selection.of(arrays="feature", rows="0:4", split=None, manifest=None)

    copy_store(store.url, str(tmp_path / "copy"), some, title="pull")

    assert FeatureStore.open(str(tmp_path / "copy")).header.trained_on == FOOTAGE


def test_a_merged_store_tells_what_one_of_its_sources_knows(tmp_path):
    a = small_store(str(tmp_path / "a"), ROWS[:3])
    b = small_store(str(tmp_path / "b"), ROWS[3:], trained_on=FOOTAGE)

    merge([a.url, b.url], str(tmp_path / "out"))

    assert FeatureStore.open(str(tmp_path / "out")).header.trained_on == FOOTAGE


def test_stores_that_contradict_each_other_are_not_merged(tmp_path):
    a = small_store(str(tmp_path / "a"), ROWS[:3], trained_on=OTHER)
    b = small_store(str(tmp_path / "b"), ROWS[3:], trained_on=FOOTAGE)

    with pytest.raises(
        StoreMismatchError, match="fitted to 9 segments of Ego4D, another.*3 segments of EPIC"
    ):
        merge([a.url, b.url], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# --- extraction ---


def test_extraction_writes_what_the_weights_tell(world, manifest):
    world.extract(manifest, teacher=TellingTeacher(FOOTAGE))

    assert FeatureStore.open(world.teacher_url).header.trained_on == FOOTAGE
    assert FeatureStore.open(world.inputs_url).header.trained_on is None


def test_a_store_from_before_weights_told_anything_is_gone_on_with(world, manifest):
    world.extract(manifest)

    report = world.extract(manifest, teacher=TellingTeacher(FOOTAGE))

    assert (report.num_done_before, report.num_read) == (2, 0)
    assert FeatureStore.open(world.teacher_url).header.trained_on is None


def test_what_is_said_of_silent_weights_is_written(world, manifest):
    world.extract(manifest, trained_on=FOOTAGE)
    again = world.extract(manifest, trained_on=FOOTAGE)
    silent = world.extract(manifest)

    assert (again.num_read, silent.num_read) == (0, 0)
    assert FeatureStore.open(world.teacher_url).header.trained_on == FOOTAGE


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (None, "does not record what its teacher was fitted to"),
        (OTHER, "records that its teacher was fitted to 9 segments of Ego4D: other spans"),
    ],
)
def test_a_store_that_says_otherwise_is_refused(world, manifest, told, says):
    world.extract(manifest, trained_on=told)

    with pytest.raises(StoreMismatchError, match=f"{says}.*header never changes.*--trained-on"):
        world.extract(manifest, trained_on=FOOTAGE)


# --- the option ---


@pytest.fixture
def epic(tmp_path):
    """A manifest of three segments, two of them of split train."""
    manifest = Manifest(
        segments=(
            segment("P01_01", 0.0, 2.0, segment_id="1"),
            segment("P01_01", 1.5, 3.0, segment_id="2"),
            segment("P02_07", 5.0, 6.0, segment_id="3", split="val"),
        ),
        class_names=(),
        dataset_name="EPIC-KITCHENS-100",
        window_s=1.0,
        stride_s=None,
        root=tmp_path,
    )
    write_manifest(manifest, tmp_path / "epic.parquet")
    return str(tmp_path / "epic.parquet")


def test_the_option_names_a_manifest_or_a_split_of_it(epic):
    assert footage_named(epic) == TrainedOn(
        dataset="EPIC-KITCHENS-100",
        num_segments=3,
        spans_s={"P01_01": ((0.0, 3.0),), "P02_07": ((5.0, 6.0),)},
    )
    assert footage_named(f"{epic}#train") == TrainedOn(
        dataset="EPIC-KITCHENS-100", num_segments=2, spans_s={"P01_01": ((0.0, 3.0),)}
    )


def test_a_split_that_is_not_there_is_refused(epic):
    with pytest.raises(EgoctlError, match=r"epic.parquet#test.*no split 'test'; it has train, val"):
        footage_named(f"{epic}#test")


def test_the_command_takes_the_option(world, manifest, epic, monkeypatch):
    monkeypatch.setattr(lineup, "load_teacher", lambda *_, **__: MeanTeacher())
    words = ["extract-teacher", str(world.manifest_path), "--teacher", "means"]
    words += ["--store", world.teacher_url, "--device", "cpu", "--trained-on", f"{epic}#train"]

    ended = CliRunner().invoke(cli.app, words)

    assert ended.exit_code == 0, ended.output
    assert FeatureStore.open(world.teacher_url).header.trained_on == footage_named(f"{epic}#train")


def test_the_plan_refuses_what_the_command_would(world, manifest, epic, monkeypatch):
    monkeypatch.setattr(lineup, "load_teacher", lambda *_, **__: MeanTeacher())
    world.extract(manifest, inputs_url=None)
    words = ["extract-teacher", str(world.manifest_path), "--teacher", "means", "--plan"]
    words += ["--store", world.teacher_url, "--device", "cpu", "--dtype", "float32"]
    words += ["--precision", "fp32", "--part-rows", "4"]

    plain = CliRunner().invoke(cli.app, words)
    said = CliRunner().invoke(cli.app, [*words, "--trained-on", epic])

    assert plain.exit_code == 0, plain.output
    assert isinstance(said.exception, StoreMismatchError)
    assert "does not record what its teacher was fitted to" in str(said.exception)


def test_weights_that_tell_something_else_are_believed(world, manifest, epic, monkeypatch):
    monkeypatch.setattr(lineup, "load_teacher", lambda *_, **__: TellingTeacher(OTHER))
    words = ["extract-teacher", str(world.manifest_path), "--teacher", "means"]
    words += ["--store", world.teacher_url, "--device", "cpu", "--trained-on", epic]

    ended = CliRunner().invoke(cli.app, words)

    assert isinstance(ended.exception, EgoctlError)
    assert str(ended.exception) == (
        "--trained-on says that means was fitted to 3 segments of EPIC-KITCHENS-100, but its "
        "weights say that it was fitted to 9 segments of Ego4D: other spans. Leave out "
        "--trained-on."
    )
    assert not (world.folder / "teacher.store").exists()
