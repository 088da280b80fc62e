"""JPEG frames to pixels."""

# N clips, B clips of a batch, F frames of a clip, H height, W width
# S slots: places for one batch each

import signal
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store.jpeg import frame_size, unreadable_jpeg
from egoctl.student.clips.jpegs import Jpegs

BATCHES_AHEAD = 2
"""Batches that each worker decodes before they are asked for."""


def decode_frames(jpegs: Sequence[bytes | memoryview], out_BFHW3: NDArray[np.uint8]) -> None:
    """Decode B * F frames into out, RGB.

    Raises:
        StoreError: if a frame cannot be decoded, or has another size.
    """
    size_px = out_BFHW3.shape[2:4]
    for jpeg, out_HW3 in zip(jpegs, out_BFHW3.reshape(-1, *size_px, 3), strict=True):
        # Before it is decoded: decoding takes as much memory as the header promises.
        if frame_size(jpeg) != size_px:
            raise _other_size()
        try:
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out_HW3)
        except ValueError as error:
            raise unreadable_jpeg(error) from error


def _other_size() -> StoreError:
    return StoreError("stored frames differ in size. Extract the inputs store again.")


class FrameLoader:
    """Decodes batches of clips, in worker processes that live as long as the loader does."""

    def __init__(
        self, jpegs: Jpegs, *, max_batch: int, num_workers: int, device: torch.device
    ) -> None:
        """max_batch: the most clips of a batch. num_workers 0: this process decodes.

        Raises:
            StoreError: if the first frame is no JPEG.
        """
        self._jpegs = jpegs
        self._device = device
        self._frame_px = frame_size(jpegs.of(np.zeros(1, dtype=np.int64))[0])
        self._workers = None
        if num_workers:
            shape = self._shape(max_batch)
            self._workers = _Workers(jpegs, shape, num_workers, is_pinned=device.type == "cuda")

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, F, H, W, 3) uint8 on the device: the frames of each batch of clip indices, in order.

        Workers go ahead of what is asked for, as far as there are batches: give those of many
        epochs at once, and none begins with waiting.

        Raises:
            StoreError: if a frame cannot be decoded, or the frames differ in size.
        """
        if self._workers is None:
            decoded: Iterator[Tensor] = map(self._decoded, batches)
        else:
            decoded = self._workers.decoded(batches)
        return (to_device(frames_BFHW3, self._device) for frames_BFHW3 in decoded)

    def _decoded(self, batch: Tensor) -> Tensor:
        out = np.empty(self._shape(len(batch)), dtype=np.uint8)
        decode_frames(self._jpegs.of(batch.numpy()), out)
        return torch.from_numpy(out)

    def _shape(self, num_clips: int) -> tuple[int, ...]:
        return num_clips, self._jpegs.shape[1], *self._frame_px, 3


class _Workers:
    """Processes, as decoding holds Python's lock.

    They write into shared slots that are used over and over: memory that is shared anew for
    every batch costs a good part of the time that decoding takes.
    """

    def __init__(
        self, jpegs: Jpegs, slot_shape: tuple[int, ...], num_workers: int, *, is_pinned: bool
    ) -> None:
        # One for each batch that a worker has or is to have, and for the one being taken.
        num_slots = BATCHES_AHEAD * num_workers + 1
        slots_SBFHW3 = torch.empty((num_slots, *slot_shape), dtype=torch.uint8)
        self._slots_SBFHW3 = slots_SBFHW3.share_memory_()  # type: ignore[no-untyped-call]
        self._is_pinned = is_pinned
        self._order = _Order(num_slots)
        self._loader: DataLoader[tuple[int, int] | StoreError] = DataLoader(
            _SlotDecoder(jpegs, self._slots_SBFHW3),
            batch_size=None,
            sampler=self._order,
            num_workers=num_workers,
            prefetch_factor=BATCHES_AHEAD,
            persistent_workers=True,
            # A forked process cannot read stores: the threads of its object store are not in it.
            multiprocessing_context="spawn" if jpegs.opens_store else None,
            worker_init_fn=_leave_interrupts,
            # Its own, or starting workers would move the random numbers of training.
            generator=torch.Generator(),
        )

    def decoded(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        self._order.batches = batches
        for done in self._loader:
            if isinstance(done, StoreError):
                try:
                    raise done
                finally:
                    # The error's traceback holds this very variable: left in that circle, the
                    # workers would be stopped too late to hear of it, and waited for.
                    del done
            slot, num_clips = done
            frames_BFHW3 = self._slots_SBFHW3[slot, :num_clips]
            # A copy: the slot is filled anew soon after the next batch is asked for.
            if self._is_pinned:
                yield frames_BFHW3.pin_memory()
            else:
                yield torch.from_numpy(frames_BFHW3.numpy().copy())


def _leave_interrupts(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; the trainer saves first, then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Order:
    """The batches to decode and the slot of each; the DataLoader's sampler."""

    def __init__(self, num_slots: int) -> None:
        self.batches: Iterable[Tensor] = ()
        self._num_slots = num_slots

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        for number, batch in enumerate(self.batches):
            # As numpy: a tensor would take shared memory of its own on its way to the worker.
            yield number % self._num_slots, batch.numpy()


class _SlotDecoder(Dataset[tuple[int, int] | StoreError]):
    """What a worker does: item (slot, clips) fills that slot."""

    def __init__(self, jpegs: Jpegs, slots_SBFHW3: Tensor) -> None:
        self._jpegs = jpegs
        self._slots_SBFHW3 = slots_SBFHW3

    def __getitem__(self, item: tuple[int, NDArray[np.int64]]) -> tuple[int, int] | StoreError:
        """The slot and its number of clips, or what is wrong with the frames."""
        slot, index_B = item
        max_batch = self._slots_SBFHW3.shape[1]
        if len(index_B) > max_batch:
            raise ValueError(f"a batch of {len(index_B)} clips, max_batch is {max_batch}")
        try:
            decode_frames(self._jpegs.of(index_B), self._slots_SBFHW3[slot, : len(index_B)].numpy())
        except StoreError as error:
            # Returned, as the DataLoader would make a traceback of its message.
            return error
        return slot, len(index_B)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device; the copy to a GPU goes on while that computes."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def rows_on(device: torch.device, values: Tensor | None, batch: Tensor) -> Tensor | None:
    """The batch's rows of values on the device, if there are values."""
    return None if values is None else to_device(values[batch], device)
