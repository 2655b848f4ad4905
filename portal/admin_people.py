"""Pages of the administration that are more than a command's form: entitle, give roles, directories, users, add a host."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from backend.directory import internal
from backend.directory.commands import AddDirectory, CreateUser, TakeRole
from backend.directory.models import Permission
from backend.directory.names import INTERNAL
from backend.directory.rights import path_of
from backend.directory.rules import OBJECT_TYPES, ROLES
from backend.errors import Impossible, Invalid, Refused
from backend.hosts.commands import AddHost, new_token
from backend.hosts.joining import ReinstallHost
from backend.search.query import MOST, page
from backend.tasks.submit import submit
from pools.models import OPEN, Rollout
from portal import directories, views
from portal.api_directories import Grant, grant
from portal.api_hosts import enroll_command, may_look
from portal.auth import actor, aside
from portal.collections import COLLECTIONS, found, listed, viewer
from portal.explain import explanation
from portal.obstacles import obstacle_of
from portal.parts import parts
from portal.routes import read_uuid
from portal.thing import Thing
from portal.things import THINGS
from portal.transaction import commit, rollback, tx
from portal.views import may_anywhere, now, say

pages = Blueprint("people", __name__, url_prefix="/admin")
ROLE_WORDS = {
    "user": "User: may use it as a desktop",
    "pool_admin": "Pool administrator: runs pools, members, leases and entitlements",
    "auditor": "Auditor: sees everything, changes nothing",
    "system_admin": "System administrator: runs the place",
}


def beside(thing: Thing, row: dict[str, Any]) -> dict[str, Any]:
    """What a detail page shows besides facts and parts."""
    if thing.kind == "pool":
        id = UUID(row["id"])
        whose = sa.and_(Permission.object_type == "pool", Permission.object_id == id, Permission.role == "user")
        # who runs a pool sees its entitlements, though not everybody's permissions everywhere
        kind = replace(COLLECTIONS["permissions"], visible=lambda _: whose)
        under_way = listed(tx(), "rollouts", where=sa.and_(Rollout.pool_id == id, sa.text(OPEN)), max=1).items
        return {
            "entitled": page(tx(), kind, viewer(tx()), max=MOST),
            "may_entitle": views.may_on("pool.entitle", "pool", id),
            "rollout": under_way[0] if under_way else None,
            "obstacle": obstacle_of(row["id"]),
        }
    if thing.kind == "lease":
        return {"why": explanation(UUID(row["id"]))}
    if thing.kind == "rollout":
        return {"rollout": row}
    if thing.kind == "directory":
        return {"may_test": row["type"] == "ad" and may_anywhere("directory.edit")}
    if thing.kind == "user":
        return {"may_set_password": row["directory"] == INTERNAL and may_anywhere("user.edit")}
    if thing.kind == "vm":
        path = path_of(tx(), "vm", UUID(row["id"]))
        runs = row["state"] in ("up", "paused", "powering_down", "reboot_in_progress")
        running = runs and may_look(views.grants(), path, now())
        return {
            "screen": url_for("user.screen", vm_id=row["id"]) if running else None,
            "console": views.may_on("desktop.use", "vm", UUID(row["id"])) and row["pool_id"] is None,
        }
    return {}


# ---- find people, entitle them, give them roles ---------------------------------------------------------------
@pages.get("/find")
def find() -> Answer | str:
    """People and groups of a directory whose name begins with the text, to choose one from."""
    text, wanted = request.args.get("text", "").strip()[:200], request.args.get("directory", "")
    rows = _directories()
    chosen = next((d for d in rows if d["id"] == wanted), rows[0] if rows else None)
    error, got = "", []
    if chosen and text:
        try:
            got = directories.search(UUID(chosen["id"]), text)
        except Refused as no:
            rollback()
            error = no.message
    return render_template(
        "admin/found.html", found=got, text=text, error=error, directory=chosen, is_internal=chosen and chosen["type"] == INTERNAL
    )


def _directories() -> list[dict[str, Any]]:
    return sorted(listed(tx(), "directories", max=MOST).items, key=lambda d: d["type"] != "ad")


@pages.route("/pools/<uuid:id>/entitle", methods=["GET", "POST"])
def entitle(id: UUID) -> Answer | str:
    """Give a pool to a person or group found in a directory, always or for a period."""
    pool = found(tx(), "pools", str(id))
    return _give(
        "admin/entitle.html",
        {"role": "user", "object_type": "pool", "object_id": id},
        url_for("admin.detail", plural="pools", id=id),
        pool=pool,
        thing=THINGS["pools"],
    )


@pages.post("/pools/<uuid:id>/entitlements/<uuid:permission_id>/take")
def disentitle(id: UUID, permission_id: UUID) -> Answer:
    """Take an entitlement back; a desktop that is held already is kept until it is returned."""
    submit(tx(), TakeRole(permission_id), actor(), now())
    say("The entitlement is taken back. A desktop that is held already stays until it is returned or taken back.")
    return redirect(url_for("admin.detail", plural="pools", id=id), 303)


@pages.route("/do/permission.grant", methods=["GET", "POST"])
def give_role() -> Answer | str:
    """Give a role on the system or on one thing."""
    kind, _, id = request.values.get("on", "system:").partition(":")
    fields = {"role": request.form.get("role", "user"), "object_type": kind, "object_id": read_uuid(id, kind) if id else None}
    return _give(
        "admin/role.html",
        fields,
        url_for("admin.table", plural="permissions"),
        thing=THINGS["permissions"],
        roles=ROLES,
        role_words=ROLE_WORDS,
        objects=_objects(),
        on=request.values.get("on", "system:"),
    )


def _objects() -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything a role can be given on, by kind."""
    groups: list[tuple[str, list[tuple[str, str]]]] = [("Everything", [("system:", "The whole system")])]
    for kind in OBJECT_TYPES:
        thing = next((t for t in THINGS.values() if t.kind == kind), None)
        if thing is not None and views.may_see(kind):
            rows = listed(tx(), thing.plural, max=200).items
            if rows:
                groups.append((thing.title, [(f"{kind}:{row['id']}", row["name"]) for row in rows]))
    return groups


