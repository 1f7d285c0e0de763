#!/usr/bin/env python3
"""What scripts/demo shows: three nodes, one database, writes on the replicas.

Environment: LITEFS, LITEFWD. Leaves nothing behind; exit status 0 only if all nodes agree on what was written.
"""
import subprocess
import sys
import time

from cluster import Cluster, HarnessError

DB = "app.db"
EACH = 20  # transactions by each replica, each one by a sqlite3 of its own


def say(text=""):
    print(text, flush=True)


def show(command, output):
    say(f"  $ {command}")
    for line in output.rstrip().splitlines():
        say(f"  {line}")


def name(cluster, node):
    return "primary  " if node.is_primary else f"replica {cluster.replicas.index(node) + 1}"


def create(cluster):
    node = cluster.replicas[0]
    sql = "PRAGMA journal_mode=WAL; CREATE TABLE visits (id INTEGER PRIMARY KEY, node TEXT, n INTEGER, UNIQUE (node, n))"
    show(f'sqlite3 replica1/mnt/{DB} "{sql}"', node.sql(DB, sql))
    cluster.wait_converged(DB)


def refused(cluster):
    """The same on a replica: what litefwd is for."""
    node = cluster.replicas[0]
    sql = "INSERT INTO visits (node, n) VALUES ('nobody', 0)"
    code, _, error = cluster.run(["sqlite3", node.direct_path(DB), sql], check=False)
    show(f'sqlite3 replica1/litefs/{DB} "{sql}"', error)
    if code == 0:
        raise HarnessError("a replica's own LiteFS accepted a write: this is no replica")


def write(cluster, process_list):
    """Both replicas at once, through litefwd; the primary reads meanwhile. Returns the counts that it saw."""
    for index, node in enumerate(cluster.replicas):
        script = (f'for i in $(seq {EACH}); do sqlite3 -batch -bail -cmd ".timeout 20000" "$1" '
                  f'"INSERT INTO visits (node, n) VALUES (\'replica {index + 1}\', $i)" || exit 1; done')
        process_list.append(cluster.spawn(["sh", "-c", script, "sh", node.path(DB)], stdout=subprocess.DEVNULL,
                                          stderr=subprocess.PIPE))
    seen = []
    deadline = time.monotonic() + 300
    while any(process.poll() is None for process in process_list):
        if time.monotonic() > deadline:
            raise HarnessError("the replicas' writes take for ever")
        seen.append(int(cluster.primary.sql(DB, "SELECT count(*) FROM visits")))
    for process in process_list:
        error = process.stderr.read().decode(errors="replace")
        if process.returncode:
            raise HarnessError(f"sqlite3 on a replica failed: {error}")
    return seen


def compare(cluster):
    """Rows and positions of all nodes, shown; HarnessError if they are not the same and all there."""
    found = set()
    for node in cluster.nodes:
        rows = node.sql(DB, "SELECT node || ': ' || count(*) || ' rows, ' || min(n) || ' to ' || max(n) "
                            "FROM visits GROUP BY node ORDER BY node")
        check = node.sql(DB, "PRAGMA integrity_check").strip()
        position = cluster.run(["cat", node.path(DB) + "-pos"]).strip()
        say(f"  {name(cluster, node)}  {'; '.join(rows.splitlines())}  integrity {check}  position {position}")
        found.add((rows, check, position))
    rows = "".join(f"replica {i + 1}: {EACH} rows, 1 to {EACH}\n" for i in range(len(cluster.replicas)))
    if len(found) != 1:
        raise HarnessError("the nodes differ")
    if found.pop()[:2] != (rows, "ok"):
        raise HarnessError("not every row is there exactly once")


def main():
    say("Starting three LiteFS nodes and a litefwd in front of each")
    with Cluster(n=3) as cluster:
        for node in cluster.nodes:
            say(f"  {name(cluster, node)}  LiteFS {node.url}  litefwd {node.mount}")
        say("\nA new database, on a replica")
        create(cluster)
        say("\nA replica of LiteFS is read-only")
        refused(cluster)
        before = cluster.primary.pos(DB)[0]
        say(f"\n{EACH} transactions on each replica, through litefwd, both at once, while the primary reads")
        show(f'sqlite3 replica1/mnt/{DB} "INSERT INTO visits (node, n) VALUES (\'replica 1\', 1)"  # and so on', "")
        begin = time.monotonic()
        seen = write(cluster, [])
        say(f"  done in {time.monotonic() - begin:.1f} s; the primary counted, meanwhile:"
            f" {' '.join(str(count) for count in sorted(set(seen)))}")
        if seen != sorted(seen):
            raise HarnessError("the primary saw rows vanish")
        after = cluster.wait_converged(DB)[0]
        say(f"  the primary's TXID went from {before} to {after}")
        if after - before != 2 * EACH:
            raise HarnessError(f"{2 * EACH} transactions should be {2 * EACH} TXIDs")
        say("\nAll nodes")
        compare(cluster)
        say("\nTaking everything down")
    say("Done: every row is on every node, exactly once.")


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(f"demo: {error}")
    except KeyboardInterrupt:
        sys.exit("demo: interrupted; everything was taken down")
