"""Where files live: a folder on this machine or a prefix of a bucket, behind one small interface.

Everything that several people may write goes through here. Two promises carry the store: what is
put is seen whole or not at all, and of several who create one name exactly one succeeds.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import (
    AzureStore,
    GCSStore,
    HTTPStore,
    LocalStore,
    MemoryStore,
    S3Store,
    from_url,
)

from egoctl.pipeline.errors import StoreError

Bucket: TypeAlias = AzureStore | GCSStore | HTTPStore | LocalStore | MemoryStore | S3Store
T = TypeVar("T")

REMOTE_SCHEMES = ("s3://", "gs://", "az://")
NUM_TRIES = 6
FIRST_PAUSE_S = 0.2
"""Between the tries of a conditional put, doubled each time; obstore itself retries the others."""


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
        """The place at url: a path, file://, s3://, gs:// or az://.

        Raises:
            StoreError: if the URL has another scheme.
        """
        self.url = url.rstrip("/") or "/"
        self.path: Path | None = None
        """The folder, where it is one."""
        if not self.url.startswith(REMOTE_SCHEMES):
            path = self.url.removeprefix("file://")
            if "://" in path:
                raise StoreError(
                    f"{url}: no such kind of place; give a path, {', '.join(REMOTE_SCHEMES)}..."
                )
            self.path = Path(path)

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.url}/{_checked(name)}")

    @cached_property
    def bucket(self) -> Bucket:
        """For libraries that speak to obstore themselves."""
        if self.path is not None:
            with _told(f"{self.url} cannot be made"):
                return LocalStore(self.path.absolute(), mkdir=True)
        # Credentials, region, endpoint: from the environment (AWS_..., GOOGLE_..., AZURE_...).
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
        is_plain = self.url.startswith("s3://") and endpoint.startswith("http://")
        options = {"allow_http": True} if is_plain else {}
        with _told(f"{self.url} cannot be opened"):
            return from_url(self.url, client_options=options)  # type: ignore[arg-type, call-overload, no-any-return, unused-ignore]

    # --- reading ---

    def read(self, name: str, *, max_bytes: int | None = None) -> bytes | None:
        """The content of a file, or None if there is none.

        Raises:
            StoreError: if it has more than max_bytes, or cannot be read.
        """
        with _told(f"{self.url}/{name} cannot be read"):
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
        with _told(f"{self.url}/{name} cannot be looked up"):
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

    def list(self, folder: str = "") -> Iterator[FileInfo]:
        """Every file in the folder and below, in the order of their names."""
        if self.path is not None and not (self.path / folder).is_dir():
            return
        with _told(f"{self.url}/{folder} cannot be listed"):
            prefix = _checked(folder) + "/" if folder else None
            batches = obstore.list(self.bucket, prefix=prefix)
            found = [_file_info(meta) for batch in batches for meta in batch]
        yield from sorted(found, key=lambda info: info.name)

    # --- writing ---

    def put(self, name: str, content: bytes) -> None:
        """Write a file, or replace it; readers see the old one or the whole new one."""
        with _told(f"{self.url}/{name} cannot be written"):
            obstore.put(self.bucket, _checked(name), content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; whether it has this content now."""
        return self._put_if(name, content, lambda: self._create(name, content))

    def replace(self, name: str, content: bytes, seen: FileInfo) -> bool:
        """Write a file unless it changed since it was seen; whether it has this content now.

        File systems cannot tell; there it is replaced, changed or not.
        """
        if self.path is not None:
            self.put(name, content)
            return True
        return self._put_if(name, content, lambda: self._update(name, content, seen))

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with _told(f"{self.url}/{name} cannot be deleted"):
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
        """Try a conditional put until its outcome is known.

        An answer may be lost after the server has done the work, so a refusal is believed only
        once the content has been compared.
        """
        pause_s = FIRST_PAUSE_S
        for left in reversed(range(NUM_TRIES)):
            with _told(f"{self.url}/{name} cannot be written"):
                try:
                    put()
                    return True
                except (AlreadyExistsError, PreconditionError):
                    return self.read(name) == content
                except BaseError as error:
                    if self.path is not None or left == 0 or _is_final(error):
                        raise
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last try raises")


def _is_final(error: BaseError) -> bool:
    """Whether trying again cannot help."""
    return isinstance(error, PermissionDeniedError | UnauthenticatedError)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the storage's errors into one line; a missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        raise StoreError(f"{what}: {_first_cause(error)}. {WHAT_TO_DO}") from error
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror or error}. {WHAT_TO_DO}") from error


WHAT_TO_DO = (
    "Check space, permissions and connection; running the same command again goes on where it "
    "stopped."
)


def _first_cause(error: BaseError) -> str:
    """The sentence of an obstore error, without its debug dump."""
    return str(error).split("\n\nDebug source", maxsplit=1)[0].strip().replace("\n", " ")


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
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/" or "\\" in name or "\0" in name:
        raise StoreError(f"{name!r} leaves its folder. Nothing was read or written.")
    return name