def _give(template: str, fields: dict[str, Any], done: str, **context: Any) -> Answer | str:
    """The page on which somebody is found and given something, and what its form does."""
    error, status = "", 200
    if request.method == "POST":
        try:
            kind, _, who = request.form.get("who", "").partition(":")
            if not who:
                raise Invalid("no_principal", "Look for a person or group, and choose one.")
            task = grant(
                Grant(
                    **fields, **_principal(kind, who), valid_from=_date("valid_from"), valid_until=_date("valid_until", end=True),
                    calendar_id=_chosen("calendar_id", "calendar"), priority=_whole("priority"),
                )
            )
            say(f"{task.title}: done.")
            return redirect(done, 303)
        except Refused as no:
            rollback()
            error, status = no.message, 422
    given = request.values
    calendars = [(row["id"], row["name"]) for row in listed(tx(), "calendars", max=MOST).items]
    context["calendars"] = calendars
    return make_response(render_template(template, error=error, directories=_directories(), given=given, **context), status)


def _principal(kind: str, who: str) -> dict[str, Any]:
    directory = request.form.get("directory", "")
    row = found(tx(), "directories", directory)
    if row["type"] == INTERNAL:
        return {f"{kind}_id": read_uuid(who, kind)} if kind in ("user", "group") else {}
    return {"directory_id": UUID(directory), "kind": kind, "external_id": who}


def _chosen(name: str, kind: str) -> UUID | None:
    text = request.form.get(name, "")
    return read_uuid(text, kind) if text else None


def _whole(name: str) -> int:
    text = request.form.get(name, "").strip() or "0"
    try:
        return int(text)
    except ValueError:
        raise Invalid("bad_number", "Write the priority as a whole number; left open it is 0.", fields=[name]) from None


def _date(name: str, *, end: bool = False) -> datetime | None:
    text = request.form.get(name, "").strip()
    if not text:
        return None
    try:
        return datetime.fromisoformat(
            text + "+00:00" if "T" in text else text + ("T23:59:59+00:00" if end else "T00:00:00+00:00")
        )
    except ValueError:
        raise Invalid("bad_time", "Write the day as year-month-day, as in 2026-11-23.", fields=[name]) from None


# ---- a host's one-time token ------------------------------------------------------------------------------------
@pages.route("/do/host.create", methods=["GET", "POST"])
def add_host() -> Answer | str:
    """Announce a host; the answer shows, once, what to run on it."""
    clusters, error = listed(tx(), "clusters", max=MOST).items, ""
    name = request.form.get("host_name", "").strip()
    if request.method == "POST":
        try:
            token, digest = new_token()
            task = submit(tx(), AddHost(name, UUID(request.form.get("cluster_id", "")), digest), actor(), now())
            assert task.result is not None
            return render_template(
                "admin/enroll.html", name=name, id=task.result["id"], command=enroll_command(token), thing=THINGS["hosts"]
            )
        except ValueError:
            error = "Choose the cluster."
        except Refused as no:
            rollback()
            error = no.message
    return make_response(
        render_template("admin/host.html", clusters=clusters, name=name, error=error, thing=THINGS["hosts"]),
        422 if error else 200,
    )


