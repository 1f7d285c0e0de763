"""Each danger of LiteFS, provoked for real: lost answers, late bodies, expired locks, wrong addresses, sudden deaths.

Whatever happens, afterwards: every LiteFS lives, an acknowledged transaction is there exactly
once on every node, a refused one nowhere, an undecided one at most once, and the next HALT is granted.
"""
import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import bank
from cluster import Cluster, HarnessError, SqlError, client, is_mounted, slow_factor, wait_until
from faults import FaultProxy, json_answer
from marks import bound, note

DB = "app.db"


def create(cluster, db=DB):
    cluster.sql_direct(cluster.primary, db, "PRAGMA journal_mode = wal; CREATE TABLE t(x)")
    cluster.wait_converged(db)


@contextlib.contextmanager
def cluster_with_proxy(n=2, behind=1, **options):
    """A cluster whose node `behind` reaches the primary through a FaultProxy."""
    if os.environ.get("LITEFWD_TEST_DIRECT") == "1":
        raise HarnessError("this test is about litefwd itself")
    with Cluster(n=n, litefwd=True, **options) as cluster:
        create(cluster)
        node = cluster.nodes[behind]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as proxy:
            node.start_litefwd(primary_url=proxy.url)
            yield cluster, node, proxy
            if node.litefwd_expected:
                assert node.stop_litefwd() == 0, "litefwd ends cleanly before its primary's address goes away"


def insert(conn, value, timeout=90):
    """'ok', 'busy' or 'error' (any other), which must agree with the database afterwards."""
    try:
        conn("INSERT INTO t VALUES (?)", value, timeout=timeout)
        return "ok"
    except SqlError as error:
        print(f"{value}: {error}")
        return "busy" if error.is_busy else "unknown" if error.code and error.code & 0xff == 10 else "error"


def assert_verdicts(cluster, verdicts, db=DB):
    """verdicts: {value: 'ok' | 'busy' | 'error' | 'unknown'}; checked on every node, through both mounts."""
    cluster.assert_alive()
    cluster.wait_converged(db)
    seen = set()
    for node in cluster.nodes:
        for path in {node.path(db) if node.litefwd else node.direct_path(db), node.direct_path(db)}:
            out = cluster.shell(path, "PRAGMA integrity_check; SELECT x FROM t ORDER BY rowid")
            lines = out.split("\n")[:-1]
            assert lines[0] == "ok", f"{path}: {lines[:3]}"
            seen.add(tuple(lines[1:]))
    assert len(seen) == 1, f"the nodes differ: {seen}"
    rows = list(seen.pop())
    for value, verdict in verdicts.items():
        count = rows.count(value)
        if verdict == "ok":
            assert count == 1, f"{value} was acknowledged and is there {count} times"
        elif verdict == "unknown":
            assert count <= 1, f"{value} is there {count} times"
        else:
            assert count == 0, f"{value} failed ({verdict}) and is there {count} times"
    return rows


def insert_until_ok(node, value, timeout=60, db=DB):
    """A user who tries again after BUSY. Returns seconds."""
    begin = time.monotonic()
    with node.conn(db, busy_ms=2000) as conn:
        wait_until(f"{value} is written", lambda: insert(conn, value) == "ok", timeout)
    return time.monotonic() - begin


def insert_direct(conn, value, timeout=120):
    """
    A direct client that tries again: LiteFS shuts its node's readers out while somebody holds HALT, and
    SQLite gives up waiting for a read lock with SQLITE_PROTOCOL after some 10 s, whatever its busy_timeout.
    """
    def attempt():
        try:
            conn("INSERT INTO t VALUES (?)", value, timeout=timeout)
            return True
        except SqlError as error:
            assert error.is_busy or error.name == "SQLITE_PROTOCOL", error
            return False
    wait_until(f"{value} is written directly", attempt, timeout, every=0.1)


def swap_orderly(cluster, db, primary):
    """Nobody may write while all nodes get the last transaction: LiteFS replicates asynchronously, a sudden change of primary loses commits."""
    number = random.SystemRandom().randrange(1, 1 << 62)
    wait_until("HALT is granted", lambda: cluster.primary.halt(db, number, timeout=12), 60)
    cluster.wait_converged(db)
    cluster.swap_primary(primary)


# ---------------------------------------------------------------- wrong addresses

def test_stale_primary__address_is_a_replica__nothing_accepted():
    with Cluster(n=3, litefwd_opts={"halt_timeout": "1s"}) as cluster:
        create(cluster)
        node, wrong = cluster.nodes[1], cluster.nodes[2]
        assert node.stop_litefwd() == 0
        node.start_litefwd(primary_url=wrong.url)
        before = [n.pos(DB) for n in cluster.nodes]
        with node.conn(DB, busy_ms=0) as conn:
            for i in range(3):
                assert insert(conn, f"lost {i}") == "busy"
        assert [n.pos(DB) for n in cluster.nodes] == before, "a replica took a transaction"
        # and once the address is right, it works
        assert node.stop_litefwd() == 0
        node.start_litefwd()
        insert_until_ok(node, "right")
        assert assert_verdicts(cluster, {"right": "ok"}) == ["right"]


