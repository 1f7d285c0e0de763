"""Writing through the primary's litefwd: seen at once, snapshots kept, nobody shut out, and HALT where there is no gateway."""
import hashlib
import os
import random
import time

import bank
from cluster import Cluster, SqlError, wait_until
from faults import FaultProxy, json_answer
from gatewaytest import (DB, cluster_with_gateway_proxy, counters, create, insert, insert_until_ok, over_halt, reach_gateway, rose,
                         via_gateway)
from marks import bound, note
from sqltest import assert_same, error_of, logged, wait_gone
from test_dangers import SPOILT, assert_verdicts

BANK = "bank.db"
SECONDS = float(os.environ.get("LITEFWD_STRESS_SECONDS", "12"))


# ---------------------------------------------------------------- writing

def test_write__on_replica__rows_and_positions_agree_and_nobody_asks_for_halt():
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        assert node.stop_litefwd() == 0
        with FaultProxy(cluster.primary) as litefs:
            node.start_litefwd(primary_url=litefs.url)
            with via_gateway(cluster, node, 20), node.conn(DB) as conn:
                verdicts = {f"row {i}": insert(conn, f"row {i}") for i in range(20)}
            assert set(verdicts.values()) == {"ok"}, verdicts
            assert_verdicts(cluster, verdicts)
            for call in (("POST", "/halt"), ("POST", "/tx"), ("DELETE", "/halt")):
                assert litefs.seen(*call) == [], f"LiteFS was asked: {call}"
            assert node.stop_litefwd() == 0
        node.start_litefwd()
        assert_same(cluster)
        bank.assert_halt_succeeds(cluster, DB)


def test_write__seen_on_primary_at_once__by_the_connection_that_was_there():
    with Cluster(n=2, gateway=True) as cluster:
        create(cluster)
        with cluster.primary.conn(DB) as there, cluster.nodes[1].conn(DB) as here, via_gateway(cluster, cluster.nodes[1], 30):
            for i in range(30):
                assert insert(here, f"row {i}") == "ok"
                assert there("SELECT count(*), max(rowid) FROM t") == [(i + 1, i + 1)], f"acknowledged, and not there: row {i}"
                assert here("SELECT count(*) FROM t") == [(i + 1,)]
        assert_same(cluster)


def test_write__many_nodes_in_turn__each_begins_at_the_others_state():
    """begin brings what this node's LiteFS may not have yet: a writer never waits for, nor writes on, an old state."""
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        conns = [node.conn(DB) for node in cluster.nodes]
        for i in range(60):
            conn = conns[i % 3]
            conn("BEGIN IMMEDIATE")
            assert conn("SELECT count(*) FROM t") == [(i,)]
            conn("INSERT INTO t VALUES (?)", f"row {i}")
            conn("COMMIT")
        found = [counters(node) for node in cluster.nodes]
        note(f"bundles {[f['bundles'] for f in found]}")
        assert [f["commits_gateway"] for f in found] == [0, 20, 20] and found[0]["commits_self"] == 20, found
        assert sum(f["commits_remote"] for f in found) == 0, found
        for conn in conns:
            conn.close()
        assert_same(cluster)


def test_constraint__violated_on_replica__nothing_is_sent_and_the_next_is_written():
    with Cluster(n=2, gateway=True) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        with node.conn(DB) as conn, via_gateway(cluster, node, 2):
            conn("CREATE TABLE u(k INTEGER PRIMARY KEY, v NOT NULL CHECK(v > 0))")
            for sql in ("INSERT INTO u VALUES (1, NULL)", "INSERT INTO u VALUES (1, -1)", "INSERT INTO u VALUES (1, 1), (1, 2)"):
                assert error_of(conn, sql).code & 0xff == 19, sql
            conn("INSERT INTO u VALUES (1, 1)")
            assert error_of(conn, "INSERT INTO u VALUES (1, 2)").code & 0xff == 19
            assert conn("SELECT * FROM u") == [(1, 1)]
        assert_same(cluster)


