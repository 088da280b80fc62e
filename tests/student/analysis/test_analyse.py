"""An analysis of trained runs: its numbers, its files, and what it refuses."""

import dataclasses
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import Place
from egoctl.student.analysis.analyse import analyse
from egoctl.student.analysis.analysed_clips import best_and_worst, by_motion
from egoctl.student.analysis.result import AnalysisConfig
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.runs.run_data import Places
from egoctl.student.training.train import train
from egoctl.tests.worlds.analysed_world import look, table_of
from egoctl.tests.worlds.student_world import make_world

pytest_plugins = ["egoctl.tests.worlds.command_runs"]
TABLES = ("classes", "clips", "dimensions", "pairs", "retrieved")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Run "imu" has learnt everything from the IMU alone, run "vis" next to nothing of frames."""
    names = ("cut", "<b>stir</b>", "wash")
    world = make_world(
        tmp_path_factory.mktemp("world"),
        splits=("train", "test"),
        segments_of_split=24,
        class_names=names,
        teacher_classes=names,
    )
    learnt = {"num_epochs": 30, "schedule": "onecycle", "batch_size": 12}
    train(world.config(run="imu", loss=LossConfig(l1_reduction="mean", beta=10.0), **learnt))
    frozen = {"method": "visonly-distill", "freeze_image_encoder": True}
    train(world.config(run="vis", num_epochs=1, learning_rate=1e-5, student=frozen))
    return world


# --- the numbers ---


def test_distances_are_those_of_the_evaluation(world):
    metrics = evaluate(world.folder / "imu")

    analysis = look(world)

    assert analysis.run.features.l1_norm == pytest.approx(metrics.feature_l1, rel=1e-5)
    assert analysis.run.features.cosine == pytest.approx(metrics.feature_cosine, rel=1e-5)
    assert (analysis.num_clips, analysis.num_segments, analysis.num_scored) == (48, 24, 24)
    assert analysis.run.features.cka > 0.9
    assert len(table_of(world, "dimensions")) == 8


def test_what_is_retrieved_follows_the_imu_of_a_student_that_sees_nothing_else(world):
    analysis = look(world)

    exchange = analysis.run.exchange
    assert analysis.run.gallery == "teacher"
    assert (exchange.num_frames, exchange.num_imus) == (48, 4)
    # The teacher's features are one point per class and clip time, so the IMU decides the label.
    assert exchange.imu_label > 0.9
    assert exchange.frame_label < 0.1
    assert 0.2 < exchange.imu_label_chance < 0.4
    assert exchange.topk_changed > 0.5


def test_what_a_student_without_imu_retrieves_cannot_change(world):
    analysis = look(world, other="vis")

    exchange = analysis.other.exchange
    assert (exchange.top1_changed, exchange.topk_changed) == (0.0, 0.0)
    retrieved = table_of(world, "retrieved").filter(run=str(world.folder / "vis"))
    answers = retrieved.group_by("frame_clip_id", "rank").agg(pl.col("clip_id").n_unique())
    assert retrieved["imu_clip_id"].n_unique() > 1
    assert answers["clip_id"].unique().to_list() == [1]


def test_nothing_is_retrieved_from_the_segments_of_frame_and_imus(world):
    look(world)

    segment_of = dict(table_of(world, "clips").select("clip_id", "segment_id").iter_rows())
    for (frame,), rows in table_of(world, "retrieved").group_by("frame_clip_id"):
        hidden = {segment_of[frame], *(segment_of[clip] for clip in rows["imu_clip_id"])}
        assert hidden.isdisjoint(segment_of[clip] for clip in rows["clip_id"])


def test_classes_are_compared_with_the_accuracies_of_both_evaluations(world):
    mine, other = evaluate(world.folder / "imu"), evaluate(world.folder / "vis")

    analysis = look(world, other="vis")

    found = {row.name: (row.result.top1, row.result.other_top1) for row in analysis.classes}
    other_top1 = {row.name: row.top1 for row in other.per_class}
    assert found == {row.name: (row.top1, other_top1[row.name]) for row in mine.per_class}
    gains = [row.result.gain for row in analysis.classes]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == 1.0  # the other run gives one and the same answer to nearly all


def test_pairs_that_are_asked_for_are_scored_on_all_their_segments(world):
    analysis = look(world, other="vis", pairs="wash,cut")

    (pair,) = analysis.pairs
    assert (pair.names, pair.num_of_each) == (("wash", "cut"), (8, 8))
    assert pair.result.top1 == 1.0
    row = table_of(world, "pairs").row(0, named=True)
    assert (row["class_a"], row["num_segments"]) == ("wash", 16)
    assert (row["top1"], row["other_top1"]) == (1.0, pair.result.other_top1)


def test_pairs_are_found_where_none_are_given(world):
    analysis = look(world, other="vis")

    assert analysis.pairs
    assert all(pair.num_confused >= 1 for pair in analysis.pairs)
    # Scored on the other half: at most twelve of 24 segments.
    assert all(sum(pair.num_of_each) <= 12 for pair in analysis.pairs)


def test_the_same_seed_gives_the_same_files(world):
    first = {}
    for seed in (3, 3, 4):
        look(world, other="vis", seed=seed, num_queries=5)
        folder = world.folder / "imu" / "analysis"
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        first.setdefault(seed, files)
        if seed == 3:
            assert files == first[3]
    assert first[3]["retrieved.csv"] != first[4]["retrieved.csv"]


# --- runs on labels ---


def test_a_run_on_labels_is_analysed_in_its_own_features(world):
    train(world.config(run="labels", num_epochs=1, student={"method": "imuonly"}))

    analysis = look(world, "labels")

    assert analysis.run.gallery == "student"
    assert (analysis.run.features.l1_norm, analysis.run.features.cosine) == (None, None)
    assert analysis.run.features.cka is not None
    assert (analysis.best, analysis.worst, analysis.by_motion) == ((), (), ())
    assert len(table_of(world, "dimensions", "labels")) == 0


def test_without_a_teacher_store_there_is_still_retrieval(world):
    config = world.config(run="alone", num_epochs=1, teacher=None, student={"method": "imuonly"})
    train(config)

    analysis = look(world, "alone")

    assert (analysis.run.features, analysis.run.neighbours) == (None, ())
    assert analysis.run.exchange.num_frames == 48


# --- the report ---


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self):
        super().__init__()
        self.names, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_report_is_one_file_that_fetches_and_runs_nothing(world):
    look(world, other="vis", num_examples=2)

    page = (world.folder / "imu" / "analysis" / "report.html").read_text()

    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert tags.sources and all(
        source.startswith("data:image/jpeg;base64,") for source in tags.sources
    )
    assert "polyline" in tags.names
    assert not re.search(r"https?://", page)
    text = " ".join("".join(tags.text).split())
    for heading in (
        "Feature space", "Reconstruction by head motion", "Best reconstructed clips",
        "Worst reconstructed clips", "One frame, several IMU windows", "Ambiguous pairs",
        "Gain by class",
    ):  # fmt: skip
        assert heading in text, heading


def test_names_of_classes_are_text_in_the_report(world):
    look(world, other="vis")

    page = (world.folder / "imu" / "analysis" / "report.html").read_text()

    assert "&lt;b&gt;stir&lt;/b&gt;" in page
    assert "<b>stir</b>" not in page


def test_the_files_hold_what_is_returned(world):
    analysis = look(world, other="vis")

    folder = world.folder / "imu" / "analysis"
    assert {file.name for file in folder.iterdir()} == {
        *(f"{name}.csv" for name in TABLES), "report.html", "summary.json",
    }  # fmt: skip
    assert json.loads((folder / "summary.json").read_text()) == json.loads(
        json.dumps(dataclasses.asdict(analysis))
    )
    clips = table_of(world, "clips")
    assert clips["label"].to_list()[:6] == ["cut"] * 2 + ["<b>stir</b>"] * 2 + ["wash"] * 2
    assert clips["predicted"].to_list() == clips["label"].to_list()
    assert analysis.report == str(folder / "report.html")


def test_another_split_gets_a_folder_of_its_own(world):
    look(world)
    before = (world.folder / "imu" / "analysis" / "summary.json").read_bytes()

    look(world, split="train")

    assert (world.folder / "imu" / "analysis" / "summary.json").read_bytes() == before
    assert (world.folder / "imu" / "analysis-train" / "report.html").is_file()


# --- the command and what it refuses ---


def test_the_command_prints_lines_or_json(world, run):
    said = run("analyse", world.folder / "imu", "--other", world.folder / "vis", "--queries", "4")
    printed = run("analyse", world.folder / "imu", "--json", "--pairs", "cut,wash",
                  "--other", world.folder / "vis")  # fmt: skip

    assert (said.code, printed.code) == (0, 0)
    assert "imuonly-distill on split 'test': 48 clips of 24 segments" in said.out
    assert "with another's IMU 0.000 of the 5 nearest clips change" in said.out
    found = json.loads(printed.out)
    assert found["pairs"][0]["names"] == ["cut", "wash"]
    assert found["config"]["num_queries"] == 1000


def test_pairs_without_another_run_are_refused(world, run):
    refused = run("analyse", world.folder / "imu", "--pairs", "cut,wash")

    assert refused.code == 2
    assert "name the second one with --other" in refused.err


def test_a_device_that_is_not_there_is_refused(world):
    with pytest.raises(EgoctlError, match=r"--device gpu cannot be used here \(.*Pass cpu"):
        analyse(world.folder / "imu", config=AnalysisConfig(), places=Places(), device="gpu")


def test_runs_of_other_classes_are_refused(world, tmp_path):
    elsewhere = make_world(tmp_path, segments_of_split=3)
    train(elsewhere.config(run="run", num_epochs=1))

    with pytest.raises(EgoctlError, match="other classes than each other"):
        analyse(
            world.folder / "imu",
            other=tmp_path / "run",
            config=AnalysisConfig(),
            places=Places(),
        )


def test_a_run_without_a_checkpoint_is_refused(world):
    shutil.copytree(world.folder / "imu", world.folder / "bare")
    shutil.rmtree(world.folder / "bare" / "checkpoints")

    with pytest.raises(EgoctlError, match="no checkpoint yet"):
        look(world, "bare")


@pytest.mark.parametrize("settings", [{"num_queries": 0}, {"num_examples": -1}, {"seed": -1}])
def test_numbers_that_make_no_sense_are_refused(settings):
    with pytest.raises(EgoctlError, match="or more, got"):
        AnalysisConfig(**settings)


def test_no_examples_make_a_page_of_tables(world):
    analysis = look(world, num_examples=0)

    page = (world.folder / "imu" / "analysis" / "report.html").read_text()
    assert (analysis.best, analysis.worst) == ((), ())
    assert "<img" not in page and "Feature space" in page


# === An analysis of a run in a bucket lands in the bucket, on a real S3 server ===


def test_the_report_of_a_run_in_a_bucket_is_published_beside_it(tmp_path, s3):
    world = make_world(tmp_path, segments_of_split=3)
    for seed, name in enumerate(("mine", "other")):
        train(replace(world.config(num_epochs=1, seed=seed), run=f"{s3}/{name}"))
    before = {info.name for info in Place(f"{s3}/other").list()}

    analysis = analyse(f"{s3}/mine", other=f"{s3}/other", config=AnalysisConfig(), places=Places())

    found = {info.name for info in Place(f"{s3}/mine").list()}
    assert {f"analysis/{name}" for name in ("report.html", "summary.json", "clips.csv")} <= found
    assert analysis.report == f"{s3}/mine/analysis/report.html"
    assert analysis.other.run == f"{s3}/other"
    assert {info.name for info in Place(f"{s3}/other").list()} == before


# === Clips of an analysis: the best and worst, those by motion, those without a target ===


# --- best, worst, motion ---


def clip_rows(*rows):
    columns = ("segment_id", "cosine", "l1_norm", "gyro_rms", "other_cosine")
    text = dict.fromkeys(("label", "predicted", "teacher_predicted", "other_predicted"), "cut")
    return pl.DataFrame(
        [
            {
                "clip_id": f"c{index}",
                **text,
                "accel_rms": 1.0,
                **dict(zip(columns, row, strict=True)),
            }
            for index, row in enumerate(rows)
        ]
    )


def test_best_and_worst_are_of_different_segments():
    table = clip_rows(
        ("a", 0.9, 1.0, 0.1, 0.0), ("a", 0.8, 1.0, 0.1, 0.0), ("b", 0.7, 1.0, 0.1, 0.0),
        ("c", 0.2, 1.0, 0.1, 0.0), ("d", 0.3, 1.0, 0.1, 0.0), ("d", None, None, 0.1, 0.0),
    )  # fmt: skip

    best, worst = best_and_worst(table, at_most=2)

    assert [clip.clip_id for clip in best] == ["c0", "c2"]
    assert [clip.clip_id for clip in worst] == ["c3", "c4"]
    best, worst = best_and_worst(table, at_most=9)
    assert (len(best), len(worst)) == (2, 2)


def test_groups_of_equal_size_go_from_still_heads_to_fast_ones():
    table = clip_rows(
        ("a", 0.9, 1.0, 0.4, 0.5), ("a", 0.1, 1.0, 0.1, 0.5), ("b", 0.3, 1.0, 0.2, 0.5),
        ("c", 0.5, 1.0, 0.3, None), ("d", 0.7, 1.0, 0.35, 0.1), ("e", 0.8, 1.0, None, 0.5),
    )  # fmt: skip

    groups = by_motion(table)

    assert [(group.gyro_rms_from, group.num_clips) for group in groups] == [
        (0.1, 1), (0.2, 1), (0.3, 2), (0.4, 1),
    ]  # fmt: skip
    assert [group.cosine for group in groups] == pytest.approx([0.1, 0.3, 0.6, 0.9])
    assert [group.other_cosine for group in groups] == [0.5, 0.5, None, 0.5]
    assert by_motion(table.head(3)) == ()


# --- what is missing ---


def test_clips_without_a_target_are_classified_but_not_compared(tmp_path):
    # 3 splits x 3 segments x 2 clips = 18 rows; part 2 holds rows 16 and 17: segment test-2.
    world = make_world(tmp_path, segments_of_split=3, done_parts=(0, 1))
    train(world.config(run="imu", num_epochs=1))

    analysis = look(world)

    assert (analysis.num_clips, analysis.num_target_clips, analysis.num_scored) == (6, 4, 3)
    assert analysis.run.features.num_clips == 4
    clips = table_of(world, "clips")
    assert clips["cosine"].is_null().to_list() == [False] * 4 + [True] * 2
    assert clips["teacher_predicted"].to_list() == ["cut"] * 2 + ["stir"] * 2 + [None] * 2
    assert set(table_of(world, "retrieved")["clip_id"]) <= set(clips["clip_id"][:4])


def test_a_split_without_any_target_is_retrieved_from_in_the_students_own_features(tmp_path):
    # Part 0 holds rows 0 to 7: all of the train split, nothing of the test split.
    world = make_world(tmp_path, segments_of_split=3, done_parts=(0,))
    train(world.config(run="imu", num_epochs=1))

    analysis = look(world)

    assert (analysis.num_clips, analysis.num_target_clips) == (6, 0)
    assert (analysis.run.features, analysis.run.neighbours, analysis.best) == (None, (), ())
    assert analysis.run.gallery == "student"
    assert table_of(world, "clips")["cosine"].null_count() == 6
    assert "has a teacher's target" in (tmp_path / "imu/analysis/report.html").read_text()


def test_a_split_of_one_segment_has_nothing_to_retrieve(tmp_path):
    world = make_world(tmp_path, segments_of_split=1)
    train(world.config(run="imu", num_epochs=1, batch_size=2))

    analysis = look(world)

    assert (analysis.num_clips, analysis.run.exchange) == (2, None)
    assert [item.recall for item in analysis.run.neighbours] == [None, None, None]
    assert len(table_of(world, "retrieved")) == 0


def test_both_runs_are_compared_over_the_clips_that_both_can_use(tmp_path):
    world = make_world(tmp_path, segments_of_split=4, without_imu=("test-1",))
    train(world.config(run="imu", num_epochs=1))
    frozen = {"method": "visonly-distill", "freeze_image_encoder": True}
    train(world.config(run="vis", num_epochs=1, student=frozen))

    analysis = look(world, "vis", other="imu")

    assert (analysis.num_clips, analysis.num_not_in_common) == (6, 2)
    assert "test-1" not in table_of(world, "clips", "vis")["segment_id"].to_list()
    # The run sees no IMU, but the other one does: the table tells how the heads moved.
    assert table_of(world, "clips", "vis")["gyro_rms"].null_count() == 0
