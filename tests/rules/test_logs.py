"""A log line about a bug tells where it happened, and nothing of what people typed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import sqlalchemy as sa

from backend.db import Sessions

PROGRAM = """
import structlog
from backend.logs import configure
configure()
def sign_in(password):
    raise RuntimeError("a bug")
try:
    sign_in("opensesame")
except RuntimeError:
    structlog.get_logger("web").exception("request failed")
"""


def test_a_traceback_names_places_but_shows_no_values() -> None:
    program = PROGRAM.replace('"opensesame"', '"open" + "sesame"')  # not in the source line that is shown
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    frames = line["exception"][0]["frames"]
    assert [frame["name"] for frame in frames] == ["<module>", "sign_in"] and line["exception"][0]["exc_value"] == "a bug"
    assert "opensesame" not in done.stderr


def test_what_is_written_to_a_database_is_not_in_its_errors(sessions: Sessions) -> None:
    with pytest.raises(sa.exc.DBAPIError) as failed, sessions() as tx:
        tx.execute(sa.text("SELECT 1 / 0 WHERE :secret <> ''"), {"secret": "a sealed password"})
    assert "a sealed password" not in str(failed.value)
