"""Leases: several servers take jobs from one PostgreSQL.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("comfyk_jobs", sa.Column("owner", sa.Text, comment="the server that took the job last"))
    op.add_column(
        "comfyk_jobs",
        sa.Column(
            "lease_until",
            sa.DateTime(timezone=True),
            comment="by the clock of the database; null when nobody runs it",
        ),
    )
    op.add_column(
        "comfyk_jobs",
        sa.Column("cancel_requested", sa.Boolean, comment="true: whoever runs it is to cancel it"),
    )
    if op.get_bind().dialect.name != "postgresql":
        return
    op.create_table(
        "comfyk_history_count",
        sa.Column("last_seq", sa.BigInteger, nullable=False, comment="the last history_seq that was given"),
        sa.Column(
            "finished", sa.BigInteger, nullable=False, comment="how many jobs of comfyk_jobs have ended"
        ),
    )
    op.execute(
        "INSERT INTO comfyk_history_count (last_seq, finished) "
        "SELECT coalesce(max(history_seq), 0), count(history_seq) FROM comfyk_jobs"
    )
    # The server that ran these is gone: until now there was one, and it has let go of the database.
    op.execute("UPDATE comfyk_jobs SET status = 'pending', started_at = NULL WHERE status = 'in_progress'")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_table("comfyk_history_count")
    for name in ("cancel_requested", "lease_until", "owner"):
        op.drop_column("comfyk_jobs", name)
