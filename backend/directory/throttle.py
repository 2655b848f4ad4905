"""Failed guesses per account and per address, kept in rows that all web processes share; who guesses too often waits.

An account is charged when an attempt begins and cleared when it succeeds: a thousand guesses sent at the same
moment are a thousand charges, whichever process takes them. An address is charged when an attempt has failed.
"""

from __future__ import annotations

import ipaddress
import math
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from backend.db import Tx
from backend.directory.models import Throttle
from backend.errors import TooMany

ACCOUNT_FREE, ADDRESS_FREE = 5, 20  # so many failures cost nothing
QUIET = timedelta(minutes=15)  # after so long without a failure all is forgotten
LONGEST_S = 300


def wait_s(failures: int, free: int) -> int:
    """Pure: how long to wait after so many failures: 0, then 2, 4, 8 … seconds, 300 at most."""
    return 0 if failures < free else min(LONGEST_S, 2 ** min(failures - free + 1, 10))


def account_key(directory: str, account: str) -> str:
    """The name under which an account's failures are counted."""
    return f"account:{directory}/{account}"[:300]


def address_key(address: str) -> str:
    """The name under which an address's failures are counted; all of an IPv6 /64 is one customer."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return f"address:{address}"[:300]
    if isinstance(ip, ipaddress.IPv6Address):
        return f"address:{ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False)}"
    return f"address:{ip}"


def begin(tx: Tx, account: str, address: str, now: datetime) -> None:
    """Charge the account for an attempt, or refuse with the seconds to wait. Both are keys of this module."""
    if _charge(tx, account, ACCOUNT_FREE, now, unless=address):
        return
    known = sa.select(Throttle.key, Throttle.blocked_until).where(Throttle.key.in_((address, account)))
    until = {key: blocked or now for key, blocked in tx.execute(known)}
    if until.get(address, now) > now:
        raise _too_many("from this address", until[address], now)
    raise _too_many("with this user name", until.get(account, now), now)


def failed(tx: Tx, address: str, now: datetime) -> None:
    """An attempt from this address was a wrong guess; its account was charged when it began."""
    _charge(tx, address, ADDRESS_FREE, now, though_blocked=True)


def succeeded(tx: Tx, account: str) -> None:
    """Forget the account's failures. The address keeps its own: its owner may know one right password."""
    tx.execute(sa.delete(Throttle).where(Throttle.key == account))


def give_back(tx: Tx, account: str) -> None:
    """The attempt proved nothing, for the directory did not answer: take its charge back."""
    tx.execute(
        sa.update(Throttle).where(Throttle.key == account, Throttle.failures > 0)
        .values(failures=Throttle.failures - 1, blocked_until=None).execution_options(synchronize_session=False)
    )


def forget_old(tx: Tx, now: datetime) -> None:
    """Remove rows that count no more."""
    tx.execute(sa.delete(Throttle).where(Throttle.last_at < now - QUIET, sa.func.coalesce(Throttle.blocked_until, now) <= now))


def _charge(tx: Tx, key: str, free: int, now: datetime, *, unless: str | None = None, though_blocked: bool = False) -> bool:
    """Count one more failure of this key; False, and nothing counted, while it or the key `unless` is blocked. One statement
    decides."""
    old = Throttle.last_at < now - QUIET
    row = sa.select(sa.literal(key), sa.literal(1), sa.literal(now))
    if unless is not None:
        row = row.where(~sa.exists().where(Throttle.key == unless, Throttle.blocked_until > now))
    counted = pg.insert(Throttle).from_select(["key", "failures", "last_at"], row).on_conflict_do_update(
        index_elements=[Throttle.key],
        set_={"failures": sa.case((old, 1), else_=Throttle.failures + 1), "last_at": now},
        where=sa.true() if though_blocked else sa.func.coalesce(Throttle.blocked_until, now) <= now,
    ).returning(Throttle.failures)
    failures = tx.scalar(counted)
    if failures is None:
        return False
    seconds = wait_s(failures, free)
    if seconds:  # the row is locked by the statement above, so nobody counts in between
        tx.execute(sa.update(Throttle).where(Throttle.key == key).values(blocked_until=now + timedelta(seconds=seconds))
                   .execution_options(synchronize_session=False))
    return True


def _too_many(what: str, until: datetime, now: datetime) -> TooMany:
    seconds = max(1, math.ceil((until - now).total_seconds()))
    return TooMany(
        "too_many_attempts", f"Too many failed sign-ins {what}. Try again in {seconds} second{'s' * (seconds != 1)}.",
        retry_after_s=seconds,
    )
