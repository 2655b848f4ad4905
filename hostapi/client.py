"""`HostClient`: asks one host over mutual TLS; starting, polling and resuming a step are the same call."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec
import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, ProtocolError

from hostapi.tls import client_context, roles
from hostapi.types import ContentReport, Cpu, HostCpu, HostReport, Outcome, PowerKind, Screen
from hostapi.wire import API_HEADER, Answer, api_version, decode_outcome, decode_result

CONNECT_S, ANSWER_S = (
    5.0,
    15.0,
)  # how long a host may take to accept, and to answer beyond what it was told to wait
REPORT_CONNECT_S, REPORT_S = 3.0, 8.0  # a host that is gone must be noticed soon, and holds up the round
MOVE_S = 60.0  # how long a storage may take for a piece of a file
NO_SIGN_MS = 3000  # what its kernel has not confirmed for so long was sent to a host that is gone, however busy its agent is


class HostUnreachable(Exception):
    """No answer: silence, a broken connection, another API version, a hypervisor that is down.

    `str()` is a sentence for people, `code` is for programs. It never means that a VM is off."""

    def __init__(self, message: str, code: str = "unreachable") -> None:
        super().__init__(message)
        self.code = code


class _HostConnection(HTTPSConnection):
    """Talks to hosts only: a gateway's or a manager's certificate is not a host's, whatever its address."""

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, NO_SIGN_MS)
        if "host" not in roles(self.sock.getpeercert()):
            self.close()
            raise ssl.SSLCertVerificationError("the certificate shown is not a host's")


class _HostPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HostConnection


