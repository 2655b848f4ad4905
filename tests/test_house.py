"""The house keeps its rules: floors by import-linter, the rest by a walk over the syntax trees."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import assembly
from backend.catalogue import CATALOGUE
from standalone import reference

ROOT = Path(__file__).parent.parent
PACKAGES = ("portal", "broker", "pools", "backend", "hostapi", "agent", "sim", "standalone", "cli")
FILES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "migrations/versions" not in str(path)
) + [ROOT / "wsgi.py", ROOT / "managerd.py", ROOT / "assembly.py"]

# who may begin a transaction, and why each of them
OPENERS = {
    "portal/transaction.py": "a request",
    "backend/tasks/runner.py": "plan, record, beat",
    "backend/loops.py": "read, apply",
    "broker/gateway.py": "redeem, record",
    "backend/bootstrap.py": "a new installation's first rows",
    "sim/installation.py": "tests and scenarios, which stand outside",
    "sim/center.py": "a data center's first rows",
    "sim/rows.py": "what is there, once",
}
# where an exception of any kind may be caught: the edges of a process
EDGES = re.compile(
    r"portal/|backend/tasks/runner\.py|backend/loops\.py|backend/db\.py|broker/(gateway|door)|hostapi/(desk|server)\.py|agent/|cli/|standalone/|sim/"
)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def walk(kind: type[ast.AST]) -> Iterator[tuple[Path, ast.AST]]:
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, kind):
                yield path, node


def test_floors() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_roots_are_imported_by_nobody_below() -> None:
    roots = {"wsgi", "managerd", "assembly"}
    for path in FILES:
        here = name_of(path)
        if here.removesuffix(".py") in roots or here.startswith(("sim/", "standalone/")):
            continue
        found = {m.split(".")[0] for m in imports(path)} & roots
        assert not found, f"{here} imports the root {found}"


def imports(path: Path) -> set[str]:
    """The modules this file imports when it is loaded (imports inside functions do not make circles)."""
    found = set()
    for node in tree(path).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_circles() -> None:
    modules = {name_of(p).removesuffix(".py").removesuffix("/__init__").replace("/", "."): p for p in FILES}
    edges = {name: sorted(imports(path) & modules.keys() - {name}) for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above[above.index(name) :], name])
        if name not in done:
            for below in edges[name]:
                visit(below, (*above, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_one_writer_of_state() -> None:
    for path, node in walk(ast.Assign):
        for target in node.targets:  # type: ignore[attr-defined]
            if (
                isinstance(target, ast.Attribute)
                and target.attr == "state"
                and name_of(path).split("/")[0] in ("backend", "pools", "broker", "portal")
            ):
                assert isinstance(target.value, ast.Name) and target.value.id == "self", (
                    f"{name_of(path)}:{node.lineno} writes .state"
                )
    for path in FILES:
        if name_of(path) != "backend/events.py":
            assert not re.search(r"\.values\([^)]*\bstate=", path.read_text()), f"{name_of(path)} updates a state past move()"


def test_few_open_transactions() -> None:
    found = {
        name_of(path) for path in FILES if re.search(r"sessions?(\.kw\[.bind.\])?\.begin\(|\bsessions\(\)", path.read_text())
    }
    assert found <= OPENERS.keys(), f"{found - OPENERS.keys()} open transactions"


def test_catch_all_only_at_the_edges() -> None:
    for path, node in walk(ast.ExceptHandler):
        caught = getattr(node, "type", None)
        if caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException")):
            assert EDGES.search(name_of(path)), f"{name_of(path)}:{node.lineno} catches everything"  # type: ignore[attr-defined]


def test_no_star_imports() -> None:
    for path, node in walk(ast.ImportFrom):
        assert all(alias.name != "*" for alias in node.names), name_of(path)  # type: ignore[attr-defined]


def test_every_module_says_what_it_is() -> None:
    assert not [name_of(path) for path in FILES if not ast.get_docstring(tree(path))]


@pytest.mark.parametrize(
    "outside, door",
    [
        ("libvirt", {"agent/virt.py", "agent/saves.py", "agent/moves.py", "agent/hotplug.py", "agent/cpus.py"}),
        ("ldap3", {"backend/directory/ldap.py"}),
        ("paramiko", {"backend/hosts/ssh.py"}),
        ("subprocess", {"agent/shell.py"}),
        ("flask", None),
    ],
)
def test_one_door_per_outside_thing(outside: str, door: set[str] | None) -> None:
    for path in FILES:
        here = name_of(path)
        if any(m == outside or m.startswith(f"{outside}.") for m in imports(path)):
            if outside == "flask":
                assert here.startswith("portal/"), here
            elif outside == "subprocess" and here.startswith(("standalone/", "cli/", "sim/")):
                continue
            else:
                assert here in (door or ()), f"{here} imports {outside}"


def test_every_command_has_a_permission_and_words() -> None:
    for wire, command in assembly.COMMANDS.items():
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", wire)
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", command.permission), wire
        assert command.__doc__, wire
        for step in command.steps:
            assert callable(getattr(command, step, None)), f"{wire} has no {step}"
        assert command.steps or hasattr(command, "run"), wire


def test_every_recorded_event_is_in_the_catalogue() -> None:
    for path, node in walk(ast.Call):
        func = node.func  # type: ignore[attr-defined]
        if isinstance(func, ast.Name) and func.id == "record" and len(node.args) > 1:  # type: ignore[attr-defined]
            code = node.args[1]  # type: ignore[attr-defined]
            if isinstance(code, ast.Constant):
                assert code.value in CATALOGUE, f"{name_of(path)}:{node.lineno} records {code.value}"  # type: ignore[attr-defined]


def test_no_registry_address_is_committed() -> None:
    for path in [ROOT / "requirements.lock", ROOT / "package-lock.json", ROOT / "pyproject.toml", ROOT / ".npmrc"]:
        if path.exists():
            assert not re.search(r"registry\.|pypi|\"resolved\"|--index-url|--extra-index", path.read_text()), path


@pytest.mark.parametrize("page", reference.PAGES)
def test_printed_docs_are_up_to_date(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == reference.PAGES[page](), "run `make reference`"
