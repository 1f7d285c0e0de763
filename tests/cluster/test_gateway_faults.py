"""Gateway killed, stopped, cut off, demoted, its answers lost, with the lock wanted, held and in the middle of COMMIT.

Whatever happens, afterwards: an acknowledged transaction is there exactly once on every node, a refused one nowhere, an
undecided one at most once; everybody writes again; HALT is granted.
"""
import contextlib
import os
import random
import signal
import threading
import time

import bank
from cluster import Cluster, SqlError, slow_factor, wait_until
from faults import NetProxy
from gatewaytest import (DB, cluster_with_gateway_proxy, counters, create, insert, insert_until_ok, reach_gateway, rose, verdict_of)
from marks import bound, note
from test_dangers import assert_verdicts, swap_orderly

BANK = "bank.db"
TIMEOUTS = {"commit_timeout": "20s", "halt_timeout": "4s"}
LEASE_S = 5


def hold(conn, value):
    """The lock is had, and a row is in the open transaction."""
    conn("BEGIN IMMEDIATE", timeout=60)
    conn("INSERT INTO t VALUES (?)", value)


def end_well(cluster, verdicts, gateway_of=()):
    """Everybody writes again, the nodes given through the gateway; then nothing is lost or doubled."""
    for node in cluster.nodes:
        value = f"after n{node.index}"
        insert_until_ok(node, value)
        verdicts[value] = "ok"
    for node in gateway_of:
        verdicts.update(reach_gateway(node, "by the gateway again"))
    rows = assert_verdicts(cluster, verdicts)
    time.sleep(0.5)  # locks that are kept after a commit are given back
    bank.assert_halt_succeeds(cluster, DB, within=10)
    return rows


def forget(conn):
    """Its mount is gone for good."""
    conn.kill()


def restart(node):
    node.start_litefwd()


# ---------------------------------------------------------------- the primary's litefwd dies

@bound(300)
def test_primarys_litefwd_killed__while_a_replica_waits__decided_and_written_later():
    with cluster_with_gateway_proxy(n=3, litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        blocker, waiter = cluster.primary.conn(DB), node.conn(DB)
        hold(blocker, "blocker")
        asked = len(proxy.seen("POST", "/halt"))
        waiter.send("INSERT INTO t VALUES ('waiter')")
        wait_until("the replica asks", lambda: len(proxy.seen("POST", "/halt")) > asked, 20)
        cluster.primary.kill_litefwd()
        verdicts["waiter"] = verdict_of(waiter, None)
        forget(blocker)
        verdicts["blocker"] = "error"
        # without a gateway, by HALT
        insert_until_ok(node, "meanwhile")
        verdicts["meanwhile"] = "ok"
        restart(cluster.primary)
        waiter.close()
        end_well(cluster, verdicts, cluster.replicas)


@bound(300)
def test_primarys_litefwd_killed__while_a_replica_holds__decided():
    with Cluster(n=3, gateway=True, litefwd_opts=TIMEOUTS) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = {}
        for turn in ("restarted before", "not there"):
            verdicts.update(reach_gateway(node, turn))
            with node.conn(DB, busy_ms=2000) as conn:
                hold(conn, f"held {turn}")
                cluster.primary.kill_litefwd()
                if turn == "restarted before":
                    restart(cluster.primary)
                    insert_until_ok(other, f"other {turn}")  # the lock died with its server
                    verdicts[f"other {turn}"] = "ok"
                verdicts[f"held {turn}"] = verdict_of(conn)
                if turn == "restarted before":
                    assert verdicts[f"held {turn}"] != "ok", "committed on a position that was passed"
                with contextlib.suppress(SqlError):
                    conn("ROLLBACK")
                assert conn("SELECT count(*) FROM t")[0][0] > 0, "reading goes on"
            if turn == "not there":
                restart(cluster.primary)
            note(f"{turn}: {verdicts[f'held {turn}']}")
        end_well(cluster, verdicts, cluster.replicas)


def killed_in_commit(action):
    with cluster_with_gateway_proxy(n=3, litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        with node.conn(DB, busy_ms=0) as conn:
            fault = proxy.add(action, method="POST", path="/tx")
            conn.send("INSERT INTO t VALUES ('hit')")
            assert fault.seen.wait(20), "no /tx came"
            if action == "hold_answer":
                time.sleep(1)  # nothing can be acknowledged, but LiteFS has it
            cluster.primary.kill_litefwd()
            restart(cluster.primary)
            fault.release.set()
            verdicts["hit"] = verdict_of(conn, None)
            assert verdicts["hit"] == "ok" or action != "hold_answer", f"{verdicts['hit']}: this node's LiteFS proves the commit"
            with contextlib.suppress(SqlError):
                conn("ROLLBACK")
            assert conn("SELECT count(*) FROM t")[0][0] > 0, "reading goes on"
        note(f"{action}: {verdicts['hit']}")
        end_well(cluster, verdicts, cluster.replicas)


@bound(300)
def test_primarys_litefwd_killed__before_tx_arrives__decided():
    killed_in_commit("hold_request")


@bound(300)
def test_primarys_litefwd_killed__within_txs_body__decided():
    killed_in_commit("stall_body")


@bound(300)
def test_primarys_litefwd_killed__before_txs_answer__committed_by_evidence():
    killed_in_commit("hold_answer")


@bound(300)
def test_killed__litefwds_at_random_under_load__acknowledged_exactly_once():
    rng = random.Random(int(os.environ.get("LITEFWD_TEST_SEED", "1")))
    with Cluster(n=3, gateway=True) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)

        def start(node):
            load.start(node, threads=2, pause_ms=3, seconds=600, write_percent=70, busy_timeout_ms=5000)
        for node in cluster.nodes:
            start(node)
        for number in range(10):
            time.sleep(rng.uniform(0.3, 1.5))
            node = cluster.primary if number % 2 else rng.choice(cluster.nodes)
            node.kill_litefwd()
            for process, index, *_ in list(load.running):
                if index == node.index:
                    load.kill(process)
            node.start_litefwd()
            start(node)
        time.sleep(4)
        load.terminate()
        load.wait(90)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, "
             f"undecided {len(load.acks()['U'])}, by the gateway now {[counters(n, BANK)['commits_gateway'] for n in cluster.nodes]}")
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}", db=BANK)
        for node in cluster.replicas:
            reach_gateway(node, db=BANK)
        bank.verify(cluster, BANK, load)


