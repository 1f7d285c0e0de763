"""What an adversary once found in the path of a commit: each test says what went wrong before it was repaired."""
import contextlib
import fcntl
import os
import subprocess
import sys
import time

from cluster import Cluster, client, wait_until
from sqltest import (DB, FAMILIES, JOURNALS, assert_same, both, count, create, error_of, forwards, is_io_error, logged, no_hot_journal,
                     wait_gone, wait_seen)
from test_application_halt import lock

GROW = "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {}) INSERT INTO t SELECT randomblob(1000) FROM s"


def empty(cluster, db=DB, journal="delete", before="SELECT 1"):
    """By a direct client on the primary: t(x) of no rows. before: what has been in it until then."""
    cluster.sql_direct(cluster.primary, db, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x); {before}; DELETE FROM t")
    cluster.wait_converged(db)


def node_and_other(cluster):
    replica, primary = both(cluster)
    return ((replica, primary), (primary, replica))


# ---------------------------------------------------------------- super-journals

def attached_pair(cluster, node):
    for db in ("one.db", "two.db"):
        if cluster.primary.pos(db) == (0, 0):
            empty(cluster, db)
    conn = node.conn("one.db")
    conn("ATTACH ? AS other", node.path("two.db"))
    return conn


def test_super_journal__second_part_fails_later_than_the_linger__first_part_is_taken_back():
    # The second part waited for a direct reader for longer than upstream is kept after a commit. When it failed,
    # the first part was committed and its database given back, and SQLite's playback of it was refused.
    with Cluster(n=2, litefwd_opts={"commit_timeout": "3s"}) as cluster:
        node = cluster.primary
        for number, blocked in enumerate(("one.db", "two.db")):
            with attached_pair(cluster, node) as conn, node.conn_direct(blocked) as reader:
                reader("BEGIN")
                reader("SELECT count(*) FROM t")
                conn("BEGIN")
                conn("INSERT INTO main.t VALUES (7)")
                conn("INSERT INTO other.t VALUES (7)")
                error = error_of(conn, "COMMIT")
                assert is_io_error(error), error
                reader("COMMIT")
                for db in ("one.db", "two.db"):
                    no_hot_journal(node, db)
                    for other in cluster.nodes:
                        wait_seen(cluster, db)
                        assert count(other, db) == number, f"{blocked} blocked: {db} on n{other.index}"
                # The same connection goes on, in both.
                conn("BEGIN")
                conn("INSERT INTO main.t VALUES (1)")
                conn("INSERT INTO other.t VALUES (1)")
                conn("COMMIT")
        for db in ("one.db", "two.db"):
            wait_seen(cluster, db)
            assert count(cluster.nodes[1], db) == 2
            assert_same(cluster, db)


def test_super_journal__client_killed_while_one_part_waits__others_go_on_and_half_of_it_is_said():
    # One database is committed after the other. The dead client cannot take the first part back: what is there in one
    # of them only is in the log, each is whole, and no journal is left that would keep the next writer out.
    with Cluster(n=2, litefwd_opts={"commit_timeout": "3s"}) as cluster:
        node = cluster.primary
        for blocked in ("one.db", "two.db"):
            with attached_pair(cluster, node) as conn, node.conn_direct(blocked) as reader:
                before = {db: count(node, db) for db in ("one.db", "two.db")}
                reader("BEGIN")
                reader("SELECT count(*) FROM t")
                conn("BEGIN")
                conn("INSERT INTO main.t VALUES (7)")
                conn("INSERT INTO other.t VALUES (7)")
                conn.send("COMMIT")
                assert conn.pending(0.5), "COMMIT did not wait for the reader"
                conn.kill()
                reader("COMMIT")
            added = {}
            for db in before:
                node.sql(db, "INSERT INTO t VALUES (1)")
                no_hot_journal(node, db)
                wait_seen(cluster, db)
                seen = {count(each, db) - before[db] - 1 for each in cluster.nodes}
                assert len(seen) == 1, f"{blocked} blocked: {db}: {seen}"
                added[db] = seen.pop()
            there = [db for db in added if added[db]]
            if len(there) == 1:
                assert logged(node, "transaction_in_parts", f"committed={there[0]}", f"failed={blocked}"), f"{blocked} blocked: {added}"
        for db in ("one.db", "two.db"):
            assert_same(cluster, db)


