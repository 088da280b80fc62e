"""Videos for tests, drawn frame by frame, each frame telling its own number.

A number is ten black or white blocks, so that it survives lossy coding, scaling and gray.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

MILLISECOND = Fraction(1, 1000)
NUM_BITS = 10
BLOCK_PX = 16
WIDTH_PX, HEIGHT_PX = 96, 64


def number_picture(
    number: int, width: int = WIDTH_PX, height: int = HEIGHT_PX
) -> NDArray[np.uint8]:
    """(height, width, 3): the number's bits in two rows of five blocks at the top left."""
    picture = np.full((height, width, 3), 90, np.uint8)
    for bit in range(NUM_BITS):
        top, left = bit // 5 * BLOCK_PX, bit % 5 * BLOCK_PX
        picture[top : top + BLOCK_PX, left : left + BLOCK_PX] = 255 * (number >> bit & 1)
    return picture


def number_in(picture: NDArray[np.uint8]) -> int:
    """The number drawn by number_picture, from a picture of any size of the same frame."""
    scale = picture.shape[0] / HEIGHT_PX
    number = 0
    for bit in range(NUM_BITS):
        row = int((bit // 5 + 0.5) * BLOCK_PX * scale)
        column = int((bit % 5 + 0.5) * BLOCK_PX * picture.shape[1] / WIDTH_PX)
        number |= int(picture[row, column].mean() > 127) << bit
    return number


def even_times_ms(num_frames: int, *, fps: float = 30, start_ms: int = 0) -> list[int]:
    return [start_ms + round(1000 * number / fps) for number in range(num_frames)]


def draw_video(
    path: Path,
    times_ms: Sequence[int],
    *,
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    gop: int = 15,
    num_b_frames: int = 0,
    rotation_deg: int = 0,
    movflags: str | None = None,
) -> Path:
    """Write a video whose frame number k is shown at times_ms[k]; without pictures: its number."""
    if pictures is None:
        pictures = [number_picture(number) for number in range(len(times_ms))]
    height, width = pictures[0].shape[:2]
    options = {"g": str(gop), "bf": str(num_b_frames)}
    if codec == "libx264":
        # No keyframes but the ones asked for, and the same bytes on any number of cores.
        options |= {"preset": "ultrafast", "sc_threshold": "0", "threads": "1", "crf": "12"}
    muxer_options = {} if movflags is None else {"movflags": movflags}
    scaler = VideoReformatter()
    with av.open(str(path), "w", options=muxer_options) as container:
        stream = container.add_stream(codec, rate=30, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        stream.codec_context.time_base = MILLISECOND
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for time_ms, picture in zip(times_ms, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = scaler.reformat(frame, format=pixel_format, threads=1)
            frame.pts, frame.time_base = time_ms, MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def draw_silence(path: Path) -> Path:
    """Write a second of sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        assert isinstance(stream, AudioStream)
        for start in range(0, 8000, 1000):
            samples = np.zeros((1, 1000), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def cut_file(path: Path, to: Path, *, at_packet: int) -> Path:
    """The file up to the middle of a packet, as a broken transfer leaves it."""
    span, _ = _packet_in(path, at_packet)
    to.write_bytes(path.read_bytes()[: (span.start + span.stop) // 2])
    return to


def damage_file(path: Path, to: Path, *, at_packet: int) -> float:
    """Overwrite a packet; its presentation time in seconds."""
    span, time_s = _packet_in(path, at_packet)
    data = bytearray(path.read_bytes())
    data[span.start : span.stop] = b"\xff" * (span.stop - span.start)
    to.write_bytes(data)
    return time_s


def _packet_in(path: Path, number: int) -> tuple[slice, float]:
    """Where packet `number`, counted in the file's order, lies, and when it is shown."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packet = next(islice(container.demux(stream), number, None))
        assert packet.pos is not None and packet.pts is not None and stream.time_base is not None
        return slice(packet.pos, packet.pos + packet.size), float(packet.pts * stream.time_base)
