"""Copies on this node of files that lie elsewhere: shards to train from, recordings to decode.

Files are named by their content, or by their server's tag of it, so a copy never goes stale.
Any number of processes share the folder: two that fetch one file do double work, no harm.
"""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.files.place import Place, file_at, is_remote, local_path

DEFAULT_BYTES = 50 * 10**9
DISK_SHARE = 0.8
SPARED_S = 600.0
"""Files used so recently are not evicted: whoever was given the path may not have opened it yet."""

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
# A few for all files: two that share one wait for each other now and then, which does no harm.
_LOCKS = [threading.Lock() for _ in range(64)]


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaFile:
    """A video or an IMU file of a manifest, here or in a bucket. Equal where the URLs are."""

    url: str
    """A path on this machine, or s3://..., gs://..., az://..."""

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def local(self) -> Path:
        """Where it can be opened on this machine; fetched first if it must be. Open it at once.

        Raises:
            FileNotFoundError: if the bucket has no such file.
            StoreError: if it cannot be fetched.
        """
        return local_file(self.url)

    def num_bytes(self) -> int:
        """Its size, without fetching it.

        Raises:
            FileNotFoundError: if there is no such file.
            StoreError: if its server does not report it.
        """
        place, name = file_at(self.url)
        info = place.info(name)
        if info is None:
            raise _missing(self.url)
        return info.num_bytes

    def ranges(self, spans: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Its bytes [start, stop) per span, without fetching the rest.

        Raises:
            StoreError: if there is no such file, or it is shorter.
        """
        place, name = file_at(self.url)
        return place.ranges(name, spans)


def cache_folder() -> Path:
    """This user's cache on this node; made if it is not there.

    In EGOCTL_CACHE, which colleagues may share, every user has a folder of their own.

    Raises:
        StoreError: if it cannot be made, or is somebody else's.
    """
    shared = os.environ.get("EGOCTL_CACHE")
    if shared:
        folder = Path(shared).absolute() / str(os.getuid())
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "egoctl"
    try:
        if shared:
            _make_for_everybody(Path(shared))
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise StoreError(f"no cache can be made in {folder}: {error.strerror}. {_OTHER}") from error
    if owner != os.getuid():
        raise StoreError(f"the cache {folder} belongs to another user. {_OTHER}")
    return folder


def _make_for_everybody(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    # Like /tmp: the first to come must not lock the others out.
    folder.chmod(0o1777)


def cap_bytes() -> int:
    """How much the cache may hold: EGOCTL_CACHE_SIZE or 50 GB, but not most of the disk.

    Raises:
        EgoctlError: if EGOCTL_CACHE_SIZE is no size.
    """
    text = os.environ.get("EGOCTL_CACHE_SIZE") or f"{DEFAULT_BYTES}"
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]b|)", text.strip().lower())
    if found is None:
        raise EgoctlError(f"EGOCTL_CACHE_SIZE must be a size such as 50GB, got {text!r}.")
    wanted = int(float(found[1]) * _UNITS[found[2]])
    return min(wanted, int(DISK_SHARE * shutil.disk_usage(cache_folder()).total))


def cached_content(place: Place, name: str, blake3_hex: str, num_bytes: int) -> Path:
    """A copy on this node of a file whose digest and size are known. Open it at once.

    Raises:
        StoreError: if it is missing, cannot be fetched, or has another digest.
    """
    where = f"{place.url}/{name}"

    def blocks() -> Iterable[bytes]:
        info = place.info(name)
        if info is None:
            raise StoreError(f"{where} is missing. Restore it, or extract again.")
        if info.num_bytes != num_bytes:
            raise _damaged(where, f"{info.num_bytes:,} bytes, not {num_bytes:,}")
        return place.blocks(info)

    path = cache_folder() / "content" / blake3_hex[:2] / blake3_hex
    return _filled(path, num_bytes, blocks, where=where, blake3_hex=blake3_hex)


def local_file(url: str) -> Path:
    """The file at url on this machine: itself, or a copy. Open it at once.

    A copy is known by the URL, the size and the tag that the server gives it, so one that was
    replaced there is fetched again.

    Raises:
        FileNotFoundError: if the bucket has no such file.
        StoreError: if it cannot be fetched.
    """
    if not is_remote(url):
        return Path(local_path(url))
    place, name = file_at(url)
    info = place.info(name)
    if info is None:
        raise _missing(url)
    key = blake3(repr((url, info.num_bytes, info.e_tag or info.modified_s)).encode()).hexdigest()
    # Under its own name: decoders go by it, and messages show it.
    path = cache_folder() / "media" / key[:32] / name
    return _filled(path, info.num_bytes, lambda: place.blocks(info), where=url)


def _filled(
    path: Path,
    num_bytes: int,
    blocks: Callable[[], Iterable[bytes]],
    *,
    where: str,
    blake3_hex: str | None = None,
) -> Path:
    """path, holding the blocks; they are asked for only if it does not hold them yet."""
    with _LOCKS[hash(path) % len(_LOCKS)]:
        if _touched_size(path) == num_bytes:
            return path
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            _make_room(num_bytes)
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = blake3()
            with part.open("xb") as file:
                for block in blocks():
                    file.write(block)
                    digest.update(block)
                # The digest is not looked at again: what a power cut leaves must not pass for it.
                os.fsync(file.fileno())
            if part.stat().st_size != num_bytes:
                raise _damaged(where, f"{part.stat().st_size:,} bytes, not {num_bytes:,}")
            if blake3_hex is not None and digest.hexdigest() != blake3_hex:
                raise _damaged(where, f"digest {digest.hexdigest()[:16]}, not {blake3_hex[:16]}")
            os.replace(part, path)
        except OSError as error:
            raise StoreError(
                f"{where} cannot be copied to {path}: {error.strerror}. {_OTHER}"
            ) from error
        finally:
            part.unlink(missing_ok=True)
        return path


def _touched_size(path: Path) -> int | None:
    """The size of a file, which counts as used from now on; None: there is none."""
    try:
        os.utime(path)
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _make_room(num_bytes: int) -> None:
    """Evict what was not used for longest until num_bytes more fit under the cap and on the disk.

    One that is still being read stays readable; only its name goes.
    """
    folder = cache_folder()
    files = []
    for path in folder.glob("*/*/*"):
        try:
            found = path.stat()
        except FileNotFoundError:
            continue  # another process evicted it
        files.append((found.st_mtime, found.st_size, path))
    too_much = max(
        sum(size for _, size, _ in files) + num_bytes - cap_bytes(),
        num_bytes - shutil.disk_usage(folder).free,
    )
    for used_s, size, path in sorted(files):
        if too_much <= 0 or used_s > time.time() - SPARED_S:
            return
        path.unlink(missing_ok=True)
        too_much -= size


_OTHER = "Give EGOCTL_CACHE a folder of yours with enough space."


def _missing(url: str) -> FileNotFoundError:
    return FileNotFoundError(f"there is no file {url}")


def _damaged(where: str, what: str) -> StoreError:
    return StoreError(f"{where} is damaged ({what}). It was not used; restore it or extract again.")
