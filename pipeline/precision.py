"""How exactly a network computes: our words for it, and Lightning Fabric's."""

from collections.abc import Mapping
from typing import Literal, get_args

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
FabricPrecision = Literal["32-true", "bf16-mixed"]
FABRIC_PRECISION: Mapping[str, FabricPrecision] = {"fp32": "32-true", "bf16": "bf16-mixed"}
