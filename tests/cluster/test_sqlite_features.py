"""What applications do beside INSERT and SELECT: schema changes, ATTACH, VACUUM, backup, pragmas, URIs. In both journal families."""
import os
import sys

from cluster import Cluster, Conn, SqlError
from faults import FaultProxy
from marks import bound
from sqltest import (DB, FAMILIES, JOURNALS, MANY, assert_same, both, count, create, error_of, forwards, is_io_error, logged,
                     no_files_left, no_hot_journal, wait_seen)

REFUSED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nno\n"


def in_both_families(n=2, **options):
    """(cluster, db, node): one cluster for each journal family, a replica and the primary in each."""
    for family in FAMILIES:
        with Cluster(n=n) as cluster:
            for node in both(cluster):
                db = f"{family}-{node.index}.db"
                create(cluster, db, journal=family, **options)
                yield cluster, db, node
                wait_seen(cluster, db)
                no_files_left(node, db)
                assert_same(cluster, db)


# ---------------------------------------------------------------- schema

def test_ddl__migration_in_one_transaction__once_and_everywhere():
    for cluster, db, node in in_both_families():
        with node.conn(db) as conn, cluster.primary.conn(db) as other:
            assert other("SELECT count(*) FROM t") == [(3,)]
            with forwards(cluster, node, db=db):
                conn.script("""BEGIN;
                    CREATE TABLE new_t(id INTEGER PRIMARY KEY, x, y DEFAULT 'd', UNIQUE(x));
                    INSERT INTO new_t(x) SELECT x FROM t;
                    DROP TABLE t; ALTER TABLE new_t RENAME TO t;
                    ALTER TABLE t ADD COLUMN z; ALTER TABLE t RENAME COLUMN z TO w;
                    CREATE INDEX t_y ON t(y); CREATE VIEW v AS SELECT x, w FROM t;
                    PRAGMA user_version = 42;
                    COMMIT""")
            with forwards(cluster, node, 0, db=db):
                conn.script("BEGIN; DROP TABLE t; CREATE TABLE t(never); PRAGMA user_version = 1; ROLLBACK")
            wait_seen(cluster, db)
            for connection in (conn, other):
                assert connection("PRAGMA user_version") == [(42,)]
                assert connection("SELECT x, y, w FROM t ORDER BY x") == [(1, "d", None), (2, "d", None), (3, "d", None)]
                assert connection("SELECT count(*) FROM v") == [(3,)]


def test_triggers_fts5_and_without_rowid__work_through_the_mount():
    for cluster, db, node in in_both_families():
        with node.conn(db) as conn:
            conn("PRAGMA cache_size = 10")
            conn.script("""
                CREATE TABLE audit(n PRIMARY KEY, what) WITHOUT ROWID;
                CREATE TRIGGER t_in AFTER INSERT ON t BEGIN
                    INSERT INTO audit SELECT coalesce(max(n), 0) + 1, new.x FROM audit; END;
                CREATE TRIGGER t_no BEFORE DELETE ON t WHEN old.x = 3 BEGIN SELECT RAISE(ABORT, 'kept'); END;
                CREATE VIRTUAL TABLE docs USING fts5(body);""")
            with forwards(cluster, node, 4, db=db):
                conn("INSERT INTO t VALUES ('a'), ('b')")
                conn("""WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 400)
                        INSERT INTO docs SELECT 'word' || (i % 17) || ' filler text number ' || i FROM c""")
                conn("INSERT INTO docs(docs) VALUES ('rebuild')")
                conn("DELETE FROM docs WHERE docs MATCH 'word5'")
            assert error_of(conn, "DELETE FROM t").name.startswith("SQLITE_CONSTRAINT")
            assert conn("SELECT count(*), max(n) FROM audit") == [(2, 2)]
        wait_seen(cluster, db)
        for other in cluster.nodes:
            with other.conn(db) as conn:
                assert conn("SELECT count(*) FROM docs WHERE docs MATCH 'word5'") == [(0,)]
                assert conn("SELECT count(*) FROM docs WHERE docs MATCH 'word6'") == [(24,)]
                assert conn("SELECT count(*) FROM t") == [(5,)]


