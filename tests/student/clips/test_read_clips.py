"""What a split's clips are: joined with both stores, and what is left out or refused."""

import dataclasses

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.clip_set import read_clips
from egoctl.student.model.student_config import METHODS
from egoctl.tests.worlds.student_world import feature_of, imu_of, logits_of, make_world


def clips_of(world, split="train", method="egodistill", **changes):
    options = {
        "num_frames": 1,
        "inputs": world.inputs,
        "teacher": world.teacher,
        "needs_targets": True,
        "needs_labels": False,
        "allow_missing": False,
    }
    return read_clips(world.manifest, split, method=METHODS[method], **(options | changes))


def test_a_split_is_joined_with_both_stores_in_the_manifests_order(world):
    clips = clips_of(world)

    expected = [clip for clip in world.clips if clip.segment_id.startswith("train")]
    assert [clip.clip_id for clip in clips.clips] == [clip.clip_id for clip in expected]
    for index, clip in enumerate(expected):
        row = world.clips.index(clip)
        np.testing.assert_array_equal(clips.feature_ND[index], feature_of(clip))
        np.testing.assert_array_equal(clips.logits_NC[index], logits_of(clip, 3))
        np.testing.assert_array_equal(clips.imu_NWA[index], imu_of(clip, row))
        assert clips.label_N[index] == int(clip.segment_id[-1]) % 3
    assert clips.left_out == ()


def test_only_what_the_method_looks_at_is_read(world):
    assert clips_of(world, method="visonly").imu_NWA is None
    assert clips_of(world, method="imuonly").jpegs is None
    assert clips_of(world, teacher=None, needs_targets=False).feature_ND is None


def test_more_frames_than_are_stored_are_refused(world):
    with pytest.raises(
        EgoctlError, match="4 uniform frames of a clip need .* --frames 4 or 12; this one has 3"
    ):
        clips_of(world, num_frames=4)


def test_targets_that_are_missing_are_refused_with_their_number(tmp_path):
    world = make_world(tmp_path, splits=("train",), done_parts=(0,))

    with pytest.raises(EgoctlError, match="10 of 18 clips of split 'train'.*--allow-missing"):
        clips_of(world)


def test_allowed_to_be_missing_they_are_counted(tmp_path):
    world = make_world(tmp_path, splits=("train",), done_parts=(0,))

    clips = clips_of(world, allow_missing=True)

    assert len(clips) == 8
    assert clips.left_out_by_reason() == {"teacher: not extracted yet": 10}


def test_failed_clips_and_clips_without_imu_are_left_out_by_reason(tmp_path):
    world = make_world(
        tmp_path,
        splits=("train",),
        failed={"train-0": "video_unreadable"},
        without_imu=("train-1", "train-2"),
    )

    with_imu = clips_of(world, method="egodistill").left_out_by_reason()
    without_imu = clips_of(world, method="visonly").left_out_by_reason()

    assert with_imu == {"IMU: imu_none": 4, "inputs: video_unreadable": 2}
    assert without_imu == {"inputs: video_unreadable": 2}


def test_unlabelled_clips_are_used_for_distillation_and_left_out_of_training_on_labels(tmp_path):
    world = make_world(tmp_path, splits=("train",), unlabelled=("train-4",))

    distilled = clips_of(world)
    on_labels = clips_of(world, teacher=None, needs_targets=False, needs_labels=True)

    assert (len(distilled), int((distilled.label_N == -1).sum())) == (18, 2)
    assert (len(on_labels), on_labels.left_out_by_reason()) == (16, {"no label": 2})


def test_stores_of_other_videos_are_refused(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_key_salt="re-encoded")

    with pytest.raises(StoreMismatchError, match="two stores saw other videos.*18 clips differ"):
        clips_of(world)


def test_stores_in_each_others_place_are_refused(world):
    with pytest.raises(StoreMismatchError, match="of kind teacher, wanted inputs"):
        clips_of(world, inputs=world.teacher)


def test_a_store_of_another_manifest_is_refused(world):
    moved = tuple(
        dataclasses.replace(segment, start_s=segment.start_s + 2e-4)
        for segment in world.manifest.segments
    )
    manifest = dataclasses.replace(world.manifest, segments=moved)

    with pytest.raises(StoreMismatchError, match=r"\[1\.0002, 3\.0002\).*\[1\.0, 3\.0\)"):
        read_clips(
            manifest,
            "train",
            method=METHODS["visonly"],
            num_frames=1,
            inputs=world.inputs,
            teacher=None,
            needs_targets=False,
            needs_labels=False,
            allow_missing=False,
        )


@pytest.mark.parametrize("array", ["imu", "frame_time", "feature", "logits"])
def test_values_that_are_not_finite_name_store_and_clip(world, monkeypatch, array):
    real = FeatureStore.read

    def read(self, name, rows):
        values = real(self, name, rows)
        if name == array:
            values[4] = np.nan
        return values

    monkeypatch.setattr(FeatureStore, "read", read)

    clip_id = [clip.clip_id for clip in world.clips if clip.segment_id == "train-2"][0]
    store = world.inputs if array in ("imu", "frame_time") else world.teacher
    with pytest.raises(StoreError) as caught:
        clips_of(world)
    assert str(caught.value) == (
        f"{store.url}: clip {clip_id!r} is marked ok, but its {array} has values that are not "
        f"finite (1 of 18 clips). Run 'egoctl store verify {store.url}'."
    )


def test_a_clip_without_imu_may_hold_anything_in_its_imu_row(tmp_path, monkeypatch):
    world = make_world(tmp_path, splits=("train",), without_imu=("train-0",))
    real = FeatureStore.read

    def read(self, name, rows):
        values = real(self, name, rows)
        if name == "imu":
            values[rows < 2] = np.nan  # the two clips of train-0
        return values

    monkeypatch.setattr(FeatureStore, "read", read)

    assert len(clips_of(world)) == 16


def test_clips_common_to_all_methods_are_the_same_for_one_that_sees_no_imu(tmp_path):
    world = make_world(tmp_path, splits=("train",), without_imu=("train-1",), done_parts=(0, 1))
    options = {"needs_targets": False, "allow_missing": True}

    with_imu = clips_of(world, **options)
    images = clips_of(world, method="visonly", **options)
    no_teacher = clips_of(world, method="visonly", **(options | {"teacher": None}))

    # Of 18 clips, 2 have no IMU and the last 2 (part 2) no target.
    assert (len(with_imu), len(images)) == (16, 18)
    assert images.is_common_N.tolist() == [True, True, False, False] + [True] * 12 + [False] * 2
    assert with_imu.is_common_N.tolist() == [True] * 14 + [False] * 2
    assert int(no_teacher.is_common_N.sum()) == 16


def test_an_unknown_split_names_those_there_are(world):
    with pytest.raises(EgoctlError, match="no split 'dev'; it has test, train, val"):
        clips_of(world, "dev")
