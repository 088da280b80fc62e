"""Multiply-adds of a network, as fvcore counts them, and of operators that it passes over."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def counted_gflops(network: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """10^9 multiply-adds of one forward pass: the unit of the EgoDistill paper's table 3.

    Counted are, as in the paper, matrix products, convolutions, norms and attention, and unlike
    there GRUs; sums, activations and softmax are not. The network is on the CPU.
    """
    with warnings.catch_warnings():
        # fvcore scripts a loss function on import, which torch no longer likes.
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        from fvcore.nn import FlopCountAnalysis

        count = FlopCountAnalysis(network, inputs)
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        count.tracer_warnings("none")
        count.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)
        count.set_op_handle("aten::_convolution_mode", _convolution_flops)
        count.set_op_handle("aten::baddbmm", _product_flops)
        count.set_op_handle("aten::gru", _gru_flops)
        with torch.inference_mode(), _attention_in_parts():
            return float(count.total()) / 1e9


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Without the one operator that torch makes of nn.MultiheadAttention: it is not counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Multiply-adds of operators that fvcore has no count for; it hands over the traced values.


def _attention_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of softmax(q k^T) v."""
    query, key, value = (_shape(item) for item in inputs[:3])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _convolution_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of a convolution whose padding is a word, 'valid' or 'same'."""
    weight, found = _shape(inputs[1]), _shape(outputs[0])
    return math.prod(found) * math.prod(weight[1:])


def _product_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of x + a b."""
    return math.prod(_shape(outputs[0])) * _shape(inputs[1])[-1]


def _gru_flops(inputs: list[Any], outputs: list[Any]) -> int:
    """Multiply-adds of all layers and directions: every weight matrix once per step."""
    steps = math.prod(_shape(inputs[0])[:-1])
    weights = [_shape(item) for item in inputs[2].node().inputs()]
    return steps * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def _shape(item: Any) -> list[int]:
    return [int(size) for size in item.type().sizes()]
