"""What a start costs PostgreSQL alone: its rows in as many transactions, by bare psycopg2; nothing is decided or checked."""

from __future__ import annotations

import threading
from itertools import count
from time import monotonic
from uuid import uuid4

import psycopg2

THREADS = 8  # as many as the manager has workers
_TASK = """INSERT INTO task (command, args, title, actor_name, state, not_before, created_at)
           VALUES ('bench', '{}', 'A start', 'bench', 'queued', now(), now()) RETURNING id"""
_STEP = """INSERT INTO step (uid, task_id, ordinal, name, args, state, asked_at)
           VALUES (%s, %s, %s, 'launch', '{}', 'asked', now())"""
_CLAIM = """UPDATE task SET state = 'running', claim = gen_random_uuid(), started_at = now() WHERE id =
            (SELECT id FROM task WHERE id = %s FOR UPDATE SKIP LOCKED)"""
_EVENT = "INSERT INTO event (severity, code, sentence, facts) VALUES ('info', 'bench', 'A desktop is one step further.', '{}')"
_CHANGE = "INSERT INTO change (kind, object_id) VALUES ('task', %s)"


def bare_starts(dsn: str, wanted: int) -> float:
    """Seconds that so many starts take: wanted; claimed; twice planned and recorded; settled."""
    left, failed = count(1), list[BaseException]()

    def some() -> None:
        connection = psycopg2.connect(dsn)
        try:
            while next(left) <= wanted:
                _start(connection)
        except psycopg2.Error as wrong:
            failed.append(wrong)
        finally:
            connection.close()

    threads = [threading.Thread(target=some) for _ in range(THREADS)]
    began = monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"The floor of starts broke: {failed[0]}")
    return monotonic() - began


def _start(connection: psycopg2.extensions.connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_TASK)
        (task_id,) = cursor.fetchone() or (0,)
        cursor.execute("INSERT INTO resource_lock (resource, task_id) VALUES (%s, %s)", (f"bench:{task_id}", task_id))
        cursor.execute(_CHANGE, (task_id,))
        connection.commit()
        cursor.execute(_CLAIM, (task_id,))
        cursor.execute(_CHANGE, (task_id,))
        connection.commit()
        for ordinal in (1, 2):
            uid = str(uuid4())
            cursor.execute("SELECT * FROM task WHERE id = %s FOR UPDATE", (task_id,))
            cursor.execute(_STEP, (uid, task_id, ordinal))
            cursor.execute(_EVENT)
            cursor.execute(_CHANGE, (task_id,))
            connection.commit()
            cursor.execute("SELECT * FROM task WHERE id = %s FOR UPDATE", (task_id,))
            cursor.execute("UPDATE step SET state = 'done', ended_at = now() WHERE uid = %s", (uid,))
            cursor.execute(_EVENT)
            cursor.execute(_CHANGE, (task_id,))
            if ordinal == 2:
                cursor.execute("UPDATE task SET state = 'succeeded', ended_at = now() WHERE id = %s", (task_id,))
                cursor.execute("DELETE FROM resource_lock WHERE task_id = %s", (task_id,))
            connection.commit()
        cursor.execute(_EVENT)
        cursor.execute(_CHANGE, (task_id,))
        connection.commit()
