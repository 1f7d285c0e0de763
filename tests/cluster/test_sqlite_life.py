"""Databases are created, removed and created again through the mount, on any node, and no LiteFS ever ends by it."""
import os
import sys
import time

from cluster import Cluster, SqlError, wait_until
from marks import bound
from sqltest import FAMILIES, assert_same, both, count, create, error_of, is_io_error, logged, no_files_left, wait_gone, wait_seen

MAKE = "CREATE TABLE t(x); INSERT INTO t VALUES (1), (2)"


def make(cluster, node, db, before="", journal="delete"):
    """Through node's mount: the database is on every node afterwards."""
    node.sql(db, f"{before}; PRAGMA journal_mode = {journal}; {MAKE}")
    cluster.wait_converged(db)
    assert cluster.primary.pos(db)[0] > 0


def remove(node, db, check=True):
    return node.cluster.run(["rm", node.path(db)], timeout=40, check=check)


# ---------------------------------------------------------------- creation

@bound(240)
def test_creation__first_open_and_write_on_each_node__everywhere():
    with Cluster() as cluster:
        for journal in FAMILIES:
            for node in cluster.nodes:
                db = f"{journal}-{node.index}.db"
                make(cluster, node, db, journal=journal)
                for number, other in enumerate(cluster.nodes):
                    assert other.sql(db, "PRAGMA journal_mode").strip() == journal
                    assert count(other, db) == 2 + number
                    other.sql(db, "INSERT INTO t VALUES (3)")
                    wait_seen(cluster, db)
                no_files_left(node, db)
                assert_same(cluster, db)


@bound(240)
def test_creation__every_page_size__kept():
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for page_size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
                for journal in FAMILIES:
                    db = f"{journal}-{page_size}-{node.index}.db"
                    make(cluster, node, db, f"PRAGMA page_size = {page_size}", journal)
                    for other in cluster.nodes:
                        assert other.sql(db, "PRAGMA page_size").strip() == str(page_size)
                        other.sql(db, "INSERT INTO t VALUES (zeroblob(100000))")
                        wait_seen(cluster, db)
                    assert_same(cluster, db)


@bound(240)
def test_creation__auto_vacuum_and_encoding__kept():
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for number, (pragma, value, answer) in enumerate((("auto_vacuum", "FULL", "1"), ("auto_vacuum", "INCREMENTAL", "2"),
                                                              ("encoding", "'UTF-16le'", "UTF-16le"), ("encoding", "'UTF-16be'", "UTF-16be"))):
                for journal in FAMILIES:
                    db = f"{journal}-{number}-{node.index}.db"
                    make(cluster, node, db, f"PRAGMA {pragma} = {value}", journal)
                    for other in cluster.nodes:
                        assert other.sql(db, f"PRAGMA {pragma}").strip() == answer
                        other.sql(db, "INSERT INTO t VALUES ('ünïcödé €')")
                        wait_seen(cluster, db)
                        assert other.sql(db, "SELECT x FROM t ORDER BY rowid DESC LIMIT 1").strip() == "ünïcödé €"
                    assert_same(cluster, db)


def test_creation__opened_and_not_written__an_empty_file_on_that_node_alone():
    with Cluster(n=2) as cluster:
        for node, other in ((cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[1])):
            db = f"empty-{node.index}.db"
            with node.conn(db) as conn:
                assert conn("SELECT count(*) FROM sqlite_schema") == [(0,)]
                assert db in cluster.run(["ls", node.mount]).split()
                assert os.stat(node.path(db)).st_size == 0
                assert db not in cluster.run(["ls", other.mount]).split()
                assert not os.path.exists(other.path(db)) and not os.path.exists(cluster.primary.direct_path(db))
                conn("CREATE TABLE t(x)")
            cluster.wait_converged(db)
            assert count(other, db) == 0
            other.sql(db, "INSERT INTO t VALUES (1)")
            wait_seen(cluster, db)
            assert_same(cluster, db)


