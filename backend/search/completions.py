"""Pure: what may come next in a search that is being typed."""

from __future__ import annotations

from collections.abc import Mapping

from backend.errors import Invalid
from backend.search.language import OF_TYPE, FieldFacts, Token, parse, tokens

BEFORE_TERM = ("not", "(")


def completions(text: str, fields: Mapping[str, FieldFacts], most: int = 12) -> list[str]:
    """The whole text with each thing that may come next, best first; nothing when the text is already wrong."""
    try:
        pieces = tokens(text)[:-1]
    except Invalid:
        return []
    partial = ""
    if pieces and pieces[-1].kind == "word" and not text[-1:].isspace():
        partial = pieces.pop().text
    head = text[: len(text) - len(partial)]
    if head and not head[-1].isspace() and head[-1] != "(":
        head += " "
    wanted = [word for word in _next(pieces, fields) if word.startswith(partial.lower()) and word != partial.lower()]
    return [head + word for word in wanted if _fits(head, word, fields)][:most]


def _fits(head: str, word: str, fields: Mapping[str, FieldFacts]) -> bool:
    """Whether the text up to this word can still become a search."""
    try:
        parse(head + word, fields)
    except Invalid as no:
        return int(no.facts.get("at", 0)) > len(head) + len(word)
    return True


def _next(pieces: list[Token], fields: Mapping[str, FieldFacts]) -> list[str]:
    """Words that may follow these pieces, of which the last is complete."""
    words = [piece.text.lower() for piece in pieces]
    last = words[-1] if words else ""
    kind = pieces[-1].kind if pieces else ""
    if "sortby" in words:
        if last in ("sortby", ","):
            return sorted(fields)
        return [","] if last in ("asc", "desc") else ["asc", "desc", ","]
    if kind == "operator" or last == "like":
        facts = fields.get(words[-2]) if len(words) > 1 else None
        if facts is None:
            return []
        return ["true", "false"] if facts.type == "yesno" else list(facts.values)
    if not pieces or last in ("and", "or", "not", "("):
        return [*sorted(fields), *BEFORE_TERM, *([] if pieces else ["sortby"])]
    before = pieces[-2] if len(pieces) > 1 else None
    is_value = before is not None and (before.kind == "operator" or before.text.lower() == "like")
    joins = ["and", "or", "sortby"]
    if kind == "mark":
        return [*joins, ")"]
    if not is_value and kind == "word" and last in fields:
        return [*OF_TYPE[fields[last].type], *joins]
    return [*joins, ")"] if "(" in words else joins
