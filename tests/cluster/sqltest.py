"""What the tests of SQLite's features share: a database, the proof that a write was forwarded, one content everywhere."""
import contextlib
import hashlib
import os

from cluster import HarnessError, SqlError, wait_until

DB = "app.db"
JOURNALS = ("delete", "truncate", "persist")
FAMILIES = ("wal", "delete")

# Enough rows to spill a cache of 10 pages.
MANY = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300) INSERT INTO t SELECT randomblob(900) FROM c"


def create(cluster, db=DB, journal="delete", page_size=4096, rows=3, before=""):
    """By a direct client on the primary: t(x) with `rows` rows. `before`: pragmas of an empty database."""
    cluster.sql_direct(cluster.primary, db, f"""
        PRAGMA page_size = {page_size}; {before}; PRAGMA journal_mode = {journal};
        CREATE TABLE t(x);
        WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows}) INSERT INTO t SELECT i FROM c;""")
    cluster.wait_converged(db)


def counted(node, db):
    counters = node.counters(db)
    return sum(counters.get(name, 0) for name in ("commits_remote", "commits_gateway", "commits_self"))


@contextlib.contextmanager
def forwards(cluster, node, commits=1, db=DB):
    """The block sends exactly that many transactions: the primary's TXID says so, and node's own counter."""
    txid, before = cluster.primary.pos(db)[0], counted(node, db)
    yield
    moved = cluster.primary.pos(db)[0] - txid
    assert moved == commits, f"n{node.index}: the TXID moved by {moved}, not by {commits}"
    assert counted(node, db) - before == commits, f"n{node.index}: {counted(node, db) - before} commits counted, not {commits}"


def error_of(call, *args):
    """The SqlError that a statement must end with."""
    try:
        rows = call(*args)
    except SqlError as error:
        return error
    raise AssertionError(f"accepted: {args}: {rows}")


def is_io_error(error):
    return error.code is not None and error.code & 0xff == 10


def no_files_left(node, db=DB):
    """No journal of that database is in the mount, listed or by name."""
    listed = node.cluster.run(["ls", "-a", node.mount]).split("\n")
    left = [name for name in listed if name.startswith(db + "-journal") or "-mj" in name]
    assert not left, f"n{node.index}: {left}"
    assert not os.path.exists(node.path(db) + "-journal")


def no_hot_journal(node, db=DB):
    """A journal may be there in TRUNCATE and PERSIST mode, but nobody would play it back."""
    code, head, _ = node.cluster.run(["head", "-c", "8", node.path(db) + "-journal"], check=False)
    assert code or not head.strip("\0"), f"n{node.index}: a hot journal of {db}: {head!r}"


def content(cluster, path):
    """A digest of integrity, schema and rows, by SQLite's own dump."""
    sql = ".timeout 20000\nPRAGMA integrity_check; PRAGMA page_size; PRAGMA user_version; PRAGMA encoding;\n.dump\n"
    dump = cluster.run(["sqlite3", "-batch", "-bail", path], timeout=120, input=sql)
    if not dump.startswith("ok\n"):
        raise HarnessError(f"{path}: {dump[:400]}")
    return hashlib.sha256(dump.encode()).hexdigest()


def assert_same(cluster, db=DB):
    """Content and integrity through every litefwd and every LiteFS, all at one position."""
    cluster.assert_alive()
    cluster.wait_converged(db)
    seen = {path: content(cluster, path) for node in cluster.nodes for path in (node.path(db), node.direct_path(db))}
    assert len(set(seen.values())) == 1, f"contents differ: {seen}"


def both(cluster):
    """A replica and the primary."""
    return (cluster.nodes[1], cluster.primary)


def count(node, db=DB):
    return int(node.sql(db, "SELECT count(*) FROM t"))


def wait_seen(cluster, db=DB):
    """Every node's LiteFS has the primary's position, and its litefwd answers from it."""
    return cluster.wait_converged(db)


def wait_gone(cluster, db):
    def gone():
        return not any(os.path.exists(node.direct_path(db)) for node in cluster.nodes)
    wait_until(f"{db} is gone on every node", gone)


def logged(node, *words):
    """A line of litefwd's log that has all of these words."""
    return any(all(word in line for word in words) for line in node.litefwd_text().splitlines())
