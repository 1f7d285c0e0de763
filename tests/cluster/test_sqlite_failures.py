"""Rollback journals when something fails: COMMIT that cannot be sent, killed clients, modes that have no commit point,
locking_mode EXCLUSIVE, and the way from a rollback journal to WAL."""
import os
import subprocess
import time

from cluster import Cluster, SqlError, client, wait_until
from faults import FaultProxy
from marks import bound
from sqltest import (DB, JOURNALS, MANY, assert_same, both, count, create, error_of, forwards, is_io_error, logged,
                     no_files_left, wait_seen)

REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nno\n"


# ---------------------------------------------------------------- a commit that fails

def fails_and_goes_on(cluster, node, fail, heal, commits_failed=0):
    """fail() makes the next COMMIT of node fail; heal() ends that. The connection goes on with the old state in each mode."""
    for journal in JOURNALS:
        for spilled in (False, True):
            with node.conn(DB) as conn, node.conn(DB) as other:
                conn(f"PRAGMA journal_mode = {journal}")
                conn("PRAGMA cache_size = 10")
                before = count(node)
                other("SELECT count(*) FROM t")
                with forwards(cluster, node, commits_failed):
                    conn("BEGIN")
                    conn(MANY if spilled else "INSERT INTO t VALUES ('never')")
                    fail()
                    error = error_of(conn, "COMMIT")
                    assert is_io_error(error), f"{journal}: {error}"
                    no_files_left(node)
                    assert other("SELECT count(*) FROM t") == [(before,)], journal
                    assert conn("SELECT count(*) FROM t") == [(before,)], journal
                    assert conn("PRAGMA integrity_check") == [("ok",)]
                    heal()
                with forwards(cluster, node):
                    conn("INSERT INTO t VALUES (7)")
                assert other("SELECT count(*) FROM t") == [(before + 1,)]
            wait_seen(cluster)


@bound(240)
def test_commit__refused_by_the_primary__io_error_and_old_state():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url, commit_timeout="3s")
            fails_and_goes_on(cluster, node, lambda: proxy.add("answer", method="POST", path="/tx", answer=REFUSED), lambda: None)
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        assert_same(cluster)


@bound(240)
def test_commit__connection_lost_before_it_was_sent__io_error_and_old_state():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url, commit_timeout="3s")
            fails_and_goes_on(cluster, node, lambda: proxy.add("drop_request", method="POST", path="/tx"), lambda: None)
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        assert_same(cluster)


@bound(240)
def test_commit__primary_killed_in_the_transaction__fails_and_the_connection_writes_after_its_return():
    with Cluster(n=2, litefwd_opts={"commit_timeout": "3s", "halt_timeout": "2s"}) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        for journal in JOURNALS:
            with node.conn(DB, busy_ms=0) as conn:
                conn(f"PRAGMA journal_mode = {journal}")
                before = count(node)
                conn("BEGIN IMMEDIATE")
                conn("INSERT INTO t VALUES ('never')")
                cluster.primary.kill_litefs()
                error = error_of(conn, "COMMIT")
                assert is_io_error(error) or error.is_busy, error
                if error.is_busy:
                    conn("ROLLBACK")
                no_files_left(node)
                assert conn("SELECT count(*) FROM t") == [(before,)]
                cluster.primary.start_litefs()

                def writes():
                    try:
                        conn("INSERT INTO t VALUES (8)")
                        return True
                    except SqlError as error:
                        assert error.is_busy or is_io_error(error), error
                        return False
                wait_until("the same connection writes again", writes, 60, every=0.2)
                wait_seen(cluster)
                assert count(node) == before + 1
        assert_same(cluster)


# ---------------------------------------------------------------- killed clients

@bound(240)
def test_client_killed__in_each_state_of_a_rollback_transaction__others_go_on_at_once_without_it():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            for journal in JOURNALS:
                for state in ("read", "write", "spill", "end", "ending", "ended"):
                    before = count(node)
                    victim = cluster.spawn([client("locks"), "--db", node.path(DB), "--state", state, "--journal", journal],
                                           stdout=subprocess.PIPE)
                    assert victim.stdout.readline() == b"ready\n", f"n{node.index} {journal} {state}"
                    victim.kill()
                    victim.wait(20)
                    begin = time.monotonic()
                    node.sql(DB, "INSERT INTO t VALUES (1)")
                    took = time.monotonic() - begin
                    no_files_left(node)
                    wait_seen(cluster)
                    for other in cluster.nodes:
                        other.sql(DB, "INSERT INTO t VALUES (2)")
                        wait_seen(cluster)
                    left = count(node) - before - 3
                    allowed = {"ended": (401,), "ending": (0, 401)}.get(state, (0,))
                    assert left in allowed, f"n{node.index} {journal} {state}: {left} rows of the dead"
                    assert took < 10, f"n{node.index} {journal} {state}: {took:.1f} s"
                    node.sql(DB, "DELETE FROM t WHERE typeof(x) = 'blob'")
                    wait_seen(cluster)
        assert_same(cluster)


# ---------------------------------------------------------------- no commit point

def test_journal_mode_memory_and_off__first_write_refused_with_a_reason_and_nothing_changed():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            for journal in ("memory", "off"):
                for work in ("INSERT INTO t VALUES (1)", MANY, "DELETE FROM t"):
                    with node.conn(DB) as conn, forwards(cluster, node, 0):
                        assert conn(f"PRAGMA journal_mode = {journal}") == [(journal,)]
                        conn("PRAGMA cache_size = 10")
                        error = error_of(conn, work)
                        assert not error.is_busy, error
                with node.conn(DB) as conn:
                    assert conn("SELECT count(*), sum(x) FROM t") == [(3, 6)], (journal, work)
                    assert conn("PRAGMA integrity_check") == [("ok",)]
            assert logged(node, "database_write_refused", "reason=no_journal", DB)
            with forwards(cluster, node, 2):
                node.sql(DB, "INSERT INTO t VALUES (4); DELETE FROM t WHERE x = 4")
        assert_same(cluster)


