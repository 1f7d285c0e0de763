#!/usr/bin/env python3
"""Real clients, unchanged, on a replica's mount: each stack of stacks.py on one long-lived three-node cluster.

    run.py [--build DIR] [--list] [FILTER ...]

For each stack whose name contains a FILTER: it is installed into DIR; its application runs its scenario on a replica's mount; then three
workers of it at once, one on each node. What proves forwarding: the primary's TXID rose by exactly what the replica's litefwd
says it forwarded, neither of the other nodes' committed anything meanwhile, and what the application wrote is read on the primary and on the third node.
Then litefwd is restarted under
pools of connections: those that replace what is broken go on, the others do not. Prints the client matrix, and "N passed, N failed".

A stack that cannot be installed is a failure, unless tests/declared-skips has "stacks: NAME".
Environment: as cluster.py's.
"""
import argparse
import os
import re
import select
import shutil
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "cluster"))
sys.path.insert(0, HERE)

from cluster import Cluster, HarnessError, slow_factor  # noqa: E402
from marks import note  # noqa: E402
from stacks import NotInstalled, STACKS, STEPS, Stack, TOP, read  # noqa: E402

WORKER_COMMITS = 15
STEP_SECONDS = 60
COLUMNS = ("stack", "version", "SQLite", "journal", *STEPS, "workers", "forwarded", "by", "result")
SCHEMA = ("account", "counter", "item", "visit")
FINAL = (("SELECT name, balance, note FROM account ORDER BY name", [("alice", 70, None), ("bob", 90, "seen")]),
         ("SELECT count(*), count(DISTINCT name), min(id), max(id) FROM item", [(3000, 3000, 1, 3000)]),
         ("SELECT n FROM counter", [(0,)]),
         ("SELECT count(*) FROM visit", [(0,)]),
         ("PRAGMA integrity_check", [("ok",)]))


class App:
    """A stack's application as a child of the harness: what it prints, line by line."""

    _number = 0

    def __init__(self, cluster, argv):
        App._number += 1
        name = f"app-{App._number}"
        self.child = cluster.spawn(argv, stdin=-1, stdout=-1, name=name)
        self.stderr = os.path.join(cluster.logs, name + ".err")
        self.buffer = b""
        self.argv = argv

    def error(self, text):
        return HarnessError(f"{text}: {self.argv}\n{(read(self.stderr) or '')[-3000:]}")

    def line(self, seconds=STEP_SECONDS):
        """The next line; None at the end."""
        deadline = time.monotonic() + seconds * slow_factor()
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.child.stdout], [], [], left)[0]:
                raise self.error(f"silent for {seconds} s")
            data = os.read(self.child.stdout.fileno(), 1 << 16)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    def expect(self, wanted, *args):
        line = self.line(*args)
        if line != wanted:
            raise self.error(f"{wanted!r} should have come, not {line!r}")

    def say(self, text):
        self.child.stdin.write(text.encode() + b"\n")
        self.child.stdin.flush()

    def end(self, seconds=STEP_SECONDS):
        """Waits for the end, which must be a good one."""
        while self.line(seconds) is not None:
            pass
        status = self.child.wait(seconds * slow_factor())
        if status:
            raise self.error(f"exit status {status}")


def committed(node, db):
    """(what litefwd sent to another node, what it gave to its own LiteFS) of that database."""
    counters = node.counters(db)
    return counters.get("commits_remote", 0) + counters.get("commits_gateway", 0), counters.get("commits_self", 0)


def rows(node, db, sql):
    with node.conn(db) as conn:
        return conn(sql)


