"""gevent patching and the psycopg2 wait callback, in one place, before all other imports."""

from __future__ import annotations


def patch() -> None:
    """Make this process cooperative. The first line of web and gateway; never called in manager or agent."""
    from gevent import monkey

    monkey.patch_all()
    import psycopg2.extensions
    from gevent.socket import wait_read, wait_write

    def wait(connection, timeout=None):  # type: ignore[no-untyped-def]
        # psycopg2 is a C library: it yields only where this callback lets it ("Support for coroutine libraries")
        while True:
            state = connection.poll()
            if state == psycopg2.extensions.POLL_OK:
                return
            if state == psycopg2.extensions.POLL_READ:
                wait_read(connection.fileno(), timeout=timeout)
            elif state == psycopg2.extensions.POLL_WRITE:
                wait_write(connection.fileno(), timeout=timeout)
            else:
                raise psycopg2.OperationalError(f"Bad state from poll: {state}")

    psycopg2.extensions.set_wait_callback(wait)
