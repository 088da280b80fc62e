"""Fine-tuning: what is learnt, what stays as it was, and what is told of clips that fail."""

# B batch, C classes, T frames

import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from egoctl.cli import app
from egoctl.pipeline.devices import fabric_on
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.finetuning.clips import centred, drawn, examples_of, read
from egoctl.pipeline.finetuning.config import Augment
from egoctl.pipeline.finetuning.draws import Draw, draw_of, steps_of
from egoctl.pipeline.finetuning.report import caveats
from egoctl.pipeline.finetuning.trainee import checkpoint_blocks, fit_of, set_classes
from egoctl.pipeline.manifest import read_manifest, write_manifest
from egoctl.pipeline.reading.clip_job import TeacherView, teacher_view
from egoctl.pipeline.runs.checkpoint import load_checkpoint, load_weights
from egoctl.pipeline.runs.epoch_loop import EpochLoop
from egoctl.pipeline.sampling import frame_times
from egoctl.pipeline.schedule import learning_rate
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.teachers.checkpoints import read_checkpoint, save_checkpoint
from egoctl.pipeline.teachers.protocol import targets
from egoctl.pipeline.teachers.weights import Misfits, WeightsInfo
from egoctl.pipeline.trained_on import TrainedOn
from egoctl.pipeline.video.pyav_clips import FrameView
from egoctl.tests.worlds import finetune_world
from egoctl.tests.worlds.finetune_world import (
    CLASSES,
    TINY,
    WINDOW_S,
    TinyNet,
    config_in,
    fitted,
    load_tiny,
    make_manifest,
    metrics,
    run_in,
    same_bits,
    tiny_spec,
)

pytest_plugins = ("egoctl.tests.worlds.finetune_colours",)
pytestmark = pytest.mark.usefixtures("tiny")

CPU = torch.device("cpu")
SIDES = (24, 30)


# --- the whole run ---


def test_a_teacher_learns_to_tell_colours_and_extraction_takes_its_weights(folder):
    config = config_in(folder, "learns", num_epochs=8, learning_rate=3e-2)

    report, _ = fitted(config)

    rows = metrics(config)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert (report.best_top1, report.is_clean, report.num_classes) == (1.0, True, 3)
    assert rows[report.best_epoch - 1]["val_top1"] == 1.0
    teacher = lineup.load_teacher("tiny", weights=report.weights, device=CPU)
    manifest = read_manifest(config.manifest)
    view = teacher_view(tiny_spec("tiny"), WINDOW_S)
    for example in examples_of(manifest, "val"):
        frames = read(centred(example, view, window_s=WINDOW_S))
        assert isinstance(frames, np.ndarray)
        said = targets(teacher, torch.from_numpy(frames[None]))
        assert said.logits_NC.argmax() == example.label
    assert teacher.weights.class_names == CLASSES


def test_the_weights_tell_which_footage_they_saw_and_what_their_source_saw_before(folder):
    first, _ = fitted(config_in(folder, "first", num_epochs=1))

    second, _ = fitted(config_in(folder, "second", num_epochs=1, weights=first.weights))

    seen = read_checkpoint(Path(first.weights)).trained_on
    train = [s for s in read_manifest(folder / "clips.parquet").segments if s.split == "train"]
    assert seen == TrainedOn.of_segments(train, dataset="colours")
    again = read_checkpoint(Path(second.weights)).trained_on
    assert again is not None and seen is not None
    assert again == replace(seen, num_segments=24)


def test_without_a_val_split_the_last_epoch_is_taken(tmp_path):
    make_manifest(tmp_path, num_train=4, num_val=0)

    report, _ = fitted(config_in(tmp_path, "run"))

    assert (report.best_epoch, report.best_top1, report.num_held_out) == (2, None, 0)


def test_a_video_that_cannot_be_read_is_named_and_its_batch_goes_on_without_it(tmp_path):
    make_manifest(tmp_path)
    (tmp_path / "video05.mp4").unlink()
    (tmp_path / "video13.mp4").write_bytes(b"no video")
    config = config_in(tmp_path, "run")

    report, _ = fitted(config)

    assert sorted(report.unread) == ["segment05", "segment13"]
    assert report.unread["segment05"].startswith("video_missing: ")
    assert not report.is_clean
    assert "2 of 18 segments could not be read" in report.lines()[1]
    assert [row["clips"] for row in metrics(config)] == [11, 11]
    assert fitted(config)[0].unread == report.unread, "a finished run still tells"