# ---------------------------------------------------------------- creation

def test_creation__transaction_larger_than_the_page_cache__there_everywhere():
    # The first pages that a spilling cache writes are not page 1: they were refused as those of no database.
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for journal in JOURNALS:
                for vacuum in (0, 1):
                    db = f"{journal}-{vacuum}-{node.index}.db"
                    with node.conn(db) as conn:
                        conn(f"PRAGMA auto_vacuum = {vacuum}")
                        conn(f"PRAGMA journal_mode = {journal}")
                        conn("PRAGMA cache_size = 5")
                        conn("BEGIN")
                        conn("CREATE TABLE t(x)")
                        conn(GROW.format(300))
                        conn("SAVEPOINT s")
                        conn(GROW.format(100))
                        conn("ROLLBACK TO s")
                        conn("COMMIT")
                        assert conn("SELECT count(*) FROM t") == [(300,)]
                        conn("DELETE FROM t WHERE rowid > 10")
                    assert_same(cluster, db)
                    assert [count(other, db) for other in cluster.nodes] == [10, 10]


def test_creation__by_dump_and_by_backup__there_everywhere():
    # Both write a whole database in one transaction, larger than the shell's page cache.
    with Cluster(n=2) as cluster:
        source = os.path.join(cluster.base, "source.db")
        cluster.shell(source, f"CREATE TABLE t(x); {GROW.format(4000)}")
        dump = cluster.run(["sqlite3", source, ".dump"])
        for node in both(cluster):
            cluster.run(["sqlite3", "-bail", node.path(f"dump{node.index}.db")], input=dump)
            cluster.run(["sqlite3", source, f".backup {node.path(f'backup{node.index}.db')}"])
            for db in (f"dump{node.index}.db", f"backup{node.index}.db"):
                assert_same(cluster, db)
                assert [count(other, db) for other in cluster.nodes] == [4000, 4000]


def test_creation__larger_than_the_page_cache_and_rolled_back__nothing_is_made_and_the_connection_goes_on():
    # SQLite ends such a rollback by a file of no pages: it was sent to LiteFS as a transaction, or refused.
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for journal in JOURNALS:
                db = f"{journal}-{node.index}.db"
                with node.conn(db) as conn:
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 5")
                    conn("BEGIN")
                    conn("CREATE TABLE t(x)")
                    conn(GROW.format(300))
                    conn("ROLLBACK")
                    assert conn("SELECT count(*) FROM sqlite_schema") == [(0,)]
                    assert cluster.primary.pos(db) == (0, 0)
                    conn("CREATE TABLE t(x)")
                    conn(GROW.format(30))
                assert_same(cluster, db)
                assert [count(other, db) for other in cluster.nodes] == [30, 30]


def test_removal__the_same_script_again_on_each_node__a_new_database():
    # The script's second run was told an I/O error: the new database was taken for another history of the old one.
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for journal in FAMILIES:
                db = f"{journal}-{node.index}.db"
                for _ in range(3):
                    said = node.sql(db, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x); INSERT INTO t VALUES (1); "
                                        "INSERT INTO t VALUES (2); SELECT count(*) FROM t")
                    assert said.split() == [journal, "2"], said
                    assert_same(cluster, db)
                    cluster.run(["rm", node.path(db)])
                    wait_gone(cluster, db)


# ---------------------------------------------------------------- HALT and a change of mode

def test_application_halt__journal_mode_wal_under_it__writes_go_on_under_it_and_after():
    # The view has to begin anew in WAL mode, for which upstream is given back; HALT kept it, and writers waited for ever.
    with Cluster(n=2) as cluster:
        for node, other in node_and_other(cluster):
            db = f"halt-{node.index}.db"
            empty(cluster, db)
            fd = os.open(node.path(db) + "-lock", os.O_RDWR)
            try:
                lock(fd, fcntl.F_WRLCK)
                with node.conn(db, busy_ms=8000) as conn:
                    assert conn("PRAGMA journal_mode = wal") == [("wal",)]
                    for value in range(3):
                        conn("INSERT INTO t VALUES (?)", value)
                    lock(fd, fcntl.F_UNLCK)
                    conn("INSERT INTO t VALUES (3)")
            finally:
                os.close(fd)
            wait_seen(cluster, db)
            other.sql(db, "INSERT INTO t VALUES (4)")
            wait_seen(cluster, db)
            assert [count(each, db) for each in cluster.nodes] == [5, 5]
            assert_same(cluster, db)


