"""The query language: what it reads, what it says when it cannot, and that nothing makes it crash."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import Invalid
from backend.search.completions import completions
from backend.search.language import LONGEST, And, Compare, FieldFacts, Not, Or, Query, Word, parse

FIELDS = {
    "name": FieldFacts(), "status": FieldFacts("choice", ("up", "down")), "cpu_usage": FieldFacts("number"),
    "started_at": FieldFacts("time"), "enabled": FieldFacts("yesno"), "group": FieldFacts("texts"), "id": FieldFacts("id"),
}
UP = Compare("status", "=", "up")

CASES = [
    ("", Query()),
    ("  ", Query()),
    ("status = up", Query(UP)),
    ("STATUS=UP", Query(UP)),
    ("status = up and cpu_usage > 80 sortby name desc",
     Query(And((UP, Compare("cpu_usage", ">", 80.0))), (("name", True),))),
    ("status = up cpu_usage <= 1.5", Query(And((UP, Compare("cpu_usage", "<=", 1.5))))),
    ("a or b and c", Query(Or((Word("a"), And((Word("b"), Word("c"))))))),
    ("(a or b) and not c", Query(And((Or((Word("a"), Word("b"))), Not(Word("c")))))),
    ("name = w*", Query(Compare("name", "like", "w*"))),
    ('name = "w*"', Query(Compare("name", "=", "w*"))),
    ("name != w*", Query(Not(Compare("name", "like", "w*")))),
    (r'name = "say \"hi\""', Query(Compare("name", "=", 'say "hi"'))),
    ('"name" = 1' [:6], Query(Word("name"))),
    ("name like *x*", Query(Compare("name", "like", "*x*"))),
    ("started_at > 2026-11-23", Query(Compare("started_at", ">", datetime(2026, 11, 23, tzinfo=UTC)))),
    ("started_at < 2026-11-23T08:30+02:00", Query(Compare("started_at", "<", datetime(2026, 11, 23, 6, 30, tzinfo=UTC)))),
    ("enabled = no", Query(Compare("enabled", "=", False))),
    ("sortby status, name asc", Query(None, (("status", False), ("name", False)))),
    ("Müller", Query(Word("Müller"))),
    ("status", Query(Word("status"))),
]

WRONG = [
    ("status = sideways", 10, "one of up, down"),
    ("status > up", 8, "= or != or like after status"),
    ("color = red", 1, "one of the fields"),
    ("cpu_usage > lots", 13, "a number"),
    ("cpu_usage >", 12, "a number"),
    ("(a", 3, "“)”"),
    ("a)", 2, "the end"),
    ("a sortby", 9, "one of the fields"),
    ("a sortby name b", 15, "the end"),
    ('name = "x', 8, "a closing quotation mark"),
    ("not", 4, "a field or a word"),
    ("a and and b", 7, "a field or a word"),
    ("or", 1, "a field or a word"),
    ("started_at > tomorrow", 14, "a time"),
    ("name = (", 8, "a text"),
    ("!", 1, "a field"),
]


@pytest.mark.parametrize(("text", "query"), CASES)
def test_reads(text: str, query: Query) -> None:
    assert parse(text, FIELDS) == query


@pytest.mark.parametrize(("text", "at", "expected"), WRONG)
def test_says_where_and_what_was_expected(text: str, at: int, expected: str) -> None:
    with pytest.raises(Invalid) as no:
        parse(text, FIELDS)
    assert no.value.facts["at"] == at
    assert expected in no.value.facts["expected"]
    assert f"At character {at}: expected" in no.value.message
    assert no.value.message.endswith(".")


def test_too_long_and_too_deep_are_refused_in_words() -> None:
    with pytest.raises(Invalid, match="characters long"):
        parse("a" * (LONGEST + 1), FIELDS)
    for text in ("(" * 400 + "a" + ")" * 400, "not " * 240 + "a"):
        with pytest.raises(Invalid, match="at most"):
            parse(text, FIELDS)


PIECES = st.sampled_from([
    *FIELDS, "=", "!=", ">", "<", ">=", "<=", "like", "and", "or", "not", "sortby", "desc", "asc", "(", ")", ",", "up", "80",
    '"', "'", "\\", ";", "--", "*", "%", "_", "\0", "2026-11-23", "true", "9" * 40, "ſ", "İ", "\u00a0", "",
])


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map(" ".join), st.lists(PIECES, max_size=14).map("".join)))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    try:
        query = parse(text, FIELDS)
    except Invalid as no:
        assert no.message.endswith(".")
    else:
        assert isinstance(query, Query)
    for line in completions(text, FIELDS):
        assert line.startswith(text[: len(text) - len(text.split(" ")[-1])].rstrip()) or line


COMPLETIONS = [
    ("", "status"), ("sta", "started_at"), ("status ", "status ="), ("status = ", "status = up"), ("status = d", "status = down"),
    ("status = up ", "status = up sortby"), ("status = up and ", "status = up and name"), ("(name = a ", "(name = a )"),
    ("name sortby ", "name sortby status"), ("sortby name ", "sortby name desc"), ("enabled = ", "enabled = true"),
]


@pytest.mark.parametrize(("text", "one"), COMPLETIONS)
def test_completes(text: str, one: str) -> None:
    assert one in completions(text, FIELDS, most=50)


@pytest.mark.parametrize("text", ["bad = ", '"open', "status = up )", "cpu_usage like "])
def test_completes_nothing_after_a_mistake(text: str) -> None:
    assert completions(text, FIELDS) == []