def test_the_command_ends_in_1_where_a_video_cannot_be_read_and_tells_of_it_as_json(tmp_path):
    make_manifest(tmp_path, num_train=4, num_val=0)
    (tmp_path / "video01.mp4").unlink()
    words = ["finetune-teacher", str(tmp_path / "clips.parquet"), "--teacher", "tiny"]
    words += ["--weights", "random:0", "--run", str(tmp_path / "run"), "--epochs", "1"]

    result = CliRunner().invoke(app, [*words, "--device", "cpu", "--json"])

    assert result.exit_code == 1
    assert list(json.loads(result.stdout)["unread"]) == ["segment01"]


def test_a_manifest_without_labels_in_the_split_names_the_splits_it_has(folder):
    with pytest.raises(EgoctlError, match="no split 'traini'; it has.*train, val"):
        fitted(config_in(folder, "none", train_split="traini"))


def test_segments_of_one_class_are_refused_as_there_is_nothing_to_tell_apart(folder):
    manifest = read_manifest(folder / "clips.parquet")
    reds = tuple(segment for segment in manifest.segments if segment.label == 0)
    write_manifest(replace(manifest, segments=reds), folder / "reds.parquet")

    with pytest.raises(EgoctlError, match="of split 'train' are all of class 'red'"):
        fitted(replace(config_in(folder, "reds"), manifest=str(folder / "reds.parquet")))


def test_a_train_split_of_which_nothing_can_be_read_is_refused_with_a_reason(tmp_path):
    make_manifest(tmp_path, num_train=4, num_val=2)
    for number in range(4):
        (tmp_path / f"video0{number}.mp4").unlink()

    with pytest.raises(EgoctlError, match="'train' could be read; 'segment0.': video_missing: "):
        fitted(config_in(tmp_path, "run"))


@pytest.mark.parametrize(
    ("weights", "labels", "said"),
    [
        ({"is_random": True}, {0, 1, 2}, []),
        ({"is_random": True}, {0}, ["2 of 3 classes have no segment to learn from: "
                                    "'green', 'blue'"]),
        ({}, {0, 1, 2}, ["the weights do not record what footage they were fitted to before; "
                         "those of this run will record this run alone"]),
        ({"is_random": True, "misfits": Misfits(missing=("a",), unexpected=(), misshapen=())},
         {0, 1, 2},
         ["weights loaded in part: 1 missing (a); 0 unexpected; 0 of another shape"]),
    ],
)  # fmt: skip
def test_what_to_know_before_the_first_step_is_said(weights, labels, said):
    told = {"source": "file", "sha256": "", "is_random": False, "class_names": None}

    assert list(caveats(WeightsInfo(**{**told, **weights}), CLASSES, labels)) == said


def test_a_teacher_without_a_body_of_its_own_is_refused(folder, monkeypatch):
    class Asked:
        spec = tiny_spec("asked")

    source = replace(TINY, names=("asked",), load=lambda name, **_: Asked())
    monkeypatch.setattr(lineup, "SOURCES", (source,))

    with pytest.raises(EgoctlError, match="asked can only be asked, not fitted"):
        fitted(config_in(folder, "asked", teacher="asked"))


def test_a_rate_that_blows_the_training_up_ends_it_with_advice(folder):
    with pytest.raises(EgoctlError, match="no longer finite.*lower --lr"):
        fitted(config_in(folder, "blown", learning_rate=1e30, num_epochs=3))


# --- heads ---


def test_a_head_of_the_manifests_classes_is_kept_and_any_other_is_made_anew(folder):
    first, weights = fitted(config_in(folder, "heads", num_epochs=1))
    manifest = read_manifest(folder / "clips.parquet")
    renamed = replace(manifest, class_names=("red", "green", "cyan"))
    write_manifest(renamed, folder / "renamed.parquet")
    still = {"weights": first.weights, "num_epochs": 1, "learning_rate": 1e-12, "head_only": True}

    _, kept = fitted(config_in(folder, "kept", **still))
    changed = config_in(folder, "anew", **still)
    _, anew = fitted(replace(changed, manifest=str(folder / "renamed.parquet")))

    torch.testing.assert_close(kept["classifier.weight"], weights["classifier.weight"])
    assert (anew["classifier.weight"] - weights["classifier.weight"]).abs().max() > 1e-2
    assert weights["classifier.weight"].shape == (3, 12), "made from seven"


