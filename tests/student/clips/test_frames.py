"""Frames: kept in memory, in a file or in the store, they give the same batches."""

import dataclasses
import tracemalloc
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace

import numpy as np
import pytest
import simplejpeg
import torch

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.store import FeatureStore
from egoctl.student.clips.clip_set import read_clips
from egoctl.student.clips.frames import FrameLoader, _SlotDecoder
from egoctl.student.clips.jpegs import HeldJpegs, MappedJpegs, StoredJpegs, keep_jpegs
from egoctl.student.model.student_config import METHODS
from egoctl.student.settings.train_config import CACHE_FRAMES
from egoctl.tests.worlds.student_world import jpeg_of, make_world

CPU = torch.device("cpu")
BATCHES = [torch.tensor([3, 0]), torch.tensor([17]), torch.tensor([5, 5, 16])]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"), splits=("val", "train"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def jpegs_of(world, cache_frames="ram", split="train", num_frames=2):
    clips = read_clips(
        world.manifest,
        split,
        method=METHODS["visonly"],
        num_frames=num_frames,
        frame_selection="first",
        inputs=world.inputs,
        teacher=None,
        needs_targets=False,
        needs_labels=False,
        allow_missing=False,
        cache_frames=cache_frames,
    )
    return clips.jpegs


def held(*frames: bytes) -> HeldJpegs:
    """A clip of one frame for each."""
    stop = np.cumsum([len(frame) for frame in frames])
    span = np.stack([np.concatenate([[0], stop[:-1]]), stop], axis=1)[:, None]
    buffer = np.frombuffer(bytearray(b"".join(frames)), dtype=np.uint8)
    return HeldJpegs(torch.from_numpy(buffer), torch.from_numpy(span))


def decoded(jpegs, batches=BATCHES, num_workers=0):
    loader = FrameLoader(jpegs, max_batch=3, num_workers=num_workers, device=CPU)
    return list(loader.batches(batches))


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        torch.equal(one, two) for one, two in zip(left, right, strict=True)
    )


# --- where they are kept ---


@pytest.mark.parametrize("cache_frames", CACHE_FRAMES)
def test_the_frames_of_a_clip_are_its_own_wherever_they_are_kept(world, cache_frames):
    jpegs = jpegs_of(world, cache_frames)

    train = [clip for clip in world.clips if clip.segment_id.startswith("train")]
    assert jpegs.shape == (18, 2)
    # The first two of three.
    assert [bytes(jpeg) for jpeg in jpegs.of(np.array([17, 4, 17]))] == [
        jpeg_of(train[index], frame) for index in (17, 4, 17) for frame in (0, 1)
    ]


def test_each_place_is_what_it_says(world, cache):
    kinds = [type(jpegs_of(world, cache_frames)) for cache_frames in CACHE_FRAMES]

    assert kinds == [HeldJpegs, MappedJpegs, StoredJpegs]
    assert len(files_in(cache)) == 1


def test_an_unknown_place_is_refused_with_those_there_are(world):
    with pytest.raises(EgoctlError, match="cache_frames 'tape' is not known; choose ram, disk, no"):
        world.config(cache_frames="tape")


@pytest.mark.parametrize("cache_frames", ["ram", "disk"])
def test_every_part_of_the_store_is_read_once_in_its_order(world, monkeypatch, cache_frames):
    read = []
    real = FeatureStore.read

    def read_some(self, array, rows):
        read.append(rows.tolist())
        return real(self, array, rows)

    monkeypatch.setattr(FeatureStore, "read", read_some)
    rows = np.array([30, 2, 7, 8, 1, 20])  # of parts of 8
    picked = np.array([[2, 0], [1, 1], [0, 1], [0, 0], [2, 2], [0, 0]])

    jpegs = keep_jpegs(world.inputs, rows, picked, cache_frames=cache_frames, digest="d")

    assert read == [[1, 2, 7], [8], [20], [30]]
    assert [bytes(jpeg) for jpeg in jpegs.of(np.array([0, 4]))] == [
        jpeg_of(world.clips[row], frame) for row, frame in ((30, 2), (30, 0), (1, 2), (1, 2))
    ]