def test_stale_primary__address_is_this_node_itself__nothing_accepted():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "1s"}) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        node.start_litefwd(primary_url=node.url)
        before = [n.pos(DB) for n in cluster.nodes]
        with node.conn(DB, busy_ms=0) as conn:
            assert insert(conn, "lost") == "busy"
        assert [n.pos(DB) for n in cluster.nodes] == before
        assert_verdicts(cluster, {"lost": "busy"})


def test_stale_primary__address_is_another_clusters_primary__nothing_accepted():
    with Cluster(n=2, litefwd_opts={"halt_timeout": "1s"}) as cluster, Cluster(n=1, litefwd=False) as stranger:
        create(cluster)
        create(stranger)
        if not cluster.primary.info().get("clusterID") or not stranger.primary.info().get("clusterID"):
            note("LiteFS gives no clusterID here: only the position can tell")
        node = cluster.nodes[1]
        insert_until_ok(node, "before")
        assert node.stop_litefwd() == 0
        node.start_litefwd(primary_url=stranger.primary.url)
        before = stranger.primary.pos(DB)
        with node.conn(DB, busy_ms=0) as conn:
            assert insert(conn, "lost") != "ok"
        assert stranger.primary.pos(DB) == before, "another cluster took the transaction"
        bank.assert_halt_succeeds(stranger, DB)
        assert_verdicts(cluster, {"before": "ok", "lost": "busy"})


# ---------------------------------------------------------------- change of roles

def test_roles_swapped__under_open_connections__upstreams_change_and_nothing_is_lost():
    with Cluster(n=3) as cluster:
        create(cluster)
        conns = [node.conn(DB, busy_ms=1000) for node in cluster.nodes]
        verdicts, number = {}, 0
        for new_primary in (None, cluster.nodes[1], cluster.nodes[0], cluster.nodes[2]):
            if new_primary:
                cluster.swap_primary(new_primary)
            before = [node.counters(DB) for node in cluster.nodes]
            for index, conn in enumerate(conns):
                def attempt(conn=conn, index=index):
                    nonlocal number
                    number += 1
                    value = f"n{index} {number}"
                    verdicts[value] = insert(conn, value)
                    return verdicts[value] == "ok"
                wait_until(f"the open connection of n{index} writes again", attempt, 60, every=0.3)
            for node in cluster.nodes:
                name = "commits_self" if node is cluster.primary else "commits_remote"
                assert node.counters(DB).get(name, 0) > before[node.index].get(name, 0), f"n{node.index}: {name} did not rise"
            assert_verdicts(cluster, verdicts)
        for conn in conns:
            conn.close()


def test_roles_swapped__under_open_transactions__each_fails_or_is_whole():
    with Cluster(n=3) as cluster:
        create(cluster)
        verdicts = {}
        for turn, new_primary in enumerate((cluster.nodes[1], cluster.nodes[0])):
            conns = [node.conn(DB, busy_ms=1000) for node in cluster.nodes]
            open_in = None
            for index in (turn % 3, (turn + 1) % 3):  # one writer holds WRITE for all: try the others and let them fail
                try:
                    conns[index]("BEGIN IMMEDIATE", timeout=60)
                    conns[index]("INSERT INTO t VALUES (?)", f"open {turn} n{index}")
                    open_in = index
                    break
                except SqlError as error:
                    assert error.is_busy, error
            assert open_in is not None
            cluster.swap_primary(new_primary)
            value = f"open {turn} n{open_in}"
            try:
                conns[open_in]("COMMIT", timeout=90)
                verdicts[value] = "ok"
            except SqlError as error:
                note(f"COMMIT across the swap on n{open_in}: {error.name}")
                verdicts[value] = "unknown" if error.code & 0xff == 10 else "error"
            for conn in conns:
                conn.kill()
            for node in cluster.nodes:
                after = f"after {turn} n{node.index}"
                insert_until_ok(node, after)
                verdicts[after] = "ok"
            assert_verdicts(cluster, verdicts)


@bound(240)
def test_roles_swapped__under_load__acknowledged_exactly_once():
    db = "bank.db"
    with Cluster(n=3) as cluster:
        bank.create(cluster, db)
        load = bank.Load(cluster, db)
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, seconds=600, busy_timeout_ms=1000)
        for new_primary in (cluster.nodes[1], cluster.nodes[2], cluster.nodes[0]):
            time.sleep(4)
            swap_orderly(cluster, db, new_primary)
        time.sleep(6)
        load.terminate()
        load.wait(60)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, "
             f"undecided {len(load.acks()['U'])}")
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}", db=db)
        bank.verify(cluster, db, load)


