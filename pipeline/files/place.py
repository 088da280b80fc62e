"""Where files live: a folder on this machine or a prefix of a bucket, behind one small interface.

Everything that several people may write goes through here. Two promises carry the store: what is
put is seen whole or not at all, and of several who create one name exactly one succeeds.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.files.bucket import (
    PATIENT,
    Bucket,
    check_not_forked,
    check_reachable,
    first_cause,
    open_bucket,
)

REMOTE_SCHEMES = ("s3://", "gs://", "az://")
BLOCK_BYTES = 16 << 20
"""What one request of a long download fetches, so that a failed one costs seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileInfo:
    """A stored file as it is now."""

    name: str
    """Below its place."""
    num_bytes: int
    modified_s: float
    """Seconds since 1970 by the storage's clock, which all its users share."""
    e_tag: str | None


class Place:
    """A folder or a bucket's prefix. Names are relative, with slashes; folders need no making."""

    def __init__(self, url: str) -> None:
        """The place at url: a path, file://, s3://BUCKET/..., gs://BUCKET/... or az://CONTAINER/...

        Raises:
            StoreError: if the URL is not one of these.
        """
        self.path: Path | None = None
        """The folder, where it is one."""
        if is_remote(url):
            self.url = url.rstrip("/")
            parts = self.url.split("/")[2:]
            if not parts or any(part in ("", ".", "..") for part in parts):
                raise StoreError(f"{url}: no such place; give a whole URL like s3://BUCKET/FOLDER.")
        else:
            self.path = Path(local_path(url))
            self.url = url.rstrip("/") or "/"

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.url}/{_checked(name)}")

    @property
    def bucket(self) -> Bucket:
        """The place as obstore sees it, for libraries that use obstore themselves.

        Raises:
            StoreError: if it cannot be opened, or this process was forked from one that used it.
        """
        check_not_forked()
        return self._bucket

    @cached_property
    def _bucket(self) -> Bucket:
        if self.path is not None:
            with _one_line_errors(f"{self.url} cannot be made"):
                return LocalStore(self.path.absolute(), mkdir=True)
        with _one_line_errors(f"{self.url} cannot be opened"):
            scheme, _, rest = self.url.partition("://")
            name = rest.partition("/")[0]
            check_reachable(scheme, name, os.environ.get("AWS_ENDPOINT_URL"))
            return open_bucket(scheme, rest, PATIENT)

    # --- reading ---

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes | None:
        """The content of a file, or None if there is none.

        Raises:
            StoreError: if it has more than max_bytes, or cannot be read.
        """
        with _one_line_errors(f"{self.url}/{name} cannot be read"):
            try:
                if self.path is not None:
                    path = self.path / _checked(name)
                    if max_bytes is not None:
                        _check_size(f"{self.url}/{name}", path.stat().st_size, max_bytes)
                    return path.read_bytes()
                found = obstore.get(self.bucket, _checked(name))
                if max_bytes is not None:
                    _check_size(f"{self.url}/{name}", found.meta["size"], max_bytes)
                return bytes(found.bytes())
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def info(self, name: str) -> FileInfo | None:
        """Size and age of a file, or None if there is none."""
        with _one_line_errors(f"{self.url}/{name} cannot be looked up"):
            try:
                if self.path is not None:
                    found = (self.path / _checked(name)).stat()
                    return FileInfo(
                        name=name,
                        num_bytes=found.st_size,
                        modified_s=found.st_mtime,
                        e_tag=f"{found.st_ino}-{found.st_mtime_ns}-{found.st_size}",
                    )
                return _file_info(obstore.head(self.bucket, _checked(name)))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def num_bytes(self, name: str) -> int | None:
        """Size of a file, or None if there is none."""
        info = self.info(name)
        return None if info is None else info.num_bytes

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """The bytes [start, stop) of a file, per span.

        Raises:
            StoreError: if there is no such file, or it is shorter.
        """
        with _one_line_errors(f"{self.url}/{name} cannot be read", missing_is_error=True):
            if self.path is None:
                starts, ends = zip(*spans, strict=True)
                found = obstore.get_ranges(self.bucket, _checked(name), starts=starts, ends=ends)
                blocks = [bytes(block) for block in found]
            else:
                with (self.path / _checked(name)).open("rb") as file:
                    blocks = [os.pread(file.fileno(), b - a, a) for a, b in spans]
        for (start, stop), block in zip(spans, blocks, strict=True):
            if len(block) != stop - start:
                raise StoreError(f"{self.url}/{name} ends before byte {stop:,}. Write it again.")
        return blocks

    def blocks(self, info: FileInfo) -> Iterator[bytes]:
        """A file's content piece by piece, as it was when info was taken.

        Raises:
            StoreError: if it has changed since, or cannot be read.
        """
        where = f"{self.url}/{info.name}"
        for start in range(0, info.num_bytes, BLOCK_BYTES):
            stop = min(start + BLOCK_BYTES, info.num_bytes)
            if self.path is not None:
                yield self.ranges(info.name, [(start, stop)])[0]
                continue
            with _one_line_errors(f"{where} cannot be read", missing_is_error=True):
                options: obstore.GetOptions = {"range": (start, stop), "if_match": info.e_tag}
                try:
                    found = obstore.get(self.bucket, _checked(info.name), options=options)
                    block = bytes(found.bytes())
                except PreconditionError as error:
                    raise StoreError(f"{where} changed while it was read. Try again.") from error
            yield block

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        """Every file in the folder and below, in the order of their names."""
        if self.path is not None and not (self.path / folder).is_dir():
            return
        with _one_line_errors(f"{self.url}/{folder} cannot be listed"):
            prefix = _checked(folder) + "/" if folder else None
            batches = obstore.list(self.bucket, prefix=prefix)
            found = [_file_info(meta) for batch in batches for meta in batch]
        yield from sorted(found, key=lambda info: info.name)

    # --- writing ---

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file, or replace it; readers see the old one or the whole new one.

        A Path names a file on this machine to copy; it is never whole in memory.
        """
        with _one_line_errors(f"{self.url}/{name} cannot be written", missing_is_error=True):
            obstore.put(self.bucket, _checked(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; whether it has this content now.

        Of several that create one name with different contents exactly one gets True.
        """
        return self._put_if(name, content, lambda: self._create(name, content))

    def replace(self, name: str, content: bytes, seen: FileInfo) -> bool:
        """Write a file unless it changed since it was seen; whether it has this content now.

        File systems cannot compare and replace; there it is replaced, changed or not.
        """
        if self.path is not None:
            self.put(name, content)
            return True
        return self._put_if(name, content, lambda: self._update(name, content, seen))

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with _one_line_errors(f"{self.url}/{name} cannot be deleted"):
            try:
                obstore.delete(self.bucket, _checked(name))
            except FileNotFoundError:
                return

    def _create(self, name: str, content: bytes) -> None:
        obstore.put(self.bucket, _checked(name), content, mode="create")

    def _update(self, name: str, content: bytes, seen: FileInfo) -> None:
        mode = {"e_tag": seen.e_tag}
        obstore.put(self.bucket, _checked(name), content, mode=mode)  # type: ignore[arg-type]

    def _put_if(self, name: str, content: bytes, put: Callable[[], None]) -> bool:
        """Make a conditional put whose outcome is known in the end.

        An answer may be lost after the server has done the work; obstore then tries again and is
        refused by its own file. So a refusal, and any failure, is believed only once the content
        has been compared.
        """
        with _one_line_errors(f"{self.url}/{name} cannot be written", missing_is_error=True):
            try:
                put()
                return True
            except (AlreadyExistsError, PreconditionError):
                return self.read(name, max_bytes=None) == content
            except BaseError as error:
                if self.path is None and not _is_final(error) and self.read(name) == content:
                    return True
                raise


