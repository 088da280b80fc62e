"""Which decoder reads the videos: by name, by measuring, or as the store was begun."""

import sys
from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.video import decoder_choice
from egoctl.pipeline.video.clip_plan import DecodeStats
from egoctl.pipeline.video.decoder_choice import (
    DecoderName,
    Drift,
    choose,
    decoder_named,
    drift,
    measure,
    pick,
    recipe_fields,
)
from egoctl.pipeline.video.torchcodec_clips import RESIZE, decode_clips_torchcodec
from egoctl.tests.worlds.decoded_clips import WHOLE, clip, draw_long_video
from egoctl.tests.worlds.torchcodec_clips import decode, needs_cuda, needs_torchcodec


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_long_video(tmp_path_factory.mktemp("long") / "long.mp4")


# --- where it is not installed ----------------------------------------------------------------


def test_without_torchcodec_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)

    with pytest.raises(
        EgoctlError, match=r"^torchcodec is not installed. Run: pip install 'egoctl\[torchcodec\]'$"
    ):
        decoder_named("torchcodec")


@needs_torchcodec
def test_without_ffmpeg_one_line_says_what_to_install(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchcodec.ffmpeg_major_version", None)

    with pytest.raises(EgoctlError, match="finds no FFmpeg libraries .*apt install ffmpeg"):
        decode(long_video, [clip(0, 0.0)])


@needs_torchcodec
def test_without_a_gpu_cuda_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    with pytest.raises(EgoctlError, match="on cuda needs a GPU"):
        decode_clips_torchcodec(
            tmp_path / "gone.mp4", [clip(0, 0.0)], [WHOLE], DecodeStats(), device="cuda"
        )


# --- which decoder to use ---------------------------------------------------------------------


def test_a_recipe_names_the_decoder_with_its_versions_and_its_filter() -> None:
    assert recipe_fields("pyav")["resize"] == "swscale-bilinear"
    assert recipe_fields("pyav")["decoder"].startswith("pyav-")


@needs_torchcodec
def test_recipes_of_two_decoders_differ_in_both_fields() -> None:
    fields = recipe_fields("torchcodec")

    assert fields["resize"] == RESIZE == "torchvision-bilinear-antialias"
    name, ffmpeg, device = fields["decoder"].split()
    assert name.startswith("torchcodec-0.") and ffmpeg.startswith("ffmpeg-") and device == "cpu"


def test_an_unknown_decoder_is_told_the_names() -> None:
    with pytest.raises(EgoctlError, match="pyav, torchcodec, torchcodec-cuda or auto, got 'cv2'"):
        decoder_named("cv2")


CLOSE = Drift(mean=0.6, max=12)


@pytest.mark.parametrize(
    ("torchcodec_speed", "chosen"), [(109.0, "pyav"), (110.1, "torchcodec"), (50.0, "pyav")]
)
def test_another_decoder_must_be_a_tenth_faster_than_pyav(
    torchcodec_speed: float, chosen: str
) -> None:
    speeds: dict[DecoderName, float] = {"pyav": 100.0, "torchcodec": torchcodec_speed}

    assert pick(speeds, {"torchcodec": CLOSE}) == chosen


def test_a_decoder_that_hides_damage_is_never_chosen_however_fast() -> None:
    speeds: dict[DecoderName, float] = {
        "pyav": 100.0,
        "torchcodec": 150.0,
        "torchcodec-cuda": 900.0,
    }

    assert pick(speeds, {"torchcodec": CLOSE, "torchcodec-cuda": CLOSE}) == "torchcodec"


def test_a_decoder_that_shows_other_frames_is_never_chosen() -> None:
    assert pick({"pyav": 100.0, "torchcodec": 300.0}, {"torchcodec": None}) == "pyav"


def test_where_only_pyav_is_there_it_is_chosen_and_the_sentence_says_why(
    long_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        decoder_choice,
        "why_unavailable",
        lambda name: None if name == "pyav" else "it is not installed",
    )

    choice = choose([long_video], [WHOLE])

    assert choice.name == "pyav"
    assert choice.sentence.startswith("decoder pyav: pyav ")
    assert "torchcodec-cuda cannot be used here (it is not installed)" in choice.sentence


def test_videos_that_cannot_be_decoded_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match="pyav decodes none of gone.mp4. Run egoctl manifest"):
        measure([tmp_path / "gone.mp4"], [WHOLE])


@needs_torchcodec
def test_a_choice_reports_speed_and_drift_of_the_other_decoder(long_video: Path) -> None:
    choice = choose([long_video], [WHOLE])

    assert choice.name in ("pyav", "torchcodec")
    assert "times as fast, pixels 0." in choice.sentence
    assert "of 255 from pyav's on average" in choice.sentence


@needs_cuda
def test_a_gpu_shows_the_same_frames_in_nearly_the_same_colours(long_video: Path) -> None:
    found = drift([long_video], [WHOLE], "torchcodec-cuda")

    # Wide: GPUs round colours in their own ways, and this only tells frames apart.
    assert found is not None and found.mean < 8
