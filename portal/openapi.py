"""OpenAPI 3.1, made from the route table and the commands' own fields; and a page that shows it."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from flask import Response, current_app, jsonify, render_template, request

from portal.routes import Route, Routes

routes = Routes("about")

ERROR = {"type": "object", "required": ["error"], "properties": {"error": {
    "type": "object", "required": ["code", "message", "facts"], "properties": {
        "code": {"type": "string"}, "message": {"type": "string", "description": "one sentence for a person"},
        "facts": {"type": "object"}}}}}

_REFUSALS = {"400": "The request cannot be read.", "401": "Nobody is signed in.", "403": "Not allowed.",
             "404": "There is no such thing, or none you may see.", "409": "Not now: busy, or its state does not allow it.",
             "413": "Larger than 1 MiB.", "415": "The body is not JSON.", "422": "A field is missing, unknown or wrong.",
             "429": "Too often; see Retry-After.", "503": "Something that is needed does not answer."}


def document(declared: list[Route]) -> dict[str, Any]:
    """The whole description of these routes."""
    paths: dict[str, dict[str, Any]] = {}
    components: dict[str, Any] = {"Error": ERROR}
    for route in sorted(declared, key=lambda r: (r.path, r.method)):
        path = "/api/v1" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Leasehold", "version": "1", "description": "People's desktops, and everything beneath them."},
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    names = re.findall(r"<(?:\w+:)?(\w+)>", route.path)
    told: dict[str, Any] = {
        "operationId": route.endpoint, "summary": route.summary, "tags": [route.tag],
        "parameters": [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names] + [
            {"name": n, "in": "query", "schema": {k: v for k, v in schema.items() if k != "description"},
             **({"description": schema["description"]} if "description" in schema else {})} for n, schema in route.query.items()],
        "responses": {str(status): _response(schema, route.media) for status, schema in route.answers.items()} | {
            status: {"description": why, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
            for status, why in _REFUSALS.items()},
    }
    if not route.signed_in:
        told["security"] = []
    if route.method == "POST" and route.signed_in:
        told["parameters"].append({"name": "Idempotency-Key", "in": "header",
                                   "schema": {"type": "string", "minLength": 1, "maxLength": 200}})
    if route.command:
        told["x-leasehold-command"] = route.command
    if route.body is not None:
        schema = body_schema(route, components)
        told["requestBody"] = {"required": bool(schema.get("required")), "content": {"application/json": {"schema": schema}}}
    return told


def _response(schema: Any, media: str) -> dict[str, Any]:
    if schema is None:
        return {"description": "Done."}
    return {"description": "As asked.", "content": {media: {"schema": schema}}}


def body_schema(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    """The body's JSON schema: the class's fields, without those the path gives, by their outside names."""
    _, defined = msgspec.json.schema_components([route.body], ref_template="#/components/schemas/{name}")
    schema = dict(defined.pop(route.body.__name__))
    for name, inner in defined.items():
        components.setdefault(name, inner)
    called = {inside: outside for outside, inside in route.renamed.items()}
    schema["properties"] = {called.get(n, n): s for n, s in schema.get("properties", {}).items() if n not in route.hidden}
    schema["required"] = [called.get(n, n) for n in schema.get("required", ()) if n not in route.hidden]
    schema["additionalProperties"] = False
    schema.pop("title", None)
    return schema


@routes.route("GET", "/openapi.json", "This description.", signed_in=False, answers={200: {"type": "object"}})
def openapi_json() -> Response:
    """OpenAPI 3.1."""
    response = jsonify(_document())
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return response.make_conditional(request)  # type: ignore[return-value]


@routes.route("GET", "/docs", "This description as a page.", signed_in=False, answers={200: {"type": "string"}},
              media="text/html")
def openapi_page() -> str:
    """The same for people."""
    told = _document()
    by_tag: dict[str, list[tuple[str, str, Any]]] = {}
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return render_template("api.html", tags=sorted(by_tag.items()), openapi=told["openapi"])


def _document() -> dict[str, Any]:
    kept = current_app.extensions
    if "openapi" not in kept:
        kept["openapi"] = document(kept["routes"])
    return kept["openapi"]  # type: ignore[no-any-return]
