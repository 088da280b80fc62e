"""Training: what is read, what is refused, and that a killed run goes on as if nothing was."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

import egoctl.student.train as train_module
from egoctl.pipeline.errors import EgoctlError, StoreError, StoreMismatchError
from egoctl.pipeline.records import Clip
from egoctl.pipeline.store import FeatureStore
from egoctl.student import checkpoint
from egoctl.student.checkpoint import Checkpoint, Progress
from egoctl.student.data import pick_frames, read_clips
from egoctl.student.epochs import batches_of, epoch_order
from egoctl.student.losses import LossConfig
from egoctl.student.model import METHODS
from egoctl.student.schedule import learning_rate
from egoctl.student.split import open_sources
from egoctl.student.train import train
from egoctl.student.train_config import TrainConfig
from egoctl.tests.student_world import feature_of, imu_of, logits_of, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(run_dir, name="last"):
    return safetensors.torch.load_file(run_dir / "checkpoints" / name / "model.safetensors")


def metric_rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


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


# --- reading ---


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


def test_frames_are_those_nearest_to_the_middles_of_equal_bins():
    clip = Clip(clip_id="c", segment_id="s", video_id="v", start_s=10.0, stop_s=18.0)
    stored = np.array([11.0, 13.0, 15.0, 17.0])

    assert pick_frames(clip, stored, 4).tolist() == [0, 1, 2, 3]
    assert pick_frames(clip, stored, 2).tolist() == [0, 2]  # 12 and 16: the earlier of two
    assert pick_frames(clip, stored, 1).tolist() == [1]
    assert pick_frames(clip, np.array([10.1, 14.2, 17.0]), 1).tolist() == [1]


def test_more_frames_than_are_stored_are_refused(world):
    with pytest.raises(EgoctlError, match="holds 3 frames of a clip, but --frames is 4"):
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


# --- epochs and rates ---


def test_an_epoch_over_clips_is_a_permutation_that_depends_on_seed_and_epoch():
    segments = torch.arange(50) // 2

    one = epoch_order(segments, "clips", seed=1, epoch=1)

    assert sorted(one.tolist()) == list(range(50))
    assert torch.equal(one, epoch_order(segments, "clips", seed=1, epoch=1))
    assert not torch.equal(one, epoch_order(segments, "clips", seed=1, epoch=2))
    assert not torch.equal(one, epoch_order(segments, "clips", seed=2, epoch=1))


def test_an_epoch_over_segments_takes_one_random_clip_of_each():
    segments = torch.tensor([0, 0, 0, 2, 2, 2, 5])

    orders = [epoch_order(segments, "segments", seed=0, epoch=epoch) for epoch in range(40)]

    assert all(sorted(segments[order].tolist()) == [0, 2, 5] for order in orders)
    assert {int(index) for order in orders for index in order} == set(range(7))


def test_processes_share_every_epoch_in_equal_parts():
    order = torch.arange(21)

    ranks = [batches_of(order, batch_size=8, rank=rank, num_ranks=2) for rank in (0, 1)]

    assert [[len(batch) for batch in batches] for batches in ranks] == [[4, 4, 3], [4, 4, 3]]
    seen = torch.cat([torch.cat(batches) for batches in ranks])
    assert sorted(seen.tolist()) == sorted([*range(21), 0])


def test_a_last_batch_of_one_joins_the_one_before():
    batches = batches_of(torch.arange(9), batch_size=4, rank=0, num_ranks=1)

    assert [len(batch) for batch in batches] == [4, 5]


def test_the_papers_rate_falls_to_a_tenth_at_60_and_80_percent_of_the_epochs():
    rates = [
        learning_rate("steps", 1e-4, step=epoch * 3, steps_per_epoch=3, num_epochs=50)
        for epoch in (0, 29, 30, 39, 40, 49)
    ]

    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6])


def test_onecycle_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    found = [
        learning_rate("onecycle", 1e-3, step=step, steps_per_epoch=4, num_epochs=10)
        for step in range(40)
    ]

    assert found == pytest.approx(expected, rel=1e-6)


# --- training ---


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_leaves_a_whole_run(world, method):
    config = world.config(
        run=f"run-{method}", num_epochs=1, student={"method": method, "freeze_image_encoder": True}
    )

    result = train(config)

    assert (result.epochs_done, result.num_clips, result.num_segments) == (1, 18, 9)
    assert json.loads((config.run_dir / "config.json").read_text())["train"]["seed"] == 0
    row = metric_rows(config.run_dir)[0]
    assert row["loss"] > 0
    assert (row["kd"] > 0) == (row["l1"] > 0) == METHODS[method].distills
    for name in ("best", "last"):
        files = sorted(path.name for path in (config.run_dir / "checkpoints" / name).iterdir())
        assert files == ["model.safetensors", "optimizer.pt", "state.json"]


def test_a_student_learns_what_the_imu_tells(world):
    config = world.config(
        run="learns",
        num_epochs=30,
        schedule="onecycle",
        loss=LossConfig(l1_reduction="mean"),
    )

    result = train(config)

    assert result.best_top1 == 1.0
    rows = metric_rows(config.run_dir)
    assert rows[-1]["kd"] < 0.5 * rows[0]["kd"]


def test_an_image_encoder_that_is_not_frozen_is_trained_on_decoded_frames(world):
    config = world.config(run="trains-image", num_epochs=1, student={"method": "visonly-distill"})

    train(config)

    found = weights(config.run_dir)
    assert found["image.net.bn1.num_batches_tracked"] == 3  # 18 clips in batches of 6
    assert found["image_std_I"].unique().tolist() == [1.0]


@pytest.mark.parametrize(("cache_frames", "num_workers"), [("ram", 2), ("disk", 0), ("none", 0)])
def test_where_frames_are_kept_and_who_decodes_them_changes_no_weight(
    world, tmp_path, monkeypatch, cache_frames, num_workers
):
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path))
    plain = world.config(run=f"plain-{cache_frames}", student={"method": "egodistill"})
    other = world.config(
        run=f"kept-{cache_frames}",
        student={"method": "egodistill"},
        cache_frames=cache_frames,
        num_workers=num_workers,
    )

    train(plain)
    train(other)

    one, two = weights(plain.run_dir), weights(other.run_dir)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row["val_top1"] for row in metric_rows(plain.run_dir)] == [
        row["val_top1"] for row in metric_rows(other.run_dir)
    ]


def test_a_killed_run_goes_on_to_the_same_bits_with_workers_that_had_gone_ahead(world, monkeypatch):
    options = {"num_epochs": 3, "student": {"method": "visonly"}}
    alone = world.config(run="alone-ahead", **options)
    killed = world.config(run="killed-ahead", num_workers=1, **options)
    train(alone)

    killed_in_epoch(killed, 2, monkeypatch)
    train(killed)

    one, two = weights(alone.run_dir), weights(killed.run_dir)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_frozen_features_are_standardised_with_the_train_split_and_kept(world, tmp_path):
    config = world.config(
        run="frozen",
        num_epochs=1,
        feature_cache=tmp_path / "cache",
        student={"method": "egodistill", "freeze_image_encoder": True},
    )

    train(config)

    found = weights(config.run_dir)
    cached = [np.load(file) for file in sorted((tmp_path / "cache").iterdir())]
    assert [array.shape for array in cached] == [(18, 1, 512), (18, 1, 512)]  # train and val
    means = [np.allclose(found["image_mean_I"], each[:, 0].mean(axis=0)) for each in cached]
    assert sorted(means) == [False, True]


def test_a_feature_cache_gives_the_same_run(world, tmp_path, monkeypatch):
    options = {
        "num_epochs": 1,
        "feature_cache": tmp_path / "cache",
        "student": {"method": "egodistill", "freeze_image_encoder": True},
    }
    train(world.config(run="cache-filled", **options))
    monkeypatch.setattr("egoctl.student.frames.decode_frames", None)  # nothing is decoded again

    train(world.config(run="cache-used", **options))

    one, two = weights(world.folder / "cache-filled"), weights(world.folder / "cache-used")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_standardised_targets_keep_their_statistics_with_the_weights(world):
    config = world.config(run="standard", num_epochs=1, loss=LossConfig(standardise_targets=True))

    train(config)

    # A third of the clips has a 2 in dimension 0; dimension 5 never varies.
    found = weights(config.run_dir)
    assert found["target_mean_D"][0].item() == pytest.approx(2 / 3)
    assert found["target_std_D"][5].item() == pytest.approx(1e-6)


def test_bf16_mixed_precision_trains_with_float32_weights(world):
    config = world.config(run="bf16", num_epochs=1, precision="bf16-mixed")

    result = train(config)

    assert np.isfinite(result.last.loss)
    assert {value.dtype for name, value in weights(config.run_dir).items() if "weight" in name} == {
        torch.float32
    }


def test_without_a_val_split_the_best_epoch_is_the_last(tmp_path):
    world = make_world(tmp_path, splits=("train",))

    result = train(world.config())

    assert (result.best_epoch, result.best_top1) == (2, None)
    last, best = weights(tmp_path / "run"), weights(tmp_path / "run", "best")
    assert all(torch.equal(last[name], best[name]) for name in last)


def test_left_out_clips_are_said_and_logged(tmp_path, capsys):
    world = make_world(tmp_path, splits=("train",), failed={"train-0": "video_unreadable"})

    result = train(world.config(num_epochs=1))

    line = "left out of train: 2 clips (inputs: video_unreadable)"
    assert result.left_out == {"inputs: video_unreadable": 2}
    assert line in capsys.readouterr().err
    assert line in (tmp_path / "run" / "train.log").read_text()


# --- blown up ---


def test_a_loss_that_is_not_finite_ends_training_before_a_checkpoint(world, monkeypatch):
    real = train_module.student_loss
    steps = []

    def loss(*args, **kwargs):
        steps.append(1)
        found = real(*args, **kwargs)
        # Three steps an epoch, so this is the second of epoch 2.
        return found._replace(total=found.total * float("nan")) if len(steps) == 5 else found

    monkeypatch.setattr(train_module, "student_loss", loss)
    config = world.config(run="blown-up", num_epochs=3)

    with pytest.raises(EgoctlError, match="epoch 2: loss nan.*lower learning rate.*store verify"):
        train(config)

    assert [row["epoch"] for row in metric_rows(config.run_dir)] == [1]
    assert all(value.isfinite().all() for value in weights(config.run_dir).values())


def test_weights_spoilt_by_an_epochs_last_step_are_not_saved(world, monkeypatch):
    real = train_module.student_loss
    steps = []

    def loss(*args, **kwargs):
        steps.append(1)
        found = real(*args, **kwargs)
        if len(steps) == 3:  # the loss is finite, its gradient is not
            found.total.register_hook(lambda gradient: gradient * float("nan"))
        return found

    monkeypatch.setattr(train_module, "student_loss", loss)
    config = world.config(run="spoilt")

    with pytest.raises(EgoctlError, match=r"epoch 1: loss \d.*weights not finite"):
        train(config)

    assert not (config.run_dir / "checkpoints" / "last").exists()


# --- going on ---


def killed_in_epoch(config: TrainConfig, epoch: int, monkeypatch) -> None:
    real = train_module._train_epoch

    def dies(*args):
        if args[-1] == epoch:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "_train_epoch", dies)
        train(config)


@pytest.mark.parametrize("schedule", ["steps", "onecycle"])
def test_a_killed_run_that_goes_on_ends_bit_for_bit_like_one_left_alone(
    world, monkeypatch, schedule
):
    options = {"num_epochs": 4, "schedule": schedule, "epoch_over": "segments"}
    alone = world.config(run=f"alone-{schedule}", **options)
    killed = world.config(run=f"killed-{schedule}", **options)
    train(alone)

    killed_in_epoch(killed, 3, monkeypatch)
    train(killed)

    for name in ("last", "best"):
        one, two = weights(alone.run_dir, name), weights(killed.run_dir, name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    timeless = [
        [{k: v for k, v in row.items() if k != "clips_per_s"} for row in metric_rows(run.run_dir)]
        for run in (alone, killed)
    ]
    assert timeless[0] == timeless[1]


def test_metrics_of_an_epoch_without_a_checkpoint_are_written_once(world, monkeypatch):
    config = world.config(run="between", num_epochs=3)
    killed_in_epoch(config, 2, monkeypatch)
    with (config.run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "loss": 1.')  # killed while writing

    train(config)

    assert [row["epoch"] for row in metric_rows(config.run_dir)] == [1, 2, 3]


def test_a_finished_run_is_left_as_it_is(world):
    config = world.config(run="finished")
    train(config)
    before = weights(config.run_dir)

    result = train(config)

    assert (result.epochs_done, result.last) == (2, None)
    assert all(torch.equal(before[name], weights(config.run_dir)[name]) for name in before)


def test_a_run_folder_with_another_config_names_the_fields_that_differ(world):
    train(world.config(run="taken"))

    with pytest.raises(EgoctlError, match="train.learning_rate: run 0.01, now 0.02") as caught:
        train(world.config(run="taken", learning_rate=0.02, loss=LossConfig(tau=4.0)))

    assert "train.loss.tau: run 1.0, now 4.0" in str(caught.value)
    assert "seed" not in str(caught.value)


def test_stores_may_move_but_not_change_under_a_run(tmp_path):
    world = make_world(tmp_path / "a", splits=("train",))
    train(world.config())
    shutil.copytree(tmp_path / "a" / "teacher.store", tmp_path / "moved.store")
    moved = world.config(teacher=str(tmp_path / "moved.store"))

    assert train(moved).epochs_done == 2

    other = make_world(tmp_path / "b", splits=("train",), failed={"train-0": "lost"})
    with pytest.raises(EgoctlError, match="digests.train.teacher"):
        train(world.config(teacher=other.teacher.url, inputs=other.inputs.url))


# --- refusals ---


def test_kd_from_a_teacher_of_other_classes_is_refused(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("a", "b", "c", "d"))

    with pytest.raises(StoreMismatchError) as caught:
        train(world.config())

    assert str(caught.value) == (
        f"KD needs the same classes in {world.folder / 'manifest.parquet'} and in "
        f"{world.teacher.url}: the manifest has 3 classes, the teacher 4; only the manifest has "
        "'cut', 'stir', 'wash'; only the teacher has 'a', 'b', 'c' and 1 more. "
        "Pass --alpha 0 to learn from labels and L1 only."
    )


def test_a_manifest_without_classes_is_refused(tmp_path):
    segments = tuple(f"train-{index}" for index in range(9))
    world = make_world(tmp_path, splits=("train",), class_names=(), unlabelled=segments)

    with pytest.raises(EgoctlError, match="has no classes.*'egoctl manifest build folder ANN.csv'"):
        train(world.config())


def test_without_kd_a_teacher_of_other_classes_gives_its_features(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("a", "b", "c", "d"))

    result = train(world.config(num_epochs=1, loss=LossConfig(alpha=0.0)))

    assert (result.last.kd, result.last.l1 > 0, result.last.gt > 0) == (0, True, True)


def test_the_same_number_of_classes_with_other_names_is_not_the_same(tmp_path):
    world = make_world(tmp_path, splits=("train",), teacher_classes=("stir", "cut", "wash"))

    assert not open_sources(world.config()).teacher_has_our_classes()
    with pytest.raises(StoreMismatchError, match=": the same names in another order.*--alpha 0"):
        train(world.config())


def test_a_method_that_distills_needs_a_teacher(world):
    with pytest.raises(EgoctlError, match="imuonly-distill learns from a teacher"):
        world.config(teacher=None)


def test_a_method_on_labels_does_without_a_teacher(world):
    config = world.config(
        run="no-teacher", teacher=None, num_epochs=1, student={"method": "imuonly"}
    )

    assert train(config).epochs_done == 1


def test_a_device_that_is_not_there_is_refused(world, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(EgoctlError, match="no cuda device"):
        train(world.config(device="cuda"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("schedule", "cosine"), ("num_epochs", 0), ("batch_size", 1), ("learning_rate", 0.0)],
)
def test_an_impossible_run_is_refused_by_name(world, field, value):
    with pytest.raises(EgoctlError, match=field):
        world.config(**{field: value})


def test_a_config_survives_json(world, tmp_path):
    config = world.config(feature_cache=tmp_path, loss=LossConfig(tau=4.0))

    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_config_of_a_run_from_before_frames_had_a_choice_of_place_is_read(world):
    values = world.config().to_json()
    del values["cache_frames"]

    assert TrainConfig.from_json(values).cache_frames == "ram"


# --- checkpoints ---


def example(epoch: int) -> Checkpoint:
    return Checkpoint(
        weights={"w": torch.full((2,), float(epoch))},
        optimizer={"state": {0: {"step": torch.tensor(float(epoch))}}, "param_groups": []},
        progress=Progress(epochs_done=epoch, best_epoch=epoch, best_top1=0.5),
    )


@pytest.mark.parametrize("step", ["save_file", "first rename", "second rename", "rmtree"])
def test_a_kill_at_any_step_of_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, step):
    folder = tmp_path / "last"
    checkpoint.save_checkpoint(folder, example(1))
    path_type = type(folder)
    real_rename = path_type.rename

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    def die_into(target):
        def rename(self, to):
            if to.name == target:
                raise KeyboardInterrupt
            return real_rename(self, to)

        return rename

    with monkeypatch.context() as patch:
        if step == "save_file":
            patch.setattr(safetensors.torch, "save_file", die)
        elif step == "rmtree":
            patch.setattr(shutil, "rmtree", lambda path, **_: die() if path.exists() else None)
        else:
            target = ".last.old" if step == "first rename" else "last"
            patch.setattr(path_type, "rename", die_into(target))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save_checkpoint(folder, example(2))

    found = checkpoint.load_checkpoint(checkpoint.find_checkpoint(folder))
    assert found.progress.epochs_done == (2 if step == "rmtree" else 1)
    checkpoint.save_checkpoint(folder, example(3))
    assert checkpoint.load_checkpoint(folder).weights["w"].tolist() == [3.0, 3.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    checkpoint.save_checkpoint(tmp_path / "last", example(1))
    (tmp_path / "last" / "optimizer.pt").write_bytes(b"not a checkpoint")

    with pytest.raises(EgoctlError, match="checkpoint .*last is damaged"):
        checkpoint.load_checkpoint(tmp_path / "last")
