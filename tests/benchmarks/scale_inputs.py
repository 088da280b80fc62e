"""Measures what `scale` calculates with: decoding, sizes, requests to a bucket."""

import http.client
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from egoctl.pipeline.datasets.folder import FolderSource, whole_videos
from egoctl.pipeline.extraction.extract import Extraction, WorkConfig
from egoctl.pipeline.extraction.plan import (
    StoreConfig,
    inputs_arrays,
    inputs_header,
    inputs_view,
    teacher_arrays,
    teacher_header,
)
from egoctl.pipeline.manifest import Manifest
from egoctl.pipeline.reading.clip_job import teacher_view
from egoctl.pipeline.reading.clip_reader import JobReader
from egoctl.pipeline.records import WINDOW_S, RowOutcome, TeacherSpec
from egoctl.pipeline.store import FeatureStore
from egoctl.pipeline.store.clip_table import Part, StoreRow, clip_key, clips_frame, parts_of
from egoctl.pipeline.store.header import BYTES, ArraySpec, StoreHeader
from egoctl.pipeline.store.part_writer import part_files
from egoctl.pipeline.teachers.weights import WeightsInfo
from egoctl.tests.benchmarks.footage import FPS, X264, jobs_of, picture
from egoctl.tests.worlds.extract_world import (
    CONFIG,
    RUN,
    MeanTeacher,
    World,
    draw_colours,
    write_imu,
)
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server, s3_environment

STRIDE_S = 1.0
SECONDS = 8.0
NUM_ROUNDS = 3
MOTIONFORMER = TeacherSpec(
    name="motionformer", num_frames=16, stride_s=4 / 30, short_side_px=256, crop_px=224,
    mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channel_order="rgb", tap="head",
    feature_dim=768, num_classes=397,
)  # fmt: skip
"""What it looks at and gives back: 97 verbs and 300 nouns of EPIC-KITCHENS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """Requests to a bucket, by the two kinds that are charged for; deleting is free."""

    writes: float
    """PUT and LIST."""
    reads: float
    """GET and HEAD."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartBytes:
    """Of one whole part of a store, every file as it is written."""

    shards: Mapping[str, int]
    """By array."""
    others: int
    """Statistics, receipt, and its rows of the clips file and of that one's copy."""


# --- decoding ---


def decode_speed(videos: Path) -> tuple[float, float]:
    """Frames that one core decodes in a second of its time, and the mean bytes of a stored JPEG.

    With all that extraction does beside it: resizing for teacher and students, and JPEG. The
    core's own time is taken, so that other work on the machine counts little; the median of three.
    """
    source = FolderSource(videos=videos, imu=None, window_s=WINDOW_S, stride_s=STRIDE_S)
    manifest, _ = whole_videos(source, manifest_folder=videos, imu_inside=False)
    jobs = jobs_of(manifest, MOTIONFORMER, StoreConfig())
    speeds, sizes = [], []
    for _ in range(NUM_ROUNDS):
        reader = JobReader(num_threads=1)
        started_s = time.process_time()
        sizes = [len(jpeg) for job in jobs for clip in reader.read(job) for jpeg in clip.jpegs]
        took_s = time.process_time() - started_s
        speeds.append(reader.stats.decode.frames_decoded / took_s)
    return statistics.median(speeds), sum(sizes) / len(sizes)


