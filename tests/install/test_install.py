"""A host is installed over SSH, from the command to a host that is up: a real SSH server, a declared installation program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import assembly
from backend.ca import Authority
from backend.db import Base, Sessions
from backend.errors import Invalid
from backend.events import move
from backend.hosts.certificates import Enroll
from backend.hosts.commands import ask_enrollment
from backend.hosts.install_commands import ConfirmKey, InstallHost
from backend.hosts.installing import FOLDER, PROGRAM, Installer, Source
from backend.hosts.models import Host, HostInstall
from backend.hosts.packages import Packages
from backend.loops import tick
from backend.secrets import Keyring
from backend.tasks.command import SYSTEM
from backend.tasks.models import Task
from backend.tasks.runner import Runner
from backend.tasks.submit import cancel, submit
from sim.make import a_cluster
from tests.conftest import ToldClock
from tests.pki import a_request
from tests.sshd import PASSWORD, SUDOER, USER, Sshd

OTHER = "SHA256:" + "B" * 43
DECLARED = """set -eu
case $1 in
check) [ ! -e {folder}/unfit ] || {{ echo "This is no Debian."; exit 1; }} ;;
install) echo "» Installs Debian packages"; echo started >> {folder}/starts; while [ ! -e {folder}/go ]; do sleep 0.1; done
    [ ! -e {folder}/broken ] || {{ echo "apt says no."; exit 100; }} ;;
