"""Rollback journals on real LiteFS: what commits is everywhere, what does not is nowhere, and no journal is left."""
import signal
import subprocess
import threading
import time

import bank
from cluster import Cluster, SqlError, client, wait_until
from marks import bound
from sqltest import (DB, JOURNALS, MANY, assert_same, both, count, counted, create, error_of, forwards, is_io_error, logged,
                     no_files_left, wait_seen)


# ---------------------------------------------------------------- one connection

def test_journal_modes__commit__forwarded_once_and_seen_everywhere():
    with Cluster() as cluster:
        create(cluster)
        for journal in JOURNALS:
            for node in both(cluster):
                with node.conn(DB) as conn:
                    assert conn(f"PRAGMA journal_mode = {journal}") == [(journal,)]
                    with forwards(cluster, node, 3):
                        conn("INSERT INTO t VALUES (?)", journal)
                        conn("BEGIN")
                        conn("INSERT INTO t VALUES (1)")
                        conn("UPDATE t SET x = x + 1 WHERE x = 1")
                        conn("COMMIT")
                        conn("DELETE FROM t WHERE x = 2")
                wait_seen(cluster)
                assert len({count(other) for other in cluster.nodes}) == 1
            assert_same(cluster)


def test_journal_modes__rollback__nothing_sent():
    with Cluster(n=2) as cluster:
        create(cluster)
        for journal in JOURNALS:
            for node in both(cluster):
                with node.conn(DB) as conn:
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 10")
                    with forwards(cluster, node, 0):
                        for work in ("INSERT INTO t VALUES (1)", MANY, "DELETE FROM t", "UPDATE t SET x = zeroblob(3000)"):
                            conn("BEGIN")
                            conn(work)
                            conn("ROLLBACK")
                            assert conn("SELECT count(*), sum(x) FROM t") == [(3, 6)], work
                    with forwards(cluster, node, 2):
                        conn("INSERT INTO t VALUES (9)")
                        conn("DELETE FROM t WHERE x = 9")
        assert_same(cluster)


def test_journal_modes__spilled_transaction__committed_whole():
    with Cluster(n=2) as cluster:
        create(cluster, page_size=1024)
        for journal in JOURNALS:
            for node in both(cluster):
                with node.conn(DB) as conn:
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 10")
                    before = count(node)
                    with forwards(cluster, node):
                        conn("BEGIN")
                        conn(MANY)
                        conn("UPDATE t SET x = randomblob(700) WHERE rowid % 3 = 0")
                        conn(MANY)
                        conn("DELETE FROM t WHERE rowid % 7 = 0 AND length(x) > 100")
                        here = conn("SELECT count(*) FROM t")[0][0]
                        conn("COMMIT")
                    assert count(node) == here > before
        assert_same(cluster)


def test_savepoints__partial_rollback_with_spilled_cache__exact():
    with Cluster(n=2) as cluster:
        create(cluster)
        for journal in JOURNALS + ("wal",):
            if journal == "wal":
                cluster.nodes[1].sql(DB, "PRAGMA journal_mode = wal")
                wait_seen(cluster)
            for node in both(cluster):
                with node.conn(DB) as conn:
                    if journal != "wal":
                        conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 10")
                    with forwards(cluster, node):
                        conn("BEGIN")
                        conn("INSERT INTO t VALUES ('kept 1')")
                        conn("SAVEPOINT a")
                        conn(MANY)
                        conn("SAVEPOINT b")
                        conn("DELETE FROM t")
                        conn("ROLLBACK TO b")
                        assert conn("SELECT count(*) FROM t WHERE length(x) = 900") == [(300,)]
                        conn("ROLLBACK TO a")
                        conn("INSERT INTO t VALUES ('kept 2')")
                        conn("RELEASE a")
                        conn("COMMIT")
                    assert conn("SELECT count(*), sum(x LIKE 'kept%') FROM t") == [(5, 2)]
                    with forwards(cluster, node):
                        conn("DELETE FROM t WHERE x LIKE 'kept%'")
        assert_same(cluster)


