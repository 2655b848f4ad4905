"""Run by a test in a process of its own: proves passwords as the web does, cooperative sockets in gevent's pool threads."""

from backend import green

green.patch()

import json  # noqa: E402
import sys  # noqa: E402
from uuid import uuid4  # noqa: E402

import gevent  # noqa: E402

from backend.directory.facts import DirectoryFacts  # noqa: E402
from backend.directory.ldap import ActiveDirectory  # noqa: E402
from backend.directory.names import read_login  # noqa: E402

asked = json.load(sys.stdin)
door = ActiveDirectory(DirectoryFacts(uuid4(), servers=tuple(asked["servers"]), name=asked["name"], bind_user=asked["bind_user"],
                                      bind_password_sealed=asked["bind_password"], ca_pem=asked["ca_pem"]), str)
pool = gevent.get_hub().threadpool
ticks = 0


def tick() -> None:
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)


def ask(n: int) -> list[bool]:
    """A right and a wrong password in a pool thread, and a search in the greenlet itself, as an admin's page does."""
    right, wrong = (pool.spawn(door.prove, read_login(asked["login"]), asked["password"] + extra).get() for extra in ("", "x"))
    return [right.person is not None, wrong.refusal is not None and wrong.guess, len(door.search(asked["find"])) == 1]


beside = gevent.spawn(tick)
crowd = [gevent.spawn(ask, n) for n in range(40)]
gevent.joinall(crowd, raise_error=True)
print(json.dumps({"right": all(all(greenlet.value) for greenlet in crowd), "ticks": ticks}))
