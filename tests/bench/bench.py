"""make bench: what litefwd costs and gains beside LiteFS itself, on a real cluster.

    bench.py [--quick] [--rtt MS,MS...] [--rounds N] [--size MB] [--only speed|startup|size]

bench_gateway.py is what many writers get over a gateway, and what the primary's readers notice.

Seven systems, each with a database of its own so that none waits for another's locks, on one cluster, one kept
connection each (bench_client.c):

    file          a plain file beside LiteFS' data
    primary       LiteFS' mount on the primary
    replica       LiteFS' mount on the replica (reads only)
    HALT lock     the same mount, LiteFS' own HALT lock around each write transaction
    fwd primary   litefwd on the primary
    fwd replica   litefwd on the replica, over LiteFS' HALT lock
    gw replica    litefwd on another replica, over the gateway of the primary's litefwd

The replicas' LiteFS and litefwd reach the primary through tests/proxy, replication included, which makes the round
trip 0, 10 or 50 ms long; times in round trips are in those that a byte makes on the same machine in the same run (Wire).
The systems take turns in short blocks, so that whatever else the machine does hits all
alike; the figures are medians over all blocks of a run. Compare ratios within a run, never figures between machines.

"cold": the system has been left alone for 300 ms at least, so that no lock is held over from the last transaction.
Always exits 0 unless something broke: PASS and MISS are information, and no test depends on a speed.
"""
import argparse
import contextlib
import functools
import os
import platform
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
sys.path.insert(0, os.path.join(TESTS, "cluster"))
from cluster import Cluster, HarnessError, is_mounted, slow_factor, wait_until  # noqa: E402
from faults import NetProxy  # noqa: E402

ROWS = 5000
COLD_MS = 300
SYSTEMS = ("file", "primary", "replica", "HALT lock", "fwd primary", "fwd replica", "gw replica")
READS = ("select", "read100")
WRITES = ("insert", "cold", "insert100")
TITLES = {"select": "select, one row", "read100": "read 100 rows", "insert": "insert, burst", "cold": "insert, cold",
          "insert100": "100 inserts, one tx"}
# Operations per block; there are `rounds` blocks.
BLOCK = {"select": 400, "read100": 40, "insert": 25, "insert100": 6}


def program(name, source):
    """Built by make, or else compiled now, to a private place."""
    for top in filter(None, (os.environ.get("TEST_BIN"), os.path.join(os.getcwd(), "tests"))):
        path = os.path.join(top, name)
        if os.access(path, os.X_OK):
            return path
    path = os.path.join(_build.name, os.path.basename(name))
    if not os.path.exists(path):
        subprocess.run(["cc", "-O2", "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64", "-o", path,
                        os.path.join(TESTS, source), "-lsqlite3"], check=True)
    return path


_build = tempfile.TemporaryDirectory(prefix="litefwd-bench-")


