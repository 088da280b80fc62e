"""The rows of a store's copy: the same files, put before any part, or a sentence why not."""

from itertools import zip_longest

from egoctl.pipeline.errors import StoreError, StoreMismatchError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store.clip_table import texts_of
from egoctl.pipeline.store.clips_file import COPY, MAX_CLIPS_FILE_BYTES, clips_in, copied, copy_of


def copy_clips(source: Place, target: Place) -> None:
    """Give the target the clips files that it lacks; both are folders of clips files.

    Raises:
        StoreMismatchError: if the target has other rows than the source, or more.
        StoreError: if a file of the source was changed.
    """
    names, theirs = ({info.name for info in place.list()} for place in (source, target))
    ours = {name for name in names if name.endswith(".parquet")}
    if further := {name for name in theirs if name.endswith(".parquet")} - ours:
        raise StoreMismatchError(
            f"{target.url}/{min(further)} holds rows that {source.url} has not. "
            "Copy in the other direction first, or give another path."
        )
    for name in sorted(ours):
        content = source.read(name, max_bytes=MAX_CLIPS_FILE_BYTES)
        if content is None:
            raise StoreError(f"{source.url}/{name} vanished while it was copied. Try again.")
        there = target.read(name, max_bytes=MAX_CLIPS_FILE_BYTES) if name in theirs else None
        if there is None:
            _check(source, name, content)
            # Another copier may have put it since; then what is there is judged like any other.
            there = content if target.create(name, content) else target.read(name)
        if there != content:
            _check_same_rows(source, target, name, content, there or b"")
        if name + COPY not in theirs:
            target.put(name + COPY, copy_of(there or b""))


def _check(source: Place, name: str, content: bytes) -> None:
    where = f"{source.url}/{name}"
    copy = copied(source.read(name + COPY, max_bytes=MAX_CLIPS_FILE_BYTES))
    if copy not in (None, content):
        store = source.url.removesuffix("/clips")
        raise StoreError(
            f"{where} was changed. 'egoctl store verify {store} --repair' restores it."
        )
    clips_in(content, where)


def _check_same_rows(source: Place, target: Place, name: str, content: bytes, there: bytes) -> None:
    """Other bytes may hold the same rows: those of another version of polars."""
    clips = clips_in(content, f"{source.url}/{name}")
    ours, theirs = texts_of(clips), texts_of(clips_in(there, f"{target.url}/{name}"))
    pairs = enumerate(zip_longest(ours, theirs, fillvalue="nothing"))
    first = next(((index, pair) for index, pair in pairs if pair[0] != pair[1]), None)
    if first is not None:
        index, (our_text, their_text) = first
        raise StoreMismatchError(
            f"{target.url} holds other rows than {source.url}: row {index} of {name} is "
            f"{_shown(their_text)} there, {_shown(our_text)} here. Give another path."
        )


def _shown(text: str) -> str:
    return text.replace("\x1f", " ")
