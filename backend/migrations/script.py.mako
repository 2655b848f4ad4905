"""${message}"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
phase = "pre"  # pre: may run while the old processes do; post: only after they are gone


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
