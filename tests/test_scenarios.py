"""Plays every scenario folder on the simulated data center, and compares what happened with its log."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.db import Sessions
from sim import script
from sim.scenario import compare, play
from sim.story import Wrong

EVERY = sorted(path.parent for path in (Path(__file__).parent / "scenarios").glob("*/script"))
# all of them take twelve minutes of two cores: `make stories` plays all, `make test` every third
FOLDERS = EVERY if os.environ.get("STORIES") == "all" else EVERY[::3]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_scenario(folder: Path, sessions: Sessions, request: pytest.FixtureRequest) -> None:
    assert (folder / "README.md").read_text().strip(), "say in two or three sentences what must be seen, and why"
    try:
        log = play(folder, sessions)
    except Wrong as wrong:
        pytest.fail(str(wrong), pytrace=False)
    rewrite = request.config.getoption("--rewrite") or os.environ.get("SCENARIOS_REWRITE") == "1"
    if difference := compare(folder, log, rewrite=rewrite):
        pytest.fail(f"It went otherwise. If that is right: SCENARIOS_REWRITE=1, and review.\n{difference}", pytrace=False)


@pytest.mark.parametrize("line, says", [
    ("alice conects to Desktops", "script:1: “alice conects to Desktops” is not understood. Possible are:"),
    ("dave connects to Desktops", "nobody is called dave. There are alice"),
    ("alice connects to Desks", "there is no pool and no VM called Desks. Pools: Desktops."),
    ("admin edits Desktops colour=blue", "pool.edit has no field colour; it has pool_id, pool_name"),
    ("admin edits Desks size=2", "none of them is called Desks"),
    ("power beta off", "'beta' is not known"),
    ("until alice is happy\n", "did not come true within 12 h: alice is happy."),
])  # fmt: skip
def test_a_wrong_line_says_what_is_possible(line: str, says: str, tmp_path: Path, sessions: Sessions) -> None:
    (tmp_path / "world.toml").write_text('people = ["alice"]')
    (tmp_path / "script").write_text(line)
    with pytest.raises(Wrong) as wrong:
        play(tmp_path, sessions)
    assert says in str(wrong.value)


def test_a_wrong_world_says_what_is_possible(tmp_path: Path, sessions: Sessions) -> None:
    (tmp_path / "world.toml").write_text("[pools.Desktops]\ncolour = 1")
    with pytest.raises(Wrong, match=r"world.toml: pool Desktops has no colour; possible: .*lease_s"):
        play(tmp_path, sessions)


def test_every_example_of_a_sentence_is_one() -> None:
    for known in script.SENTENCES:
        for example in known.examples:
            first = next(other for other in script.SENTENCES if other.pattern.fullmatch(example))
            assert first is known, f"{example} is taken for {first.examples}"