@bound(400)
def test_transaction__64_mib__through_the_gateway():
    with Cluster(n=2, gateway=True, litefwd_opts={"spool_threshold": "4M"}) as cluster:
        create(cluster)
        node = cluster.nodes[1]
        with node.conn(DB) as conn, via_gateway(cluster, node, 2):
            conn("WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 1024) "
                 "INSERT INTO t SELECT randomblob(65000) FROM c", timeout=300)
            conn("DELETE FROM t WHERE rowid % 2", timeout=300)
        cluster.wait_converged(DB, timeout=120)
        seen = {cluster.shell(path, "PRAGMA quick_check; SELECT count(*), sum(length(x)), max(rowid) FROM t", timeout=300)
                for n in cluster.nodes for path in (n.path(DB), n.direct_path(DB))}
        assert seen == {"ok\n512|33280000|1024\n"}, seen


# ---------------------------------------------------------------- readers

def test_snapshot__open_on_primary_and_replica__kept_over_foreign_commits():
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        insert_until_ok(cluster.nodes[2], "before")
        cluster.wait_converged(DB)
        for node in (cluster.primary, cluster.nodes[1]):
            other = cluster.nodes[2]
            with node.conn(DB) as reader, other.conn(DB) as writer:
                reader("BEGIN")
                (seen,) = reader("SELECT count(*) FROM t")[0]
                with via_gateway(cluster, other, 20):
                    for i in range(20):
                        assert insert(writer, f"n{node.index} {i}") == "ok"
                        assert reader("SELECT count(*) FROM t") == [(seen,)], "the snapshot moved"
                assert int(cluster.primary.sql(DB, "SELECT count(*) FROM t")) == seen + 20, "a new reader sees it"
                assert error_of(reader, "INSERT INTO t VALUES ('stale')").is_busy
                assert reader("SELECT count(*) FROM t") == [(seen,)], "the snapshot moved"
                # LiteFS' here follows under the reader
                wait_until("this node's LiteFS has it", lambda node=node: node.pos(DB) == cluster.primary.pos(DB), 30)
                assert reader("SELECT count(*) FROM t") == [(seen,)], "the snapshot moved"
                reader("COMMIT")
                wait_until("the reader goes on", lambda r=reader, n=seen + 20: r("SELECT count(*) FROM t") == [(n,)], 20)
        assert_same(cluster)


@bound(SECONDS + 200)
def test_readers__eight_on_primary_without_end__never_busy_nor_torn():
    with Cluster(n=3, gateway=True) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        txid = cluster.primary.pos(BANK)[0]
        # No patience at all: one BUSY is one too many.
        load.start(cluster.primary, threads=8, mode="read", stall_us=2000, busy_timeout_ms=0, seconds=SECONDS)
        for node in cluster.replicas:
            load.start(node, threads=2, mode="write", seconds=SECONDS)
        load.wait(SECONDS + 90)
        print(load.describe())
        load.assert_clean()
        found = counters(cluster.primary, BANK)
        note(f"commits {load.commits_per_node()}, reads {load.total('reads')}, {found}")
        assert min(load.commits_per_node()[1:]) > 0 and load.total("reads") > 0
        assert found["busy_read"] == 0 and found["poisons"] == 0, found
        assert found["gateway_commits"] == load.total("commits"), found
        bank.verify(cluster, BANK, load)
        bank.assert_one_txid_per_commit(cluster, BANK, load, txid)


@bound(SECONDS + 200)
def test_readers__on_replica_without_end__replication_goes_on():
    with Cluster(n=3, gateway=True) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        reading = cluster.nodes[1]
        load.start(reading, threads=4, mode="read", stall_us=2000, seconds=600)
        for node in (cluster.primary, cluster.nodes[2]):
            load.start(node, threads=1, mode="write", pause_ms=5, seconds=600)
        for _ in range(5):
            target = cluster.primary.pos(BANK)[0] + 1
            bank.wait_txid(cluster.primary, BANK, target)
            bank.wait_txid(reading, BANK, target)
        load.terminate()
        load.wait(60)
        load.assert_clean()
        note(f"commits {load.commits_per_node()}, reads {load.total('reads')}, {counters(reading, BANK)}")
        bank.verify(cluster, BANK, load)


@bound(SECONDS + 200)
def test_writers__on_every_node__exact_and_nobody_starves():
    with Cluster(n=3, gateway=True) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        txid = cluster.primary.pos(BANK)[0]
        load.start(cluster.primary, threads=8, mode="read", stall_us=2000, seconds=SECONDS)
        for node in cluster.nodes:
            load.start(node, threads=3, seconds=SECONDS)
        load.wait(SECONDS + 90)
        print(load.describe())
        per_node = load.commits_per_node()
        note(f"commits {per_node}, Jain {bank.jain(per_node):.3f}, busy {load.total('busy')}")
        load.assert_clean()
        assert min(per_node) >= sum(per_node) / 9, f"starved: {per_node}"
        over_halt_too = [counters(node, BANK)["commits_remote"] for node in cluster.nodes]
        assert over_halt_too == [0, 0, 0], f"HALT was used: {over_halt_too}"
        bank.verify(cluster, BANK, load)
        bank.assert_one_txid_per_commit(cluster, BANK, load, txid)


