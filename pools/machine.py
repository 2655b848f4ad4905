"""LEASE, MEMBER, POOL, ROLLOUT and BOOKING tables. Pure."""

from backend.states import StateTable

LEASE = StateTable(
    "lease",
    "queued",
    {
        ("queued", "assign"): "starting",
        ("queued", "leave"): "ended",
        ("queued", "turn_away"): "ended",  # the right has ended, the pool goes, or an administrator says so
        ("queued", "fail"): "ended",  # nothing that could come free works
        ("starting", "ready"): "active",
        ("starting", "requeue"): "queued",  # the member broke on the way; the place in the queue is kept
        ("starting", "postpone"): "queued",  # nothing could be started just now; not the member's fault
        ("starting", "call"): "starting",  # the queue came to them: they must answer
        ("starting", "give_back"): "returning",
        ("starting", "fail"): "ended",
        ("active", "warn"): "expiring",
        ("expiring", "extend"): "active",
        ("active", "extend"): "active",
        ("expiring", "prolong"): "active",  # by an administrator
        ("active", "prolong"): "active",
        ("active", "shorten"): "active",  # the entitlement ends before the lease was to
        ("expiring", "shorten"): "expiring",
        ("active", "rebook"): "active",  # it ends with its booking, which has another end now
        ("expiring", "rebook"): "active",
        ("active", "expire"): "grace",  # after an outage the warning may have been missed
        ("expiring", "expire"): "grace",
        ("active", "recall"): "grace",  # a new version of the desktop takes its place
        ("expiring", "recall"): "grace",
        ("active", "give_back"): "returning",
        ("expiring", "give_back"): "returning",
        ("grace", "give_back"): "returning",
        ("active", "requeue"): "queued",  # the desktop died under its holder
        ("expiring", "requeue"): "queued",
        ("active", "renew"): "queued",  # the holder wants a fresh one
        ("expiring", "renew"): "queued",
        ("active", "swap"): "queued",  # the holder wants another one, and there is one: it is assigned at once
        ("expiring", "swap"): "queued",
        ("returning", "end"): "ended",
    },
)

MEMBER = StateTable(
    "member",
    "creating",
    {
        ("creating", "created"): "ready",
        ("creating", "broke"): "broken",
        ("ready", "warm"): "warming",
        ("ready", "lease"): "leased",
        ("ready", "reset"): "resetting",
        ("ready", "remove"): "removing",
        ("warming", "warmed"): "spare",
        ("warming", "lease"): "leased",  # taken while it boots: nobody waits for a spare to become one
        ("warming", "broke"): "broken",
        ("warming", "fell"): "ready",
        ("spare", "lease"): "leased",
        ("warming", "slept"): "suspended",  # it was to be woken, and cannot be just now
        ("spare", "save"): "saving",
        ("spare", "saved"): "suspended",  # somebody suspended it past the pool
        ("saving", "saved"): "suspended",
        ("saving", "unsaved"): "spare",
        ("saving", "fell"): "resetting",
        ("suspended", "lease"): "leased",
        ("suspended", "warm"): "warming",
        ("suspended", "fell"): "resetting",  # what was saved is thrown away
        ("suspended", "remove"): "removing",
        ("spare", "fell"): "resetting",  # its VM died or was switched off: start again from a fresh overlay
        ("leased", "reset"): "resetting",
        ("leased", "broke"): "broken",
        ("leased", "unstarted"): "ready",  # it never ran under the lease: there is nothing to throw away
        ("leased", "unwoken"): "suspended",  # the same of one that was to be woken for it
        ("resetting", "was_reset"): "ready",
        ("resetting", "broke"): "broken",
        ("broken", "repair"): "resetting",
        ("broken", "remove"): "removing",
        ("removing", "broke"): "broken",
    },
    label="pool member",
)

POOL = StateTable(
    "pool",
    "up",
    {
        ("up", "pause"): "paused",  # no new leases; those that run go on
        ("paused", "resume"): "up",
        ("up", "remove"): "removing",
        ("paused", "remove"): "removing",
    },
)

ROLLOUT = StateTable(
    "rollout",
    "running",
    {
        ("running", "halt"): "halted",  # too many desktops of the new version failed, or an administrator says so
        ("halted", "resume"): "running",
        ("running", "roll_back"): "rolling_back",
        ("halted", "roll_back"): "rolling_back",
        ("running", "succeed"): "succeeded",
        ("rolling_back", "rolled_back"): "rolled_back",
        **{(state, "cancel"): "cancelled" for state in ("running", "halted", "rolling_back")},
    },
)

BOOKING = StateTable(
    "booking",
    "booked",
    {
        ("booked", "prepare"): "preparing",  # its desktops are booted
        ("preparing", "put_off"): "booked",  # it was moved to a later time
        ("booked", "begin"): "running",  # after an outage the preparing may have been missed
        ("preparing", "begin"): "running",
        ("running", "release"): "running",  # desktops that nobody used are given to others
        ("running", "unused"): "ended",
        ("running", "end"): "ended",
        ("preparing", "end"): "ended",  # after an outage the whole period may have been missed
        ("booked", "end"): "ended",
        ("booked", "edit"): "booked",
        ("preparing", "edit"): "preparing",
        ("running", "edit"): "running",
        ("booked", "cancel"): "cancelled",
        ("preparing", "cancel"): "cancelled",
        ("running", "cancel"): "cancelled",
    },
)
