"""Whether bytes are a JPEG of the promised size; a stranger's header may promise gigabytes."""

import simplejpeg

from egoctl.pipeline.errors import StoreError

MAX_FRAME_PX = 4096


def frame_size(jpeg: bytes | memoryview) -> tuple[int, int]:
    """Height and width of a frame, pixels. Only its header is read.

    Raises:
        StoreError: if it is no JPEG, or larger than any frame that is stored.
    """
    try:
        height_px, width_px, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    except ValueError as error:
        raise unreadable_jpeg(error) from error
    if max(height_px, width_px) > MAX_FRAME_PX:
        raise StoreError(
            f"a stored frame says that it has {width_px} x {height_px} pixels, more than "
            f"{MAX_FRAME_PX}; it was not decoded. Run 'egoctl store verify'."
        )
    return height_px, width_px


def unreadable_jpeg(error: ValueError) -> StoreError:
    """The error for a frame that simplejpeg cannot decode."""
    return StoreError(f"a stored frame is no readable JPEG ({error}). Run 'egoctl store verify'.")


def jpeg_fault(data: bytes, side_px: int | None) -> str | None:
    """What is wrong with a stored frame, for a list of faults; None: nothing.

    Only its header is read. side_px: of a square that it must be; None: any size.
    """
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        return f"no JPEG ({error})"
    if side_px is not None and (height, width) != (side_px, side_px):
        return f"{width} x {height} pixels, not {side_px} x {side_px}"
    if max(height, width) > MAX_FRAME_PX:
        return f"{width} x {height} pixels, more than {MAX_FRAME_PX}"
    return None
