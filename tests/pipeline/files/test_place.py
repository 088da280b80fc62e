"""What a Place promises, kept by a folder, by a bucket, and by a bucket that fails now and then."""

import os
import resource
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from egoctl.pipeline.errors import StoreError
from egoctl.pipeline.files import place
from egoctl.pipeline.files.bucket import first_cause
from egoctl.pipeline.files.place import Place
from egoctl.tests.worlds.s3_server import FaultRates, FaultyProxy, S3Server

SOME_FAULTS = FaultRates(refuse=0.1, lose=0.1, drop=0.05, delay=0.1, max_delay_s=0.02)
NOBODY = 65534


@pytest.fixture(params=["folder", "bucket", "faulty bucket"])
def files(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """An empty place of each kind."""
    if request.param == "folder":
        yield Place(str(tmp_path / "files"))
        return
    url = request.getfixturevalue("s3")
    if request.param == "bucket":
        yield Place(url)
        return
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], SOME_FAULTS, seed=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield Place(url)


def run_child(script: str, *, before: list[str] | None = None) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [*(before or []), sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- what is written comes back ---


def test_what_is_put_comes_back_and_is_listed_by_name(files: Place) -> None:
    files.put("b/two.txt", b"22")
    files.put("a.txt", b"1")
    files.put("b/odd ä %20 #x ~.txt", b"")

    assert files.read("b/two.txt") == b"22"
    assert files.read("b/odd ä %20 #x ~.txt") == b""
    names = [(info.name, info.num_bytes) for info in files.list()]
    assert names == [("a.txt", 1), ("b/odd ä %20 #x ~.txt", 0), ("b/two.txt", 2)]
    assert [info.name for info in files.list("b")] == ["b/odd ä %20 #x ~.txt", "b/two.txt"]


def test_nothing_is_found_where_nothing_is(files: Place) -> None:
    assert files.read("none/at all.txt") is None
    assert files.info("none.txt") is None
    assert list(files.list()) == list(files.list("none")) == []
    files.delete("none.txt")


def test_a_file_is_known_by_its_size_its_age_and_a_tag_that_changes_with_it(files: Place) -> None:
    files.put("a.txt", b"old")
    old = files.info("a.txt")
    files.put("a.txt", b"newer")
    new = files.info("a.txt")

    assert old is not None and new is not None
    assert (old.num_bytes, new.num_bytes) == (3, 5)
    assert abs(time.time() - new.modified_s) < 60
    assert old.e_tag != new.e_tag


def test_put_replaces_and_delete_removes(files: Place) -> None:
    files.put("a.txt", b"old")
    files.put("a.txt", b"new")
    assert files.read("a.txt") == b"new"

    files.delete("a.txt")

    assert files.read("a.txt") is None


def test_a_place_below_a_place_has_its_own_names(files: Place) -> None:
    (files / "sub/folder").put("a.txt", b"1")

    assert files.read("sub/folder/a.txt") == b"1"


def test_a_large_file_comes_from_disk_whole_and_goes_back_in_pieces(
    files: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Above 5 MiB obstore uploads in several requests.
    content = os.urandom(6 << 20)
    (tmp_path / "large.bin").write_bytes(content)
    monkeypatch.setattr(place, "BLOCK_BYTES", 4 << 20)

    files.put("large.bin", tmp_path / "large.bin")

    info = files.info("large.bin")
    assert info is not None
    blocks = list(files.blocks(info))
    assert [len(block) for block in blocks] == [4 << 20, 2 << 20]
    assert b"".join(blocks) == content


def test_spans_of_a_file_can_be_read_without_the_rest(files: Place) -> None:
    files.put("a.bin", bytes(range(100)))

    assert files.ranges("a.bin", [(0, 2), (98, 100)]) == [b"\x00\x01", b"bc"]
    with pytest.raises(StoreError, match="a.bin ends before byte 101"):
        files.ranges("a.bin", [(98, 101)])
    with pytest.raises(StoreError, match="none.bin cannot be read: "):
        files.ranges("none.bin", [(0, 1)])


def test_more_than_was_allowed_is_not_read(files: Place) -> None:
    files.put("a.txt", b"12345")

    assert files.read("a.txt", max_bytes=5) == b"12345"
    with pytest.raises(StoreError, match=r"a.txt has 5 bytes, but a file of its kind has 4 at mo"):
        files.read("a.txt", max_bytes=4)


def test_names_that_leave_the_folder_are_refused(files: Place) -> None:
    for name in ("../a", "a/../../b", "/etc/passwd", "", "a\\b", "a\0", "./a"):
        for use in (files.read, files.info, files.delete, lambda n: files.put(n, b"1")):
            with pytest.raises(StoreError, match="leaves its folder. Nothing was read or written"):
                use(name)


# --- one of many ---


def test_of_eight_who_create_one_file_exactly_one_is_told_so(files: Place) -> None:
    contents = [f"writer {number}".encode() for number in range(8)]

    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(lambda content: files.create("claim", content), contents))

    assert wins.count(True) == 1
    assert files.read("claim") == contents[wins.index(True)]


def test_a_file_that_is_there_is_not_created_again(files: Place) -> None:
    assert files.create("a.txt", b"mine") is True

    assert files.create("a.txt", b"theirs") is False
    assert files.read("a.txt") == b"mine"


def test_a_bucket_replaces_only_what_was_seen(s3: str) -> None:
    files = Place(s3)
    files.put("a.txt", b"1")
    seen = files.info("a.txt")
    assert seen is not None

    assert files.replace("a.txt", b"2", seen) is True
    assert files.replace("a.txt", b"3", seen) is False
    assert files.read("a.txt") == b"2"


@pytest.mark.parametrize("fault", ["lose", "drop"])
def test_a_create_whose_answer_is_lost_is_still_told_that_it_worked(
    s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    Place(s3).put("older", b"there before")
    with FaultyProxy(s3_server.url, FaultRates(), max_faults=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        files = Place(s3)
        files.read("older")  # the first look, at which a fault says nothing
        proxy.rates = FaultRates(**{fault: 1.0})

        won = files.create("new", b"mine")

        assert won is True
        assert files.read("new") == b"mine"
        assert proxy.counts[fault] == 3


def test_a_download_does_not_mix_two_versions_of_a_file(s3: str) -> None:
    files = Place(s3)
    files.put("a.txt", b"old")
    seen = files.info("a.txt")
    files.put("a.txt", b"new")

    assert seen is not None
    with pytest.raises(StoreError, match="a.txt changed while it was read. Try again"):
        list(files.blocks(seen))


# --- what goes wrong is told in one line ---


def test_a_bucket_that_does_not_exist_is_told_to_whoever_writes(s3: str) -> None:
    files = Place("s3://no-such-bucket/x")

    for write in (files.put, files.create):
        with pytest.raises(StoreError) as caught:
            write("a.txt", b"1")
        assert str(caught.value).startswith(
            "s3://no-such-bucket/x/a.txt cannot be written: NoSuchBucket: "
            "The specified bucket does not exist. Check"
        )


def test_a_server_that_is_not_there_is_told_soon(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    start = time.monotonic()

    with pytest.raises(StoreError) as caught:
        Place(s3).put("a.txt", b"1")

    assert time.monotonic() - start < 10
    assert str(caught.value).startswith(f"{s3} cannot be opened: ")
    assert "http://127.0.0.1:1/" in str(caught.value)
    assert "error sending request: Connection refused. Check" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_outage_in_the_middle_is_waited_for(
    s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultyProxy(s3_server.url, FaultRates(), max_faults=6) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        files = Place(s3)
        files.put("a.txt", b"1")

        proxy.rates = FaultRates(refuse=1.0)

        assert files.read("a.txt") == b"1"
        assert proxy.counts["refuse"] == 6


def test_missing_credentials_are_named_as_what_they_are() -> None:
    told = first_cause(
        OSError("Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token")
    )

    assert told.startswith("no credentials in the environment (for s3://: AWS_ACCESS_KEY_ID and")


def test_a_read_only_folder_is_named_with_its_cause() -> None:
    # Not tmp_path: nobody but its owner may go there.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        # Root may write anywhere, so the child becomes somebody else, with all it has imported.
        said = run_child(f"""
            import os
            from egoctl.pipeline.errors import StoreError
            from egoctl.pipeline.files.place import Place

            if os.geteuid() == 0:
                os.setuid({NOBODY})
            for name in ("", "/below"):
                files = Place({folder!r} + name)
                for write in (files.put, files.create):
                    try:
                        write("a.txt", b"1")
                    except StoreError as error:
                        print(error)
            """)

    lines = said.splitlines()
    assert len(lines) == 4
    for line in lines[:2]:
        assert line.startswith(f"{folder}/a.txt cannot be written: ")
        assert "Permission denied" in line
    for line in lines[2:]:
        assert line.startswith(f"{folder}/below cannot be made: Permission denied")


WRITE_TOO_MUCH = """
    import os
    from egoctl.pipeline.errors import StoreError
    from egoctl.pipeline.files.place import Place

    files = Place({folder!r})
    files.put("a.bin", b"old")
    for write in (files.put, files.create):
        try:
            write("a.bin" if write == files.put else "b.bin", os.urandom(3_000_000))
        except StoreError as error:
            print(error)
    print(files.read("a.bin"), os.listdir({folder!r}))
"""


def check_full_disk(said: str, folder: Path, cause: str) -> None:
    first, second, left = said.splitlines()
    assert first.startswith(f"{folder}/a.bin cannot be written: ") and cause in first
    assert second.startswith(f"{folder}/b.bin cannot be written: ") and cause in second
    # The old file is still whole, and nothing half-written lies beside it.
    assert left == "b'old' ['a.bin']"


def test_a_full_disk_is_named_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    mount = ["unshare", "--mount", "sh", "-c"]
    small = f"mount -t tmpfs -o size=1m none {tmp_path} && "
    try:
        may_mount = subprocess.run([*mount, f"{small} true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare on this machine")
    if may_mount.returncode != 0:
        pytest.skip("mounting a small disk needs root")

    said = run_child(
        WRITE_TOO_MUCH.format(folder=str(tmp_path / "files")),
        before=[*mount, f'{small} exec "$@"', "sh"],
    )

    check_full_disk(said, tmp_path / "files", "No space left on device")


def test_a_file_above_the_users_limit_is_named_too(tmp_path: Path) -> None:
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (100_000, 100_000))\n"
    script = textwrap.dedent(WRITE_TOO_MUCH.format(folder=str(tmp_path / "files")))

    check_full_disk(run_child(limit + script), tmp_path / "files", "File too large")


@pytest.mark.parametrize("is_known", [False, True])
def test_a_forked_child_is_told_instead_of_waiting_for_ever(tmp_path: Path, is_known: bool) -> None:
    said = run_child(f"""
        import os
        from egoctl.pipeline.errors import StoreError
        from egoctl.pipeline.files.place import Place

        files = Place({str(tmp_path)!r})
        files.put("a.txt", b"1")
        if os.fork() == 0:
            try:
                (files if {is_known} else Place({str(tmp_path)!r})).put("b.txt", b"2")
            except StoreError as error:
                print(error, flush=True)
            os._exit(0)
        os.wait()
        """)

    assert said.startswith("this process was forked from one that had files open")
    assert "'spawn'" in said
