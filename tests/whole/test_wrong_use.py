"""Wrong use of the command line: one line that says what to do, and exit code 2."""

import sys
from pathlib import Path

import pytest

from egoctl.tests.worlds.command_runs import EXTRACT, Ran, Run, extract
from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu

pytest_plugins = ("egoctl.tests.worlds.command_runs",)

GOOD = {"segment_id": "good", "video": "good.mp4", "imu": "good.csv", "start_s": 0.5, "stop_s": 2.5}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One clip of 2 s, of a good video with a good IMU file."""
    world = World(folder=tmp_path)
    draw_colours(world.videos / "good.mp4", seconds=3)
    write_imu(world.imu / "good.csv", seconds=3)
    world.manifest([GOOD])
    return world


def is_one_line(ran: Ran, words: str) -> bool:
    lines = ran.err.splitlines()
    return (
        ran.code == 2
        and ran.out == ""
        and len(lines) == 1
        and lines[0].startswith("egoctl: ")
        and words in lines[0]
    )


def test_a_manifest_that_is_not_there(run: Run, tmp_path: Path) -> None:
    for command in (["manifest", "check"], ["extract-teacher", "--teacher", "x3d_xs"]):
        options = [] if command[0] == "manifest" else ["--store", str(tmp_path / "t.store")]
        ran = run(*command, tmp_path / "gone.parquet", *options)
        assert is_one_line(ran, "no manifest at"), ran


def test_a_video_given_as_the_manifest(run: Run, world: World) -> None:
    ran = run("manifest", "check", world.videos / "good.mp4")

    assert is_one_line(ran, "not a readable parquet file"), ran


def test_motion_inside_a_video_without_the_package_that_reads_it(
    run: Run, world: World, with_mean_teacher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.manifest([GOOD, GOOD | {"segment_id": "inside", "imu": "self"}])
    monkeypatch.setitem(sys.modules, "telemetry_parser", None)  # makes the import fail

    for ran in (
        extract(run, world),
        extract(run, world, "--plan"),
        run("manifest", "check", world.manifest_path),
    ):
        assert is_one_line(ran, "pip install 'egoctl[gopro]'"), ran
    assert not Path(world.teacher_url).exists()
    assert not Path(world.inputs_url).exists()

    # The teacher needs no motion.
    teacher_only = ["extract-teacher", world.manifest_path, "--store", world.teacher_url, *EXTRACT]
    assert run(*teacher_only, "--plan").code == 0
    assert run(*teacher_only).code == 0


def test_a_teacher_that_is_unknown(run: Run, world: World) -> None:
    ran = run(
        *("extract-teacher", world.manifest_path, "--teacher", "x3d_xxs"),
        *("--store", world.teacher_url, "--weights", "random:0"),
    )

    assert is_one_line(ran, "no teacher is called 'x3d_xxs'. Near it: x3d_xs"), ran
    assert not Path(world.teacher_url).exists()


@pytest.mark.parametrize("weights", ["random:many", "nowhere.pt"])
def test_weights_that_are_nothing(run: Run, world: World, weights: str) -> None:
    ran = run(
        *("extract-teacher", world.manifest_path, "--teacher", "x3d_xs"),
        *("--store", world.teacher_url, "--weights", weights),
    )

    assert is_one_line(ran, weights), ran
    assert not Path(world.teacher_url).exists()


@pytest.mark.parametrize("stride", ["0", "-1", "nan"])
def test_a_stride_that_is_not_above_zero(run: Run, world: World, stride: str) -> None:
    out = world.folder / "new.parquet"
    ran = run(
        *("manifest", "build", "folder", world.folder / "ANN.csv", "--videos", world.videos),
        *("--imu", world.imu, "--stride", stride, "--out", out),
    )

    assert is_one_line(ran, "the stride must be above 0 s"), ran
    assert not out.exists()


@pytest.mark.parametrize(
    "option", [["--precision", "half"], ["--part-rows", "0"], ["--dtype", "int8"]]
)
def test_a_setting_that_cannot_be(
    run: Run, world: World, with_mean_teacher: None, option: list[str]
) -> None:
    assert is_one_line(extract(run, world, *option), option[0])


def test_a_store_path_that_is_a_file_or_another_folder(
    run: Run, world: World, with_mean_teacher: None
) -> None:
    notes = world.folder / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("mine")
    for path in (notes / "mine.txt", notes, notes / "mine.txt" / "below"):
        ran = run("extract-teacher", world.manifest_path, "--store", path, *EXTRACT)

        assert is_one_line(ran, str(path)), ran
        assert (notes / "mine.txt").read_text() == "mine"
        assert [file.name for file in notes.iterdir()] == ["mine.txt"]