# ---------------------------------------------------------------- single calls

def lost_call(action, method, path, expected):
    with cluster_with_gateway_proxy(litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        time.sleep(0.5)  # the lock that lingers is given back
        fault = proxy.add(action, method=method, path=path)
        with node.conn(DB, busy_ms=0) as conn:
            verdicts["hit"] = insert(conn, "hit")
            assert fault.seen.wait(20), f"{method} {path} never came"
            assert verdicts["hit"] in expected, f"{verdicts['hit']}, expected one of {expected}"
        took = insert_until_ok(node, "next")
        verdicts["next"] = "ok"
        note(f"{action} {method} {path}: {verdicts['hit']}, usable again after {took:.1f} s")
        end_well(cluster, verdicts, [node])


def test_lost__begin_request__not_written_or_written_once():
    lost_call("drop_request", "POST", "/halt", ("ok", "busy"))


def test_lost__begin_answer__not_written_or_written_once():
    lost_call("drop_answer", "POST", "/halt", ("ok", "busy"))


def test_lost__tx_request__decided():
    lost_call("drop_request", "POST", "/tx", ("ok", "unknown", "error", "busy"))


def test_lost__tx_answer__committed_by_evidence():
    lost_call("drop_answer", "POST", "/tx", ("ok",))


def test_lost__end_request__others_go_on():
    lost_call("drop_request", "DELETE", "/halt", ("ok",))


def test_lost__end_answer__harmless():
    lost_call("drop_answer", "DELETE", "/halt", ("ok",))


@bound(240)
def test_lost__many_calls_at_random_under_load__exact():
    rng = random.Random(int(os.environ.get("LITEFWD_TEST_SEED", "1")))
    with cluster_with_gateway_proxy(litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        load.start(node, threads=3, pause_ms=2, seconds=600, write_percent=70, busy_timeout_ms=5000)
        load.start(cluster.primary, threads=1, pause_ms=20, seconds=600, busy_timeout_ms=5000)
        hits = 0
        end = time.monotonic() + 20
        while time.monotonic() < end:
            fault = proxy.add(rng.choice(("drop_request", "drop_answer")), path=rng.choice(("/halt", "/tx", "/tx")))
            hits += fault.seen.wait(4)
            time.sleep(rng.uniform(0.05, 0.4))
        proxy.faults.clear()
        load.terminate()
        load.wait(90)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"{hits} calls lost, commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, "
             f"undecided {len(load.acks()['U'])}")
        assert hits > 0
        insert_until_ok(node, "after", db=BANK)
        reach_gateway(node, db=BANK)
        bank.verify(cluster, BANK, load)
        time.sleep(0.5)
        bank.assert_halt_succeeds(cluster, BANK, within=10)


def test_delayed__answers_of_every_call__written_exactly_once():
    with cluster_with_gateway_proxy() as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        with node.conn(DB) as conn:
            for i, (method, path) in enumerate((("POST", "/halt"), ("POST", "/tx"), ("DELETE", "/halt"))):
                fault = proxy.add("hold_answer", method=method, path=path)
                timer = threading.Timer(1.0, fault.release.set)
                timer.start()
                verdicts[f"row {i}"] = insert(conn, f"row {i}")
                assert verdicts[f"row {i}"] == "ok"
                time.sleep(0.5)
                timer.join()
                fault.times = 0
        end_well(cluster, verdicts, [node])


# ---------------------------------------------------------------- the network

def cut_in_commit(fault, release="pass", seconds=8, others=True):
    """
    The way to the gateway fails in COMMIT, by a command of tests/proxy; LiteFS' own replication still works. Somebody
    else can write while it lasts, after the lease at the latest.
    """
    with cluster_with_gateway_proxy(n=3, proxy_class=NetProxy, litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        with node.conn(DB, busy_ms=0) as conn:
            hold(conn, "hit")
            proxy(fault)
            conn.send("COMMIT")
            begin = time.monotonic()
            if others:
                took = insert_until_ok(cluster.nodes[2], "other", timeout=60)
                verdicts["other"] = "ok"
                note(f"somebody else writes after {took:.1f} s")
            time.sleep(max(0, seconds - (time.monotonic() - begin)))
            proxy(release)
            proxy("pass")
            verdicts["hit"] = verdict_of(conn, None)
            with contextlib.suppress(SqlError):
                conn("ROLLBACK")
        note(f"{fault}: {verdicts['hit']}")
        rows = end_well(cluster, verdicts, cluster.replicas)
        return verdicts["hit"], rows.count("hit")


@bound(300)
def test_network__black_hole_before_tx__nothing_is_committed_and_others_go_on():
    verdict, count = cut_in_commit("blackhole on")
    assert verdict != "ok" and count == 0, (verdict, count)


@bound(300)
def test_network__half_open_within_txs_body__others_go_on():
    verdict, count = cut_in_commit("stall-body POST /tx 1", "drop-connections")
    assert verdict != "ok" and count == 0, (verdict, count)


@bound(300)
def test_network__body_comes_after_the_lease__committed_once_or_not_at_all():
    cut_in_commit("stall-body POST /tx 1", "release")


@bound(300)
def test_network__answer_never_comes__committed_by_evidence():
    verdict, count = cut_in_commit("hold-answer on", "drop-connections")
    assert (verdict, count) == ("ok", 1)


@bound(300)
def test_network__connections_reset_in_commit__decided():
    for command in ("reset-after-header POST /tx 1", "lose-answer POST /tx 1"):
        cut_in_commit(command, seconds=0)


@bound(300)
def test_network__holder_vanishes_without_a_word__others_go_on_after_its_lease():
    with cluster_with_gateway_proxy(n=3, proxy_class=NetProxy, litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = reach_gateway(node, "before")
        conn = node.conn(DB, busy_ms=0)
        hold(conn, "held")
        proxy("blackhole on")
        took = insert_until_ok(cluster.nodes[2], "other", timeout=60)
        verdicts["other"] = "ok"
        note(f"somebody else writes after {took:.1f} s")
        assert took < 3 * LEASE_S * slow_factor(), f"the lease of {LEASE_S} s lasted {took:.0f} s"
        verdicts["held"] = verdict_of(conn)
        assert verdicts["held"] != "ok", "committed without the lock"
        with contextlib.suppress(SqlError):
            conn("ROLLBACK")
        assert conn("SELECT count(*) FROM t")[0][0] > 0, "reading goes on"
        conn.close()
        insert_until_ok(node, "by HALT")
        verdicts["by HALT"] = "ok"
        proxy("pass")
        end_well(cluster, verdicts, cluster.replicas)


@bound(240)
def test_network__transaction_longer_than_the_lease__committed_because_it_is_renewed():
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = reach_gateway(node, "before")
        before = counters(node)
        with node.conn(DB) as conn, other.conn(DB, busy_ms=60000) as waiter:
            hold(conn, "long")
            waiter.send("INSERT INTO t VALUES ('waiter')")
            time.sleep(2.5 * LEASE_S)
            verdicts["long"] = verdict_of(conn)
            verdicts["waiter"] = verdict_of(waiter, None)
        assert verdicts["long"] == verdicts["waiter"] == "ok", verdicts
        assert rose(node, before)["commits_gateway"] == 1
        end_well(cluster, verdicts)


# ---------------------------------------------------------------- the holder dies

@bound(240)
def test_replicas_litefwd_killed__holding_the_lock__others_go_on_within_its_lease():
    with Cluster(n=3, gateway=True, litefwd_opts=TIMEOUTS) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = reach_gateway(node, "before")
        for turn in range(2):
            victim = node.conn(DB)
            hold(victim, f"victim {turn}")
            verdicts[f"victim {turn}"] = "error"
            node.kill_litefwd()
            begin = time.monotonic()
            for n in (cluster.primary, other):
                insert_until_ok(n, f"turn {turn} n{n.index}")
                verdicts[f"turn {turn} n{n.index}"] = "ok"
            took = time.monotonic() - begin
            note(f"others write after {took:.1f} s")
            assert took < 3 * LEASE_S * slow_factor(), f"the lease of {LEASE_S} s lasted {took:.0f} s"
            forget(victim)
            restart(node)
            verdicts.update(reach_gateway(node, f"restarted {turn}"))
        end_well(cluster, verdicts, cluster.replicas)


def test_replicas_client_killed__holding_the_lock__others_go_on_at_once():
    with Cluster(n=3, gateway=True) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = reach_gateway(node, "before")
        for turn in range(3):
            victim = node.conn(DB)
            hold(victim, f"victim {turn}")
            verdicts[f"victim {turn}"] = "error"
            victim.kill()
            for n in (cluster.primary, other, node):
                insert_until_ok(n, f"turn {turn} n{n.index}", 20)
                verdicts[f"turn {turn} n{n.index}"] = "ok"
        end_well(cluster, verdicts)


# ---------------------------------------------------------------- roles, LiteFS

@bound(400)
def test_roles_swapped__with_the_lock_held_and_wanted__decided():
    with Cluster(n=3, gateway=True, litefwd_opts=TIMEOUTS) as cluster:
        create(cluster)
        verdicts = {}
        for turn, new_primary in enumerate((cluster.nodes[1], cluster.nodes[2], cluster.nodes[0])):
            holder, waiter = cluster.replicas
            verdicts.update(reach_gateway(holder, f"turn {turn}"))
            cluster.wait_converged(DB)
            holding, waiting = holder.conn(DB, busy_ms=1000), waiter.conn(DB, busy_ms=1000)
            hold(holding, f"held {turn}")
            waiting.send(f"INSERT INTO t VALUES ('waited {turn}')")
            waiting.pending(0.3)
            cluster.swap_primary(new_primary, DB)
            verdicts[f"held {turn}"] = verdict_of(holding)
            verdicts[f"waited {turn}"] = verdict_of(waiting, None)
            note(f"held {verdicts[f'held {turn}']}, waited {verdicts[f'waited {turn}']}")
            for conn in (holding, waiting):
                conn.kill()
            for node in cluster.nodes:
                insert_until_ok(node, f"after {turn} n{node.index}")
                verdicts[f"after {turn} n{node.index}"] = "ok"
            assert_verdicts(cluster, verdicts)
        end_well(cluster, verdicts, cluster.replicas)


@bound(300)
def test_roles_swapped__under_load__acknowledged_exactly_once():
    with Cluster(n=3, gateway=True) as cluster:
        bank.create(cluster, BANK)
        load = bank.Load(cluster, BANK)
        for node in cluster.nodes:
            load.start(node, threads=2, pause_ms=5, seconds=600, busy_timeout_ms=1000)
        for new_primary in (cluster.nodes[1], cluster.nodes[2], cluster.nodes[0]):
            time.sleep(4)
            swap_orderly(cluster, BANK, new_primary)
        time.sleep(6)
        load.terminate()
        load.wait(60)
        print(load.describe())
        assert load.total("violations") == 0, [r["violation_list"] for r in load.reports]
        note(f"commits {load.commits_per_node()}, busy {load.total('busy')}, errors {load.total('errors')}, "
             f"undecided {len(load.acks()['U'])}")
        for node in cluster.nodes:
            insert_until_ok(node, f"after n{node.index}", db=BANK)
        for node in cluster.replicas:
            reach_gateway(node, db=BANK)
        bank.verify(cluster, BANK, load)


@bound(300)
def test_primarys_litefs_restarted__with_the_lock_held_and_in_commit__decided():
    with cluster_with_gateway_proxy(n=3, litefwd_opts=TIMEOUTS) as (cluster, node, proxy):
        verdicts = {}
        for state in ("held", "hold_request", "hold_answer"):
            verdicts.update(reach_gateway(node, f"before {state}"))
            cluster.wait_converged(DB)
            conn = node.conn(DB, busy_ms=1000)
            hold(conn, f"hit {state}")
            fault = None
            if state != "held":
                fault = proxy.add(state, method="POST", path="/tx")
                conn.send("COMMIT")
                assert fault.seen.wait(20)
                if state == "hold_answer":
                    cluster.wait_converged(DB)
            cluster.primary.kill_litefs()
            time.sleep(0.3)
            cluster.primary.start_litefs()
            if fault:
                fault.release.set()
            verdicts[f"hit {state}"] = verdict_of(conn, None if fault else "COMMIT")
            note(f"{state}: {verdicts[f'hit {state}']}")
            conn.kill()
            for n in cluster.nodes:
                insert_until_ok(n, f"after {state} n{n.index}")
                verdicts[f"after {state} n{n.index}"] = "ok"
            assert_verdicts(cluster, verdicts)
        end_well(cluster, verdicts, cluster.replicas)


# ---------------------------------------------------------------- a process that stands still

def stopped(state):
    """SIGSTOP of the primary's litefwd for longer than the lease, then SIGCONT."""
    with Cluster(n=3, gateway=True, litefwd_opts=TIMEOUTS) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = reach_gateway(node, "before")
        pid = cluster.primary.litefwd.pid
        conn, waiter = node.conn(DB, busy_ms=1000), other.conn(DB, busy_ms=1000)
        if state != "waiting":
            hold(conn, "hit")
        os.kill(pid, signal.SIGSTOP)
        try:
            conn.send("INSERT INTO t VALUES ('hit')" if state == "waiting" else "COMMIT" if state == "commit" else "SELECT 1")
            waiter.send("INSERT INTO t VALUES ('waiter')")
            time.sleep(LEASE_S + 3)
        finally:
            os.kill(pid, signal.SIGCONT)
        if state == "held":
            conn.result()
        verdicts["hit"] = verdict_of(conn, "COMMIT" if state == "held" else None)
        verdicts["waiter"] = verdict_of(waiter, None)
        note(f"{state}: {verdicts['hit']}, waiter {verdicts['waiter']}")
        for c in (conn, waiter):
            with contextlib.suppress(SqlError):
                c("ROLLBACK")
            assert c("SELECT count(*) FROM t")[0][0] > 0, "reading goes on"
            c.close()
        end_well(cluster, verdicts, cluster.replicas)


@bound(240)
def test_primarys_litefwd_stopped__longer_than_the_lease__held_lock_is_not_used():
    stopped("held")


@bound(240)
def test_primarys_litefwd_stopped__longer_than_the_lease__commit_is_decided():
    stopped("commit")


@bound(240)
def test_primarys_litefwd_stopped__longer_than_the_lease__who_waits_is_answered():
    stopped("waiting")


@bound(240)
def test_replicas_litefwd_stopped__longer_than_its_lease__others_go_on_and_it_commits_nothing():
    with Cluster(n=3, gateway=True, litefwd_opts=TIMEOUTS) as cluster:
        create(cluster)
        node, other = cluster.replicas
        verdicts = reach_gateway(node, "before")
        with node.conn(DB, busy_ms=1000) as conn:
            hold(conn, "hit")
            os.kill(node.litefwd.pid, signal.SIGSTOP)
            try:
                took = insert_until_ok(other, "other")
                verdicts["other"] = "ok"
                assert took < 3 * LEASE_S * slow_factor(), f"the lease of {LEASE_S} s lasted {took:.0f} s"
            finally:
                os.kill(node.litefwd.pid, signal.SIGCONT)
            verdicts["hit"] = verdict_of(conn)
            assert verdicts["hit"] != "ok", "its lease was over, and another had written"
            verdicts["hit"] = "error"  # no row of it may be there, now or later
        end_well(cluster, verdicts, cluster.replicas)
