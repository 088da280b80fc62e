"""What a run can be asked for beyond the paper's defaults, and that shares of a batch are fair."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.pipeline.runs.checkpoint import load_checkpoint
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.student.clips.sources import open_sources, read_heldout_clips, read_train_clips
from egoctl.student.evaluation.evaluate import load_student
from egoctl.student.model.frame_selection import selected_frames
from egoctl.student.model.loss_config import LossConfig
from egoctl.student.training.student_method import StudentMethod
from egoctl.student.training.train import run_lines, train
from egoctl.student.training.train_batches import TrainBatches
from egoctl.tests.worlds.student_world import FRAMES, jpeg_of, make_world, metric_rows, weights

CPU = torch.device("cpu")
# Without BatchNorm and dropout in training, a mean over clips is all that joins them.
PLAIN = {"method": "visonly-distill", "freeze_image_encoder": True}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), unlabelled=("train-0", "train-4"))


def same(one, two) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# --- frames ---


def batches_of_split(world, *, image_feature_NFI=None, accumulate=1, num_workers=0):
    config = world.config(
        accumulate=accumulate,
        num_workers=num_workers,
        student={"method": "visonly-distill", "num_frames": 2, "frame_selection": "random"},
    )
    clips = read_train_clips(config, open_sources(config))
    encoded = dataclasses.replace(clips, image_feature_NFI=image_feature_NFI)
    return clips, TrainBatches(encoded, config, rank=0, num_ranks=1, device=CPU)


def drawn(epoch: int):
    return selected_frames(
        "random", num_frames=2, num_stored=FRAMES, num_clips=18, seed=0, epoch=epoch
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_frames_are_those_drawn_for_the_clip_in_that_epoch(world, num_workers):
    clips, batches = batches_of_split(world, accumulate=2, num_workers=num_workers)
    frames = batches.frames(range(4, 6), steps_done=2)

    shown = {4: batches.steps(4)[2:], 5: batches.steps(5)}
    for epoch, steps in shown.items():
        for share in (share for step in steps for share in step):
            # The grey level of a drawn frame, as jpeg_of gives it: 10 more for each later frame.
            levels = next(frames)[:, :, 0, 0, 0].int()
            for clip, level_F in zip(share.clip_B.tolist(), levels.tolist(), strict=True):
                first = 60 * (int(clips.segments[clips.segment_N[clip]].segment_id[-1]) % 3) + 20
                assert level_F == [first + 10 * frame for frame in drawn(epoch)[clip]]
    assert next(frames, None) is None


def test_random_frames_of_a_frozen_encoder_are_their_stored_features(world):
    feature_NFI = torch.arange(18 * FRAMES * 4.0).view(18, FRAMES, 4)
    _, batches = batches_of_split(world, image_feature_NFI=feature_NFI)
    share = batches.steps(3)[1][0]

    found_BFI = batches.image_feature(share, 3)

    assert batches.frames(range(3, 4), steps_done=0) is None
    for clip, feature_FI in zip(share.clip_B.tolist(), found_BFI, strict=True):
        assert torch.equal(feature_FI, feature_NFI[clip][drawn(3)[clip].tolist()])


def test_held_out_clips_keep_one_draw_of_random_frames(world):
    config = world.config(
        seed=5, student={"method": "visonly", "num_frames": 2, "frame_selection": "random"}
    )
    clips = read_heldout_clips(config, open_sources(config), "val", with_targets=False)

    picked = selected_frames(
        "random", num_frames=2, num_stored=FRAMES, num_clips=len(clips), seed=5, epoch=0
    )
    assert [bytes(jpeg) for jpeg in clips.jpegs.of(torch.tensor([7]).numpy())] == [
        jpeg_of(clips.clips[7], frame) for frame in picked[7]
    ]


@pytest.mark.parametrize(
    ("selection", "num_frames"),
    [("uniform", 3), ("first", 2), ("last", 2), ("center", 1), ("random", 2)],
)
@pytest.mark.parametrize("is_frozen", [False, True], ids=["trained", "frozen"])
def test_every_selection_of_frames_trains_and_is_evaluated(world, selection, num_frames, is_frozen):
    config = world.config(
        run=f"frames-{selection}-{is_frozen}",
        num_epochs=1,
        student={
            "method": "egodistill",
            "num_frames": num_frames,
            "frame_selection": selection,
            "freeze_image_encoder": is_frozen,
        },
    )

    result = train(config)

    assert result.best_top1 is not None
    assert load_student(config.run).config.frame_selection == selection


def test_uniform_frames_that_are_not_stored_are_refused_before_training(world):
    config = world.config(run="four", student={"method": "visonly-distill", "num_frames": 4})

    with pytest.raises(EgoctlError, match="4 uniform frames.*--frames 4 or 12; this one has 3"):
        train(config)


# --- shares of a batch ---


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_weighted_means_of_shares_are_the_means_of_the_step(world, num_ranks, accumulate):
    config = world.config(batch_size=12, accumulate=accumulate, student=PLAIN)
    clips = read_train_clips(config, open_sources(config))
    of_rank = [
        TrainBatches(
            clips,
            config,
            rank=rank,
            num_ranks=num_ranks,
            device=CPU,
        ).steps(1)
        for rank in range(num_ranks)
    ]
    value_N = torch.arange(18.0).double()

    for step in zip(*of_rank, strict=True):
        whole = torch.cat([share.clip_B for shares in step for share in shares])
        labelled = whole[clips.label_N[whole] >= 0]
        by_clip, by_label = 0.0, 0.0
        for share in (share for shares in step for share in shares):
            mine = share.clip_B[clips.label_N[share.clip_B] >= 0]
            by_clip += share.clip_weight * float(value_N[share.clip_B].mean()) / num_ranks
            if len(mine):
                by_label += share.label_weight * float(value_N[mine].mean()) / num_ranks
            assert share.num_step_clips == len(whole)
        assert by_clip == pytest.approx(float(value_N[whole].mean()))
        assert by_label == pytest.approx(float(value_N[labelled].mean()))
        assert all(len(shares) <= accumulate for shares in step)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_batch_in_shares_trains_like_the_whole_batch(world, accumulate):
    options = {"batch_size": 9, "loss": LossConfig(alpha=0.5), "student": PLAIN}
    whole = world.config(run=f"whole-{accumulate}", **options)
    shares = world.config(run=f"shares-{accumulate}", accumulate=accumulate, **options)
    train(whole)

    train(shares)

    one, two = weights(whole.run), weights(shares.run)
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    for left, right in zip(metric_rows(whole.run), metric_rows(shares.run), strict=True):
        for name in ("loss", "kd", "gt", "l1", "train_top1"):
            assert right[name] == pytest.approx(left[name], rel=1e-4)


def test_a_batch_that_processes_cannot_share_equally_is_refused(world):
    config = world.config(batch_size=6, student=PLAIN)
    clips = read_train_clips(config, open_sources(config))

    with pytest.raises(EgoctlError, match="batch of 6 clips cannot be shared equally by 4 proces"):
        TrainBatches(clips, config, rank=0, num_ranks=4, device=CPU)


# --- moving average ---


def test_the_moving_average_is_the_slow_one_and_is_what_is_evaluated(world, monkeypatch):
    config = world.config(run="ema", ema_decay=0.75)
    seen = []
    real = EpochLoop._step

    def step(self, *args):
        if not seen:
            seen.append({k: v.clone().double() for k, v in self._module.state_dict().items()})
        found = real(self, *args)
        seen.append({k: v.clone().double() for k, v in self._module.state_dict().items()})
        return found

    monkeypatch.setattr(EpochLoop, "_step", step)
    train(config)

    slow = seen[0]
    for after in seen[1:]:
        slow = {name: 0.75 * slow[name] + 0.25 * after[name] for name in slow}
    kept = load_checkpoint(Path(config.run) / "checkpoints" / "last", where="run")
    assert len(seen) == 7  # two epochs of three steps
    for name, value in weights(config.run).items():
        if value.is_floating_point():
            assert torch.allclose(value.double(), slow[name], atol=1e-6), name
        assert torch.equal(kept.weights[name].double(), seen[-1][name])
    best = weights(config.run, "best")
    assert same(load_student(config.run).state_dict(), best)
    assert not same(best, kept.weights)


def test_the_average_leaves_what_is_frozen_alone_and_validation_gives_the_weights_back(world):
    config = world.config(
        run="ema-frozen", num_epochs=1, ema_decay=0.9, student={"freeze_image_encoder": True}
        | {"method": "egodistill"},
    )  # fmt: skip

    train(config)

    kept = load_checkpoint(Path(config.run) / "checkpoints" / "last", where="run")
    frozen = [name for name in kept.weights if name.startswith("image.")]
    assert frozen and all(torch.equal(kept.weights[n], kept.average[n]) for n in frozen)
    assert not torch.equal(kept.weights["to_logits.weight"], kept.average["to_logits.weight"])


# --- stopping early ---


def test_a_run_without_progress_stops_early_and_stays_stopped(world, monkeypatch):
    accuracies = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(
        StudentMethod,
        "validated",
        lambda self, row: dataclasses.replace(row, val_top1=next(accuracies)),
    )
    config = world.config(run="early", num_epochs=5, early_stopping=2)

    result = train(config)

    assert (result.epochs_done, result.best_epoch, result.best_top1) == (4, 2, 0.6)
    assert "no better epoch than 2" in (Path(config.run) / "train.log").read_text()
    again = train(config)
    assert (again.epochs_done, again.last) == (4, None)


def test_stopping_early_needs_a_val_split(tmp_path):
    world = make_world(tmp_path, splits=("train",))

    with pytest.raises(EgoctlError, match="--early-stopping looks at accuracy on split 'val'"):
        train(world.config(early_stopping=3))


def test_a_val_split_without_a_usable_clip_is_told_and_cannot_stop_a_run(tmp_path):
    world = make_world(tmp_path, splits=("train",))
    manifest = read_manifest(world.config().manifest)
    # Segments that nothing was extracted of, as EPIC's val split has no IMU.
    absent = [
        dataclasses.replace(s, segment_id=f"{s.segment_id}-val", start_s=s.start_s + 100,
                            stop_s=s.stop_s + 100, split="val")
        for s in manifest.segments[:3]
    ]  # fmt: skip
    segments = (*manifest.segments, *absent)
    write_manifest(dataclasses.replace(manifest, segments=segments), world.config().manifest)

    with pytest.raises(EgoctlError, match=r"and no clip of it can be used \(left out: \{.*: 6\}\)"):
        train(world.config(early_stopping=3))
    lines = list(run_lines(train(world.config(num_epochs=1))))

    assert any(line.startswith("Left out, val clips: ") for line in lines)
    assert lines[-1].startswith("No clip of the val split could be scored")


# --- other ways to compute ---


def test_a_compiled_student_trains_like_a_plain_one(world, monkeypatch):
    real = torch.compile
    # Traced as always, but run by PyTorch: making C++ of it takes a minute.
    monkeypatch.setattr(torch, "compile", lambda net, backend="eager": real(net, backend=backend))
    plain = world.config(run="plain")
    compiled = world.config(run="compiled", compile=True)
    train(plain)

    train(compiled)

    one, two = weights(plain.run), weights(compiled.run)
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_the_full_form_of_the_last_step_sees_every_position_in_training_alone(world):
    runs = {
        form: world.config(run=f"imu-{form}", num_epochs=1, student={"imu_last_form": form})
        for form in ("exact", "full")
    }
    for config in runs.values():
        train(config)

    one, two = (weights(config.run) for config in runs.values())
    assert one.keys() == two.keys()
    assert not torch.equal(one["imu.cnn.14.running_mean"], two["imu.cnn.14.running_mean"])


# --- settings that came later ---


def test_a_run_from_before_these_settings_goes_on(world):
    config = world.config(run="older", num_epochs=2)
    train(config)
    file = Path(config.run) / "config.json"
    record = json.loads(file.read_text())
    before = weights(config.run)
    for name in ("accumulate", "ema_decay", "early_stopping", "compile", "save_every_steps"):
        del record["train"][name]
    for shape in (record["train"]["student"], record["student"]):
        del shape["frame_selection"], shape["imu_last_form"]
    file.write_text(json.dumps(record))

    result = train(config)

    assert (result.epochs_done, result.last) == (2, None)
    assert same(before, weights(config.run))
    assert json.loads(file.read_text())["train"]["accumulate"] == 1
    with pytest.raises(EgoctlError, match="train.accumulate: run 1, now 2"):
        train(dataclasses.replace(config, accumulate=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [("accumulate", 0), ("early_stopping", 0), ("save_every_steps", 0), ("ema_decay", 1.0)],
)
def test_an_impossible_option_is_refused_by_name(world, field, value):
    with pytest.raises(EgoctlError, match=field):
        world.config(**{field: value})