enroll) cp /var/lib/leasehold-install/* {folder}/ ;;
remove) pid=$(cat /var/lib/leasehold-install/install.pid 2> /dev/null) && kill -- "-$pid" || true
    rm -rf /var/lib/leasehold-install; echo "Taken back." ;;
esac
"""


def everything(tx: sa.orm.Session) -> str:
    """All rows of all tables, as text."""
    return "\n".join(str(row) for name in Base.metadata.tables for row in tx.scalars(sa.text(f'SELECT t::text FROM "{name}" t')))


class Place:
    """A manager's task runner and its installer, and what the host's program sees."""

    def __init__(self, sessions: Sessions, clock: ToldClock, folder: Path) -> None:
        self.sessions, self.clock, self.folder = sessions, clock, folder
        self.keyring = Keyring(b"k" * 32)
        wheel = folder / "leasehold-1.2-py3-none-any.whl"
        wheel.write_bytes(b"wheel" * 1000)
        packages = Packages(str(wheel))
        program = DECLARED.format(folder=folder).encode()
        self.source = Source(packages, "https://manager.example", "the CA", b"needed", program)
        tick(sessions, packages)
        self.start()
        with sessions.begin() as tx:
            self.cluster_id = a_cluster(tx).id

    def start(self) -> None:
        """A manager; the one before knows nothing any more."""
        self.installer = Installer(self.source, self.keyring, self.clock)
        self.runner = Runner(self.sessions, assembly.COMMANDS, self.clock, lambda *_: None, self.keyring.reveal)  # type: ignore
        self.runner.beat()

    def install(self, server: Sshd, **other: Any) -> Any:
        login = {"username": "root", "private_key_sealed": server.root_key, "fingerprint": server.fingerprint}
        login = {"ssh_port": server.port, **login, **other}
        for name in ("password_sealed", "private_key_sealed"):
            if login.get(name):
                login[name] = self.keyring.seal(login[name])
        command = InstallHost("alpha", self.cluster_id, "127.0.0.1", storage_roots=("/srv/a", "/srv/b"), **login)
        with self.sessions.begin() as tx:
            result = submit(tx, command, SYSTEM, self.clock.now()).result
        assert result is not None
        return result

    def until(self, done: Callable[[sa.orm.Session], Any], what: str) -> None:
        for _ in range(300):
            tick(self.sessions, self.installer)
            for _ in range(12):
                self.clock.sleep(0.6)
                self.runner.step()
            with self.sessions() as tx:
                if done(tx):
                    return
        with self.sessions() as tx:
            raise AssertionError(f"never {what}: {[(t.title, t.state, t.message) for t in tx.scalars(sa.select(Task))]}")

    def ended(self) -> tuple[str, str, str]:
        """How the installation ended, the task's sentence and the host's; nothing is left of its secrets then."""
        self.until(lambda tx: not tx.scalars(sa.select(HostInstall)).first(), "ended")
        with self.sessions() as tx:
            task = tx.scalars(sa.select(Task).where(Task.command == "hostinstall.follow")).one()
            host = tx.scalars(sa.select(Host)).one()
            kept = everything(tx)
            assert PASSWORD not in kept and "PRIVATE" not in kept and "gAAAA" not in kept  # sealed ones begin so
            return task.state, task.message, host.why


@pytest.fixture
def place(sessions: Sessions, clock: ToldClock, tmp_path: Path) -> Iterator[Place]:
    tmp_path.chmod(0o755)
    yield Place(sessions, clock, tmp_path)
    (tmp_path / "go").touch()
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.mark.parametrize(
    "other, sentence",
    [
        ({"fingerprint": OTHER}, OTHER),
        ({"username": USER, "password_sealed": "wrong", "private_key_sealed": ""}, f"does not let {USER} in with this password"),
        ({"username": USER, "password_sealed": PASSWORD, "private_key_sealed": ""}, f"{USER} may not become root"),
        ({"private_key_sealed": "rubbish"}, "no private key"),
        ({"ssh_port": 1}, "No SSH server answers at 127.0.0.1:1"),
    ],
)
def test_who_cannot_get_in_is_told_why(place: Place, server: Sshd, other: dict[str, Any], sentence: str) -> None:
    place.install(server, **other)
    state, message, why = place.ended()
    assert state == "failed" and sentence in message and sentence in why
    assert other.get("fingerprint") is None or server.fingerprint in message
    assert not Path(FOLDER).exists()


def test_a_key_that_nobody_named_is_shown_and_confirmed(place: Place, server: Sshd) -> None:
    host_id = place.install(server, fingerprint="")["id"]
    place.until(lambda tx: server.fingerprint in tx.scalars(sa.select(Host.why)).one(), "shown")
    with place.sessions.begin() as tx, pytest.raises(Invalid):
        submit(tx, ConfirmKey(host_id, OTHER), SYSTEM, place.clock.now())
    with place.sessions.begin() as tx:
        submit(tx, ConfirmKey(host_id, server.fingerprint), SYSTEM, place.clock.now())
    place.until(lambda tx: (place.folder / "starts").exists(), "installing")


def test_a_host_is_installed_though_its_manager_is_killed(
    place: Place, server: Sshd, capfd: pytest.CaptureFixture[str]
) -> None:
    place.install(server, username=SUDOER, password_sealed=PASSWORD, private_key_sealed="")
    place.until(lambda tx: tx.scalars(sa.select(HostInstall.message)).one() == "Installs Debian packages", "installing")
    with place.sessions() as tx:
        assert PASSWORD not in everything(tx)
    place.start()
    place.clock.sleep(60)
    place.runner.beat()
    (place.folder / "go").touch()
    place.until(lambda tx: tx.scalars(sa.select(HostInstall.done)).one() == 5, "enrolled")
    assert (place.folder / "starts").read_text() == "started\n"
    assert not [file.name for file in Path(FOLDER).iterdir() if file.name == "token" or file.suffix == ".whl"]
    assert (place.folder / "leasehold-1.2-py3-none-any.whl").read_bytes() == b"wheel" * 1000
    settings = (place.folder / "settings").read_text()
    assert "MANAGER=https://manager.example" in settings and "STORAGE='/srv/a /srv/b'" in settings
    with place.sessions.begin() as tx:
        ask_enrollment(tx, token=(place.folder / "token").read_text(), csr=a_request(), address="127.0.0.1", port=7443,
                       console_port=7444, now=place.clock.now())
    tick(place.sessions, Enroll(Authority.for_hosts(place.clock.now()), place.clock))
    with place.sessions.begin() as tx:
        move(tx, tx.scalars(sa.select(Host)).one(), "answered")
    assert place.ended() == ("succeeded", "Done.", "")
    assert PASSWORD not in str(capfd.readouterr())


def test_the_program_for_debian_is_a_program() -> None:
    for words in (["-n", str(PROGRAM)], [str(PROGRAM), "check"]):
        said = subprocess.run(["sh", *words], capture_output=True, text=True)
        assert not said.stderr, said.stderr


def test_a_program_that_fails_is_quoted_and_taken_back(place: Place, server: Sshd) -> None:
    (place.folder / "broken").touch()
    (place.folder / "go").touch()
    place.install(server)
    state, message, why = place.ended()
    assert state == "failed" and message.endswith("ended with 100: apt says no.") and why.endswith("apt says no. Taken back.")
    assert not Path(FOLDER).exists()


def test_a_cancelled_one_is_taken_back(place: Place, server: Sshd) -> None:
    task_id = int(place.install(server)["task"])
    place.until(lambda tx: (place.folder / "starts").exists(), "installing")
    with place.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task_id), place.clock.now())
    assert place.ended() == ("cancelled", "Cancelled.", "The installation was cancelled. Taken back.")
    assert not Path(FOLDER).exists()


def test_one_that_is_cancelled_before_it_began_is_forgotten(place: Place, server: Sshd) -> None:
    task_id = int(place.install(server)["task"])
    with place.sessions.begin() as tx:
        cancel(tx, tx.get_one(Task, task_id), place.clock.now())
    assert place.ended() == ("cancelled", "Cancelled before it began.", "The installation was cancelled before it began.")


def test_a_host_that_is_not_fit(place: Place, server: Sshd) -> None:
    (place.folder / "unfit").touch()
    place.install(server)
    assert place.ended()[:2] == ("failed", "This is no Debian.")