def test_creation__rolled_back__nothing_is_made():
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            db = f"rolled-{node.index}.db"
            with node.conn(db) as conn:
                for _ in range(2):
                    conn("PRAGMA cache_size = 10")
                    conn("BEGIN")
                    conn("CREATE TABLE t(x)")
                    conn("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300) INSERT INTO t SELECT randomblob(900) FROM c")
                    conn("ROLLBACK")
                    assert conn("SELECT count(*) FROM sqlite_schema") == [(0,)]
                    assert cluster.primary.pos(db) == (0, 0)
                no_files_left(node, db)
                conn("CREATE TABLE t(x)")
            cluster.wait_converged(db)
            assert_same(cluster, db)


@bound(240)
def test_creation__same_name_on_two_replicas_at_once__one_database_with_what_both_wrote():
    with Cluster() as cluster:
        first, second = cluster.replicas
        for round_number in range(6):
            db = f"race-{round_number}.db"
            conns = [first.conn(db), second.conn(db)]
            for conn in conns:
                conn("PRAGMA user_version")
            for conn in conns:
                conn.send("CREATE TABLE IF NOT EXISTS t(x)")
            for conn in conns:
                try:
                    conn.result()
                except SqlError as error:
                    print(f"round {round_number}: {error}")
                    assert error.is_busy, error
            cluster.wait_converged(db)
            for conn in conns:
                conn("CREATE TABLE IF NOT EXISTS t(x)")
                conn("INSERT INTO t VALUES (1)")
                cluster.wait_converged(db)
            for conn in conns:
                assert conn("SELECT count(*) FROM t") == [(2,)], "both see both"
                conn.close()
            assert_same(cluster, db)


@bound(240)
def test_creation__without_a_primary__fails_in_bound_and_leaves_nothing():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "1s", "commit_timeout": "3s"}) as cluster:
        node = cluster.nodes[1]
        cluster.primary.kill_litefs()
        for journal in FAMILIES:
            with node.conn("new.db", busy_ms=0) as conn:
                begin = time.monotonic()
                try:
                    conn(f"PRAGMA journal_mode = {journal}")
                    conn("CREATE TABLE t(x)")
                    raise AssertionError("created without a primary")
                except SqlError as error:
                    assert error.is_busy or is_io_error(error), error
                assert time.monotonic() - begin < 15
                assert not os.path.exists(node.direct_path("new.db"))
                no_files_left(node, "new.db")
        cluster.primary.start_litefs()

        def made():
            try:
                with node.conn("new.db") as conn:
                    conn("CREATE TABLE t(x)")
                return True
            except SqlError as error:
                assert error.is_busy or is_io_error(error), error
                return False
        wait_until("created after the primary's return", made, 60, every=0.3)
        assert_same(cluster, "new.db")


# ---------------------------------------------------------------- removal

@bound(240)
def test_removal__on_each_node__gone_everywhere_and_made_again_on_another():
    with Cluster() as cluster:
        for journal in FAMILIES:
            for index, node in enumerate(cluster.nodes):
                db = f"{journal}-{index}.db"
                make(cluster, cluster.nodes[(index + 2) % 3], db, journal=journal)
                for other in cluster.nodes:
                    assert count(other, db) == 2
                remove(node, db)
                assert not os.path.exists(node.path(db)), "gone here when rm returns"
                wait_gone(cluster, db)
                for other in cluster.nodes:
                    listed = cluster.run(["ls", "-a", other.mount]).split()
                    assert not [name for name in listed if name.startswith(db)], listed
                    assert not os.path.exists(other.path(db))
                for again in range(2):
                    maker = cluster.nodes[(index + 1 + again) % 3]
                    maker.sql(db, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x, again); INSERT INTO t VALUES ('new {again}', 1)")
                    cluster.wait_converged(db)
                    for other in cluster.nodes:
                        assert other.sql(db, "SELECT x FROM t").strip() == f"new {again}"
                    assert_same(cluster, db)
                    if not again:
                        remove(cluster.nodes[index], db)
                        wait_gone(cluster, db)


@bound(240)
def test_removal__made_again_with_another_page_size__refused_with_a_reason():
    with Cluster(n=2) as cluster:
        for node, other in ((cluster.nodes[1], cluster.primary), (cluster.primary, cluster.nodes[1])):
            db = f"size-{node.index}.db"
            make(cluster, node, db, "PRAGMA page_size = 4096")
            remove(other, db)
            wait_gone(cluster, db)
            for maker in (node, other):
                with maker.conn(db) as conn:
                    conn("PRAGMA page_size = 8192")
                    error = error_of(conn, "CREATE TABLE t(x)")
                    assert not error.is_busy, error
                assert logged(maker, db, "reason=page_size")
                no_files_left(maker, db)
                assert not os.path.exists(cluster.primary.direct_path(db))
            cluster.assert_alive()
            make(cluster, node, db, "PRAGMA page_size = 4096")
            assert_same(cluster, db)