@pages.route("/do/host.reinstall", methods=["GET", "POST"])
def reinstall_host() -> Answer | str:
    """Let a host enroll anew; the answer shows, once, what to run on it."""
    id = read_uuid(request.values.get("host_id", ""), "host")
    host = found(tx(), "hosts", str(id))
    if request.method == "GET":
        return render_template("admin/reinstall.html", host=host, thing=THINGS["hosts"])
    token, digest = new_token()
    submit(tx(), ReinstallHost(id, digest), actor(), now())
    return render_template("admin/enroll.html", name=host["name"], id=id, command=enroll_command(token), thing=THINGS["hosts"])


# ---- users ---------------------------------------------------------------------------------------------------------
@pages.route("/do/user.create", methods=["GET", "POST"])
def create_user() -> Answer | str:
    """An internal user with a first password."""
    wrong: dict[str, str] = {}
    form = request.form
    if request.method == "POST":
        try:
            password, name = form.get("password", ""), form.get("user_name", "").strip().lower()
            commit()
            hashed = aside(lambda: internal.hash_password(password, name))
            command = CreateUser(name, form.get("display_name", "").strip(), form.get("email", "").strip(), "auto_launch" in form)
            task = submit(tx(), command, actor(), now())
            assert task.result is not None
            internal.set_password(tx(), UUID(task.result["id"]), hashed, actor(), now())
            say(f"{name} can sign in now.")
            return redirect(url_for("admin.detail", plural="users", id=task.result["id"]), 303)
        except Refused as no:
            rollback()
            wrong = dict.fromkeys(no.facts.get("fields") or ["form"], no.message)
    return make_response(
        render_template("admin/user.html", wrong=wrong, given=form, thing=THINGS["users"]), 422 if wrong else 200
    )


@pages.post("/users/<uuid:id>/password")
def set_password(id: UUID) -> Answer:
    """A new password for an internal user, who is signed out everywhere."""
    row = found(tx(), "users", str(id))
    password = request.form.get("password", "")
    try:
        commit()
        hashed = aside(lambda: internal.hash_password(password, row["name"]))
        internal.set_password(tx(), id, hashed, actor(), now())
        say(f"The password of {row['full_name']} is set; they are signed out everywhere.")
    except Refused as no:
        rollback()
        say(no.message, "danger")
    return redirect(url_for("admin.detail", plural="users", id=id), 303)


# ---- directories ---------------------------------------------------------------------------------------------------
@pages.route("/do/directory.add", methods=["GET", "POST"])
def add_directory() -> Answer | str:
    """Try an Active Directory domain, show what was found, and add it."""
    directories.require_edit()
    wrong: dict[str, str] = {}
    report = None
    if request.method == "POST":
        try:
            command = _domain(request.form)
            command.check(tx())
            report = directories.try_out(
                {
                    "name": command.directory_name,
                    "servers": command.servers,
                    "starttls": command.starttls,
                    "base_dn": command.base_dn,
                    "bind_user": command.bind_user,
                    "bind_password_sealed": command.bind_password_sealed,
                    "ca_pem": command.ca_pem,
                    "system_ca": command.system_ca,
                }
            )
            if "add" in request.form:
                if not report.bind_ok:
                    raise Impossible("directory_silent", report.bind_why or "The domain does not answer; see below.")
                task = submit(tx(), directories.completed(command, report), actor(), now())
                assert task.result is not None
                say(f"People of {command.directory_name} can sign in now.")
                return redirect(url_for("admin.detail", plural="directories", id=task.result["id"]), 303)
        except Refused as no:
            rollback()
            wrong = dict.fromkeys(no.facts.get("fields") or ["form"], no.message)
    page = render_template("admin/directory.html", wrong=wrong, given=request.form, report=report, thing=THINGS["directories"])
    return make_response(page, 422 if wrong else 200)


def _domain(form: Any) -> AddDirectory:
    servers = tuple(s for s in form.get("servers", "").replace(",", " ").split() if s)
    password = form.get("bind_password", "")
    sealed = parts().keyring.seal(password) if password else ""
    return AddDirectory(
        form.get("directory_name", "").strip().lower(),
        servers,
        form.get("bind_user", "").strip(),
        sealed,
        form.get("ca_pem", "").strip(),
        "starttls" in form,
        "system_ca" in form,
        form.get("base_dn", "").strip(),
    )


@pages.post("/directories/<uuid:id>/test")
def test_directory(id: UUID) -> Answer | str:
    """Ask every controller of a directory that is there already, and show what was found."""
    row = found(tx(), "directories", str(id))
    try:
        report = directories.test(id)
    except Refused as no:
        rollback()
        say(no.message, "danger")
        return redirect(url_for("admin.detail", plural="directories", id=id), 303)
    return render_template("admin/report.html", row=row, report=report, thing=THINGS["directories"])
