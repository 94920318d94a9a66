"""The table of jobs.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "comfyk_jobs",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            comment="age: the order in which jobs were added",
        ),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("number", sa.Double, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("workflow_id", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("duration", sa.BigInteger, nullable=False),
        sa.Column("outputs_count", sa.Integer, nullable=False),
        sa.Column("previewable_outputs_count", sa.Integer, nullable=False),
        sa.Column("preview_output", sa.LargeBinary, comment="JSON"),
        sa.Column("execution_error", sa.LargeBinary, comment="JSON"),
        sa.Column("history_seq", sa.BigInteger, comment="the order in which jobs ended; null until then"),
        sa.Column("body", sa.LargeBinary, comment="JSON; null once ended"),
        sa.Column("sensitive", sa.LargeBinary, comment="JSON; null once ended"),
        sa.Column("entry", sa.LargeBinary, comment="JSON of the history entry; null until ended"),
    )
    op.create_index("ix_comfyk_jobs_history", "comfyk_jobs", ["history_seq"], unique=True)
    filters = ["seq", "status", "user", "workflow_id"]
    op.create_index("ix_comfyk_jobs_created", "comfyk_jobs", ["created_at", *filters])
    op.create_index("ix_comfyk_jobs_duration", "comfyk_jobs", ["duration", *filters])
    op.create_index("ix_comfyk_jobs_status", "comfyk_jobs", ["status", "created_at", "seq"])


def downgrade() -> None:
    op.drop_table("comfyk_jobs")