class Lines:
    """A child that answers each line with a line."""

    def __init__(self, cluster, argv, name):
        self.name = name
        self.process = cluster.spawn(argv, name=name.replace(" ", "-"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.buffer = b""

    def line(self, timeout=120):
        deadline = time.monotonic() + timeout * slow_factor()
        fd = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise HarnessError(f"{self.name}: no answer within {timeout} s")
            data = os.read(fd, 1 << 20)
            if not data:
                raise HarnessError(f"{self.name}: gone")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def __call__(self, command):
        """Nanoseconds of each operation."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        line = self.line()
        if not line.startswith("ok"):
            raise HarnessError(f"{self.name}: {line}")
        return [int(word) for word in line.split()[1:]]

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait(30)


class Wire:
    """
    How long a round trip really is: of a byte through a proxy of its own, to this thread and back. With nothing at either end
    it is as short as it can be, and still some percent longer than it was set to be: three processes wake up on its way.
    """

    def __init__(self, node):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.proxy = NetProxy(node, name="wireproxy", target=f"127.0.0.1:{listener.getsockname()[1]}")
            self.near = socket.create_connection(("127.0.0.1", int(self.proxy.url.rpartition(":")[2])))
            self.near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.far, _ = listener.accept()
            self.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def delay(self, milliseconds):
        self.proxy.delay(milliseconds)

    def __call__(self):
        start = time.perf_counter_ns()
        self.near.sendall(b"?")
        self.far.recv(1)
        self.far.sendall(b"!")
        self.near.recv(1)
        return time.perf_counter_ns() - start

    def close(self):
        self.near.close()
        self.far.close()
        self.proxy.close()


@contextlib.contextmanager
def bench_cluster(gateway):
    """
    Two nodes, and a third that asks the primary's gateway if so told; everything that a replica says to the primary goes
    through proxies. Handed out: the cluster, and a function that sets their round trip in milliseconds.
    """
    roles = {"serve": [0], "ask": []} if gateway else {}
    with contextlib.closing(Cluster(3 if gateway else 2, litefwd=True, gateway=roles)) as cluster:
        try:
            proxies = [NetProxy(cluster.primary), Wire(cluster.primary)]
            if gateway:
                proxies.append(NetProxy(cluster.primary, port=cluster.gateway_port, name="gatewayproxy"))
                cluster.nodes[2].gateway_url = proxies[2].url

            def through_proxy(write_config):
                path = write_config()
                with open(path, encoding="utf-8") as file:
                    text = file.read()
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text.replace(f'advertise-url: "{cluster.primary.url}"', f'advertise-url: "{proxies[0].url}"'))
                return path
            for replica in cluster.replicas:
                replica.write_config = functools.partial(through_proxy, replica.write_config)
            cluster.start_litefs()
            cluster.primary.start_litefwd()
            for replica in cluster.replicas:
                replica.start_litefwd(primary_url=proxies[0].url)

            def delay(milliseconds):
                for proxy in proxies:
                    proxy.delay(milliseconds)
            delay.wire = proxies[1]
            yield cluster, delay
            delay(0)
            cluster.close()
            for proxy in proxies:
                proxy.close()
        except BaseException:
            cluster.close(check=False)
            raise


SCHEMA = f"""
PRAGMA journal_mode = wal;
CREATE TABLE rows(id INTEGER PRIMARY KEY, v TEXT NOT NULL);
CREATE TABLE inserted(id INTEGER PRIMARY KEY, v TEXT NOT NULL);
WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {ROWS})
    INSERT INTO rows SELECT i, printf('%0100d', i) FROM c;
"""


def median(values):
    return statistics.median(values) if values else None


def shown(ns):
    if ns is None:
        return "-"
    us = ns / 1000
    return f"{us:.1f} us" if us < 100 else f"{us:.0f} us" if us < 1000 else f"{us / 1000:.2f} ms"


def table(head, rows):
    widths = [max(len(row[i]) for row in [head] + rows) for i in range(len(head))]
    for number, row in enumerate([head] + rows):
        print("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))))
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


def judge(text, value, must, goal, smaller=False):
    def reached(bound):
        return value <= bound if smaller else value >= bound
    word = "PASS" if reached(must) else "MISS"
    sign = "<=" if smaller else ">="
    better = "" if goal is None else f", goal {sign} {goal:g}" + (" (reached)" if reached(goal) else "")
    print(f"{word}  {text}: {value:.2f}, must {sign} {must:g}{better}", flush=True)


# ---------------------------------------------------------------- speed

class Speed:
    def __init__(self, cluster, delay):
        self.cluster, self.delay = cluster, delay
        self.clients = {}
        first, second, third = cluster.nodes
        places = {"file": lambda db: os.path.join(cluster.base, db), "primary": first.direct_path, "replica": second.direct_path,
                  "HALT lock": second.direct_path, "fwd primary": first.path, "fwd replica": second.path,
                  "gw replica": third.path}
        program_path = program("bench/bench_client", "bench/bench_client.c")
        for system in SYSTEMS:
            db = system.replace(" ", "-") + ".db"
            cluster.shell(os.path.join(cluster.base, db) if system == "file" else first.direct_path(db), SCHEMA)
            if system != "file":
                cluster.wait_converged(db)
            path = places[system](db)
            argv = [program_path] + (["--halt", path + "-lock"] if system == "HALT lock" else []) + [path]
            self.clients[system] = Lines(cluster, argv, system)
        for client in self.clients.values():
            client.answer()

    def run(self, rtt_ms, rounds):
        self.delay(rtt_ms)
        took = {}
        settle = 0.03 + 2 * rtt_ms / 1000

        def block(system, what, count):
            took.setdefault((system, what), []).extend(self.clients[system](f"{what} {count}"))

        for client in self.clients.values():
            client("select 50")
        for number in range(rounds):
            turn = SYSTEMS[number % len(SYSTEMS):] + SYSTEMS[:number % len(SYSTEMS)]
            for what in READS:
                for system in turn:
                    if system != "HALT lock":
                        block(system, what, BLOCK[what])
            for what in ("insert", "insert100"):
                for system in turn:
                    if system != "replica":
                        # the more a write costs by the network alone, the fewer are needed to see it
                        block(system, what, max(BLOCK[what] // (1 + rtt_ms // 20), 3))
                        time.sleep(settle)
        writers = [system for system in SYSTEMS if system != "replica"]
        for _ in range(4 * rounds):
            took.setdefault(("wire", "cold"), []).append(self.delay.wire())
            for system in writers:
                time.sleep(COLD_MS / 1000 / (len(writers) - 1))
                took.setdefault((system, "cold"), []).extend(self.clients[system]("insert 1"))
        for system in writers:
            if system != "file":
                self.cluster.wait_converged(system.replace(" ", "-") + ".db")
        return took

    def close(self):
        for client in self.clients.values():
            client.close()


def report_speed(rtt_ms, took):
    mid = {key: median(values) for key, values in took.items()}
    print(f"== round trip {rtt_ms} ms (medians) ==")
    rows = []
    for what in READS + WRITES:
        rows.append([TITLES[what]] + [shown(mid.get((system, what))) for system in SYSTEMS])
    rows.append(["insert, burst: mean"] + [shown(statistics.mean(took[s, "insert"]) if (s, "insert") in took else None)
                                           for s in SYSTEMS])
    table(["", *SYSTEMS], rows)

    def ratio(what, over, under):
        a, b = mid.get((over, what)), mid.get((under, what))
        return f"{a / b:.2f}" if a and b else "-"
    pairs = (("file", "primary"), ("file", "fwd primary"), ("primary", "fwd primary"), ("replica", "fwd replica"),
             ("HALT lock", "fwd replica"), ("HALT lock", "gw replica"), ("fwd replica", "gw replica"))
    print("how many times as fast is the second as the first:")
    table(["", *(f"{a} : {b}" for a, b in pairs)],
          [[TITLES[what]] + [ratio(what, a, b) for a, b in pairs] for what in READS + WRITES])
    if rtt_ms:
        writers = ("HALT lock", "fwd replica", "gw replica")
        trip = mid["wire", "cold"]
        print(f"in round trips (of {shown(trip).strip()}, as a byte makes them; in brackets: of {rtt_ms} ms):")
        table(["", *writers], [[TITLES[what]] + [f"{mid[s, what] / trip:.2f} ({mid[s, what] / 1e6 / rtt_ms:.2f})" for s in writers]
                               for what in WRITES])
    return mid


def judge_speed(results):
    for rtt_ms, mid in results.items():
        print(f"-- round trip {rtt_ms} ms")
        if rtt_ms < 50:
            judge("replica, insert in a burst, times as fast as LiteFS' HALT lock",
                  mid["HALT lock", "insert"] / mid["fwd replica", "insert"], 2, 4)
            judge("replica, insert cold, times as fast as LiteFS' HALT lock",
                  mid["HALT lock", "cold"] / mid["fwd replica", "cold"], 1.3, 2)
        else:
            def trips(system, what):
                return mid[system, what] / mid["wire", "cold"]
            judge("replica, insert in a burst, round trips", trips("fwd replica", "insert"), 1.2, None, True)
            judge("replica, insert cold, round trips", trips("fwd replica", "cold"), 2.2, None, True)
            judge("over a gateway, insert in a burst, round trips", trips("gw replica", "insert"), 1.1, None, True)
            judge("over a gateway, insert cold, round trips", trips("gw replica", "cold"), 2.1, None, True)
        judge("replica, select, times as fast as LiteFS' mount", mid["replica", "select"] / mid["fwd replica", "select"], 3, 5)
        judge("primary, insert in a burst, time over that of LiteFS' mount",
              mid["fwd primary", "insert"] / mid["primary", "insert"], 1.2, 1, True)
    print(flush=True)


def memory(node):
    """What litefwd holds and has held, in MB."""
    found = {}
    with open(f"/proc/{node.litefwd.pid}/status", encoding="ascii") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                found[key] = int(value.split()[0]) / 1024
    return found


def bench_speed(cluster, delay, args):
    speed = Speed(cluster, delay)
    results = {}
    for rtt_ms in args.rtt:
        results[rtt_ms] = report_speed(rtt_ms, speed.run(rtt_ms, args.rounds))
    delay(0)
    speed.close()
    judge_speed(results)
    counters = cluster.nodes[2].counters("gw-replica.db")
    if counters["commits_remote"]:
        raise HarnessError(f"the gateway was not used: {counters}")
    for node in cluster.nodes:
        status = node.status()["databases"]
        for db, counters in sorted(status.items()):
            commits = counters["commits_remote"] + counters["commits_gateway"] + counters["commits_self"]
            if commits:
                parts = ", ".join(f"{part} {shown(counters[part + '_ns'] / max(counters['begins'] if part == 'begin' else commits, 1))}"
                                  for part in ("begin", "prepare", "send", "replicate"))
                print(f"litefwd n{node.index} {db}: {commits} commits, {counters['begins']} begins; means over all round trips: {parts}")
    return results


# ---------------------------------------------------------------- startup, memory

def bench_startup(cluster, args):
    """Until an open of MOUNT/.litefwd is answered."""
    node = cluster.nodes[0]
    times = []
    for _ in range(3 if args.quick else 7):
        node.stop_litefwd()
        wait_until("unmounted", lambda: not is_mounted(node.mount))
        start = time.monotonic()
        node.start_litefwd(wait=False)
        while not is_mounted(node.mount):
            if time.monotonic() - start > 30 or node.litefwd.poll() is not None:
                raise HarnessError("litefwd does not come up")
        with open(os.path.join(node.mount, ".litefwd"), "rb") as file:
            file.read()
        times.append(time.monotonic() - start)
    print("== startup ==")
    judge("startup until the mount answers, ms", median(times) * 1000, 100, None, True)
    held = memory(node)
    print(f"memory just started: {held['VmRSS']:.1f} MB\n", flush=True)


# ---------------------------------------------------------------- the database's size

def fill(cluster, db, megabytes):
    """Zeros, which LiteFS' compressed files hardly notice; the databases themselves are as large as they say."""
    node = cluster.primary
    cluster.shell(node.direct_path(db), SCHEMA + "CREATE TABLE filling(v BLOB);")
    left = megabytes - 1
    while left > 0:
        chunk = min(left, 64)
        cluster.shell(node.direct_path(db), f"INSERT INTO filling VALUES(zeroblob({chunk} << 20));", timeout=300)
        left -= chunk
    cluster.wait_converged(db, timeout=300)


def bench_size(cluster, args):
    sizes = {"small.db": 1, "large.db": args.size}
    for db, megabytes in sizes.items():
        fill(cluster, db, megabytes)
    time.sleep(2)
    before = {node: memory(node)["VmRSS"] for node in cluster.nodes}
    client = program("bench/bench_client", "bench/bench_client.c")
    clients, took, systems = {}, {}, ("primary", "fwd primary", "fwd replica")
    for db in sizes:
        for system in systems:
            node = cluster.nodes[1 if system == "fwd replica" else 0]
            path = node.direct_path(db) if system == "primary" else node.path(db)
            clients[db, system] = Lines(cluster, [client, path], f"{system} {db}")
            clients[db, system].answer()
    for _ in range(args.rounds):
        for (db, system), child in clients.items():
            # The six share databases here: let the one before end, and do not time its leftovers.
            time.sleep(0.2)
            child("insert 1")
            took.setdefault((db, system), []).extend(child("insert 20"))
    print(f"== cost of a commit by the size of the database (medians): 1 MB, {args.size} MB ==")
    table(["insert, burst", *systems],
          [[f"{sizes[db]} MB"] + [shown(median(took[db, system])) for system in systems] for db in sizes]
          + [["ratio"] + [f"{median(took['large.db', s]) / median(took['small.db', s]):.2f}" for s in systems]])
    for node in cluster.nodes:
        counters = node.counters("small.db"), node.counters("large.db")
        for part in ("prepare", "send", "replicate"):
            per = [c[part + "_ns"] / max(c["commits_remote"] + c["commits_self"], 1) for c in counters]
            print(f"litefwd n{node.index} {part}: {shown(per[0])} small, {shown(per[1])} large (means)")
    for child in clients.values():
        child.close()
    for node in cluster.nodes:
        held = memory(node)
        print(f"litefwd n{node.index} memory: {before[node]:.1f} MB before, {held['VmRSS']:.1f} MB now, {held['VmHWM']:.1f} MB at most")
    print(flush=True)


# ---------------------------------------------------------------- all of it

def main():
    parser = argparse.ArgumentParser(description="litefwd beside LiteFS, in one run")
    parser.add_argument("--quick", action="store_true", help="a first impression: fewer rounds, a smaller large database")
    parser.add_argument("--rtt", type=lambda text: [int(word) for word in text.split(",")], default=[0, 10, 50])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--size", type=int, help="MB of the large database")
    parser.add_argument("--only", choices=("speed", "startup", "size"))
    args = parser.parse_args()
    args.rounds = args.rounds or (3 if args.quick else 6)
    args.size = args.size or (256 if args.quick else 2048)
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}\n", flush=True)
    if args.only in (None, "speed"):
        with bench_cluster(gateway=True) as (cluster, delay):
            bench_speed(cluster, delay, args)
            for node in cluster.nodes:
                held = memory(node)
                print(f"litefwd n{node.index} memory: {held['VmRSS']:.1f} MB, at most {held['VmHWM']:.1f} MB")
            print()
    if args.only in (None, "startup", "size"):
        with bench_cluster(gateway=False) as (cluster, _):
            if args.only in (None, "startup"):
                bench_startup(cluster, args)
            if args.only in (None, "size"):
                bench_size(cluster, args)


if __name__ == "__main__":
    main()
