"""The cache on this node: what it copies, what it refuses, what it throws away."""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.files import cache
from egoctl.pipeline.files.cache import (
    MediaFile,
    cache_folder,
    cached_content,
    cap_bytes,
    local_file,
)
from egoctl.pipeline.files.place import FileInfo, Place
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EGOCTL_CACHE_SIZE", raising=False)


class CountedPlace(Place):
    """Counts how often a file's content is asked for."""

    num_downloads = 0

    def blocks(self, info: FileInfo) -> Iterator[bytes]:
        self.num_downloads += 1
        return super().blocks(info)


def stored(folder: Path, name: str, content: bytes) -> tuple[CountedPlace, str, int]:
    place = CountedPlace(str(folder))
    place.put(name, content)
    return place, blake3(content).hexdigest(), len(content)


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def not_used_for(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# --- where it is ---


def test_a_shared_folder_holds_a_private_one_per_user(tmp_path: Path) -> None:
    folder = cache_folder()

    assert folder == tmp_path / "cache" / str(os.getuid())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # As in /tmp, others may make theirs beside it.
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o1777


def test_without_a_choice_it_is_where_caches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EGOCTL_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "egoctl"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "egoctl"


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_folder()
    theirs = os.getuid() + 1
    (tmp_path / "cache" / str(os.getuid())).rename(tmp_path / "cache" / str(theirs))
    monkeypatch.setattr(cache.os, "getuid", lambda: theirs)

    with pytest.raises(StoreError, match=f"cache/{theirs} belongs to another user. Give EGOCTL_C"):
        cache_folder()


def test_a_place_where_no_folder_can_be_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EGOCTL_CACHE", str(tmp_path / "file"))

    with pytest.raises(StoreError, match="no cache can be made in .*/file/.*Not a directory"):
        cache_folder()


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1000", 1000), ("2kb", 2000), ("1.5 MB", 1_500_000), ("3MB", 3 * 10**6)],
)
def test_its_size_is_given_in_plain_units(
    text: str, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", text)

    assert cap_bytes() == num_bytes


def test_it_never_may_hold_most_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", "1000000TB")
    disk = os.statvfs(cache_folder())

    assert cap_bytes() == int(0.8 * disk.f_blocks * disk.f_frsize)


@pytest.mark.parametrize("text", ["much", "-5GB", "5 GiB", "GB"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", text)

    with pytest.raises(EgoctlError, match=f"a size such as 50GB, got '{text}'"):
        cap_bytes()


# --- content that is known by its digest ---


def test_content_is_copied_once_and_then_found(tmp_path: Path) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")

    first = cached_content(place, "a.bin", digest, num_bytes)
    again = cached_content(place, "a.bin", digest, num_bytes)

    assert first == again == cache_folder() / "content" / digest[:2] / digest
    assert first.read_bytes() == b"shard"
    assert place.num_downloads == 1


def test_the_same_content_under_another_name_is_not_copied_again(tmp_path: Path) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")
    cached_content(place, "a.bin", digest, num_bytes)

    cached_content(Place(str(tmp_path / "elsewhere")), "b.bin", digest, num_bytes)

    assert files_of(cache_folder()) == [digest]


def test_many_threads_that_ask_at_once_cause_one_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")
    all_ask = threading.Barrier(8)
    blocks = place.blocks

    def late(info: FileInfo) -> Iterator[bytes]:
        second.wait(timeout=0.2)  # a second download would have begun by then
        second.set()
        return blocks(info)

    def ask(_: int) -> Path:
        all_ask.wait()
        return cached_content(place, "a.bin", digest, num_bytes)

    second = threading.Event()
    monkeypatch.setattr(place, "blocks", late)
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(ask, range(8)))

    assert len(paths) == 1
    assert place.num_downloads == 1


@pytest.mark.parametrize(
    ("content", "what"), [(b"shurd", "digest .*, not "), (b"sha", "3 bytes, not 5")]
)
def test_content_that_is_not_what_was_promised_is_named_and_not_kept(
    tmp_path: Path, content: bytes, what: str
) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")
    place.put("a.bin", content)

    with pytest.raises(StoreError, match=rf"nfs/a.bin is damaged \({what}.*It was not used"):
        cached_content(place, "a.bin", digest, num_bytes)

    assert files_of(cache_folder()) == []


def test_content_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nfs/a.bin is missing. Restore it"):
        cached_content(Place(str(tmp_path / "nfs")), "a.bin", "0" * 64, 5)


def test_a_copy_that_was_cut_short_is_made_again(tmp_path: Path) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")
    cached_content(place, "a.bin", digest, num_bytes).write_bytes(b"sh")

    assert cached_content(place, "a.bin", digest, num_bytes).read_bytes() == b"shard"


def test_a_download_that_breaks_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, digest, num_bytes = stored(tmp_path / "nfs", "a.bin", b"shard")

    def broken(info: FileInfo) -> Iterator[bytes]:
        yield b"sh"
        raise StoreError("the line went dead")

    monkeypatch.setattr(place, "blocks", broken)
    with pytest.raises(StoreError, match="the line went dead"):
        cached_content(place, "a.bin", digest, num_bytes)

    assert files_of(cache_folder()) == []


# --- what is thrown away ---


def test_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", "300")
    copies = {}
    for name in ("old", "older", "used"):
        place, digest, _ = stored(tmp_path / "nfs", name, name.encode().ljust(100))
        copies[name] = cached_content(place, name, digest, 100)
    for name, idle_s in (("old", 9000), ("older", 10_000), ("used", 11_000)):
        not_used_for(copies[name], idle_s)
    cached_content(place, "used", digest, 100)  # so it is no longer the oldest

    new, digest, _ = stored(tmp_path / "nfs", "new", b"new".ljust(100))
    cached_content(new, "new", digest, 100)

    assert {name for name, path in copies.items() if path.exists()} == {"old", "used"}


def test_what_was_just_used_stays_even_beyond_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", "150")
    paths = []
    for name in ("a", "b"):
        place, digest, _ = stored(tmp_path / "nfs", name, name.encode() * 100)
        paths.append(cached_content(place, name, digest, 100))

    assert all(path.exists() for path in paths)


def test_a_file_that_is_open_stays_readable_when_it_is_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", "150")
    place, digest, _ = stored(tmp_path / "nfs", "a", b"a" * 100)
    path = cached_content(place, "a", digest, 100)
    with path.open("rb") as file:
        not_used_for(path, 10_000)
        other, digest, _ = stored(tmp_path / "nfs", "b", b"b" * 100)
        cached_content(other, "b", digest, 100)

        assert not path.exists()
        assert file.read() == b"a" * 100


def test_what_a_killed_process_left_behind_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGOCTL_CACHE_SIZE", "150")
    leftover = cache_folder() / "content" / "ab" / ".123.part"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"x" * 100)
    not_used_for(leftover, 10_000)

    place, digest, _ = stored(tmp_path / "nfs", "b", b"b" * 100)
    cached_content(place, "b", digest, 100)

    assert not leftover.exists()


# --- videos and IMU files ---


def test_a_file_on_this_machine_is_itself(tmp_path: Path) -> None:
    assert local_file("/data/v.mp4") == local_file("file:///data/v.mp4") == Path("/data/v.mp4")
    assert not (tmp_path / "cache").exists()


def test_a_file_in_a_bucket_is_copied_under_its_own_name(s3: str) -> None:
    Place(s3).put("videos/v 1.mp4", b"frames")

    path = local_file(f"{s3}/videos/v 1.mp4")

    assert path.name == "v 1.mp4"
    assert path.read_bytes() == b"frames"
    assert local_file(f"{s3}/videos/v 1.mp4") == path


def test_a_file_that_was_replaced_in_its_bucket_is_copied_again(s3: str) -> None:
    Place(s3).put("v.mp4", b"old!")
    old = local_file(f"{s3}/v.mp4")
    Place(s3).put("v.mp4", b"new!")

    assert local_file(f"{s3}/v.mp4").read_bytes() == b"new!"
    assert old.read_bytes() == b"old!"


def test_files_of_one_name_in_two_folders_are_two(s3: str) -> None:
    for folder in ("a", "b"):
        Place(s3).put(f"{folder}/v.mp4", b"same")

    assert local_file(f"{s3}/a/v.mp4") != local_file(f"{s3}/b/v.mp4")


def test_a_file_that_no_bucket_has_is_missing_like_any_other(s3: str) -> None:
    media = MediaFile(url=f"{s3}/v.mp4")
    uses: tuple[Callable[[], object], ...] = (media.local, media.num_bytes)
    for use in uses:
        with pytest.raises(FileNotFoundError, match=f"there is no file {s3}/v.mp4"):
            use()


def test_a_large_file_comes_through_a_line_that_fails(
    s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(3_000_000)
    Place(s3).put("v.mp4", content)
    monkeypatch.setattr("egoctl.pipeline.files.place.BLOCK_BYTES", 500_000)
    rates = FaultRates(refuse=0.2, lose=0.1, drop=0.1)
    with FaultyProxy(s3_server.url, rates, seed=1, max_faults=10) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)

        assert local_file(f"{s3}/v.mp4").read_bytes() == content

        assert proxy.counts["requests"] > proxy.counts["passed"] >= 7


def test_parts_of_a_file_are_read_without_copying_it(s3: str) -> None:
    Place(s3).put("v.mp4", bytes(range(100)))
    media = MediaFile(url=f"{s3}/v.mp4")

    assert media.num_bytes() == 100
    assert media.ranges([(0, 1), (97, 100)]) == [b"\0", b"abc"]
    assert files_of(cache_folder()) == []


def test_media_are_equal_where_their_urls_are() -> None:
    one, same, other = (MediaFile(url=url) for url in ("s3://b/v", "s3://b/v", "/v"))

    assert len({one, same, other}) == 2
    assert one.name == "v"
