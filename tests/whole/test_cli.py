"""The commands: help that can be trusted, exit codes, and how manifests are built and checked."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from egoctl import cli
from egoctl.pipeline.commands.options import stoppable
from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.manifest import read_manifest
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms
from egoctl.tests.worlds.invoked import run

ANN = (
    "segment_id,video,imu,start_s,stop_s,label,split,participant_id\n"
    "s1,a.mp4,,0,3,stir,train,P01\n"
    "s2,a.mp4,,1,2,cut,val,P02\n"
)


def walk(command: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    yield path, command
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))


TREE = dict(walk(typer.main.get_command(cli.app)))
LEAVES = {path: command for path, command in TREE.items() if isinstance(command, TyperCommand)}
leaves = pytest.mark.parametrize("path", LEAVES, ids=" ".join)
Main = Callable[..., tuple[int | str | None, str]]


def example_of(path: tuple[str, ...]) -> list[str]:
    """The words of the command's example, without 'egoctl'."""
    text = LEAVES[path].help or ""
    found = re.search(r"Example: egoctl (.*)\Z", text, flags=re.DOTALL)
    assert found, f"{' '.join(path)} has no 'Example: egoctl ...' at the end of its help"
    return found[1].split()


# --- help ---


def test_the_main_commands_are_there() -> None:
    assert {
        ("extract-teacher",), ("train-student",), ("evaluate",), ("store", "info"),
        ("store", "verify"), ("manifest", "check"), ("manifest", "build", "folder"),
        ("manifest", "build", "dense"),
    } <= set(LEAVES)  # fmt: skip


@pytest.mark.parametrize("path", TREE, ids=lambda path: " ".join(path) or "egoctl")
def test_every_command_and_group_says_what_it_does(path: tuple[str, ...]) -> None:
    command = TREE[path]
    assert isinstance(command, TyperCommand | TyperGroup)

    assert command.help
    code, said = run(*path, "--help")
    assert code == 0
    assert command.help.split()[0] in said


@leaves
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    silent = [one.name for one in LEAVES[path].params if not getattr(one, "help", None)]

    assert silent == []


@leaves
def test_every_example_is_a_command_that_exists_with_options_that_exist(
    path: tuple[str, ...],
) -> None:
    words = example_of(path)
    known = {option for one in LEAVES[path].params for option in one.opts}

    assert tuple(words[: len(path)]) == path
    assert {word for word in words if word.startswith("--")} <= known


@leaves
def test_every_example_gives_what_is_required(path: tuple[str, ...]) -> None:
    words = example_of(path)
    arguments = [one for one in LEAVES[path].params if one.param_type_name == "argument"]
    required = [
        one for one in LEAVES[path].params if one.required and one.param_type_name == "option"
    ]

    assert [one.name for one in required if not set(one.opts) & set(words)] == []
    given = words[len(path) : len(path) + len(arguments)]
    assert len(given) == len(arguments)
    assert not [word for word in given if word.startswith("--")]


# --- exit codes ---


@leaves
def test_an_unknown_option_or_command_is_wrong_use(path: tuple[str, ...]) -> None:
    assert run(*path, "--no-such-option")[0] == 2
    assert run(*path[:-1], "no-such-command")[0] == 2


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """The installed command: arguments in, exit code and standard error out."""

    def call(*args: str | Path) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["egoctl", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return call


def test_a_users_mistake_is_one_line_and_exit_code_2(main: Main, tmp_path: Path) -> None:
    missing = tmp_path / "none.store"

    assert main("store", "info", missing) == (
        2,
        f"egoctl: no store at {missing} (no store.json in it). "
        "'egoctl extract-teacher' makes one; check the path.\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("manifest", "check", "none.parquet"), "egoctl: no manifest at none.parquet"),
        (("store", "verify", "none.store"), "egoctl: no store at none.store"),
        (
            ("manifest", "build", "folder", "none.csv", "--videos", "v", "--out", "o.parquet"),
            "egoctl: no annotation file at none.csv",
        ),
        (
            ("manifest", "build", "dense", "--videos", "v", "--stride", "1", "--out", "o.parquet"),
            "egoctl: v holds no readable video",
        ),
        (("evaluate", "runs/none"), "egoctl: "),
    ],
)
def test_what_is_missing_is_named_by_every_command(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)

    code, said = main(*args)

    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", broken)

    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, stoppable("Stopped. Go on."):
        raise KeyboardInterrupt

    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == "\nStopped. Go on.\n"


