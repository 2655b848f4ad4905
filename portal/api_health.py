"""Alive, ready, and figures for Prometheus."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from backend.db import Tx
from backend.directory.models import WebSession
from backend.hosts.models import Host
from backend.tasks.models import Task, Worker
from broker.models import ConsoleSession
from pools.models import Lease, PoolMember
from portal.parts import parts
from portal.routes import answer, now
from portal.transaction import tx

BEAT_OLD = timedelta(seconds=60)  # a manager without a beat for so long is gone


def install(app: Flask) -> None:
    """/healthz, /readyz and /metrics, asked by whoever watches; none of them tells anything personal."""
    registry = CollectorRegistry()
    requests = Counter("leasehold_requests", "Requests answered", ["method", "endpoint", "status"], registry=registry)
    seconds = Histogram("leasehold_request_seconds", "Time until an answer begins", ["endpoint"], registry=registry)

    @app.after_request
    def count(response: Response) -> Response:
        endpoint = request.endpoint or "none"
        requests.labels(request.method, endpoint, str(response.status_code)).inc()
        seconds.labels(endpoint).observe(time.monotonic() - g.get("started", time.monotonic()))
        return response

    @app.get("/healthz")
    def healthz() -> Response:
        """The process answers."""
        return answer({"ok": True})

    @app.get("/readyz")
    def readyz() -> Response:
        """The database, a manager and the gateway are there; 503 names what is not."""
        found = {"database": _database(tx()), "manager": _manager(tx()), "gateway": _gateway()}
        return answer({"ok": all(found.values()), **found}, 200 if all(found.values()) else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus' text form: this process's requests, and the whole place's sessions, leases, tasks and hosts."""
        place = CollectorRegistry()
        for name, about, label, rows in _figures(tx()):
            gauge = Gauge(name, about, [label], registry=place)
            for value, count in rows:
                gauge.labels(value).set(count)
        return Response(generate_latest(registry) + generate_latest(place), content_type=CONTENT_TYPE_LATEST)


def _figures(tx: Tx) -> list[tuple[str, str, str, Any]]:
    def by(column: Any, *where: Any) -> Any:
        return tx.execute(sa.select(column, sa.func.count()).where(*where).group_by(column)).all()

    return [
        ("leasehold_sessions", "People and programs signed in", "client",
         by(WebSession.client, WebSession.ended_at.is_(None), WebSession.expires_at > now())),
        ("leasehold_consoles", "Consoles open", "protocol", by(ConsoleSession.protocol, ConsoleSession.ended_at.is_(None))),
        ("leasehold_leases", "Leases by state", "state", by(Lease.state, Lease.state != "ended")),
        ("leasehold_members", "Pool members by state", "state", by(PoolMember.state)),
        ("leasehold_tasks", "Tasks by state", "state", by(Task.state)),
        ("leasehold_hosts", "Hosts by state", "state", by(Host.state)),
    ]


def _database(tx: Tx) -> bool:
    return tx.scalar(sa.select(1)) == 1


def _manager(tx: Tx) -> bool:
    """Whether any manager's worker has beaten lately, by the database's clock, which all of them share."""
    return tx.scalar(sa.select(sa.exists().where(Worker.beat_at > now() - BEAT_OLD))) or False


def _gateway() -> bool:
    """Whether something accepts connections where people are sent for consoles."""
    import socket

    host, _, port = parts().settings.gateway_public.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]") or "127.0.0.1", int(port)), timeout=2):
            return True
    except OSError:
        return False
