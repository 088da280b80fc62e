"""Several teachers in one pass: a video is decoded once, stores are as if teachers ran alone."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.extract import WorkConfig
from egoctl.pipeline.extraction.job import (
    TargetStore,
    extract_on_devices,
    merged_report,
    target_stores,
)
from egoctl.pipeline.extraction.ray_cluster import RayConfig, extract_on_ray
from egoctl.pipeline.extraction.report import ExtractReport, extract_lines
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.teachers.protocol import Teacher
from egoctl.tests.worlds import extract_script
from egoctl.tests.worlds.command_runs import Run
from egoctl.tests.worlds.extract_world import (
    World,
    assert_same_store,
    draw_colours,
    mean_teacher,
    store_files,
    stored,
    write_imu,
)
from egoctl.tests.worlds.worker_jobs import SeveralJob, several_job

pytest_plugins = ["egoctl.tests.worlds.command_runs"]

NAMES = ("means", "small_means", "slow_means")
NUM_PARTS = 5
GIVE_UP_S = 90.0
ROWS = [
    {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 5.9},
    {"segment_id": "b", "video": "b.mp4", "imu": "", "start_s": 0.3, "stop_s": 5},
    # It goes on behind the end of its video: an outcome of its own in every store.
    {"segment_id": "late", "video": "b.mp4", "imu": "", "start_s": 5, "stop_s": 9},
    {"segment_id": "gone", "video": "gone.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 2.1},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(folder=tmp_path_factory.mktemp("several"))
    draw_colours(world.videos / "a.mp4", seconds=6)
    draw_colours(world.videos / "b.mp4", seconds=6, first=300)
    write_imu(world.imu / "a.csv", seconds=6)
    return world


@pytest.fixture(scope="module")
def manifest(world: World) -> Manifest:
    return world.manifest(ROWS)


def url(world: World, run: str, name: str) -> str:
    return str(world.folder / f"{run}-{name}.store")


def extract(
    world: World, manifest: Manifest, run: str, names: tuple[str, ...], *, with_inputs: bool = True
) -> tuple[ExtractReport, Mapping[str, Teacher]]:
    teachers = {url(world, run, name): mean_teacher(name) for name in names}
    inputs = url(world, run, "inputs") if with_inputs else None
    report = world.extract(manifest, teachers=teachers, inputs_url=inputs, store_url=None)
    return report, teachers


@pytest.fixture(scope="module")
def alone(world: World, manifest: Manifest) -> list[ExtractReport]:
    """One run for every teacher, the first of them for the inputs too."""
    return [
        extract(world, manifest, "alone", (name,), with_inputs=name == NAMES[0])[0]
        for name in NAMES
    ]


@pytest.fixture(scope="module")
def together(world: World, manifest: Manifest) -> ExtractReport:
    return extract(world, manifest, "together", NAMES)[0]


def assert_like_alone(world: World, run: str) -> None:
    for name in (*NAMES, "inputs"):
        assert_same_store(url(world, run, name), url(world, "alone", name))


def test_each_store_has_the_bits_of_a_run_of_its_teacher_alone(
    world: World, alone: list[ExtractReport], together: ExtractReport
) -> None:
    assert_like_alone(world, "together")
    for name in (*NAMES, "inputs"):
        stores = [FeatureStore.open(url(world, run, name)) for run in ("alone", "together")]
        assert stores[0].header == stores[1].header
        outcomes = [store.rows()["outcome"].to_list() for store in stores]
        assert outcomes[0] == outcomes[1]
        assert len(set(outcomes[0])) == 3  # ok, past the end, no such video


def test_every_frame_is_decoded_once_for_all(
    alone: list[ExtractReport], together: ExtractReport
) -> None:
    assert together.frames_decoded == max(report.frames_decoded for report in alone)
    assert together.frames_decoded < sum(report.frames_decoded for report in alone) / 2


def test_the_report_has_a_row_for_every_teacher(world: World, together: ExtractReport) -> None:
    assert [one.teacher for one in together.teachers.values()] == list(NAMES)
    for name in NAMES:
        one = together.teachers[url(world, "together", name)]
        assert (one.store, one.num_parts, one.batch_size) == (
            url(world, "together", name),
            NUM_PARTS,
            2,
        )
    lines = "\n".join(extract_lines(together))
    for name in NAMES:
        assert url(world, "together", name) in lines


def test_a_teacher_that_is_added_later_fills_its_own_store_and_nothing_else(
    world: World, manifest: Manifest, alone: list[ExtractReport]
) -> None:
    extract(world, manifest, "later", NAMES[:2])
    before = {name: store_files(url(world, "later", name)) for name in (*NAMES[:2], "inputs")}

    report, teachers = extract(world, manifest, "later", NAMES)

    assert_like_alone(world, "later")
    for name, files in before.items():
        assert store_files(url(world, "later", name)) == files
    seen = [teacher.num_clips_seen for teacher in teachers.values()]  # type: ignore[attr-defined]
    assert seen[:2] == [0, 0]
    assert list(report.teachers) == [url(world, "later", "slow_means")]
    assert report.frames_decoded == alone[2].frames_decoded


def command(world: World, run: str, *more: str) -> list[str]:
    pairs = [
        word for name in NAMES for word in ("--teacher", name, "--store", url(world, run, name))
    ]
    return [
        *("extract-teacher", str(world.manifest_path), *pairs, "--device", "cpu"),
        *("--inputs", url(world, run, "inputs"), "--frame-px", "64", "--part-rows", "4"),
        *("--dtype", "float32", "--batch-size", "2", "--precision", "fp32", "--lease", "3", *more),
    ]


def test_the_command_pairs_teachers_and_stores_in_their_order(
    world: World,
    manifest: Manifest,
    alone: list[ExtractReport],
    run: Run,
    with_mean_teacher: None,
) -> None:
    done = run(*command(world, "typed"))

    assert done.code == 1, done.err  # the missing video
    assert_like_alone(world, "typed")
    again = run(*command(world, "typed", "--json"))
    assert json.loads(again.out)["num_read"] == 0
    plan = run(*command(world, "other", "--plan"))
    assert all(url(world, "other", name) in plan.out for name in (*NAMES, "inputs"))


def test_a_run_that_is_killed_goes_on_to_the_bits_of_one_left_alone(
    world: World, manifest: Manifest, alone: list[ExtractReport]
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egoctl.tests.worlds.extract_script"])

    def started(log: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=extract_script.run, args=(command(world, "killed"), log))
        process.start()
        return process

    receipts = Path(url(world, "killed", "small_means")) / "parts"
    first = started(world.folder / "first.log")
    give_up = time.monotonic() + GIVE_UP_S
    while not (receipts.is_dir() and any(receipts.iterdir())):
        assert time.monotonic() < give_up and first.is_alive()
        time.sleep(0.002)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    done = {
        name: len(list((Path(url(world, "killed", name)) / "parts").glob("*")))
        for name in (*NAMES, "inputs")
    }

    second = started(world.folder / "second.log")
    second.join(GIVE_UP_S)

    assert second.exitcode == 1, (world.folder / "second.log").read_text()
    assert_like_alone(world, "killed")
    assert sum(done.values()) < len(done) * NUM_PARTS, "it was killed too late"


def test_several_processes_share_the_parts_of_all_stores(
    world: World, manifest: Manifest, alone: list[ExtractReport]
) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["egoctl.tests.worlds.extract_script"])
    processes = [
        context.Process(
            target=extract_script.run,
            args=(command(world, "shared"), world.folder / f"shared{number}.log"),
        )
        for number in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(GIVE_UP_S)

    assert [process.exitcode for process in processes] == [1, 1]
    assert_like_alone(world, "shared")


def test_shares_of_the_parts_add_up_to_all(
    world: World, manifest: Manifest, alone: list[ExtractReport], run: Run, with_mean_teacher: None
) -> None:
    halves = [
        json.loads(run(*command(world, "halves", "--parts", f"{n}/2", "--json")).out)
        for n in (1, 2)
    ]

    assert [half["num_parts"] for half in halves] in ([2, 3], [3, 2])
    assert_like_alone(world, "halves")


def test_rows_of_teammates_are_copied_into_the_store_that_is_made_alike(
    world: World, manifest: Manifest, alone: list[ExtractReport]
) -> None:
    teachers = {url(world, "reused", name): mean_teacher(name) for name in NAMES}
    known = tuple(url(world, "alone", name) for name in ("small_means", "means", "inputs"))

    report = world.extract(
        manifest,
        teachers=teachers,
        inputs_url=url(world, "reused", "inputs"),
        store_url=None,
        work=WorkConfig(reuse=known),
    )

    assert_like_alone(world, "reused")
    # Parts with a clip that failed are read and computed again, in all stores.
    first, second, third = (teacher.num_clips_seen for teacher in teachers.values())
    assert first == second < third
    assert report.num_reused > 0


def job_of(world: World, run: str) -> SeveralJob:
    """The first teacher dies in the middle of a part, once."""
    targets = [
        TargetStore(
            teacher="doomed" if name == "means" else name, weights="-", url=url(world, run, name)
        )
        for name in NAMES
    ]
    return several_job(world, tuple(targets), url(world, run, "inputs"))


def test_a_process_of_several_devices_that_dies_leaves_its_part_to_the_others(
    world: World, manifest: Manifest, alone: list[ExtractReport]
) -> None:
    job = job_of(world, "devices")
    job.mark.unlink(missing_ok=True)

    results = extract_on_devices(job, ["cpu", "cpu"], say=lambda text: None)

    assert job.mark.exists()
    assert sum(result.problem is not None for result in results) == 1
    assert list(merged_report(results).teachers) == [url(world, "devices", name) for name in NAMES]
    for name in (*NAMES, "inputs"):
        assert_same_values(world, "devices", name)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_actors_of_ray_fill_the_stores_of_all_teachers(
    world: World,
    manifest: Manifest,
    alone: list[ExtractReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'egoctl[ray]'")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        monkeypatch.setenv(name, "0")
    job = job_of(world, "ray")
    job.mark.unlink(missing_ok=True)

    found = extract_on_ray(job, job.load_teachers(), RayConfig(num_workers=2))

    assert job.mark.exists()
    assert (found.num_retries, found.given_up) == (1, {})
    for name in (*NAMES, "inputs"):
        assert_same_values(world, "ray", name)


def assert_same_values(world: World, run: str, name: str) -> None:
    """As alone, but for what the recipe calls the teacher: doomed computes what means does."""
    mine, other = stored(url(world, run, name)), stored(url(world, "alone", name))
    assert list(mine) == list(other)
    for clip_id, row in mine.items():
        wanted = other[clip_id]
        assert (row.outcome, row.imu_outcome) == (wanted.outcome, wanted.imu_outcome)
        for array, values in row.arrays.items():
            np.testing.assert_array_equal(values, wanted.arrays[array])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--teacher", "a", "--store", "1", "--store", "2"), "every --teacher needs a --store"),
        (("--teacher", "a", "--teacher", "b", "--store", "1"), "every --teacher needs a --store"),
        (
            ("--teacher", "a", "--teacher", "b", "--store", "1", "--store", "./1"),
            "given for two stores",
        ),
        (("--teacher", "a", "--store", "1", "--inputs", "1/"), "given for two stores"),
        (
            (
                *("--teacher", "a", "--teacher", "b", "--teacher", "c", "--store", "1"),
                *("--store", "2", "--store", "3", "--weights", "x", "--weights", "y"),
            ),
            "--weights is given once for all teachers or once for each of the 3",
        ),
    ],
)
def test_options_that_do_not_pair_are_refused(
    world: World,
    manifest: Manifest,
    run: Run,
    with_mean_teacher: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    refused = run("extract-teacher", world.manifest_path, *words)

    assert refused.code == 2
    assert message in refused.err
    assert not list(tmp_path.iterdir())


def test_weights_and_footage_are_for_all_teachers_or_one_for_each() -> None:
    shared = target_stores(["a", "b"], ["1", "2"], ["default"], [])
    apart = target_stores(["a", "b"], ["1", "2"], ["x", "y"], [])

    assert [(one.teacher, one.url, one.weights) for one in shared] == [
        ("a", "1", "default"), ("b", "2", "default"),
    ]  # fmt: skip
    assert [one.weights for one in apart] == ["x", "y"]
    with pytest.raises(EgoctlError, match="two stores"):
        target_stores(["a", "b"], ["s3://team/one", "s3://team/one/"], ["default"], [])