def test_head_only_leaves_the_body_and_its_batchnorm_as_they_were(folder):
    before = load_tiny("tiny", weights="random:0", device=CPU).state()

    report, after = fitted(config_in(folder, "head", head_only=True, num_epochs=3))

    body = [name for name in before if not name.startswith("classifier.")]
    assert any("running_mean" in name for name in body)
    assert all(torch.equal(before[name], after[name]) for name in body)
    assert not torch.equal(after["classifier.bias"], torch.zeros(3))
    assert report.epochs_done == 3


def test_a_head_only_run_decodes_every_clip_once(folder, monkeypatch):
    from egoctl.pipeline.finetuning import clips as finetune_clips

    wishes = []
    real = finetune_clips.read
    monkeypatch.setattr(finetune_clips, "read", lambda wish: (wishes.append(wish), real(wish))[1])

    fitted(config_in(folder, "once", head_only=True, num_epochs=3))

    assert len(wishes) == len({wish.source.clip.segment_id for wish in wishes}) == 18


# --- a frozen stem ---


def test_of_a_frozen_stem_every_clip_is_decoded_once_and_all_else_is_trained(folder, monkeypatch):
    from egoctl.pipeline.finetuning import clips as finetune_clips

    wishes = []
    real = finetune_clips.read
    monkeypatch.setattr(finetune_clips, "read", lambda wish: (wishes.append(wish), real(wish))[1])
    before = load_tiny("tiny_stem", weights="random:0", device=CPU).state()

    _, after = fitted(config_in(folder, "stem", teacher="tiny_stem", num_epochs=3))

    assert len(wishes) == 18
    # 1.2 s hold 6 frames of 0.2 s; held-out clips are the teacher's 4.
    assert {wish.view.num_frames for wish in wishes[:12]} == {6}
    assert {wish.view.num_frames for wish in wishes[12:]} == {4}
    assert not torch.equal(after["blocks.0.0.weight"], before["blocks.0.0.weight"])


def test_a_draw_takes_a_run_of_a_stem_and_mirrors_it():
    teacher = load_tiny("tiny_stem", weights="random:0", device=CPU)
    stem_TCHW = torch.arange(6.0)[:, None, None, None] + torch.tensor([0.0, 0.5])
    fit = fit_of(teacher, head_only=False)

    def varied(window: float, *, is_mirrored: bool) -> torch.Tensor:
        draw = Draw(window=window, is_mirrored=is_mirrored, short_side_px=24, crop_at=(0.5, 0.5))
        varied_TCHW: torch.Tensor = fit.vary((stem_TCHW,), draw)[0]
        return varied_TCHW[:, 0, 0]

    assert varied(0.0, is_mirrored=False).tolist() == [[0, 0.5], [1, 1.5], [2, 2.5], [3, 3.5]]
    assert varied(0.99, is_mirrored=True).tolist() == [[2.5, 2], [3.5, 3], [4.5, 4], [5.5, 5]]


def test_what_is_computed_once_is_for_one_device(folder):
    with pytest.raises(EgoctlError, match="--devices 1"):
        config_in(folder, "two", head_only=True, num_devices=2)


def test_a_processor_with_a_number_is_one_device(folder):
    fabric = fabric_on(device="cpu:0", num_devices=1, precision="32-true")

    assert (fabric.device, fabric.world_size) == (CPU, 1)
    with pytest.raises(EgoctlError, match="cpu:0 is one device, and --devices asks for 2"):
        fabric_on(device="cpu:0", num_devices=2, precision="32-true")


# --- draws ---


def test_a_draw_hangs_on_seed_epoch_and_clip_alone():
    def draw(seed: int, epoch: int, clip_id: str) -> Draw:
        return draw_of(Augment(flip=0.5), SIDES, seed=seed, epoch=epoch, clip_id=clip_id)

    assert draw(1, 2, "a") == draw(1, 2, "a")
    assert len({draw(1, 2, "a"), draw(2, 2, "a"), draw(1, 3, "a"), draw(1, 2, "b")}) == 4


