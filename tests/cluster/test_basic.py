"""What a user meets first: reading, writing, files, starting, stopping, and clear errors. One client at a time."""
import os
import signal
import stat
import subprocess
import sys
import time

from cluster import Cluster, HarnessError, SqlError, is_mounted, wait_until
from marks import bound, note

DB = "app.db"


def create(cluster, db=DB, journal="wal", page_size=4096, rows=3):
    cluster.sql_direct(cluster.primary, db, f"""
        PRAGMA page_size = {page_size}; PRAGMA journal_mode = {journal};
        CREATE TABLE t(x);
        WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows}) INSERT INTO t SELECT i FROM c;""")
    cluster.wait_converged(db)


def sha(output):
    return output.strip().splitlines()[-1]


def assert_same_everywhere(cluster, db=DB):
    """Content and integrity through every litefwd and every LiteFS; returns the content's hash."""
    cluster.wait_converged(db)
    seen = {}
    for node in cluster.nodes:
        for path in {node.path(db), node.direct_path(db)}:
            seen[path] = cluster.shell(path, "PRAGMA integrity_check; SELECT group_concat(x, ',') FROM (SELECT quote(x) AS x FROM t ORDER BY rowid);"
                                             "SELECT name FROM sqlite_schema ORDER BY name")
            assert seen[path].startswith("ok\n"), f"{path}: {seen[path][:300]}"
    assert len(set(seen.values())) == 1, seen
    return seen.popitem()[1]


def in_child(cluster, code, *args, timeout=60):
    """Runs Python in a child: (exit code, stdout, stderr)."""
    return cluster.run([sys.executable, "-c", code, *args], timeout=timeout, check=False)


# ---------------------------------------------------------------- forwarding

def test_forwarding__insert_on_replica__counter_rose_and_primary_moved():
    with Cluster() as cluster:
        create(cluster)
        node = cluster.nodes[1]
        counters, before = node.counters(DB), cluster.primary.pos(DB)
        node.sql(DB, "INSERT INTO t VALUES ('from n1')")
        assert cluster.primary.pos(DB)[0] == before[0] + 1, "the primary's TXID moved by one"
        assert node.pos(DB) == cluster.primary.pos(DB), "COMMIT returned before this node had it"
        after = node.counters(DB)
        assert after["commits_remote"] == counters.get("commits_remote", 0) + 1, after
        assert after["commits_self"] == counters.get("commits_self", 0), after
        assert_same_everywhere(cluster)


def test_forwarding__insert_on_primary__committed_by_itself():
    with Cluster() as cluster:
        create(cluster)
        node = cluster.primary
        counters, before = node.counters(DB), node.pos(DB)
        node.sql(DB, "INSERT INTO t VALUES ('from n0')")
        assert node.pos(DB)[0] == before[0] + 1
        after = node.counters(DB)
        assert after["commits_self"] == counters.get("commits_self", 0) + 1, after
        assert after["commits_remote"] == counters.get("commits_remote", 0), after
        assert_same_everywhere(cluster)


def test_forwarding__write_on_each_node_in_turn__each_sees_all():
    with Cluster() as cluster:
        create(cluster)
        for turn in range(4):
            for node in cluster.nodes:
                node.sql(DB, f"INSERT INTO t VALUES ('{turn} n{node.index}')")
                for other in cluster.nodes:
                    wait_until("the row is there", lambda other=other: other.pos(DB) == node.pos(DB))
                    assert other.sql(DB, "SELECT x FROM t ORDER BY rowid DESC LIMIT 1").strip() == f"{turn} n{node.index}"
        assert_same_everywhere(cluster)


def test_forwarding__uncompressed_litefs__works_alike():
    with Cluster(n=2, compress=False) as cluster:
        create(cluster)
        for node in cluster.nodes:
            node.sql(DB, "INSERT INTO t VALUES (randomblob(5000))")
        assert_same_everywhere(cluster)


