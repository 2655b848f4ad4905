"""The REST client: one question, one answer; what goes wrong has a sentence and an exit code."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from cli.config import Config

OK, REFUSED, USAGE, NOT_SIGNED_IN, UNREACHABLE = 0, 1, 2, 3, 4  # exit codes; 2 is click's own
PREFIX = "/api/v1"
PAGE = 500


class Trouble(Exception):
    """Something was refused or could not be asked; `code` is the exit code, `str()` the sentence."""

    def __init__(self, code: int, sentence: str, *, kind: str = "", facts: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.code, self.kind, self.facts = code, kind, facts or {}


class Client:
    """Asks one portal as one person."""

    def __init__(self, config: Config, token: str | None = None) -> None:
        if not config.url:
            raise Trouble(USAGE, "Say which portal to ask: leasehold login --url https://…, or LEASEHOLD_URL.")
        if not config.url.startswith("https://"):
            raise Trouble(USAGE, f"{config.url} would send passwords unprotected; the address must begin with https://.")
        self.config, self.token = config, config.token if token is None else token
        self._http = urllib3.PoolManager(
            ca_certs=config.ca_file or None, retries=False, timeout=urllib3.Timeout(connect=10, read=120),
        )

    def ask(self, method: str, path: str, body: Any = None, *, query: dict[str, Any] | None = None) -> Any:
        """The JSON of the answer; `Trouble` when it is a refusal or there is none. `path` begins after /api/v1."""
        return self.raw(method, path, body, query=query)[1]

    def raw(self, method: str, path: str, body: Any = None, *, query: dict[str, Any] | None = None,
            headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        """Status, JSON (or text) and headers."""
        where = f"{self.config.url}{PREFIX}{path}" + (f"?{urlencode(query)}" if query else "")
        sent = {"Accept": "application/json", **(headers or {})}
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            answer = self._http.request(method, where, body=data, headers=sent)
        except urllib3.exceptions.HTTPError as silent:
            raise Trouble(UNREACHABLE, _why(self.config, silent)) from None
        text = answer.data.decode("utf-8", "replace")
        told = text
        if "json" in answer.headers.get("Content-Type", "") and text:
            told = json.loads(text)
        if answer.status >= 400:
            raise _refusal(answer.status, told)
        return answer.status, told, answer.headers

    BROKEN = (urllib3.exceptions.HTTPError, OSError)  # what a stream ends with that was not read to its end

    def send(self, path: str, data: bytes, headers: dict[str, str]) -> dict[str, Any]:
        """Put these bytes there; what the portal says of it."""
        sent = {"Accept": "application/json", "Content-Type": "application/octet-stream", **headers}
        answer = self._open("PUT", path, sent, data)
        told: dict[str, Any] = json.loads(answer.data)
        return told

    def stream(self, method: str, path: str, headers: dict[str, str] | None = None) -> Any:
        """An answer whose body is read by the caller."""
        return self._open(method, path, headers or {}, stream=True)

    def _open(self, method: str, path: str, headers: dict[str, str], data: bytes | None = None, stream: bool = False) -> Any:
        sent = {**headers, **({"Authorization": f"Bearer {self.token}"} if self.token else {})}
        try:
            answer = self._http.request(method, f"{self.config.url}{PREFIX}{path}", body=data, headers=sent,
                                        preload_content=not stream, decode_content=False)  # fmt: skip
        except urllib3.exceptions.HTTPError as silent:
            raise Trouble(UNREACHABLE, _why(self.config, silent)) from None
        if answer.status >= 400:
            is_json = "json" in answer.headers.get("Content-Type", "") and method != "HEAD"
            raise _refusal(answer.status, json.loads(answer.data) if is_json else "")
        return answer

    def every(self, path: str, search: str = "", most: int | None = None) -> list[dict[str, Any]]:
        """All items of a list, page by page, or the first so many."""
        items: list[dict[str, Any]] = []
        after = None
        while most is None or len(items) < most:
            want = PAGE if most is None else min(PAGE, most - len(items))
            query: dict[str, Any] = {"search": search, "max": want} | ({"after": after} if after else {})
            page = self.ask("GET", path, query=query)
            items += page["items"]
            if (after := page.get("next")) is None:
                break
        return items

    def sign_in(self, user: str, password: str) -> dict[str, Any]:
        """A new session; its token is used from now on. A machine that is enrolled as a thin client says so."""
        here = {"Leasehold-Device": self.config.device} if self.config.device else None
        told: dict[str, Any] = self.raw("POST", "/session", {"user": user, "password": password}, headers=here)[1]
        self.token = told["token"]
        return told

    def sign_out(self) -> None:
        """End the session; one that has ended already is as good."""
        try:
            self.ask("DELETE", "/session")
        except Trouble as no:
            if no.code != NOT_SIGNED_IN:
                raise
        self.token = ""


def path(*parts: str) -> str:
    """An address of these pieces, each escaped."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _refusal(status: int, told: Any) -> Trouble:
    error = told.get("error", {}) if isinstance(told, dict) else {}
    sentence = str(error.get("message") or f"The portal answered {status}.")
    kind = str(error.get("code", ""))
    if status == 401 and kind == "not_signed_in":
        return Trouble(NOT_SIGNED_IN, "You are not signed in, or not any more: leasehold login.", kind=kind)
    code = NOT_SIGNED_IN if status == 401 else UNREACHABLE if status in (502, 503, 504) else REFUSED
    return Trouble(code, sentence, kind=kind, facts=error.get("facts") or {})


def _why(config: Config, silent: Exception) -> str:
    text = str(silent)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (f"The certificate of {config.url} is not trusted here. Give its CA with --ca-file FILE "
                "(or LEASEHOLD_CA_FILE); the portal's administrator has it.")
    if isinstance(silent, (FileNotFoundError, PermissionError)) or "No such file" in text:
        return f"The CA file {config.ca_file} cannot be read."
    return f"{config.url} cannot be reached: {text.rsplit(': ', 1)[-1].rstrip('.)')}."
