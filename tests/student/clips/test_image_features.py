"""Features of a frozen image encoder: computed once for each stored frame, and kept."""

import numpy as np
import pytest
import simplejpeg
import torch
from torch import nn

from egoctl.pipeline.errors import StoreError
from egoctl.student.clips.image_features import BATCH, encode_once
from egoctl.student.model.image_encoder import ImageEncoder

CPU = torch.device("cpu")
NUM_CLIPS = BATCH + 3
"""A full batch and a short one."""


class Pictures:
    """Jpegs of flat grey: frame f of clip n has the grey value 2 n + 30 f."""

    opens_store = False

    def __init__(self, frames, num_clips=NUM_CLIPS):
        self.frames = frames
        self.shape = (num_clips, len(frames))

    def of(self, index_B):
        return [grey_jpeg(2 * clip + 30 * frame) for clip in index_B for frame in self.frames]


class Looks(nn.Module):
    """Mean of each colour, times a weight; it counts the pictures that it is shown."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.num_seen = 0

    def forward(self, pixels):
        self.num_seen += len(pixels)
        return pixels.mean(dim=(2, 3)) * self.weight


def grey_jpeg(value):
    return simplejpeg.encode_jpeg(np.full((16, 16, 3), value, dtype=np.uint8), quality=95)


def grey_encoder(weight=1.0):
    return ImageEncoder(Looks(weight), feature_dim=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def encode(jpegs, folder, encoder=None):
    """Features, and how many pictures were looked at for them."""
    encoder = encoder or grey_encoder()
    told = []
    feature_NFI = encode_once(
        encoder, jpegs, device=CPU, num_workers=0, cache_folder=folder, progress=told.append
    )
    assert sum(told) in (0, len(feature_NFI))
    return feature_NFI, encoder.net.num_seen


@pytest.mark.parametrize("keeps", [False, True])
def test_every_frame_of_every_clip_has_its_own_feature(tmp_path, keeps):
    feature_NFI, num_seen = encode(Pictures([0, 2]), tmp_path if keeps else None)

    expected_NF = 2.0 * np.arange(NUM_CLIPS)[:, None] + 30 * np.array([0, 2])
    assert num_seen == 2 * NUM_CLIPS
    assert feature_NFI.dtype == torch.float32
    np.testing.assert_allclose(feature_NFI, expected_NF[:, :, None].repeat(3, axis=2), atol=1.5)


def test_a_run_that_looks_at_more_frames_encodes_only_those_that_no_run_has(tmp_path):
    encode(Pictures([1, 3]), tmp_path)

    found_NFI, num_seen = encode(Pictures([0, 1, 2, 3]), tmp_path)

    assert num_seen == 2 * NUM_CLIPS  # 0 and 2
    assert torch.equal(found_NFI, encode(Pictures([0, 1, 2, 3]), None)[0])


def test_a_run_that_looks_at_the_same_frames_encodes_none(tmp_path):
    first_NFI, _ = encode(Pictures([0, 1]), tmp_path)

    second_NFI, num_seen = encode(Pictures([1, 0, 0]), tmp_path)

    assert num_seen == 0
    assert torch.equal(second_NFI, first_NFI[:, [1, 0, 0]])


@pytest.mark.parametrize(
    ("jpegs", "encoder"),
    [
        (Pictures([0]), grey_encoder(weight=2.0)),
        (Pictures([1]), grey_encoder()),
        (Pictures([0], num_clips=NUM_CLIPS - 1), grey_encoder()),
    ],
    ids=["other weights", "other pictures", "fewer clips"],
)
def test_nothing_else_is_given_from_what_was_kept(tmp_path, jpegs, encoder):
    encode(Pictures([0]), tmp_path)

    _, num_seen = encode(jpegs, tmp_path, encoder)

    assert num_seen == jpegs.shape[0]


@pytest.mark.parametrize("length", [0, 50, 300])
def test_a_file_that_is_not_whole_is_made_again(tmp_path, length):
    whole_NFI, _ = encode(Pictures([0]), tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:length])

    again_NFI, num_seen = encode(Pictures([0]), tmp_path)

    assert num_seen == NUM_CLIPS
    assert torch.equal(again_NFI, whole_NFI)
    assert encode(Pictures([0]), tmp_path)[1] == 0


def test_a_picture_that_is_none_leaves_nothing_behind(tmp_path):
    jpegs = Pictures([0])
    jpegs.of = lambda index_B: [b"no picture"] * len(index_B)

    with pytest.raises(StoreError, match="no readable JPEG"):
        encode(jpegs, tmp_path / "cache")

    assert not (tmp_path / "cache").exists()
