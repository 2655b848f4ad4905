"""`leasehold <noun> <verb>`: a click command for each of the portal's actions, made from its description."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from cli import show
from cli.client import REFUSED, USAGE, Client, Trouble, path
from cli.described import COLLECTION_OF, Action, Description, Field
from cli.waiting import wait_for

_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\d+")


def command(action: Action, description: Description) -> click.Command:
    """The click command of this action."""
    params: list[click.Parameter] = []
    if action.on_one:
        params.append(click.Argument(["things"], nargs=-1, required=True, metavar=f"{action.noun.upper()}..."))
    named = [] if action.on_one else [field for field in action.fields if field.name == "name"]
    params += [click.Argument(["name"], required=field.required, metavar="NAME") for field in named]
    params += [_option(field) for field in action.fields if field not in named]
    params += [click.Option(["--wait"], is_flag=True, help="Wait until it is done, with a progress bar."),
               click.Option(["--json", "json_"], is_flag=True, help="Print the answer as JSON.")]

    @click.pass_obj
    def run(session: Any, /, things: tuple[str, ...] = (), **given: Any) -> None:
        client = session.client()
        body = _body(client, action, given)
        targets = [identified(client, description, action.noun, thing) for thing in listed(things)] if action.on_one else [None]
        for target in targets:
            where = action.path.replace("{id}", target or "")
            _tell(client, action, client.ask(action.method, where, body), wait=given["wait"], json=given["json_"])

    return click.Command(action.verb, params=params, callback=run, help=action.summary)


def _option(field: Field) -> click.Option:
    name = field.name.removesuffix("_id") if field.name in COLLECTION_OF else field.name
    flag = f"--{name.replace('_', '-')}"
    words = "Required." if field.required else "" if field.default in (None, "", []) else f"Default: {show.text(field.default)}."
    if field.name in COLLECTION_OF:
        words = f"Name or id. {words}" if field.required else f"Name or id; '' for none. {words}"
    if field.secret:
        return click.Option([flag, field.name], is_flag=True, help="Asked for, or read from standard input: never an argument.")
    if field.type == "boolean":
        return click.Option([f"{flag}/--no-{name.replace('_', '-')}", field.name], default=None, help=words or None)
    if field.in_file:
        return click.Option([flag, field.name], metavar="FILE", default=None, help="A file that holds it: never an argument.")
    kind: Any = {"integer": click.INT, "number": click.FLOAT}.get(field.type, click.STRING)
    if field.values:
        kind = click.Choice(field.values)
    many = field.type == "list"
    return click.Option([flag, field.name], type=kind, multiple=many, default=None,
                        help=(f"May be given several times. {words}" if many else words) or None)


def _body(client: Client, action: Action, given: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for field in action.fields:
        value = given.get(field.name)
        if field.secret:
            if value or field.required:
                body[field.name] = secret(f"{field.name.replace('_', ' ').capitalize()}: ")
        elif field.in_file:
            if value:
                body[field.name] = _file(value)
        elif field.type == "list":
            if value:  # a,b,c is three of them; but a line such as Mon,Wed 08:00-12:00 is one
                parts = [part for item in value for part in ([item] if " " in item else item.split(",")) if part]
                plural = COLLECTION_OF.get(field.name.removesuffix("s"), "")  # host_ids: hosts by their names
                body[field.name] = [find(client, plural, part) for part in parts] if plural else parts
        elif field.name in COLLECTION_OF:
            if value == "" and not field.required:
                body[field.name] = None  # takes away what was there
            elif (found := _reference(client, field, value)) is not None:
                body[field.name] = found
        elif isinstance(value, str) and value.startswith("@"):
            body[field.name] = _file(value[1:])
        elif value is not None:
            body[field.name] = value
        if field.required and field.name not in body:
            raise click.UsageError(f"Say --{field.name.replace('_', '-')}.")
    return body


def _reference(client: Client, field: Field, value: str | None) -> str | None:
    """The id of what the option names; when it must be given and there is only one, that one."""
    plural = COLLECTION_OF[field.name]
    if value is not None:
        return find(client, plural, value)
    if not field.required:
        return None
    items = client.ask("GET", f"/{plural}", query={"max": 2})["items"]
    if len(items) != 1:
        name = field.name.removesuffix("_id").replace("_", "-")
        raise click.UsageError(f"Say --{name}: there are several, or none.")
    return str(items[0]["id"])


def find(client: Client, plural: str, text: str) -> str:
    """The id of the thing of this name or id."""
    if _ID.fullmatch(text):
        return text
    field = {"users": "full_name", "members": "vm", "sessions": "user", "consoles": "vm", "leases": "user", "tasks": "id",
             "permissions": "id", "guestsessions": "user", "reaches": "host", "evacuations": "vm", "decisions": "id",
             "events": "id", "rollouts": "pool", "bookings": "id"}.get(plural, "name")
    live = {"leases": " and state != ended", "rollouts": " and not ended_at > 2000-01-01"}.get(plural, "")
    items = client.ask("GET", f"/{plural}", query={"search": f"{field} = {quoted(text)}{live}", "max": 2})["items"]
    if plural == "templates":
        items = _version(client, text)
    if not items and plural == "pools":  # who only uses a pool sees it among their desktops
        items = [d for d in client.ask("GET", "/me/desktops")["items"] if d["kind"] == "pool" and d["name"] == text]
    if len(items) != 1:
        few = "no" if not items else "more than one"
        hint = "" if not items else " Give its id."
        raise Trouble(REFUSED, f"There is {few} {plural.removesuffix('s')} named “{text}” that you may see.{hint}")
    return str(items[0]["id"])


def quoted(text: str) -> str:
    """The text as a search has it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _version(client: Client, text: str) -> list[dict[str, Any]]:
    """The template named, in its newest version or, as in “Debian 2”, in this one."""
    searches = [f"name = {quoted(text)} sortby version desc"]
    if numbered := re.fullmatch(r"(.+?)[ :](\d+)", text):
        searches.append(f"name = {quoted(numbered[1])} and version = {numbered[2]}")
    found = (client.ask("GET", "/templates", query={"search": search, "max": 1})["items"] for search in searches)
    return next((items for items in found if items), [])