# ---------------------------------------------------------------- the change counter

def test_locking_mode_exclusive__several_commits__connections_elsewhere_see_each():
    # SQLite counts up page 1's change counter in its first transaction only. Connections on the other node took the later
    # states for the one that they knew; and then, when that was noticed, were told an I/O error.
    with Cluster(n=2) as cluster:
        for node, other in node_and_other(cluster):
            for synchronous in ("FULL", "OFF"):
                db = f"{synchronous}-{node.index}.db"
                empty(cluster, db)
                with node.conn(db) as conn, other.conn(db) as reader:
                    conn(f"PRAGMA synchronous = {synchronous}")
                    conn("PRAGMA locking_mode = EXCLUSIVE")
                    assert reader("SELECT count(*) FROM t") == [(0,)]
                    for rows in range(2, 10, 2):
                        conn("BEGIN")
                        conn("INSERT INTO t VALUES (?)", rows)
                        time.sleep(0.2)  # beyond the linger
                        conn("INSERT INTO t VALUES (?)", rows)
                        conn("COMMIT")
                        wait_seen(cluster, db)
                        assert reader("SELECT count(*) FROM t") == [(rows,)]
                        assert count(other, db) == rows
                    assert conn("SELECT count(*) FROM t") == [(8,)]
                assert_same(cluster, db)


def test_rollback__spilled_over_free_pages__nothing_sent_and_every_connection_goes_on():
    # A journal has no old image of a free page: after a spilled rollback those differ from the file's, were sent as a
    # transaction with the change counter that all knew already, and all who had the database open got I/O errors.
    with Cluster(n=2) as cluster:
        for node, other in node_and_other(cluster):
            for journal in JOURNALS:
                db = f"{journal}-{node.index}.db"
                empty(cluster, db, before=GROW.format(300))
                with node.conn(db) as conn, node.conn(db) as beside, other.conn(db) as far:
                    for each in (conn, beside, far):
                        assert each("SELECT count(*) FROM t") == [(0,)]
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 5")
                    with forwards(cluster, node, 0, db=db):
                        conn("BEGIN")
                        conn(GROW.format(300))
                        conn("ROLLBACK")
                    for each in (conn, beside, far):
                        assert each("SELECT count(*) FROM t") == [(0,)]
                    for rows, each in enumerate((conn, beside, far), 1):
                        each("INSERT INTO t VALUES (1)")
                        wait_seen(cluster, db)
                        assert [reader("SELECT count(*) FROM t") for reader in (conn, beside, far)] == [[(rows,)]] * 3
                assert_same(cluster, db)


# ---------------------------------------------------------------- beside direct clients