def test_draws_cover_the_sizes_and_mirror_the_share_asked_for():
    draws = [
        draw_of(Augment(flip=0.25), SIDES, seed=0, epoch=1, clip_id=str(number))
        for number in range(400)
    ]

    assert {draw.short_side_px for draw in draws} == set(range(24, 31))
    assert 0.18 < np.mean([draw.is_mirrored for draw in draws]) < 0.32
    assert 0.45 < np.mean([draw.window for draw in draws]) < 0.55


def test_every_process_has_its_share_of_the_same_steps():
    alone = steps_of(11, 4, seed=3, epoch=1, rank=0, num_ranks=1)
    shares = [steps_of(11, 4, seed=3, epoch=1, rank=rank, num_ranks=2) for rank in (0, 1)]

    assert [len(step) for step in alone] == [4, 4]
    assert len({number for step in alone for number in step}) == 8
    for step, left, right in zip(alone, *shares, strict=True):
        assert sorted(step) == sorted([*left, *right])
    assert alone != steps_of(11, 4, seed=3, epoch=2, rank=0, num_ranks=1)


def test_a_random_clip_is_a_window_of_its_segment_cut_and_mirrored_alike_in_all_frames(folder):
    example = examples_of(read_manifest(folder / "clips.parquet"), "train")[0]
    view = TeacherView(
        num_frames=4, stride_s=0.2, frame=FrameView(short_side_px=24, crop_px=20)
    )  # fmt: skip
    draw = Draw(window=0.75, is_mirrored=True, short_side_px=30, crop_at=(0.5, 0.9))

    wish = drawn(example, view, window_s=WINDOW_S, draw=draw, random_crop=True)
    frames = read(wish)

    assert (wish.source.clip.start_s, wish.source.clip.stop_s) == pytest.approx((0.3, 1.1))
    plain = read(replace(wish, is_mirrored=False))
    np.testing.assert_array_equal(frames, plain[:, :, ::-1])
    # The whole frame of 32 x 48, made 30 x 45, of which rows 5 to 25, columns 22 to 42 are seen.
    uncut = replace(view, frame=FrameView(short_side_px=30, crop_px=30, crop_at=(0.0, 0.99)))
    right = read(replace(wish, view=uncut, is_mirrored=False))
    np.testing.assert_array_equal(plain, right[:, 5:25, 22 - 14 : 42 - 14])


def test_held_out_clips_are_what_extraction_looks_at(folder):
    manifest = read_manifest(folder / "clips.parquet")
    example = examples_of(manifest, "val")[0]
    view = teacher_view(tiny_spec("tiny"), WINDOW_S)

    wish = centred(example, view, window_s=WINDOW_S)

    (clip,) = [c for c in manifest.clips() if c.segment_id == example.segment.segment_id]
    assert wish.source.clip == clip
    np.testing.assert_allclose(wish.view.times_s(clip), frame_times(clip, 4, 0.2))


# --- options ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 6, "accumulate": 4}, "--batch-size 6 must be a multiple of .*1 x 4 = 4"),
        ({"num_epochs": 0}, "--epochs must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "--lr must be above 0"),
        ({"schedule": "cosine"}, "--schedule 'cosine' is not known; choose steps, onecycle"),
        ({"precision": "fp8"}, "--precision 'fp8' is not known; choose auto, fp32, bf16"),
        ({"workers": 0}, "--workers must be 1 or more"),
    ],
)
def test_an_option_that_cannot_be_is_refused_with_what_is_wanted(tmp_path, changes, message):
    with pytest.raises(EgoctlError, match=message):
        config_in(tmp_path, "run", **changes)


def test_short_sides_below_the_crop_are_refused_and_default_to_256_and_320_of_224():
    assert Augment().sides_px(224) == (256, 320)
    with pytest.raises(EgoctlError, match="sees squares of 224 pixels"):
        Augment(short_sides_px=(128, 256)).sides_px(224)


def test_the_rate_falls_at_epochs_30_and_40_of_50():
    rates = [
        learning_rate("steps", 1e-4, step=10 * epoch, steps_per_epoch=10, num_epochs=50)
        for epoch in range(50)
    ]

    assert rates[29:31] == pytest.approx([1e-4, 1e-5])
    assert rates[39:41] == pytest.approx([1e-5, 1e-6])