# ---------------------------------------------------------------- the wal-index

class Model:
    """A table whose right content is known at any time."""

    def __init__(self, rows, seed):
        self.rng = random.Random(seed)
        self.rows = {i: self.value(i, 0) for i in range(rows)}
        self.number = 0

    @staticmethod
    def value(key, number):
        return hashlib.sha256(f"{key} {number}".encode()).hexdigest() * 12

    def change(self, conn, count, keep):
        self.number += 1
        for key in self.rng.sample(sorted(self.rows), count):
            value = self.value(key, self.number)
            conn("UPDATE k SET v = ? WHERE id = ?", value, key)
            if keep:
                self.rows[key] = value

    def check(self, conn, where):
        found = dict(conn("SELECT id, v FROM k ORDER BY id"))
        wrong = [key for key in self.rows if found.get(key) != self.rows[key]]
        assert not wrong and len(found) == len(self.rows), f"{where}: {len(wrong)} rows are wrong, e.g. {wrong[:5]}"
        # By the index, which other pages have; and one by one, so that each lookup in the wal-index is one of its own
        by_index = {key for (key,) in conn("SELECT id FROM k INDEXED BY kv WHERE v >= '' ORDER BY v")}
        assert by_index == set(self.rows), f"{where}: the index differs"


def walindex_work(frames, rounds):
    """Replica and primary write by turns, with spills, savepoints and rollbacks, while old connections read everything on each."""
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        model = Model(600, int(os.environ.get("LITEFWD_TEST_SEED", "1")))
        with cluster.primary.conn(DB) as setup:
            setup("CREATE TABLE k(id INTEGER PRIMARY KEY, v TEXT)")
            setup("CREATE INDEX kv ON k(v)")
            setup("BEGIN")
            for key, value in model.rows.items():
                setup("INSERT INTO k VALUES (?, ?)", key, value)
            setup("COMMIT")
        conns = [node.conn(DB) for node in cluster.nodes]
        readers = [node.conn(DB) for node in cluster.nodes]
        long_reader = cluster.primary.conn(DB)
        long_reader("BEGIN")
        before = long_reader("SELECT id, v FROM k ORDER BY id")
        for conn in conns + readers:
            conn("PRAGMA cache_size = 10")
        largest, number = 0, 0
        while number < rounds or largest < frames:
            writer = conns[number % 3]
            writer("BEGIN IMMEDIATE")
            model.change(writer, 30, True)
            writer("SAVEPOINT a")
            model.change(writer, 60, False)
            writer("ROLLBACK TO a")
            model.change(writer, 10, True)
            writer("RELEASE a")
            writer("COMMIT")
            for index, reader in enumerate(readers):
                if index == 0 or index == number % 3:
                    model.check(reader, f"round {number}, n{index}")
            again = conns[(number + 1) % 3]
            again("BEGIN IMMEDIATE")
            model.change(again, 60, False)
            again("ROLLBACK")
            model.check(again, f"round {number}, rolled back on n{(number + 1) % 3}")
            assert readers[0]("PRAGMA quick_check") == [("ok",)], number
            largest = max(largest, os.path.getsize(cluster.primary.path(DB) + "-wal") // 4120)
            number += 1
            assert number < 400, f"the WAL does not grow beyond {largest} frames"
        assert long_reader("SELECT id, v FROM k ORDER BY id") == before, "the snapshot moved"
        note(f"{number} rounds, a WAL of {largest} frames")
        long_reader("COMMIT")
        model.check(long_reader, "the long reader afterwards")
        for conn in conns + readers + [long_reader]:
            conn.close()
        over_halt_too = [counters(node)["commits_remote"] for node in cluster.nodes]
        assert over_halt_too == [0, 0, 0], f"HALT was used: {over_halt_too}"
        assert_same(cluster)


@bound(300)
def test_walindex__writers_of_all_nodes_spill_and_roll_back__every_row_right_on_primary():
    walindex_work(0, 9)


@bound(900)
def test_walindex__beyond_its_first_page_under_a_long_reader__every_row_right_on_primary():
    walindex_work(5200, 9)


# ---------------------------------------------------------------- mixed clusters

def test_mixed__one_replica_asks_the_gateway_and_one_does_not__both_write():
    with Cluster(n=3, gateway={"serve": [0], "ask": [1]}) as cluster:
        create(cluster)
        verdicts = {}
        with cluster.nodes[0].conn(DB) as primary, cluster.nodes[1].conn(DB) as asks, cluster.nodes[2].conn(DB) as halts:
            for i in range(10):
                for name, conn in (("primary", primary), ("asks", asks), ("halts", halts)):
                    verdicts[f"{name} {i}"] = insert(conn, f"{name} {i}")
        assert set(verdicts.values()) == {"ok"}, verdicts
        found = [counters(node) for node in cluster.nodes]
        assert [f["commits_gateway"] for f in found] == [0, 10, 0], found
        assert [f["commits_remote"] for f in found] == [0, 0, 10], found
        assert found[0]["gateway_commits"] == 10 and found[0]["commits_self"] == 10, found
        assert_verdicts(cluster, verdicts)


@bound(SECONDS + 200)
def test_mixed__all_write_at_once__exact():
    with Cluster(n=3, gateway={"serve": [0], "ask": [1]}) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        txid = cluster.primary.pos(BANK)[0]
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, seconds=SECONDS)
        load.start(cluster.primary, direct=True, threads=1, pause_ms=100, write_percent=30, seconds=SECONDS)
        load.wait(SECONDS + 90)
        print(load.describe())
        per_node = load.commits_per_node()
        note(f"commits {per_node}, direct {load.total('commits', direct=True)}")
        load.assert_clean()
        assert min(per_node) > 0, f"starved: {per_node}"
        bank.verify(cluster, BANK, load)
        if not load.killed:
            bank.assert_one_txid_per_commit(cluster, BANK, load, txid)


