"""A teacher's own accuracy: what it looks at, and how views add up."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.teacher_scores import Views, _summed_softmax, score_teacher
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.records import Segment
from egoctl.pipeline.teachers.protocol import targets
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.tests.worlds.extract_world import (
    MeanTeacher,
    World,
    all_frames,
    draw_colours,
    pixels,
    shown_at,
)

CPU = torch.device("cpu")
SEGMENT = Segment(
    segment_id="s", video_id="v", video_path="v.mp4", imu_path=None, participant_id="p",
    start_s=1.0, stop_s=7.0, label=0, split="test",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    found = World(folder=tmp_path_factory.mktemp("world"))
    for number in range(3):
        draw_colours(found.videos / f"{number}.mp4", seconds=4, first=20 * number)
    return found


def manifest_of(world: World, labels: list[int], **more: Any) -> Manifest:
    rows = [
        {"segment_id": f"s{at}", "video": f"{at % 3}.mp4", "start_s": 0.5, "stop_s": 3.5,
         "split": "test", "label": f"class{label}", **more}
        for at, label in enumerate(labels)
    ]  # fmt: skip
    # A segment of each class, so that the classes are the teacher's five.
    rows += [
        {"segment_id": f"c{label}", "video": "0.mp4", "start_s": 0, "stop_s": 2, "label":
         f"class{label}"}
        for label in range(5)
    ]  # fmt: skip
    return world.manifest(rows)


def slow_scores(world: World, teacher: MeanTeacher) -> np.ndarray[Any, Any]:
    """(3, 5): two windows by three crops of each video, every picture cut by hand."""
    scores = []
    for number in range(3):
        frames = all_frames(world.videos / f"{number}.mp4")
        total = np.zeros(5)
        for start_s in (0.5, 1.0):
            times = start_s + 1.0 + (np.arange(4) - 1.5) * 0.4
            wide = [pixels(shown_at(frames, float(t))[1], 60, 40) for t in times]
            for left in (0, 10, 20):
                clip = np.stack([picture[:, left : left + 40] for picture in wide])
                logits = targets(teacher, torch.from_numpy(clip[None])).logits_NC[0]
                total += torch.from_numpy(logits).softmax(dim=0).numpy()
        scores.append(total)
    return np.stack(scores)


def test_views_add_up_as_by_hand(world: World) -> None:
    teacher = MeanTeacher()
    scores_SK = slow_scores(world, teacher)
    wanted = scores_SK.argmax(axis=1).tolist()
    wrong = [(label + 1) % 5 for label in wanted]

    right_ones = score_teacher(
        manifest_of(world, wanted), teacher, split="test",
        views=Views(num_windows=2, num_crops=3), device=CPU,
    )  # fmt: skip
    wrong_ones = score_teacher(
        manifest_of(world, wrong), teacher, split="test",
        views=Views(num_windows=2, num_crops=3), device=CPU,
    )  # fmt: skip

    manifest = manifest_of(world, wanted)
    found_SK, _ = _summed_softmax(
        manifest, teacher, manifest.segments[:3], Views(num_windows=2, num_crops=3),
        list(range(5)), device=CPU, precision="fp32",
    )  # fmt: skip
    np.testing.assert_allclose(found_SK, scores_SK, rtol=1e-5)
    assert (right_ones.num_segments, right_ones.top1, right_ones.top5) == (3, 1.0, 1.0)
    assert wrong_ones.top1 == 0.0 and wrong_ones.views == "2x3"


def test_windows_start_at_shares_of_what_the_segment_has_to_spare() -> None:
    def spans(num_windows: int, segment: Segment = SEGMENT) -> list[tuple[float, float]]:
        clips = Views(num_windows=num_windows).clips(segment, window_s=2.0)
        return [(clip.start_s, clip.stop_s) for clip in clips]

    assert spans(1) == [(3.0, 5.0)]
    assert spans(4) == [(1.0, 3.0), (2.0, 4.0), (3.0, 5.0), (4.0, 6.0)]
    short = dataclasses.replace(SEGMENT, stop_s=2.5)
    assert spans(2, short) == [(1.0, 2.5), (1.0, 2.5)]


@pytest.mark.parametrize("text", ["10", "10x2", "0x1", "ax3", "3x", "-1x3"])
def test_views_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(EgoctlError, match="views are WINDOWSxCROPS"):
        Views.from_text(text)


def test_what_the_teacher_was_fitted_to_is_counted(world: World) -> None:
    manifest = manifest_of(world, [0, 1, 2])
    teacher = MeanTeacher()
    seen = TrainedOn.of_segments(
        [s for s in manifest.segments if s.segment_id in ("s0", "s2")], dataset="d"
    )
    teacher.weights = dataclasses.replace(teacher.weights, trained_on=seen)

    found = score_teacher(manifest, teacher, split="test", views=Views(), device=CPU)

    assert (found.num_seen, found.num_segments) == (2, 3)
    assert any("fitted to 2 of them" in line for line in found.lines())


def test_a_segment_that_cannot_be_read_is_named_and_not_scored(world: World) -> None:
    manifest = manifest_of(world, [0, 1, 2])
    (world.videos / "1.mp4").rename(world.videos / "gone.mp4")
    try:
        found = score_teacher(
            manifest, MeanTeacher(), split="test", views=Views(num_windows=2), device=CPU
        )
    finally:
        (world.videos / "gone.mp4").rename(world.videos / "1.mp4")

    assert found.num_segments == 2
    assert list(found.failures) == ["s1"] and "video_missing" in found.failures["s1"]


def test_a_teacher_of_other_classes_is_refused(world: World) -> None:
    with pytest.raises(EgoctlError, match=r"means cannot be scored.*has 5 classes, the teacher 7"):
        score_teacher(
            manifest_of(world, [0]), MeanTeacher(num_classes=7), split="test", views=Views(),
            device=CPU,
        )  # fmt: skip


def test_a_split_that_is_not_there_is_refused_with_those_that_are(world: World) -> None:
    with pytest.raises(EgoctlError, match="no split 'val'; it has test"):
        score_teacher(
            manifest_of(world, [0]), MeanTeacher(), split="val", views=Views(), device=CPU
        )


def test_a_split_without_labels_is_refused(world: World) -> None:
    manifest = manifest_of(world, [0])
    bare = tuple(dataclasses.replace(segment, label=None) for segment in manifest.segments)

    with pytest.raises(EgoctlError, match="split 'test' has no labelled segment.*--split"):
        score_teacher(
            dataclasses.replace(manifest, segments=bare), MeanTeacher(), split="test",
            views=Views(), device=CPU,
        )  # fmt: skip


def test_the_command_prints_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest_of(world, [0, 1, 2])
    monkeypatch.setattr(
        "egoctl.pipeline.teachers.lineup.load_teacher", lambda *_, **__: MeanTeacher()
    )

    done = CliRunner().invoke(cli.app, [
        "teachers", "evaluate", str(world.manifest_path), "--teacher", "means", "--views", "2x1",
        "--device", "cpu",
    ])  # fmt: skip

    assert done.exit_code == 0, done.output
    assert "means on split 'test', 2x1 views: 3 segments scored." in done.output
