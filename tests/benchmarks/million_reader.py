"""Opens a store of a million rows and reads it: the process that `million` measures.

    python -m egoctl.tests.benchmarks.million_reader STORE [FILE.npy]

With a plain file, that is read in turns with the store. Nothing large is imported.
"""

# N rows, D feature width (768)

import json
import sys
import time
from pathlib import Path

import numpy as np

from egoctl.pipeline.store import FeatureStore

ROUNDS = 3


def read_all(url: str, plain: Path | None) -> dict[str, object]:
    """Seconds of each step; ratios of reading the plain file to reading the store."""
    start = time.perf_counter()
    store = FeatureStore.open(url)
    opened = time.perf_counter()
    rows = store.rows()
    listed = time.perf_counter()
    # Column by column: a filter of the table would copy the whole of it.
    row_N = rows["row"].filter(rows["outcome"] == "ok").to_numpy()
    del rows
    found: dict[str, object] = {"open_s": opened - start, "rows_s": listed - opened}
    reads, plains = [], []
    if plain is not None:
        # Unmeasured: a virtual machine's memory is slow where it was never used before.
        store.read("feature", row_N)
        np.load(plain)
    for _ in range(ROUNDS if plain else 1):
        start = time.perf_counter()
        feature_ND = store.read("feature", row_N)
        reads.append(time.perf_counter() - start)
        num_bytes = feature_ND.nbytes
        if plain is not None:
            del feature_ND
            start = time.perf_counter()
            feature_ND = np.load(plain)
            plains.append(time.perf_counter() - start)
        del feature_ND
    return found | {"read_s": reads, "plain_s": plains, "num_bytes": num_bytes}


if __name__ == "__main__":
    print(json.dumps(read_all(sys.argv[1], Path(sys.argv[2]) if sys.argv[2:] else None)))