def test_one_cycle_rises_to_the_peak_and_falls_to_nearly_nothing():
    rates = [
        learning_rate("onecycle", 2e-3, step=step, steps_per_epoch=10, num_epochs=10)
        for step in range(100)
    ]

    assert rates[0] == pytest.approx(2e-3 / 25)
    assert max(rates) == rates[29] == pytest.approx(2e-3)
    assert rates[99] == pytest.approx(2e-3 / 25e4)


# === The steps of fine-tuning: passes, blocks that are computed again, networks that are real ===


def test_passes_of_a_step_add_up_to_the_step_in_one(folder):
    settings = {"teacher": "tiny_plain", "num_epochs": 2, "learning_rate": 1e-3}

    _, at_once = fitted(config_in(folder, "at-once", batch_size=6, **settings))
    _, in_three = fitted(config_in(folder, "in-three", batch_size=6, accumulate=3, **settings))
    _, other = fitted(config_in(folder, "other", batch_size=3, **settings))

    for name, value in at_once.items():
        torch.testing.assert_close(in_three[name], value, rtol=1e-4, atol=1e-5)
    assert (other["classifier.weight"] - at_once["classifier.weight"]).abs().max() > 1e-3


def test_recomputed_blocks_give_the_gradients_and_the_statistics_of_kept_ones():
    frames = torch.randint(0, 256, (3, 4, 20, 20, 3), dtype=torch.uint8)
    found = []
    for is_recomputed in (False, True):
        teacher = load_tiny("tiny", weights="random:0", device=CPU)
        trainee = fit_of(teacher, head_only=False).trainee.train()
        assert not is_recomputed or checkpoint_blocks(teacher.body) == 2
        torch.manual_seed(5)
        trainee(frames).square().sum().backward()
        grads = {n: p.grad for n, p in trainee.named_parameters() if p.grad is not None}
        found.append((grads, {n: b.clone() for n, b in trainee.named_buffers()}))

    (grads, statistics), (again, statistics_again) = found
    assert same_bits(grads, again) and len(grads) == 10
    assert same_bits(statistics, statistics_again)


def test_a_block_that_changes_the_list_it_gets_is_recomputed_from_what_it_got():
    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, pathways):
            pathways[0] = self.linear(pathways[0])
            return pathways

    body = torch.nn.Module()
    body.blocks = torch.nn.ModuleList([InPlace()])
    wanted = body.blocks[0]([torch.ones(3, 2)])[0].square().sum()
    (grad,) = torch.autograd.grad(wanted, body.blocks[0].linear.weight)

    checkpoint_blocks(body)
    body.blocks[0]([torch.ones(3, 2)])[0].square().sum().backward()

    assert torch.equal(body.blocks[0].linear.weight.grad, grad)


def test_batchnorm_that_gets_a_clip_alone_is_told_as_such(folder, monkeypatch):
    class Normed(TinyNet):
        def __init__(self, num_classes, **_):
            super().__init__(num_classes)
            self.norm = torch.nn.BatchNorm1d(12)

        def forward(self, video_BCTHW):
            x_BCTHW = self.blocks[1](self.blocks[0](video_BCTHW))
            return self.classifier(self.norm(x_BCTHW.mean(dim=(2, 3, 4))))

    monkeypatch.setattr(finetune_world, "TinyNet", Normed)

    with pytest.raises(EgoctlError, match="BatchNorm cannot learn from one clip.*--batch-size"):
        fitted(config_in(folder, "alone", batch_size=1))


def test_a_body_without_blocks_cannot_be_recomputed():
    assert checkpoint_blocks(torch.nn.Linear(2, 2)) == 0


# Of pytorchvideo's swish, which is asked for a gradient nowhere else.
@pytest.mark.filterwarnings("ignore:.*saved_variables:DeprecationWarning")
def test_a_step_moves_the_body_and_the_head_of_a_real_network(folder):
    before = lineup.load_teacher("x3d_xs", weights="random:0", device=CPU)
    size = {"augment": Augment(short_sides_px=(160, 164)), "num_epochs": 1, "batch_size": 2}
    manifest = read_manifest(folder / "clips.parquet")
    write_manifest(replace(manifest, segments=manifest.segments[:2]), folder / "two.parquet")
    config = config_in(folder, "x3d", teacher="x3d_xs", checkpoint_gradients=True, **size)

    report, after = fitted(replace(config, manifest=str(folder / "two.parquet")))

    assert after["blocks.5.proj.weight"].shape == (3, 2048)
    body = before.state()["blocks.0.conv.conv_t.weight"]
    assert not torch.equal(after["blocks.0.conv.conv_t.weight"], body)
    again = lineup.load_teacher("x3d_xs", weights=report.weights, device=CPU)
    assert again.spec.num_classes == 3 and again.weights.class_names == CLASSES


