"""REST: a person's desktops: list, connect, power, extend, give back, and the viewer file of a ticket."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
from cryptography import x509
from flask import Response, make_response, request

from backend.errors import Refused
from backend.tasks.submit import submit
from broker import connect as broker
from broker import tickets, viewer
from broker.answers import Answer
from broker.connect import Desktop
from pools.commands import ExtendLease
from pools.facts import extensions_left
from pools.models import Lease, Pool
from portal.auth import actor, holder
from portal.devices import whence
from portal.parts import parts
from portal.routes import PREFIX, Routes, accepted, answer, body, now, plain, read_uuid
from portal.transaction import commit, rollback, tx

routes = Routes("me")

VERBS = {
    "start": "Start a desktop of yours.", "shutdown": "Shut down a desktop of yours.", "stop": "Stop a desktop of yours.",
    "reset": "Get a fresh desktop in place of yours.", "reboot": "Reboot a desktop of yours.",
    "swap": "Get another desktop in place of yours, for the rest of your time.",
    "snapshot": "Keep what is on the disk of your desktop now, to go back to.",
    "go_back": "Make your desktop what it was when the snapshot was taken.",
    "remove_snapshot": "Remove a snapshot of your desktop.",
}  # fmt: skip

_LEASE = {"type": ["object", "null"], "properties": {
    "id": {"type": "string"}, "state": {"type": "string"}, "ends_at": {"type": ["string", "null"]},
    "called_until": {"type": ["string", "null"]}, "extensions_left": {"type": "integer"}}}
DESKTOP = {"type": "object", "required": ["id", "name", "kind", "state", "lease", "protocols", "actions"], "properties": {
    "id": {"type": "string"}, "name": {"type": "string"}, "kind": {"enum": ["pool", "vm"]}, "state": {"type": "string"},
    "description": {"type": "string"}, "sentence": {"type": "string"}, "vm": {"type": ["object", "null"]}, "lease": _LEASE,
    "position": {"type": ["integer", "null"]}, "protocols": {"type": "array", "items": {"type": "string"}},
    "blocked": {"type": "string", "description": "why it cannot be reached from here; empty when it can"},
    "actions": {"type": "array", "items": {"type": "string"}},
    "snapshots": {"type": "array", "items": {"type": "object"}}}}
DESKTOPS = {"type": "object", "required": ["items"], "properties": {"items": {"type": "array", "items": DESKTOP}}}
# For a page, `new WebSocket(url, protocols)`: noVNC's only one, or each channel of a SPICE client. For a native client, a file.
VIEWER = {"type": "object", "required": ["type", "url"], "properties": {
    "type": {"enum": ["novnc", "spice", "vv"]}, "url": {"type": "string"},
    "protocols": {"type": "array", "items": {"type": "string"}}, "file": {"type": "string"}}}
READY = {"type": "object", "required": ["state", "ticket", "viewer"], "properties": {
    "state": {"const": "ready"}, "sentence": {"type": "string"}, "lease": _LEASE, "vm": {"type": ["object", "null"]},
    "protocol": {"enum": ["vnc", "spice"]}, "ticket": {"type": "object"}, "viewer": VIEWER}}
WAIT = {"type": "object", "required": ["state"], "properties": {
    "state": {"enum": ["starting", "queued"]}, "sentence": {"type": "string"}, "lease": _LEASE,
    "vm": {"type": ["object", "null"]},
    "position": {"type": ["integer", "null"]}, "estimate_s": {"type": ["integer", "null"]},
    "progress": {"type": "integer"}, "message": {"type": "string"}, "href": {"type": ["string", "null"]}}}
LEASE = {"type": "object", "properties": {"lease": _LEASE}}


class Connect(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to show the desktop; without a protocol, a browser gets VNC if it is offered, a native client SPICE."""

    protocol: Literal["vnc", "spice", "rdp"] | None = None
    client: Literal["browser", "native"] = "browser"
    another: bool = False
    move: bool | None = None  # a console open elsewhere: true closes it, false asks first (409, console_elsewhere)


