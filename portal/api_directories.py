"""REST: directories, the people in them, and what may need a word with a domain controller or a password."""

from __future__ import annotations

from uuid import UUID

import msgspec
from flask import Response, request

from backend.directory import internal
from backend.directory.commands import AddDirectory, CreateUser, EditDirectory, GrantRole, ImportPrincipal
from backend.directory.models import User
from backend.errors import Impossible
from backend.tasks.models import Task
from backend.tasks.submit import submit
from portal import directories
from portal.api_commands import TASK
from portal.auth import actor, aside, in_person
from portal.parts import parts
from portal.routes import Moment, Routes, accepted, answer, body, now, plain, read_uuid
from portal.transaction import commit, tx

routes = Routes("directories")

FOUND = {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "object", "properties": {
    n: {"type": "string"} for n in ("kind", "external_id", "name", "dn", "display_name", "email")}}}}}
REPORT = {"type": "object", "properties": {"ok": {"type": "boolean"}, "controllers": {"type": "array"},
                                           "bind_ok": {"type": "boolean"}, "bind_why": {"type": "string"}}}


class Domain(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An Active Directory domain and the account with which Leasehold reads it."""

    name: str
    servers: tuple[str, ...]
    bind_user: str
    bind_password: str
    ca_pem: str = ""
    starttls: bool = False
    system_ca: bool = False
    base_dn: str = ""


class DomainChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is to change; what is left out stays."""

    servers: tuple[str, ...] | None = None
    bind_user: str | None = None
    bind_password: str | None = None
    ca_pem: str | None = None
    starttls: bool | None = None
    system_ca: bool | None = None
    base_dn: str | None = None


class NewUser(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An internal user; without a password nobody can sign in as them yet."""

    name: str
    display_name: str = ""
    email: str = ""
    auto_launch: bool = False
    password: str | None = None


class Password(msgspec.Struct, forbid_unknown_fields=True):
    """A new password; who changes their own says the old one too."""

    password: str
    old_password: str | None = None


class Principal(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A person or group of a domain, by SID."""

    kind: str
    external_id: str


class Grant(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A role on an object for a user or group known here, or for one of a domain by SID."""

    role: str
    object_type: str
    object_id: UUID | None = None
    user_id: UUID | None = None
    group_id: UUID | None = None
    directory_id: UUID | None = None
    kind: str = "user"
    external_id: str | None = None
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    calendar_id: UUID | None = None
    priority: int = 0


@routes.route("GET", "/directories/<id>/search", "People and groups whose name begins with the text.",
              query={"text": {"type": "string"}}, answers={200: FOUND})
def directory_search(id: str) -> Response:
    """What the directory itself finds."""
    found = directories.search(read_uuid(id, "directory"), request.args.get("text", "")[:200])
    return answer({"items": plain(found)})


@routes.route("POST", "/directories/<id>/test", "Try every domain controller and the service account.", answers={200: REPORT})
def directory_test(id: str) -> Response:
    """What was found, controller by controller."""
    report = directories.test(read_uuid(id, "directory"))
    return answer(plain(report) | {"ok": report.ok})


@routes.route("POST", "/directories", "Let people of an Active Directory domain sign in. It is asked first what it is called.",
              body=Domain, answers={202: TASK})
def directory_add() -> Response:
    """The domain, with what it says of itself; refused with its own words when it cannot be read."""
    directories.require_edit()
    given = body(Domain)
    command = AddDirectory(
        given.name.strip().lower(), given.servers, given.bind_user, parts().keyring.seal(given.bind_password), given.ca_pem,
        given.starttls, given.system_ca, given.base_dn,
    )
    command.check(tx())
    report = directories.try_out({
        "name": command.directory_name, "servers": command.servers, "starttls": command.starttls, "base_dn": command.base_dn,
        "bind_user": command.bind_user, "bind_password_sealed": command.bind_password_sealed, "ca_pem": command.ca_pem,
        "system_ca": command.system_ca,
    })
    if not report.bind_ok:
        raise Impossible("directory_silent", report.bind_why or "The domain does not answer.", report=plain(report))
    return accepted(submit(tx(), directories.completed(command, report), actor(), now()))


@routes.route("POST", "/directories/<id>/edit", "Change how a domain is reached.", body=DomainChange, answers={202: TASK})
def directory_edit(id: str) -> Response:
    """What is left out stays as it is."""
    given = body(DomainChange)
    sealed = parts().keyring.seal(given.bind_password) if given.bind_password is not None else None
    command = EditDirectory(
        read_uuid(id, "directory"), given.servers, given.bind_user, sealed, given.ca_pem, given.starttls, given.system_ca,
        given.base_dn,
    )
    return accepted(submit(tx(), command, actor(), now()))


@routes.route("POST", "/directories/<id>/import", "Make a person or group of a domain known here.", body=Principal,
              answers={202: TASK})
def directory_import(id: str) -> Response:
    """Known before their first sign-in, so that they can be entitled."""
    directory_id, given = read_uuid(id, "directory"), body(Principal)
    found = directories.lookup(directory_id, given.kind, given.external_id)
    return accepted(submit(tx(), ImportPrincipal(directory_id, found), actor(), now()))


@routes.route("POST", "/users", "Make an internal user.", tag="users", body=NewUser, answers={202: TASK})
def user_create() -> Response:
    """The user and their password, in one transaction."""
    given = body(NewUser)
    hashed = None
    if given.password is not None:
        password = given.password
        commit()
        hashed = aside(lambda: internal.hash_password(password, given.name))
    task = submit(tx(), CreateUser(given.name, given.display_name, given.email, given.auto_launch), actor(), now())
    if hashed is not None:
        assert task.result is not None
        internal.set_password(tx(), UUID(task.result["id"]), hashed, actor(), now())
    return accepted(task)


@routes.route("POST", "/users/<id>/password", "Set an internal user's password; their other sessions end.", tag="users",
              body=Password, answers={204: None})
def user_password(id: str) -> tuple[str, int]:
    """Who changes their own says the old one too; an administrator need not."""
    user_id, given, who = read_uuid(id, "user"), body(Password), in_person()
    mine = user_id == who.user_id
    user = tx().get(User, user_id)
    old, name = (user.password_hash, user.name) if user else (None, "")
    commit()
    if mine and not aside(lambda: internal.verify(old, given.old_password or "")):
        raise Impossible("wrong_password", "The old password is wrong.", fields=["old_password"])
    hashed = aside(lambda: internal.hash_password(given.password, name))
    internal.set_password(tx(), user_id, hashed, actor(), now(), keep=who.id)
    return "", 204


@routes.route("POST", "/permissions", "Give a role on an object to a user or a group.", tag="permissions", body=Grant,
              answers={202: TASK})
def permission_grant() -> Response:
    """A role for somebody known here, or for somebody of a domain who need not be yet."""
    return accepted(grant(body(Grant)))


def grant(given: Grant) -> Task:
    """The task that gave the role."""
    found = None
    if given.external_id is not None and given.directory_id is not None:
        found = directories.lookup(given.directory_id, given.kind, given.external_id)
    command = GrantRole(
        given.role, given.object_type, given.object_id, given.user_id, given.group_id,
        given.directory_id if found else None, found, given.valid_from, given.valid_until,
        given.calendar_id, given.priority,
    )
    return submit(tx(), command, actor(), now())