def test_forwarding__direct_writer_on_primary__seen_and_written_over():
    with Cluster() as cluster:
        create(cluster)
        for turn in range(5):
            cluster.sql_direct(cluster.primary, DB, f"INSERT INTO t VALUES ('direct {turn}')")
            for node in cluster.nodes:
                node.sql(DB, f"INSERT INTO t VALUES ('n{node.index} {turn}')")
        assert cluster.primary.sql(DB, "SELECT count(*) FROM t").strip() == "23"
        assert_same_everywhere(cluster)


def test_forwarding__direct_writer_stays_open_on_primary__its_frames_are_kept():
    with Cluster() as cluster:
        create(cluster)
        with cluster.primary.conn_direct(DB) as direct:
            for turn in range(5):
                direct(f"INSERT INTO t VALUES ('direct {turn}')")
                for node in cluster.nodes:
                    node.sql(DB, f"INSERT INTO t VALUES ('n{node.index} {turn}')")
                assert direct("SELECT count(*) FROM t") == [(3 + 4 * (turn + 1),)]
        assert_same_everywhere(cluster)


def test_forwarding__same_connection_alternates_with_other_nodes__never_stale():
    with Cluster() as cluster:
        create(cluster)
        conns = [node.conn(DB) for node in cluster.nodes]
        for turn in range(30):
            conn = conns[turn % 3]
            conn("BEGIN IMMEDIATE")
            assert conn("SELECT count(*) FROM t") == [(3 + turn,)], "BEGIN IMMEDIATE works on the latest state"
            conn("INSERT INTO t VALUES (?)", turn)
            conn("COMMIT")
        for conn in conns:
            conn.close()
        assert_same_everywhere(cluster)


# ---------------------------------------------------------------- transactions

def test_transaction__rolled_back__nothing_moved():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            before = cluster.primary.pos(DB)
            with node.conn(DB) as conn:
                conn("PRAGMA cache_size = 5")
                conn("BEGIN IMMEDIATE")
                for _ in range(50):  # spills frames to the WAL
                    conn("INSERT INTO t VALUES (randomblob(3000))")
                conn("ROLLBACK")
                assert conn("SELECT count(*) FROM t") == [(3,)]
                conn("BEGIN IMMEDIATE")
                conn("COMMIT")
            assert cluster.primary.pos(DB) == before
        assert_same_everywhere(cluster)


def test_transaction__savepoints_and_spilled_pages__last_images_win():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB) as conn:
                conn("PRAGMA cache_size = 5")
                conn("BEGIN IMMEDIATE")
                for i in range(60):
                    conn("SAVEPOINT s")
                    conn("INSERT INTO t VALUES (?)", f"n{node.index} {i} " + "x" * 2000)
                    conn("UPDATE t SET x = x || '.' WHERE rowid % 7 = ?", i % 7)
                    conn("ROLLBACK TO s" if i % 3 == 0 else "RELEASE s")
                    if i % 3 == 0:
                        conn("RELEASE s")
                conn("COMMIT")
                assert conn("SELECT count(*) FROM t WHERE x LIKE ?", f"n{node.index}%") == [(40,)]
                assert conn("PRAGMA integrity_check") == [("ok",)]
        assert_same_everywhere(cluster)


def test_transaction__larger_than_spool_threshold__whole():
    with Cluster(litefwd_opts={"spool_threshold": "1M"}) as cluster:
        create(cluster)
        for node in cluster.nodes[:2]:
            node.sql(DB, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 6000)"
                         "INSERT INTO t SELECT hex(randomblob(1500)) FROM c", timeout=120)
            cluster.wait_converged(DB)
        assert cluster.nodes[2].sql(DB, "SELECT count(*), min(length(x)) FROM t WHERE length(x) > 5").strip() == "12000|3000"
        assert_same_everywhere(cluster)


