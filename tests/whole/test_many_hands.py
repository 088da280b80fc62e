"""Several people who fill the same stores at once, and storage that fails in the middle."""

import json
import multiprocessing
import os
import stat
import sys
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

from egoctl.pipeline.files.place import Place
from egoctl.tests.worlds.extract_world import World, assert_same_store, draw_colours, write_imu
from egoctl.tests.worlds.hands import limit_files, obey_modes, run_together

NUM_PARTS = 10
PART_ROWS = 4


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts real processes that have torch imported already: an import costs seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["egoctl.tests.worlds.hands", "egoctl.pipeline.extraction.placement"]
    )
    return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """40 clips in 10 parts of both stores; one video is missing, so failures are stored too."""
    world = World(folder=tmp_path_factory.mktemp("hands"))
    draw_colours(world.videos / "a.mp4", seconds=6)
    write_imu(world.imu / "a.csv", seconds=6)
    rows = [
        {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 5.7},
        {"segment_id": "gone", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2.1},
    ]
    manifest = world.manifest(rows, stride_s=0.1)
    assert len(manifest.clips()) == PART_ROWS * NUM_PARTS
    return world


def command(world: World, stores: str, *more: str) -> list[str]:
    """Fill STORES/teacher and STORES/inputs, by path or URL."""
    return [
        *("extract-teacher", str(world.manifest_path), "--teacher", "means", "--device", "cpu"),
        *("--store", f"{stores}/teacher", "--inputs", f"{stores}/inputs", "--batch-size", "2"),
        *("--part-rows", str(PART_ROWS), "--frame-px", "64", "--lease", "3", "--json", *more),
    ]


@pytest.fixture(scope="module")
def undisturbed(processes: ForkServerContext, world: World) -> str:
    stores = str(world.folder / "undisturbed")
    (ended,) = run_together(processes, world.folder, [command(world, stores)])
    assert (ended.code, ended.num_read) == (1, 40), ended.err  # 1: the missing video
    return stores


def assert_same_stores(stores: str, expected: str) -> None:
    for kind in ("teacher", "inputs"):
        url = f"{stores}/{kind}"
        assert_same_store(url, f"{expected}/{kind}")
        assert list(Place(url).list("claims")) == []


# --- together ---


def test_two_people_who_start_the_same_command_share_the_work_and_both_see_it_done(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    stores = str(world.folder / "two")

    ended = run_together(processes, world.folder, [command(world, stores)] * 2)

    assert [one.code for one in ended] == [1, 1], [one.err for one in ended]
    failures = [json.loads(one.out)["failures"] for one in ended]
    assert failures[0] == failures[1]
    # A clip is computed once, also by the one that came second to its part.
    assert sum(one.num_read for one in ended) == 40
    assert_same_stores(stores, undisturbed)


def test_three_shares_started_at_once_fill_the_stores(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    stores = str(world.folder / "shares")
    shares = [command(world, stores, "--parts", f"{number}/3") for number in (1, 2, 3)]

    ended = run_together(processes, world.folder, shares)

    # Ten parts: four, three and three. The missing video's clips are the last part's.
    assert [one.num_read for one in ended] == [16, 12, 12], [one.err for one in ended]
    assert [one.code for one in ended] == [0, 0, 1]
    assert_same_stores(stores, undisturbed)


def test_two_people_fill_stores_in_a_bucket(
    processes: ForkServerContext, world: World, undisturbed: str, s3: str
) -> None:
    env = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    env["NO_PROXY"] = os.environ["NO_PROXY"]

    ended = run_together(processes, world.folder, [command(world, s3)] * 2, env=env)

    assert [one.code for one in ended] == [1, 1], [one.err for one in ended]
    assert sum(one.num_read for one in ended) == 40
    assert_same_stores(s3, undisturbed)


# --- storage that fails ---


def test_a_disk_that_is_full_is_one_line_and_the_run_goes_on_where_there_is_room_again(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    stores = str(world.folder / "full")
    # Headers and targets fit; the frames of four clips do not.
    largest = max(file.stat().st_size for file in Path(undisturbed).rglob("frames/c/**/*"))
    prepare = partial(limit_files, largest // 2)

    (ended,) = run_together(processes, world.folder, [command(world, stores)], prepare=prepare)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("egoctl: ")
    assert "File too large" in ended.err
    (ended,) = run_together(processes, world.folder, [command(world, stores)])
    assert ended.code == 1, ended.err
    assert_same_stores(stores, undisturbed)


@pytest.mark.skipif(sys.platform != "linux", reason="drops the superuser's rights as Linux does")
def test_a_folder_that_cannot_be_written_is_one_line_and_the_run_goes_on_once_it_can(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    run = partial(run_together, processes, world.folder, prepare=obey_modes)
    stores = str(world.folder / "closed")
    (ended,) = run([command(world, stores, "--parts", "1/2")])
    assert (ended.code, ended.num_read) == (0, 20), ended.err
    receipts = Path(stores, "teacher/parts")
    before = stat.S_IMODE(receipts.stat().st_mode)
    receipts.chmod(0o555)

    (ended,) = run([command(world, stores)])

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended.err
    assert ended.err.startswith(f"egoctl: {receipts}/0000")
    assert "Permission denied" in ended.err
    receipts.chmod(before)
    (ended,) = run([command(world, stores)])
    assert (ended.code, ended.num_read) == (1, 20), ended.err
    assert_same_stores(stores, undisturbed)
