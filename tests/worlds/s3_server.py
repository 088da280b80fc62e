"""A real S3 server on loopback, and a proxy before it that loses, refuses and delays answers.

Tests ask for `s3`, which tests/conftest.py registers; scripts use the classes.
PYTEST_DONT_REWRITE: test files also import from it, and it asserts nothing.
"""

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import TracebackType
from urllib.parse import urlsplit

import pytest

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 30.0
_bucket_numbers = count()


class S3Server:
    """moto's S3 in a process of its own; nothing is kept when it ends. Use it in a with."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self._port}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> "S3Server":
        try:
            self._wait_until_it_answers()
        except BaseException:
            # Ctrl-C too, and raised again: nothing else would end the server.
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((LOOPBACK, self._port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("moto.server did not start; is moto[server] installed?")

    def new_bucket(self) -> str:
        """The name of a bucket that nobody else has used."""
        name = f"bucket-{next(_bucket_numbers)}-{os.getpid()}"
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        direct.open(request, timeout=10).close()
        return name


def s3_environment(endpoint: str) -> dict[str, str]:
    """What a process needs to use the server at endpoint."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "NO_PROXY": LOOPBACK,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultRates:
    """How likely each fault is, 0 to 1; a request suffers one at most."""

    refuse: float = 0.0
    """500 or 503, and the server never sees the request."""
    lose: float = 0.0
    """500 or 503 after the server has done what was asked."""
    drop: float = 0.0
    """The connection closes without an answer, after the server has done what was asked."""
    delay: float = 0.0
    """The answer comes up to max_delay_s later."""
    max_delay_s: float = 0.3


class FaultyProxy:
    """Passes requests on to an S3 server and spoils some of them. Use it in a with.

    The faults are drawn from one seeded generator, in the order in which requests come in; after
    max_faults it only passes on.
    """

    def __init__(
        self, upstream: str, rates: FaultRates, *, seed: int = 0, max_faults: int = 10_000
    ) -> None:
        self.rates = rates
        """May be changed while it runs."""
        self.counts: Counter[str] = Counter()
        """Requests by what became of them: 'passed' or a fault's name; and 'requests'."""
        self._upstream = urlsplit(upstream).netloc
        self._random = random.Random(seed)
        self._max_faults = max_faults
        self._num_faults = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    def __enter__(self) -> "FaultyProxy":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def draw(self) -> tuple[str, int, float]:
        """What becomes of the next request: a fault or 'passed', a status, a delay in seconds."""
        with self._lock:
            at, status = self._random.random(), self._random.choice((500, 503))
            delay_s = self._random.random() * self.rates.max_delay_s
            fate = "passed"
            for name in ("refuse", "lose", "drop", "delay"):
                at -= getattr(self.rates, name)
                if at < 0:
                    fate = name
                    break
            if fate != "passed" and self._num_faults >= self._max_faults:
                fate = "passed"
            self._num_faults += fate != "passed"
            self.counts["requests"] += 1
            self.counts[fate] += 1
            return fate, status, delay_s

    def pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """One client's connection to a FaultyProxy."""

    owner: FaultyProxy
    protocol_version = "HTTP/1.1"
    timeout = 60

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fate, status, delay_s = self.owner.draw()
        if fate == "refuse":
            return self._send(status, {}, b"")
        response, content = self.owner.pass_on(
            self.command, self.path, body, dict(self.headers.items())
        )
        if fate == "lose":
            return self._send(status, {}, b"")
        if fate == "drop":
            self.close_connection = True
            return None
        if fate == "delay":
            time.sleep(delay_s)
        headers = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "content-length")
        }
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        return self._send(response.status, headers, content, length=length)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _send(
        self, status: int, headers: dict[str, str], body: bytes, *, length: str | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            # The client went away, as clients in tests of kills do.
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in a bucket of the test's own; child processes reach it too."""
    for name, value in s3_environment(s3_server.url).items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.new_bucket()}/prefix"
