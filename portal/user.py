"""Pages for people: sign in, my desktops, connect, the console, my account."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request, session, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as Answer

from backend.directory import internal, sessions, tokens
from backend.directory.models import Directory, User, WebSession
from backend.directory.names import INTERNAL
from backend.errors import Invalid, NotFound, Refused
from broker import bookings
from broker import connect as broker
from portal import api_desktops, api_hosts, auth, desktops, devices, views
from portal.api_tokens import NewToken, make
from portal.auth import actor, aside, person
from portal.collections import listed
from portal.desktops import Card
from portal.errors import is_partial
from portal.explain import explanation
from portal.routes import read_uuid
from portal.transaction import commit, rollback, tx
from portal.views import now, say

pages = Blueprint("user", __name__)
ROLE_WORDS = {  # what a token may be held to
    "user": "Use my desktops", "pool_admin": "Run pools", "auditor": "Look at everything", "system_admin": "Run the place",
}


# ---- sign in and out -------------------------------------------------------------------------------
@pages.get("/sign-in")
def login() -> Answer | str:
    """The sign-in page; who is signed in already goes to their desktops, which launches nothing."""
    if current_user.is_authenticated:
        return redirect(_next() or url_for("user.desktops"), 303)
    return _login_page()


@pages.post("/sign-in")
def sign_in() -> Answer:
    """Check name and password; the answer leads to the desktops, or straight into the only one when it launches itself."""
    name = request.form.get("user", "").strip()
    try:
        signed = auth.sign_in(typed_name(), request.form.get("password", ""), client="browser", device=devices.by_cookie())
    except Refused as no:
        rollback()
        wrong = no.status == 401
        return make_response(_login_page(no.message, "danger" if wrong else "warning", name, wrong), no.status)
    address = _next() or launched(signed.facts, "user.console") or url_for("user.desktops")
    answer = redirect(address, 303)
    auth.remember(answer, signed)  # type: ignore[arg-type]
    return answer


def typed_name() -> str:
    """Who the form says signs in: the name with the chosen domain, unless it says its own."""
    name, domain = request.form.get("user", "").strip(), request.form.get("directory", "")
    return name if not domain or domain == INTERNAL or "@" in name or "\\" in name else f"{name}@{domain}"


def domains() -> Sequence[Any]:
    """The domains to sign in with, by name, and what is wrong with each."""
    columns = sa.select(Directory.name, Directory.trouble)
    return tx().execute(columns.order_by(Directory.name != INTERNAL, Directory.name)).all()


def chosen_domain(rows: Sequence[Any]) -> str:
    """The domain that was chosen, else the first that is not our own."""
    return request.form.get("directory") or next((row.name for row in rows if row.name != INTERNAL), INTERNAL)


def launched(facts: Any, endpoint: str) -> str | None:
    """The page (at `endpoint`) of the desktop that this person is taken to at once: it is theirs when the page comes."""
    desktop_id = broker.auto_launch(tx(), facts, now(), request.remote_addr or "")
    if desktop_id is None:
        return None
    answer = desktops.take(tx(), facts, desktop_id, now())
    if answer.refusal is not None:
        say(answer.refusal.message, "danger")
        return None
    return url_for(endpoint, id=desktop_id)


@pages.post("/sign-out")
def sign_out() -> Answer:
    """End this session."""
    return _signed_out(lambda: auth.sign_out(), "You are signed out. Your desktops go on until their time is over.")


@pages.post("/sign-out-everywhere")
def sign_out_everywhere() -> Answer:
    """End all sessions of the person, on every device."""
    return _signed_out(lambda: sessions.end_all(tx(), person().user_id, now()), "You are signed out everywhere.")


def _signed_out(end: object, sentence: str) -> Answer:
    assert callable(end)
    end()
    session.clear()
    g.pop("csrf_token", None)
    say(sentence, "info")
    answer = redirect(url_for("user.login"), 303)
    auth.forget(answer)  # type: ignore[arg-type]
    return answer


def _next() -> str | None:
    """Where the person wanted to go before they had to sign in: only ever a page of ours."""
    return auth.own_address(request.values.get("next", ""))


def _login_page(sentence: str = "", severity: str = "info", name: str = "", wrong: bool = False) -> str:
    rows = domains()
    several = len(rows) > 1
    return render_template(
        "login.html",
        sentence=sentence,
        severity=severity,
        name=name,
        wrong=wrong,
        next=_next(),
        domains=[row.name for row in rows],
        chosen=chosen_domain(rows),
        hint="alice, alice@corp.example or CORP\\alice" if several else "",
        silent=[r for r in rows if r.trouble],
    )


# ---- my desktops ------------------------------------------------------------------------------------
@pages.get("/")
def desktops_page() -> str:
    """Everything the person may use, as cards; asked by the page itself, the cards alone."""
    cards, booked = desktops.cards(tx(), person().user_id, now()), bookings.mine(tx(), person().user_id, now(), soon=True)
    template = "user/cards.html" if is_partial() else "user/desktops.html"
    return render_template(template, desktops=cards, booked=booked, area="user")


@pages.post("/desktops/<uuid:id>/connect")
def connect(id: UUID) -> Answer:
    """Take the desktop or a place in its queue, then go to its page, which opens the console when it is ready."""
    protocol = request.form.get("protocol")
    try:
        answer = desktops.take(tx(), person(), id, now(), protocol)
    except Refused as no:
        return _refused(no)
    if answer.refusal is not None:  # its decision is kept, so the transaction is committed
        say(answer.refusal.message, "danger")
        return redirect(url_for("user.desktops"), 303)
    return redirect(url_for("user.console", id=id, protocol=protocol), 303)


@pages.get("/desktops/<uuid:id>")
def console(id: UUID) -> str:
    """The desktop's page: waits, then shows the console. Takes nothing by itself: reload and Back are harmless."""
    card = _card(id)
    waiting = desktops.waiting(tx(), person(), card, now())
    return render_template(
        "user/console.html",
        desktop=card,
        wait=waiting,
        live=waiting.state in ("queued", "starting", "ready"),
        suffix="",
        connect_url=f"/api/v1/me/desktops/{id}/connect",
    )


