"""Large transactions, large databases, long transactions."""
import os
import time

from cluster import Cluster, SqlError
from marks import bound, note, soak
from sqltest import (DB, FAMILIES, assert_same, both, count, create, error_of, forwards, is_io_error, logged, no_files_left, wait_seen)

MIB = 1 << 20
LOCK_PAGE_BYTE = 0x40000000


def peak_kib(node):
    """The most memory that node's litefwd has had, in KiB."""
    with open(f"/proc/{node.litefwd.pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


def fill(conn, mib, random=True):
    """That many MiB in rows of 64 KiB, in one statement."""
    blob = "randomblob" if random else "zeroblob"
    conn(f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {mib * 16}) INSERT INTO t SELECT {blob}(65000) FROM c",
         timeout=300)


def integrity(cluster, db=DB):
    """Cheaper than a dump of everything: integrity and a sum over each node's rows, through both mounts."""
    cluster.assert_alive()
    cluster.wait_converged(db, timeout=300)
    seen = {cluster.shell(path, "PRAGMA quick_check; SELECT count(*), sum(length(x)), max(rowid) FROM t", timeout=300)
            for node in cluster.nodes for path in (node.path(db), node.direct_path(db))}
    assert len(seen) == 1 and seen.pop().startswith("ok\n"), seen


@bound(400)
def test_transaction__64_mib_over_halt__commits_in_both_families():
    for family in FAMILIES:
        with Cluster(n=2, litefwd_opts={"spool_threshold": "4M"}) as cluster:
            create(cluster, journal=family)
            for node in both(cluster):
                with node.conn(DB) as conn:
                    with forwards(cluster, node):
                        begin = time.monotonic()
                        fill(conn, 64)
                        took = time.monotonic() - begin
                    note(f"{family} n{node.index}: 64 MiB in {took:.1f} s, litefwd's peak {peak_kib(node) // 1024} MiB")
                    with forwards(cluster, node):
                        conn("INSERT INTO t VALUES (1)")
                cluster.wait_converged(DB, timeout=200)
            integrity(cluster)


@bound(400)
def test_transaction__64_mib_rolled_back__nothing_sent_and_spool_given_back():
    for family in FAMILIES:
        with Cluster(n=2, litefwd_opts={"spool_threshold": "4M"}) as cluster:
            create(cluster, journal=family)
            for node in both(cluster):
                with node.conn(DB) as conn:
                    with forwards(cluster, node, 0):
                        conn("BEGIN")
                        fill(conn, 64)
                        conn("ROLLBACK")
                        assert conn("SELECT count(*) FROM t") == [(3,)]
                    with forwards(cluster, node, 2):
                        conn("INSERT INTO t VALUES (4)")
                        conn("DELETE FROM t WHERE x = 4")
                cluster.wait_converged(DB)
            assert_same(cluster)


@soak
@bound(1800)
def test_transaction__1_gib_on_the_primary__memory_stays_small():
    for family in FAMILIES:
        with Cluster(n=1, litefwd_opts={"spool_threshold": "4M", "commit_timeout": "300s"}) as cluster:
            create(cluster, journal=family, page_size=16384)
            node = cluster.primary
            with node.conn(DB) as conn, forwards(cluster, node):
                begin = time.monotonic()
                conn("BEGIN")
                for _ in range(16):
                    fill(conn, 64)
                conn("COMMIT", timeout=900)
                took = time.monotonic() - begin
            peak = peak_kib(node)
            note(f"{family}: 1 GiB in {took:.0f} s, litefwd's peak {peak // 1024} MiB")
            assert peak <= 64 * 1024, f"{family}: VmHWM {peak} KiB"
            assert count(node) == 3 + 16 * 64 * 16


@soak
@bound(1800)
def test_lock_page__database_beyond_1_gib__written_around_it_on_a_replica_and_the_primary():
    for family in FAMILIES:
        with Cluster(n=2, litefwd_opts={"spool_threshold": "4M", "commit_timeout": "300s"}) as cluster:
            db = DB
            create(cluster, db, journal=family, page_size=1024)
            with cluster.primary.conn_direct(db) as direct:  # up to just before the lock page
                while direct("PRAGMA page_count")[0][0] * 1024 < LOCK_PAGE_BYTE - 24 * MIB:
                    fill(direct, 16, random=False)
            cluster.wait_converged(db, timeout=600)
            for node in both(cluster):
                with node.conn(db) as conn:
                    for _ in range(2):
                        with forwards(cluster, node):
                            fill(conn, 8)
                        cluster.wait_converged(db, timeout=300)
                    pages = conn("PRAGMA page_count")[0][0]
                    with forwards(cluster, node):
                        conn("DELETE FROM t WHERE rowid % 2 AND rowid > (SELECT max(rowid) FROM t) - 200")
                    cluster.wait_converged(db, timeout=300)
                    note(f"{family} n{node.index}: {pages} pages of 1024, the lock page is {LOCK_PAGE_BYTE // 1024 + 1}")
            assert pages > LOCK_PAGE_BYTE // 1024 + 1, "grown beyond it"
            integrity(cluster, db)


@bound(300)
def test_transaction__35_s_on_a_replica__renewed_and_committed():
    for family in FAMILIES[1:]:
        with Cluster(n=2) as cluster:
            create(cluster, journal=family)
            create(cluster, "wal.db", journal="wal")
            node = cluster.nodes[1]
            with node.conn(DB) as conn, node.conn("wal.db") as wal:
                renewals = node.counters(DB).get("renewals", 0), node.counters("wal.db").get("renewals", 0)
                with forwards(cluster, node), forwards(cluster, node, db="wal.db"):
                    for connection in (conn, wal):
                        connection("BEGIN IMMEDIATE")
                        connection("INSERT INTO t VALUES (1)")
                    time.sleep(36)
                    for connection in (conn, wal):
                        connection("INSERT INTO t VALUES (2)")
                        connection("COMMIT")
                for db, before in zip((DB, "wal.db"), renewals):
                    assert node.counters(db)["renewals"] > before, db
            for db in (DB, "wal.db"):
                wait_seen(cluster, db)
                assert count(node, db) == 5
                assert_same(cluster, db)


@bound(300)
def test_transaction__the_lock_was_lost_and_another_committed__fails_cleanly():
    """While HALT is held nobody else can commit; LiteFS gives it up when told to, as after a restart, and then somebody does."""
    for family in FAMILIES:
        with Cluster(n=2) as cluster:
            create(cluster, journal=family)
            node = cluster.nodes[1]
            with node.conn(DB) as conn:
                conn("BEGIN IMMEDIATE")
                conn("INSERT INTO t VALUES ('never')")
                cluster.primary.kill_litefs()
                cluster.primary.start_litefs()
                cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES ('theirs')")
                error = error_of(conn, "COMMIT")
                assert is_io_error(error) or error.is_busy, error
                if error.is_busy:
                    conn("ROLLBACK")
                no_files_left(node)
            wait_seen(cluster)
            assert node.sql(DB, "SELECT x FROM t WHERE typeof(x) = 'text'").split() == ["theirs"]
            node.sql(DB, "INSERT INTO t VALUES (1)")
            wait_seen(cluster)
            assert_same(cluster)
