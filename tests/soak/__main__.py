"""Run all soaks, or the named ones: `python -m egoctl.tests.soak kills flips faults ray`.

Exit code 1 if anything was lost, doubled, missed or not repaired.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from egoctl.pipeline.extraction.ray_cluster import RayConfig, extract_on_ray
from egoctl.pipeline.sharing.verify import verify
from egoctl.tests.soak.faults import freeze_one_of_eight
from egoctl.tests.soak.flips import flip_bits
from egoctl.tests.soak.kills import kill_writers
from egoctl.tests.soak.writers import KINDS, crew
from egoctl.tests.worlds.extract_world import World, draw_colours, write_imu
from egoctl.tests.worlds.s3_server import S3Server, s3_environment
from egoctl.tests.worlds.worker_jobs import doomed_job, shard_digests

LEASE_S = 6.0


def kills(folder: Path, count: int) -> list[str]:
    """100 kills on a local disk, and 100 on an S3 server."""
    wrong: list[str] = []
    with crew(folder, lease_s=LEASE_S) as workers:
        expected = f"{folder}/undisturbed"
        workers.finish(expected)
        found = kill_writers(
            workers, f"{folder}/killed", expected, num_kills=count, seed=0, say=say
        )
        say(f"local disk: {found.kills} kills in {found.rounds} stores, {len(found.wrong)} wrong")
        wrong += found.wrong
        with _bucket() as (server, url):
            workers = replace(workers, environment=s3_environment(server.url))
            found = kill_writers(
                workers, f"{url}/killed", expected, num_kills=count, seed=1, say=say
            )
        say(f"S3 server: {found.kills} kills in {found.rounds} stores, {len(found.wrong)} wrong")
        wrong += found.wrong
    return wrong


def flips(folder: Path, count: int) -> list[str]:
    """200 flipped bits over all kinds of files, in a teacher's store and an inputs store."""
    wrong: list[str] = []
    with crew(folder, lease_s=LEASE_S) as workers:
        base = f"{folder}/flipped"
        workers.finish(base)
        for kind in KINDS:
            found = flip_bits(
                f"{base}-{kind}",
                count=count // len(KINDS),
                seed=len(kind),
                redo=lambda: workers.finish(base),
                on_flip=lambda: None,
            )
            for name, number in sorted(found.flipped.items()):
                say(
                    f"{kind}, {name}: {number} flipped, {found.found[name]} found, "
                    f"{found.harmless[name]} changed no content"
                )
            say(f"{kind}: {len(found.missed)} missed, {len(found.unrepaired)} not repaired")
            wrong += [*found.missed, *found.unrepaired]
    return wrong


def faults(folder: Path, count: int) -> list[str]:
    """Eight writers on S3 with faults, one of them frozen past its lease."""
    with crew(folder, lease_s=LEASE_S) as workers:
        expected = f"{folder}/undisturbed"
        workers.finish(expected)
        with _bucket() as (server, url):
            found = freeze_one_of_eight(workers, server, f"{url}/faulty", expected, say=say)
    told = ", ".join(f"{name} {number}" for name, number in sorted(found.answers.items()))
    say(f"answers: {told}; frozen for {found.frozen_s:.0f} s: {found.wrong or 'equal'}")
    return [] if found.wrong is None else [found.wrong]


def on_ray(folder: Path, count: int) -> list[str]:
    """Two Ray actors on this machine; one is killed in the middle of a part."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    world, calm = World(folder=folder / "world"), World(folder=folder / "world" / "calm")
    draw_colours(world.videos / "a.mp4", seconds=8)
    write_imu(world.imu / "a.csv", seconds=8)
    row = {"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 8}
    manifest = world.manifest([row], stride_s=0.1)
    calm.folder.mkdir()
    world.extract(manifest, store_url=calm.teacher_url, inputs_url=calm.inputs_url)
    job = doomed_job(world)
    found = extract_on_ray(job, job.load_teachers(), RayConfig(num_workers=2))
    urls = ((world.teacher_url, calm.teacher_url), (world.inputs_url, calm.inputs_url))
    wrong = [
        f"{url} differs from an undisturbed run"
        for url, expected in urls
        if shard_digests(url) != shard_digests(expected) or verify(url).faults
    ]
    say(
        f"{found.num_workers} actors, one killed ({job.mark.exists()}), {found.num_retries} parts "
        f"given out again, {found.extract.num_parts} parts done: {wrong or 'equal'}"
    )
    return wrong if job.mark.exists() else [*wrong, "no actor was killed"]


SOAKS: dict[str, Callable[[Path, int], list[str]]] = {
    "kills": kills,
    "flips": flips,
    "faults": faults,
    "ray": on_ray,
}
COUNTS = {"kills": 100, "flips": 200, "faults": 0, "ray": 0}


@contextmanager
def _bucket() -> Iterator[tuple[S3Server, str]]:
    with S3Server() as server:
        os.environ.update(s3_environment(server.url))
        yield server, f"s3://{server.new_bucket()}/soak"


def say(text: str) -> None:
    """At once: these runs take minutes."""
    print(text, flush=True)


def main() -> None:
    """Run the soaks that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m egoctl.tests.soak", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SOAKS))
    parser.add_argument("--count", type=int, help="kills or flips; default 100 and 200")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - SOAKS.keys()):
        parser.error(f"no soak {', '.join(unknown)}; there are {', '.join(SOAKS)}")
    wrong: list[str] = []
    for name in asked.names or SOAKS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="egoctl-soak-") as folder:
            found = SOAKS[name](Path(folder), asked.count or COUNTS[name])
        say(f"{name}: {'OK' if not found else 'WRONG'} after {time.perf_counter() - start:.0f} s")
        wrong += found
    for line in wrong:
        say(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
