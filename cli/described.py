"""The portal's own description, and what follows from it: collections, nouns, verbs and their fields."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from cli.client import PREFIX, Client, Trouble

# fields that name something else, by the collection in which a name is looked up
COLLECTION_OF = {
    "template_id": "templates", "domain_id": "storagedomains", "cluster_id": "clusters", "host_id": "hosts", "pool_id": "pools",
    "user_id": "users", "group_id": "groups", "data_center_id": "datacenters", "directory_id": "directories", "vm_id": "vms",
    "device_id": "devices", "snapshot_id": "snapshots", "disk_id": "disks", "vnic_id": "vnics",
    "customaction_id": "customactions",
}


@dataclass(frozen=True)
class Field:
    """A field of a body: its type for the command line, and whether it must be given."""

    name: str
    type: str  # text | integer | number | boolean | list
    required: bool = False
    default: Any = None
    values: tuple[str, ...] = ()

    @property
    def secret(self) -> bool:
        """Never an option: what stands on a command line is seen by everybody on the machine."""
        return "password" in self.name

    @property
    def in_file(self) -> bool:
        """A secret of several lines: the option names the file that holds it."""
        return "private_key" in self.name


@dataclass(frozen=True)
class Action:
    """Something that can be done: `leasehold <noun> <verb>`."""

    noun: str
    verb: str
    method: str
    path: str  # after /api/v1, with {id}
    summary: str
    fields: tuple[Field, ...] = ()

    @property
    def on_one(self) -> bool:
        """Whether it is done to a thing that is there already."""
        return "{id}" in self.path


@dataclass(frozen=True)
class Description:
    """Everything this portal offers."""

    plurals: dict[str, str] = field(default_factory=dict)  # noun -> collection
    fields: dict[str, tuple[str, ...]] = field(default_factory=dict)  # collection -> fields of an item
    actions: dict[tuple[str, str], Action] = field(default_factory=dict)

    def nouns(self) -> list[str]:
        """Everything something can be done to."""
        return sorted({noun for noun, _ in self.actions})

    def verbs(self, noun: str) -> list[str]:
        """What can be done to it."""
        return sorted(verb for n, verb in self.actions if n == noun)


def fetch(client: Client) -> Description:
    """The description, asked for again only when it has changed."""
    cache, kept = client.config.cache, {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads(cache.read_text())
    known = kept.get("url") == client.config.url and kept.get("etag")
    status, told, headers = client.raw("GET", "/openapi.json", headers={"If-None-Match": kept["etag"]} if known else None)
    if status == 304:
        return read(kept["document"])
    if not isinstance(told, dict) or "paths" not in told:
        raise Trouble(4, f"{client.config.url} is no Leasehold portal: it does not describe itself.")
    with contextlib.suppress(OSError):  # a home that cannot be written only costs time
        client.config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.write_text(json.dumps({"url": client.config.url, "etag": headers.get("ETag"), "document": told}))
    return read(told)


def read(document: dict[str, Any]) -> Description:
    """Pure: what follows from an OpenAPI document."""
    paths = {path.removeprefix(PREFIX): methods for path, methods in document["paths"].items()}
    plurals, fields = {"desktop": "desktops"}, {}
    for path, methods in paths.items():
        if path.endswith("/{id}") and path.count("/") == 2 and "get" in methods:
            plural = path.split("/")[1]
            if "get" in paths.get(f"/{plural}", {}):
                plurals[methods["get"]["operationId"].removesuffix("_get")] = plural
                item = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
                fields[plural] = tuple((item.get("allOf") or [item])[0]["properties"])
    nouns = {plural: noun for noun, plural in plurals.items()}
    actions = {}
    for path, methods in sorted(paths.items(), key=lambda pair: pair[0].startswith("/me/")):  # a person's own way goes before
        for method in ("post", "delete"):
            if method in methods and (action := _action(path, method, methods[method], nouns)) is not None:
                actions[action.noun, action.verb] = action
    return Description(plurals, fields, actions)


def _action(path: str, method: str, operation: dict[str, Any], nouns: dict[str, str]) -> Action | None:
    parts = path.removeprefix("/me").strip("/").split("/")
    noun = nouns.get(parts[0])
    if noun is None:
        return None
    match parts[1:]:
        case []:
            verb = "create"
        case ["{id}", "entitlements"]:
            verb = "entitle"
        case ["{id}", verb] if "{" not in verb:
            pass
        case [verb] if "{" not in verb:
            pass
        case _:
            return None
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return Action(noun, verb.replace("_", "-"), method.upper(), path, operation["summary"], _fields(body))


def _fields(schema: dict[str, Any]) -> tuple[Field, ...]:
    required = set(schema.get("required", ()))
    found = []
    for name, told in schema.get("properties", {}).items():
        kinds = told.get("anyOf", [told])
        kind: dict[str, Any] = next((k for k in kinds if k.get("type") != "null"), {})
        type = {"integer": "integer", "number": "number", "boolean": "boolean", "array": "list"}.get(kind.get("type", ""), "text")
        if "$ref" in kind or kind.get("type") == "object":
            continue
        values = tuple(str(v) for v in kind.get("enum", ()) if v is not None)
        found.append(Field(name, type, name in required, told.get("default"), values))
    return tuple(found)
