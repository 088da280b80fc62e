"""What an analysis makes of clips: the best and worst, those by motion, those without a target."""

import polars as pl
import pytest

from egoctl.student.analysis.analysed_clips import best_and_worst, by_motion
from egoctl.student.training.train import train
from egoctl.tests.worlds.analysed_world import look, table_of
from egoctl.tests.worlds.student_world import make_world

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
