"""how spares wait"""

import sqlalchemy as sa
from alembic import op

revision = '569d79e35516'
down_revision = '46c2bc2e07dd'
phase = "pre"  # pre: may run while the old processes do; post: only after they are gone


def upgrade() -> None:
    op.add_column('pool', sa.Column('spare_kind', sa.Text(), server_default='running', nullable=False))
