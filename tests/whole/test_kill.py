"""Extraction that is killed, at any moment: run it again and nothing tells that it happened."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

import pytest

from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds import extract_script
from egoctl.tests.worlds.extract_world import World, assert_same_store, draw_colours, write_imu

NUM_PARTS = 20
NUM_KILLS = 10
GIVE_UP_S = 60.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Starts real processes that have torch imported already: an import costs seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "egoctl.tests.worlds.extract_script",
            "egoctl.pipeline.extraction.estimate",
            "egoctl.pipeline.extraction.report",
        ]
    )
    return context


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """80 clips in 20 parts of both stores; one video is missing, so failures are stored too."""
    world = World(folder=tmp_path_factory.mktemp("kill"))
    draw_colours(world.videos / "a.mp4", seconds=6)
    draw_colours(world.videos / "b.mp4", seconds=6, first=300)
    write_imu(world.imu / "a.csv", seconds=6)
    rows = [
        {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 5.9},
        {"segment_id": "b", "video": "b.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 5.7},
        {"segment_id": "gone", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2.1},
    ]
    manifest = world.manifest(rows, stride_s=0.1)
    assert len(manifest.clips()) == 4 * NUM_PARTS
    return world


def command(world: World, name: str) -> list[str]:
    return [
        *("extract-teacher", str(world.manifest_path), "--teacher", "means", "--device", "cpu"),
        *("--store", str(world.folder / f"{name}-teacher"), "--part-rows", "4"),
        *("--inputs", str(world.folder / f"{name}-inputs"), "--frame-px", "64"),
        *("--lease", "3"),
    ]


def start(processes: ForkServerContext, world: World, name: str) -> BaseProcess:
    args = (command(world, name), world.folder / f"{name}.log")
    process = processes.Process(target=extract_script.run, args=args)
    process.start()
    return process


def run_to_the_end(processes: ForkServerContext, world: World, name: str) -> None:
    process = start(processes, world, name)
    process.join(GIVE_UP_S)
    log = (world.folder / f"{name}.log").read_text()
    assert process.exitcode == 1, log  # the missing video
    assert "2 failures among 80 clips" in log


def num_files(world: World, name: str) -> int:
    """Files of both stores so far: they come one by one, from the headers to the last receipt."""
    return sum(
        len(files) for folder in world.folder.glob(f"{name}-*") for *_, files in os.walk(folder)
    )


def wait_for(num: int, world: World, name: str, is_running: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GIVE_UP_S
    while num_files(world, name) < num and is_running():
        assert time.monotonic() < give_up, f"{num_files(world, name)} of {num} files came"
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def undisturbed(processes: ForkServerContext, world: World) -> str:
    run_to_the_end(processes, world, "undisturbed")
    return "undisturbed"


def assert_same_stores(world: World, name: str, expected: str) -> None:
    for kind in ("teacher", "inputs"):
        assert_same_store(f"{world.folder}/{name}-{kind}", f"{world.folder}/{expected}-{kind}")


def test_a_run_killed_at_ten_moments_ends_with_the_bits_of_an_undisturbed_one(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    chosen = random.Random(0)
    step = num_files(world, undisturbed) / NUM_KILLS
    moments = [int((number + chosen.random()) * step) for number in range(NUM_KILLS)]

    exit_codes = []
    for moment in moments:
        process = start(processes, world, "killed")
        wait_for(moment, world, "killed", process.is_alive)
        process.kill()
        process.join()
        exit_codes.append(process.exitcode)

    # On a busy machine the last may have ended before it was killed.
    assert exit_codes[:-1] == [-signal.SIGKILL] * (NUM_KILLS - 1)
    run_to_the_end(processes, world, "killed")
    assert_same_stores(world, "killed", undisturbed)


def test_a_run_that_is_interrupted_says_how_to_go_on_and_does(
    processes: ForkServerContext, world: World, undisturbed: str
) -> None:
    words = [sys.executable, "-m", "egoctl.tests.worlds.extract_script", *command(world, "stopped")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(num_files(world, undisturbed) // 4, world, "stopped", lambda: process.poll() is None)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=GIVE_UP_S)

    assert process.returncode == 130, err
    assert (out, err.strip()) == (
        "",
        "Stopped. Every finished part is stored; run the same command to go on.",
    )
    stopped = FeatureStore.open(f"{world.folder}/stopped-inputs")
    num_left = len(stopped.parts_to_do())
    assert 0 < num_left < NUM_PARTS
    run_to_the_end(processes, world, "stopped")
    assert f"in {num_left} parts" in (world.folder / "stopped.log").read_text()
    assert_same_stores(world, "stopped", undisturbed)
