"""The harness judged by itself: what it promises to notice it must notice.

Runs without litefwd: a shell script plays it where one is needed.
"""
import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import bank
import cluster as harness
from cluster import Cluster, HarnessError, is_mounted, marked_processes, mounts_below, wait_until
from faults import FaultProxy, json_answer


def expect_problem(fragment, body, **options):
    try:
        with Cluster(n=1, litefwd=False, **options) as cluster:
            body(cluster)
    except HarnessError as error:
        assert fragment in str(error), f"expected {fragment!r} in: {error}"
        return
    raise AssertionError(f"not noticed: {fragment}")


def fake_litefwd(cluster, script):
    """Starts a shell script in litefwd's place."""
    node = cluster.primary
    node.litefwd = cluster.spawn(["sh", "-c", script], log=node.litefwd_log)
    node.litefwd_expected = True
    time.sleep(0.2)


def test_harness__litefs_dies_unasked__reported():
    def body(cluster):
        os.kill(cluster.primary.litefs.pid, signal.SIGKILL)
        cluster.primary.litefs.wait()
    expect_problem("litefs n0 is gone", body)


def test_harness__litefs_killed_by_test__not_reported():
    with Cluster(n=1, litefwd=False) as cluster:
        cluster.primary.kill_litefs()


def test_harness__litefwd_dies_unasked__reported():
    expect_problem("litefwd n0 is gone", lambda cluster: fake_litefwd(cluster, "exit 3"))


def test_harness__litefwd_exit_status_not_zero__reported():
    expect_problem("ended with 5 on SIGTERM", lambda cluster: fake_litefwd(cluster, "trap 'exit 5' TERM; while :; do sleep 0.05; done"))


def test_harness__suspicious_words_in_log__reported():
    quiet = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    for line in ("==1==ERROR: AddressSanitizer: heap-use-after-free", "WARNING: ThreadSanitizer: data race",
                 "x.c:3:1: runtime error: signed integer overflow", "error bug txid=3", "Assertion `x' failed.",
                 "error invariant_broken db=a"):
        expect_problem("logged: ", lambda cluster, line=line: fake_litefwd(cluster, f"echo {shlex.quote(line)} >&2; {quiet}"))


def test_harness__harmless_log__not_reported():
    with Cluster(n=1, litefwd=False) as cluster:
        fake_litefwd(cluster, "echo 'debug halt db=a' >&2; trap 'exit 0' TERM; while :; do sleep 0.05; done")


def test_harness__three_nodes_direct__replicated():
    with Cluster(n=3, litefwd=False) as cluster:
        cluster.sql_direct(cluster.primary, "a.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(7)")
        txid, _ = cluster.wait_converged("a.db")
        assert txid > 0
        for node in cluster.nodes:
            assert cluster.sql_direct(node, "a.db", "SELECT x FROM t").strip() == "7"


def test_harness__roles_swapped__other_node_writes():
    with Cluster(n=2, litefwd=False) as cluster:
        cluster.sql_direct(cluster.primary, "a.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)")
        cluster.wait_converged("a.db")
        cluster.swap_primary(cluster.nodes[1])
        cluster.sql_direct(cluster.nodes[1], "a.db", "INSERT INTO t VALUES(1)")
        cluster.wait_converged("a.db")
        assert cluster.sql_direct(cluster.nodes[0], "a.db", "SELECT count(*) FROM t").strip() == "1"


