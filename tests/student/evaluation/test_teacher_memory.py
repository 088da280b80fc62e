"""Evaluation says how much of a split the teacher had seen, and how well it does without that."""

import json

import pytest
import torch

from egoctl.pipeline.records import Segment
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.student.evaluation.evaluate import evaluate
from egoctl.student.evaluation.report import metrics_lines
from egoctl.student.evaluation.teacher_memory import teacher_memory
from egoctl.student.training.train import train
from egoctl.tests.worlds.student_world import make_world

UNKNOWN = "  What the teacher was fitted to is unknown: its store does not record it."


def segment(index):
    return Segment(
        segment_id=f"s{index}",
        video_id=f"v{index}",
        video_path="v.mp4",
        imu_path=None,
        participant_id="P01",
        start_s=1.0,
        stop_s=4.0,
        label=0,
        split="test",
    )


def footage(*video_ids, span=(3.5, 9.0)):
    """Of the end of segments [1, 4) of these videos."""
    return TrainedOn(
        dataset="EPIC", num_segments=7, spans_s={video_id: (span,) for video_id in video_ids}
    )


def memory_of(trained_on, **changes):
    """Of six segments of class 0: the student is right on 0, 1, 2, the teacher on 0, 3; 5 is not
    scored."""
    student_SC = torch.tensor([[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 2 + [[torch.nan] * 2])
    teacher_SC = torch.tensor([[0.8, 0.2], [0.2, 0.8], [0.2, 0.8], [0.8, 0.2], [0.2, 0.8], [1, 0]])
    given = {
        "label_S": torch.zeros(6, dtype=torch.int64),
        "scored_S": torch.tensor([True] * 5 + [False]),
        "student_SC": student_SC,
        "teacher_SC": teacher_SC,
    }
    return teacher_memory(trained_on, [segment(index) for index in range(6)], **(given | changes))


def test_accuracies_are_told_apart_by_what_was_seen():
    found = memory_of(footage("v0", "v1", "v4", "v5", "elsewhere"))

    assert (found.num_scored, found.num_seen, found.share_seen) == (5, 3, 0.6)
    assert found.top1_seen == pytest.approx(2 / 3)  # 0 and 1 of 0, 1, 4
    assert found.top1_unseen == pytest.approx(1 / 2)  # 2 of 2, 3
    assert found.teacher_top1_seen == pytest.approx(1 / 3)
    assert found.teacher_top1_unseen == pytest.approx(1 / 2)
    assert (found.dataset, found.num_segments) == ("EPIC", 7)


def test_where_nothing_was_seen_all_is_unseen():
    found = memory_of(footage("V0", "0"))

    assert (found.num_seen, found.share_seen, found.top1_seen) == (0, 0.0, None)
    assert (found.top1_unseen, found.teacher_top1_unseen) == pytest.approx((3 / 5, 2 / 5))


def test_where_everything_was_seen_nothing_is_unseen():
    found = memory_of(footage(*(f"v{index}" for index in range(6))))

    assert (found.num_seen, found.share_seen, found.top1_unseen) == (5, 1.0, None)
    assert found.teacher_top1_unseen is None


def test_a_teacher_of_other_classes_has_memory_and_no_accuracy():
    found = memory_of(footage("v0"), teacher_SC=None)

    assert (found.num_seen, found.top1_seen, found.teacher_top1_seen) == (1, 1.0, None)


def test_where_nothing_is_scored_there_is_no_share():
    found = memory_of(footage("v0"), scored_S=torch.zeros(6, dtype=torch.bool))

    assert (found.num_scored, found.num_seen, found.share_seen) == (0, 0, None)


# --- a run ---


def evaluated(folder, **changes):
    """Metrics of a run whose test split has segments test-0 to test-8, [1, 4) s each."""
    world = make_world(folder, splits=("train", "test"), **changes)
    train(world.config(num_epochs=1))
    return evaluate(folder / "run")


def test_a_test_split_that_was_seen_in_part_is_told_of(tmp_path):
    # The teacher is wrong about test-8 alone. It saw the beginning of that one and the end of
    # test-0; of video-test-1 only what comes after the segment.
    spans = {"video-test-0": ((3.5, 9.0),), "video-test-8": ((0.0, 1.5),)}
    spans["video-test-1"] = ((4.0, 9.0),)
    trained_on = TrainedOn(dataset="EPIC", num_segments=3, spans_s=spans)

    metrics = evaluated(tmp_path, trained_on=trained_on)

    memory = metrics.teacher_memory
    assert (memory.num_scored, memory.num_seen) == (9, 2)
    assert (memory.teacher_top1_seen, memory.teacher_top1_unseen) == (0.5, 1.0)
    assert (2 * memory.top1_seen + 7 * memory.top1_unseen) / 9 == pytest.approx(metrics.top1)
    lines = list(metrics_lines(metrics))
    at = lines.index(
        "  The teacher was fitted to 2 of these 9 segments (22.2 %): its accuracy there, and what "
        "students learn of it, is partly memory."
    )
    assert lines[at + 1 : at + 3] == [
        f"  top-1, seen by teacher     {memory.top1_seen:8.4f}   0.5000         2",
        f"  top-1, unseen by teacher   {memory.top1_unseen:8.4f}   1.0000         7",
    ]
    written = json.loads((tmp_path / "run" / "metrics.json").read_text())["teacher_memory"]
    assert (written["num_seen"], written["share_seen"]) == (2, pytest.approx(2 / 9))


def test_a_test_split_of_other_videos_was_not_seen(tmp_path):
    metrics = evaluated(tmp_path, trained_on=footage("video-train-0", "test-0", span=(0.0, 99.0)))

    assert metrics.teacher_memory.num_seen == 0
    told = [line for line in metrics_lines(metrics) if "fitted" in line or "seen by" in line]
    assert told == [
        "  The teacher was fitted to none of these 9 segments, as far as video ids show."
    ]


def test_a_store_that_does_not_tell_gets_one_quiet_line(tmp_path):
    metrics = evaluated(tmp_path)

    assert metrics.teacher_memory is None
    assert [line for line in metrics_lines(metrics) if "fitted" in line] == [UNKNOWN]


def test_without_a_teacher_there_is_nothing_to_tell(tmp_path):
    world = make_world(tmp_path, splits=("train", "test"), trained_on=footage("video-test-0"))
    train(world.config(teacher=None, num_epochs=1, student={"method": "imuonly"}))

    metrics = evaluate(tmp_path / "run")

    assert metrics.teacher_memory is None
    assert not any("fitted" in line for line in metrics_lines(metrics))
