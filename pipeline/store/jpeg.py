"""Whether bytes are a JPEG of the promised size; a stranger's header may promise gigabytes."""

import simplejpeg

MAX_FRAME_PX = 4096


def jpeg_fault(data: bytes, side_px: int | None) -> str | None:
    """What is wrong with a stored frame, or None. Only its header is read."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        return f"no JPEG ({error})"
    if side_px is not None and (height, width) != (side_px, side_px):
        return f"{width} x {height} pixels, not {side_px} x {side_px}"
    if max(height, width) > MAX_FRAME_PX:
        return f"{width} x {height} pixels, more than {MAX_FRAME_PX}"
    return None
