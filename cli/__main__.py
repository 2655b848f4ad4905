"""`leasehold`: sign in, list, act, wait, connect; most of it made from the portal's own description."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from cli import actions, config, connect, files, show, storage
from cli.client import Client, Trouble
from cli.described import Description, fetch
from cli.waiting import wait_for


class Session:
    """One call of the command line: which portal, as whom, and what it offers; each found out when it is needed."""

    def __init__(self, url: str | None, ca_file: str | None) -> None:
        self.config = config.load(url, ca_file)
        self._client: Client | None = None
        self._description: Description | None = None

    def client(self) -> Client:
        """The client of who is signed in."""
        self._client = self._client or Client(self.config)
        return self._client

    def description(self) -> Description:
        """What the portal offers."""
        self._description = self._description or fetch(self.client())
        return self._description


def session_of(ctx: click.Context) -> Session:
    """The session of this call; made from the options of the root, which are read before anything else is."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = ctx.obj = Session(root.params.get("url"), root.params.get("ca_file"))
    return root.obj  # type: ignore[no-any-return]


class Noun(click.Group):
    """`leasehold vm …`: the verbs of one noun, the portal's and ours."""

    def __init__(self, noun: str, *args: Any, **known: Any) -> None:
        super().__init__(noun, *args, **known)
        self.noun = noun

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *session_of(ctx).description().verbs(self.noun)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        ours = super().get_command(ctx, name)
        description = session_of(ctx).description() if ours is None else Description()
        verb = "create" if name == "add" and (self.noun, "create") in description.actions else name
        action = description.actions.get((self.noun, verb))
        return ours or (actions.command(action, description) if action else None)


class Root(click.Group):
    """Our own commands, and behind them the collections and nouns of the portal."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        ours = super().list_commands(ctx)
        try:
            offered = session_of(ctx).description()
        except Trouble:
            return ours  # help is given without a portal, too
        return sorted({*ours, *offered.fields, *offered.nouns()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if (ours := super().get_command(ctx, name)) is not None:
            return ours
        offered = session_of(ctx).description()
        if name in offered.fields:
            return _list_command(name, offered.fields[name])
        return Noun(name, help=f"What can be done to a {name}.") if name in offered.nouns() else None


@click.command(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", metavar="URL", help="The portal. Else LEASEHOLD_URL, else the last one signed in to.")
@click.option("--ca-file", metavar="FILE", help="Whom to believe that it is the portal. Else LEASEHOLD_CA_FILE.")
@click.pass_context
def cli(ctx: click.Context, url: str | None, ca_file: str | None) -> None:
    """Desktops from the command line.

    \b
    leasehold login --url https://desktops.example.com
    leasehold vms "status = up and memory_mib > 2048 sortby name"
    leasehold vms "status = up" --ids | leasehold vm shutdown -
    leasehold connect Desktops
    """
    session_of(ctx)


@cli.command()
@click.option("--user", "-u", metavar="NAME", help="alice, alice@corp.example or CORP\\alice.")
@click.pass_obj
def login(session: Session, user: str | None) -> None:
    """Sign in until you log out or the session ends. The password is asked for, or read from standard input."""
    client = Client(session.config, token="")
    user = user or connect.ask("User")
    told = client.sign_in(user, actions.secret("Password: "))
    config.remember(session.config, told["token"])
    show.err.print(f"Signed in as {told['user']['name']} until {told['expires_at']}.")


@cli.command()
@click.pass_obj
def logout(session: Session) -> None:
    """Sign out; the token here and there is worth nothing afterwards."""
    client = session.client()
    try:
        if client.token:
            client.sign_out()
    finally:
        config.forget(session.config)
    show.err.print("Signed out.")


@cli.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def whoami(session: Session, json_: bool) -> None:
    """Who is signed in, their groups and roles."""
    me = session.client().ask("GET", "/me")
    if json_:
        show.as_json(me)
    else:
        show.one({"name": me["name"], "display_name": me["display_name"], "groups": me["groups"],
                  "roles": [f"{p['role']} on {p['object_type']} {p['object_id'] or ''}".strip() for p in me["permits"]]})


@cli.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def desktops(session: Session, json_: bool) -> None:
    """What you may connect to."""
    items = session.client().ask("GET", "/me/desktops")["items"]
    show.as_json(items) if json_ else show.rows("desktops", items)


@cli.command()
@click.argument("method", type=click.Choice(["get", "post", "delete"]))
@click.argument("path")
@click.argument("body", required=False)
@click.pass_obj
def api(session: Session, method: str, path: str, body: str | None) -> None:
    """Ask the REST API itself: leasehold api get "/vms?max=1"."""
    import json

    try:
        given = json.loads(body) if body else ({} if method == "post" else None)
    except ValueError as no:
        raise click.UsageError(f"The body is not JSON: {no}.") from None
    show.as_json(session.client().ask(method.upper(), "/" + path.removeprefix("/api/v1").lstrip("/"), given))


@cli.command("map")
@click.option("--json", "json_", is_flag=True, help="Print JSON, with the VMs of every host.")
@click.pass_obj
def draw_map(session: Session, json_: bool) -> None:
    """What runs where, and how full it is."""
    told = session.client().ask("GET", "/map")
    if json_:
        show.as_json(told)
        return
    show.rows("hosts", [
        {**host, "datacenter": center["name"], "cluster": cluster["name"], "vms": sum(host["vms"].values())}
        for center in told["datacenters"] for cluster in center["clusters"] for host in cluster["hosts"]
    ], ("datacenter", "cluster", "name", "state", "cpus", "cpu_usage", "memory_mib", "memory_free_mib", "vms"))


@cli.group()
def explain() -> None:
    """Why something is as it is."""


@explain.command("lease")
@click.argument("lease", metavar="LEASE")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain_lease(session: Session, lease: str, json_: bool) -> None:
    """The story of a lease, by its id or its person's name: what was decided and why, what happened, why it ended."""
    client = session.client()
    told = client.ask("GET", f"/leases/{actions.find(client, 'leases', lease)}/explain")
    if json_:
        show.as_json(told)
        return
    show.story(told)


