"""Image networks of torchvision and timm by name, cut before their class layer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torchvision.models
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError

# What a download or its cache may raise, in both libraries.
DOWNLOAD_ERRORS = (OSError, RuntimeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedNetwork:
    """A network with random weights, cut: its output (B, D) is what its class layer would read."""

    net: nn.Module
    feature_dim: int
    mean: tuple[float, float, float]
    """Per channel, of pixels in 0 to 1; as the network's own data config has it."""
    std: tuple[float, float, float]
    size_px: tuple[int, int]
    """Height and width it was trained at."""
    classifier: str
    """What the class layer's weights begin with in a file of all weights."""
    default_weights: Callable[[], Mapping[str, Tensor]]
    """Fetches the published weights."""


def named_network(name: str) -> NamedNetwork:
    """name: "torchvision:mobilenet_v3_small" or "timm:mobilenetv3_small_100".

    Raises:
        EgoctlError: if the library is not installed, or has no such network for images.
    """
    library, _, network = name.partition(":")
    return _of_torchvision(network) if library == "torchvision" else _of_timm(network)


def _of_torchvision(name: str) -> NamedNetwork:
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise EgoctlError(
            f"torchvision has no image network {name!r}. Its names: "
            "torchvision.models.list_models(module=torchvision.models)."
        )
    # Two have further class layers on their way, which answer in train mode too.
    is_cut_once = name not in ("googlenet", "inception_v3")
    net = torchvision.models.get_model(name, weights=None) if is_cut_once else nn.Identity()
    linears = [(path, layer) for path, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    if not linears:
        raise EgoctlError(
            f"torchvision:{name} does not end in one linear class layer, so it cannot be cut "
            "before it. Choose another network, such as torchvision:mobilenet_v3_small."
        )
    weights = torchvision.models.get_model_weights(name).DEFAULT
    shown = weights.transforms()
    classifier, layer = linears[-1]
    parent, _, child = classifier.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())

    def fetch() -> Mapping[str, Tensor]:
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except DOWNLOAD_ERRORS as error:
            raise _not_fetched(f"torchvision:{name}", weights.url, error) from error
        return cast(Mapping[str, Tensor], state)

    return NamedNetwork(
        net=net,
        feature_dim=layer.in_features,
        mean=_three(shown.mean),
        std=_three(shown.std),
        size_px=(shown.crop_size[0], shown.crop_size[0]),
        classifier=f"{classifier}.",
        default_weights=fetch,
    )


def _of_timm(name: str) -> NamedNetwork:
    try:
        import timm
    except ImportError as error:
        raise EgoctlError(
            f"timm:{name} needs the package timm: pip install 'egoctl[timm]'."
        ) from error
    if not timm.is_model(name):
        raise EgoctlError(f"timm has no network {name!r}. Its names: timm.list_models('*small*').")
    net = timm.create_model(name, pretrained=False, num_classes=0)
    shown: dict[str, Any] = timm.data.resolve_model_data_config(net)

    def fetch() -> Mapping[str, Tensor]:
        try:
            whole = timm.create_model(name, pretrained=True, num_classes=0)
        except DOWNLOAD_ERRORS as error:
            raise _not_fetched(f"timm:{name}", "the Hugging Face Hub", error) from error
        return cast(Mapping[str, Tensor], whole.state_dict())

    return NamedNetwork(
        net=net,
        feature_dim=int(getattr(net, "head_hidden_size", net.num_features)),
        mean=_three(shown["mean"]),
        std=_three(shown["std"]),
        size_px=(int(shown["input_size"][1]), int(shown["input_size"][2])),
        # Names of a network with two class layers are a tuple; its first is enough for a message.
        classifier=f"{net.default_cfg['classifier']}.",
        default_weights=fetch,
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _not_fetched(name: str, where: str, error: Exception) -> EgoctlError:
    return EgoctlError(
        f"cannot fetch the published weights of {name} from {where} ({error}). "
        "Download them elsewhere and pass the file as --image-weights."
    )
