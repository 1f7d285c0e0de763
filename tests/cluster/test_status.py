"""`litefwd status`, .litefwd, /metrics and /healthz through failures: they answer when nothing else does, and say what is wrong."""
import os
import signal
import time
import urllib.error
import urllib.request

from cluster import Cluster, is_mounted, slow_factor, wait_until
from marks import bound
from test_dangers import DB, cluster_with_proxy, create, insert, insert_until_ok

ANSWER_S = 3  # far less than any timeout of LiteFS' or litefwd's


def get(node, path):
    """(status, text) of this node's metrics server, in good time."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    begin = time.monotonic()
    try:
        with opener.open(node.metrics_url + path, timeout=20 * slow_factor()) as answer:
            found = (answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        found = (error.code, error.read().decode())
    assert time.monotonic() - begin < ANSWER_S * slow_factor(), f"{path} took {time.monotonic() - begin:.1f} s"
    return found


def sample(node, name, **labels):
    """One sample's value; 0 where it is not there."""
    for line in get(node, "/metrics")[1].splitlines():
        head, _, value = line.rpartition(" ")
        if head.split("{")[0] == name and all(f'{key}="{text}"' in head for key, text in labels.items()):
            return float(value)
    return 0


def command(cluster, *argv):
    return cluster.run([cluster.litefwd_binary, *argv], timeout=40, check=False)


def assert_well(cluster, node):
    wait_until(f"n{node.index} is well", lambda: get(node, "/healthz") == (200, "well\n"), 40, every=0.1)
    code, out, _ = command(cluster, "status", node.mount)
    assert code == 0 and f"{node.mount}: well\n" in out, (code, out)
    assert sample(node, "litefwd_healthy") == 1


def assert_degraded(cluster, node, reason):
    wait_until(f"n{node.index} is degraded: {reason}", lambda: reason in get(node, "/healthz")[1], 40, every=0.1)
    status, text = get(node, "/healthz")
    assert status == 503 and text.startswith("degraded: "), (status, text)
    assert sample(node, "litefwd_healthy") == 0 and sample(node, "litefwd_health_reasons", reason=reason) >= 1
    code, out, _ = command(cluster, "status", "--timeout=20s", node.mount)
    assert code == 1 and f"! {reason}" in out, (code, out)


@bound(180)
def test_primarys_litefs_stopped__both_nodes_say_so__and_are_well_again_after_it():
    with Cluster(n=2, metrics=True, litefwd_opts={"halt_timeout": "2s", "commit_timeout": "20s"}) as cluster:
        create(cluster)
        primary, replica = cluster.primary, cluster.replicas[0]
        txid = primary.pos(DB)[0]
        insert_until_ok(primary, "by the primary")
        insert_until_ok(replica, "by the replica")
        for node in cluster.nodes:
            assert_well(cluster, node)
        os.kill(primary.litefs.pid, signal.SIGSTOP)
        try:
            with replica.conn(DB, busy_ms=0) as conn:
                def goes_unanswered():
                    insert(conn, "while it is stopped")
                    return "primary_away" in get(replica, "/healthz")[1]
                wait_until("a writer finds out", goes_unanswered, 30, every=0.2)
                assert_degraded(cluster, replica, "primary_away")
            assert_degraded(cluster, primary, "litefs_gone")
        finally:
            os.kill(primary.litefs.pid, signal.SIGCONT)
        insert_until_ok(replica, "after it")
        insert_until_ok(primary, "after it, too")
        for node in cluster.nodes:
            assert_well(cluster, node)
        cluster.wait_converged(DB)
        # The counters of both are the cluster's history; what is unknown may be part of it.
        committed, unknown = (sum(sample(node, "litefwd_transactions_total", db=DB, outcome=outcome, upstream=upstream)
                                  for node in cluster.nodes for upstream in ("halt", "self", "gateway")) for outcome in ("committed", "unknown"))
        assert committed <= primary.pos(DB)[0] - txid <= committed + unknown, f"{committed} counted, {unknown} unknown"
        assert sample(replica, "litefwd_begin_duration_seconds_count", outcome="away") >= 1
        assert sample(replica, "litefwd_role", role="replica") == 1 and sample(primary, "litefwd_role", role="primary") == 1


