"""Small pictures of clips: frames as data: URIs, motion as the points of a curve."""

import base64

import numpy as np
import pytest
import simplejpeg

from egoctl.pipeline.errors import StoreError
from egoctl.student.analysis.clip_pictures import clip_pictures, plot_points, thumbnail
from egoctl.tests.worlds.student_world import imu_of, make_world


def jpeg(side_px):
    return simplejpeg.encode_jpeg(np.full((side_px, side_px, 3), 90, dtype=np.uint8))


def size_of(uri):
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return simplejpeg.decode_jpeg_header(base64.b64decode(content))[:2]


def test_a_thumbnail_is_half_as_large_and_a_small_frame_stays_as_it_is():
    assert size_of(thumbnail(jpeg(224))) == (112, 112)
    assert size_of(thumbnail(jpeg(32))) == (32, 32)


def test_a_frame_that_is_no_jpeg_is_refused():
    with pytest.raises(StoreError, match="no readable JPEG.*egoctl store verify"):
        thumbnail(b"not a picture")
    with pytest.raises(StoreError, match="no readable JPEG.*egoctl store verify"):
        thumbnail(jpeg(224)[:400])


def test_a_curve_is_as_wide_and_high_as_its_plot():
    points = plot_points(np.array([0.0, 1.0, 2.0], dtype=np.float32), highest=4.0)

    assert points == "0.0,48.0 100.0,36.0 200.0,24.0"
    assert plot_points(np.zeros(0, dtype=np.float32), highest=4.0) == ""
    assert len(plot_points(np.ones(422, dtype=np.float32), highest=1.0).split()) == 72


def test_a_clip_has_all_its_frames_and_its_motion_if_there_is_any(tmp_path):
    world = make_world(tmp_path, splits=("train",), segments_of_split=2, without_imu=("train-1",))
    row = 1
    moves, still = world.clips[row], world.clips[2]

    found = clip_pictures(world.inputs, [still.clip_id, moves.clip_id, moves.clip_id])

    assert set(found) == {still.clip_id, moves.clip_id}
    assert len(found[moves.clip_id].frames) == 3
    imu = imu_of(moves, row)
    accel = [np.sqrt(x * x + y * y + z * z) for x, y, z in imu[:, :3].tolist()]
    gyro = [np.sqrt(x * x + y * y + z * z) for x, y, z in imu[:, 3:].tolist()]
    np.testing.assert_allclose(found[moves.clip_id].accel_W, accel, rtol=1e-5)
    np.testing.assert_allclose(found[moves.clip_id].gyro_W, gyro, rtol=1e-5)
    assert len(found[still.clip_id].frames) == 3
    assert len(found[still.clip_id].gyro_W) == 0
