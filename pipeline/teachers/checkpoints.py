"""Checkpoints of teachers: read from a file, fetched from the web, saved; never code."""

import hashlib
import http.client
import json
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from egoctl.pipeline.errors import EgoctlError
from egoctl.pipeline.some_names import first_names
from egoctl.pipeline.trained_on import TrainedOn

StateDict = dict[str, Tensor]
STATE_KEYS = ("model_state", "state_dict", "model", "model_state_dict")
"""Where training scripts put the state dict inside the file they save."""
CLASS_NAMES_KEY = "class_names"
"""Metadata entry of a .safetensors file: a JSON list."""
TRAINED_ON_KEY = "trained_on"
"""The same: a JSON object, as TrainedOn.to_dict gives it."""
DAMAGED = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError),
    *(TypeError, AttributeError, AssertionError),
)
"""What torch.load raises for a file that is cut, has wrong bytes, or holds more than tensors."""


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


def fetch_checkpoint(name: str, default: DefaultWeights | None) -> Checkpoint:
    """The published weights of teacher `name`, kept in torch's folder for the next time.

    Raises:
        EgoctlError: if there are none, or they cannot be fetched.
    """
    if default is None:
        raise EgoctlError(
            f"teacher {name} has no published weights. Train it and pass --weights PATH, "
            f"or try it out with --weights random:0."
        )
    file_name = default.url.rpartition("/")[2]
    place = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        # torch reports a download on stdout, which is for results: --json must stay JSON.
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
            f"{some_of('entries that are no tensors', strangers)}. Save the network's state_dict()."
        )
    # "module." is what DataParallel and DDP put in front.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _training_config(content: object) -> str:
    found = content.get("cfg") if isinstance(content, dict) else None
    return found if isinstance(found, str) else ""


def some_of(what: str, names: Sequence[str]) -> str:
    """How many there are, and the first few names, for messages."""
    shown = f" ({first_names(names)})" if names else ""
    return f"{len(names)} {what}{shown}"
