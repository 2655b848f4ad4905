"""The page of thin clients: enroll, sign in, straight to a desktop, and back to the sign-in prompt with nothing left."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Flask, Response, g, make_response, redirect, render_template, request, session, url_for
from flask_login import current_user
from werkzeug.wrappers import Response as Answer

from backend.devices.enrolling import DeviceFacts
from backend.errors import NotFound, Refused
from portal import api_devices, auth, desktops, devices, user
from portal.auth import person
from portal.errors import is_partial, reload
from portal.transaction import rollback, tx
from portal.views import now, say

pages = Blueprint("kiosk", __name__, url_prefix="/kiosk")
OPEN = frozenset({"kiosk.home", "kiosk.enroll", "kiosk.redeem", "kiosk.pulse"})  # asked before the device is enrolled
BEFORE = OPEN | {"kiosk.sign_in"}  # … and before anybody is signed in at it
ENDS = {
    "over": "Your time at the desktop is over, and you are signed out.",
    "idle": "Nobody was there for a while, so you were signed out. Your desktop goes on until its time is over.",
    "back": "Your desktop is given back, and you are signed out.",
}
SIGNED_OUT = "You are signed out. Your desktop goes on until its time is over."


def device() -> DeviceFacts | None:
    """The enrolled device of this request, looked up once."""
    if "device" not in g:
        g.device = devices.by_cookie()
    return g.device  # type: ignore[no-any-return]


def _here() -> bool:
    """Whether somebody is signed in, and at this very device."""
    mine = device()
    return mine is not None and current_user.is_authenticated and person().device_id == mine.id


@pages.before_request
def stand() -> Answer | None:
    """Who is not where they should be is led there: to the code, or to the sign-in prompt."""
    if request.endpoint in OPEN:
        return None
    if is_partial() and not _here():
        return reload()
    if device() is None:
        return redirect(url_for("kiosk.enroll"), 303)
    return None if request.endpoint in BEFORE or _here() else redirect(url_for("kiosk.home"), 303)


# ---- enroll ------------------------------------------------------------------------------------------
@pages.get("/enroll")
def enroll() -> Answer | str:
    """Where the one-time code is typed."""
    return redirect(url_for("kiosk.home"), 303) if device() else render_template("kiosk/enroll.html", wrong="", code="")


@pages.post("/enroll")
def redeem() -> Answer:
    """The code for a token, which the browser keeps out of reach of scripts."""
    code = request.form.get("code", "")
    try:
        made, token = api_devices.redeem(code)
    except Refused as no:
        rollback()
        return make_response(render_template("kiosk/enroll.html", wrong=no.message, code=code), no.status)
    say(f"This is {made.name} now.")
    answer = redirect(url_for("kiosk.home"), 303)
    devices.remember(answer, token)  # type: ignore[arg-type]
    return answer


# ---- sign in and out -----------------------------------------------------------------------------------
@pages.get("")
def home() -> Answer | str:
    """The sign-in prompt; who is signed in here goes on to their desktops."""
    if device() is None:
        return redirect(url_for("kiosk.enroll"), 303)
    if _here():
        return redirect(url_for("kiosk.list_desktops"), 303)
    answer = make_response(_prompt())
    devices.remember(answer, request.cookies[devices.COOKIE])
    return answer


@pages.get("/pulse")
def pulse() -> Answer:
    """Whether this is still an enrolled device: the waiting prompt asks, which also tells that the device lives."""
    return Response(status=204 if device() else 403)


@pages.post("/sign-in")
def sign_in() -> Answer:
    """Check name and password; the answer leads straight to the desktop, or to the few there are."""
    name = request.form.get("user", "").strip()
    try:
        signed = auth.sign_in(user.typed_name(), request.form.get("password", ""), client="browser", device=device())
    except Refused as no:
        rollback()
        return make_response(_prompt(no.message, name, no.status == 401), no.status)
    answer = redirect(user.launched(signed.facts, "kiosk.console") or url_for("kiosk.list_desktops"), 303)
    auth.remember(answer, signed)  # type: ignore[arg-type]
    return answer


@pages.post("/sign-out")
def sign_out() -> Answer:
    """End the session, and have the browser forget what pages kept."""
    return _out(ENDS.get(request.form.get("why", ""), SIGNED_OUT))


def _out(sentence: str) -> Answer:
    auth.sign_out()
    session.clear()
    g.pop("csrf_token", None)
    say(sentence, "info")
    answer = redirect(url_for("kiosk.home"), 303)
    auth.forget(answer)  # type: ignore[arg-type]
    answer.headers["Clear-Site-Data"] = '"storage"'
    return answer


def _prompt(sentence: str = "", name: str = "", wrong: bool = False) -> str:
    domains = user.domains()
    return render_template(
        "kiosk/home.html", device=device(), sentence=sentence, name=name, wrong=wrong, domains=[d.name for d in domains],
        chosen=user.chosen_domain(domains), silent=[d for d in domains if d.trouble],
    )  # fmt: skip


# ---- desktops --------------------------------------------------------------------------------------------
@pages.get("/desktops")
def list_desktops() -> str:
    """The person's desktops, large; asked by the page itself, the cards alone."""
    cards = desktops.cards(tx(), person().user_id, now())
    return render_template("kiosk/cards.html" if is_partial() else "kiosk/desktops.html", desktops=cards, device=device())


@pages.post("/desktops/<uuid:id>/connect")
def connect(id: UUID) -> Answer:
    """Take the desktop or a place in its queue, then go to its page."""
    try:
        refusal = desktops.take(tx(), person(), id, now()).refusal
    except Refused as no:
        rollback()
        refusal = no
    if refusal is not None:
        say(refusal.message, "danger")
        return redirect(url_for("kiosk.list_desktops"), 303)
    return redirect(url_for("kiosk.console", id=id), 303)


@pages.get("/desktops/<uuid:id>")
def console(id: UUID) -> Answer | str:
    """The desktop's page: waits, shows the console, and comes back into the same desktop by itself. Takes nothing."""
    try:
        card = desktops.card(tx(), person().user_id, id, now())
    except NotFound:
        return redirect(url_for("kiosk.list_desktops"), 303)
    return render_template(
        "kiosk/console.html",
        desktop=card,
        device=device(),
        wait=desktops.waiting(tx(), person(), card, now()),
        connect_url=f"/api/v1/me/desktops/{id}/connect",
        several=len(desktops.cards(tx(), person().user_id, now())) > 1,
    )


@pages.get("/desktops/<uuid:id>/progress")
def progress(id: UUID) -> str:
    """How far the desktop is, for its page."""
    card = desktops.card(tx(), person().user_id, id, now())
    return render_template("kiosk/progress.html", desktop=card, wait=desktops.waiting(tx(), person(), card, now()))


@pages.post("/desktops/<uuid:id>/give-back")
def give_back(id: UUID) -> Answer:
    """Give the desktop back, or leave the queue; the person is signed out."""
    try:
        card = desktops.card(tx(), person().user_id, id, now())
        desktops.act(tx(), person(), card, "leave" if card.state == "queued" else "give_back", now())
    except Refused as no:  # it is over already, or has become theirs meanwhile
        rollback()
        say(no.message, "danger")
        return redirect(url_for("kiosk.list_desktops"), 303)
    return _out(ENDS["back"] if card.state != "queued" else "You left the queue, and you are signed out.")


def install(app: Flask) -> None:
    """Register the pages."""
    app.register_blueprint(pages)