def test_mixed__gateway_comes_and_goes__halt_meanwhile_and_no_error():
    with Cluster(n=2, gateway={"serve": [], "ask": [1]}) as cluster:
        create(cluster)
        node, primary = cluster.nodes[1], cluster.primary
        verdicts = {}
        with node.conn(DB) as conn:
            with over_halt(node, 5):
                for i in range(5):
                    verdicts[f"none {i}"] = insert(conn, f"none {i}")
            for turn in range(2):
                primary.gateway = True
                assert primary.stop_litefwd() == 0
                primary.start_litefwd()
                verdicts.update(reach_gateway(node, f"turn {turn}"))
                verdicts[f"there {turn}"] = insert(conn, f"there {turn}")
                primary.gateway = False
                assert primary.stop_litefwd() == 0
                primary.start_litefwd()
                time.sleep(0.5)  # an idle lock was kept for so long at most
                with over_halt(node, 3):
                    for i in range(3):
                        verdicts[f"gone {turn} {i}"] = insert(conn, f"gone {turn} {i}")
        assert set(verdicts.values()) == {"ok"}, verdicts
        assert_verdicts(cluster, verdicts)


def test_rollback_journal__with_a_gateway__goes_by_halt():
    with Cluster(n=2, gateway=True) as cluster:
        cluster.sql_direct(cluster.primary, DB, "PRAGMA journal_mode = delete; CREATE TABLE t(x)")
        cluster.wait_converged(DB)
        node = cluster.nodes[1]
        with node.conn(DB) as conn, over_halt(node, 4):
            verdicts = {f"row {i}": insert(conn, f"row {i}") for i in range(4)}
        with cluster.primary.conn(DB) as conn:
            verdicts["primary"] = insert(conn, "primary")
        assert set(verdicts.values()) == {"ok"}, verdicts
        # and once it is in WAL mode, by the gateway
        assert node.sql(DB, "PRAGMA journal_mode = wal").strip() == "wal"
        verdicts.update(reach_gateway(node, "wal"))
        assert_verdicts(cluster, verdicts)


