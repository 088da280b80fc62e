"""The demo world's pictures: depth, visibility, and hands of either side."""

import numpy as np

from egoctl.pipeline.datasets.rendered.raster import Camera, Quad, render
from egoctl.pipeline.datasets.rendered.shapes import HAND_JOINTS, hand_joints


def test_depth_is_the_distance_along_the_optical_axis() -> None:
    camera = Camera(position_T3=np.zeros((1, 3)), rotation_T33=np.eye(3)[None], size_px=128)
    white = np.full((1, 1, 3), 255, np.uint8)
    # In camera axes (y down) a quad with edges x and -y shows its front to the camera.
    wall = Quad(
        origin_T3=np.array([[-9.0, 9.0, 2.0]]),
        edge_u_T3=np.array([[18.0, 0, 0]]),
        edge_v_T3=np.array([[0, -18.0, 0]]),
        texture_SS3=white // 2,
    )
    spot = Quad(
        origin_T3=np.array([[-0.1, 0.1, 0.5]]),
        edge_u_T3=np.array([[0.2, 0, 0]]),
        edge_v_T3=np.array([[0, -0.2, 0]]),
        texture_SS3=white,
        is_ellipse=True,
    )

    rgb, depth = render([wall, spot], camera)

    np.testing.assert_allclose(depth[0, 0, 0], 2.0, rtol=1e-6)
    np.testing.assert_allclose(depth[0, 64, 64], 0.5, rtol=1e-6)
    assert rgb[0, 0, 0].tolist() == [127, 127, 127]
    assert rgb[0, 64, 64].tolist() == [255, 255, 255]
    # The ellipse's radius is 0.1 m / 0.5 m * 0.9 * 128 px = 23.04 px.
    assert abs(int((depth[0] < 1).sum()) - np.pi * 23.04**2) < 25


def test_a_quad_behind_the_camera_or_turned_away_is_not_drawn() -> None:
    camera = Camera(position_T3=np.zeros((1, 3)), rotation_T33=np.eye(3)[None], size_px=16)
    white = np.full((1, 1, 3), 255, np.uint8)
    x, y = np.array([[2.0, 0, 0]]), np.array([[0, 2.0, 0]])
    behind = Quad(origin_T3=np.array([[-1.0, 1, -1]]), edge_u_T3=x, edge_v_T3=-y, texture_SS3=white)
    averted = Quad(origin_T3=np.array([[-1.0, -1, 1]]), edge_u_T3=x, edge_v_T3=y, texture_SS3=white)

    rgb, depth = render([behind, averted], camera)

    assert rgb.max() == 0
    assert np.isinf(depth).all()


def test_the_thumb_is_on_the_inner_side_of_either_hand() -> None:
    grip, elbow = np.array([[0.0, 0.5, 1.0]]), np.array([[0.0, 0.1, 1.0]])

    thumb = HAND_JOINTS.index("thumb")

    assert hand_joints(grip, elbow, 1)[0, thumb, 0] < 0  # a right hand's, palm down
    assert hand_joints(grip, elbow, -1)[0, thumb, 0] > 0