def test_transaction__vacuum_and_auto_vacuum__truncated_everywhere():
    with Cluster() as cluster:
        cluster.sql_direct(cluster.primary, DB, "PRAGMA auto_vacuum = full; PRAGMA journal_mode = wal; CREATE TABLE t(x)")
        cluster.wait_converged(DB)
        for node in cluster.nodes:
            node.sql(DB, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 300)"
                         "INSERT INTO t SELECT randomblob(3000) FROM c")
            cluster.wait_converged(DB)
            grown = os.path.getsize(node.direct_path(DB))
            node.sql(DB, "DELETE FROM t WHERE rowid > 10")
            cluster.wait_converged(DB)
            shrunk = os.path.getsize(node.direct_path(DB))
            assert shrunk < grown, (grown, shrunk)
            node.sql(DB, "VACUUM")
            node.sql(DB, "DELETE FROM t WHERE rowid > 5")
            node.sql(DB, "VACUUM; INSERT INTO t VALUES (1)")
            assert_same_everywhere(cluster)


@bound(300)
def test_transaction__every_page_size__exact():
    with Cluster() as cluster:
        for size in (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536):
            db = f"p{size}.db"
            create(cluster, db, page_size=size)
            for node in cluster.nodes:
                node.sql(db, "INSERT INTO t VALUES (randomblob(70000)); INSERT INTO t VALUES (randomblob(10)); UPDATE t SET x = 7 WHERE rowid = 1")
                node.sql(db, "DELETE FROM t WHERE length(x) > 1000")
            assert_same_everywhere(cluster, db)


def test_transaction__schema_changes__other_nodes_see_them():
    with Cluster() as cluster:
        create(cluster)
        conns = [node.conn(DB) for node in cluster.nodes]
        for conn in conns:
            assert conn("SELECT count(*) FROM t") == [(3,)]
        conns[1]("CREATE TABLE u(y)")
        conns[1]("CREATE INDEX ti ON t(x)")
        cluster.wait_converged(DB)
        conns[2]("INSERT INTO u VALUES (5)")
        cluster.wait_converged(DB)
        assert conns[0]("SELECT y FROM u") == [(5,)]
        conns[0]("DROP TABLE u")
        cluster.wait_converged(DB)
        try:
            conns[1]("SELECT * FROM u")
            raise AssertionError("the dropped table is still there")
        except SqlError as error:
            assert "no such table" in str(error)
        for conn in conns:
            conn.close()
        assert_same_everywhere(cluster)


def test_transaction__two_databases_on_one_node__independent():
    with Cluster() as cluster:
        create(cluster, "a.db")
        create(cluster, "b.db")
        node = cluster.nodes[1]
        with node.conn("a.db") as a, node.conn("b.db") as b:
            a("BEGIN IMMEDIATE")
            a("INSERT INTO t VALUES ('a')")
            b("BEGIN IMMEDIATE")
            b("INSERT INTO t VALUES ('b')")
            b("COMMIT")
            a("COMMIT")
        assert "'a'" in assert_same_everywhere(cluster, "a.db")
        assert "'b'" in assert_same_everywhere(cluster, "b.db")


def test_transaction__snapshot_held_while_same_node_commits__stable():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB) as reader, node.conn(DB) as writer:
                reader("BEGIN")
                seen = reader("SELECT count(*), sum(x) FROM t")
                for _ in range(20):
                    writer("INSERT INTO t VALUES (1)")
                    writer("UPDATE t SET x = x + 1")
                    assert reader("SELECT count(*), sum(x) FROM t") == seen
                reader("COMMIT")
                assert reader("SELECT count(*) FROM t")[0][0] == seen[0][0] + 20
        assert_same_everywhere(cluster)


def test_checkpoint__asked_for_in_every_mode__harmless():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB, busy_ms=200) as conn:
                for mode in ("PASSIVE", "FULL", "RESTART", "TRUNCATE"):
                    conn("INSERT INTO t VALUES (1)")
                    try:
                        conn(f"PRAGMA wal_checkpoint({mode})")
                    except SqlError as error:
                        assert error.is_busy, error
                    assert conn("PRAGMA integrity_check") == [("ok",)]
        assert cluster.primary.sql(DB, "SELECT count(*) FROM t").strip() == "15"
        assert_same_everywhere(cluster)


def test_journal_mode__wal_to_rollback__refused_and_still_wal():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB, busy_ms=300) as conn:
                try:
                    assert conn("PRAGMA journal_mode = delete") == [("wal",)]
                except SqlError:
                    pass
            with node.conn(DB) as conn:
                assert conn("PRAGMA journal_mode") == [("wal",)]
                conn("INSERT INTO t VALUES (9)")
        assert_same_everywhere(cluster)


