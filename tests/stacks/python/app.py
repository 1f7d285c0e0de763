"""Python's sqlite3 module, in WAL mode.

    app.py scenario DB            app.py work DB WORKER COUNT
"""
import contextlib
import platform
import sqlite3
import sys


# begin connect
def connect(path, timeout=30):
    """A connection that begins transactions by itself never: transaction() below does. timeout is SQLite's busy_timeout in seconds."""
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    return db


@contextlib.contextmanager
def transaction(db):
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.rollback()
        raise
    db.commit()
# end connect


MIGRATIONS = [
    """CREATE TABLE account(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, balance INTEGER NOT NULL CHECK (balance >= 0));
    CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    CREATE TABLE counter(id INTEGER PRIMARY KEY, n INTEGER NOT NULL);
    CREATE TABLE visit(worker TEXT NOT NULL, seq INTEGER NOT NULL, UNIQUE (worker, seq));
    INSERT INTO counter(id, n) VALUES (1, 0);""",
    """ALTER TABLE account ADD COLUMN note TEXT;
    CREATE INDEX item_name ON item(name);""",
]


def migrate(db):
    assert db.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    version, = db.execute("PRAGMA user_version").fetchone()
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        with transaction(db):
            for statement in script.split(";\n"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")


# begin transfer
def transfer(db, source, target, amount):
    with transaction(db):
        db.execute("UPDATE account SET balance = balance - ? WHERE name = ?", (amount, source))
        if db.execute("UPDATE account SET balance = balance + ? WHERE name = ?", (amount, target)).rowcount != 1:
            raise LookupError(target)
# end transfer


def balances(db):
    return dict(db.execute("SELECT name, balance FROM account"))


@contextlib.contextmanager
def raises(error, **attributes):
    try:
        yield
    except error as caught:
        assert type(caught) is error, type(caught)
        for name, value in attributes.items():
            assert getattr(caught, name) == value, caught
    else:
        raise AssertionError(f"no {error.__name__}")


def scenario(path):
    print("version Python", platform.python_version())
    print("sqlite", sqlite3.sqlite_version)
    db = connect(path)
    migrate(db)
    migrate(db)
    print("migrations ok")

    with transaction(db):
        db.executemany("INSERT INTO account(name, balance) VALUES (?, ?)", [("alice", 100), ("bob", 50), ("carol", 10)])
    db.execute("UPDATE account SET balance = 60 WHERE name = 'bob'")
    assert db.execute("DELETE FROM account WHERE name = ? RETURNING balance", ("carol",)).fetchall() == [(10,)]
    assert balances(db) == {"alice": 100, "bob": 60}
    print("crud ok")

    transfer(db, "alice", "bob", 30)
    with raises(LookupError):
        transfer(db, "alice", "nobody", 30)
    assert balances(db) == {"alice": 70, "bob": 90}
    print("transaction ok")

    with transaction(db):
        db.executemany("INSERT INTO item(name) VALUES (?)", ((f"item-{i}",) for i in range(1, 3001)))
    assert db.execute("SELECT count(*) FROM item").fetchone() == (3000,)
    print("bulk ok")

    with raises(sqlite3.IntegrityError, sqlite_errorname="SQLITE_CONSTRAINT_UNIQUE"):
        db.execute("INSERT INTO account(name, balance) VALUES ('alice', 1)")
    with raises(sqlite3.IntegrityError, sqlite_errorname="SQLITE_CONSTRAINT_CHECK"):
        transfer(db, "alice", "bob", 1000)
    print("constraint ok")

    print("hold")
    sys.stdin.readline()
    # begin busy
    hasty = connect(path, timeout=0.1)
    with raises(sqlite3.OperationalError, sqlite_errorname="SQLITE_BUSY"):
        hasty.execute("BEGIN IMMEDIATE")
    # end busy
    hasty.close()
    print("busy ok")

    reader = connect(path)
    reader.execute("BEGIN")
    note = "SELECT note FROM account WHERE name = 'bob'"
    assert reader.execute(note).fetchone() == (None,)
    db.execute("UPDATE account SET note = 'seen' WHERE name = 'bob'")
    assert reader.execute(note).fetchone() == (None,), "the snapshot moved"
    reader.commit()
    assert reader.execute(note).fetchone() == ("seen",)
    reader.close()
    db.close()
    print("reader ok")


# begin work
def work(path, worker, count):
    db = connect(path)
    for seq in range(1, count + 1):
        with transaction(db):
            n, = db.execute("SELECT n FROM counter WHERE id = 1").fetchone()
            db.execute("UPDATE counter SET n = ? WHERE id = 1", (n + 1,))
            db.execute("INSERT INTO visit(worker, seq) VALUES (?, ?)", (worker, seq))
    db.close()
# end work


def main():
    sys.stdout.reconfigure(line_buffering=True)
    if sys.argv[1] == "scenario":
        scenario(sys.argv[2])
    else:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]))


if __name__ == "__main__":
    main()