@bound(120)
def test_own_litefs_stopped__and_the_pool_full_of_waiters__status_answers():
    with Cluster(n=2, metrics=True) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        insert_until_ok(node, "before")
        os.kill(node.litefs.pid, signal.SIGSTOP)
        try:
            waiters = [cluster.spawn(["stat", os.path.join(node.mount, f"missing-{i}")], name="waiter") for i in range(24)]
            assert_degraded(cluster, node, "litefs_gone")
            assert node.status()["health"]["state"] == "degraded"
            assert all(waiter.poll() is None for waiter in waiters), "they do not wait: the test shows nothing"
        finally:
            os.kill(node.litefs.pid, signal.SIGCONT)
        for waiter in waiters:
            assert waiter.wait(40 * slow_factor()) == 1
        insert_until_ok(node, "after")
        assert_well(cluster, node)


@bound(120)
def test_large_upload__over_halt_and_stalled__its_progress_is_shown():
    with cluster_with_proxy(litefwd_opts={"commit_timeout": "60s"}) as (cluster, node, proxy):
        insert_until_ok(node, "small")
        fault = proxy.add("stall_body", method="POST", path="/tx", count_bytes=100000)
        with node.conn(DB) as conn:
            conn.send("INSERT INTO t VALUES (randomblob(30000000))")
            assert fault.seen.wait(60 * slow_factor()), "nothing was sent"

            def in_the_middle():
                commit = node.counters(DB)["commit"]
                return commit and commit["phase"] == "send" and commit["sent_bytes"] > 100000 and commit
            commit = wait_until("the upload is under way", in_the_middle, 30)
            assert 30000000 < commit["of_bytes"] < 40000000 and commit["sent_bytes"] < commit["of_bytes"], commit
            assert node.counters(DB)["spool"]["file_bytes"] >= commit["of_bytes"]
            code, out, _ = command(cluster, "status", node.mount)
            assert code == 0 and "commit    send for " in out and " %)" in out and " MiB of " in out, out
            fault.release.set()
            conn.result(timeout=90)
        assert node.counters(DB)["commit"] is None
        assert node.counters(DB)["transactions"]["halt"]["committed"] == 2


@bound(120)
def test_replica_held_up_by_a_reader__halt__its_lag_is_shown():
    with Cluster(n=2, metrics=True, gateway=False) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        insert_until_ok(node, "before")
        cluster.wait_converged(DB)
        with node.conn_direct(DB) as reader:
            reader("BEGIN")
            reader("SELECT count(*) FROM t")
            for i in range(3):
                cluster.sql_direct(cluster.primary, DB, f"INSERT INTO t VALUES ({i})")
            with node.conn(DB, busy_ms=0) as writer:
                def sees_it():
                    insert(writer, "too early")
                    return node.counters(DB)["lag_transactions"] == 3
                wait_until("a begin has found the primary ahead", sees_it, 30, every=0.1)
            assert sample(node, "litefwd_lag_transactions", db=DB) == 3
            assert "lacks 3 transactions of the primary" in command(cluster, "status", node.mount)[1]
            reader("COMMIT")
        insert_until_ok(node, "after")
        assert node.counters(DB)["lag_transactions"] == 0
        assert sample(node, "litefwd_position_txid", db=DB, at="litefs") == node.pos(DB)[0]
        # Where LiteFS stands is known though nobody here looks at the database: it tells of each transaction.
        cluster.sql_direct(cluster.primary, DB, "INSERT INTO t VALUES ('elsewhere')")
        cluster.wait_converged(DB)
        wait_until("it is seen", lambda: sample(node, "litefwd_position_txid", db=DB, at="litefs") == node.pos(DB)[0], 30, every=0.1)