def test_direct_client__killed_between_its_commit_and_the_cut_of_the_file__litefs_goes_on_and_exact():
    # The file stayed longer than LiteFS' database. litefwd took the file's size, its checksum was not LiteFS', and
    # LiteFS ended itself (exit 99): at once on the primary, by a replica's transaction when that one grew.
    with Cluster(n=2) as cluster:
        for node, other in node_and_other(cluster):
            db = f"cut-{node.index}.db"
            empty(cluster, db)
            node.sql(db, GROW.format(300))
            cluster.wait_converged(db)
            victim = cluster.spawn([client("locks"), "--db", cluster.primary.direct_path(db), "--state", "cut"], stdout=subprocess.PIPE)
            assert victim.stdout.readline() == b"ready\n"
            victim.kill()
            victim.wait(20)
            cluster.wait_converged(db)
            longer = os.path.getsize(cluster.primary.direct_path(db))
            pages = int(cluster.sql_direct(cluster.primary, db, "PRAGMA page_count"))
            assert pages < longer // 4096, "the file is not longer than the database"
            expected = 0
            for writer in (node, other, node):
                assert count(writer, db) == expected
                writer.sql(db, "INSERT INTO t VALUES (1)")
                cluster.assert_alive()
                wait_seen(cluster, db)
                writer.sql(db, GROW.format(20))
                cluster.assert_alive()
                expected += 21
                assert_same(cluster, db)
            # Beyond what the file had.
            node.sql(db, GROW.format(longer // 1000))
            assert_same(cluster, db)
            assert count(other, db) == expected + longer // 1000


def test_direct_client__wal_longer_than_the_database_after_its_vacuum__exact():
    # The same in WAL mode, where the file is cut by a checkpoint that never comes.
    with Cluster(n=2) as cluster:
        for alive in (True, False):
            db = f"wal-{alive}.db"
            empty(cluster, db, "wal", GROW.format(300))
            with cluster.primary.conn_direct(db) as direct:
                direct("PRAGMA wal_autocheckpoint = 0")
                direct("VACUUM")
                if not alive:
                    direct.kill()
                expected = 0
                for node in both(cluster):
                    node.sql(db, "INSERT INTO t VALUES (1)")
                    wait_seen(cluster, db)
                    node.sql(db, GROW.format(20))
                    expected += 21
                    cluster.assert_alive()
                    wait_seen(cluster, db)
                    assert [count(each, db) for each in cluster.nodes] == [expected] * 2
                if alive:
                    assert direct("SELECT count(*) FROM t") == [(expected,)]
            assert_same(cluster, db)


def test_direct_client__in_a_write_transaction_that_is_not_synced__reads_beside_it_work():
    # With synchronous OFF its journal has a header from the first page on. litefwd took it for a hot one, and
    # reads failed until the transaction ended. They see the state before it.
    with Cluster(n=2) as cluster:
        create(cluster)
        for synchronous in ("FULL", "OFF"):
            before = count(cluster.primary)
            with cluster.primary.conn_direct(DB) as direct, cluster.primary.conn(DB, busy_ms=5000) as idle:
                idle("SELECT count(*) FROM t")
                direct(f"PRAGMA synchronous = {synchronous}")
                direct("BEGIN")
                direct("INSERT INTO t VALUES (1)")
                for node in cluster.nodes:
                    with node.conn(DB, busy_ms=5000) as conn:
                        assert conn("SELECT count(*) FROM t") == [(before,)], f"{synchronous} n{node.index}"
                assert idle("SELECT count(*) FROM t") == [(before,)]
                direct("COMMIT")
                wait_seen(cluster)
                assert idle("SELECT count(*) FROM t") == [(before + 1,)]
        assert_same(cluster)


# ---------------------------------------------------------------- one connection

CURSOR = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
cursor = db.execute("SELECT x FROM t")
cursor.fetchone()
for value in range(12):
    db.execute("INSERT INTO t VALUES (?)", (100 + value,))  # SQLite asks no busy handler where it reads already
    time.sleep(0.2 if value % 2 else 0.05)  # beyond the linger, so that upstream is begun anew; beside LiteFS' turns
cursor.close()
print(db.execute("SELECT count(*) FROM t").fetchone()[0])
"""


def test_open_cursor__autocommit_writes_of_the_same_connection__each_committed():
    # The cursor keeps the read transaction open beyond the commit. Its own commit counted as another's: every later write
    # that had to wait for upstream was told SQLITE_BUSY, for as long as the cursor was open; and one that met the gate, which
    # waited for nobody but that reader, at once.
    with Cluster(n=2) as cluster:
        for journal in FAMILIES:
            for node in both(cluster):
                db = f"{journal}-{node.index}.db"
                create(cluster, db, journal)
                with forwards(cluster, node, 12, db=db):
                    assert cluster.run([sys.executable, "-c", CURSOR, node.path(db)]).strip() == "15", db
                assert_same(cluster, db)


# ---------------------------------------------------------------- cold pages under readers

COLD = """
import os, sys, random
fd = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
while True:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    pages = os.fstat(fd).st_size // 4096
    for _ in range(20):
        try:
            os.pread(fd, 4096, random.randrange(pages) * 4096)
        except OSError:
            pass
"""


@contextlib.contextmanager
def cold_pages(cluster, path, number=2):
    """Processes that drop the database's pages from the kernel's cache and read them again from litefwd."""
    children = [cluster.spawn([sys.executable, "-c", COLD, path], stdout=subprocess.PIPE, name="cold") for _ in range(number)]
    try:
        for child in children:
            assert child.stdout.readline() == b"ready\n"
        yield
        assert all(child.poll() is None for child in children), "a reader of cold pages has ended"
    finally:
        for child in children:
            child.kill()
            child.wait(20)


def balanced(cluster, db):
    cluster.sql_direct(cluster.primary, db, """
        PRAGMA journal_mode = wal; CREATE TABLE t(x); CREATE TABLE a(k INTEGER PRIMARY KEY, v, pad);
        WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 300) INSERT INTO a SELECT i, 0, randomblob(3000) FROM s""")
    cluster.wait_converged(db)


def test_cold_pages__commits_here_under_an_open_reader__counters_and_snapshots_exact():
    # While LiteFS takes this node's own commit in, the guard is given to it for a moment. A read of a cold page in that
    # moment took the guard and gave it from under its owner.
    with Cluster(n=2) as cluster:
        node = cluster.nodes[1]
        balanced(cluster, DB)
        with cold_pages(cluster, node.path(DB)), node.conn(DB) as writer, node.conn(DB) as reader:
            reader("PRAGMA cache_size = 2")
            rows = 0
            for _ in range(25):
                reader("BEGIN")
                assert reader("SELECT count(*) FROM t") == [(rows,)]
                for _ in range(4):
                    with forwards(cluster, node):
                        writer(f"UPDATE a SET v = v + CASE k WHEN {rows + 1} THEN 1 ELSE -1 END WHERE k IN ({rows + 1}, 300)")
                writer("INSERT INTO t VALUES (1)")
                assert reader("SELECT sum(v), count(*) FROM a") == [(0, 300)]
                assert reader("SELECT count(*) FROM t") == [(rows,)]
                reader("COMMIT")
                rows += 1
            assert reader("SELECT sum(v), min(v) FROM a") == [(0, -100)]
        assert_same(cluster)


def test_cold_pages__another_node_writes_under_an_open_reader__litefs_here_stays_where_it_is():
    # With the guard lost as above, LiteFS applied the other node's transaction under the reader, which then saw pages of both.
    with Cluster(n=2) as cluster:
        primary, node = cluster.nodes
        balanced(cluster, DB)
        with cold_pages(cluster, node.path(DB)), node.conn(DB) as writer, node.conn(DB) as reader:
            reader("PRAGMA cache_size = 2")
            for turn in range(1, 16):
                reader("BEGIN")
                first = reader("SELECT sum(v * k), sum(v) FROM a")
                writer("INSERT INTO t VALUES (1)")
                mine = primary.pos(DB)
                wait_until("LiteFS here has this node's own commit", lambda: node.pos(DB) == mine, 20)
                rival = cluster.spawn(["sqlite3", "-batch", "-bail", "-cmd", ".timeout 20000", primary.path(DB),
                                       f"UPDATE a SET v = v + CASE k WHEN {turn} THEN 1 ELSE -1 END WHERE k IN ({turn}, {300 - turn})"],
                                      name="rival")
                deadline = time.monotonic() + 0.3
                while time.monotonic() < deadline:
                    assert node.pos(DB) == mine, f"turn {turn}: LiteFS moved under an open read transaction"
                    assert reader("SELECT sum(v * k), sum(v) FROM a") == first, f"turn {turn}"
                    time.sleep(0.02)
                assert node.pos(DB) == mine, f"turn {turn}: LiteFS moved under an open read transaction"
                reader("COMMIT")
                assert rival.wait(30) == 0
                assert cluster.wait_converged(DB)[0] == mine[0] + 1
            assert reader("SELECT sum(v), sum(v = 1), sum(v = -1) FROM a") == [(0, 15, 15)]
            assert reader("SELECT count(*) FROM t") == [(15,)]
        assert_same(cluster)
