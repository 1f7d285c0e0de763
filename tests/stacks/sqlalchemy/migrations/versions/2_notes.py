"""notes, and a constraint that makes Alembic build the table anew"""
import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade():
    with op.batch_alter_table("account") as table:
        table.add_column(sa.Column("note", sa.String))
        table.create_check_constraint("balance_not_negative", "balance >= 0")
    op.create_index("item_name", "item", ["name"])


def downgrade():
    op.drop_index("item_name", "item")
    with op.batch_alter_table("account") as table:
        table.drop_constraint("balance_not_negative", type_="check")
        table.drop_column("note")
