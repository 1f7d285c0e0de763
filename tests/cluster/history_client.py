"""A client of the history: a writer or a reader of its chain, as a process of its own; and one transaction's statements.

    history_client.py writer|reader NAME DATABASE POSITION_FILE LOG PAUSE_S SEED

Writes one JSON object a line to LOG, whole and at once, so that it may be killed by -9 at any moment; SIGTERM ends it after the
transaction under way. After an I/O error it opens the database anew. Of a transaction: "begin", then "open" with what it is about to
commit, then what it was told ("ok", "busy", "io", "error"). Of a read: "read" with what history.Read wants.
"""
import json
import os
import random
import signal
import sqlite3
import sys
import time

from history import digest_after

SCHEMA = """
    PRAGMA journal_mode = wal;
    CREATE TABLE chain(one INTEGER PRIMARY KEY, n INTEGER NOT NULL, digest INTEGER NOT NULL);
    CREATE TABLE entry(row INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER, digest INTEGER, id TEXT, parts INTEGER);
    CREATE TABLE part(id TEXT, k INTEGER, pad BLOB);
    CREATE INDEX part_id ON part(id);
    INSERT INTO chain VALUES (1, 0, 0);
"""
ENTRIES = """SELECT e.n, e.digest, e.id, e.parts, (SELECT count(*) FROM part p WHERE p.id = e.id)
    FROM entry e ORDER BY e.row"""


def write(sql, say, ident, rng, blob=None):
    """
    BEGIN and all statements but COMMIT, by sql(text, *arguments) -> rows. say("begin"), say("open", n=, digest=, prev=) when what is
    to be committed is known. blob: bytes of one part. Half of them begin deferred and may find their snapshot passed (BUSY).
    """
    say("begin", id=ident)
    sql(rng.choice(("BEGIN IMMEDIATE", "BEGIN")))
    n, prev = sql("SELECT n, digest FROM chain")[0]
    digest = digest_after(prev, ident)
    parts = rng.choice((0, 1, 1, 2, 5)) if blob is None else 1
    sql("UPDATE chain SET n = n + 1, digest = ?", digest)
    sql("INSERT INTO entry(n, digest, id, parts) SELECT n, ?, ?, ? FROM chain", digest, ident, parts)
    for k in range(1, parts + 1):
        sql("INSERT INTO part VALUES (?, ?, randomblob(?))", ident, k, blob or rng.choice((10, 100, 100, 6000)))
    if rng.random() < 0.2:
        sql("SAVEPOINT s")
        sql("INSERT INTO part VALUES (?, 99, randomblob(5000))", ident)
        sql("ROLLBACK TO s")
        sql("RELEASE s")
    say("open", id=ident, n=n + 1, digest=digest, prev=prev)


def read(sql, rng, full):
    """What history.Read wants of one snapshot, as a dict."""
    sql("BEGIN")
    n, digest = sql("SELECT n, digest FROM chain")[0]
    entries = sql(ENTRIES + " DESC LIMIT 4")
    count = sql("SELECT count(*) FROM entry")[0][0] if full else None
    if rng.random() < 0.3:
        time.sleep(rng.uniform(0, 0.02))
    again = sql("SELECT n, digest FROM chain")[0]
    sql("COMMIT")
    return {"n": n, "digest": digest, "entries": entries, "count": count, "again": again}


def verdict(code):
    """Of an SQLite error's code."""
    return "error" if code is None else "busy" if code & 0xff in (5, 6) else "io" if code & 0xff == 10 else "error"


def parse_position(text):
    txid, checksum = text.strip().split("/")
    return (int(txid, 16), int(checksum, 16))


class _Position:
    """LiteFS' position file, kept open."""

    def __init__(self, path):
        self.path, self.fd = path, -1

    def get(self):
        try:
            if self.fd < 0:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return parse_position(os.pread(self.fd, 64, 0).decode("ascii"))
        except (OSError, ValueError):
            if self.fd >= 0:
                os.close(self.fd)
            self.fd = -1
            return None


def main(kind, name, path, position_path, log_path, pause, seed):
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    rng = random.Random(seed)
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    position = _Position(position_path)
    db, opened, number = None, 0, 0

    def say(event, **what):
        os.write(log, json.dumps({"e": event, "t": time.monotonic(), "conn": f"{name} {opened}", **what}).encode() + b"\n")

    def sql(text, *arguments):
        return db.execute(text, arguments).fetchall()
    while going:
        number += 1
        ident, step = f"{name} {number}", "open"
        try:
            if db is None:
                opened += 1
                db = sqlite3.connect(path, timeout=2, isolation_level=None)
                db.execute("PRAGMA busy_timeout = 2000")
            if kind == "writer":
                step = "write"
                write(sql, say, ident, rng)
                step = "commit"
                sql("COMMIT")
                say("ok", id=ident)
            else:
                began, pos = time.monotonic(), position.get()
                found = read(sql, rng, number % 8 == 0)
                say("read", began=began, pos=pos, **found)
        except sqlite3.Error as error:
            said = verdict(getattr(error, "sqlite_errorcode", None))
            say(said, id=ident, step=step, name=getattr(error, "sqlite_errorname", "?"), text=str(error))
            try:
                if db is not None and db.in_transaction:
                    db.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            if db is not None and said != "busy":
                db.close()
                db = None
        time.sleep(rng.uniform(0, 2 * pause))
    if db is not None:
        db.close()


if __name__ == "__main__":
    main(*sys.argv[1:6], float(sys.argv[6]), int(sys.argv[7]))
