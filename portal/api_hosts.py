"""REST: announce a host, let its agent enroll, and the small picture of a VM's screen."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import msgspec
import sqlalchemy as sa
from flask import Response, make_response, request
from sqlalchemy.dialects import postgresql as pg

from backend.directory import rules, throttle
from backend.directory.models import Throttle
from backend.directory.rights import path_of, see_permit
from backend.directory.rules import Grant, may
from backend.errors import Denied, NotFound, Refused, TooMany, Unavailable
from backend.hosts.commands import AddHost, ask_enrollment, enrollment, new_token
from backend.hosts.joining import Newcomer, ReinstallHost, known, register
from backend.tasks.submit import submit
from backend.vms.models import Vm, VmScreen
from broker import reach
from pools.models import LIVE, Lease
from portal.auth import actor, grants, person
from portal.devices import whence
from portal.errors import answer as told
from portal.parts import parts
from portal.routes import Routes, answer, body, now, read_uuid
from portal.transaction import in_transaction, rollback, tx

routes = Routes("hosts")
T = TypeVar("T")


class NewHost(msgspec.Struct, forbid_unknown_fields=True):
    """A host that will enroll within the hour."""

    name: str
    cluster_id: UUID


class Enroll(msgspec.Struct, forbid_unknown_fields=True):
    """What an agent says of its host, with the token it was given and its signing request."""

    token: str
    csr: str
    address: str
    port: int
    console_port: int
    hostname: str = ""
    register: bool = False  # nobody has announced the host: the token is its own secret, and it waits for approval
    cpus: int = 0
    memory_mib: int = 0
    virt_type: str = "qemu"


HOST_TOKEN = {"type": "object", "required": ["id", "token", "enroll"], "properties": {
    "id": {"type": "string"}, "token": {"type": "string"},
    "enroll": {"type": "string", "description": "what to run on the host"}}}


@routes.route("POST", "/hosts", "Announce a host: answers the one-time token its agent enrolls with, told only here.",
              body=NewHost, answers={201: HOST_TOKEN})
def host_create() -> Response:
    """The token stands in no row: only its SHA-256 does."""
    given = body(NewHost)
    token, digest = new_token()
    task = submit(tx(), AddHost(given.name, given.cluster_id, digest), actor(), now())
    assert task.result is not None
    return answer({"id": task.result["id"], "token": token, "enroll": enroll_command(token)}, 201)


@routes.route("POST", "/hosts/<id>/reinstall", "Let a host enroll anew: answers the one-time token for it, told only here.",
              answers={201: HOST_TOKEN})
def host_reinstall(id: str) -> Response:
    """As if it were announced again; its VMs' and storage's rows stay."""
    token, digest = new_token()
    submit(tx(), ReinstallHost(read_uuid(id, "host"), digest), actor(), now())
    return answer({"id": id, "token": token, "enroll": enroll_command(token)}, 201)


def enroll_command(token: str) -> str:
    """What to run on the host so that its agent enrolls."""
    return f"leasehold-agent enroll --manager {parts().settings.public_url} --token {token} --ca-sha256 {_ca_sha256()}"


def _ca_sha256() -> str:
    """SHA-256 of the CA certificate (DER) that signed the portal's: how the agent knows whom it talks to."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(_ca_pem())).hexdigest()


def _ca_pem() -> str:
    return _pem_in("ca_file")


def _pem_in(setting: str) -> str:
    try:
        return Path(getattr(parts().settings, setting)).read_text()
    except OSError:
        raise Unavailable("no_ca", f"This portal does not have its CA certificate: its setting {setting} names no file "
                          "that it may read.") from None


@routes.route("GET", "/ca", "The CA certificate behind the portal's, in PEM; an agent checks its SHA-256 before it believes it.",
              signed_in=False, answers={200: {"type": "object", "properties": {"ca": {"type": "string"}}}})
def authority() -> Response:
    """A certificate is no secret; who asks for it knows its fingerprint already."""
    return answer({"ca": _ca_pem()})


@routes.route("POST", "/enroll", "An agent asks for its host's certificate with a one-time token, or (`register`) for approval.",
              body=Enroll, signed_in=False, answers={202: {"type": "object", "properties": {"id": {"type": "string"}}}})
def enroll_ask() -> Response:
    """Written down; the hosts' CA signs it within seconds. Wrong tokens are counted per address."""
    given = body(Enroll)
    if given.register and not known(tx(), given.token):
        new = Newcomer(given.token, given.csr, given.address, given.port, given.console_port, given.hostname, given.cpus,
                       given.memory_mib, given.virt_type)
        host = counted(lambda: register(tx(), new, now()))
        throttle.failed(tx(), _key(), now())  # one address registers only so many
        return answer({"id": str(host.id), "pending": True}, 202)
    host = counted(lambda: ask_enrollment(
        tx(), token=given.token, csr=given.csr, address=given.address, port=given.port, console_port=given.console_port,
        now=now(),
    ))
    return answer({"id": str(host.id)}, 202)


