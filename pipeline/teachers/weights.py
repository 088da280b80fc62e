"""Weights for a teacher: from the web, from a file, or random; never code, never half-loaded."""

import hashlib
import http.client
import json
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.trained_on import TrainedOn

StateDict = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)
Shape = TypeVar("Shape")
Rename = Callable[[StateDict], StateDict]

STATE_KEYS = ("model_state", "state_dict", "model", "model_state_dict")
"""Where training scripts put the state dict inside the file they save."""
CLASS_NAMES_KEY = "class_names"
"""Metadata entry of a .safetensors file: a JSON list."""
TRAINED_ON_KEY = "trained_on"
"""The same: a JSON object, as TrainedOn.to_dict gives it."""
MAX_KEYS_SHOWN = 3
DAMAGED = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError),
    *(TypeError, AttributeError, AssertionError),
)
"""What torch.load raises for a file that is cut, has wrong bytes, or holds more than tensors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightsInfo:
    """Which weights a teacher runs with."""

    source: str
    """'default', 'file' or 'random:SEED'."""
    sha256: str
    """Of names, dtypes, shapes and values, so the same in any file container, on any device."""
    is_random: bool
    class_names: tuple[str, ...] | None
    trained_on: TrainedOn | None = None
    """None: the weights do not tell."""
    misfits: "Misfits | None" = None
    """What was left out, or random, where weights were to be taken so far as they fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DefaultWeights:
    """The published weights of a teacher."""

    url: str
    has_hash_in_name: bool
    """Whether the file name carries a digest to check the download against."""
    class_names: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A state dict with names as the network has them, and where it came from."""

    state: StateDict
    class_names: tuple[str, ...] | None
    origin: str
    """Path or URL, for messages."""
    trained_on: TrainedOn | None = None
    training_config: str = ""
    """Text that PySlowFast and its children put beside the weights, as 'cfg'; never executed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfits:
    """The tensors in which a checkpoint and a network differ."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    """With both shapes."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        return (
            f"{_some('missing', self.missing)}; {_some('unexpected', self.unexpected)}; "
            f"{_some('of another shape', self.misshapen)}"
        )


def net_with_weights(
    name: str,
    weights: str,
    *,
    build: Callable[[int], Net],
    head_key: str,
    num_classes: int,
    default: DefaultWeights | None,
    rename: Rename | None = None,
) -> tuple[Net, WeightsInfo]:
    """The network of teacher `name` with the weights asked for, on the CPU, and what they are.

    weights is 'default', 'random:SEED' or a path; build makes the network for so many classes
    and head_key names its classifier's weight, whose first axis tells a checkpoint's classes.
    Random weights have num_classes. The global random state stays as it was.

    Raises:
        EgoctlError: if the weights cannot be had or are those of another network.
    """
    return net_of_shape(
        name,
        weights,
        build=build,
        shape_in=lambda checkpoint: _num_classes(name, checkpoint, head_key),
        shape=num_classes,
        default=default,
        rename=rename,
    )


def net_of_shape(
    name: str,
    weights: str,
    *,
    build: Callable[[Shape], Net],
    shape_in: Callable[[Checkpoint], Shape],
    shape: Shape,
    default: DefaultWeights | None,
    rename: Rename | None = None,
    allow_partial: bool = False,
) -> tuple[Net, WeightsInfo]:
    """As net_with_weights, of a network whose weights tell more than a number of classes.

    shape_in tells what to build for a checkpoint, or refuses it; random weights have `shape`.
    rename gives a checkpoint's state the network's names. With allow_partial what fits is loaded,
    and what does not is told in WeightsInfo.

    Raises:
        EgoctlError: as net_with_weights.
    """
    seed = _random_seed(weights)
    if seed is not None:
        net = _seeded(build, shape, seed)
        return net, WeightsInfo(
            source=f"random:{seed}",
            sha256=state_sha256(net.state_dict()),
            is_random=True,
            class_names=None,
        )
    if weights == "default":
        checkpoint, source = _download(name, default), "default"
    else:
        checkpoint, source = read_checkpoint(Path(weights)), "file"
    if rename is not None:
        checkpoint = replace(checkpoint, state=rename(checkpoint.state))
    net = _seeded(build, shape_in(checkpoint), seed=0)
    misfits = load_state(name, net, checkpoint, allow_partial=allow_partial)
    return net, WeightsInfo(
        source=source,
        sha256=state_sha256(net.state_dict()),
        is_random=False,
        class_names=checkpoint.class_names,
        trained_on=checkpoint.trained_on,
        misfits=misfits or None,
    )