def test_database__created_and_removed_on_replica__with_a_gateway():
    with Cluster(n=2, gateway=True) as cluster:
        node = cluster.nodes[1]
        for turn in range(2):
            node.sql("new.db", "PRAGMA journal_mode = wal; CREATE TABLE t(x)")
            cluster.wait_converged("new.db")
            verdicts = reach_gateway(node, f"turn {turn}", db="new.db")
            insert_until_ok(cluster.primary, "primary", db="new.db")
            assert_verdicts(cluster, verdicts | {"primary": "ok"}, "new.db")
            cluster.run(["rm", node.path("new.db")])
            wait_gone(cluster, "new.db")
        cluster.assert_alive()


# ---------------------------------------------------------------- trust, versions

def test_secret__the_same_on_all_nodes__used():
    with Cluster(n=2, gateway=True, secret="an example of a secret 0123456789") as cluster:
        create(cluster)
        with via_gateway(cluster, cluster.nodes[1], 3), cluster.nodes[1].conn(DB) as conn:
            verdicts = {f"row {i}": insert(conn, f"row {i}") for i in range(3)}
        assert_verdicts(cluster, verdicts)
        assert set(verdicts.values()) == {"ok"}
        for node in cluster.nodes:
            assert "an example of a secret" not in node.litefwd_text(), "the log has the secret"


def test_secret__wrong_or_missing__halt_and_the_log_says_why():
    with Cluster(n=2, gateway=True, secret="an example of a secret 0123456789") as cluster:
        create(cluster)
        node = cluster.nodes[1]
        verdicts = {}
        for turn in ("wrong", "missing"):
            assert node.stop_litefwd() == 0
            if turn == "wrong":
                node.write_secret("another example of a secret 012345")
            else:
                node.gateway_secret = None
                node.gateway = False
            seen = len(node.litefwd_text())
            node.start_litefwd()
            there = counters(cluster.primary)
            with over_halt(node, 3), node.conn(DB) as conn:
                for i in range(3):
                    verdicts[f"{turn} {i}"] = insert(conn, f"{turn} {i}")
            assert rose(cluster.primary, there)["gateway_commits"] == 0
            lines = [line for line in node.litefwd_text()[seen:].splitlines() if "gateway" in line]
            assert any("secret" in line or "auth" in line for line in lines), f"{turn}: {lines}"
        assert set(verdicts.values()) == {"ok"}, verdicts
        assert_verdicts(cluster, verdicts)


def test_version__unknown_to_this_node__halt():
    later = json_answer('{"litefwd":99,"is_primary":true}\n')
    refused = json_answer('{"litefwd":99,"error":"version_unknown","text":"too old"}\n', "505 HTTP Version Not Supported")
    with cluster_with_gateway_proxy() as (cluster, node, proxy):
        verdicts = {}
        answers = (("GET", "/info", later), ("POST", "/halt", refused), ("POST", "/halt", later))
        for number, (method, path, answer) in enumerate(answers):
            assert node.stop_litefwd() == 0
            proxy.faults.clear()
            fault = proxy.add("answer", method=method, path=path, times=1000000, answer=answer)
            node.start_litefwd()
            with over_halt(node, 2), node.conn(DB) as conn:
                for i in range(2):
                    verdicts[f"{number} {i}"] = insert(conn, f"{number} {i}")
            if path == "/halt":
                assert fault.hits, "the gateway was never asked"
        proxy.faults.clear()
        assert set(verdicts.values()) == {"ok"}, verdicts
        verdicts.update(reach_gateway(node))
        assert_verdicts(cluster, verdicts)
        assert logged(node, "gateway"), "the log says nothing"


@bound(300)
def test_spoilt__answers_of_the_gateway__nothing_lost_or_doubled():
    with cluster_with_gateway_proxy(litefwd_opts={"halt_timeout": "2s", "commit_timeout": "4s"}) as (cluster, node, proxy):
        verdicts = {}
        for path in ("/halt", "/tx"):
            for name, answer in SPOILT.items():
                verdicts.update(reach_gateway(node, f"before {path} {name}"))
                time.sleep(0.3)  # no lock is held over
                proxy.add("answer", method="POST", path=path, times=1 if path == "/tx" else 3, answer=answer)
                value = f"{path} {name}"
                with node.conn(DB, busy_ms=0) as conn:
                    verdicts[value] = insert(conn, value)
                if path == "/tx":  # the gateway never saw it
                    assert verdicts[value] != "ok", f"{value}: acknowledged"
                    verdicts[value] = "error"
                proxy.faults.clear()
        verdicts.update(reach_gateway(node, "after"))
        assert_verdicts(cluster, verdicts)
        bank.assert_halt_succeeds(cluster, DB)
