"""The desk and its journal, killed before every line that they execute: done at least once, answered once for all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_between_every_two_lines(tmp_path: Path) -> None:
    script = subprocess.run(
        [sys.executable, str(ROOT / "tests/contract/killed_desk.py"), str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert script.returncode == 0, script.stderr
    kills = json.loads(script.stdout)
    assert len(kills) > 40  # as many lines as were killed at
    assert not kills[0]["answered"] and kills[-1]["answered"]
    for n, kill in enumerate(kills, 1):
        assert (kill["second"], kill["third"]) == ("done", "done"), (n, kill)
        # What was journalled is never done again; what was not is done once more, and then never again.
        assert kill["after"] == (kill["before"] if kill["journalled"] else kill["before"] + 1), (n, kill)
        assert kill["after"] in (1, 2), (n, kill)
        if kill["answered"]:
            assert kill["journalled"], (n, kill)
    assert any(kill["before"] and not kill["journalled"] for kill in kills)  # killed between doing and journalling