@bound(240)
def litefs_restarted_under_load(**options):
    """kill -9 of a replica's LiteFS, then of the primary's, while everybody writes."""
    db = "bank.db"
    with Cluster(n=3, **options) as cluster:
        bank.create(cluster, db)
        load = bank.Load(cluster, db)
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, seconds=600, busy_timeout_ms=1000)
        for victim in (cluster.nodes[1], cluster.primary, cluster.nodes[2], cluster.primary):
            time.sleep(3)
            victim.kill_litefs()
            time.sleep(0.5)
            victim.start_litefs()
        time.sleep(4)
        load.terminate()
        load.wait(90)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, "
             f"undecided {len(load.acks()['U'])}")
        assert not options.get("gateway") or any(node.counters(db)["commits_gateway"] for node in cluster.replicas), "not used"
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}", db=db)
        bank.verify(cluster, db, load)


def test_litefs_restarted__under_load__acknowledged_exactly_once():
    litefs_restarted_under_load()


def test_litefs_restarted__under_load_with_gateways__acknowledged_exactly_once():
    litefs_restarted_under_load(gateway=True)


def test_litefs_restarted__mount_comes_back__open_connections_go_on():
    with Cluster(n=2) as cluster:
        create(cluster)
        verdicts = {}
        for victim in (cluster.nodes[1], cluster.primary):
            conns = [node.conn(DB, busy_ms=1000) for node in cluster.nodes]
            for index, conn in enumerate(conns):
                verdicts[f"before v{victim.index} n{index}"] = insert(conn, f"before v{victim.index} n{index}")
                assert verdicts[f"before v{victim.index} n{index}"] == "ok"
            victim.kill_litefs()
            time.sleep(0.3)
            victim.start_litefs()
            for index, conn in enumerate(conns):
                number = 0

                def attempt(conn=conn, index=index):
                    nonlocal number
                    number += 1
                    value = f"after v{victim.index} n{index} {number}"
                    verdicts[value] = insert(conn, value)
                    return verdicts[value] == "ok"
                wait_until(f"n{index} writes again", attempt, 60, every=0.3)
                conn.close()
            assert is_mounted(victim.mount)
            assert_verdicts(cluster, verdicts)


def test_litefs_hangs__umount_by_force__litefwd_goes_on_with_the_next():
    """What docs/troubleshooting.md says for a LiteFS that does not end: whoever waits for it comes back."""
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        conn, reader = node.conn(DB, busy_ms=1000), node.conn(DB, busy_ms=1000)
        assert insert(conn, "before") == "ok"
        node.litefs_expected = False
        node.litefs.send_signal(signal.SIGSTOP)
        conn.send("INSERT INTO t VALUES ('amid')")
        reader.send("SELECT count(*) FROM t")
        time.sleep(2)
        subprocess.run(["umount", "-f", "-l", node.litefs_dir], check=True)
        node.kill_litefs()
        node.start_litefs()
        for waiting in (conn, reader):  # both have waited for LiteFS, whichever
            with contextlib.suppress(SqlError):
                waiting.result(60)
        for mine in (conn, reader):
            wait_until("it writes again", lambda mine=mine: insert(mine, "after") == "ok", 60, every=0.3)
        assert is_mounted(node.mount)


# ---------------------------------------------------------------- HALT expires

@bound(240)
def test_expired_halt__transaction_of_40_seconds__whole_or_refused():
    """LiteFS gives a HALT 30 s and tells nobody when it is over."""
    with Cluster(n=2) as cluster:
        create(cluster, "quiet.db")
        create(cluster, "contested.db")
        node = cluster.nodes[1]
        quiet, contested = node.conn("quiet.db"), node.conn("contested.db")
        other = cluster.primary.conn_direct("contested.db", busy_ms=2000)
        for conn in (quiet, contested):
            conn("BEGIN IMMEDIATE")
            conn("INSERT INTO t VALUES ('long')")
        direct = threading.Thread(target=insert_direct, args=(other, "direct"), daemon=True)
        direct.start()
        time.sleep(40)
        verdicts = {}
        for conn, db in ((quiet, "quiet.db"), (contested, "contested.db")):
            try:
                conn("COMMIT", timeout=60)
                verdicts[db] = "ok"
            except SqlError as error:
                verdicts[db] = "unknown" if error.code & 0xff == 10 else "error"
                note(f"{db}: {error.name}")
                with contextlib.suppress(SqlError):
                    conn("ROLLBACK")
        direct.join(120)
        assert not direct.is_alive()
        for conn in (quiet, contested, other):
            conn.close()
        assert verdicts["quiet.db"] == "ok", "nobody else wrote: taking HALT again must have been enough"
        assert_verdicts(cluster, {"long": verdicts["quiet.db"]}, "quiet.db")
        assert_verdicts(cluster, {"long": verdicts["contested.db"], "direct": "ok"}, "contested.db")
        for db in ("quiet.db", "contested.db"):
            insert_until_ok(node, "after", db=db)
            bank.assert_halt_succeeds(cluster, db)


