"""`store reproduce`: rows computed again agree, and everything that would not agree is caught."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.extraction.reproduce import reproduce, reproduction_lines
from egoctl.pipeline.sharing.closeness import Closeness
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.extract_world import CONFIG, MeanTeacher, World, draw_colours, write_imu

CPU = torch.device("cpu")
NUM_CLIPS = 7
ROWS = [
    {"segment_id": "s1", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4},
    {"segment_id": "s2", "video": "b.mp4", "imu": "", "start_s": 0, "stop_s": 2.5},
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two videos, one IMU file, and both stores."""
    world = World(folder=tmp_path_factory.mktemp("world"))
    draw_colours(world.videos / "a.mp4", seconds=4)
    draw_colours(world.videos / "b.mp4", seconds=3, first=50)
    write_imu(world.imu / "a.csv", seconds=4)
    world.extract(world.manifest(ROWS), config=replace(CONFIG, dtype="float16"))
    return world


@pytest.fixture
def world(drawn, tmp_path):
    """A copy of them that a test may spoil."""
    shutil.copytree(drawn.folder, tmp_path / "copy")
    return World(folder=tmp_path / "copy")


def changed_rows(url: str, array: str, change) -> None:
    """Write part 0 anew, with change made to one of its arrays, as a wrong run would have."""
    store = FeatureStore.open(url)
    part = store.parts()[0]
    receipt = store.valid_receipts()[0]
    rows = np.arange(part.num_rows)
    arrays = {spec.name: store.read(spec.name, rows) for spec in store.header.arrays}
    arrays[array] = change(arrays[array])
    assert store.write_part(part, arrays, receipt.outcomes, seconds={}, versions={})
    store.close()


def test_the_same_teacher_and_videos_give_the_stored_rows(world):
    found = reproduce(world.teacher_url, world.manifest(ROWS), MeanTeacher(), device=CPU)

    assert found.is_reproduced
    assert (found.num_ok, found.num_sampled) == (NUM_CLIPS, NUM_CLIPS)
    assert sorted(found.arrays) == ["feature", "logits"]
    assert found.arrays["feature"].num_equal == NUM_CLIPS
    assert found.arrays["feature"].max_abs == 0.0
    *_, verdict = reproduction_lines(found)
    assert verdict == "Reproduced: no cosine is below 0.999 (the smallest is 1.000000)."


def test_inputs_are_reproduced_without_a_teacher(world):
    found = reproduce(world.inputs_url, world.manifest(ROWS), None, device=CPU)

    assert found.is_reproduced
    rows = {name: (of.num_rows, of.num_equal) for name, of in found.arrays.items()}
    assert rows == {"frames": (7, 7), "frame_time": (7, 7), "imu": (5, 5), "imu_mean": (5, 5)}


def test_a_sample_is_of_the_asked_size_and_its_seed_decides_it(world):
    manifest = world.manifest(ROWS)
    changed_rows(world.inputs_url, "imu", lambda imu: imu * [[[-1]], [[1]], [[1]], [[1]]])

    def finds_it(seed):
        found = reproduce(world.inputs_url, manifest, None, device=CPU, num_rows=2, seed=seed)
        assert found.num_sampled == 2
        return not found.is_reproduced

    first = [finds_it(seed) for seed in range(8)]

    assert first == [finds_it(seed) for seed in range(8)]
    assert set(first) == {True, False}


def test_wrong_values_are_found_and_measured_like_the_slow_way(world):
    store = FeatureStore.open(world.teacher_url)
    right = store.read("feature", np.arange(4)).astype(np.float64)
    noise = np.random.default_rng(0).normal(0, 0.2, right.shape)
    changed_rows(world.teacher_url, "feature", lambda feature: feature + noise)
    wrong = FeatureStore.open(world.teacher_url).read("feature", np.arange(4)).astype(np.float64)

    found = reproduce(world.teacher_url, world.manifest(ROWS), MeanTeacher(), device=CPU)

    cosines = [
        sum(x * y) / (sum(x * x) * sum(y * y)) ** 0.5 for x, y in zip(right, wrong, strict=True)
    ]
    assert found.arrays["feature"].min_cosine == pytest.approx(min(cosines), abs=1e-9)
    assert found.arrays["feature"].mean_cosine == pytest.approx((sum(cosines) + 3) / 7, abs=1e-9)
    assert found.arrays["feature"].max_abs == pytest.approx(abs(right - wrong).max(), abs=1e-9)
    assert found.arrays["feature"].num_equal == 3
    assert not found.is_reproduced
    assert list(reproduction_lines(found))[-1].startswith("NOT reproduced: the smallest cosine")


def test_frames_of_other_clips_are_found(world):
    changed_rows(world.inputs_url, "frames", lambda frames: frames[::-1])

    found = reproduce(world.inputs_url, world.manifest(ROWS), None, device=CPU)

    assert found.arrays["frames"].num_equal == 3
    assert not found.is_reproduced