def leftovers_after(how):
    """Starts a cluster in a child harness, ends that by a signal, returns what is left of it."""
    code = ("import sys, time; sys.path.insert(0, sys.argv[1])\nfrom cluster import Cluster\n"
            "with Cluster(n=2, litefwd=False) as c:\n"
            " k = c.primary.conn_direct('a.db'); k('BEGIN IMMEDIATE'); print(c.base, flush=True); time.sleep(600)\n")
    env = {key: value for key, value in os.environ.items() if key != "LITEFWD_TEST_LOGS"}
    child = subprocess.Popen([sys.executable, "-B", "-c", code, harness.HERE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    base = child.stdout.readline().decode().strip()
    assert base and len(mounts_below(base)) == 2, "the child harness came up"
    assert len(marked_processes(base)) >= 3
    child.send_signal(how)
    child.wait(60)
    wait_until("the directory is gone", lambda: not os.path.exists(base), 30)
    return marked_processes(base) + mounts_below(base)


def test_harness__interrupted__nothing_left():
    assert leftovers_after(signal.SIGINT) == []


def test_harness__terminated__nothing_left():
    assert leftovers_after(signal.SIGTERM) == []


def test_harness__killed_by_9__nothing_left():
    assert leftovers_after(signal.SIGKILL) == []


def test_harness__test_raises__nothing_left():
    base = None
    try:
        with Cluster(n=2, litefwd=False) as cluster:
            base = cluster.base
            raise KeyError("the test's own error")
    except KeyError:
        pass
    assert base and not os.path.exists(base)
    assert marked_processes(base) + mounts_below(base) == []
    assert not is_mounted(base)


def test_stress_client__sum_is_wrong__violation_and_exit_1():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "a.db")
        subprocess.run(["sqlite3", path, "PRAGMA journal_mode=wal; CREATE TABLE accounts(id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);"
                        "INSERT INTO accounts VALUES (1, 10), (2, 10); CREATE TABLE log(client, thread, seq, part, parts, src, dst, amount, pad)"],
                       check=True, stdout=subprocess.DEVNULL)
        for wanted, status in ((20, 0), (21, 1)):
            done = subprocess.run([harness.client("stress"), "--db", path, "--seconds", "0.3", "--accounts", "2", "--sum", str(wanted)],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
            found = json.loads(done.stdout)
            assert done.returncode == status and (found["violations"] > 0) == (status == 1), found
            assert found["commits"] > 0 and found["reads"] > 0, found


# ---------------------------------------------------------------- the runner

def run_runner(source, *args):
    """(exit status, output) of run.py on a directory with that one test file."""
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "test_x.py"), "w", encoding="utf-8") as file:
            file.write(source)
        done = subprocess.run([sys.executable, "-B", os.path.join(harness.HERE, "run.py"), "--directory", directory, *args],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False,
                              env={**os.environ, "TMPDIR": directory})
        return done.returncode, done.stdout.decode()


def test_runner__good_and_bad_tests__counted():
    status, out = run_runner("def test_a(): pass\ndef test_b(): assert 1 == 2\n")
    assert status == 1 and out.splitlines()[-1] == "1 passed, 1 failed", out
    assert "assert 1 == 2" in out and "test_x:test_b" in out
    status, out = run_runner("def test_a(): pass\n")
    assert status == 0 and out.splitlines()[-1] == "1 passed, 0 failed", out


def test_runner__hanging_test__ended_and_failed():
    status, out = run_runner("import time\nfrom marks import bound\n@bound(1)\ndef test_a(): time.sleep(600)\n")
    assert status == 1 and "took more than" in out and out.splitlines()[-1] == "0 passed, 1 failed", out


def test_runner__test_hangs_in_a_mount_and_ignores_sigterm__everything_ended():
    status, out = run_runner("import signal, time\nfrom cluster import Cluster\nfrom marks import bound\n"
                             "@bound(2)\ndef test_a():\n with Cluster(n=1, litefwd=False) as c:\n"
                             "  print('base ' + c.base, flush=True)\n  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n  time.sleep(600)\n", "--grace", "1")
    assert status == 1 and "took more than" in out, out
    base = next(line.split()[-1] for line in out.splitlines() if "base " in line)
    wait_until("nothing is left", lambda: not os.path.exists(base) and not mounts_below(base) and not marked_processes(base), 20)


def test_runner__nothing_chosen_or_all_skipped__failed():
    status, out = run_runner("def test_a(): pass\n", "nothing")
    assert status == 1, out
    status, out = run_runner("from marks import Skip\ndef test_a(): raise Skip('why')\n")
    assert status == 1 and "why" in out and out.splitlines()[-1] == "0 passed, 0 failed", out


def test_runner__test_that_exits__failed():
    status, out = run_runner("import sys\ndef test_a(): sys.exit(0)\n")
    assert status == 1, out


# ---------------------------------------------------------------- the fault proxy