# ---------------------------------------------------------------- lost calls

def lost_call(action, method, path, expected):
    """One call of one INSERT goes wrong; expected: the verdicts that are right for it."""
    with cluster_with_proxy(litefwd_opts={"commit_timeout": "20s", "halt_timeout": "4s"}) as (cluster, node, proxy):
        verdicts = {}
        with node.conn(DB, busy_ms=0) as conn:
            assert insert(conn, "before") == "ok"
            time.sleep(0.5)  # the HALT that lingers is given back
            fault = proxy.add(action, method=method, path=path)
            verdicts["hit"] = insert(conn, "hit")
            assert fault.seen.wait(10), f"{method} {path} never came"
            assert verdicts["hit"] in expected, f"{verdicts['hit']}, expected one of {expected}"
        took = insert_until_ok(node, "after")
        note(f"{action} {method} {path}: {verdicts['hit']}, usable again after {took:.1f} s")
        verdicts.update(before="ok", after="ok")
        time.sleep(0.5)
        bank.assert_halt_succeeds(cluster, DB)
        assert_verdicts(cluster, verdicts)


def test_lost__halt_request__not_written_or_written_once():
    lost_call("drop_request", "POST", "/halt", ("ok", "busy"))


def test_lost__halt_answer__given_back_and_written_or_busy():
    lost_call("drop_answer", "POST", "/halt", ("ok", "busy"))


def test_lost__tx_request__decided():
    lost_call("drop_request", "POST", "/tx", ("unknown", "error", "busy"))


def test_lost__tx_answer__committed_by_evidence():
    lost_call("drop_answer", "POST", "/tx", ("ok",))


def test_lost__unhalt_request__given_back_all_the_same():
    lost_call("drop_request", "DELETE", "/halt", ("ok",))


def test_lost__unhalt_answer__harmless():
    lost_call("drop_answer", "DELETE", "/halt", ("ok",))


def test_lost__many_calls_at_random_under_load__exact():
    db = "bank.db"
    rng = random.Random(int(os.environ.get("LITEFWD_TEST_SEED", "1")))
    with cluster_with_proxy(n=2, litefwd_opts={"commit_timeout": "20s", "halt_timeout": "4s"}) as (cluster, node, proxy):
        bank.create(cluster, db)
        load = bank.Load(cluster, db)
        load.start(node, threads=3, pause_ms=2, seconds=600, write_percent=70, busy_timeout_ms=5000)
        load.start(cluster.primary, threads=1, pause_ms=20, seconds=600, busy_timeout_ms=5000)
        end = time.monotonic() + 12
        while time.monotonic() < end:
            fault = proxy.add(rng.choice(("drop_request", "drop_answer")),
                              method=None, path=rng.choice(("/halt", "/tx", "/tx")))
            fault.seen.wait(1)
            time.sleep(rng.uniform(0.05, 0.4))
        proxy.faults.clear()
        load.terminate()
        load.wait(90)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, undecided {len(load.acks()['U'])}")
        insert_until_ok(node, "after", db=db)
        bank.verify(cluster, db, load)
        time.sleep(0.5)
        bank.assert_halt_succeeds(cluster, db)


def test_ids__of_many_halts_of_two_nodes__all_different_and_positive():
    with cluster_with_proxy(n=3) as (cluster, node, proxy):
        other = cluster.nodes[2]
        assert other.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as second:
            other.start_litefwd(primary_url=second.url)
            for i in range(15):
                node.sql(DB, f"INSERT INTO t VALUES ('a {i}')")
                other.sql(DB, f"INSERT INTO t VALUES ('b {i}')")
            assert other.stop_litefwd() == 0
            ids = [[int(query["id"]) for query in p.seen("POST", "/halt")] for p in (proxy, second)]
        assert ids[0] and ids[1]
        assert not set(ids[0]) & set(ids[1]), "two nodes used the same id"
        assert all(0 < number < 1 << 63 for number in ids[0] + ids[1])
        assert len({number >> 32 for number in ids[0] + ids[1]}) > 1, "ids look like a counter"


# ---------------------------------------------------------------- late and stalled calls

