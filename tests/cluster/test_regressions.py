"""Bugs that were there once, each provoked by what found it.

Most are about what others do at an unlucky moment: a direct client that drops, holds or stays, a role that changes
inside a commit, a process that closes or locks what SQLite would leave alone. Each test was seen to fail on a build
without its fix; the one about SIGTERM needs a sanitizer for that, which the harness reads out of the logs.
"""
import contextlib
import os
import signal
import subprocess
import sys
import time

import bank
import cluster as harness
from cluster import Cluster, Conn, HarnessError, SqlError, is_mounted, slow_factor, wait_until
from marks import bound, note
from test_dangers import assert_verdicts, cluster_with_proxy, create, insert, insert_until_ok

DB = "app.db"


class UriConn(Conn):
    """A connection whose path is a URI, for what only URIs can say (psow=0)."""

    def __init__(self, cluster, uri, busy_ms=20000):
        child = harness._CONN_CHILD.replace("isolation_level=None", "isolation_level=None, uri=True")
        assert "uri=True" in child
        plain, harness._CONN_CHILD = harness._CONN_CHILD, child
        try:
            super().__init__(cluster, uri, busy_ms)
        finally:
            harness._CONN_CHILD = plain


def python(cluster, code, *args, name="helper", **popen):
    return cluster.spawn([sys.executable, "-c", code, *map(str, args)], name=name, **popen)


def assert_mount_answers(cluster, node, within=10):
    """By a child: a file system that hangs would hang the test."""
    assert node.litefwd.poll() is None, f"litefwd n{node.index} ended with {node.litefwd.returncode}"
    try:
        cluster.run(["cat", os.path.join(node.mount, ".litefwd")], timeout=within)
    except HarnessError:
        harness._abort_fuse(node.mount)
        raise


def try_again(cluster, node, sql, timeout=20, db=DB):
    """The first answer that is not an error, of new connections."""
    answer = []

    def attempt():
        with node.conn(db, busy_ms=1000) as conn:
            try:
                answer.append(conn(sql))
                return True
            except SqlError as error:
                print(f"n{node.index} {sql}: {error}")
                return False
    wait_until(f"n{node.index}: {sql}", attempt, timeout, every=0.1)
    return answer[0]


# ---------------------------------------------------------------- drop and re-creation

def drop_and_recreate(writer_index, old_reader):
    """By a direct client of the primary, with the same schema: LiteFS' files are others under the old names."""
    schema = "PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES ('{}')"
    with Cluster(n=2) as cluster, contextlib.ExitStack() as stack:
        primary = cluster.primary
        cluster.sql_direct(primary, DB, schema.format("old"))
        cluster.wait_converged(DB)
        for node in cluster.nodes:
            conn = stack.enter_context(node.conn(DB))
            assert conn("SELECT x FROM t") == [("old",)]
            if not old_reader:
                conn.close()
        for again in ("new", "newer"):
            dropped = primary.pos(DB)
            os.unlink(primary.direct_path(DB))
            cluster.sql_direct(primary, DB, schema.format(again))
            wait_until("the new database is everywhere",
                       lambda: {n.pos(DB) for n in cluster.nodes} == {primary.pos(DB)} and primary.pos(DB)[0] > dropped[0] + 1)
            for node in cluster.nodes:
                assert try_again(cluster, node, "SELECT x FROM t") == [(again,)], f"n{node.index}"
            insert_until_ok(cluster.nodes[writer_index], f"after {again}", 20)
            cluster.wait_converged(DB)
            cluster.check_alive("after the insert")
            assert not cluster.problems, cluster.problems
            for node in cluster.nodes:
                assert cluster.sql_direct(node, DB, "SELECT x FROM t").split() == [again, "after", again]
                assert try_again(cluster, node, "SELECT group_concat(x) FROM t") == [(f"{again},after {again}",)]
                assert try_again(cluster, node, "PRAGMA integrity_check") == [("ok",)]


