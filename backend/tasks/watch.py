"""Steps that hosts are at: one question a host is kept open for all of them, so that no worker waits for a long one.

What is remembered here is no more than a hint: a task whose watch is lost is taken up a little later (`LOST_S`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol
from uuid import UUID

from hostapi.client import HostUnreachable

LOST_S = 10.0  # after so long a task is taken up again though no news of its step has come
OPEN_S = 0.5  # so long a host may keep the question open: a step that is new waits that long to be watched
TOLD_S = 2.0  # progress is written down this often at most

Address = tuple[UUID, str, int]


class WatchedDoor(Protocol):
    """The part of a host's door that tells which steps are still being done."""

    def watch(self, uids: Iterable[UUID], *, wait_s: float) -> dict[UUID, int]: ...


@dataclass
class _Watched:
    task_id: int
    progress: int
    told_at: float


class Watch:
    """A thread for each host that is at a step. `hurry` hears of the tasks for whose steps there is news."""

    def __init__(
        self, doors: Callable[[UUID, str, int], WatchedDoor], hurry: Callable[[list[int]], None], stopping: threading.Event
    ) -> None:
        self.doors, self.hurry, self.stopping = doors, hurry, stopping
        self._hosts: dict[Address, dict[UUID, _Watched]] = {}
        self._lock = threading.Lock()

    def add(self, address: Address, uid: UUID, task_id: int, progress: int) -> None:
        """Look after this step, of which the rows know so much."""
        with self._lock:
            watched = self._hosts.get(address)
            if watched is None:
                watched = self._hosts[address] = {}
                threading.Thread(target=self._look, args=(address,), name=f"watch {address[1]}", daemon=True).start()
            watched[uid] = _Watched(task_id, progress, monotonic())

    def _look(self, address: Address) -> None:
        while not self.stopping.is_set() and (uids := self._uids(address)):
            try:
                still = self.doors(*address).watch(uids, wait_s=OPEN_S)
            except HostUnreachable:
                still = {}  # whoever asks for the step will hear why
            if news := self._news(address, uids, still):
                self.hurry(news)

    def _uids(self, address: Address) -> list[UUID]:
        """The steps to look after; when there are none, the next one that is added has a new thread."""
        with self._lock:
            uids = list(self._hosts[address])
            if not uids:
                del self._hosts[address]
            return uids

    def _news(self, address: Address, uids: list[UUID], still: dict[UUID, int]) -> list[int]:
        """The tasks whose step has ended, or is further than was written down."""
        now, news = monotonic(), []
        with self._lock:
            watched = self._hosts[address]
            for uid in uids:
                one, progress = watched[uid], still.get(uid)
                if progress is None or (progress != one.progress and now - one.told_at >= TOLD_S):
                    del watched[uid]
                    news.append(one.task_id)
        return news