@bound(240)
def test_stalled__tx_body_behind_its_header__nobody_loses_a_commit():
    """LiteFS checks the position when the header has come, and applies the body whenever that comes."""
    with cluster_with_proxy(n=3, litefwd_opts={"commit_timeout": "60s"}) as (cluster, node, proxy):
        verdicts = {}
        other = cluster.nodes[2]
        with node.conn(DB) as stalled, other.conn(DB, busy_ms=90000) as second, cluster.primary.conn_direct(DB, busy_ms=2000) as direct:
            fault = proxy.add("stall_body", method="POST", path="/tx", count_bytes=120)
            stalled.send("INSERT INTO t VALUES ('stalled')")
            assert fault.seen.wait(20)
            second.send("INSERT INTO t VALUES ('second')")
            insert_direct(direct, "direct")
            second.result(120)
            verdicts.update(second="ok", direct="ok")
            fault.release.set()
            try:
                stalled.result(120)
                verdicts["stalled"] = "ok"
            except SqlError as error:
                note(f"stalled: {error.name}")
                verdicts["stalled"] = "unknown" if error.code & 0xff == 10 else "error"
            time.sleep(1)
            assert_verdicts(cluster, verdicts)
            verdicts["stalled"] = "ok" if verdicts["stalled"] == "ok" else "error"
            assert_verdicts(cluster, {k: v for k, v in verdicts.items() if k != "stalled"})
        insert_until_ok(node, "after")
        assert_verdicts(cluster, {"second": "ok", "direct": "ok", "after": "ok"})


def test_delayed__answers_of_every_call__written_exactly_once():
    with cluster_with_proxy() as (cluster, node, proxy):
        verdicts = {}
        with node.conn(DB) as conn:
            for i, (method, path) in enumerate((("GET", "/info"), ("POST", "/halt"), ("POST", "/tx"), ("DELETE", "/halt"))):
                fault = proxy.add("hold_answer", method=method, path=path)
                timer = threading.Timer(1.0, fault.release.set)
                timer.start()
                verdicts[f"row {i}"] = insert(conn, f"row {i}")
                assert verdicts[f"row {i}"] == "ok"
                time.sleep(0.5)
                timer.join()
                fault.times = 0
        assert_verdicts(cluster, verdicts)
        bank.assert_halt_succeeds(cluster, DB)


def test_primary_dies__tx_on_its_way__undecided_is_said_and_later_settled():
    with cluster_with_proxy(litefwd_opts={"commit_timeout": "2s", "halt_timeout": "1s"}) as (cluster, node, proxy):
        verdicts = {}
        with node.conn(DB, busy_ms=0) as conn:
            assert insert(conn, "before") == "ok"
            fault = proxy.add("hold_answer", method="POST", path="/tx")
            conn.send("INSERT INTO t VALUES ('hit')")
            assert fault.seen.wait(10)
            cluster.primary.kill_litefs()
            fault.release.set()
            try:
                conn.result(60)
                verdicts["hit"] = "ok"  # this node may have had it before the primary died
            except SqlError as error:
                assert not error.is_busy, "an undecided COMMIT must not look like one that can be repeated"
                verdicts["hit"] = "unknown"
            assert conn("SELECT count(*) FROM t")[0][0] in (1, 2), "reading goes on"
        if verdicts["hit"] == "unknown":
            assert "unknown" in node.litefwd_text()
        cluster.primary.start_litefs()
        insert_until_ok(node, "after")
        verdicts.update(before="ok", after="ok")
        assert_verdicts(cluster, verdicts)


def test_primary_dies__tx_never_arrives__not_committed():
    with cluster_with_proxy(litefwd_opts={"commit_timeout": "3s", "halt_timeout": "1s"}) as (cluster, node, proxy):
        with node.conn(DB, busy_ms=0) as conn:
            assert insert(conn, "before") == "ok"
            fault = proxy.add("hold_request", method="POST", path="/tx")
            conn.send("INSERT INTO t VALUES ('hit')")
            assert fault.seen.wait(10)
            cluster.primary.kill_litefs()
            fault.release.set()
            try:
                conn.result(60)
                raise AssertionError("acknowledged, and LiteFS never saw it")
            except SqlError as error:
                assert not error.is_busy, error
        cluster.primary.start_litefs()
        insert_until_ok(node, "after")
        rows = assert_verdicts(cluster, {"before": "ok", "after": "ok", "hit": "error"})
        assert rows == ["before", "after"]


# ---------------------------------------------------------------- spoilt answers

SPOILT = {
    "not json": json_answer("<html>hello</html>"),
    "cut json": json_answer('{"id": 1, "pos": {"TXID": "00'),
    "huge json": json_answer('{"x": "' + "a" * 3000000 + '"}'),
    "deep json": json_answer("[" * 100000),
    "wrong types": json_answer('{"id": "x", "pos": [], "expires": 7, "isPrimary": "yes", "path": {}}'),
    "bad position": json_answer('{"id": 1, "pos": {"TXID": "xyz", "PostApplyChecksum": "-1"}, "expires": "never"}'),
    "empty": json_answer(""),
    "null": json_answer("null"),
    "error 500": json_answer("it broke", "500 Internal Server Error"),
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "no http": b"SSH-2.0-hello\r\n\r\n",
    "wrong length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
}


