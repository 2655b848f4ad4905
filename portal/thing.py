"""Pure: what a description of a kind of thing is made of: columns, facts, what hangs on it, and its buttons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A field as it is shown. `how` is the cell's kind in admin/cells.html; `of` what it needs to know besides;
    `when` the field without which, or without this value of which (`type=local`), it tells nothing, so that a detail page
    leaves it out."""

    field: str
    label: str
    how: str = "text"
    of: str = ""
    when: str = ""

    def says(self, row: Row) -> bool:
        """Whether it tells anything about this row."""
        field, _, value = self.when.partition("=")
        if not field or value:
            return not field or str(row.get(field)) == value
        return row.get(field) not in (None, "", 0, False, [], "nothing", "none")


@dataclass(frozen=True)
class Button:
    """A command that can be wanted of one thing. `ask` is the question before it; `form` leads to its form first."""

    command: str
    word: str
    icon: str
    when: Callable[[Row], bool] = lambda row: True
    ask: str = ""
    danger: bool = False
    form: bool = False
    fields: tuple[str, ...] = ()  # fields of the command that the question lets one fill in
    fixed: tuple[tuple[str, str], ...] = ()  # fields that this button sets
    main: bool = False  # stands beside the name, not in the menu
    about: tuple[tuple[str, str], ...] = ()  # (command's field, row's field) where it is not simply `<kind>_id` and the id

    def given(self, kind: str, row: Row) -> dict[str, Any]:
        """The command's fields that follow from the row and from the button itself."""
        about = {field: row[of] for field, of in self.about} or {f"{kind}_id": row["id"]}
        return {**about, **dict(self.fixed)}


@dataclass(frozen=True)
class Part:
    """Rows of another collection that belong to the thing: shown below it."""

    title: str
    plural: str
    search: str  # with {id}
    columns: tuple[str, ...] = ()  # a choice of the other's columns; none: all
    link: bool = True  # whether to lead to the whole table


@dataclass(frozen=True)
class Thing:
    """One kind of thing: what it is called, where it stands in the side bar, and how it is shown."""

    plural: str
    kind: str
    title: str
    icon: str
    about: str
    columns: tuple[Column, ...]
    facts: tuple[Column, ...] = ()
    buttons: tuple[Button, ...] = ()
    parts: tuple[Part, ...] = ()
    creates: tuple[tuple[str, str], ...] = ()  # (command, word)
    name: str = "name"
    live: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()  # searches worth showing
    detail: bool = True
    menu: bool = True

    def column(self, field: str) -> Column:
        """Its column of this field."""
        return next(c for c in self.columns if c.field == field)

    def can_choose(self) -> bool:
        """Whether many of its rows can be chosen, because some button needs no form of its own."""
        return any(not b.form for b in self.buttons)

    def listens(self) -> str:
        """The kinds of changes after which its pages look again."""
        return " ".join(dict.fromkeys((self.kind, *self.live)))


def within(*states: str) -> Callable[[Row], bool]:
    """Whether the row is in one of these states."""
    return lambda row: row["state"] in states


def live_lease(row: Row) -> bool:
    """Whether the lease can still be taken back."""
    return row["state"] not in ("ended", "returning")


NAME = Column("name", "Name", "name")
STATE = Column("state", "State", "state")
WHY = Column("why", "Why")
CLUSTER = Column("cluster", "Cluster", "link", "clusters")
MEMORY = Column("memory_mib", "Memory", "mib")
