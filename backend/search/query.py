"""A tree and a kind's fields -> select: only rows the person may see, in order, by pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from backend.db import Tx
from backend.directory.rules import Grant
from backend.errors import Invalid, NotFound
from backend.search.language import And, Compare, FieldFacts, Not, Or, Query, Tree, Word, parse

MOST = 500  # rows a page


@dataclass(frozen=True)
class Field:
    """A field of a kind: an SQL expression, and its type for the language and for JSON.

    Types beside the language's: `json` is shown and not searched; `private` too, and only to those for whom the
    kind's `trusted` holds.
    """

    of: Any
    type: str = "text"
    values: tuple[str, ...] = ()
    about: str = ""


@dataclass(frozen=True)
class Viewer:
    """Who looks: their id, their permissions, and the time."""

    user_id: UUID
    grants: list[Grant]
    now: datetime


@dataclass(frozen=True)
class Kind:
    """A collection: its plural name, its rows' kind, its fields, and which rows a viewer may see."""

    plural: str
    kind: str
    id: Any
    fields: Mapping[str, Field]
    visible: Callable[[Viewer], Any]
    name: str = "name"  # the field that free words look in
    order: tuple[tuple[str, bool], ...] = (("name", False),)
    aliases: Mapping[str, str] = field(default_factory=lambda: {"status": "state"})
    trusted: Callable[[Viewer], Any] | None = None  # rows whose private fields the viewer may read

    def language(self) -> dict[str, FieldFacts]:
        """The fields that can be searched, for the language; `status` is another word for `state`."""
        facts = {n: FieldFacts(f.type, f.values) for n, f in self.fields.items() if f.type not in ("json", "private")}
        return facts | {alias: facts[name] for alias, name in self.aliases.items() if name in facts}

    def field(self, name: str) -> Field:
        """The field of this name or alias."""
        return self.fields[self.aliases.get(name, name)]


@dataclass(frozen=True)
class Page:
    """Some rows as JSON, where the next ones begin, and how many there are in all."""

    items: list[dict[str, Any]]
    next: str | None
    total: int


def page(tx: Tx, kind: Kind, viewer: Viewer, *, search: str = "", max: int = 100, after: str | None = None,
         where: Any = None) -> Page:
    """The rows that match the search and that the viewer may see, `max` of them after the cursor."""
    if not 1 <= max <= MOST:
        raise Invalid("bad_max", f"max must lie between 1 and {MOST}.", fields=["max"])
    query = parse(search, kind.language())
    rows = _rows(kind, viewer, where)
    if query.where is not None:
        rows = rows.where(condition(kind, query.where))
    keys = _keys(kind, query)
    total = tx.scalar(rows.with_only_columns(sa.func.count(), maintain_column_froms=True)) or 0
    if after is not None:
        rows = rows.where(_beyond(keys, _cursor_values(after, keys)))
    rows = rows.order_by(*(k.desc().nulls_last() if down else k.asc().nulls_last() for k, down, _ in keys))
    rows = rows.add_columns(*(k.label(f"_key{n}") for n, (k, _, _) in enumerate(keys)))
    found = tx.execute(rows.limit(max + 1)).all()
    items = [as_json(kind, row) for row in found[:max]]
    return Page(items, _cursor(found[max - 1], keys) if len(found) > max else None, total)


def one(tx: Tx, kind: Kind, viewer: Viewer, id: str) -> dict[str, Any]:
    """The row of this id; `NotFound` when there is none that the viewer may see."""
    row = tx.execute(_rows(kind, viewer, None).where(kind.id == read_id(kind, id))).first()
    if row is None:
        raise _not_found(kind, id)
    return as_json(kind, row)


def ids_seen(tx: Tx, kind: Kind, viewer: Viewer, ids: list[Any]) -> set[Any]:
    """Those of the ids that the viewer may see."""
    return set(tx.scalars(sa.select(kind.id).where(kind.id.in_(ids), kind.visible(viewer))))


def read_id(kind: Kind, id: str) -> Any:
    """The id as the database has it; `NotFound` when no row of this kind can have such an id."""
    try:
        if isinstance(kind.id.type, sa.Integer):
            number = int(id) if id.isascii() and id.isdigit() else -1
            if 0 <= number < 2**63:
                return number
            raise ValueError(id)
        return id if isinstance(kind.id.type, sa.Text) else UUID(id)
    except ValueError:
        raise _not_found(kind, id) from None


def condition(kind: Kind, tree: Tree) -> Any:
    """The tree as a WHERE clause; values travel as parameters, never as text."""
    match tree:
        case And(parts):
            return sa.and_(*(condition(kind, part) for part in parts))
        case Or(parts):
            return sa.or_(*(condition(kind, part) for part in parts))
        case Not(part):
            # a row whose field is empty does not match `x = 1`, so it does match `not x = 1`
            return sa.func.coalesce(condition(kind, part), sa.false()).is_(sa.false())
        case Word(text):
            return kind.field(kind.name).of.ilike(pattern(f"*{text}*"), escape="\\")
        case Compare(name, operator, value):
            return _compare(kind.field(name), operator, value)