def test_spoilt__halt_answers__busy_and_nothing_sent():
    with cluster_with_proxy(litefwd_opts={"halt_timeout": "500ms"}) as (cluster, node, proxy):
        verdicts = {}
        for name, answer in SPOILT.items():
            before = cluster.primary.pos(DB)
            sent = len(proxy.seen("POST", "/tx"))
            fault = proxy.add("answer", method="POST", path="/halt", times=1000000, answer=answer)
            with node.conn(DB, busy_ms=0) as conn:
                verdicts[name] = insert(conn, name)
            assert verdicts[name] == "busy", f"{name}: {verdicts[name]}"
            assert len(proxy.seen("POST", "/tx")) == sent, f"{name}: a transaction was sent"
            assert cluster.primary.pos(DB) == before
            fault.times = 0
        insert_until_ok(node, "after")
        verdicts["after"] = "ok"
        assert_verdicts(cluster, verdicts)
        bank.assert_halt_succeeds(cluster, DB)


def test_spoilt__info_answers__busy_and_nothing_sent():
    with cluster_with_proxy(litefwd_opts={"halt_timeout": "500ms"}) as (cluster, node, proxy):
        verdicts = {}
        for name, answer in SPOILT.items():
            assert node.stop_litefwd() == 0  # a fresh one asks again
            fault = proxy.add("answer", method="GET", path="/info", times=1000000, answer=answer)
            node.start_litefwd(primary_url=proxy.url)
            with node.conn(DB, busy_ms=0) as conn:
                verdicts[name] = insert(conn, name)
            assert verdicts[name] == "busy", f"{name}: {verdicts[name]}"
            fault.times = 0
        assert proxy.seen("POST", "/tx") == []
        insert_until_ok(node, "after")
        verdicts["after"] = "ok"
        assert_verdicts(cluster, verdicts)


def test_spoilt__tx_answers__decided_by_evidence():
    """The proxy answers for LiteFS, which never sees the transaction."""
    with cluster_with_proxy(litefwd_opts={"halt_timeout": "2s", "commit_timeout": "4s"}) as (cluster, node, proxy):
        verdicts = {}
        for name in ("error 500", "not json", "no http", "redirect"):
            proxy.add("answer", method="POST", path="/tx", answer=SPOILT[name])
            with node.conn(DB, busy_ms=0) as conn:
                verdicts[name] = insert(conn, name)
            assert verdicts[name] != "ok", f"{name}: acknowledged"
            verdicts[name] = "error"  # LiteFS never saw it
            insert_until_ok(node, f"after {name}")
            verdicts[f"after {name}"] = "ok"
        assert_verdicts(cluster, verdicts)


# ---------------------------------------------------------------- sudden deaths

STATES = ("read", "write", "spill", "before", "middle", "commit", "after", "close")
COMMITTED = {"after": 1, "close": 1, "commit": None}  # None: once or not at all
ROWS = 401  # that one transaction of tests/clients/locks.c writes


def start_victim(cluster, path, state):
    victim = cluster.spawn([client("locks"), "--db", path, "--state", state], stdout=subprocess.PIPE, name="locks")
    line = victim.stdout.readline()
    assert line == b"ready\n", f"the victim did not get to {state}: {line!r}, see locks.err"
    return victim


def count_rows(cluster, node, db=DB):
    return int(node.sql(db, "SELECT count(*) FROM t"))


def die_in_every_state(node_index, kill, **options):
    """A client in each state; kill(cluster, node, victim) ends somebody; then everything must go on at once."""
    with Cluster(n=2, **options) as cluster:
        create(cluster)
        node = cluster.nodes[node_index]
        slowest = 0
        for state in STATES:
            before = count_rows(cluster, cluster.primary)
            victim = start_victim(cluster, node.path(DB), state)
            kill(cluster, node, victim)
            slowest = max(slowest, bank.assert_halt_succeeds(cluster, DB))
            cluster.assert_alive()
            insert_until_ok(cluster.nodes[1 - node_index], f"other {state}", 10)
            insert_until_ok(node, f"same {state}", 10)
            cluster.wait_converged(DB)
            found = [count_rows(cluster, n) - before - 2 for n in cluster.nodes]
            allowed = {0, ROWS} if COMMITTED.get(state, 0) is None else {ROWS * COMMITTED.get(state, 0)}
            assert len(set(found)) == 1 and found[0] in allowed, f"{state}: {found} rows, allowed {allowed}"
            for n in cluster.nodes:
                assert n.sql(DB, "PRAGMA integrity_check").strip() == "ok", state
                assert cluster.sql_direct(n, DB, "PRAGMA integrity_check").strip() == "ok", state
        assert not options.get("gateway") or node.counters(DB)["commits_gateway"] > 0, "the gateway was not used"
        note(f"slowest HALT afterwards {slowest * 1000:.0f} ms")