# ---------------------------------------------------------------- other ways to use SQLite

def test_read_only_connection__beside_writers__exact():
    with Cluster() as cluster:
        create(cluster)
        for turn in range(3):
            for node in cluster.nodes:
                node.sql(DB, f"INSERT INTO t VALUES ('{turn} {node.index}')")
                cluster.wait_converged(DB)
                for other in cluster.nodes:
                    out = cluster.run(["sqlite3", "-batch", "-readonly", "-cmd", ".timeout 20000", other.path(DB), "SELECT x FROM t ORDER BY rowid DESC LIMIT 1"])
                    assert out.strip() == f"{turn} {node.index}"
        assert_same_everywhere(cluster)


def test_read_only_connection__stays_open__writers_and_replication_go_on():
    code = ("import sqlite3, sys\n"
            "db = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True, timeout=20)\n"
            "for line in sys.stdin:\n    print(db.execute('SELECT count(*) FROM t').fetchone()[0], flush=True)\n")
    with Cluster() as cluster:
        create(cluster)
        readers = [cluster.spawn([sys.executable, "-c", code, node.path(DB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for node in cluster.nodes]
        count = 3
        for turn in range(5):
            for node in cluster.nodes:
                node.sql(DB, f"INSERT INTO t VALUES ({turn})")
                count += 1
                cluster.wait_converged(DB)
                for reader in readers:
                    reader.stdin.write(b"\n")
                    reader.stdin.flush()
                    assert int(reader.stdout.readline()) == count
        for reader in readers:
            reader.stdin.close()
            assert reader.wait(20) == 0


def test_locking_mode_exclusive__in_wal_mode__refused_and_others_unharmed():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            before = cluster.primary.pos(DB)
            with node.conn(DB, busy_ms=300) as conn:
                conn("PRAGMA locking_mode = exclusive")
                try:
                    conn("INSERT INTO t VALUES ('exclusive')")
                    accepted = True
                except SqlError:
                    accepted = False
            count = int(cluster.primary.sql(DB, "SELECT count(*) FROM t WHERE x = 'exclusive'"))
            assert count == (1 if accepted else 0)
            if not accepted:
                assert cluster.primary.pos(DB) == before
            node.sql(DB, "DELETE FROM t WHERE x = 'exclusive'; INSERT INTO t VALUES (1)")
        assert_same_everywhere(cluster)


def test_backup__online_and_vacuum_into__good_copies():
    with Cluster(n=2) as cluster:
        create(cluster, rows=2000)
        for node in cluster.nodes:
            node.sql(DB, "INSERT INTO t VALUES ('last')")
            copy = os.path.join(node.base, "copy.db")
            cluster.shell(node.path(DB), f".backup {copy}")
            into = os.path.join(node.base, "into.db")
            node.sql(DB, f"VACUUM INTO '{into}'")
            expected = node.sql(DB, "SELECT count(*) FROM t")
            for path in (copy, into):
                assert cluster.shell(path, "PRAGMA integrity_check; SELECT count(*) FROM t") == "ok\n" + expected


def test_backup__into_a_database_of_the_mount__whole_or_refused():
    with Cluster(n=2) as cluster:
        create(cluster)
        create(cluster, "other.db", rows=500)
        for node in cluster.nodes:
            source = os.path.join(node.base, "source.db")
            cluster.shell(source, "PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES ('restored'), (randomblob(20000))")
            code, _, err = cluster.run(["sqlite3", "-batch", "-bail", "-cmd", ".timeout 5000", node.path("other.db"), f".restore {source}"], check=False)
            cluster.wait_converged("other.db")
            found = cluster.primary.sql("other.db", "SELECT count(*) FROM t").strip()
            note(f".restore on n{node.index}: exit {code} {err.strip()[:80]}")
            assert found == "2" if code == 0 else found in ("500", "2"), (code, err, found)
        assert_same_everywhere(cluster, "other.db")


def test_attach__both_databases_written_in_one_transaction__both_there():
    with Cluster() as cluster:
        create(cluster, "a.db")
        create(cluster, "b.db")
        for node in cluster.nodes:
            with node.conn("a.db") as conn:
                conn("ATTACH ? AS b", node.path("b.db"))
                for _ in range(3):
                    conn("BEGIN IMMEDIATE")
                    conn("INSERT INTO main.t VALUES (1)")
                    conn("INSERT INTO b.t VALUES (2)")
                    conn("COMMIT")
        assert cluster.primary.sql("a.db", "SELECT count(*) FROM t").strip() == "12"
        assert cluster.primary.sql("b.db", "SELECT count(*) FROM t").strip() == "12"
        assert_same_everywhere(cluster, "a.db")
        assert_same_everywhere(cluster, "b.db")


def test_raw_writes__without_the_write_lock__refused_and_nothing_committed():
    code = r"""
import os, sys
failed = 0
for suffix in ("", "-wal"):
    try:
        fd = os.open(sys.argv[1] + suffix, os.O_RDWR)
    except OSError as error:
        print(suffix, "open", error)
        failed += 1
        continue
    for action in (lambda: os.pwrite(fd, b"x" * 4096, 4096), lambda: os.ftruncate(fd, 100)):
        try:
            action()
            print(suffix, "accepted")
        except OSError as error:
            print(suffix, error)
            failed += 1
    os.close(fd)
"""
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB) as conn:
                assert conn("SELECT count(*) FROM t") == [(3,)]
                before = cluster.primary.pos(DB)
                status, out, err = in_child(cluster, code, node.path(DB))
                assert status == 0, err
                assert not any(line.startswith(" accepted") for line in out.splitlines()), out
                assert cluster.primary.pos(DB) == before
                assert conn("SELECT count(*) FROM t") == [(3,)]
                assert conn("PRAGMA integrity_check") == [("ok",)]
        cluster.nodes[1].sql(DB, "INSERT INTO t VALUES (1)")
        assert_same_everywhere(cluster)


def test_waiting__writer_blocked_by_writer_of_same_node__gets_through():
    with Cluster() as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB) as first, node.conn(DB) as second:
                first("BEGIN IMMEDIATE")
                first("INSERT INTO t VALUES ('first')")
                second.send("INSERT INTO t VALUES ('second')")
                assert second.pending(0.5), "two writers at once"
                first("COMMIT")
                second.result()
        assert_same_everywhere(cluster)


def test_waiting__writer_blocked_by_writer_of_another_node__gets_through():
    with Cluster() as cluster:
        create(cluster)
        for holder in cluster.nodes:
            for waiter in cluster.nodes:
                if holder is waiter:
                    continue
                with holder.conn(DB) as first, waiter.conn(DB) as second:
                    first("BEGIN IMMEDIATE")
                    first("INSERT INTO t VALUES ('first')")
                    second.send("INSERT INTO t VALUES ('second')")
                    assert second.pending(0.3), f"n{holder.index} and n{waiter.index} write at once"
                    first("COMMIT")
                    second.result()
        assert_same_everywhere(cluster)


def test_waiting__busy_timeout_runs_out__busy():
    with Cluster() as cluster:
        create(cluster)
        for holder in cluster.nodes:
            for waiter in cluster.nodes:
                with holder.conn(DB) as first, waiter.conn(DB, busy_ms=300) as second:
                    first("BEGIN IMMEDIATE")
                    first("INSERT INTO t VALUES ('first')")
                    if waiter.is_primary and not holder.is_primary:
                        # LiteFS' HALT keeps the primary's readers out, and SQLite knows no BUSY for a reader.
                        second.send("BEGIN IMMEDIATE")
                        assert second.pending(2), "in under another node's HALT"
                        first("COMMIT")
                        second.result()
                        second("COMMIT")
                        continue
                    try:
                        second("BEGIN IMMEDIATE", timeout=40)
                        raise AssertionError("two writers at once")
                    except SqlError as error:
                        assert error.is_busy, error
                    first("COMMIT")
        assert_same_everywhere(cluster)


# ---------------------------------------------------------------- rollback-mode databases

def test_rollback_mode__reads__exact_on_every_node():
    with Cluster() as cluster:
        create(cluster, journal="delete")
        conns = [node.conn(DB) for node in cluster.nodes]
        for turn in range(10):
            cluster.sql_direct(cluster.primary, DB, f"INSERT INTO t VALUES ({turn}); UPDATE t SET x = x + 1")
            cluster.wait_converged(DB)
            expected = cluster.sql_direct(cluster.primary, DB, "SELECT count(*), sum(x) FROM t").strip()
            for conn in conns:
                assert "|".join(map(str, conn("SELECT count(*), sum(x) FROM t")[0])) == expected
        for conn in conns:
            conn.close()
        assert_same_everywhere(cluster)


# ---------------------------------------------------------------- files

def test_files__listed_with_modes_and_contents__as_said():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            root = os.stat(node.mount)
            assert stat.S_IMODE(root.st_mode) == 0o755, oct(root.st_mode)
            database = os.stat(node.path(DB))
            assert stat.S_ISREG(database.st_mode) and stat.S_IMODE(database.st_mode) == 0o644, oct(database.st_mode)
            assert database.st_size == os.stat(node.direct_path(DB)).st_size
            assert (database.st_uid, database.st_gid) == (os.getuid(), os.getgid())
            names = cluster.run(["ls", "-a", node.mount]).split()
            assert DB in names, names
            assert cluster.run(["cat", node.path(DB) + "-pos"]) == cluster.run(["cat", node.direct_path(DB) + "-pos"])
            assert cluster.run(["ls", "-l", node.mount])
        replica = cluster.nodes[1]
        assert cluster.run(["cat", os.path.join(replica.mount, ".primary")]).strip() == cluster.primary.hostname
        assert not os.path.exists(os.path.join(cluster.primary.mount, ".primary"))


def test_files__umask_and_hide_primary__honoured():
    with Cluster(n=2, litefwd_opts={"umask": "000", "hide_primary": True}) as cluster:
        create(cluster)
        replica = cluster.nodes[1]
        assert stat.S_IMODE(os.stat(replica.mount).st_mode) == 0o777
        assert stat.S_IMODE(os.stat(replica.path(DB)).st_mode) == 0o666
        assert ".primary" not in cluster.run(["ls", "-a", replica.mount]).split()
        assert not os.path.exists(os.path.join(replica.mount, ".primary"))


def test_files__database_copied_over_or_renamed__refused_and_intact():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            before = node.pos(DB)
            for command in (["cp", "/bin/true", node.path(DB)], ["truncate", "-s", "0", node.path(DB)],
                            ["sh", "-c", 'echo garbage > "$1"', "sh", node.path(DB)],
                            ["mv", node.path(DB), node.path("other.db")], ["mkdir", node.path("dir")],
                            ["ln", "-s", "x", node.path("link")], ["ln", node.path(DB), node.path("hard")]):
                code, _, _ = cluster.run(command, timeout=30, check=False)
                assert code != 0, f"accepted: {command}"
            assert node.pos(DB) == before
            assert sorted(os.listdir(node.litefs_dir)) == sorted(set(os.listdir(node.litefs_dir)))
        cluster.nodes[1].sql(DB, "INSERT INTO t VALUES (1)")
        assert_same_everywhere(cluster)


_TRY_NAMES = r"""
import errno, os, sys
mount = os.fsencode(sys.argv[1])
bad = []
for name in [b"x" * 300, b"x" * 255, b"x" * 250, b"none-wal", b"none-shm", b"none-journal", b"none-pos", b"none-lock", b"-wal", b"-shm",
             b"a\nb", b"a\x01", b".hidden", b".primary", b".lag", b"..x", b"-journal", b"new-wal-wal"]:
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT):
        try:
            fd = os.open(mount + b"/" + name, flags, 0o644)
            os.close(fd)
            if name not in (b".primary", b".lag"):
                bad.append((name, flags))
        except OSError as e:
            if e.errno in (errno.EIO, errno.ENOTCONN, errno.ENOSYS):
                bad.append((name, flags, e.errno))
print(bad)
sys.exit(1 if bad else 0)
"""


def test_names__hostile__clear_error_and_nothing_sent():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            before = {n.index: sorted(os.listdir(n.litefs_dir)) for n in cluster.nodes}
            code, out, err = in_child(cluster, _TRY_NAMES, node.mount)
            assert code == 0, out + err
            assert {n.index: sorted(os.listdir(n.litefs_dir)) for n in cluster.nodes} == before
            assert not any(name.startswith((".hidden", "none", "%")) for name in os.listdir(os.path.join(cluster.primary.data_dir, "dbs")))
        cluster.nodes[1].sql(DB, "INSERT INTO t VALUES (1)")
        assert_same_everywhere(cluster)


def test_names__unusual_but_allowed__work():
    with Cluster(n=2) as cluster:
        for db in ("with space.db", "plus+and&amp=.db", "ünïcode.db", "x" * 200, "100%25.db", "a-b-c", "wal"):
            create(cluster, db)
            for node in cluster.nodes:
                node.sql(db, "INSERT INTO t VALUES (1)")
            assert_same_everywhere(cluster, db)


# ---------------------------------------------------------------- life

def test_start__against_a_running_litefs__mounted_soon():
    with Cluster(n=1, litefwd_opts={}) as cluster:
        node = cluster.primary
        create(cluster)
        times = []
        for _ in range(5):
            assert node.stop_litefwd() == 0
            begin = time.monotonic()
            node.start_litefwd(wait=False)
            wait_until("mounted", lambda: is_mounted(node.mount), 10, every=0.002)
            times.append(time.monotonic() - begin)
            node.wait_litefwd()
            node.sql(DB, "INSERT INTO t VALUES (1)")
        note(f"mounted after {sorted(round(t * 1000) for t in times)} ms")
        assert min(times) < 5


def stop_with(signal_number, cluster, node):
    process, node.litefwd, node.litefwd_expected = node.litefwd, None, False
    process.send_signal(signal_number)
    code = process.wait(30)
    assert code == 0, f"exit {code}"
    assert not is_mounted(node.mount)
    cluster.assert_alive()


def test_stop__sigterm_and_sigint__unmounted_with_exit_0():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        for number in (signal.SIGTERM, signal.SIGINT):
            node.sql(DB, "INSERT INTO t VALUES (1)")
            stop_with(number, cluster, node)
            node.start_litefwd()
        assert_same_everywhere(cluster)


def test_stop__with_open_transactions__ends_and_frees_everything():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            with node.conn(DB) as reader, node.conn(DB) as writer:
                reader("BEGIN")
                reader("SELECT count(*) FROM t")
                writer("BEGIN IMMEDIATE")
                writer("INSERT INTO t VALUES ('never')")
                stop_with(signal.SIGTERM, cluster, node)
                cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES ('direct')")
                reader.kill()
                writer.kill()
            node.start_litefwd()
            node.sql(DB, "INSERT INTO t VALUES ('after')")
            assert "never" not in node.sql(DB, "SELECT * FROM t")
        assert_same_everywhere(cluster)


def test_start__stale_mount_of_a_killed_one__recovered():
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            node.sql(DB, "INSERT INTO t VALUES (1)")
            node.kill_litefwd()
            assert is_mounted(node.mount), "the stale mount is there"
            node.start_litefwd()
            node.sql(DB, "INSERT INTO t VALUES (2)")
            assert mounts_at(node.mount) == 1
        assert_same_everywhere(cluster)


def mounts_at(path):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return sum(line.split(" ")[4] == path for line in table)


def run_litefwd(cluster, options, *args, timeout=30):
    return cluster.run([cluster.litefwd_binary, "-f", "-o", options, *args], timeout=timeout, check=False)


def test_start__second_one_on_the_same_litefs_dir__refused():
    with Cluster(n=1) as cluster:
        node = cluster.primary
        create(cluster)
        other = os.path.join(node.base, "mnt2")
        os.mkdir(other)
        code, _, err = run_litefwd(cluster, node.litefwd_options(), node.litefs_dir, other)
        assert code == 1 and "another litefwd" in err, (code, err)
        code, _, err = run_litefwd(cluster, node.litefwd_options(), node.litefs_dir, node.mount)
        assert code == 1 and err, (code, err)
        assert not is_mounted(other)
        node.sql(DB, "INSERT INTO t VALUES (1)")


def test_start__wrong_places__refused_with_a_message():
    with Cluster(n=1) as cluster:
        node = cluster.primary
        create(cluster)
        assert node.stop_litefwd() == 0
        options = node.litefwd_options(wait="0")
        plain = os.path.join(node.base, "plain")
        os.mkdir(plain)
        for expected, litefs_dir, mountpoint in ((3, plain, node.mount), (3, os.path.join(node.base, "none"), node.mount),
                                                 (1, node.litefs_dir, node.litefs_dir),
                                                 (1, node.litefs_dir, os.path.join(node.litefs_dir, DB)),
                                                 (1, node.litefs_dir, os.path.join(node.base, "none")),
                                                 (1, node.litefs_dir, node.base)):
            code, _, err = run_litefwd(cluster, options, litefs_dir, mountpoint)
            assert code == expected and err.strip(), (expected, code, err, litefs_dir, mountpoint)
        closed = f"http://127.0.0.99:{cluster.port.number}"
        code, _, err = run_litefwd(cluster, node.litefwd_options(wait="300ms", litefs_url=closed), node.litefs_dir, node.mount)
        assert code == 3 and closed in err, (code, err)
        code, _, err = run_litefwd(cluster, "nonsense=1", node.litefs_dir, node.mount)
        assert code == 2 and "nonsense" in err, (code, err)
        node.start_litefwd()


def test_start__without_a_primary__reads_work_and_writes_get_busy_within_the_bound():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "1s"}) as cluster:
        create(cluster)
        cluster.nodes[1].sql(DB, "INSERT INTO t VALUES (1)")
        cluster.primary.kill_litefs()
        node = cluster.nodes[1]
        with node.conn(DB, busy_ms=0) as conn:
            assert conn("SELECT count(*) FROM t") == [(4,)]
            for _ in range(3):
                begin = time.monotonic()
                try:
                    conn("INSERT INTO t VALUES (2)")
                    raise AssertionError("written without a primary")
                except SqlError as error:
                    assert error.is_busy, error
                assert time.monotonic() - begin < 10
            assert conn("SELECT count(*) FROM t") == [(4,)]
        cluster.primary.start_litefs()

        def writes_again():
            try:
                node.sql(DB, "INSERT INTO t VALUES (3)")
                return True
            except HarnessError:
                return False
        wait_until("writing works again", writes_again, 60, every=0.3)
        cluster.wait_converged(DB)