# ---------------------------------------------------------------- ATTACH

def attach_pair(cluster, journal):
    for db in ("one.db", "two.db"):
        create(cluster, db, journal="wal" if journal == "wal" else "delete")


def attached(node, journal, main="one.db", second="two.db"):
    conn = node.conn(main)
    conn(f"ATTACH '{node.path(second)}' AS other")
    if journal != "wal":
        for schema in ("main", "other"):
            conn(f"PRAGMA {schema}.journal_mode = {journal}")
    conn("PRAGMA main.cache_size = 10")
    conn("PRAGMA other.cache_size = 10")
    return conn


def test_attach__two_databases_in_a_transaction__both_committed():
    for journal in JOURNALS + ("wal",):
        with Cluster(n=2) as cluster:
            attach_pair(cluster, journal)
            for node in both(cluster):
                with attached(node, journal) as conn:
                    with forwards(cluster, node, db="one.db"), forwards(cluster, node, db="two.db"):
                        conn("BEGIN")
                        conn("INSERT INTO main.t SELECT randomblob(900) FROM main.t, main.t, main.t, main.t")
                        conn("INSERT INTO other.t SELECT x FROM main.t")
                        conn("DELETE FROM main.t WHERE rowid % 2")
                        conn("COMMIT")
                    with forwards(cluster, node, 0, db="one.db"), forwards(cluster, node, 0, db="two.db"):
                        conn("BEGIN")
                        conn("DELETE FROM main.t")
                        conn("DELETE FROM other.t")
                        conn("ROLLBACK")
                    with forwards(cluster, node, 0, db="one.db"), forwards(cluster, node, 1, db="two.db"):
                        conn("INSERT INTO other.t SELECT count(*) FROM main.t")
                    if journal == "delete":
                        assert not [name for name in cluster.run(["ls", "-a", node.mount]).split() if "-mj" in name or "-journal" in name]
                    conn("DELETE FROM main.t WHERE rowid > 3")
                    conn("DELETE FROM other.t WHERE rowid > 3")
                for db in ("one.db", "two.db"):
                    wait_seen(cluster, db)
            for db in ("one.db", "two.db"):
                assert_same(cluster, db)


@bound(240)
def test_attach__second_database_cannot_be_sent__commit_fails_and_nothing_of_it_stays_in_either():
    with Cluster(n=2, litefwd_opts={"commit_timeout": "3s"}) as cluster:
        attach_pair(cluster, "delete")
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url)
            for journal in JOURNALS:
                for broken in ("one.db", "two.db"):
                    before = {db: (count(node, db), cluster.primary.pos(db)[0]) for db in ("one.db", "two.db")}
                    with attached(node, journal) as conn:
                        conn("BEGIN")
                        conn("INSERT INTO main.t VALUES ('m')")
                        conn("INSERT INTO other.t VALUES ('o')")
                        seen = len(proxy.seen("POST", "/tx"))
                        fault = proxy.add("answer", method="POST", path="/tx", answer=REFUSED, times=0)
                        fault.matches = lambda method, path: path == "/tx" and proxy.requests[-1][2].get("name") == broken
                        error = error_of(conn, "COMMIT")
                        fault.matches = lambda method, path: False
                        assert is_io_error(error), error
                        assert len(proxy.seen("POST", "/tx")) > seen
                        there = {db: count(node, db) - before[db][0] for db in before}
                        print(f"{journal} broken={broken}: {error}; there: {there}")
                        assert not any(there.values()), f"{journal}: in parts: {there}"
                        for db in before:
                            no_hot_journal(node, db)
                        # The same connection goes on, in both.
                        conn("INSERT INTO main.t VALUES (1)")
                        conn("INSERT INTO other.t VALUES (1)")
                    for db in before:
                        wait_seen(cluster, db)
                        # What had been sent of the other one was sent back again: a transaction each.
                        assert cluster.primary.pos(db)[0] - before[db][1] in ((1,) if db == broken else (1, 3)), db
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        for db in ("one.db", "two.db"):
            assert_same(cluster, db)


