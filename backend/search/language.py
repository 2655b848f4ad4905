"""Pure: `status = up and cpu_usage > 80 sortby name desc` -> tree.

    query      [condition] [sortby field [asc|desc] {, field [asc|desc]}]
    condition  alternatives joined by `or`, of terms joined by `and` (which may be left out), each perhaps after `not`
    term       ( condition )  |  field operator value  |  word
    operator   =  !=  >  <  >=  <=  like          value and word may be "quoted"; * stands for anything

A word alone looks in the thing's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from backend.errors import Invalid

LONGEST = 1000  # characters; a search is typed by hand
DEEPEST = 40  # parentheses and nots within one another

OPERATORS = ("=", "!=", ">=", "<=", ">", "<", "like")
WORDS_OF_LANGUAGE = ("and", "or", "not", "sortby", "like", "asc", "desc")

# which operators make sense for a field of this type
OF_TYPE = {
    "text": ("=", "!=", "like", ">", "<", ">=", "<="),
    "texts": ("=", "!=", "like"),
    "choice": ("=", "!=", "like"),
    "number": ("=", "!=", ">", "<", ">=", "<="),
    "time": (">", "<", ">=", "<=", "=", "!="),
    "yesno": ("=", "!="),
    "id": ("=", "!="),
}
WHAT_OF_TYPE = {
    "text": "a text", "texts": "a text", "choice": "one of its values", "number": "a number",
    "time": "a time such as 2026-11-23 or 2026-11-23T08:30", "yesno": "true or false", "id": "an id",
}


@dataclass(frozen=True)
class FieldFacts:
    """What the language must know of a field: its type (a key of OF_TYPE) and, for a choice, its values."""

    type: str = "text"
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compare:
    """`field operator value`; the value already has the field's type. `like` values may hold * for anything."""

    field: str
    operator: str
    value: str | float | bool | datetime


@dataclass(frozen=True)
class Word:
    """A free word: part of the thing's name."""

    text: str


@dataclass(frozen=True)
class Not:
    """The opposite."""

    of: Tree


@dataclass(frozen=True)
class And:
    """All of them."""

    of: tuple[Tree, ...]


@dataclass(frozen=True)
class Or:
    """Any of them."""

    of: tuple[Tree, ...]


Tree = Compare | Word | Not | And | Or


@dataclass(frozen=True)
class Query:
    """A whole search: a condition (None: everything) and the order, as (field, descending)."""

    where: Tree | None = None
    order: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True)
class Token:
    """A piece of the text: `kind` is word, quoted, operator, mark or end; `at` counts characters from 1."""

    kind: str
    text: str
    at: int


_PIECES = re.compile(r"""
    (?P<space>\s+)
  | (?P<quoted>"(?:[^"\\]|\\.)*")
  | (?P<operator>!=|>=|<=|=|>|<)
  | (?P<mark>[(),])
  | (?P<word>[^\s"()=<>!,]+)
""", re.VERBOSE | re.DOTALL)


def parse(text: str, fields: Mapping[str, FieldFacts]) -> Query:
    """The search as a tree; `Invalid` says at which character what was expected."""
    return _Reader(text, fields).query()


def tokens(text: str) -> list[Token]:
    """The pieces of the text, ended by one of kind `end`."""
    if len(text) > LONGEST:
        raise Invalid("search", f"The search is {len(text)} characters long; {LONGEST} are the most.", fields=["search"])
    if (bad := re.search("[\0\ud800-\udfff]", text)) is not None:
        raise _expected("characters that can be stored", Token("", repr(bad.group()), bad.start() + 1))
    found, at = [], 0
    while at < len(text):
        piece = _PIECES.match(text, at)
        if piece is None or piece.lastgroup is None:
            what = "a closing quotation mark" if text[at] == '"' else "a field, an operator or a word"
            raise _expected(what, Token("", text[at], at + 1))
        if piece.lastgroup != "space":
            found.append(Token(piece.lastgroup, piece.group(), at + 1))
        at = piece.end()
    return [*found, Token("end", "", len(text) + 1)]


def unquoted(token: Token) -> str:
    """The text a token stands for."""
    return re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL) if token.kind == "quoted" else token.text


def _expected(what: str, token: Token) -> Invalid:
    found = f"found “{token.text[:40]}”" if token.text else "the search ends"
    return Invalid("search", f"At character {token.at}: expected {what}, but {found}.",
                   fields=["search"], at=token.at, expected=what)