@pages.get("/desktops/<uuid:id>/progress")
def progress(id: UUID) -> str:
    """How far the desktop is, for its page."""
    card = _card(id)
    return render_template("user/progress.html", desktop=card, wait=desktops.waiting(tx(), person(), card, now()))


@pages.get("/desktops/<uuid:id>/lease")
def lease_bar(id: UUID) -> str:
    """How much time is left, for the console's bar."""
    return render_template("user/lease_bar.html", desktop=_card(id), sentence="")


VERBS = ", ".join((*api_desktops.VERBS, "extend", "give_back", "leave"))


@pages.post(f"/desktops/<uuid:id>/<any({VERBS}):verb>")
def act(id: UUID, verb: str) -> Answer | str:
    """What the card's and the console's buttons do."""
    card = _card(id)
    try:
        chosen = request.form.get("snapshot_id")
        snapshot_id = read_uuid(chosen, "snapshot") if chosen else None
        sentence = desktops.act(tx(), person(), card, verb, now(), request.form.get("name", ""), snapshot_id)
    except Refused as no:
        if not is_partial():
            return _refused(no)
        rollback()
        return render_template("user/lease_bar.html", desktop=_card(id), sentence=no.message)
    if is_partial():
        return render_template("user/lease_bar.html", desktop=_card(id), sentence=sentence)
    say(sentence)
    return redirect(url_for("user.desktops"), 303)


@pages.get("/leases/<uuid:id>/why")
def why(id: UUID) -> str:
    """Why the person's lease is as it is."""
    return render_template("user/why.html", why=explanation(id), area="user")


@pages.post("/desktops/<uuid:id>/viewer")
def viewer_file(id: UUID) -> Answer:
    """A file for remote-viewer that opens the console once; or, while the desktop starts, its page."""
    try:
        text = desktops.viewer_file(tx(), person(), id, now())
    except Refused as no:
        return _refused(no)
    if text is None:
        say("The desktop is not ready yet: open the viewer again when it is.", "info")
        return redirect(url_for("user.console", id=id), 303)
    answer = Response(text, content_type="application/x-virt-viewer")
    answer.headers["Content-Disposition"] = 'attachment; filename="desktop.vv"'
    return answer


