"""Alembic's environment: the engine comes from app.py."""
from alembic import context

from models import Base

# Alembic's transaction is the engine's: one BEGIN IMMEDIATE for each migration.
with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
