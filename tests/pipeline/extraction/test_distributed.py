"""Extraction on Ray: workers that die, parts that always fail, and clusters that are not there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.extraction.ray_cluster import RayConfig, extract_on_ray, ray_lines
from egoctl.pipeline.sharing.verify import verify
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.drawn_video import draw_video, even_times_ms
from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu
from egoctl.tests.worlds.worker_jobs import doomed_job, shard_digests, timid_job

pytest.importorskip("ray", reason="needs Ray: pip install 'egoctl[ray]'")
# Ray leaves sockets and files to the garbage collector, and warns of its own defaults to come.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

TWO = RayConfig(num_workers=2)


@pytest.fixture(autouse=True)
def quiet_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster of this test's own that tells nobody of itself."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }.items():
        monkeypatch.setenv(name, value)
    yield


def test_a_worker_that_dies_in_the_middle_of_a_part_changes_nothing_of_what_is_stored(
    tmp_path: Path,
) -> None:
    world, calm = World(folder=tmp_path / "world"), World(folder=tmp_path / "world" / "calm")
    draw_colours(world.videos / "a.mp4", seconds=4)
    write_imu(world.imu / "a.csv", seconds=4)
    row = {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 4}
    manifest = world.manifest([row], stride_s=0.25)
    calm.folder.mkdir()
    world.extract(manifest, store_url=calm.teacher_url, inputs_url=calm.inputs_url)
    job = doomed_job(world)

    found = extract_on_ray(job, job.load_teachers(), TWO)

    assert job.mark.exists()
    assert (found.num_workers, found.num_retries, found.given_up) == (2, 1, {})
    assert (found.extract.num_read, found.extract.num_parts) == (9, 3)
    assert found.extract.failures == []
    assert list(ray_lines(found))[0] == "2 Ray actors; 1 parts were given out again."
    for url, calm_url in (
        (world.teacher_url, calm.teacher_url),
        (world.inputs_url, calm.inputs_url),
    ):
        assert verify(url).faults == ()
        assert shard_digests(url) == shard_digests(calm_url)
        assert list(FeatureStore.open(url).place.list("claims")) == []


def test_a_part_that_always_fails_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    world = World(folder=tmp_path)
    draw_colours(world.videos / "a.mp4", seconds=4)
    black = [np.zeros((64, 96, 3), np.uint8)] * 90
    draw_video(world.videos / "black.mp4", even_times_ms(90), pictures=black)
    rows = [
        {"segment_id": "a", "video": "a.mp4", "start_s": 0, "stop_s": 3.5},
        {"segment_id": "black", "video": "black.mp4", "start_s": 0, "stop_s": 2.5},
    ]
    world.manifest(rows)  # four clips each: a part each
    job = timid_job(world)

    found = extract_on_ray(job, job.load_teachers(), TWO)

    assert found.given_up == {"part 1 of the teacher's store": "ZeroDivisionError: all is black"}
    assert (found.num_retries, found.extract.num_parts) == (2, 1)
    assert [(one.code, one.count) for one in found.extract.failures] == [("not_done", 2)]
    outcomes = FeatureStore.open(world.teacher_url).rows()["outcome"].to_list()
    assert outcomes == ["ok"] * 4 + [None] * 2
    assert list(ray_lines(found))[1] == (
        "part 1 of the teacher's store failed 3 times and was left out: "
        "ZeroDivisionError: all is black"
    )


def test_a_number_of_workers_below_one_is_refused() -> None:
    with pytest.raises(EgoctlError, match="--workers must be 1 or more, got 0"):
        RayConfig(num_workers=0)