def test_every_option_of_train_student_is_a_setting_of_its_own_type(tmp_path: Path) -> None:
    with pytest.raises(EgoctlError, match="no manifest at .*none.parquet"):
        run(
            "train-student", tmp_path / "none.parquet", "--inputs", "i.store", "--store", "t.store",
            "--run", tmp_path / "run", "--method", "egodistill", "--image-encoder", "resnet18",
            "--image-weights", "random", "--freeze-image-encoder", "--frames", "2",
            "--imu-readout", "last", "--epochs", "1", "--batch-size", "2", "--lr", "0.1",
            "--alpha", "0.5", "--beta", "0.5", "--tau", "2", "--seed", "1", "--device", "cpu",
            "--allow-missing",
        )  # fmt: skip


# --- manifests ---


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    draw_video(folder / "a.mp4", even_times_ms(60, fps=20))
    return folder


def test_a_manifest_is_built_from_a_table(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "ANN.csv").write_text(ANN)
    (tmp_path / "classes.txt").write_text("wash\nstir\ncut\n")
    out = tmp_path / "clips.parquet"

    code, said = run(
        "manifest", "build", "folder", tmp_path / "ANN.csv", "--videos", videos, "--out", out,
        "--classes", tmp_path / "classes.txt", "--window", "2", "--stride", "0.5",
    )  # fmt: skip

    assert code == 0
    assert said.splitlines() == [
        "2 segments of 1 videos, 3 classes, splits: train 1, val 1",
        "4 clips of 2.0000 s, every 0.5 s.",
        "1 of them come from segments shorter than the window: "
        "their first and last frames are held.",
    ]
    assert [one.label for one in read_manifest(out).segments] == [1, 2]


def test_further_columns_are_taken_when_told_so(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "ANN.csv").write_text(ANN.replace("\n", ",x\n"))
    args: list[str | Path] = [
        "manifest", "build", "folder", tmp_path / "ANN.csv", "--videos", videos,
        "--out", tmp_path / "clips.parquet",
    ]  # fmt: skip

    with pytest.raises(EgoctlError, match="unknown: 'x'.*--ignore-unknown-columns"):
        run(*args)
    assert run(*args, "--ignore-unknown-columns")[0] == 0


def test_a_dense_manifest_covers_whole_videos_and_names_what_it_left_out(
    tmp_path: Path, videos: Path
) -> None:
    args: list[str | Path] = [
        "manifest", "build", "dense", "--videos", videos, "--window", "1", "--stride", "0.5",
        "--out", tmp_path / "clips.parquet",
    ]  # fmt: skip

    code, said = run(*args)

    assert code == 0
    assert said.splitlines() == [
        "1 segments of 1 videos, 0 classes, splits: unlabelled 1",
        "5 clips of 1.0000 s, every 0.5 s.",
    ]

    (videos / "b.mp4").write_bytes(b"this is no video")
    code, said = run(*args)

    assert code == 1
    assert said.splitlines()[-1].startswith("left out: b.mp4: ")


def test_check_reports_every_video_and_exits_1_if_a_segment_is_bad(
    tmp_path: Path, videos: Path
) -> None:
    (tmp_path / "ANN.csv").write_text(ANN)
    out = tmp_path / "clips.parquet"
    build = ("manifest", "build", "folder", tmp_path / "ANN.csv", "--videos", videos, "--out", out)
    run(*build)

    code, said = run("manifest", "check", out)

    assert code == 0
    assert re.search(r"^a\.mp4 +h264 +96x64 +20\.00 +3\.00 ", said, flags=re.MULTILINE)
    assert said.splitlines()[-1] == "All segments are ok."

    (tmp_path / "ANN.csv").write_text(ANN + "s3,gone.mp4,,0,1,cut,val,P02\n")
    run(*build)
    code, said = run("manifest", "check", out, "--json")

    assert code == 1
    health = json.loads(said)
    assert health["num_bad"] == 1
    assert [one["code"] == "ok" for one in health["segments"]] == [True, True, False]
    assert [one["video_id"] for one in health["files"]] == ["a.mp4", "gone.mp4"]