def test_removal__open_here__refused():
    with Cluster(n=2) as cluster:
        for journal in FAMILIES:
            for node in both(cluster):
                db = f"{journal}-{node.index}.db"
                make(cluster, node, db, journal=journal)
                before = cluster.primary.pos(db)
                with node.conn(db) as conn:
                    conn("BEGIN")
                    conn("SELECT * FROM t")
                    code, _, err = remove(node, db, check=False)
                    assert code and "busy" in err.lower(), err
                    assert conn("SELECT count(*) FROM t") == [(2,)]
                assert cluster.primary.pos(db) == before
                assert logged(node, db, "in_use")
                assert_same(cluster, db)


@bound(240)
def test_removal__open_by_a_direct_client_on_the_primary__refused_from_every_node():
    with Cluster(n=2) as cluster:
        for journal in FAMILIES:
            db = f"{journal}.db"
            make(cluster, cluster.primary, db, journal=journal)
            for state in ("idle", "reading"):
                with cluster.primary.conn_direct(db) as direct:
                    if state == "reading":
                        direct("BEGIN")
                    assert direct("SELECT count(*) FROM t") == [(2,)]
                    # LiteFS sees an open one in WAL mode by its SHARED lock; in rollback mode there is no lock between transactions.
                    if journal == "wal" or state == "reading":
                        for node in both(cluster):
                            code, _, err = remove(node, db, check=False)
                            assert code and err, f"n{node.index} {journal} {state}: removed"
                            assert os.path.exists(cluster.primary.direct_path(db)) and os.path.exists(node.path(db))
                            cluster.assert_alive()
                    assert direct("SELECT count(*) FROM t") == [(2,)]
                    if state == "reading":
                        direct("COMMIT")
                    direct("INSERT INTO t VALUES (3)")
                    direct("DELETE FROM t WHERE x = 3")
                assert_same(cluster, db)
            remove(cluster.nodes[1], db)
            wait_gone(cluster, db)


@bound(240)
def test_removal__idle_connections_on_other_nodes__error_or_the_new_database_and_never_a_mixture():
    with Cluster() as cluster:
        for journal in FAMILIES:
            for node in both(cluster):
                db = f"{journal}-{node.index}.db"
                make(cluster, node, db, journal=journal)
                others = [other for other in cluster.nodes if other is not node]
                conns = [other.conn(db, busy_ms=2000) for other in others]
                for conn in conns:
                    assert conn("SELECT count(*) FROM t") == [(2,)]
                conns[1]("INSERT INTO t VALUES (3)")
                cluster.wait_converged(db)
                remove(node, db)
                wait_gone(cluster, db)
                for again in (False, True):
                    if again:
                        node.sql(db, f"PRAGMA journal_mode = {journal}; CREATE TABLE t(x); "
                                     "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40) INSERT INTO t SELECT 'new' FROM c")
                        cluster.wait_converged(db)
                    for sql in ("SELECT count(*), sum(x = 'new') FROM t", "INSERT INTO t VALUES ('new')"):
                        for conn in conns:
                            conn.send(sql)
                        for other, conn in zip(others, conns):
                            where = f"{journal} n{other.index} again={again} {sql[:6]}"
                            try:
                                rows = conn.result()
                            except SqlError as error:
                                print(f"{where}: {error}")
                                continue
                            assert again, f"{where}: the database is gone, and yet {rows}"
                            assert not rows or rows[0][0] >= 40 and rows[0][0] == rows[0][1], f"{where}: old rows {rows}"
                        cluster.wait_converged(db)
                for conn in conns:
                    conn.close()
                for other in others:
                    assert other.sql(db, "SELECT count(*) >= 40 AND count(*) = sum(x = 'new') FROM t").strip() == "1"
                    other.sql(db, "INSERT INTO t VALUES ('new')")
                    wait_seen(cluster, db)
                assert_same(cluster, db)