def kill_client(_cluster, _node, victim):
    victim.kill()
    victim.wait(10)


def kill_litefwd(_cluster, node, victim):
    node.kill_litefwd()
    node.start_litefwd()
    victim.kill()
    victim.wait(10)


def test_killed__client_on_replica_in_every_state__others_go_on_at_once():
    die_in_every_state(1, kill_client)


def test_killed__client_in_its_commit_under_a_long_reader__others_write_before_the_reader_ends():
    """Nobody has published what was committed, and a reader keeps the old wal-index from being made anew."""
    with cluster_with_proxy() as (cluster, node, proxy):
        verdicts = {"before": "ok", "victim": "ok", "after": "ok"}
        insert_until_ok(node, "before")
        with node.conn(DB) as reader:
            reader("BEGIN")
            assert reader("SELECT count(*) FROM t")[0][0] == 1
            victim = node.conn(DB)
            fault = proxy.add("hold_answer", method="POST", path="/tx")
            victim.send("INSERT INTO t VALUES ('victim')")
            assert fault.seen.wait(10 * slow_factor())
            victim.process.kill()  # it is gone when its write() has returned
            fault.release.set()
            victim.process.wait(20 * slow_factor())
            insert_until_ok(node, "after")
            assert reader("SELECT count(*) FROM t")[0][0] == 1
            with node.conn(DB) as other:
                assert other("SELECT count(*) FROM t")[0][0] == 3
            assert node.counters(DB)["mends"] == 1
            reader("COMMIT")
            assert reader("SELECT count(*) FROM t")[0][0] == 3
        assert_verdicts(cluster, verdicts)


def test_killed__client_on_primary_in_every_state__others_go_on_at_once():
    die_in_every_state(0, kill_client)


def test_killed__client_over_a_gateway_in_every_state__others_go_on_at_once():
    die_in_every_state(1, kill_client, gateway=True)


def test_killed__litefwd_on_replica_in_every_state__halt_is_freed_after_restart():
    die_in_every_state(1, kill_litefwd)


def test_killed__litefwd_on_primary_in_every_state__litefs_goes_on():
    die_in_every_state(0, kill_litefwd)


def test_killed__litefwd_on_primary__halt_succeeds_without_a_restart():
    with Cluster(n=2) as cluster:
        create(cluster)
        node = cluster.primary
        for state in ("read", "write", "spill", "before", "middle", "after"):
            victim = start_victim(cluster, node.path(DB), state)
            node.kill_litefwd()
            bank.assert_halt_succeeds(cluster, DB)
            cluster.sql_direct(cluster.primary, DB, f"INSERT INTO t VALUES ('direct {state}')")
            insert_until_ok(cluster.nodes[1], f"replica {state}", 10)
            victim.kill()
            victim.wait(10)
            node.start_litefwd()
            insert_until_ok(node, f"primary {state}", 10)
            cluster.wait_converged(DB)


def test_killed__direct_client_on_primary_in_every_state__its_commits_are_kept():
    """What a dead direct client leaves in LiteFS' own WAL is either whole or gone."""
    with Cluster(n=2) as cluster:
        create(cluster)
        for state in STATES:
            before = count_rows(cluster, cluster.primary)
            victim = start_victim(cluster, cluster.primary.direct_path(DB), state)
            victim.kill()
            victim.wait(10)
            for node in cluster.nodes:
                insert_until_ok(node, f"n{node.index} {state}", 20)
            cluster.wait_converged(DB)
            found = [count_rows(cluster, n) - before - 2 for n in cluster.nodes]
            assert len(set(found)) == 1 and found[0] in (0, ROWS), f"{state}: {found}"
            if state in ("read", "write", "spill", "before", "middle"):
                assert found[0] == 0, f"{state}: {found}"
            if state == "close":
                assert found[0] == ROWS, f"{state}: {found}"
            for n in cluster.nodes:
                assert n.sql(DB, "PRAGMA integrity_check").strip() == "ok", state
        bank.assert_halt_succeeds(cluster, DB)


