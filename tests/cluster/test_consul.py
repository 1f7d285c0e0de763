"""Failover with a real Consul: who is primary is found there, and whatever moment the primary chooses to go, promises hold.

ledger.judge() (failover.py) says what that means for each transaction and each reader.
"""
import contextlib
import json
import os
import signal
import tempfile
import time
import types

from cluster import SqlError, wait_until
from failover import COUNTS, DB, Ledger, Takeover, come_back, consul_cluster, end_takeover, kill_primary, promote
from marks import bound, note, soak

OPTS = {"commit_timeout": "6s", "halt_timeout": "3s"}


def others(cluster, *nodes):
    return [node for node in cluster.nodes if node not in nodes]


def assert_urls(cluster, fronts):
    """Every replica has the primary's URL, and has it from Consul."""
    def told():
        return all(node.status()["primary_url"] == fronts[cluster.primary].url for node in cluster.replicas)
    wait_until("all replicas know the primary's URL", told, 30)


def handoffs_under_load(gateway):
    """Two handoffs, with clients at work everywhere and transactions open on the old and the new primary."""
    with consul_cluster(gateway=gateway, litefwd_opts=OPTS) as (cluster, fronts, _):
        first, second, third = cluster.primary, *others(cluster, cluster.primary)
        assert_urls(cluster, fronts)
        ledger = Ledger(cluster)
        kept = 0
        for node in cluster.nodes:
            ledger.start(node, "writer")
            ledger.start(node, "reader", 0.01)
        ledger.wait_all_go_on(0)
        promote(cluster, ledger, second)
        ledger.wait_all_go_on(ledger.takeovers[-1].ended)
        assert_urls(cluster, fronts)
        # A reader that stays while others write holds up its node's replication, and a handoff comes the same way.
        ledger.stop("writer")
        cluster.wait_converged(DB)
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(second.conn(DB))
            readers = {node: stack.enter_context(node.conn(DB)) for node in (second, third)}
            for node, conn in readers.items():
                conn("BEGIN")
                readers[node] = (conn, conn("SELECT count(*), max(id) FROM t"))
            wait_until("a transaction is open on the old primary",
                       lambda: ledger.begin(writer, second, f"open over the handoff {time.monotonic()}") is not None, 30)
            value = list(ledger.rows)[-1]
            promote(cluster, ledger, third)
            ledger.commit(writer, value)
            for node, (conn, snapshot) in readers.items():
                try:  # what it had may be gone, and then it is told so; but never another snapshot
                    assert conn("SELECT count(*), max(id) FROM t") == snapshot, f"n{node.index}: the snapshot has changed"
                    kept += 1
                except SqlError as error:
                    print(f"n{node.index}: its open reader: {error}")
                with contextlib.suppress(SqlError):
                    conn("ROLLBACK")
            for node in cluster.nodes:
                ledger.start(node, "writer")
            ledger.wait_all_go_on(ledger.takeovers[-1].ended)
        assert first.litefs_expected and cluster.primary is third
        assert_urls(cluster, fronts)
        note(f"{kept} of 2 readers kept their snapshot over the handoff")
        ledger.stop()
        return ledger.judge(f"two handoffs, gateway {gateway}")


def at_idle(cluster, node, front, ledger, value):
    yield


def at_begin(cluster, node, front, ledger, value):
    fault = front.add("hold_answer", method="POST", path="/halt")
    with node.conn(DB, busy_ms=1000) as conn:
        conn.send("BEGIN IMMEDIATE")
        assert fault.seen.wait(30), "nobody has asked for the lock"
        yield
        with contextlib.suppress(SqlError):
            conn.result()
            ledger.begin(conn, node, value)


def begun(cluster, node, front, ledger, value):
    with node.conn(DB) as conn:
        assert ledger.begin(conn, node, value) is not None
        yield
        ledger.commit(conn, value)


def with_fault(action, unreplicated, **options):
    def step(cluster, node, front, ledger, value):
        with node.conn(DB) as conn:
            assert ledger.begin(conn, node, value) is not None
            if unreplicated:
                cluster.fronts[cluster.primary].hold_streams()
            txid = cluster.primary.pos(DB)[0]
            fault = front.add(action, method="POST", path="/tx", **options) if action else None
            conn.send("COMMIT")
            if fault:
                assert fault.seen.wait(30), "nothing was sent"
            if action != "stall_body":
                wait_until("the primary has applied it", lambda: cluster.primary.pos(DB)[0] == txid + 1, 30)
            yield
            ledger.commit(conn, value, sent=True)
    return step


