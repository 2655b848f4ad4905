"""The wheel, installed elsewhere and used from another folder, has everything that the checkout has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

LOOK = """
import json, importlib.metadata
import broker.gateway  # first: it makes the process cooperative
import wsgi, managerd, assembly, agent, cli.__main__, standalone.__main__
import portal
from backend.schema import alembic_config
from standalone.guest import FILES
scripts = importlib.metadata.distribution("leasehold").entry_points
print(json.dumps({
    "modules": [m.__file__ for m in (wsgi, managerd, assembly, agent, broker.gateway, portal)],
    "templates": str(portal.web_folder("templates")), "static": str(portal.web_folder("static")),
    "migrations": alembic_config("postgresql://").get_main_option("script_location"), "guest": str(FILES),
    "scripts": {s.name: callable(s.load()) for s in scripts if s.group == "console_scripts"},
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", folder / "site", *folder.glob("*.whl")], check=True, capture_output=True)
    return folder / "site"


def test_everything_is_found_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for place in (*found["modules"], found["templates"], found["static"], found["migrations"], found["guest"]):
        assert place.startswith(str(installed)), f"{place} is not in the wheel"
    assert set(found["scripts"]) >= {"leasehold", "leasehold-managerd", "leasehold-web", "leasehold-gateway", "leasehold-agent"}
    assert all(found["scripts"].values())


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("templates", "portal/templates"), ("static", "portal/static"), ("standalone/guest", "standalone/guest"),
     ("backend/migrations", "backend/migrations")],
)  # fmt: skip
def test_files_that_are_no_modules_travel_too(installed: Path, mine: str, theirs: str) -> None:
    def names(folder: Path) -> set[str]:
        return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts}

    assert names(ROOT / mine) <= names(installed / theirs)


def test_neither_tests_nor_state_travel(installed: Path) -> None:
    assert {path.name for path in installed.iterdir()}.isdisjoint({"tests", "docs", "var", "node_modules", "Makefile"})


@pytest.mark.parametrize("name", ["requirements.lock", "package-lock.json", "package.json", "pyproject.toml", ".npmrc"])
def test_no_file_names_a_registry(name: str) -> None:
    """Where packages come from is a matter of the machine; `homepage`-like addresses have no place here either."""
    text = (ROOT / name).read_text()
    assert "http://" not in text and "https://" not in text and "index-url" not in text and "find-links" not in text
