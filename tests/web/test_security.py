"""Headers, host names, sizes, logs: what every answer and request passes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import structlog

from portal import MAX_BODY
from tests.web.place import BASE, PASSWORD, Place

PATHS = ["/sign-in", "/", "/api/v1/me", "/nothing", "/api/v1/openapi.json", "/healthz", "/api/v1/docs"]


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_guarded(place: Place, path: str) -> None:
    headers = place.as_(None).get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self' wss://leasehold.test:8444"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cache-Control"] in ("no-store", "no-cache")
    assert "Access-Control-Allow-Origin" not in headers


def test_no_page_has_anything_inline(place: Place) -> None:
    alice = place.browser("alice")
    for path in ("/sign-in", "/", "/account", "/nothing", "/api/v1/docs"):
        page = alice.get(path, follow_redirects=True).text
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", page), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), path


@pytest.mark.parametrize("host", ["evil.example", "leasehold.test", "leasehold.test.evil.example:8443", "LEASEHOLD.test:8443"])
def test_only_the_public_name_is_answered(place: Place, host: str) -> None:
    said = place.app.test_client().get("/sign-in", base_url=f"https://{host}")
    assert (said.status_code == 200) == (host.lower() == "leasehold.test:8443")
    if said.status_code != 200:
        assert said.status_code == 421
        assert "evil" not in said.text


def test_a_request_may_be_a_mebibyte_and_no_more(place: Place) -> None:
    root = place.as_("root")
    fits = root.ask("POST", "/api/v1/pools", data=b"{" + b" " * (MAX_BODY - 2) + b"}", content_type="application/json")
    assert fits.status_code == 422
    over = root.ask("POST", "/api/v1/pools", data=b"{" + b" " * (MAX_BODY - 1) + b"}", content_type="application/json")
    assert (over.status_code, over.get_json()["error"]["code"]) == (413, "too_large")
    form = place.app.test_client().post("/sign-in", base_url=BASE, data={"user": "a" * (MAX_BODY + 1)})
    assert form.status_code == 413


def test_the_log_has_no_secrets(place: Place) -> None:
    with structlog.testing.capture_logs() as lines:
        nobody = place.as_(None)
        nobody.post("/api/v1/session?password=in-the-query", {"user": "alice", "password": PASSWORD})
        place.as_("alice").get("/api/v1/me?token=in-the-query")
        nobody.get("/api/v1/me", headers={"Cookie": "__Host-leasehold=in-the-cookie"})
        nobody.post("/api/v1/enroll", {"token": "in-the-body", "csr": "", "address": "", "port": 1, "console_port": 1})
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [201, 200, 401, 403]
    assert requests[1]["user"] == "alice"
    text = str(lines)
    for secret in (PASSWORD, "in-the-query", "in-the-cookie", "in-the-body", *place.tokens.values()):
        assert secret not in text


def test_a_bug_is_logged_once_and_told_without_its_details(place: Place, capsys: Any) -> None:
    def broken() -> None:
        raise ZeroDivisionError("the secret reason")

    place.app.view_functions["api.me"] = broken
    place.app.config["PROPAGATE_EXCEPTIONS"] = False
    with structlog.testing.capture_logs() as lines:
        said = place.as_("alice").get("/api/v1/me")
    assert (said.status_code, said.get_json()["error"]["code"]) == (500, "internal_error")
    assert "secret reason" not in said.text
    assert len([line for line in lines if line["log_level"] == "error"]) == 1


def test_a_method_that_is_not_there(place: Place) -> None:
    said = place.as_("root").ask("PUT", "/api/v1/vms")
    assert said.status_code == 405
    assert "GET" in said.headers["Allow"]
    assert said.get_json()["error"]["code"] == "method_not_allowed"