def test_litefs_config__static_lease__found_without_primary_url():
    with Cluster(n=2, litefwd=False) as cluster:
        if cluster.direct_only:
            return
        create(cluster)
        from cluster import find_binary
        cluster.litefwd_binary = find_binary("LITEFWD", "litefwd")
        node = cluster.nodes[1]
        node.start_litefwd(litefs_url=None, primary_url=None, litefs_config=os.path.join(node.base, "litefs.yml"))
        node.sql(DB, "INSERT INTO t VALUES (1)")
        assert node.counters(DB)["commits_remote"] == 1


def test_lock_call__interrupted_by_a_signal__process_can_be_killed():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "20s"}) as cluster:
        create(cluster)
        cluster.primary.halt(DB, 4711)
        try:
            with cluster.nodes[1].conn(DB, busy_ms=20000) as conn:
                conn.send("INSERT INTO t VALUES (1)")
                assert conn.pending(0.5), "it should wait for the HALT"
                begin = time.monotonic()
                conn.process.send_signal(signal.SIGKILL)
                try:
                    conn.process.wait(5)
                except subprocess.TimeoutExpired:
                    raise AssertionError("a waiting client cannot be killed") from None
                assert time.monotonic() - begin < 5
        finally:
            cluster.primary.unhalt(DB, 4711)
        cluster.nodes[1].sql(DB, "INSERT INTO t VALUES (2)")