def call(url, method, path, timeout=5):
    """The answer's body, or the error's name."""
    try:
        request = urllib.request.Request(url + path, data=b"" if method == "POST" else None, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as answer:
            return answer.read().decode()
    except OSError as error:
        return type(error).__name__
    except http.client.HTTPException as error:
        return type(error).__name__


def test_proxy__each_fault__does_what_it_says():
    with Cluster(n=1, litefwd=False) as cluster, FaultProxy(cluster.primary) as proxy:
        cluster.sql_direct(cluster.primary, "a.db", "PRAGMA journal_mode=wal; CREATE TABLE t(x)")
        halt = "/halt?name=a.db&id="

        def held(number):
            """Does LiteFS hold HALT for somebody? Then another one is not granted."""
            try:
                cluster.primary.halt("a.db", number, timeout=0.5)
                return False
            except OSError:
                return True
            finally:
                cluster.primary.unhalt("a.db", number)

        assert '"TXID"' in call(proxy.url, "POST", halt + "1")
        assert held(1000)
        assert call(proxy.url, "DELETE", halt + "1") == ""
        assert not held(1001)
        assert proxy.seen("POST", "/halt")[0]["id"] == "1"

        fault = proxy.add("drop_request", method="POST", path="/halt")
        assert "TXID" not in call(proxy.url, "POST", halt + "2")
        assert fault.hits == 1 and not held(1002)

        proxy.add("drop_answer", method="POST", path="/halt")
        assert "TXID" not in call(proxy.url, "POST", halt + "3")
        assert held(1003), "the request reached LiteFS"
        call(proxy.url, "DELETE", halt + "3")

        fault = proxy.add("hold_answer", method="POST", path="/halt")
        assert "TXID" not in call(proxy.url, "POST", halt + "4", timeout=0.5)
        assert fault.seen.is_set() and held(1004)
        fault.release.set()
        call(proxy.url, "DELETE", halt + "4")

        fault = proxy.add("hold_request", method="POST", path="/halt")
        assert "TXID" not in call(proxy.url, "POST", halt + "5", timeout=0.5)
        assert fault.seen.is_set() and not held(1005)
        fault.release.set()

        proxy.add("answer", method="GET", path="/info", answer=json_answer("{}"))
        assert call(proxy.url, "GET", "/info") == "{}"
        assert "isPrimary" in call(proxy.url, "GET", "/info")


# ---------------------------------------------------------------- the judge of tests/cluster/bank.py

def bank_view():
    """One transfer of 5 from account 1 to 2 in two parts, as bank.look() shows it."""
    return {"accounts": [[1, bank.BALANCE - 5], [2, bank.BALANCE + 5]] + [[i, bank.BALANCE] for i in range(3, bank.ACCOUNTS + 1)],
            "log": [[1, 0, 1, 0, 2, 1, 2, 5, 40, 1], [1, 0, 1, 1, 2, 1, 2, 0, 40, 2]]}


NO_VERDICTS = {"A": {}, "N": {}, "U": {}}


def expect_verdict(fragment, view, verdicts):
    problems = bank.judge(view, {**NO_VERDICTS, **verdicts})
    assert any(fragment in problem for problem in problems), f"{fragment!r} not in {problems}"


def test_judge__exact_database__no_problem():
    assert bank.judge(bank_view(), {**NO_VERDICTS, "A": {(1, 0, 1): 2}}) == []
    assert bank.judge(bank_view(), {**NO_VERDICTS, "U": {(1, 0, 1): 2, (1, 0, 9): 1}}) == []
    assert bank.judge(bank_view(), NO_VERDICTS) == []


def test_judge__acknowledged_missing__reported():
    expect_verdict("acknowledged transactions are missing", bank_view(), {"A": {(1, 0, 2): 1}})


def test_judge__executed_twice__reported():
    view = bank_view()
    view["log"] += [row[:9] + [row[9] + 2] for row in view["log"]]
    expect_verdict("there twice or in part", view, {"A": {(1, 0, 1): 2}})


def test_judge__half_a_transaction__reported():
    view = bank_view()
    view["log"].pop()
    expect_verdict("there twice or in part", view, {})


def test_judge__failed_transaction_present__reported():
    expect_verdict("failed transactions are there all the same", bank_view(), {"N": {(1, 0, 1): 2}})


def test_judge__lost_update__reported():
    view = bank_view()
    view["accounts"][0][1] += 5
    expect_verdict("lost updates", view, {})
    expect_verdict("sum is", view, {})