def is_remote(url: str) -> bool:
    """Whether url names something in a bucket."""
    return url.startswith(REMOTE_SCHEMES)


def local_path(url: str) -> str:
    """The path that url, a path or file://, names on this machine.

    Raises:
        StoreError: if it has another scheme, or is a bucket's URL with a slash lost.
    """
    path = url.removeprefix("file://")
    if "://" in path or re.match(r"(s3|gs|az):", path):
        raise StoreError(
            f"{url}: no such kind of place; give a path, or a URL that starts with "
            f"{', '.join(REMOTE_SCHEMES)}."
        )
    return path


def file_at(url: str) -> tuple[Place, str]:
    """The place and the name of the file at url.

    Raises:
        StoreError: if the URL names no file.
    """
    folder, _, name = url.rpartition("/")
    if is_remote(url) and not is_remote(f"{folder}/x"):
        raise StoreError(f"{url} names a bucket; give the URL of a file in it.")
    return Place(folder or ("/" if url.startswith("/") else ".")), _checked(name)


def use_endpoint(url: str | None) -> None:
    """Send everything that goes to s3:// to the server at url; None changes nothing.

    It is set in the environment, so that worker processes go there too.

    Raises:
        EgoctlError: if it is not the URL of a server.
    """
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EgoctlError(f"--endpoint must be like https://HOST or http://HOST:9000, got {url!r}.")
    os.environ["AWS_ENDPOINT_URL"] = url


def _is_final(error: BaseError) -> bool:
    """Whether asking again cannot help."""
    return isinstance(error, PermissionDeniedError | UnauthenticatedError)


@contextmanager
def _one_line_errors(what: str, *, missing_is_error: bool = False) -> Iterator[None]:
    """Turn the storage's errors into one line; a missing file stays FileNotFoundError.

    With missing_is_error that becomes a line too: who writes, and finds no bucket, needs to know.
    """
    try:
        yield
    except FileNotFoundError as error:
        if not missing_is_error:
            raise
        raise StoreError(f"{what}: {first_cause(error)}. {WHAT_TO_DO}") from error
    except BaseError as error:
        raise StoreError(f"{what}: {first_cause(error)}. {WHAT_TO_DO}") from error
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}. {WHAT_TO_DO}") from error


WHAT_TO_DO = (
    "Check space, permissions and connection; running the same command again goes on where it "
    "stopped."
)


def _file_info(meta: "obstore.ObjectMeta") -> FileInfo:
    return FileInfo(
        name=meta["path"],
        num_bytes=meta["size"],
        modified_s=meta["last_modified"].timestamp(),
        e_tag=meta["e_tag"],
    )


def _check_size(where: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise StoreError(
            f"{where} has {num_bytes:,} bytes, but a file of its kind has {max_bytes:,} at most. "
            "It was not read; restore it from a copy you trust."
        )


def _checked(name: str) -> str:
    is_odd = any(part in ("", ".", "..") for part in name.split("/"))
    if is_odd or "\\" in name or "\0" in name:
        raise StoreError(f"{name!r} leaves its folder. Nothing was read or written.")
    return name
