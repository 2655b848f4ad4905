"""Names every room of rows, every command and every loop of every package once."""

from __future__ import annotations

from backend import changes, events
from backend.clusters import models as cluster_rows
from backend.directory import models as directory_rows
from backend.hosts import models as host_rows
from backend.storage import models as storage_rows
from backend.tasks import models as task_rows
from backend.vms import models as vm_rows
from broker import models as broker_rows
from pools import models as pool_rows

ROWS = (changes, events, cluster_rows, directory_rows, host_rows, storage_rows, task_rows, vm_rows, broker_rows, pool_rows)

COMMANDS: dict[str, type] = {}