@bound(120)
def test_status__no_litefwd_there__exit_2_in_good_time():
    with Cluster(n=1) as cluster:
        node = cluster.primary
        for path in (cluster.base, node.litefs_dir, os.path.join(cluster.base, "none")):
            code, out, err = command(cluster, "status", path)
            assert (code, out) == (2, "") and "no litefwd is mounted there" in err, (path, code, out, err)
        for argv in ((), ("--nonsense", node.mount), (node.mount, node.mount), ("--timeout=x", node.mount)):
            code, out, err = command(cluster, "status", *argv)
            assert (code, out) == (3, "") and "usage: litefwd status" in err, (argv, code, out, err)
        os.kill(node.litefwd.pid, signal.SIGSTOP)
        try:
            code, out, err = command(cluster, "status", "--timeout=500ms", node.mount)
            assert (code, out) == (2, "") and "no answer within 500 ms" in err, (code, out, err)
        finally:
            os.kill(node.litefwd.pid, signal.SIGCONT)
        assert command(cluster, "status", node.mount)[0] == 0
        node.kill_litefwd()
        assert is_mounted(node.mount)
        code, out, err = command(cluster, "status", node.mount)
        assert (code, out) == (2, "") and "has died" in err, (code, out, err)


def lines_of(out, level):
    return [line.split(None, 1)[1] for line in out.splitlines() if line.split(None, 1)[0] == level]


@bound(120)
def test_check__each_node_and_each_mistake__said():
    with Cluster(n=2) as cluster:
        create(cluster)
        cluster.sql_direct(cluster.primary, "old.db", "CREATE TABLE t(x)")
        cluster.wait_converged("old.db")
        replica = cluster.replicas[0]
        for node in cluster.nodes:
            code, out, err = command(cluster, "check", "-o", node.litefwd_options(), node.litefs_dir)
            assert code == 0 and not lines_of(out, "WARN") and not lines_of(out, "FAIL"), (code, out, err)
            assert any(line.startswith(f"database {DB}: WAL") for line in lines_of(out, "OK")), out
            assert any(line.startswith("database old.db: rollback journal") for line in lines_of(out, "OK")), out
        code, out, _ = command(cluster, "check", "-o", f"litefs_url={replica.url}", replica.litefs_dir)
        assert code == 2 and any(line.startswith("lease: ") for line in lines_of(out, "FAIL")), out
        mistakes = [
            ({"litefs_url": "http://127.0.0.1:9"}, "litefs_url: "),
            ({"litefs_url": cluster.primary.url}, "litefs_url: "),  # another node's
            ({"primary_url": "http://127.0.0.1:9"}, "primary: "),
            ({"primary_url": replica.url}, "primary: "),  # no primary
            ({"spool_dir": "/nonexistent"}, "spool_dir: "),
            ({"state_dir": "/etc/passwd/litefwd"}, "state_dir: "),
        ]
        for change, subject in mistakes:
            code, out, _ = command(cluster, "check", "-o", replica.litefwd_options(**change), replica.litefs_dir)
            fails = lines_of(out, "FAIL")
            assert code == 2 and fails and all(line.startswith(subject) for line in fails), (change, out)
        code, out, _ = command(cluster, "check", "-o", replica.litefwd_options(gateway_url="http://127.0.0.1:9"), replica.litefs_dir)
        assert code == 1 and [line.split(":")[0] for line in lines_of(out, "WARN")] == ["gateway"], out
        code, out, _ = command(cluster, "check", "-o", replica.litefwd_options(), cluster.base)
        assert code == 2 and any(line.startswith("litefs_dir: ") for line in lines_of(out, "FAIL")), out
        assert command(cluster, "check")[0] == 3
