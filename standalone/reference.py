"""`python -m standalone.reference`: print the parts of docs/ that are made from code: states, events, host verbs."""

from __future__ import annotations

import inspect
from pathlib import Path

from backend.catalogue import CATALOGUE
from backend.devices.machine import DEVICE
from backend.hosts.machine import HOST
from backend.storage.machine import DISK, DOMAIN
from backend.tasks.models import STEP, TASK
from backend.vms.machine import SNAPSHOT, TEMPLATE, VM
from broker.models import TICKET
from hostapi.verbs import QUESTIONS, STEPS, HostAgent
from pools.machine import LEASE, MEMBER, POOL

DOCS = Path(__file__).parent.parent / "docs"
TABLES = (LEASE, MEMBER, POOL, TICKET, VM, TEMPLATE, SNAPSHOT, HOST, DOMAIN, DISK, TASK, STEP, DEVICE)


def states() -> str:
    """Every state table as Markdown."""
    head = "# States\n\nPrinted from the tables by `make reference`; whatever is not in a table is refused in words.\n\n"
    return head + "\n".join(table.as_markdown() for table in TABLES)


def events() -> str:
    """The catalogue of events as Markdown."""
    rows = "\n".join(f"| {code} | {severity} | {sentence} |" for code, (severity, sentence) in sorted(CATALOGUE.items()))
    return (
        f"# Events\n\nPrinted from the catalogue by `make reference`.\n\n| code | severity | sentence |\n|---|---|---|\n{rows}\n"
    )


def verbs() -> str:
    """What a host can be asked, from the signatures in `hostapi.verbs`."""

    def one(name: str) -> str:
        method = getattr(HostAgent, name)
        given = [str(p) for p in inspect.signature(method).parameters.values() if p.name not in ("self", "steering")]
        answer = inspect.signature(method).return_annotation
        return f"### {name}({', '.join(given)}) → {answer}\n\n{inspect.cleandoc(method.__doc__ or '')}\n"

    return (
        "# The host API\n\nPrinted from `hostapi/verbs.py` by `make reference`. "
        "Mutual TLS; `POST /ask`, `/watch`, `/cancel`, `/question`.\n\n"
        "## Steps: asked by uid, journalled, harmless when asked twice\n\n"
        + "\n".join(one(name) for name in STEPS)
        + "\n## Questions: nothing changes\n\n"
        + "\n".join(one(name) for name in QUESTIONS)
    )


PAGES = {"states.md": states, "events.md": events, "host-api.md": verbs}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