def identified(client: Client, description: Description, noun: str, text: str) -> str:
    """The id for an address, escaped; a desktop's is looked up in the person's own list."""
    if noun == "desktop":
        return path(desktop(client, text)["id"])[1:]
    return path(find(client, description.plurals[noun], text))[1:]


def desktop(client: Client, text: str | None) -> dict[str, Any]:
    """The person's desktop of this name or id; the only one when none is named."""
    items: list[dict[str, Any]] = client.ask("GET", "/me/desktops")["items"]
    chosen = [d for d in items if text is None or text in (d["id"], (d["vm"] or {}).get("name"))]
    chosen = chosen or [d for d in items if text is not None and d["name"].lower() == text.lower()]
    if len(chosen) == 1 or (text is not None and chosen):
        return chosen[0]
    names = ", ".join(d["name"] for d in items)
    if not items:
        raise Trouble(REFUSED, "You have no desktops. Ask your administrator to entitle you to a pool.")
    if text is None:
        raise Trouble(USAGE, f"You have several desktops; say which: {names}.")
    raise Trouble(REFUSED, f"You have no desktop named “{text}”; yours are {names}.")


def secret(prompt: str) -> str:
    """A password typed unseen, or the next line of standard input when that is no terminal."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(prompt)
    line = sys.stdin.readline()
    if not line:
        raise Trouble(USAGE, "A password is wanted on standard input, and there is none.")
    return line.rstrip("\r\n")


def listed(things: tuple[str, ...]) -> list[str]:
    """The things named; “-” stands for the lines of standard input."""
    return [t for thing in things for t in ([line.strip() for line in sys.stdin if line.strip()] if thing == "-" else [thing])]


def _file(name: str) -> str:
    try:
        return Path(name).read_text()
    except (OSError, UnicodeDecodeError) as no:
        raise click.UsageError(f"{name} cannot be read: {no}.") from None


def _tell(client: Client, action: Action, told: Any, *, wait: bool, json: bool) -> None:
    task = told.get("task") if isinstance(told, dict) else None
    if task and wait and task["state"] in ("queued", "running"):
        task = wait_for(client, task["id"])
        told = {"task": task}
    if task and wait and isinstance(begun := task.get("result"), dict) and begun.get("task"):  # another one
        task = wait_for(client, begun["task"]) | {"result": begun}
    if json:
        show.as_json(told)
    elif isinstance(told, dict) and "enroll" in told:
        told_so = "Run this on the host, within the hour; the token is told only here:"
        show.err.print(told.get("sentence", told_so), markup=False, highlight=False)
        sys.stdout.write(told["enroll"] + "\n")
    elif isinstance(told, dict) and "token" in told:
        show.err.print(f"Good until {told['expires_at']}; told only here. For programs, and for this one as LEASEHOLD_TOKEN:")
        sys.stdout.write(told["token"] + "\n")
    elif isinstance(told, dict) and "controllers" in told:
        report(told)
    elif task:
        result = task.get("result")
        made = result.get("id") or result.get("rollout_id") if isinstance(result, dict) else None
        show.err.print(f"Task {task['id']}: {task['state']}.")
        if made:
            sys.stdout.write(f"{made}\n")
        if isinstance(result, dict) and isinstance(result.get("output"), str):
            sys.stdout.write(result["output"])
    elif isinstance(told, dict) and told.get("sentence"):
        show.err.print(told["sentence"])
    elif isinstance(told, dict) and told:
        show.one(told.get("lease") or told)
    if isinstance(told, dict) and told.get("allowed") is False:
        raise Trouble(REFUSED, "")
    if isinstance(told, dict) and told.get("ok") is False:
        raise Trouble(REFUSED, told.get("bind_why") or "People could not sign in with it now.")


def report(told: dict[str, Any]) -> None:
    """What the test of a directory found."""
    show.rows("controllers", told["controllers"], ("url", "reached", "tls_version", "tls_subject", "tls_expires", "why"))
    if told["bind_ok"]:
        more = "+" if told.get("people_more") else ""
        suffixes = ", ".join(told.get("upn_suffixes") or []) or "none"
        show.err.print(f"Domain {told['netbios']}, base {told['base_dn']}, other suffixes: {suffixes}; "
                       f"{told['people']}{more} people found.")