def test_attach__wal_and_second_database_cannot_be_sent__commit_fails_and_the_log_names_what_stays():
    with Cluster(n=2, litefwd_opts={"commit_timeout": "3s"}) as cluster:
        attach_pair(cluster, "wal")
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url)
            before = {db: count(node, db) for db in ("one.db", "two.db")}
            with attached(node, "wal") as conn:
                conn("BEGIN")
                conn("INSERT INTO main.t VALUES ('m')")
                conn("INSERT INTO other.t VALUES ('o')")
                fault = proxy.add("answer", method="POST", path="/tx", answer=REFUSED, times=0)
                fault.matches = lambda method, path: path == "/tx" and proxy.requests[-1][2].get("name") == "two.db"
                error = error_of(conn, "COMMIT")
                fault.matches = lambda method, path: False
                assert is_io_error(error), error
            there = {db: count(node, db) - before[db] for db in before}
            assert there == {"one.db": 1, "two.db": 0}, there
            assert logged(node, "transaction_in_parts", "committed=one.db", "failed=two.db"), "the log names what stays"
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        for db in ("one.db", "two.db"):
            assert_same(cluster, db)


def test_attach__main_outside_the_mount__refused_before_its_first_write():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            plain = os.path.join(node.base, "plain.db")
            cluster.shell(plain, "CREATE TABLE p(x)")
            for journal in JOURNALS:
                with Conn(cluster, plain) as conn:
                    conn(f"ATTACH '{node.path(DB)}' AS m")
                    conn(f"PRAGMA m.journal_mode = {journal}")
                    with forwards(cluster, node, 1):  # alone it needs no super-journal
                        conn("INSERT INTO m.t VALUES (1)")
                    with forwards(cluster, node, 0):
                        conn("BEGIN")
                        conn("INSERT INTO main.p VALUES (1)")
                        conn("INSERT INTO m.t VALUES ('never')")
                        error = error_of(conn, "COMMIT")
                        assert not error.is_busy, error
                    assert conn("SELECT count(*) FROM m.t WHERE x = 'never'") == [(0,)]
                no_files_left(node)
                assert cluster.shell(plain, "SELECT count(*) FROM p").strip() == "0", "and nothing in the other"
            assert logged(node, "database_write_refused", "reason=super_journal_elsewhere", DB)
        assert_same(cluster)


# ---------------------------------------------------------------- VACUUM

def test_vacuum__after_deletes__smaller_everywhere():
    for cluster, db, node in in_both_families():
        with node.conn(db) as conn, cluster.primary.conn(db) as other:
            for _ in range(3):
                conn(MANY)
            conn("DELETE FROM t WHERE rowid > 20")
            before = conn("PRAGMA page_count")[0][0]
            wait_seen(cluster, db)
            other("SELECT count(*) FROM t")
            with forwards(cluster, node, db=db):
                conn("VACUUM")
            after = conn("PRAGMA page_count")[0][0]
            assert after < before / 3, (before, after)
            wait_seen(cluster, db)
            assert other("PRAGMA page_count") == [(after,)] and other("SELECT count(*) FROM t") == [(20,)]
            for each in cluster.nodes:
                assert os.stat(each.direct_path(db)).st_size == after * 4096
            conn("INSERT INTO t VALUES (1)")
            plain = os.path.join(node.base, "copy-" + db)
            with forwards(cluster, node, 0, db=db):
                conn(f"VACUUM INTO '{plain}'")
            assert cluster.shell(plain, "PRAGMA integrity_check; SELECT count(*) FROM t").split() == ["ok", "21"]


