"""Opens buckets: how long to wait for a server, whether there is one, what its errors mean."""

import os
import re
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from egoctl.pipeline.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Bucket: TypeAlias = AzureStore | GCSStore | LocalStore | S3Store

# By default obstore tries 11 times; with its pauses, which are drawn at random and hardly grow,
# it then gives up after about 5 s (measured), and a bucket that restarts ends a run of hours.
# With base 3 the pauses do grow: 12 tries in 20 s. Connection errors and 5xx are tried again.
PATIENT: "RetryConfig" = {
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=150),
    "backoff": {
        "init_backoff": timedelta(seconds=0.1),
        "max_backoff": timedelta(seconds=10),
        "base": 3,
    },
}
# For the first question to a bucket: a wrong endpoint is reported in about 2 s, not in 150.
HASTY: "RetryConfig" = {"max_retries": 6, "retry_timeout": timedelta(seconds=10)}
# The default of 30 s holds for a whole answer: too little for a shard over a slow line.
CLIENT: "ClientConfig" = {"timeout": "2 minutes", "connect_timeout": "5 seconds"}
_USERS: set[int] = set()
"""The processes, by id, that have used obstore: this one, and those it was forked from."""
METADATA_HOST = "169.254.169.254"
"""Where obstore looks for credentials if the environment has none."""


def check_not_forked() -> None:
    """Return if this process may use obstore.

    Its threads do not survive a fork: what a forked child asks of it is often never answered.

    Raises:
        StoreError: if this process was forked from one that has used obstore.
    """
    if os.getpid() in _USERS:
        return
    if _USERS:
        raise StoreError(
            "this process was forked from one that had files open, and cannot reach any. Start "
            "worker processes by 'spawn' or 'forkserver'."
        )
    _USERS.add(os.getpid())


def open_bucket(scheme: str, rest: str, retry: "RetryConfig") -> Bucket:
    """Credentials, region and endpoint come from the environment (AWS_, GOOGLE_, AZURE_...)."""
    name, _, prefix = rest.partition("/")
    # Not obstore's from_url: it ends a prefix at '#' and '?', and would write elsewhere.
    match scheme:
        case "s3":
            # A private server may have no certificate; only an http:// endpoint makes use of this.
            options: ClientConfig = {**CLIENT, "allow_http": True}
            return S3Store(name, prefix=prefix, client_options=options, retry_config=retry)
        case "gs":
            return GCSStore(name, prefix=prefix, client_options=CLIENT, retry_config=retry)
        case _:
            return AzureStore(name, prefix=prefix, client_options=CLIENT, retry_config=retry)


@cache
def check_reachable(scheme: str, name: str, endpoint: str | None) -> None:
    """Ask a bucket once per process, with short time limits, whether it answers.

    Later on a server that does not answer is waited for: then it was there before.

    Raises:
        BaseError: if no connection could be made. Any answer will do, also a refusal.
    """
    try:
        obstore.head(open_bucket(scheme, name, HASTY), "egoctl")
    except FileNotFoundError:
        return
    except BaseError as error:
        if "kind: Connect," in str(error) or METADATA_HOST in str(error):
            raise


def first_cause(error: Exception) -> str:
    """What an obstore error comes down to, without its debug dump."""
    text = str(error)
    if METADATA_HOST in text:
        return (
            "no credentials in the environment (for s3://: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY; profiles in ~/.aws are not read), and this machine has no role"
        )
    if found := re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text):
        return f"{found[1]}: {found[2].rstrip('.')}"
    sentence = text.split("\n\nDebug source", maxsplit=1)[0].strip().replace("\n", " ")
    # Only the dump names what broke a connection: "Connection refused", a name not found.
    if found := re.search(r'kind: Connect,.*?(?:message|error): "([^"]*)"', text, re.DOTALL):
        return f"{sentence}: {found[1]}"
    return sentence