STEPS = {
    "idle": at_idle,
    "at begin": at_begin,
    "begun": begun,
    "in upload": with_fault("stall_body", False, count_bytes=150),
    "applied, no answer": with_fault("hold_answer", False),
    "applied, no answer, not replicated": with_fault("hold_answer", True),
    "answered, not replicated": with_fault(None, True),
}


def kill_at(cluster, fronts, gateways, ledger, name, litefwd=False, expire=True):
    """The primary goes at that moment of a replica's transaction; others take over; it comes back."""
    cluster.fronts = fronts
    old = cluster.primary
    node = others(cluster, old)[0]
    front = (gateways or fronts)[old]
    ledger.write_until_ok(node, f"before {name}")
    moment = STEPS[name](cluster, node, front, ledger, f"{name} {len(ledger.takeovers)}")
    next(moment)
    dead, takeover = kill_primary(cluster, ledger, name, litefwd, expire)
    for fault in front.faults:
        fault.lose()
    end_takeover(cluster, ledger, takeover)
    for _ in moment:
        raise AssertionError("one moment only")
    fronts[dead].hold_streams(False)
    took = [ledger.write_until_ok(survivor, f"after {name}") for survivor in others(cluster, dead)]
    come_back(dead)
    ledger.write_until_ok(dead, f"back after {name}")
    return took


def kills(names, gateway, litefwd=False, expire=True, rounds=1):
    with consul_cluster(gateway=gateway, litefwd_opts=OPTS) as (cluster, fronts, gateways):
        ledger = Ledger(cluster)
        for node in cluster.nodes:
            ledger.start(node, "reader", 0.02)
        for _ in range(rounds):
            for name in names:
                took = kill_at(cluster, fronts, gateways, ledger, name, litefwd, expire)
                note(f"killed {name}: the survivors wrote after {', '.join('%.1f s' % t for t in took)}")
                assert_urls(cluster, fronts)
        ledger.stop()
        return ledger.judge(f"kills, gateway {gateway}, litefwd {litefwd}")


def kills_under_load(gateway, rounds, unreplicated, litefwd=False, expire=True):
    """The primary goes in the midst of everybody's writing, and comes back. unreplicated: what it applied last, nobody has got."""
    with consul_cluster(gateway=gateway, litefwd_opts=OPTS) as (cluster, fronts, _):
        ledger = Ledger(cluster)
        for node in cluster.nodes:
            ledger.start(node, "writer")
            ledger.start(node, "reader", 0.01)
        for number in range(rounds):
            ledger.wait_all_go_on(time.monotonic())
            old = cluster.primary
            if unreplicated:
                fronts[old].hold_streams()
                txid = old.pos(DB)[0]
                wait_until("something is applied that nobody gets", lambda: old.pos(DB)[0] > txid + 2, 30)
            dead, takeover = kill_primary(cluster, ledger, f"kill {number} under load", litefwd, expire)
            if litefwd:
                ledger.kill_clients_of(dead)
            end_takeover(cluster, ledger, takeover)
            fronts[dead].hold_streams(False)
            ledger.wait_all_go_on(takeover.ended, but=dead)
            come_back(dead)
            if litefwd:
                ledger.start(dead, "writer")
                ledger.start(dead, "reader", 0.01)
            ledger.wait_all_go_on(time.monotonic())
        ledger.stop()
        counts = ledger.judge(f"{rounds} kills under load, gateway {gateway}, unreplicated {unreplicated}, litefwd {litefwd}")
        assert counts["ok"] > 3 * rounds, "too little was written to prove anything"
        return counts


def stopped_past_its_lease(gateway):
    """kill -STOP in the middle of a COMMIT; another takes over; the old one goes on where it was, believing that it is primary."""
    with consul_cluster(gateway=gateway, litefwd_opts=OPTS) as (cluster, fronts, _):
        ledger = Ledger(cluster)
        old = cluster.primary
        for node in cluster.replicas:
            ledger.start(node, "reader", 0.02)
            ledger.write_until_ok(node, "before")
        node, value = cluster.replicas[0], "sent to a primary that has stopped"
        with node.conn(DB) as conn:
            assert ledger.begin(conn, node, value) is not None
            _, session = cluster.consul.holder()
            takeover = Takeover(cluster, cluster.replicas, "stop past the lease")
            os.kill(old.litefs.pid, signal.SIGSTOP)
            try:
                conn.send("COMMIT")
                cluster.consul.expire(session)
                fronts[old].cut()  # LiteFS would wait for a silent primary for ever
                end_takeover(cluster, ledger, takeover)
                ledger.commit(conn, value, sent=True)
                for survivor in others(cluster, old):
                    ledger.write_until_ok(survivor, "meanwhile")
            finally:
                os.kill(old.litefs.pid, signal.SIGCONT)
        wait_until("the old primary follows the new one", lambda: old.info()["primary"]["hostname"] == cluster.primary.hostname, 60)
        ledger.write_until_ok(old, "after")
        ledger.stop()
        ledger.judge(f"stopped past its lease, gateway {gateway}")


