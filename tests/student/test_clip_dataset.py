"""ClipDataset: what an item holds, who is left out, and the page that shows how to use it."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.clip_dataset import ClipDataset, ClipItem
from egoctl.tests.worlds.places import ROOT
from egoctl.tests.worlds.student_world import FRAMES, feature_of, imu_of, logits_of, make_world

PAGE = ROOT / "docs" / "use-your-own-trainer.md"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(
        tmp_path_factory.mktemp("world"),
        splits=("train", "test"),
        failed={"train-0": "video_unreadable"},
        without_imu=("train-1",),
        unlabelled=("train-2",),
    )


def dataset(world, **changes) -> ClipDataset:
    options = {"inputs": world.inputs.url, "teacher": world.teacher.url, "split": "train"}
    return ClipDataset(world.manifest, **(options | changes))


def test_an_item_is_the_clip_that_its_index_names(world):
    clips = dataset(world)

    for index in range(len(clips)):
        item = clips[index]
        row = [clip.clip_id for clip in world.clips].index(clips.clips["clip_id"][item.index])
        clip = world.clips[row]
        label = int(clip.segment_id[-1]) % 3
        assert item.index == index
        assert clips.clips.row(index) == (
            clip.clip_id, clip.segment_id, clip.video_id, clip.start_s, clip.stop_s,
        )  # fmt: skip
        np.testing.assert_array_equal(item.imu, imu_of(clip, row))
        np.testing.assert_array_equal(item.feature, feature_of(clip))
        np.testing.assert_array_equal(item.logits, logits_of(clip, 3))
        assert item.label == (-1 if clip.segment_id == "train-2" else label)
        # The frame in the middle, of grey 60 * class + 10 * frame + 20.
        assert (item.frames.shape, item.frames.dtype) == ((1, 32, 32, 3), torch.uint8)
        assert item.frames.unique().tolist() == [60 * label + 30]


def test_several_frames_come_in_their_order(world):
    item = dataset(world, num_frames=FRAMES)[0]

    levels = item.frames[:, 0, 0, 0].tolist()
    assert [level - levels[0] for level in levels] == [0, 10, 20]


def test_clips_that_lack_anything_are_left_out_by_name(world):
    clips = dataset(world)

    assert len(clips) == 14
    assert {(item.segment_id, item.reason) for item in clips.left_out} == {
        ("train-0", "inputs: video_unreadable"),
        ("train-1", "IMU: imu_none"),
    }
    assert not {item.clip_id for item in clips.left_out} & set(clips.clips["clip_id"])


def test_clips_not_extracted_yet_are_left_out_too(tmp_path):
    clips = dataset(make_world(tmp_path, splits=("train",), done_parts=(0,)))

    assert len(clips) == 8
    assert {item.reason for item in clips.left_out} == {"teacher: not extracted yet"}


def test_without_a_teacher_its_targets_are_empty(world):
    clips = dataset(world, teacher=None)

    assert (clips[0].feature.shape, clips[0].logits.shape) == ((0,), (0,))
    assert next(iter(DataLoader(clips, batch_size=4))).feature.shape == (4, 0)


def test_a_manifest_may_be_given_as_a_path(world):
    path = world.folder / "manifest.parquet"

    clips = ClipDataset(path, inputs=world.inputs.url, teacher=None, split="test")

    assert len(clips) == 18


def test_a_split_that_is_not_there_is_refused_with_those_that_are(world):
    with pytest.raises(EgoctlError, match="no split 'val'; it has test, train"):
        dataset(world, split="val")


def test_a_split_without_a_usable_clip_is_empty_and_tells_why(tmp_path):
    lost = dict.fromkeys((f"train-{index}" for index in range(9)), "lost")

    clips = dataset(make_world(tmp_path, splits=("train",), failed=lost))

    assert (len(clips), len(clips.left_out)) == (0, 18)
    with pytest.raises(IndexError, match="clip 0 of 0"):
        clips[0]


def test_iterating_ends_after_the_last_clip(world):
    assert len(list(dataset(world))) == 14


@pytest.mark.parametrize(("start", "cache_frames"), [("fork", "ram"), ("spawn", "disk")])
def test_workers_give_what_one_process_gives(world, tmp_path, monkeypatch, start, cache_frames):
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path))
    clips = dataset(world, cache_frames=cache_frames)
    loader = DataLoader(clips, batch_size=5, num_workers=1, multiprocessing_context=start)

    by_worker, here = list(loader), list(DataLoader(dataset(world), batch_size=5))

    assert [type(batch) for batch in by_worker] == [ClipItem] * 3
    for one, two in zip(by_worker, here, strict=True):
        assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    assert here[0].label.tolist() == [-1, -1, 0, 0, 1]


def test_the_pages_code_runs_as_it_stands(world, tmp_path):
    for name in ("teacher.store", "inputs.store"):
        shutil.copytree(world.folder / name, tmp_path / name)
    shutil.copy(world.folder / "manifest.parquet", tmp_path / "clips.parquet")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "page.py").write_text("\n".join(blocks))

    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # 18 clips of each of two splits, two of them failed.
    assert lines[0] == "(34, 8) Array(Float32, shape=(8,))"
    assert [line.split(",")[0] for line in lines[1:3]] == [
        "epoch 0: 14 clips", "epoch 1: 14 clips",
    ]  # fmt: skip
    assert lines[3].startswith("train-2 [('train-0@") and "imu_none" in lines[3]
