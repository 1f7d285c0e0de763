"""initial"""
import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def upgrade():
    op.create_table("account", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(100), nullable=False),
                    sa.Column("balance", sa.Integer, nullable=False), sa.UniqueConstraint("name", name="account_name"))
    op.create_table("item", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(100), nullable=False))
    counter = op.create_table("counter", sa.Column("id", sa.Integer, primary_key=True), sa.Column("n", sa.Integer, nullable=False))
    op.create_table("visit", sa.Column("id", sa.Integer, primary_key=True), sa.Column("worker", sa.String(20), nullable=False),
                    sa.Column("seq", sa.Integer, nullable=False), sa.UniqueConstraint("worker", "seq", name="visit_once"))
    op.bulk_insert(counter, [{"id": 1, "n": 0}])


def downgrade():
    for table in ("visit", "counter", "item", "account"):
        op.drop_table(table)
