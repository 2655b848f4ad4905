"""Statements to be said on behalf of anybody, with where each parameter comes from. Knows nothing of Leasehold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4


@dataclass
class Context:
    """What is known while a request's statements are said."""

    now: datetime
    given: dict[str, Any]
    rows: dict[int, list[Any]] = field(default_factory=dict)
    fresh: dict[int, UUID] = field(default_factory=dict)


@dataclass(frozen=True)
class Given:
    """Something the person sent: the user's name, the hash of the token."""

    name: str

    def of(self, context: Context) -> Any:
        return context.given[self.name]


@dataclass(frozen=True)
class Row:
    """A value that an earlier statement's answer had in this place."""

    op: int
    row: int
    column: int

    def of(self, context: Context) -> Any:
        return context.rows[self.op][self.row][self.column]


@dataclass(frozen=True)
class Fresh:
    """A new id, the same one wherever its number stands."""

    number: int

    def of(self, context: Context) -> str:
        return str(context.fresh.setdefault(self.number, uuid4()))


@dataclass(frozen=True)
class Moment:
    """So many seconds from now."""

    seconds: float

    def of(self, context: Context) -> datetime:
        return context.now + timedelta(seconds=self.seconds)


@dataclass(frozen=True)
class Span:
    """A range of times."""

    kind: Any
    lower: Any
    upper: Any

    def of(self, context: Context) -> Any:
        return self.kind(said(self.lower, context), said(self.upper, context))


@dataclass(frozen=True)
class Text:
    """Text with such values in it."""

    pieces: tuple[Any, ...]

    def of(self, context: Context) -> str:
        return "".join(str(said(piece, context)) for piece in self.pieces)


@dataclass(frozen=True)
class Op:
    """One thing said to the database: sql, ping, commit or rollback. `reads`: whether the answer has rows that are read."""

    kind: str
    sql: str = ""
    parameters: Any = None
    reads: bool = False


@dataclass(frozen=True)
class Request:
    """What one HTTP request says, and what it answers."""

    name: str
    ops: tuple[Op, ...]
    answer: dict[str, Any]

    @property
    def statements(self) -> int:
        """How many statements, without the connection's own life signs."""
        return sum(op.kind == "sql" for op in self.ops)

    @property
    def commits(self) -> int:
        return sum(op.kind == "commit" for op in self.ops)


@dataclass(frozen=True)
class Recipe:
    """A whole flow: sign in, list, connect."""

    requests: tuple[Request, ...]


def said(value: Any, context: Context) -> Any:
    """The value itself, for this request."""
    if isinstance(value, dict):
        return {key: said(one, context) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(said(one, context) for one in value)
    return value.of(context) if hasattr(value, "of") else value