class Seconds(msgspec.Struct, forbid_unknown_fields=True):
    """How much longer, when an administrator says so; a holder extends by the pool's policy."""

    seconds: int | None = None


class NewSnapshot(msgspec.Struct, forbid_unknown_fields=True):
    """What the snapshot is called."""

    name: str


class Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    """Which snapshot."""

    snapshot_id: UUID


BODIES: dict[str, type] = {"snapshot": NewSnapshot, "go_back": Snapshot, "remove_snapshot": Snapshot}


@routes.route("GET", "/me/desktops", "Pools you may take from, desktops you hold, VMs that are yours.", answers={200: DESKTOPS})
def my_desktops() -> Response:
    """Everything to connect to."""
    return answer({"items": [desktop_json(d) for d in broker.desktops(tx(), holder().user_id, now(), whence())]})


@routes.route("POST", "/me/desktops/<id>/connect", "Open a desktop: a ticket when it is ready, else how far it is.",
              body=Connect, answers={201: READY, 202: WAIT})
def desktop_connect(id: str) -> Response:
    """Ready, starting or queued; a refusal is a decision too, and is kept."""
    given, who = body(Connect), holder()
    protocol = given.protocol or ("spice" if given.client == "native" else None)
    got = broker.connect(
        tx(), user_id=who.user_id, session_id=who.id, desktop_id=read_uuid(id, "desktop"), protocol=protocol,
        client=given.client, now=now(), another=given.another, move=given.move, from_=whence(),
    )
    if got.refusal is not None:
        commit()
        raise got.refusal
    return answer(connect_json(got), 201 if got.state == "ready" else 202)


@routes.route("POST", "/leases/<id>/extend", "Extend your lease by its pool's policy; with `seconds`, anybody's.",
              tag="leases", body=Seconds, answers={200: LEASE, 202: {"type": "object"}})
def lease_extend(id: str) -> Response:
    """The holder's extension, or an administrator's."""
    given, lease_id = body(Seconds), read_uuid(id, "lease")
    if given.seconds is not None:
        return accepted(submit(tx(), ExtendLease(lease_id, given.seconds), actor(), now()))
    user_id = holder().user_id
    try:
        return answer({"lease": lease_json(broker.extend(tx(), user_id=user_id, lease_id=lease_id, now=now()))})
    except Refused as no:
        rollback()
        broker.extension_refused(tx(), user_id=user_id, lease_id=lease_id, why=no.message, now=now())
        commit()
        raise


@routes.route("POST", "/leases/<id>/return", "Give your desktop back, or leave the queue.", tag="leases", answers={200: LEASE})
def lease_return(id: str) -> Response:
    """Done twice, it is done."""
    lease = broker.give_back(tx(), user_id=holder().user_id, lease_id=read_uuid(id, "lease"), now=now())
    return answer({"lease": lease_json(lease)})


def _declare(verb: str) -> None:
    def act(id: str) -> Response:
        given: Any = body(BODIES[verb]) if verb in BODIES else None
        done = broker.act(
            tx(), user_id=holder().user_id, desktop_id=read_uuid(id, "desktop"), verb=verb, now=now(),
            name=getattr(given, "name", ""), snapshot_id=getattr(given, "snapshot_id", None),
        )  # fmt: skip
        if done.refusal is not None:
            commit()
            raise done.refusal
        task = {"id": str(done.task_id), "href": f"{PREFIX}/tasks/{done.task_id}"} if done.task_id is not None else None
        return answer({"sentence": done.sentence, "task": task}, 202)

    known = {"body": BODIES[verb]} if verb in BODIES else {}
    address, endpoint = f"/me/desktops/<id>/{verb}", f"desktop_{verb}"
    routes.route("POST", address, VERBS[verb], endpoint=endpoint, answers={202: {"type": "object"}}, **known)(act)


for _verb in VERBS:
    _declare(_verb)