@bound(240)
def test_killed__litefwd_at_random_under_load__acknowledged_exactly_once():
    db = "bank.db"
    rng = random.Random(int(os.environ.get("LITEFWD_TEST_SEED", "1")))
    with Cluster(n=3) as cluster:
        bank.create(cluster, db)
        load = bank.Load(cluster, db)

        def start(node):
            load.start(node, threads=2, pause_ms=3, seconds=600, write_percent=70, busy_timeout_ms=5000)
        for node in cluster.nodes:
            start(node)
        for _ in range(10):
            time.sleep(rng.uniform(0.3, 1.5))
            node = rng.choice(cluster.nodes)
            node.kill_litefwd()
            for process, index, *_ in list(load.running):
                if index == node.index:
                    load.kill(process)  # its mount is gone for good
            node.start_litefwd()
            start(node)
        time.sleep(2)
        load.terminate()
        load.wait(90)
        print(load.describe())
        load.assert_clean(busy_allowed=True)
        note(f"commits {load.commits_per_node()}, acknowledged {len(load.acks()['A'])}")
        bank.verify(cluster, db, load)
        bank.assert_halt_succeeds(cluster, db)


# ---------------------------------------------------------------- LiteFS' own WAL

def test_litefs_wal__unlinked_by_last_direct_client_all_the_time__litefs_lives():
    """WRITE released without a NAME-wal file ends LiteFS: a direct client unlinks it whenever it is the last to close."""
    with Cluster(n=2) as cluster:
        create(cluster)
        stop = threading.Event()
        counts = {"direct": 0, "failed": 0}

        def direct():
            # LiteFS without litefwd loses some of these, too: a HALT while a first client opens -shm gives SIGBUS or SQLITE_READONLY
            while not stop.is_set():
                status, _, _ = cluster.run(["sqlite3", "-batch", "-bail", "-cmd", ".timeout 20000", cluster.primary.direct_path(DB),
                                            "INSERT INTO t VALUES ('direct')"], check=False)
                counts["failed" if status else "direct"] += 1
        thread = threading.Thread(target=direct, daemon=True)
        thread.start()
        written = 0
        try:
            end = time.monotonic() + 6
            with cluster.primary.conn(DB) as here, cluster.nodes[1].conn(DB) as there:
                while time.monotonic() < end:
                    for conn in (here, there):
                        conn("INSERT INTO t VALUES ('litefwd')")
                        written += 1
        finally:
            stop.set()
            thread.join(60)
        assert counts["direct"] > 0
        note(f"{written} through litefwd, {counts['direct']} direct, {counts['failed']} direct ones failed")
        rows = assert_verdicts(cluster, {})
        assert rows.count("litefwd") == written
        assert counts["direct"] <= rows.count("direct") <= counts["direct"] + counts["failed"]


def test_halt__of_a_stranger_comes_all_the_time__nobody_starves():
    with Cluster(n=2) as cluster:
        create(cluster)
        stop = threading.Event()
        halts = {"n": 0, "slowest": 0.0}

        def stranger():
            while not stop.is_set():
                halts["slowest"] = max(halts["slowest"], bank.assert_halt_succeeds(cluster, DB, within=10))
                halts["n"] += 1
                time.sleep(0.02)
        thread = threading.Thread(target=stranger, daemon=True)
        thread.start()
        written = 0
        try:
            end = time.monotonic() + 5
            with cluster.primary.conn(DB) as here, cluster.nodes[1].conn(DB) as there:
                while time.monotonic() < end:
                    for conn in (here, there):
                        conn("INSERT INTO t VALUES ('litefwd')")
                        assert conn("SELECT count(*) FROM t")[0][0] > written
                        written += 1
        finally:
            stop.set()
            thread.join(60)
        assert halts["n"] > 5, halts
        note(f"{written} written, {halts['n']} foreign HALTs, slowest {halts['slowest'] * 1000 / slow_factor():.0f} ms")
        rows = assert_verdicts(cluster, {})
        assert rows.count("litefwd") == written


def test_wrong_checksum__litefs_restarted_and_recomputing__none_found():
    """Every LTX that LiteFS has kept from litefwd is what LiteFS itself would have written: contiguous and consistent."""
    with Cluster(n=2) as cluster:
        create(cluster)
        for node in cluster.nodes:
            node.sql(DB, "INSERT INTO t VALUES (randomblob(9000)); UPDATE t SET x = zeroblob(3); DELETE FROM t; VACUUM")
        cluster.wait_converged(DB)
        # LiteFS recomputes every page's checksum when it starts, and refuses a database that does not match
        for node in reversed(cluster.nodes):
            node.kill_litefs()
        cluster.primary.start_litefs()
        cluster.nodes[1].start_litefs()
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}")
        assert_verdicts(cluster, {"after n0": "ok", "after n1": "ok"})


def test_litefs_restarted__idle_litefwd__first_client_afterwards_sees_no_error():
    with Cluster(n=2) as cluster:
        create(cluster)
        for victim in (cluster.nodes[1], cluster.primary):
            victim.sql(DB, "INSERT INTO t VALUES ('before')")
            cluster.wait_converged(DB)
            victim.kill_litefs()
            victim.start_litefs()
            time.sleep(1.5)
            for node in cluster.nodes:
                assert int(node.sql(DB, "SELECT count(*) FROM t")) > 0
        assert_verdicts(cluster, {})
