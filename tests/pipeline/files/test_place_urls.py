"""Which URLs name a place or a file, and which server s3:// leads to."""

import os
from pathlib import Path

import pytest

from egoctl.pipeline.errors import EgoctlError, StoreError
from egoctl.pipeline.files import bucket
from egoctl.pipeline.files.bucket import open_bucket
from egoctl.pipeline.files.place import Place, file_at, use_endpoint
from egoctl.tests.worlds.s3_server import S3Server, s3_environment

# --- which URLs there are ---


@pytest.mark.parametrize(
    "url",
    [
        "http://host/x",
        "ftp://host/x",
        "s3://",
        "s3:/bucket/x",
        "gs:bucket",
        "s3://b/../c",
        "s3:///x",
    ],
)
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=f"^{url}: no such "):
        Place(url)


def test_a_path_and_a_file_url_are_the_same_folder(tmp_path: Path) -> None:
    Place(f"file://{tmp_path}").put("a.txt", b"1")

    assert Place(str(tmp_path)).read("a.txt") == b"1"


@pytest.mark.parametrize(
    ("url", "place_url", "name"),
    [
        ("s3://b/a.mp4", "s3://b", "a.mp4"),
        ("s3://b/x/a.mp4", "s3://b/x", "a.mp4"),
        ("/data/a.mp4", "/data", "a.mp4"),
        ("a.mp4", ".", "a.mp4"),
    ],
)
def test_a_files_url_names_its_place_and_its_name(url: str, place_url: str, name: str) -> None:
    found, found_name = file_at(url)

    assert (found.url, found_name) == (place_url, name)


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "gs://b/folder/"])
def test_the_url_of_a_bucket_or_folder_is_no_file(url: str) -> None:
    with pytest.raises(StoreError):
        file_at(url)


def test_prefixes_may_hold_what_ends_a_path_elsewhere_in_urls(s3: str) -> None:
    Place(f"{s3}/run #1?").put("a.txt", b"1")

    assert [info.name for info in Place(s3).list()] == ["run #1?/a.txt"]


def test_google_and_azure_buckets_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")

    for url in ("gs://bucket/x", "az://container/x"):
        scheme, _, rest = url.partition("://")
        assert Place(url).url == url
        assert open_bucket(scheme, rest, bucket.HASTY).prefix == "x"


def test_azure_without_an_account_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)

    with pytest.raises(StoreError, match="^az://c/x cannot be opened: .*Account must be specified"):
        Place("az://c/x").put("a.txt", b"1")


# --- the endpoint ---


def test_an_endpoint_leads_to_another_server(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment("http://127.0.0.1:1").items():
        monkeypatch.setenv(name, value)

    use_endpoint(None)
    assert os.environ["AWS_ENDPOINT_URL"] == "http://127.0.0.1:1"
    use_endpoint(s3_server.url)

    files = Place(f"s3://{s3_server.new_bucket()}")
    assert files.create("a.txt", b"1") is True


@pytest.mark.parametrize("url", ["minio:9000", "s3://bucket", "http://", "", "localhost"])
def test_an_endpoint_that_is_no_server_is_refused(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://before")

    with pytest.raises(EgoctlError, match="--endpoint must be like https://HOST"):
        use_endpoint(url)
    assert os.environ["AWS_ENDPOINT_URL"] == "http://before"
