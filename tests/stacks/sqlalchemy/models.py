"""The tables, and the engine."""
from sqlalchemy import CheckConstraint, Index, String, UniqueConstraint, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


# begin engine
def make_engine(path, timeout=30, **pool):
    """timeout: SQLite's busy_timeout in seconds. Every transaction begins as BEGIN IMMEDIATE, but for those with isolation "DEFERRED"."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": timeout, "isolation_level": None}, **pool)

    @event.listens_for(engine, "begin")
    def begin(connection):
        mode = "DEFERRED" if connection.get_execution_options().get("read_only") else "IMMEDIATE"
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine
# end engine


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("name", name="account_name"), CheckConstraint("balance >= 0", name="balance_not_negative"))
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    balance: Mapped[int]
    note: Mapped[str | None]


class Item(Base):
    __tablename__ = "item"
    __table_args__ = (Index("item_name", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


class Visit(Base):
    __tablename__ = "visit"
    __table_args__ = (UniqueConstraint("worker", "seq", name="visit_once"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(20))
    seq: Mapped[int]
