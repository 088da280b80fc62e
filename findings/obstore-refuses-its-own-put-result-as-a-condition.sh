#!/usr/bin/env bash
# obstore 0.12.1: what `put` returns cannot be handed back as the condition of the next `put`.
#
# `put` returns {"e_tag": "...", "version": None} where a store keeps no versions. `mode=` of `put`
# takes a dictionary of the same two fields ("write only if the object is still this one"), and
# object_store, the Rust library underneath, advises to keep both. Handing the result back fails:
#   TypeError: 'None' is not an instance of 'str'
# The field must be absent, not None: {"e_tag": result["e_tag"]} works, and a second writer with the
# old tag then gets PreconditionError. A folder (LocalStore) knows no conditional replacement at
# all: NotImplementedError, although its `put` returns a tag and "create only if absent" works.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check obstore==0.12.1
FOLDER="$work/files" "$work/env/bin/python" - <<'PY'
import os
from pathlib import Path

import obstore
from obstore.store import LocalStore, MemoryStore


def outcome(store, mode):
    try:
        store.put("object", b"new", mode=mode)
    except (TypeError, NotImplementedError, obstore.exceptions.BaseError) as error:
        return type(error).__name__
    return "written"


Path(os.environ["FOLDER"]).mkdir()
found = {}
for store in (MemoryStore(), LocalStore(os.environ["FOLDER"])):
    name = type(store).__name__
    first = store.put("object", b"old")
    print(name, "put returned", sorted(first), "version", first["version"])
    found[name] = {
        "its own result": outcome(store, first),
        "the tag alone": outcome(store, {"e_tag": first["e_tag"]}),
        "the same tag again": outcome(store, {"e_tag": first["e_tag"]}),
        "create": outcome(store, "create"),
    }
    print(name, found[name])
print("obstore", obstore.__version__)
assert found == {
    "MemoryStore": {
        "its own result": "TypeError",
        "the tag alone": "written",
        "the same tag again": "PreconditionError",
        "create": "AlreadyExistsError",
    },
    "LocalStore": {
        "its own result": "TypeError",
        "the tag alone": "NotImplementedError",
        "the same tag again": "NotImplementedError",
        "create": "AlreadyExistsError",
    },
}, "the behaviour has changed"
PY