@routes.route("GET", "/enroll/<id>", "The signed certificate, once the manager has signed it: 202 until then.", signed_in=False,
              answers={200: {"type": "object", "properties": {"certificate": {"type": "string"}, "ca": {"type": "string"}}},
                       202: {"type": "object"}})
def enroll_answer(id: str) -> Response:
    """For the agent that shows its token again."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    host_id = read_uuid(id, "enrollment")
    host = counted(lambda: enrollment(tx(), host_id, token.strip() if kind.lower() == "bearer" else ""))
    if not host.certificate:
        return answer({}, 202)
    return answer({"certificate": host.certificate, "ca": _pem_in("hosts_ca_file")})


def _key() -> str:
    return "enroll-" + throttle.address_key(request.remote_addr or "")


def counted(work: Callable[[], T]) -> T:
    """The work, unless this address has shown too many wrong tokens; one more of them is counted when it did."""
    key = _key()
    blocked = tx().scalar(sa.select(Throttle.blocked_until).where(Throttle.key == key))
    if blocked is not None and blocked > now():
        seconds = max(1, int((blocked - now()).total_seconds()))
        sentence = f"Too many wrong tokens or new hosts from this address. Try again in {seconds} seconds."
        raise TooMany("too_many_attempts", sentence, retry_after_s=seconds)
    try:
        return work()
    except Denied as no:
        rollback()
        if no.code == "bad_token":
            with in_transaction() as short:
                throttle.failed(short, key, now())
        raise


@routes.route("GET", "/vms/<id>/screen", "A small picture of the VM's screen; asking for it has it renewed.", tag="vms",
              answers={200: {"type": "string", "format": "binary"}, 304: None}, media="image/webp")
def vm_screen(id: str) -> Response:
    """The last picture taken, while somebody looks; 404 until there is one."""
    vm_id = read_uuid(id, "vm")
    _require_look(vm_id)
    want = pg.insert(VmScreen).values(vm_id=vm_id, wanted_at=now())
    tx().execute(want.on_conflict_do_update(index_elements=[VmScreen.vm_id], set_={"wanted_at": now()}))
    row = tx().execute(sa.select(VmScreen.webp, VmScreen.taken_at).where(VmScreen.vm_id == vm_id)).one()
    if row.webp is None:
        # said, not raised: that somebody looks must be written down
        return told(404, "no_picture", "There is no picture of this screen yet.", {})
    response = make_response(bytes(row.webp))
    response.content_type = "image/webp"
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(hashlib.sha256(row.webp).hexdigest()[:32])
    response.last_modified = row.taken_at
    return response.make_conditional(request)  # type: ignore[return-value]


def may_look(grants: list[Grant], path: rules.Path, now: datetime) -> bool:
    """Whether these grants let one see what somebody else has on the screen of the VM with this path."""
    roles = {role.strip() for role in parts().settings.screens_seen_by.split(",")}
    return may(grants, "console.look", path, now) or may([g for g in grants if g.role in roles], "vm.see", path, now)


def _require_look(vm_id: UUID) -> None:
    """The picture is for who may use the VM now (it is theirs, or they hold its lease) or may look at others' screens."""
    who, mine = person(), grants()
    no: Refused = NotFound("not_found", f"There is no vm with the id {vm_id}.", kind="vm", id=str(vm_id))
    path = path_of(tx(), "vm", vm_id)
    of_pool = any(kind == "pool" for kind, _ in path)  # a pool's desktop is its holder's alone
    if may_look(mine, path, now()):
        return
    if may(mine, see_permit("vm"), path, now()):  # they know that it is there
        no = Denied("denied", "You may see this VM, but not the screen of who works there: it needs the right “console.look”.",
                    permit="console.look")
    held = sa.select(Lease.pool_id).where(Lease.vm_id == vm_id, Lease.user_id == who.user_id, sa.text(LIVE))
    pool_id = tx().scalar(held)
    if pool_id is None and (of_pool or not may(mine, "desktop.use", path[:1], now())):
        raise no
    offered = tx().scalar(sa.select(Vm.protocols).where(Vm.id == vm_id)) or []
    if not reach.verdict(tx(), name="", pool_id=pool_id, offered=offered, from_=whence()).allowed:
        raise no  # what may not be opened from here is not shown here either