def test_vacuum__rolled_back_by_a_failure__nothing_changed():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        node.sql(DB, MANY)
        node.sql(DB, "DELETE FROM t WHERE rowid % 3")
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url, commit_timeout="3s")
            with node.conn(DB) as conn:
                before = conn("SELECT count(*), sum(length(x)) FROM t"), conn("PRAGMA page_count")
                proxy.add("answer", method="POST", path="/tx", answer=REFUSED)
                assert is_io_error(error_of(conn, "VACUUM"))
                assert (conn("SELECT count(*), sum(length(x)) FROM t"), conn("PRAGMA page_count")) == before
                assert conn("PRAGMA integrity_check") == [("ok",)]
                with forwards(cluster, node):
                    conn("VACUUM")
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        assert_same(cluster)


def test_auto_vacuum__full_and_incremental__files_shrink():
    for mode in ("FULL", "INCREMENTAL"):
        for cluster, db, node in in_both_families(before=f"PRAGMA auto_vacuum = {mode}"):
            with node.conn(db) as conn:
                conn("PRAGMA cache_size = 10")
                conn(MANY)
                conn(MANY)
                before = conn("PRAGMA page_count")[0][0]
                with forwards(cluster, node, 1 if mode == "FULL" else 3, db=db):
                    conn("DELETE FROM t WHERE rowid > 10")
                    if mode == "INCREMENTAL":
                        assert conn("PRAGMA page_count") == [(before,)]
                        conn.script("PRAGMA incremental_vacuum(20)")
                        conn.script("PRAGMA incremental_vacuum")
                after = conn("PRAGMA page_count")[0][0]
                assert after < before / 3
                wait_seen(cluster, db)
                assert os.stat(cluster.primary.direct_path(db)).st_size == after * 4096
                assert conn("PRAGMA integrity_check") == [("ok",)]


def test_vacuum__to_another_page_size__refused_and_intact():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in both(cluster):
            with node.conn(DB) as conn:
                conn(MANY)
                before = conn("SELECT count(*) FROM t")
                with forwards(cluster, node, 0):
                    conn("PRAGMA page_size = 8192")
                    error = error_of(conn, "VACUUM")
                    assert not error.is_busy, error
                no_files_left(node)
            with node.conn(DB) as conn:
                assert conn("PRAGMA page_size") == [(4096,)] and conn("SELECT count(*) FROM t") == before
                with forwards(cluster, node):
                    conn("VACUUM")
            assert logged(node, "reason=page_size", DB)
        assert_same(cluster)


# ---------------------------------------------------------------- ways of reading and writing

def test_mmap_size_and_synchronous__each_setting__same_results():
    for cluster, db, node in in_both_families():
        for synchronous in ("OFF", "NORMAL", "FULL", "EXTRA"):
            for mmap in (0, 1 << 26):
                with node.conn(db) as conn, node.conn(db) as reader:
                    conn(f"PRAGMA mmap_size = {mmap}")
                    reader(f"PRAGMA mmap_size = {mmap}")
                    conn(f"PRAGMA synchronous = {synchronous}")
                    conn("PRAGMA cache_size = 10")
                    before = reader("SELECT count(*) FROM t")[0][0]
                    with forwards(cluster, node, 2, db=db):
                        conn(MANY)
                        assert reader("SELECT count(*), count(x) FROM t") == [(before + 300, before + 300)]
                        conn("DELETE FROM t WHERE rowid % 5 = 0")
                    with forwards(cluster, node, 0, db=db):
                        conn("BEGIN")
                        conn("UPDATE t SET x = zeroblob(2000)")
                        conn("ROLLBACK")
                    assert reader("PRAGMA integrity_check") == [("ok",)]
                    assert reader("SELECT count(*) FROM t") == conn("SELECT count(*) FROM t")


_SHARED_CACHE = r"""
import sqlite3, sys, threading
uri, bad = "file:" + sys.argv[1] + "?cache=shared", []
def writer(n):
    try:
        db = sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None, check_same_thread=False)
        done = 0
        while done < 10:
            try:
                db.execute("INSERT INTO t VALUES (?)", (n,)); done += 1
            except sqlite3.OperationalError as e:
                if "locked" not in str(e): raise
    except BaseException as e: bad.append(repr(e))
threads = [threading.Thread(target=writer, args=(n,)) for n in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print(bad); sys.exit(1 if bad else 0)
"""