def save_checkpoint(
    path: Path,
    state: StateDict,
    *,
    class_names: Sequence[str],
    trained_on: TrainedOn | None = None,
) -> None:
    """Write weights, with what their classes are called, as .safetensors, for load_teacher."""
    metadata = {CLASS_NAMES_KEY: json.dumps(list(class_names))}
    if trained_on is not None:
        metadata[TRAINED_ON_KEY] = json.dumps(trained_on.to_dict())
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata)


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """The hexadecimal digest of a state dict: names in order, dtypes, shapes, values."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """The state dict of a .safetensors or torch file; nothing in the file is executed.

    Raises:
        EgoctlError: if there is no such file, or it holds code, or no state dict.
    """
    if not path.is_file():
        raise EgoctlError(
            f"no weights file {path}. Pass --weights default, random:SEED or the path of a file."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        wants = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise EgoctlError(
            f"{path} cannot be read as plain tensors: it is damaged, or a pickle with code in "
            f"it{f' ({wants[1]})' if wants else ''}, which is never run here. Save its state dict "
            f"as .safetensors, where you trust it, and pass that file."
        ) from error
    return Checkpoint(
        state=_find_state(content, origin=str(path)),
        class_names=None,
        origin=str(path),
        training_config=_training_config(content),
    )


def load_state(
    name: str, net: nn.Module, checkpoint: Checkpoint, *, allow_partial: bool = False
) -> Misfits:
    """Copy the state dict into net where every tensor's name and shape fit; else refuse.

    With allow_partial, copy those that fit; the others keep their values and are returned.

    Raises:
        EgoctlError: with the counts and the first few names of what does not fit; with
            allow_partial, if nothing does.
    """
    wanted = net.state_dict()
    fitting = {
        key: found
        for key, found in checkpoint.state.items()
        if key in wanted and found.shape == wanted[key].shape
    }
    misfits = Misfits(
        missing=tuple(key for key in wanted if key not in checkpoint.state),
        unexpected=tuple(key for key in checkpoint.state if key not in wanted),
        misshapen=tuple(
            f"{key}: {tuple(found.shape)}, wanted {tuple(wanted[key].shape)}"
            for key, found in checkpoint.state.items()
            if key in wanted and key not in fitting
        ),
    )
    if (misfits and not allow_partial) or not fitting:
        raise EgoctlError(
            f"{checkpoint.origin} does not fit teacher {name}: {misfits}. "
            f"Pass weights of {name}, or the teacher that these weights belong to."
        )
    net.load_state_dict(fitting, strict=False)
    return misfits


def _random_seed(weights: str) -> int | None:
    if weights.partition(":")[0] != "random":
        return None
    match = re.fullmatch(r"random:(\d{1,18})", weights)
    if match is None:
        raise EgoctlError(f"random weights are written random:SEED, as random:0, got {weights!r}.")
    return int(match[1])


def _seeded(build: Callable[[Shape], Net], shape: Shape, seed: int) -> Net:
    # Networks are built on the CPU, so its generator is the only one to restore.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(shape)


def _num_classes(name: str, checkpoint: Checkpoint, head_key: str) -> int:
    if head_key not in checkpoint.state or checkpoint.state[head_key].ndim < 2:
        raise EgoctlError(
            f"{checkpoint.origin} does not fit teacher {name}: it has no classifier {head_key}, "
            f"only {_some('names', list(checkpoint.state))}. Pass weights of {name}."
        )
    num_classes = int(checkpoint.state[head_key].shape[0])
    names = checkpoint.class_names
    if names is not None and len(names) != num_classes:
        raise EgoctlError(
            f"{checkpoint.origin} names {len(names)} classes and its classifier has "
            f"{num_classes}. Save it again with one name per class."
        )
    return num_classes


def _download(name: str, default: DefaultWeights | None) -> Checkpoint:
    if default is None:
        raise EgoctlError(
            f"teacher {name} has no published weights. Train it and pass --weights PATH, "
            f"or try it out with --weights random:0."
        )
    file_name = default.url.rpartition("/")[2]
    place = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        # torch tells of a download on stdout, which is for results: --json must stay JSON.
        with redirect_stdout(sys.stderr):
            content = torch.hub.load_state_dict_from_url(
                default.url,
                map_location="cpu",
                check_hash=default.has_hash_in_name,
                weights_only=True,
            )
    # RuntimeError is torch's word for a wrong digest, too.
    except (http.client.HTTPException, *DAMAGED) as error:
        raise EgoctlError(
            f"the weights of teacher {name} could not be fetched from {default.url} to {place} "
            f"({error}). Download {file_name} by hand and pass --weights PATH."
        ) from error
    return Checkpoint(
        state=_find_state(content, origin=default.url),
        class_names=default.class_names,
        origin=default.url,
        training_config=_training_config(content),
    )


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
        names = json.loads(metadata.get(CLASS_NAMES_KEY, "null"))
        trained_on = json.loads(metadata.get(TRAINED_ON_KEY, "null"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise EgoctlError(
            f"{path} is not a readable .safetensors file ({error}). Copy it again."
        ) from error
    if names is not None and not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    ):
        raise EgoctlError(f"{path}: its metadata {CLASS_NAMES_KEY} must be a JSON list of strings.")
    return Checkpoint(
        state=_find_state(state, origin=str(path)),
        class_names=None if names is None else tuple(names),
        origin=str(path),
        trained_on=None if trained_on is None else TrainedOn.from_dict(trained_on),
    )


def _find_state(content: object, origin: str) -> StateDict:
    state = content
    if isinstance(content, dict):
        state = next((content[key] for key in STATE_KEYS if key in content), content)
    if not isinstance(state, dict) or not state:
        raise EgoctlError(f"{origin} holds no state dict. Save the network's state_dict().")
    strangers = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strangers:
        raise EgoctlError(
            f"{origin} holds no state dict at its top or under {', '.join(STATE_KEYS)}: "
            f"{_some('entries that are no tensors', strangers)}. Save the network's state_dict()."
        )
    # "module." is what DataParallel and DDP put in front.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _training_config(content: object) -> str:
    found = content.get("cfg") if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""


def _some(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:MAX_KEYS_SHOWN]) + (", ..." if len(names) > MAX_KEYS_SHOWN else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