@explain.command("pool")
@click.argument("pool", metavar="POOL")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain_pool(session: Session, pool: str, json_: bool) -> None:
    """What keeps a pool from making or starting desktops, since when, and what every host says."""
    client = session.client()
    told = client.ask("GET", f"/pools/{actions.find(client, 'pools', pool)}")
    if json_:
        show.as_json(told["obstacle"])
        return
    show.obstacle(told)


@explain.command("vm")
@click.argument("vm", metavar="VM")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def explain_vm(session: Session, vm: str, json_: bool) -> None:
    """Where a VM would go now, why not elsewhere, and why it is where it is."""
    client = session.client()
    told = client.ask("GET", f"/vms/{actions.find(client, 'vms', vm)}/placement")
    if json_:
        show.as_json(told)
        return
    show.placement(told)


cli.add_command(connect.connect)
cli.add_command(storage.storage)

task = Noun("task", help="Wait for tasks, cancel them.")
directory = Noun("directory", help="Active Directory domains: add, test, search.")
device = Noun("device", help="Thin clients: add, enroll, revoke.")
disk = Noun("disk", help="Disks: create, upload, download, attach, resize, remove.")
disk.add_command(files.upload)
disk.add_command(files.download)
cli.add_command(disk)
cli.add_command(task)
cli.add_command(directory)
cli.add_command(device)
booking = Noun("booking", help="Book desktops of a pool, change and cancel bookings, see a pool's calendar.")
cli.add_command(booking)


@booking.command()
@click.argument("pool")
@click.option("--from", "since", metavar="TIME", help="2026-11-24T00:00:00Z; left out: now.")
@click.option("--until", metavar="TIME", help="Left out: a week later.")
@click.option("--json", "json_", is_flag=True, help="Print JSON, with the groups that you may book for.")
@click.pass_obj
def calendar(session: Session, pool: str, since: str | None, until: str | None, json_: bool) -> None:
    """What is booked in a pool, and how many desktops can be booked when."""
    client = session.client()
    query = {name: value for name, value in (("from", since), ("until", until)) if value}
    told = client.ask("GET", f"/pools/{actions.find(client, 'pools', pool)}/calendar", query=query)
    if json_:
        show.as_json(told)
    else:
        show.rows("bookings", told["items"], ("starts_at", "ends_at", "desktops", "name", "user", "state", "id"))
        show.rows("free", told["free"], ("from", "until", "desktops"))