class HostClient:
    """One host's door over the wire; safe to share between threads, connections are kept open.

    `name` is what the host's certificate must carry (`hostapi.tls.host_name`); its address when nothing is said."""

    def __init__(
        self,
        address: str,
        port: int,
        ssl_context: ssl.SSLContext,
        *,
        name: str | None = None,
        connect_s: float = CONNECT_S,
    ) -> None:
        self.where = f"{address}:{port}"
        self._connect_s = connect_s
        self._pool = _HostPool(
            address,
            port,
            ssl_context=ssl_context,
            server_hostname=name,
            maxsize=8,
            block=False,
            retries=False,
        )

    def ask(self, uid: UUID, verb: str, args: Mapping[str, Any], *, wait_s: float) -> Outcome:
        """Start this step, or hear how it is; waits up to `wait_s` seconds for its end."""
        body = {"uid": uid, "verb": verb, "args": args, "wait_s": wait_s}
        answer = self._post("/ask", body, answer_s=wait_s + ANSWER_S)
        try:
            return decode_outcome(verb, answer)
        except msgspec.DecodeError as garbled:
            raise HostUnreachable(
                f"The host at {self.where} answered something unreadable: {garbled}", "garbled"
            ) from garbled

    def watch(self, uids: Iterable[UUID], *, wait_s: float) -> dict[UUID, int]:
        """Those of the steps that are still being done, with their progress; waits until one is not, but no longer."""
        answer = self._post("/watch", {"uids": list(uids), "wait_s": wait_s}, answer_s=wait_s + ANSWER_S)
        try:
            return msgspec.json.decode(answer, type=dict[UUID, int])
        except msgspec.DecodeError as garbled:
            raise HostUnreachable(
                f"The host at {self.where} answered something unreadable: {garbled}", "garbled"
            ) from garbled

    def cancel(self, uid: UUID) -> None:
        """Tell the host that this step is no longer wanted; its end is heard by asking."""
        self._post("/cancel", {"uid": uid})

    def report(self) -> HostReport:
        """The host, its VMs and storage, as they are now."""
        report: HostReport = self._question("report", {}, connect_s=REPORT_CONNECT_S, answer_s=REPORT_S)
        return report

    def listen(self, seen: int, wait_s: int) -> int:
        """How often something has happened to the host's VMs, as soon as that is not `seen` any more, or after so long."""
        count: int = self._question("listen", {"seen": seen, "wait_s": wait_s})
        return count

    def screens(self, vm_ids: Iterable[UUID]) -> tuple[Screen, ...]:
        """Small pictures of these VMs' screens."""
        screens: tuple[Screen, ...] = self._question("screens", {"vm_ids": tuple(vm_ids)})
        return screens

    def power_kinds(self) -> tuple[str, ...]:
        """The kinds of power agents that the host has programs for."""
        names: tuple[str, ...] = self._question("power_kinds", {})
        return names

    def power_kind(self, name: str) -> PowerKind:
        """What one of them is, and its options."""
        kind: PowerKind = self._question("power_kind", {"name": name})
        return kind

    def host_cpu(self) -> HostCpu:
        """The processor that the host can give to VMs."""
        cpu: HostCpu = self._question("host_cpu", {})
        return cpu

    def common_cpu(self, cpus: Iterable[Cpu]) -> Cpu:
        """The most that all of these have."""
        common: Cpu = self._question("common_cpu", {"cpus": tuple(cpus)})
        return common

    def part_size(self, domain_path: str, volume_id: UUID) -> int:
        """How many bytes of an upload are there."""
        size: int = self._question("part_size", {"domain_path": domain_path, "volume_id": volume_id})
        return size

    def write_part(self, domain_path: str, volume_id: UUID, offset: int, data: bytes) -> int:
        """Bring these bytes of an upload; how many are there now."""
        args = {"domain_path": domain_path, "volume_id": volume_id, "offset": offset, "data": data}
        size: int = self._question("write_part", args, answer_s=MOVE_S)
        return size

    def content(self, domain_path: str, volume_id: UUID) -> ContentReport:
        """What the volume's file is."""
        report: ContentReport = self._question("content", {"domain_path": domain_path, "volume_id": volume_id})
        return report

    def read_content(self, domain_path: str, volume_id: UUID, mark: str, offset: int, count: int) -> bytes:
        """So many bytes of the file, from there on."""
        args = {"domain_path": domain_path, "volume_id": volume_id, "mark": mark, "offset": offset, "count": count}
        data: bytes = self._question("read_content", args, answer_s=MOVE_S)
        return data

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.close()

    def _question(self, verb: str, args: Mapping[str, Any], **patience: float) -> Any:
        body = self._post("/question", {"verb": verb, "args": args}, **patience)
        try:
            return decode_result(verb, msgspec.json.decode(body, type=Answer).value)
        except msgspec.DecodeError as garbled:
            raise HostUnreachable(
                f"The host at {self.where} answered something unreadable: {garbled}", "garbled"
            ) from garbled

    def _post(
        self, path: str, body: Mapping[str, Any], answer_s: float = ANSWER_S, connect_s: float | None = None
    ) -> bytes:
        """The body of a 200, or `HostUnreachable`. A kept connection that the host has closed is tried
        once more on a new one: every question may be asked twice."""
        headers = {"Content-Type": "application/json", API_HEADER: api_version()}
        timeout = urllib3.Timeout(connect=connect_s or self._connect_s, read=answer_s)
        payload = msgspec.json.encode(body)
        for last in (False, True):
            try:
                answer = self._pool.request("POST", path, body=payload, headers=headers, timeout=timeout)
                break
            except ProtocolError as broken:
                if last or any(isinstance(one, TimeoutError) for one in broken.args):  # a new connection would hear no more
                    raise HostUnreachable(f"The host at {self.where} broke off: {broken}") from broken
            except (HTTPError, OSError) as silent:
                raise HostUnreachable(f"The host at {self.where} does not answer: {silent}") from silent
        if answer.status == 200:
            return answer.data
        raise self._refusal(answer.status, answer.data)

    def _refusal(self, status: int, body: bytes) -> HostUnreachable:
        try:
            error = msgspec.json.decode(body, type=Answer).error
        except msgspec.DecodeError:
            error = None
        if error is None:
            return HostUnreachable(f"The host at {self.where} answered with status {status}.", "garbled")
        return HostUnreachable(error.message, error.code)


__all__ = ["HostClient", "HostUnreachable", "client_context"]