# ---------------------------------------------------------------- locking_mode EXCLUSIVE

def test_locking_mode_exclusive__several_transactions_in_a_row__all_forwarded():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            for journal in JOURNALS:
                with node.conn(DB) as conn:
                    conn("PRAGMA locking_mode = exclusive")
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("PRAGMA cache_size = 10")
                    before = conn("SELECT count(*) FROM t")[0][0]
                    with forwards(cluster, node, 6):
                        for turn in range(6):
                            conn("INSERT INTO t VALUES (?)", turn)
                            if turn % 2:
                                time.sleep(0.15)  # beyond the linger: begun anew
                    # It may be sent: a spilled rollback leaves old bytes in free pages, and here no change counter tells it.
                    conn("BEGIN")
                    conn(MANY)
                    conn("ROLLBACK")
                    with forwards(cluster, node, 1):
                        conn("DELETE FROM t WHERE x = 5")
                    assert conn("SELECT count(*) FROM t")[0][0] <= before + 6
                wait_seen(cluster)
        assert_same(cluster)


@bound(240)
def test_locking_mode_exclusive__another_node_writes_in_between__next_write_fails_and_nothing_is_lost():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "2s"}) as cluster:
        create(cluster)
        for node, other in ((cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[1])):
            with node.conn(DB, busy_ms=1000) as conn, other.conn(DB, busy_ms=500) as rival:
                conn("PRAGMA locking_mode = exclusive")
                conn("INSERT INTO t VALUES ('e1')")
                time.sleep(0.3)
                here, there = ["e1"], []
                for turn in range(4):
                    for connection, name, said in ((rival, "r", there), (conn, "e", here)):
                        try:
                            connection("INSERT INTO t VALUES (?)", f"{name}-{turn}")
                            said.append(f"{name}-{turn}")
                        except SqlError as error:
                            print(f"n{node.index} {name} {turn}: {error}")
                            assert error.is_busy or is_io_error(error), error
                    time.sleep(0.1)
            wait_seen(cluster)
            with node.conn(DB) as conn:
                conn("PRAGMA locking_mode = exclusive")
                conn("INSERT INTO t VALUES ('anew')")
            here.append("anew")
            wait_seen(cluster)
            print(f"n{node.index}: exclusive {here}, rival {there}")
            found = node.sql(DB, "SELECT x FROM t WHERE typeof(x) = 'text' ORDER BY rowid").split()
            assert sorted(found) == sorted(here + there), "what was acknowledged, and nothing else"
            other.sql(DB, "DELETE FROM t WHERE typeof(x) = 'text'")
            wait_seen(cluster)
        assert_same(cluster)


def test_locking_mode_exclusive__wal_database__refused_and_intact():
    with Cluster(n=2) as cluster:
        create(cluster, journal="wal")
        for node in both(cluster):
            with node.conn(DB, busy_ms=300) as conn, forwards(cluster, node, 0):
                conn("PRAGMA locking_mode = exclusive")
                try:
                    conn("INSERT INTO t VALUES (1)")
                    raise AssertionError("written without a wal-index")
                except SqlError as error:
                    print(error)
            with forwards(cluster, node):
                node.sql(DB, "INSERT INTO t VALUES (2)")
        assert_same(cluster)


# ---------------------------------------------------------------- DELETE to WAL

@bound(240)
def test_journal_mode_wal__switched_on_each_node__all_nodes_follow_with_connections_open():
    with Cluster() as cluster:
        for node in cluster.nodes:
            db = f"n{node.index}.db"
            create(cluster, db)
            conns = [other.conn(db) for other in cluster.nodes if other is not node]
            for conn in conns:
                assert conn("SELECT count(*) FROM t") == [(3,)]
            with forwards(cluster, node, db=db), node.conn(db) as conn:
                assert conn("PRAGMA journal_mode = wal") == [("wal",)]
            cluster.wait_converged(db)
            for turn, conn in enumerate(conns):
                assert conn("SELECT count(*) FROM t") == [(3 + turn,)]
                conn("INSERT INTO t VALUES (1)")
                cluster.wait_converged(db)
                assert conn("PRAGMA journal_mode") == [("wal",)]
            node.sql(db, "INSERT INTO t VALUES (2)")
            for conn in conns:
                wait_until("seen", lambda: conn("SELECT count(*) FROM t") == [(6,)])
                conn.close()
            assert_same(cluster, db)


def test_journal_mode_delete__of_a_wal_database__refused_and_still_wal():
    with Cluster(n=2) as cluster:
        create(cluster, journal="wal")
        for node in both(cluster):
            with forwards(cluster, node, 0):
                for journal in JOURNALS + ("memory", "off"):
                    with node.conn(DB, busy_ms=200) as conn:
                        try:
                            mode = conn(f"PRAGMA journal_mode = {journal}")
                            assert mode == [("wal",)], mode
                        except SqlError as error:
                            print(f"n{node.index} {journal}: {error}")
                            assert error.is_busy or is_io_error(error), error
            with node.conn(DB) as conn, forwards(cluster, node):
                assert conn("PRAGMA journal_mode") == [("wal",)]
                conn("INSERT INTO t VALUES (1)")
            assert os.path.exists(node.path(DB) + "-wal")
            cluster.run(["sqlite3", node.path(DB), "PRAGMA journal_mode = delete"], check=False)
            assert logged(node, "exclusive_refused", DB), "the log says why it is busy for ever"
        assert_same(cluster)