# === Fine-tuning that is killed, interrupted, or spread over processes ends like one left alone ===


GIVE_UP_S = 120.0


def command(folder: Path, run: str, *options: str) -> list[str]:
    """What config_in asks for, as typed."""
    return [
        *(
            "finetune-teacher",
            str(folder / "clips.parquet"),
            "--teacher",
            "tiny",
            "--weights",
            "random:0",
        ),
        *("--run", str(folder / run), "--batch-size", "4", "--lr", "0.01", "--flip", "0.5"),
        *("--device", "cpu", "--workers", "1", *options),
    ]


class Stopped(BaseException):
    """What ends a process in the middle of things."""


def stop_at_step(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optimiser take so many steps, and the next one end the run."""
    real = EpochLoop._step
    taken: list[int] = []

    def step(self, *args):
        if len(taken) == count:
            raise Stopped
        taken.append(1)
        return real(self, *args)

    monkeypatch.setattr(EpochLoop, "_step", step)


@pytest.mark.parametrize("num_steps", [0, 2, 3, 5, 8])
def test_a_run_stopped_at_any_step_goes_on_to_the_bits_of_one_left_alone(
    folder, monkeypatch, num_steps
):
    settings = {"num_epochs": 3, "save_every": 1, "schedule": "onecycle"}
    alone = config_in(folder, "left-alone", **settings)
    stopped = config_in(folder, f"stopped-{num_steps}", **settings)
    _, wanted = fitted(alone)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_step(num_steps, patch)
        fitted(stopped)
    _, found = fitted(stopped)

    assert same_bits(found, wanted)
    assert metrics(stopped) == metrics(alone) and len(metrics(alone)) == 3


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts real processes that have torch imported already: an import costs seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egoctl.tests.worlds.finetune_world"])
    return context


def started(processes: ForkServerContext, words: list[str], said: Path) -> BaseProcess:
    process = processes.Process(target=run_in, args=(words, said))
    process.start()
    return process


def wait_for(is_so: Callable[[], bool], process: BaseProcess) -> None:
    end_s = time.monotonic() + GIVE_UP_S
    while not is_so():
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < end_s, "it never came so far"
        time.sleep(0.001)


def test_a_killed_process_that_is_started_again_ends_with_the_same_bits(folder, processes):
    settings = {"num_epochs": 30, "save_every": 1}
    _, wanted = fitted(config_in(folder, "undisturbed", **settings))
    words = command(folder, "killed", "--epochs", "30", "--save-every", "1")
    run, said = folder / "killed", folder / "killed.txt"

    process = started(processes, words, said)
    wait_for(lambda: (run / "metrics.jsonl").is_file(), process)
    process.kill()
    process.join()
    assert not (run / "teacher.safetensors").exists(), "it was killed before the end"
    process = started(processes, words, said)
    process.join(GIVE_UP_S)

    assert process.exitcode == 0, said.read_text()
    assert re.search(r"going on after (step \d of )?epoch \d", said.read_text())
    assert same_bits(safetensors.torch.load_file(run / "teacher.safetensors"), wanted)


def test_ctrl_c_ends_in_a_sentence_and_code_130(folder, processes):
    said = folder / "interrupted.txt"
    process = started(processes, command(folder, "interrupted", "--epochs", "4000"), said)
    wait_for(lambda: (folder / "interrupted" / "metrics.jsonl").is_file(), process)

    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(GIVE_UP_S)

    assert process.exitcode == 130
    assert "Stopped. Run the same command to go on from the last checkpoint." in said.read_text()
    assert "Traceback" not in said.read_text()


def test_two_processes_learn_what_one_does(folder):
    settings = {"teacher": "tiny_plain", "learning_rate": 1e-3}
    one = config_in(folder, "one", **settings)
    _, wanted = fitted(one)

    options = ("--teacher", "tiny_plain", "--epochs", "2", "--lr", "0.001", "--devices", "2")
    two = subprocess.run(
        [sys.executable, "-m", "egoctl.tests.worlds.finetune_world",
         *command(folder, "two", *options)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert two.returncode == 0, two.stderr
    found = safetensors.torch.load_file(folder / "two" / "teacher.safetensors")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert two.stdout.count("teacher.safetensors") == 1, "only one of them tells"
    rows = metrics(config_in(folder, "two"))
    assert [row["clips"] for row in rows] == [12, 12]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in metrics(one)])


def test_a_finished_run_is_left_as_it_is(folder):
    config = config_in(folder, "finished")
    first, before = fitted(config)
    stamp = Path(config.run, "checkpoints", "last", "state.json").stat().st_mtime_ns

    again, after = fitted(config)

    assert again == first and same_bits(before, after)
    assert Path(config.run, "checkpoints", "last", "state.json").stat().st_mtime_ns == stamp


def test_a_run_folder_with_another_config_names_the_fields_that_differ(folder):
    config = config_in(folder, "taken", num_epochs=1)
    fitted(config)
    other = replace(
        config, learning_rate=0.5, augment=Augment(flip=0.25), weights="random:1", workers=2
    )

    with pytest.raises(EgoctlError, match="learning_rate: run 0.01, now 0.5") as caught:
        fitted(other)

    assert "augment.flip: run 0.5, now 0.25" in str(caught.value)
    assert "weights_sha256" in str(caught.value)
    assert "workers" not in str(caught.value) and "num_epochs" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(folder):
    config = config_in(folder, "damaged", num_epochs=1)
    fitted(config)
    Path(config.run, "checkpoints", "last", "optimizer.pt").write_bytes(b"no checkpoint")

    with pytest.raises(EgoctlError, match="last is damaged .*Delete it, or start a new run"):
        fitted(config)


# --- runs of earlier versions ---


def make_older(run: Path) -> None:
    """Give a run's checkpoints the form that earlier versions wrote."""
    checkpoints = run / "checkpoints"
    last = load_checkpoint(checkpoints / "last", where="last")
    sums = torch.zeros(3) if last.partial is None else last.partial.sums_RM[0]
    state = {
        **asdict(last.state),
        "steps_done": 0 if last.partial is None else last.partial.steps_done,
        "sums": dict(zip(("loss", "right", "clips"), sums.tolist(), strict=True)),
        "unread": last.extra["unread"],
    }
    content = {"trainee": last.weights, "optimizer": last.optimizer, "state": state}
    torch.save(content, checkpoints / "last.pt")
    shutil.rmtree(checkpoints / "last")
    teacher = load_tiny("tiny", weights="random:0", device=torch.device("cpu"))
    set_classes(teacher, CLASSES, seed=0)
    trainee = fit_of(teacher, head_only=False).trainee
    trainee.load_state_dict(load_weights(checkpoints / "best", where="best"))
    save_checkpoint(checkpoints / "best.safetensors", teacher.state(), class_names=CLASSES)
    shutil.rmtree(checkpoints / "best")


@pytest.mark.parametrize("num_steps", [3, 4, 8])
def test_an_older_run_goes_on_to_the_bits_of_one_left_alone(folder, monkeypatch, num_steps):
    settings = {"num_epochs": 3, "save_every": 1, "learning_rate": 3e-2}
    alone = config_in(folder, "alone-older", **settings)
    stopped = config_in(folder, f"older-{num_steps}", **settings)
    _, wanted = fitted(alone)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at_step(num_steps, patch)
        fitted(stopped)
    make_older(Path(stopped.run))

    _, found = fitted(stopped)

    assert same_bits(found, wanted)
    assert metrics(stopped) == metrics(alone) and len(metrics(alone)) == 3


def test_a_finished_older_run_keeps_its_teacher(folder):
    config = config_in(folder, "older-finished")
    first, before = fitted(config)
    make_older(Path(config.run))

    again, after = fitted(config)

    assert again == first and same_bits(before, after)
    assert not Path(config.run, "checkpoints", "last").exists()


def test_a_damaged_checkpoint_of_an_older_run_is_named(folder):
    config = config_in(folder, "older-damaged", num_epochs=1)
    fitted(config)
    make_older(Path(config.run))
    Path(config.run, "checkpoints", "last.pt").write_bytes(b"no checkpoint")

    with pytest.raises(EgoctlError, match="last.pt is damaged .*Delete it to begin again"):
        fitted(config)