def test_statement__fails_in_the_middle__its_part_undone_and_the_rest_committed():
    with Cluster(n=2) as cluster:
        create(cluster)
        cluster.nodes[1].sql(DB, "CREATE TABLE u(x UNIQUE ON CONFLICT ABORT)")
        wait_seen(cluster)
        for journal in JOURNALS:
            for node in both(cluster):
                with node.conn(DB) as conn:
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 10")
                    fails = """WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 500)
                               INSERT INTO u SELECT CASE WHEN i < 450 THEN zeroblob(500) || i ELSE 'twice' END FROM c"""
                    with forwards(cluster, node):
                        conn("BEGIN")
                        conn("INSERT INTO t VALUES (10)")
                        assert error_of(conn, fails).name == "SQLITE_CONSTRAINT_UNIQUE"
                        assert conn("SELECT count(*) FROM u") == [(0,)]
                        conn("COMMIT")
                    with forwards(cluster, node, 0):
                        assert error_of(conn, fails).name == "SQLITE_CONSTRAINT_UNIQUE"
                        assert error_of(conn, fails.replace("INSERT", "INSERT OR ROLLBACK")).name == "SQLITE_CONSTRAINT_UNIQUE"
                    assert conn("SELECT count(*) FROM u") == [(0,)]
        assert_same(cluster)


# ---------------------------------------------------------------- several connections

def test_busy__second_writer_of_the_same_node__waits_for_the_first():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            with node.conn(DB) as first, node.conn(DB, busy_ms=0) as second, node.conn(DB) as third:
                with forwards(cluster, node, 3):
                    first("BEGIN IMMEDIATE")
                    first("INSERT INTO t VALUES (1)")
                    assert error_of(second, "INSERT INTO t VALUES (2)").name == "SQLITE_BUSY"
                    assert second("SELECT count(*) FROM t") == third("SELECT count(*) FROM t"), "readers beside RESERVED"
                    third.send("INSERT INTO t VALUES (3)")
                    assert third.pending(0.2)
                    first("COMMIT")
                    third.result()
                    second("INSERT INTO t VALUES (2)")
        assert_same(cluster)


def test_busy__writer_on_another_node__waits_and_then_sees_its_commit():
    with Cluster() as cluster:
        create(cluster)
        for node, other in ((cluster.nodes[1], cluster.nodes[2]), (cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[2])):
            before = count(node)
            with node.conn(DB) as first, other.conn(DB) as second:
                first("BEGIN IMMEDIATE")
                first("INSERT INTO t VALUES (1)")
                second.send("INSERT INTO t SELECT count(*) FROM t")
                assert second.pending(0.3)
                first("COMMIT")
                second.result()
                assert second("SELECT count(*), max(x) FROM t") == [(before + 2, before + 1)], "it stands on the first's row"
            wait_seen(cluster)
        assert_same(cluster)


def test_deferred_transaction__its_snapshot_is_old__busy():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node, other in ((cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[1])):
            with node.conn(DB, busy_ms=300) as old, other.conn(DB, busy_ms=300) as new:
                before = count(node)
                old("BEGIN")
                assert old("SELECT count(*) FROM t") == [(before,)]
                # SQLite's own readers hold a writer up at COMMIT; over LiteFS only those of the node that commits.
                try:
                    new("INSERT INTO t VALUES (1)")
                    written = 1
                except SqlError as error:
                    assert error.is_busy, error
                    written = 0
                assert old("SELECT count(*) FROM t") == [(before,)], "the snapshot stands still"
                if written:
                    assert error_of(old, "INSERT INTO t VALUES (2)").is_busy
                old("ROLLBACK")
                wait_seen(cluster)
                assert old("SELECT count(*) FROM t") == [(before + written,)]
                old("INSERT INTO t VALUES (2)")
            wait_seen(cluster)
            assert count(node) == before + written + 1
        assert_same(cluster)


def test_reader__transaction_open_during_a_commit_here__commit_busy_and_snapshot_kept():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            with node.conn(DB) as reader, node.conn(DB, busy_ms=200) as writer:
                before = count(node)
                reader("BEGIN")
                reader("SELECT count(*) FROM t")
                with forwards(cluster, node, 0):
                    writer("BEGIN IMMEDIATE")
                    writer("INSERT INTO t VALUES (5)")
                    assert error_of(writer, "COMMIT").is_busy, "SHARED is held"
                assert reader("SELECT count(*) FROM t") == [(before,)]
                reader("COMMIT")
                with forwards(cluster, node, 1):
                    writer("COMMIT")
                assert reader("SELECT count(*) FROM t") == [(before + 1,)]
            no_files_left(node)
            wait_seen(cluster)
        assert_same(cluster)


