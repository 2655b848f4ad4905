"""Pure: what a pool's administrator decides, and whether it makes sense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backend.errors import Invalid
from pools.quiet import Quietness, require_quietness

RIGHTS = ("start", "shutdown", "reboot", "reset", "swap", "snapshot")
USUAL_RIGHTS = ("start", "shutdown", "reset")  # of a pool whose administrator said nothing
PROTOCOLS = ("vnc", "spice")
SPARE_KINDS = ("running", "suspended")  # how spares wait


@dataclass(frozen=True)
class Policy:
    """What a pool's administrator decides. Lengths are in seconds."""

    size: int
    spares: int = 0
    spare_kind: str = "running"
    lease_s: int | None = 3600
    extend_s: int = 1800
    extensions: int = 0
    warn_s: int = 300
    grace_s: int = 60
    shutdown_s: int = 60
    per_user: int = 1
    call_s: int = 0
    extend_while_waiting: bool = False
    book_desktops: int = 0
    book_ahead_s: int = 1_209_600
    book_longest_s: int = 28_800
    book_open: int = 3
    book_hold_s: int = 900
    spares_learn: bool = False
    idle_s: int = 0
    idle_action: str = "nothing"
    disconnect_s: int = 0
    disconnect_action: str = "nothing"
    rights: tuple[str, ...] = USUAL_RIGHTS
    protocols: tuple[str, ...] = PROTOCOLS


def require_policy(policy: Policy) -> None:
    """`Invalid` with a sentence, and the fields it is about, unless the policy makes sense."""

    def refuse_if(wrong: bool, sentence: str, *fields: str) -> None:
        if wrong:
            raise Invalid("bad_policy", sentence, fields=list(fields))

    p = policy
    refuse_if(not 1 <= p.size <= 10_000, "A pool has between 1 and 10,000 desktops.", "size")
    refuse_if(p.spares < 0, "The number of spares cannot be below 0.", "spares")
    refuse_if(
        p.spares > p.size,
        f"{p.spares} spares cannot be kept in a pool of {p.size} desktops; lower the spares or raise the size.",
        "spares", "size",
    )  # fmt: skip
    refuse_if(
        p.lease_s is not None and not 60 <= p.lease_s <= 366 * 86_400,
        "A lease lasts between one minute and 366 days; leave it empty to lease until returned.", "lease_s",
    )  # fmt: skip
    refuse_if(
        not 0 <= p.warn_s <= 86_400,
        "The warning comes between 0 seconds and one day before the end.",
        "warn_s",
    )
    refuse_if(
        p.lease_s is not None and p.warn_s >= p.lease_s,
        f"The warning comes {p.warn_s} s before the end, but the lease lasts only {p.lease_s} s; "
        "warn later or lease for longer.", "warn_s", "lease_s",
    )  # fmt: skip
    refuse_if(not 0 <= p.grace_s <= 86_400, "The grace is between 0 seconds and one day.", "grace_s")
    refuse_if(
        not 1 <= p.shutdown_s <= 3600,
        "A guest may take between 1 and 3,600 seconds to shut down.",
        "shutdown_s",
    )
    refuse_if(not 0 <= p.extensions <= 1000, "A lease may be extended between 0 and 1,000 times.", "extensions")
    refuse_if(
        p.extensions > 0 and not 60 <= p.extend_s <= 366 * 86_400,
        "An extension lasts between one minute and 366 days.", "extend_s",
    )  # fmt: skip
    refuse_if(not 0 <= p.call_s <= 3600, "Who is called has between 0 seconds and one hour to answer.", "call_s")
    refuse_if(
        not 0 <= p.book_desktops <= 10_000,
        "A booking of a person takes between 0 desktops (they book none) and 10,000.", "book_desktops",
    )  # fmt: skip
    refuse_if(
        not 3600 <= p.book_ahead_s <= 366 * 86_400, "People book between one hour and 366 days ahead.", "book_ahead_s"
    )
    refuse_if(
        not 300 <= p.book_longest_s <= 31 * 86_400, "A booking lasts between five minutes and 31 days.", "book_longest_s"
    )
    refuse_if(not 1 <= p.book_open <= 1000, "A person has between 1 and 1,000 bookings.", "book_open")
    refuse_if(
        not 0 <= p.book_hold_s <= 86_400,
        "Booked desktops that nobody uses are kept for between 0 seconds (until the end) and one day.", "book_hold_s",
    )  # fmt: skip
    refuse_if(not 1 <= p.per_user <= 100, "A person may hold between 1 and 100 desktops of a pool.", "per_user")
    require_quietness(Quietness(p.idle_s, p.idle_action, p.disconnect_s, p.disconnect_action))
    _known((p.spare_kind,), SPARE_KINDS, "spare_kind", "way for spares to wait")
    _known(p.rights, RIGHTS, "rights", "right")
    _known(p.protocols, PROTOCOLS, "protocols", "protocol")
    refuse_if(not p.protocols, "Offer at least one protocol: vnc or spice.", "protocols")


def _known(given: Iterable[str], known: tuple[str, ...], field: str, word: str) -> None:
    for value in given:
        if value not in known:
            raise Invalid("bad_policy", f"“{value}” is not a {word}; choose from {', '.join(known)}.", fields=[field])
