"""A frame whose header promises more than any memory holds is refused before it is decoded."""

import struct

import numpy as np
import pytest
import simplejpeg
import torch

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.store.jpeg import frame_size
from egoctl.student.clips.frames import FrameLoader, decode_frames
from egoctl.student.clips.jpegs import HeldJpegs

ABSURD = (
    r"^a stored frame says that it has 65000 x 64000 pixels, more than 4096; it was not decoded\. "
    r"Run 'egoctl store verify'\.$"
)


def jpeg_saying(height_px: int, width_px: int) -> bytes:
    """A 32 x 32 JPEG whose header says otherwise."""
    plain: bytes = simplejpeg.encode_jpeg(np.zeros((32, 32, 3), dtype=np.uint8))
    size = struct.pack(">HH", 32, 32)
    assert plain.count(size) == 1
    return plain.replace(size, struct.pack(">HH", height_px, width_px))


@pytest.fixture(autouse=True)
def nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)


def test_an_absurd_size_is_refused() -> None:
    with pytest.raises(StoreError, match=ABSURD):
        frame_size(jpeg_saying(64000, 65000))


def test_the_largest_frame_that_stores_may_hold_is_not() -> None:
    assert frame_size(jpeg_saying(4096, 4096)) == (4096, 4096)


def test_no_memory_is_asked_for_where_the_first_frame_is_absurd() -> None:
    jpeg = jpeg_saying(64000, 65000)
    jpegs = HeldJpegs(
        torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), torch.tensor([[[0, len(jpeg)]]])
    )

    with pytest.raises(StoreError, match=ABSURD):
        FrameLoader(jpegs, max_batch=64, num_workers=1, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("height_px", "width_px", "message"),
    [(64000, 65000, ABSURD), (33, 32, "differ in size"), (16, 32, "differ in size")],
)
def test_a_later_frame_of_another_size_is_refused_undecoded(
    height_px: int, width_px: int, message: str
) -> None:
    out = np.empty((1, 1, 32, 32, 3), dtype=np.uint8)

    with pytest.raises(StoreError, match=message):
        decode_frames([jpeg_saying(height_px, width_px)], out)
