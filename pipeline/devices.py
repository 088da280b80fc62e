"""Keeps the memory that a network on a CPU takes and frees for every batch."""

import ctypes
import functools

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER_BYTES = 2**31 - 1


def keep_freed_memory(device: torch.device) -> None:
    """Tell glibc to keep this process's freed memory, if its networks run on the CPU.

    With another C library nothing happens. glibc gives large blocks back to the kernel at once,
    and taking them again costs a page fault for every 4 KiB. A batch of a video network frees
    gigabytes: a third of its time went there (mvit_v2_s on two cores), and almost half of the time
    of a student with the mean read-out. The price is that memory stays at its peak, somewhat above
    what it was, as kept blocks are not joined as well.
    """
    if device.type == "cpu":
        _keep()


@functools.cache
def _keep() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    # Blocks that were mapped one by one would still be unmapped one by one.
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_BYTES)
