"""Runs by URL: a run in a bucket is worked on in a folder of this machine and published from there.

In the bucket every file has the name it has in the folder, but for checkpoints: these travel as
one zip each, so that they are replaced whole there too.
"""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.files.place import Place, is_remote, local_path

CHECKPOINTS = "checkpoints"
LAST_TO_PUBLISH = ("metrics.json", f"{CHECKPOINTS}/best.zip", f"{CHECKPOINTS}/last.zip")
"""These files say that something is finished, so they follow what it consists of: a resumed run
believes the last checkpoint, and by then its metrics and the best checkpoint are there."""


class RunPlace:
    """A run: the folder to work in, and how its files get to where it lives."""

    def __init__(self, url: str, folder: Path, place: Place | None) -> None:
        self.url = url
        self.folder = folder
        self._place = place
        """None: the run lives in the folder itself."""
        self._published: dict[str, tuple[tuple[str, int, int], ...]] = {}

    def name_of(self, path: Path) -> str:
        """Path or URL of a file or folder of the run, for messages."""
        is_zipped = self._place is not None and path.parent == self.folder / CHECKPOINTS
        name = path.relative_to(self.folder).as_posix()
        return f"{self.url}/{name}.zip" if is_zipped else f"{self.url}/{name}"

    def fetch(self) -> None:
        """Fill the folder with what is published.

        Raises:
            StoreError: if it cannot be read.
            EgoctlError: if a checkpoint is damaged.
        """
        if self._place is None:
            return
        for info in self._place.list():
            path = self.folder / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.writelines(self._place.blocks(info))
            if _is_checkpoint(info.name):
                _unzip(path, where=f"{self.url}/{info.name}")
        self._published = {name: _state(paths) for name, paths in self._to_publish().items()}

    def publish(self) -> None:
        """Bring the bucket up to date; files that have not changed since are not sent again.

        Each arrives whole or not at all. Nothing is removed there.

        Raises:
            StoreError: if they cannot be written.
        """
        if self._place is None:
            return
        files = self._to_publish()
        order = {name: at for at, name in enumerate(LAST_TO_PUBLISH)}
        for name in sorted(files, key=lambda name: (order.get(name, -1), name)):
            state = _state(files[name])
            if self._published.get(name) == state:
                continue
            if _is_checkpoint(name):
                with tempfile.NamedTemporaryFile(suffix=".zip") as zipped:
                    _zip(files[name], Path(zipped.name))
                    self._place.put(name, Path(zipped.name))
            else:
                self._place.put(name, files[name][0])
            self._published[name] = state

    def _to_publish(self) -> dict[str, list[Path]]:
        """The files in the folder by the name under which they are published."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            # Names that start with a dot are half-written or about to be replaced.
            if not path.is_file() or any(part.startswith(".") for part in parts):
                continue
            name = f"{CHECKPOINTS}/{parts[1]}.zip" if parts[0] == CHECKPOINTS else "/".join(parts)
            found.setdefault(name, []).append(path)
        return found


@contextmanager
def run_folder_at(url: str) -> Iterator[RunPlace]:
    """The run at url, in a folder of this machine; published when the block ends without an error.

    The folder of a run in a bucket is made for this process and goes with it: what another machine
    has published since always wins.

    Raises:
        StoreError: if the bucket cannot be read or written.
    """
    if not is_remote(url):
        yield RunPlace(local_path(url), Path(local_path(url)), None)
        return
    with tempfile.TemporaryDirectory(prefix="egoctl-run-") as folder:
        run = RunPlace(
            url.rstrip("/"), Path(folder) / url.rstrip("/").rpartition("/")[2], Place(url)
        )
        run.folder.mkdir()
        run.fetch()
        yield run
        run.publish()


def _is_checkpoint(name: str) -> bool:
    return name.startswith(f"{CHECKPOINTS}/") and name.endswith(".zip")


def _zip(files: list[Path], to: Path) -> None:
    # Stored, not deflated: weights hardly shrink.
    with zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as zipped:
        for file in files:
            zipped.write(file, file.name)


def _unzip(path: Path, *, where: str) -> None:
    """Replace a checkpoint's zip by the folder it was made of; damage shows on the way."""
    try:
        with zipfile.ZipFile(path) as zipped:
            zipped.extractall(path.with_suffix(""))
    except (zipfile.BadZipFile, OSError) as error:
        raise EgoctlError(
            f"{where} is damaged ({error}). Delete it, or start a new run."
        ) from error
    path.unlink()


def _state(files: list[Path]) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of files: they change when one is written again."""
    found = [(path.name, path.stat()) for path in files]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
