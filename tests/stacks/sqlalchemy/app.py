"""SQLAlchemy with Alembic, in WAL mode.

    app.py scenario DB            app.py work DB WORKER COUNT            app.py pool DB
"""
import os
import sqlite3
import sys
from contextlib import contextmanager

import alembic
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, NoResultFound, OperationalError
from sqlalchemy.orm import Session

from models import Account, Counter, Item, Visit, make_engine

HERE = os.path.dirname(os.path.abspath(__file__))


def migrate(engine, revision="head"):
    config = Config()
    config.set_main_option("script_location", os.path.join(HERE, "migrations"))
    config.attributes["engine"] = engine
    (command.downgrade if revision == "1" else command.upgrade)(config, revision)


def set_wal(path):
    """Once in a database's life. It cannot be done in a transaction, and the engine begins one before everything."""
    with sqlite3.connect(path, timeout=30) as db:
        assert db.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    db.close()


# begin transfer
def transfer(engine, source, target, amount):
    with Session(engine) as session, session.begin():
        session.scalars(select(Account).filter_by(name=source)).one().balance -= amount
        session.flush()
        session.scalars(select(Account).filter_by(name=target)).one().balance += amount
# end transfer


@contextmanager
def raises(error, words="", **attributes):
    try:
        yield
    except error as caught:
        assert words in str(caught), caught
        for name, value in attributes.items():
            assert getattr(caught.orig, name) == value, caught
    else:
        raise AssertionError(f"no {error.__name__}")


def balances(engine):
    with engine.connect() as connection:
        return {name: balance for name, balance in connection.execute(select(Account.name, Account.balance))}


def scenario(path):
    print("version SQLAlchemy", sqlalchemy.__version__, "Alembic", alembic.__version__)
    print("sqlite", sqlite3.sqlite_version)
    set_wal(path)
    engine = make_engine(path)
    migrate(engine)
    migrate(engine, "1")
    migrate(engine)
    print("migrations ok")

    with Session(engine) as session, session.begin():
        session.add_all([Account(name="alice", balance=100), Account(name="bob", balance=50), Account(name="carol", balance=10)])
    with Session(engine) as session, session.begin():
        session.execute(update(Account).filter_by(name="bob").values(balance=60))
        session.execute(delete(Account).filter_by(name="carol"))
    assert balances(engine) == {"alice": 100, "bob": 60}
    print("crud ok")

    transfer(engine, "alice", "bob", 30)
    with raises(NoResultFound):
        transfer(engine, "alice", "nobody", 30)
    assert balances(engine) == {"alice": 70, "bob": 90}
    print("transaction ok")

    # begin bulk
    with engine.begin() as connection:
        connection.execute(insert(Item), [{"name": f"item-{i}"} for i in range(1, 3001)])
    # end bulk
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Item)) == 3000
    print("bulk ok")

    # begin constraint
    with raises(IntegrityError, "UNIQUE constraint failed: account.name", sqlite_errorname="SQLITE_CONSTRAINT_UNIQUE"):
        with Session(engine) as session, session.begin():
            session.add(Account(name="alice", balance=1))
    # end constraint
    with raises(IntegrityError, "CHECK constraint failed: balance_not_negative", sqlite_errorname="SQLITE_CONSTRAINT_CHECK"):
        transfer(engine, "alice", "bob", 1000)
    print("constraint ok")

    print("hold")
    sys.stdin.readline()
    hasty = make_engine(path, timeout=0.1)
    with raises(OperationalError, "database is locked", sqlite_errorname="SQLITE_BUSY"), hasty.begin():
        pass
    hasty.dispose()
    print("busy ok")

    note = text("SELECT note FROM account WHERE name = 'bob'")
    with engine.connect().execution_options(read_only=True) as reader:
        with reader.begin():
            assert reader.scalar(note) is None
            with engine.begin() as connection:
                connection.execute(update(Account).filter_by(name="bob").values(note="seen"))
            assert reader.scalar(note) is None, "the snapshot moved"
        with reader.begin():
            assert reader.scalar(note) == "seen"
    engine.dispose()
    print("reader ok")


def work(path, worker, count):
    engine = make_engine(path)
    # begin work
    for seq in range(1, count + 1):
        with Session(engine) as session, session.begin():
            session.get(Counter, 1).n += 1
            session.add(Visit(worker=worker, seq=seq))
    # end work
    engine.dispose()


def main():
    sys.stdout.reconfigure(line_buffering=True)
    if sys.argv[1] == "scenario":
        scenario(sys.argv[2])
    else:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))


main()
