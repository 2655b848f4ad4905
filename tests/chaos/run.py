"""The run: people live, processes are killed in the order of the seed, all comes to rest, everybody comes back once more."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tests.chaos import checks
from tests.chaos.options import Options
from tests.chaos.people import Person, Told
from tests.chaos.place import Place


def run(options: Options, say: Callable[[str], None]) -> list[str]:
    """What was wrong, as sentences; the folder with the logs is kept then."""
    say(f"SEED={options.seed}: {options.people} people, {options.hosts} hosts of {options.desktops} desktops")
    place, told, over = Place(options), Told(), threading.Event()
    found = ["The run was broken off."]
    try:
        place.start()
        _settle(place, told)
        if told.faults:
            return told.faults
        people = [Person(place, told, n, over) for n in range(options.people)]
        living = [threading.Thread(target=one.live, name=one.name, daemon=True) for one in people]
        for thread in living:
            thread.start()
        killed = _kill(place, say)
        over.set()
        _join(place, living)
        say("everybody has gone; waiting until all is at rest")
        _settle(place, told)
        leaving = [
            threading.Thread(target=one.come_back, args=(options.settle_s,), name=one.name, daemon=True) for one in people
        ]  # fmt: skip
        for thread in leaving:
            thread.start()
        _join(place, leaving)
        _settle(place, told)
        found = checks.wrong(place, told)
        _tell(place, told, killed, found, say)
    finally:
        place.close(keep=bool(found))
    return found


def _kill(place: Place, say: Callable[[str], None]) -> Counter[str]:
    """Kill processes, one or two at once, and start them again; every kind comes before one comes again."""
    options, dice, killed = place.options, random.Random(place.options.seed), Counter[str]()
    victims, began = _victims(place, dice), time.monotonic()
    kinds = len(place.parts) + 1
    while sum(killed.values()) < kinds or time.monotonic() - began < options.seconds:
        dead = [next(victims)] if dice.random() < 0.75 else sorted({next(victims), next(victims)})
        mode, down, between = dice.choice(["immediate", "fast"]), dice.uniform(*options.down_s), dice.uniform(*options.between_s)
        power = dice.random() < 0.5
        say(f"kill {' and '.join(dead)} for {down:.1f} s")
        for name in dead:
            off = power and name in place.hosts
            place.kill(name, mode, power=off)
            killed[f"{name} with its power" if off else name] += 1
        place.watch(down, frozenset(dead))
        for name in dead:
            place.revive(name)
        place.watch(between)
    return killed


def _victims(place: Place, dice: random.Random) -> Iterator[str]:
    while True:
        names = sorted([*place.parts, "postgres"])
        dice.shuffle(names)
        yield from names


def _join(place: Place, threads: list[threading.Thread]) -> None:
    place.until(lambda: not any(thread.is_alive() for thread in threads), "everybody has gone", place.options.settle_s)


def _settle(place: Place, told: Told) -> None:
    """Wait until nothing is under way any more; what still is after so long is stuck."""
    try:
        place.until(lambda: not checks.unrest(place), "all is at rest", place.options.settle_s)
    except AssertionError:
        told.faults += [f"stuck: {what}" for what in checks.unrest(place)]


def _tell(place: Place, told: Told, killed: Counter[str], found: list[str], say: Callable[[str], None]) -> None:
    say("killed: " + ", ".join(f"{name} {count}" for name, count in sorted(killed.items())))
    for what, times in sorted(told.waits.items()):
        times.sort()
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        say(f"waited {what}: {len(times)} times, p50 {middle:.1f} s, p99 {late:.1f} s, longest {times[-1]:.1f} s")
    for what, count in sorted(told.counts.items()):
        say(f"  {count:6} {what}")
    for what, count in place.ended.items():
        say(f"  {count:6} {what}")
    for kind, lines in checks.story(place).items():
        say(f"{kind}:")
        for line in lines:
            say(f"  {line}")
    for sentence in found:
        say(f"WRONG: {sentence}")
    if found:
        say(f"logs: {place.folder}")