def test_drop_and_recreation__by_direct_client__primary_reads_and_writes_the_new_one():
    drop_and_recreate(0, old_reader=False)


def test_drop_and_recreation__by_direct_client__replica_reads_and_writes_the_new_one():
    drop_and_recreate(1, old_reader=False)


def test_drop_and_recreation__idle_connections_stay_open__others_read_and_write_the_new_one():
    drop_and_recreate(1, old_reader=True)


def drop_under_a_writer(end, recreate):
    """LiteFS ends when WRITE is given back without a "-wal"; a direct client's removal takes it away and asks for no lock."""
    schema = "PRAGMA journal_mode = wal; CREATE TABLE t(x); INSERT INTO t VALUES ('{}')"
    with Cluster(n=2) as cluster:
        primary = cluster.primary
        cluster.sql_direct(primary, DB, schema.format("old"))
        cluster.wait_converged(DB)
        with primary.conn(DB, busy_ms=1000) as conn:
            conn("BEGIN IMMEDIATE")
            conn("INSERT INTO t VALUES ('of the removed one')")
            os.unlink(primary.direct_path(DB))
            if recreate:
                # it holds the new database's WRITE, as SQLite's own writer would: only its rollback mode part is open
                cluster.spawn(["sqlite3", "-cmd", ".timeout 20000", primary.direct_path(DB), schema.format("new")], name="recreate")
                time.sleep(0.3)
            try:
                conn(end)
                assert end == "ROLLBACK", "a COMMIT into a removed database was acknowledged"
            except SqlError as error:
                assert end == "COMMIT", error
        time.sleep(0.3)  # for what is held for a while after a transaction
        cluster.assert_alive()
        if not recreate:
            cluster.sql_direct(primary, DB, schema.format("new"))
        wait_until("the new database", lambda: primary.pos(DB)[0] > 3 and try_again(cluster, primary, "SELECT x FROM t") == [("new",)])
        insert_until_ok(primary, "after", 20)
        cluster.wait_converged(DB)
        for node in cluster.nodes:
            assert try_again(cluster, node, "SELECT group_concat(x) FROM t") == [("new,after",)]


def test_drop_under_a_writer__commit__refused_and_litefs_lives():
    drop_under_a_writer("COMMIT", False)


def test_drop_under_a_writer__rollback__litefs_lives():
    drop_under_a_writer("ROLLBACK", False)


def test_drop_under_a_writer__recreated_meanwhile__refused_and_litefs_lives():
    drop_under_a_writer("COMMIT", True)


# ---------------------------------------------------------------- snapshots

def deferred_readers(reader_index):
    """A reader whose upgrade was refused keeps its snapshot until its transaction ends."""
    with Cluster(n=2) as cluster:
        bank.create(cluster, DB)
        reader, other = cluster.nodes[reader_index], cluster.nodes[1 - reader_index]
        refused = 0
        rows = 0
        with reader.conn(DB, busy_ms=0) as conn, reader.conn(DB) as neighbour, other.conn(DB) as away:
            for i in range(8):
                conn("BEGIN")
                assert conn("SELECT count(*) FROM t") == [(rows,)]
                foreign = i % 4 < 3
                (away if foreign else neighbour).send("INSERT INTO t VALUES ('other')")
                if reader_index and foreign:
                    # the primary has it, this node's LiteFS waits for the reader
                    wait_until("the other node commits", lambda: other.pos(DB)[0] > reader.pos(DB)[0], 20)
                elif not foreign:
                    neighbour.result()
                else:
                    time.sleep(0.1)  # its HALT waits for the reader: who comes first is open
                try:
                    conn("INSERT INTO t VALUES ('mine')")
                    mine = 1
                except SqlError as error:
                    assert error.is_busy, error
                    mine = 0
                    refused += 1
                time.sleep(0.2)  # for whatever the refusal may have let in
                assert conn("SELECT count(*) FROM t") == [(rows + mine,)], "another snapshot inside one transaction"
                assert conn("SELECT sum(balance) FROM accounts") == [(bank.SUM,)]
                assert conn("SELECT count(*) FROM log") == [(0,)]
                conn("COMMIT" if mine else "ROLLBACK")
                if foreign:
                    away.result()
                rows += 1 + mine
                cluster.wait_converged(DB)
                assert conn("SELECT count(*) FROM t") == [(rows,)]
        assert refused >= (8 if reader_index else 2), f"only {refused} upgrades were refused"