def pattern(text: str) -> str:
    """A LIKE pattern in which only * stands for anything."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("*", "%")


def as_json(kind: Kind, row: Any) -> dict[str, Any]:
    """The row's fields as JSON has them: ids as text, times in UTC with a Z."""
    return {name: json_value(getattr(row, name), field.type) for name, field in kind.fields.items()}


def json_value(value: Any, type: str = "text") -> Any:
    """A column's value as JSON has it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, UUID) or (type == "id" and value is not None):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value


def _not_found(kind: Kind, id: str) -> NotFound:
    return NotFound("not_found", f"There is no {kind.kind.replace('_', ' ')} with the id {id[:60]}.", kind=kind.kind, id=id[:60])


def _rows(kind: Kind, viewer: Viewer, where: Any) -> sa.Select[Any]:
    def shown(field: Field) -> Any:
        if field.type != "private" or kind.trusted is None:
            return field.of
        return sa.case((kind.trusted(viewer), field.of))

    rows = sa.select(*(shown(field).label(name) for name, field in kind.fields.items())).select_from(kind.id.class_)
    rows = rows.where(kind.visible(viewer))
    return rows if where is None else rows.where(where)


def _compare(field: Field, operator: str, value: Any) -> Any:
    of = field.of
    if field.type == "texts":
        # one of several: "user = alice" means that alice is among them
        each = sa.func.unnest(of).table_valued("each").render_derived()
        item = sa.cast(each.c.each, sa.Text)
        clause = item.ilike(pattern(value), escape="\\") if operator == "like" else sa.func.lower(item) == value.lower()
        there = sa.select(1).select_from(each).where(clause).exists()
        return ~there if operator == "!=" else there
    if field.type in ("text", "choice", "id"):
        of = sa.cast(of, sa.Text) if field.type == "id" else of
        if operator == "like":
            return of.ilike(pattern(value), escape="\\")
        of, value = sa.func.lower(of), value.lower()
    if operator == "!=":
        return sa.func.coalesce(of != value, sa.true())
    return {"=": of.__eq__, ">": of.__gt__, "<": of.__lt__, ">=": of.__ge__, "<=": of.__le__}[operator](value)


def _keys(kind: Kind, query: Query) -> list[tuple[Any, bool, str]]:
    """What the rows are ordered by: (expression, descending, type), ended by the id so that no two are equal."""
    keys = []
    for name, down in query.order or kind.order:
        field = kind.field(name)
        of = sa.func.lower(field.of) if field.type == "text" else field.of
        keys.append((sa.cast(of, sa.Text) if field.type in ("texts", "id") else of, down, field.type))
    return [*keys, (kind.id, bool(keys and keys[-1][1]), "row")]


def _cursor(row: Any, keys: list[tuple[Any, bool, str]]) -> str:
    values = [getattr(row, f"_key{n}") for n in range(len(keys))]
    plain = [v.isoformat() if isinstance(v, datetime) else str(v) if isinstance(v, UUID) else v for v in values]
    return base64.urlsafe_b64encode(json.dumps(plain).encode()).decode().rstrip("=")


def _cursor_values(cursor: str, keys: list[tuple[Any, bool, str]]) -> list[Any]:
    try:
        plain = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(plain, list) or len(plain) != len(keys):
            raise ValueError(cursor)
        return [_cursor_value(value, of, type) for value, (of, _, type) in zip(plain, keys, strict=True)]
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise Invalid("bad_cursor", "This cursor is not of this list; begin again without “after”.", fields=["after"]) from None


def _cursor_value(value: Any, of: Any, type: str) -> Any:
    if type == "row":
        number = isinstance(of.type, sa.Integer)
        if number and not (isinstance(value, int) and abs(value) < 2**63):
            raise ValueError(value)
        return value if number else UUID(value)
    if value is None:
        return None
    wanted: Any = {"number": (int, float), "yesno": bool}.get(type, str)
    if not isinstance(value, wanted) or (isinstance(value, str) and "\0" in value):
        raise ValueError(value)
    return datetime.fromisoformat(value) if type == "time" else value


def _beyond(keys: list[tuple[Any, bool, str]], values: list[Any]) -> Any:
    """Rows that come after these values in the order of the keys; rows without a value come last."""
    alternatives: list[Any] = []
    same: list[Any] = []
    for (of, down, _), value in zip(keys, values, strict=True):
        if value is not None:  # after a row without a value come only rows that are equal in this key
            alternatives.append(sa.and_(*same, sa.or_(of < value if down else of > value, of.is_(None))))
        same.append(of.is_not_distinct_from(value))
    return sa.or_(*alternatives)
