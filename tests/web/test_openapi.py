"""The description is true: schemathesis asks every operation, with things that exist and things that do not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import assembly
from backend.db import new_sessions
from portal.api_commands import shape_of
from sim.postgres import Cluster
from tests.conftest import ToldClock
from tests.pki import Pki
from tests.web.place import BASE, Place

# endless, or the end of the session that asks
NOT_ASKED = {"changes", "end_session"}
EACH = 8  # tries an operation: enough to find a missing check, short enough to be run every time


@pytest.fixture(scope="module")
def place(cluster: Cluster, pki: Pki) -> Iterator[Place]:
    name = cluster.new_database()
    sessions = new_sessions(cluster.url(name))
    files = pki.issue("gateway", "gateway")
    yield Place(sessions, ToldClock(), ca_file=str(files.ca_file), hosts_ca_file=str(files.ca_file),
                tls_cert_file=str(files.cert_file))
    sessions.kw["bind"].dispose()
    cluster.drop(name)


@pytest.fixture(scope="module")
def described(place: Place) -> Any:
    described = schemathesis.openapi.from_dict(place.as_(None).get("/api/v1/openapi.json").get_json())
    described.app = place.app
    return described


def test_it_is_openapi_3_1_and_has_every_route_once(place: Place) -> None:
    told = place.as_(None).get("/api/v1/openapi.json").get_json()
    assert told["openapi"] == "3.1.0"
    routes = {(method.lower(), rule.rule.replace("<", "{").replace(">", "}"))
              for rule in place.app.url_map.iter_rules() if rule.rule.startswith("/api/v1/")
              for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    assert routes == {(method, path) for path, methods in told["paths"].items() for method in methods}
    names = [operation["operationId"] for methods in told["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_every_command_is_there_and_secrets_have_no_fields(place: Place) -> None:
    told = place.as_(None).get("/api/v1/openapi.json").get_json()
    commands = {o.get("x-leasehold-command") for methods in told["paths"].values() for o in methods.values()} - {None}
    assert commands == {name for name, cls in assembly.COMMANDS.items() if shape_of(name, cls) is not None}
    assert "_sealed" not in str(told)
    assert "ticket.set" not in commands


def test_the_page_shows_every_operation(place: Place) -> None:
    page = place.as_(None).get("/api/v1/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    for path in place.as_(None).get("/api/v1/openapi.json").get_json()["paths"]:
        assert f"<code>{path}</code>" in page.text


def operations(described: Any) -> list[Any]:
    found = [result.ok() for result in described.get_all_operations()]
    return [o for o in found if o.definition.raw["operationId"] not in NOT_ASKED]


def test_no_request_breaks_the_portal_or_the_description(place: Place, described: Any) -> None:
    """Every operation, as administrator, with generated bodies and queries and, every other time, a real id."""
    asked, wrong = operations(described), {}
    assert len(asked) > 90
    for operation in asked:
        tag = operation.definition.raw["tags"][0].removesuffix("s")
        real = place.ids.get({"directorie": "directory", "me": "pool"}.get(tag, tag))
        try:
            ask(place, operation, str(real))
        except (AssertionError, ExceptionGroup, Failure) as failed:
            wrong[operation.label] = "\n".join(str(e) for e in getattr(failed, "exceptions", [failed]))[:1500]
    assert not wrong, "\n\n".join(f"{label}: {why}" for label, why in wrong.items())


def ask(place: Place, operation: Any, real: str) -> None:
    """Some requests of this operation; raises what is wrong with an answer."""
    dice = random.Random(7)

    @settings(max_examples=EACH, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy())
    def each(case: Any) -> None:
        if "id" in (case.path_parameters or {}) and dice.random() < 0.5:
            case.path_parameters["id"] = real
        case.call_and_validate(base_url=BASE, headers={"Authorization": f"Bearer {place.tokens['root']}"}, checks=[
            not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance])

    each()


def test_the_requests_above_were_more_than_refusals(place: Place) -> None:
    """Counted by the portal itself: most operations were answered as described, not only refused."""
    text = place.as_(None).get("/metrics").text
    counted = re.findall(r'leasehold_requests_total\{endpoint="api\.(\w+)",method="\w+",status="(\d+)"\} (\S+)', text)
    assert sum(float(n) for *_, n in counted) > 500
    fine = {endpoint for endpoint, status, _ in counted if status in ("200", "201", "202", "204")}
    assert len(fine) > 50