@pages.get("/screens/<uuid:vm_id>")
def screen(vm_id: UUID) -> Answer:
    """The small picture of a VM's screen; nothing yet is no error for a page that asks again."""
    picture = api_hosts.vm_screen(str(vm_id))
    return Response(status=204) if picture.status_code == 404 else picture


def _card(id: UUID) -> Card:
    return desktops.card(tx(), person().user_id, id, now())


def _refused(no: Refused) -> Answer:
    """Back to the desktops, with the sentence."""
    rollback()
    say(no.message, "danger")
    return redirect(url_for("user.desktops"), 303)


# ---- my account ---------------------------------------------------------------------------------------
@pages.get("/account")
def account() -> str:
    """Who am I, where am I signed in, and my password when it is kept here."""
    return _account_page({})


@pages.post("/account/sessions/<uuid:id>/end")
def end_session(id: UUID) -> Answer:
    """End one of the person's own sessions."""
    if id not in {each.id for each in sessions.live(tx(), now(), person().user_id)}:
        raise NotFound("not_found", "This session is over already.", kind="session", id=str(id))
    sessions.end(tx(), id, now())
    say("That session has ended.")
    return redirect(url_for("user.account"), 303)


@pages.post("/account/password")
def change_password() -> Answer:
    """A new password for an internal user; their other sessions end."""
    me, form = person(), request.form
    old, new = form.get("old", ""), form.get("new", "")
    kept = tx().scalar(sa.select(User.password_hash).where(User.id == me.user_id))
    commit()
    if new != form.get("again", ""):
        return make_response(_account_page({"again": "The two new passwords are not the same."}), 422)
    if not aside(lambda: internal.verify(kept, old)):
        return make_response(_account_page({"old": "This is not your password."}), 422)
    try:
        hashed = aside(lambda: internal.hash_password(new, me.user_name))
    except Invalid as no:
        return make_response(_account_page({"new": no.message}), 422)
    internal.set_password(tx(), me.user_id, hashed, actor(), now(), keep=me.id)
    say("Your password is changed.")
    return redirect(url_for("user.account"), 303)


@pages.post("/account/tokens")
def create_token() -> Answer:
    """A new API token, shown once: in the answer itself, which nobody keeps."""
    form = request.form
    held_to = form.get("may", "all")
    try:
        given = NewToken(
            name=form.get("token_name", ""), days=int(form.get("days", "90")), read_only=held_to == "read",
            roles=(held_to,) if held_to not in ("all", "read") else None,
        )
        _, text, ends = make(given)
    except ValueError:
        return make_response(_account_page({"days": "Choose for how long."}), 422)
    except Refused as no:
        rollback()
        field = {"name": "token_name"}.get((no.facts.get("fields") or ["name"])[0], "token_name")
        return make_response(_account_page({field: no.message}), 422)
    return make_response(_account_page({}, fresh={"name": given.name.strip(), "text": text, "ends": ends}))


@pages.post("/account/tokens/<uuid:id>/revoke")
def revoke_token(id: UUID) -> Answer:
    """Make one of the person's own tokens worth nothing."""
    tokens.revoke(tx(), id, actor(), now())
    say("The token is revoked.")
    return redirect(url_for("user.account"), 303)


def _account_page(wrong: dict[str, str], fresh: dict[str, Any] | None = None) -> str:
    me = person()
    mine = sa.and_(WebSession.user_id == me.user_id, WebSession.ended_at.is_(None), WebSession.expires_at > now())
    held = {g.role for g in views.grants()}
    return render_template(
        "user/account.html",
        api_tokens=listed(tx(), "tokens", max=tokens.MOST, where=mine).items,
        fresh=fresh,
        role_words=ROLE_WORDS,
        role_options=[(role, f"{words}, no more") for role, words in ROLE_WORDS.items() if role in held],
        sessions=sessions.live(tx(), now(), me.user_id),
        internal="@" not in me.user_name,
        wrong=wrong,
        shortest=internal.SHORTEST,
        area="account",
    )


pages.add_url_rule("/", endpoint="desktops", view_func=desktops_page)


def install(app: Flask) -> None:
    """Register the pages, and what all pages share."""
    views.install(app)
    app.register_blueprint(pages)
