"""The JPEG bytes of the frames that a student sees: in memory, in a file, or left in the store.

Wherever they are kept, they lie end to end in one buffer, never in one Python object per frame: a
forked worker that as much as looks at an object writes its reference count, and so gets a copy of
the memory around it.
"""

# N clips, B clips of a batch, n clips read at once, F frames the student sees, K stored frames
# each frame's 2: where it starts and where it stops in the buffer, bytes
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.files.cache import cache_folder
from egoctl.pipeline.store import FeatureStore
from egoctl.student.settings.train_config import CacheFrames


class Jpegs(Protocol):
    """The frames of N clips, undecoded. It goes to worker processes without its bytes."""

    opens_store: bool
    """Whether worker processes open the store."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        ...

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        """The B * F frames of these clips, one clip after the other."""
        ...


class HeldJpegs:
    """Frames in memory, as tensors: torch shares these with its workers, however they start."""

    opens_store = False

    def __init__(self, buffer: Tensor, span_NF2: Tensor) -> None:
        self._buffer = buffer
        self._span_NF2 = span_NF2

    @property
    def shape(self) -> tuple[int, int]:
        return self._span_NF2.shape[0], self._span_NF2.shape[1]

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        return _cut(self._buffer.numpy(), self._span_NF2.numpy()[index_B])


class MappedJpegs:
    """Frames in a file: the buffer, then its (N, F, 2) table. Unpickling maps the file anew."""

    opens_store = False

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        """Raises ValueError: if the file is not whole."""
        self.shape = shape
        self._path = path
        content = np.memmap(path, dtype=np.uint8, mode="r")
        table_bytes = 2 * 8 * shape[0] * shape[1]
        self._buffer = content[: max(len(content) - table_bytes, 0)]
        table = content[len(self._buffer) :].tobytes()
        if len(table) != table_bytes:
            raise ValueError(f"{path} has {len(content)} bytes, its table alone {table_bytes}")
        self._span_NF2 = np.frombuffer(table, dtype="<i8").reshape(*shape, 2)
        if self._span_NF2.max() != len(self._buffer):
            raise ValueError(f"{path} is not as long as its table implies")

    def __reduce__(self) -> tuple[type["MappedJpegs"], tuple[Path, tuple[int, int]]]:
        return MappedJpegs, (self._path, self.shape)

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        return _cut(self._buffer, self._span_NF2[index_B])


class StoredJpegs:
    """Frames in the store, read anew for every batch; every process opens the store itself."""

    opens_store = True

    def __init__(self, url: str, row_N: NDArray[np.int64], picked_NF: NDArray[np.int64]) -> None:
        self._url = url
        self._row_N = row_N
        self._picked_NF = picked_NF
        self._store: FeatureStore | None = None

    def __reduce__(self) -> tuple[type["StoredJpegs"], tuple[object, ...]]:
        return StoredJpegs, (self._url, self._row_N, self._picked_NF)

    @property
    def shape(self) -> tuple[int, int]:
        return self._picked_NF.shape[0], self._picked_NF.shape[1]

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        if self._store is None:
            self._store = FeatureStore.open(self._url)
        # In the store's order, so that every chunk is read once.
        in_order, place_B = np.unique(self._row_N[index_B], return_inverse=True)
        stored_BK = self._store.read("frames", in_order)[place_B]
        return list(np.take_along_axis(stored_BK, self._picked_NF[index_B], axis=1).ravel())


class EachFrame:
    """Every frame of other Jpegs as a clip of one: frame f of clip n has the number n * F + f."""

    def __init__(self, jpegs: Jpegs) -> None:
        self.opens_store = jpegs.opens_store
        self._jpegs = jpegs

    @property
    def shape(self) -> tuple[int, int]:
        num_clips, num_frames = self._jpegs.shape
        return num_clips * num_frames, 1

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        num_frames = self._jpegs.shape[1]
        clip_B, frame_B = np.divmod(index_B, num_frames)
        clips, place_B = np.unique(clip_B, return_inverse=True)
        jpegs = self._jpegs.of(clips)
        return [jpegs[at] for at in (place_B * num_frames + frame_B).tolist()]


def keep_jpegs(
    store: FeatureStore,
    row_N: NDArray[np.int64],
    picked_NF: NDArray[np.int64],
    *,
    cache_frames: CacheFrames,
    digest: str,
) -> Jpegs:
    """Frames picked_NF of the store's rows; digest is that of their content, in their order.

    ram: read into memory. disk: read into a file of this node's cache folder, or found there.
    none: read when they are wanted.
    """
    if cache_frames == "none":
        return StoredJpegs(store.url, row_N, picked_NF)
    # A file of no bytes cannot be mapped.
    if cache_frames == "disk" and picked_NF.size:
        return _mapped(store, row_N, picked_NF, digest)
    # Grows in place or by moving whole pages, so there is never a second copy.
    buffer = bytearray()
    span_NF2 = _copy(store, row_N, picked_NF, buffer.extend)
    return HeldJpegs(
        torch.from_numpy(np.frombuffer(buffer, dtype=np.uint8)), torch.from_numpy(span_NF2)
    )


def _mapped(
    store: FeatureStore, row_N: NDArray[np.int64], picked_NF: NDArray[np.int64], digest: str
) -> MappedJpegs:
    key = blake3(f"{digest} {picked_NF.shape}".encode())
    key.update(picked_NF.astype("<i8").tobytes())
    name = key.hexdigest()
    # As deep as the cache's other files: what was not used for long makes room for them.
    path = cache_folder() / "frames" / name[:2] / f"{name}.jpegs"
    shape = (picked_NF.shape[0], picked_NF.shape[1])
    try:
        os.utime(path)
        return MappedJpegs(path, shape)
    except FileNotFoundError:
        pass
    except ValueError:
        # The machine fell over while it was written: made again.
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may do this at once: each writes a file of its own, the last rename stays.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            span_NF2 = _copy(store, row_N, picked_NF, file.write)
            file.write(span_NF2.astype("<i8").tobytes())
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)
    return MappedJpegs(path, shape)


def _copy(
    store: FeatureStore,
    row_N: NDArray[np.int64],
    picked_NF: NDArray[np.int64],
    write: Callable[[bytes], object],
) -> NDArray[np.int64]:
    """(N, F, 2) where each frame lies in what was written; the store is read in its own order."""
    span_NF2 = np.empty((*picked_NF.shape, 2), dtype=np.int64)
    end = 0
    order_N = np.argsort(row_N, kind="stable")
    # Part by part: a store reads whole parts, and frames that are not picked should not all be in
    # memory at once.
    edges = np.flatnonzero(np.diff(row_N[order_N] // store.header.part_rows)) + 1
    for index_n in np.split(order_N, edges):
        stored_nK = store.read("frames", row_N[index_n])
        for index, stored_K in zip(index_n, stored_nK, strict=True):
            for frame, picked in enumerate(picked_NF[index]):
                write(stored_K[picked])
                span_NF2[index, frame] = end, end + len(stored_K[picked])
                end += len(stored_K[picked])
    return span_NF2


def _cut(buffer: NDArray[np.uint8], span_BF2: NDArray[np.int64]) -> list[bytes | memoryview]:
    view = buffer.data
    return [view[start:stop] for start, stop in span_BF2.reshape(-1, 2).tolist()]