@booking.command()
@click.argument("id", required=False)
@click.option("--pool", help="The whole calendar of this pool instead.")
@click.pass_obj
def ics(session: Session, id: str | None, pool: str | None) -> None:
    """A booking as a file for your calendar, on standard output."""
    if (id is None) == (pool is None):
        raise click.UsageError("Say the id of a booking, or --pool.")
    client = session.client()
    where = f"/pools/{actions.find(client, 'pools', pool)}" if pool else f"/bookings/{id}"
    sys.stdout.write(client.ask("GET", f"{where}/calendar.ics"))


@task.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def wait(session: Session, ids: tuple[str, ...]) -> None:
    """Wait until tasks have ended; the exit code says whether all of them succeeded."""
    for id in actions.listed(ids):
        done = wait_for(session.client(), id)
        show.err.print(f"{done['title']}: {done['message'] or 'Done.'}")


@device.command()
@click.argument("code")
@click.pass_obj
def enroll(session: Session, code: str) -> None:
    """Make this machine the device of the one-time CODE; “leasehold connect --kiosk” is its use from then on."""
    told = Client(session.config, token="").ask("POST", "/devices/enroll", {"code": code})
    config.enroll(session.config, told["token"])
    show.err.print(f"This machine is {told['device']['name']} now.", markup=False)


@directory.command()
@click.argument("name")
@click.argument("text")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@click.pass_obj
def search(session: Session, name: str, text: str, json_: bool) -> None:
    """People and groups of a directory whose name begins with TEXT."""
    client = session.client()
    id = actions.find(client, "directories", name)
    items = client.ask("GET", f"/directories/{id}/search", query={"text": text})["items"]
    show.as_json(items) if json_ else show.rows("people", items, ("kind", "name", "display_name", "dn", "external_id"))


def _list_command(plural: str, fields: tuple[str, ...]) -> click.Command:
    """`leasehold vms [SEARCH]`."""

    @click.pass_obj
    def run(session: Session, /, search: str, max: int | None, ids: bool, json_: bool, columns: str | None) -> None:
        wanted = tuple(c for c in re.split(r"[\s,]+", columns or "") if c)
        if unknown := set(wanted) - set(fields):
            raise click.UsageError(f"{plural} have no {', '.join(sorted(unknown))}; they have {', '.join(fields)}.")
        items = session.client().every(f"/{plural}", search, max)
        if ids:
            sys.stdout.writelines(f"{item['id']}\n" for item in items)
        elif json_:
            show.as_json(items)
        else:
            show.rows(plural, items, wanted or None)

    return click.Command(plural, callback=run, help=f"List {plural}. Fields: {', '.join(fields)}.", params=[
        click.Argument(["search"], required=False, default=""),
        click.Option(["--max"], type=click.IntRange(min=1), help="So many at most; all when it is not said."),
        click.Option(["--ids"], is_flag=True, help="Print ids alone, a line each: to be piped into an action."),
        click.Option(["--json", "json_"], is_flag=True, help="Print JSON."),
        click.Option(["--columns"], metavar="A,B,C", help="Which fields to show."),
    ])


def main(argv: list[str] | None = None) -> None:
    """Run the command line; ends the process with its exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(argv))


def run(argv: list[str] | None = None, on: Callable[..., Any] = cli) -> int:
    """The exit code of this call: 0 done, 1 refused, 2 wrong usage, 3 not signed in, 4 the portal cannot be reached."""
    try:
        on(argv, prog_name="leasehold", standalone_mode=False)
    except Trouble as no:
        if str(no):
            show.err.print(str(no), markup=False, highlight=False)
        return no.code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except BrokenPipeError:
        return 0
    return 0




if __name__ == "__main__":
    main()
