"""Which decoder an extraction uses: the one named, the store's own, or the fastest here."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from egoctl import cli
from egoctl.pipeline.errors import EgoctlError, StoreMismatchError
from egoctl.pipeline.extraction import job as extract_job
from egoctl.pipeline.extraction.extract import WorkConfig
from egoctl.pipeline.extraction.job import ExtractJob, TargetStore
from egoctl.pipeline.extraction.plan import inputs_arrays, inputs_header, inputs_view
from egoctl.pipeline.extraction.reproduce import reproduce
from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers import lineup
from egoctl.pipeline.video.decoder_choice import DecoderChoice, DecoderName, decoder_in
from egoctl.pipeline.video.pyav_clips import DECODER, RESIZE, FrameView
from egoctl.tests.worlds.extract_script import load_mean_teacher
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    draw_colours,
    stored,
    write_imu,
)
from egoctl.tests.worlds.torchcodec_clips import needs_torchcodec

ROWS = [{"segment_id": "s", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 3}]
CPU = torch.device("cpu")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(lineup, "load_teacher", load_mean_teacher)
    world = World(folder=tmp_path)
    draw_colours(world.videos / "a.mp4", seconds=3)
    write_imu(world.imu / "a.csv", seconds=3)
    world.manifest(ROWS)
    return world


def run(world: World, *args: str) -> Result:
    command = [
        *("extract-teacher", str(world.manifest_path), "--teacher", "means", "--device", "cpu"),
        *("--store", world.teacher_url, "--inputs", world.inputs_url, "--batch-size", "2"),
        *("--part-rows", "4", "--dtype", "float32", "--frame-px", "64", *args),
    ]
    return CliRunner().invoke(cli.app, command)


def recipe(url: str) -> dict[str, object]:
    return dict(FeatureStore.open(url).header.recipe)


def job(world: World, teacher: str = "means") -> ExtractJob:
    return ExtractJob(
        manifest=read_manifest(world.manifest_path),
        targets=(TargetStore(teacher=teacher, weights="default", url=world.teacher_url),),
        inputs=world.inputs_url,
        config=CONFIG,
        run=RUN,
        work=WorkConfig(),
    )


# --- named ---


def test_without_a_name_it_is_pyav_and_the_recipe_says_so(world: World) -> None:
    assert run(world).exit_code == 0

    for url in (world.teacher_url, world.inputs_url):
        assert (recipe(url)["decoder"], recipe(url)["resize"]) == (DECODER, RESIZE)


@needs_torchcodec
def test_a_store_made_with_torchcodec_says_so_and_can_be_reproduced(world: World) -> None:
    pyav = World(folder=world.folder / "pyav")
    pyav.extract(read_manifest(world.manifest_path))

    result = run(world, "--decoder", "torchcodec")

    assert result.exit_code == 0, result.output
    for url in (world.teacher_url, world.inputs_url):
        assert str(recipe(url)["decoder"]).startswith("torchcodec-0.")
        assert recipe(url)["resize"] == "torchvision-bilinear-antialias"
    # All other fields are as with pyav, and the targets are nearly the same.
    ours, theirs = recipe(pyav.teacher_url), recipe(world.teacher_url)
    assert list(ours) == list(theirs)
    assert {name for name in ours if ours[name] != theirs[name]} == {"decoder", "resize"}
    for clip_id, row in stored(pyav.teacher_url).items():
        found = stored(world.teacher_url)[clip_id].arrays["feature"]
        gap = np.abs(found - row.arrays["feature"]).max()
        assert 0 < gap < 0.1
    manifest = read_manifest(world.manifest_path)
    again = reproduce(world.teacher_url, manifest, MeanTeacher(), device=CPU)
    frames = reproduce(world.inputs_url, manifest, None, device=CPU).arrays["frames"]
    assert again.arrays["feature"].num_equal == frames.num_equal == 3


@needs_torchcodec
def test_a_store_refuses_another_decoder_by_name(world: World) -> None:
    run(world)

    result = run(world, "--decoder", "torchcodec")

    assert isinstance(result.exception, StoreMismatchError)
    assert f'decoder: store "{DECODER}", this run "torchcodec-' in str(result.exception)


def test_without_torchcodec_the_command_ends_in_one_line_and_makes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)

    result = run(world, "--decoder", "torchcodec")

    assert isinstance(result.exception, EgoctlError)
    assert str(result.exception) == (
        "torchcodec is not installed. Run: pip install 'egoctl[torchcodec]'"
    )
    assert not FeatureStore.exists(world.teacher_url)


def test_a_name_that_no_decoder_has_is_told_the_names(world: World) -> None:
    result = run(world, "--decoder", "cv2")

    assert str(result.exception) == (
        "--decoder must be pyav, torchcodec, torchcodec-cuda or auto, got 'cv2'."
    )


# --- auto ---


def test_auto_measures_the_first_videos_that_can_be_decoded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["gone", "bad", "v1", "v2", "v3", "v4"]
    for name in names[2:]:
        draw_colours(world.videos / f"{name}.mp4", seconds=0.2)
    (world.videos / "bad.mp4").write_bytes(b"no video")
    rows = [{**ROWS[0], "segment_id": name, "video": f"{name}.mp4"} for name in names]
    world.manifest(rows)
    asked: list[tuple[list[str], Sequence[FrameView]]] = []

    def choose(paths: Sequence[Path], views: Sequence[FrameView]) -> DecoderChoice:
        asked.append(([path.name for path in paths], views))
        return DecoderChoice(name="pyav", sentence="decoder pyav: it was measured")

    monkeypatch.setattr(extract_job, "choose", choose)
    said: list[str] = []

    settled = job(world, "mvit_v2_s").decoded_with("auto", say=said.append)

    assert settled.config.decoder == "pyav"
    assert said == ["decoder pyav: it was measured"]
    teacher = FrameView(short_side_px=256, crop_px=224)
    inputs = FrameView(short_side_px=None, crop_px=64)
    assert asked == [(["v1.mp4", "v2.mp4", "v3.mp4"], [teacher, inputs])]


@pytest.mark.parametrize("kind", ["teacher", "inputs"])
def test_auto_keeps_to_the_decoder_of_a_store_that_is_there(world: World, kind: str) -> None:
    urls = {"teacher": world.teacher_url, "inputs": world.inputs_url}
    run(world)
    gone = urls["inputs" if kind == "teacher" else "teacher"]
    Path(gone).rename(world.folder / "elsewhere")

    result = run(world, "--decoder", "auto", "--json")

    assert result.exit_code == 0, result.output
    assert f"decoder pyav: {urls[kind]} was begun with it" in result.stderr
    assert json.loads(result.stdout)["num_clips"] == 3
    assert recipe(gone)["decoder"] == DECODER


@needs_torchcodec
def test_auto_keeps_to_torchcodec_where_the_store_was_begun_with_it(world: World) -> None:
    config = replace(CONFIG, decoder="torchcodec")
    view = inputs_view(config, 2.0)
    FeatureStore.create(world.inputs_url, inputs_header(view, config), inputs_arrays(view))

    settled = job(world).decoded_with("auto", say=lambda _: None)

    assert settled.config.decoder == "torchcodec"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("pyav-17.0.1", "pyav"),
        ("torchcodec-0.17.0 ffmpeg-5 cpu", "torchcodec"),
        ("torchcodec-0.17.0 ffmpeg-8 cuda", "torchcodec-cuda"),
    ],
)
def test_a_recipe_tells_its_decoder_in_whatever_version(text: str, name: DecoderName) -> None:
    assert decoder_in({"decoder": text}) == name


@pytest.mark.parametrize("found", [{}, {"decoder": ""}, {"decoder": "cv2-4.1"}])
def test_a_recipe_with_an_unknown_decoder_is_refused(found: dict[str, str]) -> None:
    with pytest.raises(EgoctlError, match="names the decoder .*; this egoctl has pyav, torchcodec"):
        decoder_in(found)
