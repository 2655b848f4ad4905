"""`leasehold storage inspect` on a folder with real volumes, without a portal."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from agent.storage import Storage
from cli.__main__ import run
from hostapi.types import VolumeAbout, VolumeSpec
from tests.contract.test_keeping import definition


def test_it_tells_what_is_there_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert run(["storage", "inspect", str(root)]) == 1
    assert "is no storage domain" in " ".join(capsys.readouterr().err.split())
    storage = Storage([str(root)], tmp_path / "domains.json", lambda _: [])
    storage.attach(str(root))
    base = VolumeSpec(uuid4(), str(root), 16, about=VolumeAbout("gold-1"))
    over = VolumeSpec(uuid4(), str(root), 16, storage.create(base), about=VolumeAbout("w1-1"))
    storage.create(over)
    kept = definition(1)
    storage.keep(str(root), [kept])
    assert run(["storage", "inspect", str(root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {disk["name"]: [Path(one).stem for one in disk["chain"]] for disk in told["disks"]} == {
        "gold-1": [], "w1-1": [str(base.volume_id)],
    }  # fmt: skip
    assert [one["name"] for one in told["templates"]] == ["gold"] and told["problems"] == []
    file = root / "templates" / f"{kept.id}.meta"
    file.write_bytes(file.read_bytes()[:-1])
    assert run(["storage", "inspect", str(root)]) == 1
    assert "not written to its end" in capsys.readouterr().out