def test_frames_in_memory_take_the_memory_of_their_bytes_once():
    frame_bytes, num_clips = 100_000, 256

    class Store:
        header = SimpleNamespace(part_rows=32)

        def read(self, array, rows):
            frames = np.empty((len(rows), 1), dtype=object)
            for index, row in enumerate(rows):
                frames[index, 0] = bytes([row]) * frame_bytes
            return frames

    tracemalloc.start()
    try:
        jpegs = keep_jpegs(
            Store(),
            np.arange(num_clips),
            np.zeros((num_clips, 1), dtype=np.int64),
            cache_frames="ram",
            digest="",
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert bytes(jpegs.of(np.array([200]))[0]) == bytes([200]) * frame_bytes
    # All of it, an eighth to grow into, the part that comes in and the one before it.
    all_bytes = frame_bytes * num_clips
    assert all_bytes < peak_bytes < 1.5 * all_bytes


@pytest.mark.parametrize("cache_frames", CACHE_FRAMES)
def test_no_bytes_of_frames_are_sent_to_a_worker(world, cache_frames):
    frames = [np.random.default_rng(0).bytes(100_000)] * 18
    jpegs = held(*frames) if cache_frames == "ram" else jpegs_of(world, cache_frames)
    jpegs.of(np.array([0]))  # an open store would not go to a worker at all

    # As torch's workers are given what they need.
    sent = ForkingPickler.dumps(jpegs)

    assert len(sent) < 2_000


# --- the file ---


def test_the_next_run_finds_the_file_and_reads_no_frame(world, cache, monkeypatch):
    first = decoded(jpegs_of(world, "disk"))
    file = files_in(cache)[0]
    written = file.stat().st_ino
    read = []
    real = FeatureStore.read
    monkeypatch.setattr(
        FeatureStore, "read", lambda self, name, rows: read.append(name) or real(self, name, rows)
    )

    second = decoded(jpegs_of(world, "disk"))

    assert same(first, second)
    assert "frames" not in read
    assert (files_in(cache), file.stat().st_ino) == ([file], written)


def test_other_clips_other_frames_and_another_store_have_files_of_their_own(world, cache, tmp_path):
    jpegs_of(world, "disk")
    jpegs_of(world, "disk", split="val")
    jpegs_of(world, "disk", num_frames=1)
    # The same recipe and the same rows, but other videos.
    other = make_world(tmp_path / "other", splits=("test", "train"))

    jpegs = jpegs_of(other, "disk", split="test")

    assert bytes(jpegs.of(np.array([0]))[0]) == jpeg_of(other.clips[0], 0)
    assert len(files_in(cache)) == 4


def test_the_same_clips_in_another_order_have_a_file_of_their_own(world, cache):
    backwards = dataclasses.replace(world.manifest, segments=world.manifest.segments[::-1])
    turned = dataclasses.replace(world, manifest=backwards)

    first = [jpegs_of(each, "disk").of(np.array([0])) for each in (world, turned)]

    assert [bytes(jpegs[0]) for jpegs in first] == [
        jpeg_of(next(clip for clip in world.clips if clip.segment_id == segment_id), 0)
        for segment_id in ("train-0", "train-8")
    ]
    assert len(files_in(cache)) == 2


@pytest.mark.parametrize("num_bytes", [0, 40, 18 * 2 * 16, -1])
def test_a_file_that_is_not_whole_is_made_again(world, cache, num_bytes):
    whole = decoded(jpegs_of(world, "disk"))
    file = files_in(cache)[0]
    content = file.read_bytes()
    file.write_bytes(content[:num_bytes])

    assert same(decoded(jpegs_of(world, "disk")), whole)
    assert file.read_bytes() == content


def test_a_run_that_is_stopped_while_it_writes_the_file_leaves_nothing(world, cache, monkeypatch):
    def stop(self, array, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        keep_jpegs(
            world.inputs, np.arange(4), np.zeros((4, 1), int), cache_frames="disk", digest="d"
        )

    assert files_in(cache) == []


def test_two_that_write_the_same_file_at_once_both_get_it(world, cache, monkeypatch):
    rows, picked = np.arange(4), np.zeros((4, 1), dtype=np.int64)
    real = FeatureStore.read
    others = []

    def read(self, array, wanted):
        if not others:  # the other one starts and ends while this one reads
            others.append(None)
            others[0] = keep_jpegs(world.inputs, rows, picked, cache_frames="disk", digest="d")
        return real(self, array, wanted)

    monkeypatch.setattr(FeatureStore, "read", read)
    mine = keep_jpegs(world.inputs, rows, picked, cache_frames="disk", digest="d")

    index = np.arange(4)
    assert (
        [bytes(jpeg) for jpeg in mine.of(index)]
        == [bytes(jpeg) for jpeg in others[0].of(index)]
        == [jpeg_of(world.clips[row], 0) for row in range(4)]
    )
    assert len(files_in(cache)) == 1


def test_a_split_without_clips_has_no_frames(world):
    for cache_frames in CACHE_FRAMES:
        jpegs = keep_jpegs(
            world.inputs,
            np.zeros(0, dtype=np.int64),
            np.zeros((0, 2), dtype=np.int64),
            cache_frames=cache_frames,
            digest="d",
        )
        assert jpegs.shape == (0, 2)


# --- decoding ---


def test_frames_are_decoded_to_what_was_stored(world):
    frames = decoded(jpegs_of(world))

    assert [tuple(batch.shape) for batch in frames] == [
        (2, 2, 32, 32, 3), (1, 2, 32, 32, 3), (3, 2, 32, 32, 3),
    ]  # fmt: skip
    # Frames 0 and 1, of class 1 (segment 1) and class 0.
    assert frames[0][:, :, 0, 0, 0].tolist() == [[80, 90], [20, 30]]


@pytest.mark.parametrize(
    ("cache_frames", "num_workers"),
    [("ram", 1), ("ram", 2), ("disk", 0), ("disk", 2), ("none", 0), ("none", 1)],
)
def test_batches_are_equal_to_the_bit_for_every_place_and_number_of_workers(
    world, cache_frames, num_workers
):
    batches = [torch.tensor([index % 18, 7]) for index in range(12)]

    found = decoded(jpegs_of(world, cache_frames), batches, num_workers)

    assert same(found, decoded(jpegs_of(world), batches))


def test_workers_that_are_spawned_see_frames_held_in_memory(world):
    loader = FrameLoader(jpegs_of(world), max_batch=3, num_workers=1, device=CPU)
    loader._workers._loader.multiprocessing_context = "spawn"

    assert same(list(loader.batches(BATCHES)), decoded(jpegs_of(world)))


def test_the_same_workers_serve_one_round_after_the_other(world):
    loader = FrameLoader(jpegs_of(world), max_batch=3, num_workers=2, device=CPU)

    first = list(loader.batches(BATCHES))
    processes = [worker.pid for worker in loader._workers._loader._iterator._workers]
    second = list(loader.batches(BATCHES[::-1]))

    assert same(first, second[::-1])
    assert processes == [worker.pid for worker in loader._workers._loader._iterator._workers]


def test_a_round_that_was_left_early_leaves_nothing_behind(world):
    loader = FrameLoader(jpegs_of(world), max_batch=3, num_workers=2, device=CPU)
    next(loader.batches(BATCHES * 5))

    assert same(list(loader.batches(BATCHES)), decoded(jpegs_of(world)))


def test_workers_go_ahead_only_as_far_as_there_are_slots(world):
    asked = []

    def batches():
        for index in range(12):
            asked.append(index)
            yield torch.tensor([index])

    loader = FrameLoader(jpegs_of(world), max_batch=1, num_workers=1, device=CPU)
    found = loader.batches(batches())

    next(found)
    # The one that was taken, and two ahead of it.
    assert asked == [0, 1, 2]


def test_loading_leaves_the_random_numbers_of_training_alone(world):
    torch.manual_seed(3)
    expected = torch.rand(2).tolist()

    torch.manual_seed(3)
    decoded(jpegs_of(world), num_workers=1)

    assert torch.rand(2).tolist() == expected


# --- refusals ---


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (b"GIF89a", "a stored frame is no readable JPEG"),
        ("half", "a stored frame is no readable JPEG"),
        ("larger", "stored frames differ in size. Extract the inputs store again"),
        ("smaller", "stored frames differ in size. Extract the inputs store again"),
    ],
)
def test_a_frame_that_is_not_like_the_first_is_refused(spoilt, message, num_workers):
    def drawn(side_px):
        noise = np.random.default_rng(0).integers(0, 255, (side_px, side_px, 3), dtype=np.uint8)
        return simplejpeg.encode_jpeg(noise)

    frames = {"half": drawn(32)[:1000], "larger": drawn(40), "smaller": drawn(24)}
    jpegs = held(drawn(32), frames.get(spoilt, spoilt))

    # Our sentence alone, not a worker's traceback before it.
    with pytest.raises(StoreError, match=f"^{message}"):
        decoded(jpegs, [torch.tensor([0, 1])], num_workers)


def test_a_first_frame_that_is_no_jpeg_is_refused_at_once():
    with pytest.raises(StoreError, match="no readable JPEG.*store verify"):
        FrameLoader(held(b"GIF89a"), max_batch=1, num_workers=0, device=CPU)


def test_a_batch_larger_than_a_slot_is_refused(world):
    worker = _SlotDecoder(jpegs_of(world), torch.empty(5, 3, 2, 32, 32, 3, dtype=torch.uint8))

    with pytest.raises(ValueError, match="a batch of 4 clips, max_batch is 3"):
        worker[0, np.arange(4)]
