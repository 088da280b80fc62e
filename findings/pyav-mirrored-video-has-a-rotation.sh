#!/usr/bin/env bash
# PyAV 18.1.0: a video that its container mirrors has a `frame.rotation` that is no rotation.
#
# The display matrix of an MP4 track can turn a picture, mirror it, or both. `VideoFrame.rotation`
# gives the angle alone and nothing reports the mirror:
#   mirrored left to right  -> rotation -180 (whoever turns by it gets the picture upside down)
#   mirrored top to bottom  -> rotation 0    (as if there were no matrix)
#   transposed              -> rotation -90  (the same as of a plain quarter turn)
# The decoded pixels are those of the file in all cases: PyAV applies no matrix itself.
# Source: FFmpeg's av_display_rotation_get computes an angle from two columns of the matrix; a
# mirror shows only in the sign of its determinant (libavutil/display.h).
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
"$work/env/bin/python" - <<'PY'
import io
import struct

import av
import numpy as np

ONE, LAST = 0x10000, 0x40000000
MATRICES = {
    "as it is": (ONE, 0, 0, 0, ONE, 0, 0, 0, LAST),
    "half turn": (-ONE, 0, 0, 0, -ONE, 0, 0, 0, LAST),
    "quarter turn": (0, ONE, 0, -ONE, 0, 0, 0, 0, LAST),
    "mirrored left to right": (-ONE, 0, 0, 0, ONE, 0, 0, 0, LAST),
    "mirrored top to bottom": (ONE, 0, 0, 0, -ONE, 0, 0, 0, LAST),
    "transposed": (0, ONE, 0, ONE, 0, 0, 0, 0, LAST),
}


def video(matrix):
    """A still picture, brighter in its upper half and on its left edge, with a display matrix."""
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:32] = 200
    picture[:, :16] += 40
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    content = bytearray(file.getvalue())
    # tkhd, version 0: name 4, flags 4, five numbers 20, reserved 8, four short numbers 8, matrix 36
    at = content.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    content[at : at + 36] = struct.pack(">9i", *matrix)
    return io.BytesIO(bytes(content))


found, pixels = {}, set()
for name, matrix in MATRICES.items():
    with av.open(video(matrix)) as container:
        frame = next(container.decode(video=0))
    found[name] = frame.rotation
    grey = frame.to_ndarray(format="gray")
    pixels.add((int(grey[5, 5]) > 220, int(grey[60, 60]) > 20))
    print(f"{name:24} rotation {frame.rotation:5d}  determinant {matrix[0] * matrix[4] - matrix[1] * matrix[3] > 0}")
print("PyAV", av.__version__, "libavutil", av.library_versions["libavutil"])
assert found == {
    "as it is": 0,
    "half turn": -180,
    "quarter turn": -90,
    "mirrored left to right": -180,
    "mirrored top to bottom": 0,
    "transposed": -90,
}, "the behaviour has changed"
assert pixels == {(True, False)}, "PyAV applies the matrix now"
PY
