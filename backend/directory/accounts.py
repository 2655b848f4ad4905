"""The rows that remember a directory's people and groups, and what the directory last said of them."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.changes import touch
from backend.db import Tx, get
from backend.directory import sessions
from backend.directory.facts import DirectoryFacts, Found, Person
from backend.directory.models import Directory, Group, Membership, User
from backend.directory.names import full_name
from backend.events import record

_LISTS = {"servers", "upn_suffixes"}


def facts_of(directory: Directory) -> DirectoryFacts:
    """The directory's row as plain data, to be carried out of the transaction."""
    known = {f.name for f in fields(DirectoryFacts)} - {"id", "name"}
    config: dict[str, Any] = {k: tuple(v) if k in _LISTS else v for k, v in directory.config.items() if k in known}
    return DirectoryFacts(directory.id, directory.name, **config)


def remember(tx: Tx, directory: Directory, person: Person, now: datetime) -> User:
    """The row of this person, made or brought up to date, with their groups that are known here.

    The SID says who somebody is. A name that another SID had before goes to its new owner, and the old
    owner's row, which keeps its rights, is shut out under a name nobody can sign in with.
    """
    user, namesake = _known(tx, directory, person)
    if user is None or namesake is not None:  # new here, or a name changes hands: one after the other, then look again
        tx.execute(sa.select(Directory.id).where(Directory.id == directory.id).with_for_update(key_share=True))
        user, namesake = _known(tx, directory, person)
    if namesake is not None:
        shut_out(tx, namesake, f"their name {namesake.name} belongs to somebody else in {directory.name} now.", now)
        namesake.name = f"{namesake.name}#{(namesake.external_id or '').rpartition('-')[2]}"
        tx.flush()
    if user is None:
        user = User(directory_id=directory.id, external_id=person.external_id, name=person.name)
        tx.add(user)
        tx.flush()
        record(tx, "user.imported", user, user_id=user.id, directory=directory.name)
    before = _seen(user)
    user.name, user.dn, user.display_name, user.email = person.name, person.dn, person.display_name, person.email
    if person.refusal is None and not user.enabled and user.disabled_by == "directory":
        user.enabled, user.disabled_by = True, None
        record(tx, "user.let_in", user, user_id=user.id, directory=directory.name)
    if sorted(person.group_sids) != sorted(user.group_sids):
        user.group_sids = sorted(person.group_sids)
        _join(tx, user)
    if _seen(user) != before:  # what did not change is told to nobody
        touch(tx, "user", user.id, user_id=user.id)
    user.refreshed_at = now
    tx.flush()
    return user


def remember_group(tx: Tx, directory: Directory, found: Found) -> Group:
    """The row of this group, made or brought up to date; people known here who are in it become its members at once."""
    group = tx.scalars(sa.select(Group).where(Group.directory_id == directory.id, Group.external_id == found.external_id)).first()
    if group is None:
        group = Group(directory_id=directory.id, external_id=found.external_id, name=found.name, dn=found.dn)
        tx.add(group)
        tx.flush()
        members = sa.select(User.id, sa.literal(group.id)).where(
            User.directory_id == directory.id, User.group_sids.contains([found.external_id]))
        tx.execute(pg.insert(Membership).from_select(["user_id", "group_id"], members).on_conflict_do_nothing())
        record(tx, "group.imported", group, directory=directory.name)
    group.name, group.dn = found.name, found.dn
    touch(tx, "group", group.id)
    tx.flush()
    return group


def remember_found(tx: Tx, directory: Directory, found: Found, now: datetime) -> User | Group:
    """The row of a person or group that was found in this directory. A person's groups come with their first sign-in."""
    if found.kind == "group":
        return remember_group(tx, directory, found)
    known = tx.scalars(sa.select(User).where(User.directory_id == directory.id, User.external_id == found.external_id)).first()
    return known or remember(tx, directory, Person(found.external_id, found.name, found.dn, found.display_name, found.email), now)


def shut_out(tx: Tx, user: User, why: str, now: datetime, *, by: str = "directory") -> None:
    """Disable the user and end their sessions at once."""
    if not user.enabled:
        return
    user.enabled, user.disabled_by = False, by
    tx.flush()
    record(tx, "user.shut_out", user, user_id=user.id, why=why)
    sessions.end_all(tx, user.id, now)
    touch(tx, "user", user.id, user_id=user.id)


def note_trouble(tx: Tx, directory_id: UUID, trouble: str) -> None:
    """Remember on the directory's row whether a controller answered (""), and tell it when that is news."""
    said = tx.scalar(sa.select(Directory.trouble).where(Directory.id == directory_id))
    if said is None or bool(said) == bool(trouble):
        return
    directory = get(tx, Directory, directory_id, lock=True)
    if bool(directory.trouble) == bool(trouble):  # another process was first to say so
        return
    directory.trouble = trouble
    record(tx, "directory.silent" if trouble else "directory.answers", directory, why=trouble)
    touch(tx, "directory", directory.id)


def name_of(tx: Tx, user: User) -> str:
    """The person's full name as it is written everywhere: alice, or alice@corp.example."""
    return full_name(user.name, tx.get_one(Directory, user.directory_id).name)


def _known(tx: Tx, directory: Directory, person: Person) -> tuple[User | None, User | None]:
    """The row of this person, and that of somebody else who has their name here."""
    rows = tx.scalars(sa.select(User).where(
        User.directory_id == directory.id, sa.or_(User.external_id == person.external_id, User.name == person.name))).all()
    return (next((u for u in rows if u.external_id == person.external_id), None),
            next((u for u in rows if u.external_id != person.external_id), None))


def _seen(user: User) -> tuple[Any, ...]:
    """What pages show of a person."""
    return user.name, user.dn, user.display_name, user.email, user.enabled, list(user.group_sids or ())


def _join(tx: Tx, user: User) -> None:
    """Make the memberships of this person those of `group_sids`."""
    groups = sa.select(Group.id).where(Group.directory_id == user.directory_id, Group.external_id.in_(user.group_sids))
    tx.execute(sa.delete(Membership).where(Membership.user_id == user.id, Membership.group_id.not_in(groups)))
    wanted = sa.select(sa.literal(user.id), Group.id).where(
        Group.directory_id == user.directory_id, Group.external_id.in_(user.group_sids))
    tx.execute(pg.insert(Membership).from_select(["user_id", "group_id"], wanted).on_conflict_do_nothing())