_READERS = r"""
import sqlite3, sys, threading, time
path, seconds = sys.argv[1], float(sys.argv[2])
end, bad, reads = time.monotonic() + seconds, [], [0]
def one():
    db = sqlite3.connect(path, timeout=20, isolation_level=None)
    last = 0
    while time.monotonic() < end:
        db.execute("BEGIN")
        a = db.execute("SELECT v FROM a").fetchone()[0]
        time.sleep(0.001)
        b = db.execute("SELECT v FROM b").fetchone()[0]
        n = db.execute("SELECT count(*) FROM big WHERE v = ?", (a,)).fetchone()[0]
        db.execute("COMMIT")
        reads[0] += 1
        if a != b or n != 50 or a < last:
            bad.append((a, b, n, last))
        last = a
def guarded():
    try:
        one()
    except BaseException as e:
        bad.append(repr(e))
threads = [threading.Thread(target=guarded) for _ in range(int(sys.argv[3]))]
[t.start() for t in threads]; [t.join() for t in threads]
print(reads[0], bad[:5])
sys.exit(1 if bad or not reads[0] else 0)
"""


@bound(120)
def test_readers__in_and_across_processes_and_nodes_during_commits__one_snapshot_each():
    import sys
    with Cluster() as cluster:
        cluster.sql_direct(cluster.primary, DB, """
            PRAGMA journal_mode = delete; CREATE TABLE a(v); CREATE TABLE b(v); CREATE TABLE big(v, pad);
            INSERT INTO a VALUES (0); INSERT INTO b VALUES (0);
            WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 50) INSERT INTO big SELECT 0, zeroblob(600) FROM c""")
        cluster.wait_converged(DB)
        for writer_node in both(cluster):
            with writer_node.conn(DB) as writer:
                writer("PRAGMA cache_size = 10")
                start = writer("SELECT v FROM a")[0][0]
                readers = [cluster.spawn([sys.executable, "-c", _READERS, node.path(DB), "6", threads], stdout=subprocess.PIPE)
                           for node in cluster.nodes for threads in ("2", "1")]
                value = start
                while any(reader.poll() is None for reader in readers):
                    value += 1
                    writer("BEGIN IMMEDIATE")
                    writer("UPDATE a SET v = ?", value)
                    writer("UPDATE big SET v = ?", value)
                    writer("UPDATE b SET v = ?", value)
                    writer("COMMIT")
                    time.sleep(0.02)
                for reader in readers:
                    out, _ = reader.communicate(timeout=30)
                    assert reader.returncode == 0, out
                assert value > start + 1, "commits got through"
            wait_seen(cluster)
        assert_same(cluster)


@bound(180)
def test_bank__rollback_journal_on_all_nodes_at_once__sum_exact():
    with Cluster() as cluster:
        bank.create(cluster, DB, journal="delete")
        load = bank.Load(cluster, DB)
        txid = cluster.primary.pos(DB)[0]
        for node in cluster.nodes:
            load.start(node, seconds=8, pause_ms=20, threads=2)
            load.start(node, seconds=8, pause_ms=20, threads=1, deferred_percent=30)
        load.wait(60)
        print(load.describe())
        load.assert_clean(busy_allowed=True)
        bank.verify(cluster, DB, load)
        assert min(load.commits_per_node()) > 0, load.commits_per_node()
        bank.assert_one_txid_per_commit(cluster, DB, load, txid)


def test_turns__rollback_mode_on_three_nodes__each_stands_on_the_last():
    with Cluster() as cluster:
        create(cluster)
        conns = [node.conn(DB) for node in cluster.nodes]
        for turn in range(15):
            conns[turn % 3](f"INSERT INTO t SELECT {turn} + 0 * count(*) FROM t")
            assert conns[turn % 3]("SELECT count(*) FROM t") == [(4 + turn,)]
        for conn in conns:
            conn.close()
        assert_same(cluster)
