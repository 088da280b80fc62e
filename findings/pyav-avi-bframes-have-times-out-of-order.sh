#!/usr/bin/env bash
# PyAV 18.1.0 (FFmpeg's avi demuxer): H.264 with B-frames in AVI decodes in the right order, with
# presentation times in a wrong one.
#
# AVI stores no presentation times. FFmpeg guesses one for every packet; with B-frames the guesses go
# back and forth, so whoever sorts frames by `pts`, or drops a frame whose `pts` is not later than
# that of the one before, shows pictures at wrong moments or loses half of them without an error.
# `dts` of the decoded frames counts on evenly, and decoding order is display order. Without B-frames
# the times are in order and begin at 1, not at 0. MP4 and Matroska, which do store times, are right.
# Source: FFmpeg, libavformat/avidec.c; seen with recorders' and old captures' files.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$work/env/bin/python" - <<'PY'
import io

import av
import numpy as np

NUM = 120


def numbered_picture(number):
    """Black and white blocks: the number's 12 bits, the highest first, row by row."""
    bits = [number >> (11 - place) & 1 for place in range(12)]
    blocks = np.array(bits, np.uint8).reshape(3, 4) * 219 + 16
    grey = np.kron(blocks, np.ones((32, 32), np.uint8))
    return av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=-1), format="rgb24")


def number_in(frame):
    middles = frame.to_ndarray(format="gray")[16::32, 16::32] > 125
    return int("".join("01"[bool(on)] for on in middles.ravel()), 2)


def decoded(container_format, num_b_frames):
    file = io.BytesIO()
    with av.open(file, "w", format=container_format) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.options = {"bf": str(num_b_frames), "g": "60"}
        for number in range(NUM):
            container.mux(stream.encode(numbered_picture(number)))
        container.mux(stream.encode())
    with av.open(io.BytesIO(file.getvalue())) as container:
        return [(frame.pts, frame.dts, number_in(frame)) for frame in container.decode(video=0)]


steps_back = {}
for container_format, num_b_frames in (("mp4", 3), ("matroska", 3), ("avi", 0), ("avi", 3)):
    frames = decoded(container_format, num_b_frames)
    assert [number for _, _, number in frames] == list(range(NUM)), "the order has changed"
    times = [pts for pts, _, _ in frames]
    back = sum(b <= a for a, b in zip(times, times[1:]))
    steps_back[container_format, num_b_frames] = back
    print(f"{container_format:9} B-frames {num_b_frames}: {back:3} of {NUM - 1} times not later than the one before; first {times[:8]}")
    if container_format == "avi":
        first = frames[0][1]
        counted = [dts for _, dts, _ in frames[:100]]  # the last ones, flushed at the end, have none
        assert counted == list(range(first, first + 100)), "dts has changed"
print("PyAV", av.__version__, "libavformat", av.library_versions["libavformat"])
assert steps_back["avi", 3] > NUM // 4, "the times are in order now"
assert not any(steps_back[kind] for kind in (("mp4", 3), ("matroska", 3), ("avi", 0)))
PY