class _Reader:
    """Reads tokens from left to right, one method a rule of the grammar."""

    def __init__(self, text: str, fields: Mapping[str, FieldFacts]) -> None:
        self.fields, self.tokens, self.at, self.depth = fields, tokens(text), 0, 0

    @property
    def here(self) -> Token:
        return self.tokens[self.at]

    def take(self) -> Token:
        token = self.here
        self.at += token.kind != "end"
        return token

    def is_word(self, *words: str) -> bool:
        return self.here.kind == "word" and self.here.text.lower() in words

    def is_mark(self, mark: str) -> bool:
        return self.here.kind == "mark" and self.here.text == mark

    def query(self) -> Query:
        where = None if self.here.kind == "end" or self.is_word("sortby") else self.alternatives()
        order = self.order() if self.is_word("sortby") else ()
        if self.here.kind != "end":
            raise _expected("“and”, “or”, “sortby” or the end", self.here)
        return Query(where, order)

    def alternatives(self) -> Tree:
        found = [self.terms()]
        while self.is_word("or"):
            self.take()
            found.append(self.terms())
        return found[0] if len(found) == 1 else Or(tuple(found))

    def terms(self) -> Tree:
        found = [self.term()]
        while True:
            if self.is_word("and"):
                self.take()
            elif self.here.kind in ("end", "operator") or self.is_word("or", "sortby") or self.is_mark(")") or self.is_mark(","):
                break
            found.append(self.term())
        return found[0] if len(found) == 1 else And(tuple(found))

    def term(self) -> Tree:
        if self.depth >= DEEPEST:
            raise _expected(f"at most {DEEPEST} parentheses within one another", self.here)
        if self.is_word("not"):
            self.take()
            self.depth += 1
            term = Not(self.term())
            self.depth -= 1
            return term
        if self.is_mark("("):
            self.take()
            self.depth += 1
            inner = self.alternatives()
            self.depth -= 1
            if not self.is_mark(")"):
                raise _expected("“)”, “and” or “or”", self.here)
            self.take()
            return inner
        return self.comparison()

    def comparison(self) -> Tree:
        if self.here.kind not in ("word", "quoted") or self.is_word("and", "or", "sortby"):
            raise _expected("a field or a word", self.here)
        first, then = self.take(), self.here
        if not (then.kind == "operator" or self.is_word("like")) or first.kind == "quoted":
            return Word(unquoted(first))
        name = first.text.lower()
        if name not in self.fields:
            raise _expected(f"one of the fields {', '.join(sorted(self.fields))}", first)
        facts, operator = self.fields[name], self.take().text.lower()
        if operator not in OF_TYPE[facts.type]:
            raise _expected(f"{' or '.join(OF_TYPE[facts.type])} after {name}", then)
        token = self.here
        if token.kind not in ("word", "quoted"):
            raise _expected(f"{WHAT_OF_TYPE[facts.type]} after “{operator}”", token)
        self.take()
        if facts.type in ("text", "texts", "choice") and token.kind == "word" and "*" in token.text and operator in ("=", "!="):
            like = Compare(name, "like", token.text)
            return like if operator == "=" else Not(like)
        return Compare(name, operator, _value(token, facts, operator))

    def order(self) -> tuple[tuple[str, bool], ...]:
        found: list[tuple[str, bool]] = []
        while not found or self.is_mark(","):
            self.take()
            name = self.here.text.lower()
            if self.here.kind != "word" or name not in self.fields:
                raise _expected(f"one of the fields {', '.join(sorted(self.fields))}", self.here)
            self.take()
            descending = self.is_word("desc")
            if self.is_word("asc", "desc"):
                self.take()
            found.append((name, descending))
        return tuple(found)


def _value(token: Token, facts: FieldFacts, operator: str) -> str | float | bool | datetime:
    text = unquoted(token)
    if facts.type == "number":
        if not re.fullmatch(r"[+-]?\d{1,15}(\.\d{1,6})?", text, re.ASCII):
            raise _expected("a number", token)
        return float(text)
    if facts.type == "yesno":
        if text.lower() not in ("true", "false", "yes", "no"):
            raise _expected("true or false", token)
        return text.lower() in ("true", "yes")
    if facts.type == "time":
        try:
            time = datetime.fromisoformat(text)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            raise _expected(WHAT_OF_TYPE["time"], token) from None
    if facts.type == "choice" and operator != "like" and text.lower() not in facts.values:
        raise _expected(f"one of {', '.join(facts.values)}", token)
    return text.lower() if facts.type in ("choice", "id") else text
