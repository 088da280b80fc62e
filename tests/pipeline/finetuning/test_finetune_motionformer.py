"""MotionFormer, fitted: its two heads become one, and what is written loads again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from egoctl.pipeline.finetuning.config import FinetuneConfig
from egoctl.pipeline.finetuning.finetune import finetune
from egoctl.pipeline.finetuning.trainee import fit_of, set_classes
from egoctl.pipeline.teachers.lineup import load_teacher
from egoctl.pipeline.teachers.networks import motionformer_teacher
from egoctl.pipeline.teachers.networks.motionformer import MotionFormer
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.tests.worlds.extract_world import World, draw_colours

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = motionformer_teacher.VARIANTS["motionformer"]
    small = replace(variant.config, num_frames=4, crop_px=32, width=24, depth=2, num_heads=2)
    monkeypatch.setitem(
        motionformer_teacher.VARIANTS, "motionformer", replace(variant, config=small)
    )


def teacher() -> motionformer_teacher.MotionFormerTeacher:
    found = load_teacher("motionformer", weights="random:0", device=CPU)
    assert isinstance(found, motionformer_teacher.MotionFormerTeacher)
    return found


def test_two_heads_become_a_new_one_of_the_manifests_classes() -> None:
    found = teacher()

    is_new = set_classes(found, ["open", "close", "cut"], seed=3)

    assert is_new
    assert (found.spec.num_classes, found.spec.head_sizes) == (3, ())
    names = [key for key in found.state() if key.startswith("head")]
    assert names == ["head.weight", "head.bias"]
    again = teacher()
    set_classes(again, ["open", "close", "cut"], seed=3)
    assert again.state()["head.weight"].equal(found.state()["head.weight"])
    video_BCTHW = torch.zeros(2, 3, 4, 32, 32)
    assert found.logits(found.feature(video_BCTHW)).shape == (2, 3)


def test_a_head_of_as_many_classes_stays() -> None:
    found = teacher()
    verbs = found.state()["head0.weight"].clone()

    is_new = set_classes(found, [str(number) for number in range(97)], seed=3)

    assert not is_new
    assert found.state()["head.weight"].equal(verbs)


@pytest.mark.parametrize("head_only", [False, True])
def test_a_gradient_reaches_what_is_trained_and_nothing_else(head_only: bool) -> None:
    found = teacher()
    set_classes(found, ["a", "b"], seed=0)
    fit = fit_of(found, head_only=head_only)
    frames_BTHW3 = torch.randint(0, 255, (2, 4, 32, 32, 3), dtype=torch.uint8)
    items = (frames_BTHW3,) if fit.front is None else fit.front(frames_BTHW3)

    torch.autograd.backward(fit.trainee(*items).square().sum())

    moved = {name for name, p in found.net.named_parameters() if p.grad is not None}
    heads = {"head.weight", "head.bias"}
    if head_only:
        assert moved == heads
    else:
        every = {name for name, _ in found.net.named_parameters()}
        # The 2-D patches that nothing uses; what the last block, asked for its class token alone,
        # and the shortcut do without.
        idle = {name for name in every if name.startswith("patch_embed.")}
        idle |= {f"blocks.1.attn.proj_{part}.{kind}" for part in ("q", "kv")
                 for kind in ("weight", "bias")}  # fmt: skip
        idle |= {"blocks.0.attn.proj_kv.bias"}
        assert moved == every - idle


def test_a_run_writes_weights_that_extraction_takes(tmp_path: Path) -> None:
    world = World(folder=tmp_path)
    for number in range(2):
        draw_colours(world.videos / f"{number}.mp4", seconds=2.5, first=50 * number)
    rows: list[dict[str, Any]] = [
        {"segment_id": f"s{n}", "video": f"{n % 2}.mp4", "start_s": 0, "stop_s": 2.3,
         "label": ("open", "close")[n % 2]}
        for n in range(4)
    ]  # fmt: skip
    world.manifest(rows)
    config = FinetuneConfig(
        manifest=str(world.manifest_path), teacher="motionformer", weights="random:0",
        run=str(tmp_path / "run"), num_epochs=1, batch_size=4, device="cpu", workers=1,
    )  # fmt: skip

    report = finetune(config)

    assert report is not None and report.is_clean
    fitted = load_teacher(
        "motionformer", weights=str(tmp_path / "run" / "teacher.safetensors"), device=CPU
    )
    weights: WeightsInfo = fitted.weights
    assert sorted(weights.class_names or ()) == ["close", "open"]
    assert weights.trained_on is not None and weights.trained_on.num_segments == 4
    assert fitted.spec.num_classes == 2
    assert isinstance(fitted, motionformer_teacher.MotionFormerTeacher)
    assert isinstance(fitted.net, MotionFormer) and fitted.net.config.form == "lean"