def test_other_weights_are_refused_and_force_says_so(world):
    teacher = MeanTeacher()
    teacher.weights = replace(teacher.weights, sha256="1" * 64)
    manifest = world.manifest(ROWS)

    with pytest.raises(
        StoreMismatchError, match=r'weights_sha256: store "0{64}", this run "1{64}"'
    ):
        reproduce(world.teacher_url, manifest, teacher, device=CPU)
    found = reproduce(world.teacher_url, manifest, teacher, device=CPU, forced=True)

    assert found.is_reproduced
    assert next(reproduction_lines(found)).startswith(
        "WARNING: went on although this differs: weights_sha256"
    )


def test_a_manifest_of_another_window_is_told_by_what_it_changes(world):
    manifest = replace(world.manifest(ROWS), window_s=1.0)

    with pytest.raises(StoreMismatchError, match="stride_s: store 0.4, this run 0.25"):
        reproduce(world.teacher_url, manifest, MeanTeacher(), device=CPU)


def test_a_manifest_of_other_clips_is_told_even_with_force(world):
    manifest = world.manifest([{**ROWS[0], "segment_id": "other"}])

    with pytest.raises(EgoctlError, match="no row with data of a clip of this manifest"):
        reproduce(world.teacher_url, manifest, MeanTeacher(), device=CPU, forced=True)


def test_a_video_of_other_content_is_refused_by_the_clips_name(world):
    draw_colours(world.videos / "b.mp4", seconds=3, first=60)
    manifest = world.manifest(ROWS)

    with pytest.raises(StoreMismatchError, match="2 clips have a video with other content.*s2@0"):
        reproduce(world.teacher_url, manifest, MeanTeacher(), device=CPU)
    found = reproduce(world.teacher_url, manifest, MeanTeacher(), device=CPU, forced=True)

    assert not found.is_reproduced
    assert found.arrays["feature"].num_equal == 5


def test_an_imu_file_of_other_content_is_refused(world):
    write_imu(world.imu / "a.csv", seconds=4, seed=1)

    with pytest.raises(StoreMismatchError, match="5 clips have an IMU file with other content"):
        reproduce(world.inputs_url, world.manifest(ROWS), None, device=CPU)


def test_a_clip_that_cannot_be_read_any_more_is_no_success(world):
    (world.videos / "b.mp4").unlink()

    found = reproduce(world.teacher_url, world.manifest(ROWS), MeanTeacher(), device=CPU)

    assert len(found.failures) == 2
    assert found.failures[0].startswith("s2@0.000-2.000: ")
    assert found.arrays["feature"].num_equal == 5
    assert not found.is_reproduced


def test_rows_of_another_width_cannot_be_compared_even_with_force(world):
    manifest = world.manifest(ROWS)

    with pytest.raises(StoreMismatchError, match=r"logits has rows of shape \(5,\), .* \(6,\)"):
        teacher = MeanTeacher(num_classes=6)
        reproduce(world.teacher_url, manifest, teacher, device=CPU, forced=True)


@pytest.mark.parametrize(
    ("store", "teacher", "message"),
    [
        ("teacher.store", None, "of kind teacher; it needs --teacher"),
        ("inputs.store", MeanTeacher(), "of kind inputs; it has no teacher: leave --teacher out"),
    ],
)
def test_a_teacher_is_given_exactly_where_there_was_one(world, store, teacher, message):
    with pytest.raises(EgoctlError, match=message):
        reproduce(str(world.folder / store), world.manifest(ROWS), teacher, device=CPU)


def test_closeness_of_parts_is_that_of_the_whole():
    left = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    right = left + np.float32(0.1) * np.arange(5, dtype=np.float32)[:, None]
    whole = Closeness.of(left, right)

    joined = Closeness.joined(
        [Closeness.of(left[:2], right[:2]), Closeness.of(left[2:], right[2:])]
    )

    assert (joined.num_rows, joined.num_equal, joined.max_abs) == (5, 1, whole.max_abs)
    assert joined.min_cosine == whole.min_cosine
    assert joined.mean_cosine == pytest.approx(whole.mean_cosine, abs=1e-12)


def test_the_command_reads_a_store_in_a_bucket_and_ends_with_1_where_it_differs(
    world, s3, monkeypatch
):
    world.manifest(ROWS)
    monkeypatch.setattr(
        "egoctl.pipeline.teachers.lineup.load_teacher", lambda *_, **__: MeanTeacher()
    )
    there = f"{s3}/teacher.store"
    moved = CliRunner().invoke(cli.app, ["store", "merge", world.teacher_url, "--out", there])
    assert moved.exit_code == 0, moved.output
    args = ["--manifest", str(world.manifest_path), "--sample", "3", "--device", "cpu"]

    same = CliRunner().invoke(cli.app, ["store", "reproduce", there, "--teacher", "means", *args])
    changed_rows(world.inputs_url, "imu_mean", lambda mean: -mean)
    other = CliRunner().invoke(
        cli.app, ["store", "reproduce", world.inputs_url, "--json", *args[:2], "--device", "cpu"]
    )

    assert same.exit_code == 0, same.output
    assert "3 of 7 rows computed again:" in same.output
    assert other.exit_code == 1
    assert json.loads(other.output)["arrays"]["imu_mean"]["min_cosine"] == pytest.approx(-1.0)