def test_shared_cache__three_threads__all_committed():
    for cluster, db, node in in_both_families():
        with forwards(cluster, node, 30, db=db):
            cluster.run([sys.executable, "-c", _SHARED_CACHE, node.path(db)])
        assert count(node, db) == 33


def test_wal_checkpoint__every_mode__no_harm():
    with Cluster(n=2) as cluster:
        create(cluster, journal="wal")
        for node in both(cluster):
            with node.conn(DB, busy_ms=200) as conn, node.conn(DB) as reader:
                for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                    for reading in (False, True):
                        if reading:
                            reader("BEGIN")
                            seen = reader("SELECT count(*) FROM t")
                        conn(MANY)
                        with forwards(cluster, node, 0):
                            try:
                                print(mode, conn(f"PRAGMA wal_checkpoint({mode})"))
                            except SqlError as error:
                                assert error.is_busy, error
                        if reading:
                            assert reader("SELECT count(*) FROM t") == seen
                            reader("COMMIT")
                        assert reader("PRAGMA integrity_check") == [("ok",)]
                conn("PRAGMA wal_autocheckpoint = 1")
                with forwards(cluster, node, 2):
                    conn("INSERT INTO t VALUES (1)")
                    conn("DELETE FROM t WHERE rowid > 3")
        assert_same(cluster)


def test_backup__out_of_the_mount_and_into_it__exact():
    for cluster, db, node in in_both_families():
        plain, source = (os.path.join(node.base, name + db) for name in ("out-", "in-"))
        node.sql(db, MANY)
        wait_seen(cluster, db)
        with forwards(cluster, node, 0, db=db):
            node.sql(db, f".backup {plain}")
        assert cluster.shell(plain, "PRAGMA integrity_check; SELECT count(*) FROM t").split() == ["ok", "303"]
        cluster.shell(source, f"PRAGMA journal_mode = {'wal' if db.startswith('wal') else 'delete'}; CREATE TABLE t(x); CREATE TABLE w(x);"
                              "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 90) INSERT INTO t SELECT i FROM c")
        with forwards(cluster, node, 1, db=db):
            node.sql(db, f".restore {source}")
        wait_seen(cluster, db)
        for other in cluster.nodes:
            assert other.sql(db, "SELECT count(*), sum(x) FROM t").strip() == "90|4095"


def test_backup__into_a_new_name__created_everywhere():
    with Cluster(n=2) as cluster:
        for node in both(cluster):
            for size in (30, 3000):
                source = os.path.join(node.base, f"source-{size}.db")
                cluster.shell(source, "CREATE TABLE t(x); "
                                      f"WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {size}) INSERT INTO t SELECT zeroblob(2000) FROM c")
                db = f"backup-{node.index}-{size}.db"
                cluster.run(["sqlite3", "-batch", "-bail", source, f".backup {node.path(db)}"])
                cluster.wait_converged(db)
                assert {count(other, db) for other in cluster.nodes} == {size}
                no_files_left(node, db)
                into = f"into-{node.index}-{size}.db"
                cluster.shell(source, f"VACUUM INTO '{node.path(into)}'")
                cluster.wait_converged(into)
                assert {count(other, into) for other in cluster.nodes} == {size}
                assert_same(cluster, db)
                assert_same(cluster, into)


_URIS = r"""
import sqlite3, sys
path = sys.argv[1]
for query in ("mode=ro", "immutable=1"):
    db = sqlite3.connect(f"file:{path}?{query}", uri=True, isolation_level=None)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (3,), query
    try:
        db.execute("INSERT INTO t VALUES (1)")
        sys.exit("written with " + query)
    except sqlite3.OperationalError as e:
        assert "readonly" in str(e), e
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
"""


def test_uris__mode_ro_and_immutable__read_and_do_not_write():
    for cluster, db, node in in_both_families():
        with forwards(cluster, node, 0, db=db):
            cluster.run([sys.executable, "-c", _URIS, node.path(db)])