def test_deferred_reader__upgrade_refused_on_replica__keeps_its_snapshot():
    deferred_readers(1)


def test_deferred_reader__upgrade_refused_on_primary__keeps_its_snapshot():
    deferred_readers(0)


# ---------------------------------------------------------------- writes after the commit

# With psow=0 SQLite repeats the commit frame until a sector is full; pages that are written again after they were
# spilled make it rewrite the headers of all later frames. Both come after the frame that commits.
SPILLED = [
    "BEGIN IMMEDIATE",
    "INSERT INTO t WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 60) SELECT hex(randomblob(700)) FROM c",
    "UPDATE t SET x = 'a' || substr(x, 2) WHERE length(x) > 1000",
    "UPDATE t SET x = x || 'b' WHERE length(x) > 1000",
]


def spilling(conn):
    conn("PRAGMA cache_size = 5")
    conn("PRAGMA synchronous = FULL")
    return conn


def test_writes_after_the_commit__padding_and_rewritten_headers_on_each_node__exact():
    for page_size in (512, 4096):
        with Cluster(n=2) as cluster, contextlib.ExitStack() as stack:
            cluster.sql_direct(cluster.primary, DB, f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = wal; CREATE TABLE t(x)")
            cluster.wait_converged(DB)
            before = cluster.primary.pos(DB)[0]
            conns = [spilling(stack.enter_context(UriConn(cluster, f"file:{node.path(DB)}?psow=0"))) for node in cluster.nodes]
            commits = 0
            for i in range(4):
                for node, conn in zip(cluster.nodes, conns):
                    for sql in SPILLED:
                        conn(sql)
                    conn("INSERT INTO t VALUES (?)", f"n{node.index} {i}")
                    conn("COMMIT")
                    conn("INSERT INTO t VALUES (?)", f"alone n{node.index} {i}")
                    commits += 2
                    assert conn("SELECT count(*) FROM t") == [((commits // 2) * 62,)]
            for node in cluster.nodes:
                assert node.sql(DB, "SELECT count(*) FROM t WHERE length(x) > 1000 AND x LIKE 'a%b'") == f"{commits // 2 * 60}\n"
            assert cluster.wait_converged(DB)[0] == before + commits, "one commit, one transaction"
            rows = assert_verdicts(cluster, {f"n{n} {i}": "ok" for n in (0, 1) for i in range(4)})
            assert len(rows) == commits // 2 * 62


def test_writes_after_the_commit__role_changes_meanwhile__commit_is_acknowledged_and_the_connection_goes_on():
    """The primary dies when this node has the transaction, and before it is told so: the commit stands."""
    with cluster_with_proxy() as (cluster, node, proxy):
        with UriConn(cluster, f"file:{node.path(DB)}?psow=0", busy_ms=2000) as conn:
            spilling(conn)
            verdicts = {}
            for i in range(3):
                wait_until("the node writes", lambda: insert(conn, f"before {i}") == "ok", 60, every=0.2)
                verdicts[f"before {i}"] = "ok"
                for sql in SPILLED:
                    conn(sql)
                conn("INSERT INTO t VALUES (?)", f"hit {i}")
                before = node.pos(DB)[0]
                fault = proxy.add("hold_answer", method="POST", path="/tx")
                conn.send("COMMIT")
                assert fault.seen.wait(20)
                wait_until("this node has it", lambda: node.pos(DB)[0] == before + 1, 20)
                cluster.primary.kill_litefs()
                wait_until("this node's LiteFS knows", lambda: not os.path.exists(os.path.join(node.litefs_dir, ".primary")), 30)
                time.sleep(0.3)  # litefwd hears of it by an event
                fault.release.set()
                conn.result(60)
                verdicts[f"hit {i}"] = "ok"
                assert conn("SELECT count(*) FROM t") == [((i + 1) * 62,)]
                cluster.primary.start_litefs()
            insert_until_ok(node, "after")
            verdicts["after"] = "ok"
            rows = assert_verdicts(cluster, verdicts)
            assert len(rows) == 3 * 62 + 1


# ---------------------------------------------------------------- LiteFS of the primary dies

# Pages are read from LiteFS again and again, for no page cache keeps them.
READ_UNCACHED = r"""
import os, sys
files = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
while True:
    for file in files:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            for page in range(3000):
                if not os.pread(file, 4096, 4096 * page):
                    break
        except OSError:
            pass
"""


def test_litefs_of_primary_killed__direct_writer_holds_and_litefwd_writer_waits__works_after_its_restart():
    with Cluster(n=1) as cluster:
        bank.create(cluster, DB)
        node = cluster.primary
        for i in range(2):
            direct = node.conn_direct(DB)
            direct("BEGIN IMMEDIATE")
            waiting = node.conn(DB)
            waiting("SELECT 1")
            waiting.send("INSERT INTO t VALUES ('waiting')")
            load = bank.Load(cluster, DB)
            for _ in range(2):
                load.start(node, threads=2, seconds=60, pause_ms=0, write_percent=0)
            reader = python(cluster, READ_UNCACHED, node.path(DB))
            assert waiting.pending(0.5)
            node.kill_litefs()
            direct.kill()
            node.start_litefs()
            took = insert_until_ok(node, f"round {i}", 20)
            note(f"written {took:.1f} s after LiteFS' restart")
            for process in [waiting.process, reader]:
                process.kill()
                process.wait(20)
            for process, *_ in list(load.running):
                load.kill(process)
            assert_mount_answers(cluster, node)
        assert try_again(cluster, node, "PRAGMA integrity_check") == [("ok",)]
        assert [row for row in try_again(cluster, node, "SELECT x FROM t ORDER BY rowid") if row[0] != "waiting"] \
            == [("round 0",), ("round 1",)]


# ---------------------------------------------------------------- clients that do what SQLite does not

# close() of any descriptor of a file frees all POSIX locks of the process on it, in the middle of its transactions.
CLOSES_SHM = r"""
import os, sqlite3, sys, threading, time
path, seconds = sys.argv[1], float(sys.argv[2])
def other():
    while True:
        try:
            os.close(os.open(path + "-shm", os.O_RDONLY))
        except OSError:
            pass
        time.sleep(0.0007)
threading.Thread(target=other, daemon=True).start()
db, done, failed = None, 0, 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        if db is None:
            db = sqlite3.connect(path, isolation_level=None, timeout=2)
        db.execute("INSERT INTO t VALUES ('closes')")
        done += 1
    except sqlite3.Error as error:
        failed += 1
        if failed % 20 == 1 and db is not None:
            db.close()
            db = None
print(done, failed, flush=True)
os._exit(0)
"""


def closes_shm(index):
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[index]
        client = python(cluster, CLOSES_SHM, node.path(DB), 3, stdout=subprocess.PIPE)
        while client.poll() is None:
            assert_mount_answers(cluster, node)
            time.sleep(0.2)
        done, failed = map(int, client.stdout.read().split())
        note(f"the client itself: {done} commits, {failed} errors")
        for other in (node, cluster.nodes[1 - index]):  # this node first: a foreign commit would make all new
            assert try_again(cluster, other, "SELECT count(*) FROM t WHERE x = 'closes'")[0][0] >= done
            insert_until_ok(other, f"n{other.index}", 20)
        rows = assert_verdicts(cluster, {"n0": "ok", "n1": "ok"})
        assert done <= rows.count("closes") <= done + failed
        bank.assert_halt_succeeds(cluster, DB)


def test_shm_closed_by_another_thread__on_replica__mount_goes_on_answering():
    closes_shm(1)


def test_shm_closed_by_another_thread__on_primary__mount_goes_on_answering():
    closes_shm(0)


SCRIBBLES = r"""
import mmap, os, sys
fd = os.open(sys.argv[1] + "-shm", os.O_RDWR)
shm = mmap.mmap(fd, 32768)
shm[8:20] = b"\xff" * 12
shm.flush()
os._exit(0)
"""


def scribbles(index):
    """As on a plain file: SQLite recovers there, and litefwd makes the header anew."""
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[index]
        with node.conn(DB) as conn:
            conn("INSERT INTO t VALUES ('before')")
            assert python(cluster, SCRIBBLES, node.path(DB)).wait(20) == 0
            assert try_again(cluster, node, "SELECT count(*) FROM t WHERE x = 'before'") == [(1,)]
            assert conn("SELECT count(*) FROM t WHERE x = 'before'") == [(1,)]
            conn("INSERT INTO t VALUES ('after')")
        cluster.wait_converged(DB)
        for other in cluster.nodes:
            assert try_again(cluster, other, "SELECT group_concat(x) FROM t") == [("before,after",)]


def test_wal_index_header__scribbled_over_on_replica__made_anew():
    scribbles(1)


def test_wal_index_header__scribbled_over_on_primary__made_anew():
    scribbles(0)


DOWNGRADES = r"""
import fcntl, os, struct, sys, time
READ4 = 127
file = os.open(sys.argv[1] + "-shm", os.O_RDWR)
def lock(kind):
    try:
        fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, READ4, 1, 0))
        return True
    except OSError:
        return False
held = 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    if lock(fcntl.F_WRLCK):
        held += lock(fcntl.F_RDLCK)
        lock(fcntl.F_UNLCK)
print(held)
"""


def test_read_lock__taken_by_downgrade_of_an_exclusive_one__daemon_lives():
    with Cluster(n=2) as cluster:
        bank.create(cluster, DB)
        node = cluster.nodes[1]
        load = bank.Load(cluster, DB)
        for writer in cluster.nodes:
            load.start(writer, threads=1, seconds=4, pause_ms=5)
        clients = [python(cluster, DOWNGRADES, node.path(DB), 4, stdout=subprocess.PIPE) for _ in range(2)]
        held = 0
        for client in clients:
            held += int(client.communicate(timeout=60 * slow_factor())[0])
        assert_mount_answers(cluster, node)
        assert held > 0, "no lock was ever granted: nothing was tested"
        load.wait(60)
        load.assert_clean(busy_allowed=True)
        bank.verify(cluster, DB, load)


def test_shell_redirection__over_database_shm_and_wal__refused_and_mapped_readers_go_on():
    with Cluster(n=2) as cluster, contextlib.ExitStack() as stack:
        bank.create(cluster, DB)
        for node in cluster.nodes:
            conn = stack.enter_context(node.conn(DB))
            conn("PRAGMA mmap_size = 1000000")
            assert conn("SELECT sum(balance) FROM accounts") == [(bank.SUM,)]
            conn("INSERT INTO t VALUES ('before')")
            for ending in ("-shm", "-wal", ""):
                status, _, _ = cluster.run(["sh", "-c", f": > '{node.path(DB)}{ending}'"], check=False)
                assert status != 0, f"n{node.index}: {DB}{ending} was truncated"
                assert conn("SELECT sum(balance) FROM accounts") == [(bank.SUM,)]
                conn("INSERT INTO t VALUES (?)", f"after {ending}")
            assert conn("PRAGMA integrity_check") == [("ok",)]
            assert cluster.shell(node.path(DB), "SELECT count(*) FROM t").strip() == str(4 * (node.index + 1))
        cluster.wait_converged(DB)


# ---------------------------------------------------------------- SIGTERM

def test_sigterm__threads_are_inside_a_litefs_that_does_not_answer__clean_exit():
    with Cluster(n=1) as cluster:
        create(cluster)
        node = cluster.primary
        cluster.sql_direct(node, DB, """CREATE TABLE big(x); WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2000)
                                        INSERT INTO big SELECT randomblob(3000) FROM c""")
        for i in range(3):
            readers = [python(cluster, READ_UNCACHED, node.path(DB), node.direct_path(DB)) for _ in range(6)]
            time.sleep(0.4)
            assert all(reader.poll() is None for reader in readers)
            litefs, litefwd = node.litefs, node.litefwd
            litefs.send_signal(signal.SIGSTOP)
            try:
                time.sleep(0.1)
                node.litefwd_expected = False
                litefwd.terminate()
                time.sleep(0.3)
                for reader in readers:
                    reader.kill()
            finally:
                litefs.send_signal(signal.SIGCONT)
            try:
                status = litefwd.wait(20 * slow_factor())
            except subprocess.TimeoutExpired:
                harness._abort_fuse(node.mount)
                raise HarnessError(f"round {i}: litefwd does not end") from None
            for reader in readers:
                reader.wait(20 * slow_factor())
            assert status == 0, f"round {i}: litefwd ended with {status}\n{node.litefwd_text()[-2000:]}"
            assert not is_mounted(node.mount)
            node.litefwd = None
            node.start_litefwd()
        insert_until_ok(node, "after")


# ---------------------------------------------------------------- readers that stay

@bound(240)
def test_direct_reader_stays_on_primary__direct_write_beside_it__litefwd_answers_within_a_bound():
    """LiteFS cannot checkpoint its WAL under that reader, and litefwd reads only without one."""
    with Cluster(n=1) as cluster:
        create(cluster)
        node = cluster.primary
        with node.conn(DB, busy_ms=3000) as conn, node.conn_direct(DB) as reader, node.conn_direct(DB) as writer:
            assert conn("SELECT count(*) FROM t") == [(0,)]
            reader("BEGIN")
            reader("SELECT count(*) FROM t")
            writer("INSERT INTO t VALUES ('direct')")
            verdicts = {"direct": "ok"}
            for sql in ("SELECT count(*) FROM t", "INSERT INTO t VALUES ('litefwd')"):
                begin = time.monotonic()
                try:
                    answer = conn(sql, timeout=25)
                    assert answer == ([(1,)] if sql.startswith("SELECT") else [])
                    if not answer:
                        verdicts["litefwd"] = "ok"
                except SqlError as error:
                    answer = error
                    if not sql.startswith("SELECT"):
                        verdicts["litefwd"] = "error"
                note(f"{sql}: {answer} after {time.monotonic() - begin:.1f} s")
            assert writer("SELECT count(*) FROM t", timeout=25) == [(1 + (verdicts["litefwd"] == "ok"),)]
            reader("ROLLBACK")
            wait_until("the same connection writes again", lambda: insert(conn, "after") == "ok", 20)
            verdicts["after"] = "ok"
            assert_verdicts(cluster, verdicts)


def test_read_max_hold__reader_stays__it_is_ended_and_replication_goes_on():
    with Cluster(n=2, litefwd_opts={"read_max_hold": "1s"}) as cluster:
        create(cluster)
        primary, node = cluster.nodes
        primary.sql(DB, "INSERT INTO t VALUES ('old')")
        with node.conn(DB) as stays, node.conn(DB) as short:
            # one that ends in time is left alone
            short("BEGIN")
            assert short("SELECT count(*) FROM t") == [(1,)]
            short("COMMIT")
            assert "reader_ended" not in node.litefwd_text()
            stays("BEGIN")
            assert stays("SELECT count(*) FROM t") == [(1,)]
            primary.sql(DB, "INSERT INTO t VALUES ('new')")
            wait_until("replication goes on", lambda: node.pos(DB) == primary.pos(DB), 30)
            assert "reader_ended" in node.litefwd_text()
            try:
                assert stays("SELECT count(*) FROM t WHERE x > ''") == [(1,)], "another snapshot inside one transaction"
            except SqlError as error:
                assert not error.is_busy, error
            with contextlib.suppress(SqlError):
                stays("ROLLBACK")
            assert stays("SELECT group_concat(x) FROM t") == [("old,new",)]
            stays("INSERT INTO t VALUES ('its own')")
        assert_verdicts(cluster, {"old": "ok", "new": "ok", "its own": "ok"})


# ---------------------------------------------------------------- small pages, mapped

# Every transaction adds a pair of rows that cancel out; what a row is padded with follows from its id.
MAPPED_READER = r"""
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
mapped = db.execute("PRAGMA mmap_size = 1000000").fetchone()[0]
assert mapped == 1000000, mapped
reads = last = 0
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    db.execute("BEGIN")
    one = db.execute("SELECT count(*), max(id), sum(v), sum(pad != printf('%0300d', id)) FROM t").fetchone()
    two = db.execute("SELECT count(*), max(id), sum(v), sum(pad != printf('%0300d', id)) FROM t ORDER BY id DESC").fetchone()
    ok = db.execute("PRAGMA integrity_check").fetchone() if reads % 10 == 0 else ("ok",)
    db.execute("COMMIT")
    assert one == two and one[0] == one[1] and one[2:] == (0, 0) and one[0] % 2 == 0 and one[0] >= last and ok == ("ok",), (one, two, last, ok)
    last = one[0]
    reads += 1
print(reads)
"""
PAIR = "INSERT INTO t(v, pad) SELECT {0} * column1, printf('%0300d', (SELECT max(id) FROM t) + column2) FROM (VALUES (1, 1), (-1, 2))"


def test_small_pages__database_grows_from_all_nodes_under_mapped_readers__exact():
    with Cluster(n=3) as cluster, contextlib.ExitStack() as stack:
        cluster.sql_direct(cluster.primary, DB, """
            PRAGMA page_size = 512; PRAGMA journal_mode = wal;
            CREATE TABLE t(id INTEGER PRIMARY KEY, v INT, pad TEXT);
            WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 40)
                INSERT INTO t SELECT i, CASE WHEN i % 2 THEN 1 ELSE -1 END, printf('%0300d', i) FROM c""")
        cluster.wait_converged(DB)
        seconds = 5
        readers = [python(cluster, MAPPED_READER, node.path(DB), seconds, name=f"mapped-{node.index}", stdout=subprocess.PIPE)
                   for node in cluster.nodes for _ in range(2)]
        conns = [stack.enter_context(node.conn(DB)) for node in cluster.nodes]
        commits = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for conn in conns:
                conn.send(PAIR.format(commits + 1))
            for conn in conns:
                conn.result()
                commits += 1
        for reader in readers:
            out, _ = reader.communicate(timeout=60 * slow_factor())
            assert reader.returncode == 0, "a reader saw something wrong, see mapped-*.err"
            assert int(out) > 3, f"only {int(out)} reads"
        cluster.wait_converged(DB)
        note(f"{commits} commits")
        assert commits > 10
        for node in cluster.nodes:
            for path in (node.path(DB), node.direct_path(DB)):
                out = cluster.shell(path, "PRAGMA integrity_check; SELECT count(*), max(id), sum(v), sum(pad != printf('%0300d', id)) FROM t")
                assert out == f"ok\n{40 + 2 * commits}|{40 + 2 * commits}|0|0\n", f"{path}: {out}"
