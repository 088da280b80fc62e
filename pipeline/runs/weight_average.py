"""The exponential moving average of a network's weights, which may be evaluated in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """average = decay * average + (1 - decay) * weights after every step; it begins with them.

    BatchNorm's running statistics are averaged too, so that they fit the weights; whole numbers
    are copied.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from the average of a checkpoint."""
        for name, value in weights.items():
            self.weights[name].copy_(value)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                # Not decay * a + (1 - decay) * b: that moves weights that are frozen.
                self.weights[name].lerp_(value, 1 - self._decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def put_into(self, module: nn.Module) -> Iterator[None]:
        """Within the block the module has the average for weights."""
        own = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)
