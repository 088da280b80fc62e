"""JPEG frames to pixels, and a frozen encoder's features of them, computed once."""

# N clips, B clips of a batch, F frames of a clip, H height, W width, I image feature width

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from egoctl.pipeline.errors import StoreError
from egoctl.student.image_encoder import ImageEncoder

ENCODE_BATCH = 64


def decode_frames(jpeg_BF: NDArray[np.object_]) -> Tensor:
    """(B, F, H, W, 3) uint8 RGB.

    Raises:
        StoreError: if a frame cannot be decoded, or the frames differ in size.
    """
    try:
        images = [simplejpeg.decode_jpeg(data, "RGB") for data in jpeg_BF.ravel()]
    except ValueError as error:
        raise StoreError(
            f"a stored frame is no readable JPEG ({error}). Run 'egoctl store verify'."
        ) from error
    if len({image.shape for image in images}) != 1:
        raise StoreError("stored frames differ in size. Extract the inputs store again.")
    return torch.from_numpy(np.stack(images).reshape(*jpeg_BF.shape, *images[0].shape))


class _FrameBatches(Dataset[Tensor]):
    """Item i is the decoded frames of batch i, so that a worker hands over whole batches."""

    def __init__(self, jpeg_NF: NDArray[np.object_], batches: Sequence[Tensor]) -> None:
        self._jpeg_NF = jpeg_NF
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Tensor:
        return decode_frames(self._jpeg_NF[self._batches[index].numpy()])


def iterate_frames(
    jpeg_NF: NDArray[np.object_], batches: Sequence[Tensor], *, num_workers: int
) -> Iterator[Tensor]:
    """The decoded frames of each batch of clip indices, in order; num_workers 0: in this process.

    Decoding holds Python's lock, so workers are processes.
    """
    return iter(
        DataLoader(_FrameBatches(jpeg_NF, batches), batch_size=None, num_workers=num_workers)
    )


def encode_once(
    encoder: ImageEncoder,
    jpeg_NF: NDArray[np.object_],
    *,
    device: torch.device,
    num_workers: int,
    cache_folder: Path | None,
    progress: Callable[[int], object],
) -> Tensor:
    """(N, F, I) float32 on the CPU, from the cache if it has exactly these.

    progress is told how many clips each batch had.
    """
    cached: Path | None = None
    if cache_folder is not None:
        cached = cache_folder / f"{_cache_key(encoder, jpeg_NF)}.npy"
        if cached.is_file():
            return torch.from_numpy(np.load(cached, allow_pickle=False))
    features: list[Tensor] = []
    batches = torch.split(torch.arange(len(jpeg_NF)), ENCODE_BATCH)
    encoder.eval().to(device)
    with torch.inference_mode():
        for frames_BFHW3 in iterate_frames(jpeg_NF, batches, num_workers=num_workers):
            features.append(encoder(frames_BFHW3.to(device)).float().cpu())
            progress(len(frames_BFHW3))
    # Cloned outside inference mode: autograd refuses tensors that were made inside it.
    feature_NFI = torch.cat(features).clone()
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_name(f".{cached.name}.{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, feature_NFI.numpy())
        part.replace(cached)
    return feature_NFI


def _cache_key(encoder: ImageEncoder, jpeg_NF: NDArray[np.object_]) -> str:
    """Of weights and pixels themselves, so a cache can be shared by runs and stores."""
    digest = blake3(encoder.weights_digest().encode())
    digest.update(f"{jpeg_NF.shape}".encode())
    for data in jpeg_NF.ravel():
        digest.update(data)
    return digest.hexdigest()
