"""A frozen image encoder's features of the frames that a student sees, computed once and kept.

They are kept frame by frame: a run that looks at four stored frames finds what a run that looked
at two of them has left, and only encodes the other two.
"""

# N clips, B clips of a batch, F frames of a clip, H height, W width, I image feature width

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor

from egoctl.pipeline.files.whole_file import whole_file
from egoctl.pipeline.progress import Progress
from egoctl.student.clips.frames import FrameLoader
from egoctl.student.clips.jpegs import Jpegs
from egoctl.student.model.image_encoder import ImageEncoder
from egoctl.student.settings.run_config import RunConfig

BATCH = 64


def encode_once(
    encoder: ImageEncoder,
    jpegs: Jpegs,
    *,
    device: torch.device,
    num_workers: int,
    cache_folder: Path | None,
    progress: Callable[[int], object],
) -> Tensor:
    """(N, F, I) float32 on the CPU; frames that the cache folder has are not encoded again.

    progress is called with the number of clips of each batch.

    Raises:
        StoreError: if a frame cannot be decoded, or the frames differ in size.
    """
    num_frames = jpegs.shape[1]
    if cache_folder is None:
        found_NI = _encoded(encoder, jpegs, device, num_workers, progress)
    else:
        files = [cache_folder / f"{key}.npy" for key in _keys(encoder, jpegs)]
        kept_NI = [_read(file, num_clips=jpegs.shape[0]) for file in files]
        missing = [frame for frame, feature_NI in enumerate(kept_NI) if feature_NI is None]
        new_NI = _encoded(encoder, _SomeFrames(jpegs, missing), device, num_workers, progress)
        for frame, feature_NI in zip(missing, new_NI, strict=True):
            _write(files[frame], feature_NI)
            kept_NI[frame] = feature_NI
        found_NI = [feature_NI for feature_NI in kept_NI if feature_NI is not None]
    assert len(found_NI) == num_frames
    return torch.stack(found_NI, dim=1)


def features_for(
    config: RunConfig,
    encoder: ImageEncoder,
    jpegs: Jpegs,
    *,
    device: torch.device,
    is_frozen: bool = True,
) -> Tensor:
    """encode_once as a run is configured, with a bar; features of a trained encoder are not kept.

    Raises:
        StoreError: as encode_once.
    """
    with Progress(jpegs.shape[0], title="image features", unit="clip") as progress:
        return encode_once(
            encoder,
            jpegs,
            device=device,
            num_workers=config.num_workers,
            cache_folder=config.feature_cache if is_frozen else None,
            progress=progress.advance,
        )


class _SomeFrames:
    """A selection of the frames of every clip."""

    def __init__(self, jpegs: Jpegs, frames: Sequence[int]) -> None:
        self.opens_store = jpegs.opens_store
        self._jpegs = jpegs
        self._frames = frames

    @property
    def shape(self) -> tuple[int, int]:
        return self._jpegs.shape[0], len(self._frames)

    def of(self, index_B: NDArray[np.int64]) -> list[bytes | memoryview]:
        num_frames = self._jpegs.shape[1]
        jpegs = self._jpegs.of(index_B)
        return [
            jpegs[clip * num_frames + frame]
            for clip in range(len(index_B))
            for frame in self._frames
        ]


def _encoded(
    encoder: ImageEncoder,
    jpegs: Jpegs,
    device: torch.device,
    num_workers: int,
    progress: Callable[[int], object],
) -> list[Tensor]:
    """(N, I) features, one tensor per frame."""
    num_clips, num_frames = jpegs.shape
    if not num_frames:
        return []
    loader = FrameLoader(jpegs, max_batch=BATCH, num_workers=num_workers, device=device)
    encoder.eval().to(device)
    batches: list[Tensor] = []
    with torch.inference_mode():
        for frames_BFHW3 in loader.batches(torch.split(torch.arange(num_clips), BATCH)):
            # Frame by frame: batches of one size, however many frames are wanted, so that what is
            # found does not depend on what was kept before.
            feature_BFI = [
                encoder(frame_B1HW3) for frame_B1HW3 in torch.split(frames_BFHW3, 1, dim=1)
            ]
            batches.append(torch.cat(feature_BFI, dim=1).float().cpu())
            progress(len(frames_BFHW3))
    # Cloned outside inference mode: autograd refuses tensors that were made inside it.
    return list(torch.cat(batches).clone().unbind(dim=1))


def _keys(encoder: ImageEncoder, jpegs: Jpegs) -> list[str]:
    """A key per frame, from weights and JPEG bytes, so that runs and stores share a cache."""
    num_clips, num_frames = jpegs.shape
    begun = blake3(encoder.weights_digest().encode())
    begun.update(f"{num_clips}".encode())
    digests = [begun.copy() for _ in range(num_frames)]
    for index_B in np.split(np.arange(num_clips), range(BATCH, num_clips, BATCH)):
        for number, jpeg in enumerate(jpegs.of(index_B)):
            digests[number % num_frames].update(jpeg)
    return [digest.hexdigest() for digest in digests]


def _read(file: Path, *, num_clips: int) -> Tensor | None:
    """The features in the file, or None if it is missing or not whole."""
    try:
        feature_NI = np.load(file, allow_pickle=False)
    except (FileNotFoundError, EOFError, ValueError):
        # Not whole: the machine fell over while it was written. Made again.
        return None
    return torch.from_numpy(feature_NI) if len(feature_NI) == num_clips else None


def _write(file: Path, feature_NI: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as part, part.open("wb") as opened:
        np.save(opened, feature_NI.numpy())