def assert_final(node, db, stack):
    for sql, expected in FINAL:
        found = rows(node, db, sql)
        assert found == expected, f"n{node.index}: {sql}: {found}, not {expected}"
    tables = {name for name, in rows(node, db, "SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert set(SCHEMA) <= tables, f"n{node.index}: {tables}"
    assert rows(node, db, "PRAGMA journal_mode") == [(stack.journal,)]


def run_scenario(cluster, stack, argv, row):
    """The application on a replica alone, then its end state on the others; fills row in."""
    db, replica = row["db"], cluster.replicas[0]
    txid, before = cluster.primary.pos(db)[0], committed(replica, db)[0]
    app = App(cluster, [*argv, "scenario", replica.path(db)])
    done = []
    while (line := app.line()) is not None:
        words = line.split()
        if words[0] == "version":
            row["version"] = " ".join(words[1:])
        elif words[0] == "sqlite":
            row["SQLite"] = words[1]
        elif line == "hold":
            with cluster.primary.conn(db) as holder:
                holder("BEGIN IMMEDIATE")
                app.say("held")
                app.expect("busy ok")
                holder("ROLLBACK")
            done.append("busy")
            row["busy"] = "ok"
        elif len(words) == 2 and words[1] == "ok":
            done.append(words[0])
            row[words[0]] = "ok"
        else:
            raise app.error(f"unexpected line {line!r}")
    app.end()
    assert tuple(done) == STEPS, f"{stack.name}: {done}"
    moved, forwarded = cluster.wait_converged(db)[0] - txid, committed(replica, db)[0] - before
    assert moved == forwarded, f"{stack.name}: the primary's TXID rose by {moved}, the replica's litefwd forwarded {forwarded}"
    assert forwarded >= 8, f"{stack.name}: only {forwarded} transactions"
    for node in cluster.nodes:
        other = sum(committed(node, db)) - (forwarded if node is replica else 0)
        assert other == 0, f"{stack.name}: n{node.index} committed {other} transactions of its own"
    for node in cluster.nodes:
        assert_final(node, db, stack)
    row["forwarded"] = str(forwarded)
    counters = replica.counters(db)
    row["by"] = ", ".join(way for way, name in (("HALT", "commits_remote"), ("gateway", "commits_gateway")) if counters.get(name))


LIAR = """
import sys
for step in sys.argv[1].split(","):
    if step == "busy":
        print("hold", flush=True)
        sys.stdin.readline()
    print(step, "ok", flush=True)
"""


def run_liar(cluster):
    """The proof can fail: an application that says what it should and does nothing is found out."""
    liar = Stack("liar", "python", [])
    try:
        run_scenario(cluster, liar, [sys.executable, "-c", LIAR, ",".join(STEPS)], {"db": "liar.db"})
    except AssertionError as error:
        assert "only 0 transactions" in str(error), error
        return
    raise AssertionError("an application that does nothing passes")


def run_workers(cluster, stack, argv, row):
    """A worker on each node at once: the counter and the rows are exact, and every transaction was counted once, where it was made."""
    db = row["db"]
    txid = cluster.wait_converged(db)[0]
    before = [sum(committed(node, db)) for node in cluster.nodes]
    apps = [App(cluster, [*argv, "work", node.path(db), f"n{node.index}", str(WORKER_COMMITS)]) for node in cluster.nodes]
    for app in apps:
        app.end(120)
    total = WORKER_COMMITS * len(apps)
    moved = cluster.wait_converged(db)[0] - txid
    counts = [sum(committed(node, db)) - count for node, count in zip(cluster.nodes, before)]
    assert moved == sum(counts), f"{stack.name}: the TXID rose by {moved}, {counts} were counted"
    assert min(counts) >= WORKER_COMMITS, f"{stack.name}: {counts}"
    for node in cluster.nodes:
        assert rows(node, db, "SELECT n FROM counter") == [(total,)], f"n{node.index}: updates were lost"
        found = rows(node, db, "SELECT worker, count(*), min(seq), max(seq) FROM visit GROUP BY worker ORDER BY worker")
        assert found == [(f"n{node.index}", WORKER_COMMITS, 1, WORKER_COMMITS) for node in cluster.nodes], found
    row["workers"] = f"{len(apps)} x {WORKER_COMMITS}"
    row["forwarded"] += f" + {sum(counts[node.index] for node in cluster.replicas)}"


def pooled_apps(cluster, build, stacks):
    """[(stack, its application with open pools, its database)] on a replica."""
    node = cluster.replicas[0]
    apps = [(stack, App(cluster, [*stack.command(build), "pool", node.path(identifier(stack) + ".db")])) for stack in stacks]
    for _, app in apps:
        app.expect("restart")
    return apps


def restart_under_pools(cluster, apps, how, again):
    """What each pool has seen of a restart; a pool that replaces broken connections executed its transaction once, the others not at all."""
    node = cluster.replicas[0]
    if how == "stopped":
        assert node.stop_litefwd() == 0
    else:
        node.kill_litefwd()
    node.start_litefwd()
    for _, app in apps:
        app.say(how)
    for stack, app in apps:
        seen = {}
        for _ in range(2):
            words = (app.line(120) or "").split()
            assert words[:1] == ["seen"], app.error(" ".join(words))
            seen[words[1]] = words[2:]
        app.expect("restart")
        for pool, errors in sorted(seen.items()):
            note(f"{stack.name}: {pool} pool after litefwd was {how}: {' '.join(errors)}")
        assert seen["replacing"][-1] == "ok", f"{stack.name}: {seen}"
        assert "ok" not in seen["plain"], f"{stack.name}: a plain pool recovers: say so in docs/stacks ({seen})"
        db = identifier(stack) + ".db"
        cluster.wait_converged(db)
        for reader in cluster.nodes:
            found = rows(reader, db, f"SELECT worker, count(*) FROM visit WHERE worker LIKE '% {how}' GROUP BY worker")
            assert found == [(f"replacing {how}", 1)], f"{stack.name}: n{reader.index}: {found}"
    if not again:
        for _, app in apps:
            app.say("")
            app.end()


def run_pools(cluster, report, build, stacks):
    """Where litefwd is stopped as an upgrade stops it, and where it was killed."""
    apps = []
    good = report.test("pools__opened_on_a_replica__usable", lambda: apps.extend(pooled_apps(cluster, build, stacks)))
    for how, again in (("stopped", True), ("killed", False)):
        good = good and report.test(f"pools__litefwd_{how}_and_started__those_that_replace_connections_go_on",
                                    restart_under_pools, cluster, apps, how, again)


class Report:
    """One line per test, and the sums."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def test(self, name, function, *args):
        """Whether it passed."""
        begin = time.monotonic()
        try:
            function(*args)
        except Exception:  # pylint: disable=broad-except
            self.failed += 1
            print(f"FAILED  {time.monotonic() - begin:6.1f} s  stacks:{name}", flush=True)
            print("    " + traceback.format_exc().replace("\n", "\n    "), flush=True)
            return False
        self.passed += 1
        print(f"ok      {time.monotonic() - begin:6.1f} s  stacks:{name}", flush=True)
        return True


def identifier(stack):
    return "_".join(re.findall("[a-z0-9]+", stack.name.lower().replace("'", "")))


def declared(stack):
    """Whether tests/declared-skips lets that stack be absent."""
    lines = (read(os.path.join(TOP, "tests", "declared-skips")) or "").split("\n")
    return f"stacks: {stack.name}" in [line.strip() for line in lines]


def run_stack(cluster, stack, build, report, row):
    row["db"] = identifier(stack) + ".db"
    try:
        took = stack.prepare(build)
    except NotInstalled as error:
        row["result"] = "not installed, as declared" if declared(stack) else "NOT INSTALLED"
        report.skipped += declared(stack)
        report.failed += not declared(stack)
        print(f"{'left out' if declared(stack) else 'FAILED'}  stacks:{identifier(stack)}: cannot be installed:\n{error}", flush=True)
        return
    print(f"        {took:6.1f} s  {stack.name} installed", flush=True)
    argv = stack.command(build)
    good = (report.test(f"{identifier(stack)}__on_a_replica__forwarded", run_scenario, cluster, stack, argv, row)
            and report.test(f"{identifier(stack)}__workers_on_three_nodes__nothing_lost", run_workers, cluster, stack, argv, row))
    row["result"] = "ok" if good else "FAILED"


def matrix(table):
    """The client matrix as a Markdown table."""
    lines = [COLUMNS] + [tuple(str(row.get(column, "-")) for column in COLUMNS) for row in table]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description="runs the client stacks")
    parser.add_argument("--build", default=os.path.join(os.getcwd(), "tests", "bin", "stacks"), help="where they are installed")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("filters", nargs="*", metavar="FILTER")
    options = parser.parse_args()
    chosen = [stack for stack in STACKS if not options.filters or any(part.lower() in stack.name.lower() for part in options.filters)]
    if options.list:
        print("\n".join(stack.name for stack in chosen))
        return 0
    report, table = Report(), []
    logs = None
    if "LITEFWD_TEST_LOGS" not in os.environ:
        logs = os.environ["LITEFWD_TEST_LOGS"] = tempfile.mkdtemp(prefix="litefwd-stacks-logs-")
    os.makedirs(options.build, exist_ok=True)
    try:
        with Cluster(n=3, litefwd_opts={"halt_timeout": "2s"}) as cluster:
            report.test("harness__application_that_does_nothing__found_out", run_liar, cluster)
            for stack in chosen:
                table.append({"stack": stack.name, "journal": stack.journal})
                run_stack(cluster, stack, options.build, report, table[-1])
                cluster.assert_alive()
            pooled = [stack for stack, row in zip(chosen, table) if stack.pooled and row["result"] == "ok"]
            if pooled:
                run_pools(cluster, report, options.build, pooled)
    except HarnessError:
        report.failed += 1
        print("FAILED  stacks:cluster__all_stacks_on_it__alive\n    " + traceback.format_exc().replace("\n", "\n    "), flush=True)
    if not report.failed and logs:
        shutil.rmtree(logs, ignore_errors=True)
    elif report.failed:
        print(f"logs: {os.environ['LITEFWD_TEST_LOGS']}")
    print(matrix(table))
    if report.skipped:
        print(f"{report.skipped} left out, as tests/declared-skips has it")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