def test_ledger__wrong_rows__told():
    """The judge itself: each way in which a promise can be broken is found."""
    node = types.SimpleNamespace(litefwd_text=lambda: "commit_unknown db=app.db txid=000000000000006c")
    ledger = Ledger.__new__(Ledger)
    ledger.txid0, ledger.clients, ledger.retired = 100, [], []
    ledger.takeovers = [types.SimpleNamespace(txid=105, began=9, ended=10)]

    def judged(place, **row):
        counts, problems = dict.fromkeys(COUNTS, 0), []
        ledger._judge_row("value", {"node": node, "t": 1, **row}, place, counts, problems)
        return "problem" if problems else next(name for name in COUNTS if counts[name])
    assert judged(3, e="ok", id=3) == "ok"
    assert judged(None, e="ok", id=6) == "dropped"  # above where the new primary stood
    assert judged(None, e="ok", id=5) == "problem"  # the new primary had it
    assert judged(None, e="ok", id=6, t=11) == "problem"  # acknowledged afterwards
    assert judged(4, e="ok", id=3) == "problem"
    assert judged(None, e="busy", id=3, step="commit") == "busy"
    assert judged(3, e="busy", id=3, step="commit") == "problem"
    assert judged(3, e="error", id=None, step="begin") == "problem"
    assert judged(None, e="io", id=3, step="commit") == "failed"
    assert judged(3, e="io", id=3, step="commit") == "problem"  # litefwd has not said "unknown" of it
    assert judged(8, e="io", id=8, step="commit") == "unknown"
    assert judged(8, e="open", id=8) == "open" and judged(9, e="open", id=8) == "problem"
    with tempfile.NamedTemporaryFile("w", suffix="reader") as log:
        for top, when in ((3, 1), (6, 8), (5, 11)):
            print(json.dumps({"e": "read", "max": top, "count": top, "t": when}), file=log, flush=True)
        ledger.clients = [(None, node, "reader", log.name)]
        for takeovers, expected in ((ledger.takeovers, 0), ([], 1)):
            problems, ledger.takeovers = [], takeovers
            ledger._judge_readers(problems)
            assert len(problems) == expected, problems


def test_consul__handoff_under_load__promises_hold():
    handoffs_under_load(False)


def test_consul__primary_killed_and_back__promises_hold():
    kills(["idle", "in upload", "applied, no answer, not replicated"], gateway=False)


def test_consul__primary_killed_under_load_and_back_with_gateways__only_its_last_is_dropped():
    kills_under_load(True, 2, unreplicated=True)


@soak
@bound(1200)
def test_consul__primary_killed_under_load_again_and_again__promises_hold():
    for gateway in (False, True):
        kills_under_load(gateway, 10, unreplicated=False)
        kills_under_load(gateway, 10, unreplicated=True)
        kills_under_load(gateway, 5, unreplicated=True, litefwd=True)


@soak
@bound(600)
def test_consul__primary_stopped_past_its_lease__promises_hold():
    for gateway in (False, True):
        stopped_past_its_lease(gateway)


@soak
@bound(600)
def test_consul__lease_ends_by_itself__promises_hold():
    kills_under_load(False, 2, unreplicated=False, expire=False)


@soak
@bound(600)
def test_consul__handoff_under_load_with_gateways__promises_hold():
    handoffs_under_load(True)


@soak
@bound(1200)
def test_consul__primary_killed_at_each_step__promises_hold():
    kills(list(STEPS), gateway=False)


@soak
@bound(1200)
def test_consul__primary_killed_at_each_step_with_gateways__promises_hold():
    kills(list(STEPS), gateway=True)


@soak
@bound(1200)
def test_consul__primary_and_its_litefwd_killed_at_each_step_with_gateways__promises_hold():
    kills(list(STEPS), gateway=True, litefwd=True)