def draw_footage(folder: Path, *, width_px: int, height_px: int) -> float:
    """Write a video of noisy, panning pictures of that size; its megabits per second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{height_px}.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for number in range(round(SECONDS * FPS)):
            drawn_HW3 = _tiled(picture(number), width_px, height_px)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(drawn_HW3, format="rgb24")))
        container.mux(stream.encode(None))
    return path.stat().st_size * 8 / SECONDS / 1e6


def _tiled(picture_HW3: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """As large as asked for, and as noisy: enlarging would make it easy to decode."""
    height, width, _ = picture_HW3.shape
    tiled = np.tile(picture_HW3, (-(-height_px // height), -(-width_px // width), 1))
    return np.ascontiguousarray(tiled[:height_px, :width_px])


# --- sizes ---


def part_bytes(jpeg_bytes: int) -> dict[str, PartBytes]:
    """By kind of store: what a part of the default settings takes, as the code writes it."""
    config = StoreConfig()
    view = inputs_view(config, WINDOW_S)
    weights = WeightsInfo(source="file", sha256="0" * 64, is_random=False, class_names=None)
    looks = teacher_view(MOTIONFORMER, WINDOW_S)
    teacher = teacher_header(MOTIONFORMER, weights, looks, config, precision="bf16")
    return {
        "teacher": _part_bytes(teacher, teacher_arrays(MOTIONFORMER, config), jpeg_bytes),
        "inputs": _part_bytes(inputs_header(view, config), inputs_arrays(view), jpeg_bytes),
    }


def _part_bytes(header: StoreHeader, arrays: tuple[ArraySpec, ...], jpeg_bytes: int) -> PartBytes:
    specs = tuple(spec.in_parts_of(header.part_rows) for spec in arrays)
    header = replace(header, arrays=tuple(sorted(specs, key=lambda spec: spec.name)))
    part, clips_bytes = _one_part(header.part_rows)
    streams = ("outcome", "imu_outcome") if header.kind == "inputs" else ("outcome",)
    found = part_files(
        header,
        part,
        {spec.name: _values(spec, part.num_rows, jpeg_bytes) for spec in header.arrays},
        {stream: [RowOutcome()] * part.num_rows for stream in streams},
        seconds={"wait": 100.123, "teacher": 100.123},
        versions=dict.fromkeys(("egoctl", "torch", "av", "zarr", "numpy"), "1.10.1"),
        num_reused=0,
        where="a part",
    )
    return PartBytes(
        shards={name: shard.num_bytes for name, shard in found.receipt.shards.items()},
        others=found.receipt.statistics.num_bytes + len(found.receipt.to_json()) + clips_bytes,
    )


def _one_part(num_rows: int) -> tuple[Part, int]:
    rows = []
    for number in range(num_rows):
        start_s, stop_s = float(number), number + WINDOW_S
        rows.append(
            StoreRow(
                clip_id=f"P01_101_{number}@{start_s:.3f}-{stop_s:.3f}",
                segment_id=f"P01_101_{number}",
                video_id="P01_101",
                start_s=start_s,
                stop_s=stop_s,
                clip_key=clip_key("0" * 64, start_s, stop_s),
                imu_key="0" * 64,
            )
        )
    frame = clips_frame(rows, first_part=0, part_rows=num_rows)
    with tempfile.TemporaryFile() as file:
        frame.write_parquet(file)
        # Twice: every clips file has a copy.
        return parts_of(frame)[0], 2 * file.tell()


def _values(spec: ArraySpec, num_rows: int, jpeg_bytes: int) -> NDArray[np.generic]:
    shape = (num_rows, *spec.row_shape)
    if spec.dtype == BYTES:
        values = np.empty(shape, dtype=object)
        values[...] = bytes(jpeg_bytes)
        return values
    return np.random.default_rng(0).normal(size=shape).astype(spec.dtype)


# --- requests ---


class CountingProxy(FaultyProxy):
    """Passes everything on and counts it by kind."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, FaultRates())
        self.kinds: Counter[str] = Counter()

    def pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        is_list = method == "GET" and "list-type=" in path
        kind = {"PUT": "writes", "GET": "reads", "HEAD": "reads"}.get(method, "other")
        self.kinds["writes" if is_list else kind] += 1
        return super().pass_on(method, path, body, headers)

    def during(self, act: Callable[[], object]) -> Requests:
        """What act asks of the server."""
        before = self.kinds.copy()
        act()
        return Requests(
            writes=self.kinds["writes"] - before["writes"],
            reads=self.kinds["reads"] - before["reads"],
        )


def requests_per_part(num_parts: int = 4) -> dict[str, Requests]:
    """By act: requests for each part of a teacher's and an inputs store in a bucket.

    Acts are 'fill', 'start' (a worker on stores that are full), 'try' (a part that another worker
    has done meanwhile) and 'train' (read everything on a node whose cache is empty). Taken of runs
    over num_parts and twice as many, so that what is asked once does not count.
    """
    with tempfile.TemporaryDirectory() as name, S3Server() as server:
        proxy = CountingProxy(server.url)
        os.environ.update(s3_environment(proxy.url))
        world = World(folder=Path(name))
        draw_colours(world.videos / "a.mp4", seconds=8)
        write_imu(world.imu / "a.csv", seconds=8)
        with proxy:
            few, many = (
                _requests_of_runs(world, proxy, f"s3://{server.new_bucket()}/{count}", count)
                for count in (num_parts, 2 * num_parts)
            )
    return {
        what: Requests(
            writes=(many[what].writes - few[what].writes) / num_parts,
            reads=(many[what].reads - few[what].reads) / num_parts,
        )
        for what in few
    }


def _requests_of_runs(
    world: World, proxy: CountingProxy, base: str, num_parts: int
) -> dict[str, Requests]:
    urls = {"store_url": f"{base}/teacher", "inputs_url": f"{base}/inputs"}
    # A cache of its own: what another run had fetched would not be asked for.
    os.environ["EGOCTL_CACHE"] = str(world.folder / f"cache{num_parts}")
    manifest = _of_parts(world, num_parts)

    def extract() -> None:
        world.extract(manifest, **urls)

    late = Extraction(
        manifest,
        {urls["store_url"]: MeanTeacher()},
        inputs_url=urls["inputs_url"],
        config=CONFIG,
        run=RUN,
        lease_s=180.0,
    )
    late.add_rows()
    queue = late.queue(WorkConfig())
    planned, _ = queue.left()
    found = {"fill": proxy.during(extract), "start": proxy.during(extract)}
    found["try"] = proxy.during(lambda: [queue.claimed(part) for part in planned])
    late.close()
    found["train"] = proxy.during(lambda: _read_all(urls.values()))
    return found


def _of_parts(world: World, num_parts: int) -> Manifest:
    rows = [{"segment_id": "a", "video": "a.mp4", "imu": "a.csv", "start_s": 0, "stop_s": 7.9}]
    manifest = world.manifest(rows, stride_s=0.1)
    num_clips = num_parts * CONFIG.part_rows
    kept = list(islice(manifest.clips(), num_clips))
    assert len(kept) == num_clips
    stop_s = kept[-1].stop_s
    return replace(manifest, segments=(replace(manifest.segments[0], stop_s=stop_s),))


def _read_all(urls: Iterable[str]) -> None:
    for url in urls:
        store = FeatureStore.open(url)
        rows = store.rows()["row"].to_numpy()
        for name in store.array_specs():
            store.read(name, rows)