@routes.route("GET", "/tickets/<id>/viewer", "The viewer file of a native client's ticket: once, for the session that has it.",
              tag="me", answers={200: {"type": "string"}}, media="application/x-virt-viewer",
              query={"full_screen": {"type": "boolean"}})
def ticket_viewer(id: str) -> Response:
    """The .vv text; whoever has it opens the console, so it is told once and kept nowhere."""
    settings = parts().settings
    text = tickets.take_viewer_file(
        tx(), read_uuid(id, "ticket"), session_id=holder().id, keyring=parts().keyring,
        face=face(settings.gateway_public, settings.ca_file, settings.tls_cert_file), now=now(),
        full_screen=request.args.get("full_screen") in ("1", "true"),
    )
    response = make_response(text)
    response.content_type = "application/x-virt-viewer"
    response.headers["Content-Disposition"] = 'attachment; filename="desktop.vv"'
    return response


@lru_cache(maxsize=4)
def face(public: str, ca_file: str, cert_file: str) -> viewer.Face:
    """How people's viewers see the gateway, read from its own certificate."""
    certificate = x509.load_pem_x509_certificate(Path(cert_file).read_bytes())
    pairs = [(a.rfc4514_attribute_name, str(a.value)) for rdn in certificate.subject.rdns for a in rdn]
    authority = ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(Path(ca_file).read_text()))
    return viewer.Face(public, authority, viewer.subject_line(pairs))


def desktop_json(desktop: Desktop) -> dict[str, Any]:
    """An item of the person's list."""
    lease = lease_json(desktop.lease, desktop.extensions_left) if desktop.lease is not None else None
    return {
        "id": str(desktop.id), "name": desktop.name, "kind": desktop.kind, "state": desktop.state,
        "description": desktop.description, "sentence": desktop.sentence, "vm": _vm(desktop.vm_id, desktop.vm_name),
        "lease": lease, "position": desktop.position, "protocols": list(desktop.protocols), "actions": list(desktop.actions),
        "snapshots": [{"id": str(s.id), "name": s.name, "created_at": plain(s.created_at)} for s in desktop.snapshots],
        "blocked": desktop.blocked,
    }


def lease_json(lease: Lease, left: int | None = None) -> dict[str, Any]:
    """A lease in short."""
    if left is None:
        left = extensions_left(tx().get_one(Pool, lease.pool_id), lease)
    return {"id": str(lease.id), "state": lease.state, "ends_at": plain(lease.ends_at), "extensions_left": left,
            "called_until": plain(lease.called_until)}


def connect_json(got: Answer) -> dict[str, Any]:
    """What connect says, with the viewer's address when it can be opened now."""
    told: dict[str, Any] = {
        "state": got.state, "sentence": got.sentence, "vm": _vm(got.vm_id, got.vm_name),
        "lease": lease_json(got.lease, got.extensions_left) if got.lease is not None else None,
    }
    if got.ticket is None:
        href = f"{PREFIX}/leases/{got.lease.id}" if got.lease is not None else None
        task = f"{PREFIX}/tasks/{got.task_id}" if got.task_id is not None else None
        return told | {"position": got.position, "estimate_s": got.estimate_s, "progress": got.progress, "message": got.message,
                       "href": href or task}
    ticket, public = got.ticket, parts().settings.gateway_public
    if ticket.client == "native":
        shown: dict[str, Any] = {"type": "vv", "url": f"{parts().settings.public_url}{PREFIX}/tickets/{ticket.id}/viewer",
                                 "file": "desktop.vv"}
    else:
        in_a_page = viewer.spice_web if ticket.protocol == "spice" else viewer.novnc
        shown = in_a_page(public, tickets.token(parts().keyring, ticket))
    return told | {"protocol": got.protocol, "ticket": {"id": str(ticket.id), "expires_at": plain(ticket.expires_at)},
                   "viewer": shown}


def _vm(id: Any, name: str) -> dict[str, str] | None:
    return {"id": str(id), "name": name} if id is not None else None
