"""Stores, runs and studies that an earlier version wrote are read and gone on with as it would.

tests/fixtures/written_before holds them, with what that version made of them; its README.md lists
the commands. All is done by the command line. On a machine that computes as the one they were
made on, which a probe of plain torch decides, every weight must have the same bits; elsewhere
losses must agree. Pixels, IMU and whatever is read have the same bits everywhere.
"""

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from egoctl.pipeline.manifest import read_manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.places import FIXTURES
from egoctl.tests.worlds.written_before import (
    EXTRACT,
    FINETUNE,
    MANIFEST,
    PRETRAIN,
    STUDY,
    TRAIN,
    as_recorded,
    install_plugin,
    look_at_run,
    look_at_store,
    look_at_stores,
    probe,
    run,
    run_with_teacher,
    scores,
    stores,
    study_files,
)

pytest.importorskip("timm")

WRITTEN = FIXTURES / "written_before"
IS_DECODER = version("av") == "18.1.0"
reads_videos = pytest.mark.skipif(
    not IS_DECODER, reason="the recorded stores were decoded by PyAV 18.1.0, which recipes name"
)


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((WRITTEN / "expected.json").read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def is_exact(expected: dict[str, Any]) -> bool:
    """This machine computes as the one that the files were made on."""
    recorded: str = expected["probe"]
    return probe() == recorded


def unpack(folder: Path) -> Path:
    with tarfile.open(WRITTEN / "world.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files, in the present folder, for a test to change."""
    monkeypatch.chdir(unpack(tmp_path / "world"))
    return tmp_path / "world"


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files after all that needs the teacher; some of its clips fail, as they did."""
    folder = unpack(tmp_path_factory.mktemp("gone-on"))
    plugin = tmp_path_factory.mktemp("plugin") / "tiny"
    install_plugin(plugin, WRITTEN / "tiny_teacher.py")
    lines = [(*FINETUNE, "--run", f"runs/teacher-{name}") for name in ("stopped", "new")]
    if IS_DECODER:
        lines += [(*EXTRACT, *stores(prefix)) for prefix in ("half-", "new-", "")]
    run_with_teacher(plugin, folder, *lines, code=1)
    return folder


def nearly(wanted: Any, *, may_jump: bool) -> Any:
    """Equal but for rounding; may_jump: accuracies, too, which hang on which number is larger."""
    if isinstance(wanted, Mapping):
        return {
            key: ANY if may_jump and key.endswith("top1") else nearly(value, may_jump=may_jump)
            for key, value in wanted.items()
        }
    if isinstance(wanted, list):
        return [nearly(value, may_jump=may_jump) for value in wanted]
    return pytest.approx(wanted, rel=1e-3, abs=1e-3) if isinstance(wanted, float) else wanted


def files_in(*folders: str) -> dict[str, bytes]:
    """Every file in these folders with its content."""
    return {
        path.as_posix(): path.read_bytes()
        for folder in folders
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def assert_same_run(name: str, expected: dict[str, Any], *, is_exact: bool) -> None:
    """The run ended as the undisturbed one of the earlier version did."""
    found, wanted = look_at_run(name), expected["runs"][name.partition("-")[0]]
    config = json.loads(json.dumps(found["config"]).replace("-stopped", ""))
    assert_holds(config, wanted["config"], "config")
    metrics = wanted["metrics"]
    assert found["metrics"] == (metrics if is_exact else nearly(metrics, may_jump=True))
    assert found["weights"].keys() == wanted["weights"].keys()
    for file, then in wanted["weights"].items():
        now = found["weights"][file]
        assert (now["metadata"], now["values"]) == (then["metadata"], then["values"])
        if is_exact:
            assert now["digest"] == then["digest"], file


def assert_holds(now: Any, before: Any, where: str) -> None:
    """Every field is still there with its value; others may have been added."""
    if isinstance(before, dict):
        for key, value in before.items():
            assert key in now, f"{where}.{key}"
            assert_holds(now[key], value, f"{where}.{key}")
    else:
        assert now == before, where


def test_stores_and_their_manifest_are_read_as_they_were(expected, world) -> None:
    assert look_at_stores() == expected["stores"]


def test_the_same_annotations_make_the_same_manifest(expected, world) -> None:
    Path("clips.parquet").unlink()

    run(*MANIFEST)

    made = read_manifest("clips.parquet")
    assert made.fingerprint() == expected["stores"]["manifest"]["fingerprint"]


@reads_videos
def test_parts_that_were_done_are_left_as_they_are(world, gone_on, monkeypatch) -> None:
    before = files_in("half-inputs.store/parts", "half-teacher.store/parts")

    monkeypatch.chdir(gone_on)

    after = files_in("half-inputs.store/parts", "half-teacher.store/parts")
    assert (len(before), len(after)) == (4, 8)
    assert before.items() <= after.items()


@reads_videos
@pytest.mark.parametrize("prefix", ["half-", "new-"])
def test_an_extraction_that_goes_on_or_begins_anew_ends_as_the_undisturbed_one(
    prefix, expected, gone_on, is_exact, monkeypatch
) -> None:
    monkeypatch.chdir(gone_on)

    for url in ("inputs.store", "teacher.store"):
        found, wanted = look_at_store(f"{prefix}{url}"), expected["stores"][url]
        same = ["info", "fingerprint", "rows"]
        if url == "inputs.store" or is_exact:
            same += ["row_digest", "arrays"]
            run("store", "diff", url, f"{prefix}{url}")
        assert {key: found[key] for key in same} == {key: wanted[key] for key in same}
        run("store", "verify", f"{prefix}{url}", "--deep")
    one, two = FeatureStore.open("teacher.store"), FeatureStore.open(f"{prefix}teacher.store")
    rows = one.rows().filter(outcome="ok")["row"].to_numpy()
    for name in one.array_specs():
        # Neighbours in float16 are up to a thousandth apart.
        np.testing.assert_allclose(two.read(name, rows), one.read(name, rows), rtol=1e-3, atol=1e-3)


@reads_videos
def test_a_whole_extraction_is_left_as_it_is(world, gone_on, monkeypatch) -> None:
    before = files_in("inputs.store", "teacher.store")

    monkeypatch.chdir(gone_on)

    assert files_in("inputs.store", "teacher.store") == before


@reads_videos
def test_stored_frames_and_imu_are_computed_again_to_the_same_bits(world) -> None:
    run("store", "reproduce", "inputs.store", "--manifest", "clips.parquet")


@pytest.mark.parametrize("name", ["teacher-stopped", "teacher-new"])
def test_fitting_a_teacher_goes_on_within_an_epoch_or_begins_anew(
    name, expected, gone_on, is_exact, monkeypatch
) -> None:
    monkeypatch.chdir(gone_on)

    assert_same_run(name, expected, is_exact=is_exact)


def test_pretraining_that_was_stopped_between_epochs_goes_on(expected, world, is_exact) -> None:
    run(*PRETRAIN, "--run", "runs/imu-stopped")

    assert_same_run("imu-stopped", expected, is_exact=is_exact)


@pytest.mark.parametrize("name", ["between", "within"])
def test_training_that_was_stopped_between_or_within_epochs_goes_on(
    name, expected, world, is_exact
) -> None:
    printed = run(*TRAIN[name], "--run", f"runs/{name}-stopped")

    assert "Nothing was left to do." not in printed
    assert_same_run(f"{name}-stopped", expected, is_exact=is_exact)


@pytest.mark.parametrize("name", TRAIN)
def test_training_that_begins_anew_ends_with_the_same_weights(
    name, expected, world, is_exact
) -> None:
    shutil.rmtree(f"runs/{name}", ignore_errors=True)

    run(*TRAIN[name], "--run", f"runs/{name}")

    assert_same_run(name, expected, is_exact=is_exact)


def test_finished_training_is_left_as_it_is(expected, world) -> None:
    before = files_in("runs/frozen/checkpoints")

    printed = run(*TRAIN["frozen"], "--run", "runs/frozen")

    assert "Nothing was left to do." in printed
    assert files_in("runs/frozen/checkpoints") == before
    assert_same_run("frozen", expected, is_exact=True)


def test_evaluations_of_stored_runs_give_the_same_numbers(expected, world, is_exact) -> None:
    wanted = expected["scores"]

    assert scores() == (wanted if is_exact else nearly(wanted, may_jump=False))


def test_a_finished_study_is_found_and_makes_the_same_tables(expected, world) -> None:
    runs = files_in("study/runs", "study/pretrained")
    wanted = expected["study"]

    listed = run("study", "study.toml", "--dry-run").splitlines()
    printed = run(*STUDY)

    assert [line.split()[0] for line in listed[2:-1]] == ["found"] * 6
    assert as_recorded(printed) == wanted["printed"]
    found = study_files(world)
    assert found == {key: wanted[key] for key in found}
    assert files_in("study/runs", "study/pretrained") == runs
