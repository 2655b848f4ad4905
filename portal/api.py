"""REST: every route, guarded: who is not signed in is told so before anything else, and a POST with a key is done once."""

from __future__ import annotations

from functools import wraps
from typing import Any

from flask import Blueprint, Flask, request

from portal import (
    api_bookings,
    api_commands,
    api_desktops,
    api_devices,
    api_directories,
    api_files,
    api_health,
    api_hosts,
    api_lists,
    api_pools,
    api_session,
    api_tokens,
    datacenter_map,
    explain,
    live,
    openapi,
    placement,
)
from portal.auth import no_cookie, person
from portal.idempotency import once
from portal.routes import PREFIX, Route, View


def install(app: Flask) -> None:
    """Register every REST route and remember it for the description."""
    api = Blueprint("api", __name__, url_prefix=PREFIX)
    commands = api_commands.routes(app.extensions["parts"].commands)
    described: list[Route] = []
    for routes in (api_session.routes, api_tokens.routes, api_desktops.routes, api_bookings.routes, api_lists.routes,
                   api_pools.routes, api_hosts.routes, api_directories.routes, api_devices.routes, api_files.routes,
                   explain.routes, placement.routes, datacenter_map.routes, commands, live.routes, openapi.routes):
        for route, view in routes.found:
            view = _signed_in(view) if route.signed_in else no_cookie(view)
            api.add_url_rule(route.path, route.endpoint, view, methods=[route.method])
            described.append(route)
    app.register_blueprint(api)
    app.extensions["routes"] = described
    api_health.install(app)


def _signed_in(view: View) -> View:
    @wraps(view)
    def guarded(**given: Any) -> Any:
        person()
        return once(lambda: view(**given)) if request.method == "POST" else view(**given)

    return guarded
