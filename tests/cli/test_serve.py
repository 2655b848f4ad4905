"""The web process as it is served: TLS, Nagle, keep-alive, streams, and a stop that loses nobody's request."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
import threading

import pytest
import urllib3

from portal.serve import listening
from tests.cli.conftest import PATIENCE_S, ROOT, Served


def test_connections_do_not_wait_for_an_acknowledgement() -> None:
    """pywsgi writes head and body apart: with Nagle's algorithm each answer on a kept connection costs 40 ms."""
    listener = listening("127.0.0.1:0")
    try:
        with socket.create_connection(listener.getsockname()):
            listener.setblocking(True)
            taken, _ = listener.accept()
            with taken:
                assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    finally:
        listener.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls(served: Served, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(served.ca_file))
    context.minimum_version = context.maximum_version = version
    with urllib3.PoolManager(ssl_context=context, retries=False) as http:
        answers = [http.request("GET", f"{served.url}/healthz") for _ in range(3)]
    assert [a.status for a in answers] == [200, 200, 200]


def test_a_peer_that_says_nothing_keeps_nobody_waiting(served: Served) -> None:
    port = int(served.url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    try:
        with urllib3.PoolManager(ca_certs=str(served.ca_file), retries=False) as http:
            assert http.request("GET", f"{served.url}/healthz", timeout=PATIENCE_S).status == 200
    finally:
        for peer in silent:
            peer.close()


def test_a_stream_ends_when_the_process_is_told_to_stop(served: Served) -> None:
    """Last in this file's portal: it is stopped. Whoever listens comes back to another process."""
    with urllib3.PoolManager(ca_certs=str(served.ca_file), retries=False) as http:
        bearer = {"Authorization": f"Bearer {served.place.tokens['root']}"}
        stream = http.request("GET", f"{served.url}/api/v1/changes", headers=bearer, preload_content=False)
        assert stream.status == 200
        heard: list[bytes] = []
        thread = threading.Thread(target=lambda: heard.extend(stream.stream(64)))
        thread.start()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE_S) == 0, served.log.read_text()
        thread.join(PATIENCE_S)
        stream.release_conn()
    assert b"event: hello" in b"".join(heard)
    log = served.log.read_text()
    assert "Traceback" not in log
    assert served.place.tokens["root"] not in log


def test_a_key_that_others_may_read_is_refused(served: Served, tmp_path: object) -> None:
    key = f"{tmp_path}/key"
    with open(key, "wb") as file:
        file.write(b"k" * 32)
    done = subprocess.run([sys.executable, "wsgi.py"], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, env={
        "LEASEHOLD_SECRET_KEY_FILE": key, "LEASEHOLD_DATABASE_URL": "postgresql+psycopg2://", "PATH": "/usr/bin"})
    assert done.returncode != 0
    assert "chmod 600" in done.stderr
