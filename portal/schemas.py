"""JSON schemas of rows and pages, made from the fields of a kind."""

from __future__ import annotations

from typing import Any

from backend.search.query import Field, Kind

_TYPES: dict[str, dict[str, Any]] = {
    "text": {"type": ["string", "null"]}, "texts": {"type": ["array", "null"], "items": {"type": "string"}},
    "choice": {"type": "string"}, "number": {"type": ["number", "null"]}, "yesno": {"type": ["boolean", "null"]},
    "time": {"type": ["string", "null"], "format": "date-time"}, "id": {"type": ["string", "null"]}, "json": {}, "private": {},
}


def field_schema(field: Field) -> dict[str, Any]:
    """A field's JSON."""
    schema = dict(_TYPES[field.type])
    if field.values:
        schema["enum"] = list(field.values)
    if field.about:
        schema["description"] = field.about
    return schema


def item_schema(kind: Kind) -> dict[str, Any]:
    """A row of this kind."""
    return {"type": "object", "required": list(kind.fields),
            "properties": {name: field_schema(field) for name, field in kind.fields.items()}}


def list_schema(kind: Kind) -> dict[str, Any]:
    """A page of such rows."""
    return {"type": "object", "required": ["items", "next", "total"], "properties": {
        "items": {"type": "array", "items": item_schema(kind)}, "next": {"type": ["string", "null"]},
        "total": {"type": "integer"}}}
