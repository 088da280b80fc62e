"""`store ls`: which stores lie where, in a line each."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from egoctl import cli
from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files.place import Place
from egoctl.pipeline.store import FeatureStore
from egoctl.tests.worlds.small_stores import clip_row, small_store


@pytest.fixture
def source(tmp_path: Path) -> FeatureStore:
    """Rows s0 to s9 in parts of 4, 4 and 2."""
    return small_store(str(tmp_path / "source"), [clip_row(f"s{i}") for i in range(10)])


@pytest.fixture
def run() -> Callable[..., tuple[int, list[str]]]:
    def invoke(*words: str) -> tuple[int, list[str]]:
        result = CliRunner().invoke(cli.app, ["store", "ls", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout.splitlines()

    return invoke


def test_ls_finds_the_stores_below_a_folder_or_a_bucket(source, s3, tmp_path, run):
    small_store(f"{s3}/team/copy", [clip_row(f"s{i}") for i in range(10)], done=[0])
    small_store(f"{s3}/team/deep/er/inputs", [clip_row("a")], kind="inputs")
    Place(f"{s3}/team/bad").put("store.json", b"{")
    Place(f"{s3}/team").put("notes.txt", b"no store")
    for url in (source.url, f"{s3}/team/copy"):  # what lies in a store is no store
        Place(url).put("arrays/inner/store.json", b"{}")

    code, lines = run(str(tmp_path), s3)

    size = sum(path.stat().st_size for path in files_below(source.url))
    assert lines[0] == (
        f"{source.url}: teacher, means, {source.header.fingerprint[:12]}, 10 rows, 3/3 parts, "
        f"{size / 1e6:.1f} MB"
    )
    assert lines[1].startswith(f"{s3}/team/bad: {s3}/team/bad/store.json is not JSON")
    assert lines[2].startswith(f"{s3}/team/copy: teacher, means, ")
    assert ", 10 rows, 1/3 parts, " in lines[2]
    assert lines[3].startswith(f"{s3}/team/deep/er/inputs: inputs, None frames of None px, ")
    assert (code, lines[4]) == (1, "4 stores.")


def test_ls_of_one_store_is_that_store_and_json_has_the_numbers(source, run):
    code, lines = run(source.url, "--json")

    (entry,) = json.loads("\n".join(lines))
    assert (code, entry["url"], entry["num_rows"]) == (0, source.url, 10)
    assert entry["num_bytes"] == sum(p.stat().st_size for p in files_below(source.url))


def files_below(url: str) -> list[Path]:
    return [path for path in Path(url).rglob("*") if path.is_file()]


def test_ls_where_nothing_is_says_so(s3, tmp_path, run):
    assert run(s3) == (0, ["0 stores."])
    with pytest.raises(StoreError, match="no folder .*/none"):
        run(str(tmp_path / "none"))
    with pytest.raises(StoreError, match="s3://no-such-bucket/.* cannot be listed: NoSuchBucket"):
        run("s3://no-such-bucket/x")
