"""The host of the relay benchmark: the agent's console port, behind which every VM has the same display.

`python -m bench.relay_host PORT DISPLAY_PORT CA CERT KEY`
"""

from __future__ import annotations

import resource
import sys
import threading

from agent.consoles import Consoles
from hostapi.tls import server_context


def main() -> None:
    """Serve until killed."""
    port, display, *files = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    Consoles(lambda vm_id, protocol: int(display), "127.0.0.1", int(port), server_context(*files)).start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
