"""make bench: many writers over a gateway, and what the primary's readers notice of them.

    bench_gateway.py [--quick] [--seconds S] [--rounds N]

Three nodes with gateways, tests/clients/stress.c on one bank, in blocks that take turns within one run:

    alone      one replica writes, eight readers on the primary overlap without end
    together   the same readers, and the same writers on each of the three nodes
    quiet      one replica writes, nobody reads (information only)

    gateway    writers on both replicas keep a schedule, readers on the primary are paced
    primary    the same readers; as many writers on the primary itself keep the same schedule

The pace of the last two is looked for first: the shortest pause of the readers that leaves a third of the processor free.
Ratios are those of neighbouring blocks, of which the median is judged. PASS and MISS are information; the exit code says
whether anything broke: an error, BUSY, a violation, a sum that is not exact, HALT used where the gateway is there.
"""
import argparse
import os
import platform
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "cluster"), HERE]
import bank  # noqa: E402
from bench import judge, table  # noqa: E402
from cluster import Cluster, HarnessError  # noqa: E402

DB = "bank.db"
READERS = 8
WRITERS = 2  # threads per node
EVERY_MS = 50  # of each scheduled writer
PAUSES_MS = (2, 4, 8, 16, 32, 64)
FREE = 1 / 3


def processor():
    """(idle, all) ticks so far."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


class Blocks:
    def __init__(self, cluster, seconds):
        self.cluster, self.seconds = cluster, seconds
        self.load = bank.Load(cluster, DB)

    def run(self, readers, writers, seconds=None):
        """readers: options or None; writers: {node index: options}. What came of it."""
        seconds = seconds or self.seconds
        first = len(self.load.reports)
        before, begin = processor(), time.monotonic()
        if readers is not None:
            self.load.start(self.cluster.primary, mode="read", threads=READERS, seconds=seconds, **readers)
        for index, options in writers.items():
            self.load.start(self.cluster.nodes[index], mode="write", seconds=seconds, **options)
        self.load.wait(seconds + 90)
        took, after = time.monotonic() - begin, processor()
        self.load.assert_clean()
        self.cluster.wait_converged(DB)
        new = self.load.reports[first:]
        reads = [report for report in new if report["reads"]]
        return {
            "commits": [sum(report["commits"] for report in new if report["node"] == node.index) for node in self.cluster.nodes],
            "rate": sum(report["commits"] for report in new) / took,
            "reads": sum(report["reads"] for report in new) / took,
            "p50": max((report["read_us"]["p50"] for report in reads), default=0) / 1000,
            "p99": max((report["read_us"]["p99"] for report in reads), default=0) / 1000,
            "write_p50": statistics.median([report["write_us"]["p50"] for report in new if report["commits"]] or [0]) / 1000,
            "free": (after[0] - before[0]) / (after[1] - before[1]),
        }


def row(name, block):
    return [name, str(block["commits"]), f"{block['rate']:.0f}/s", f"{bank.jain(block['commits']):.3f}", f"{block['write_p50']:.1f} ms",
            f"{block['reads']:.0f}/s", f"{block['p50']:.2f} ms", f"{block['p99']:.2f} ms", f"{block['free'] * 100:.0f} %"]


HEAD = ["", "commits", "rate", "Jain", "write p50", "reads", "read p50", "read p99", "idle"]


def bench_throughput(blocks, rounds):
    writers = {"threads": WRITERS}
    readers = {"stall_us": 2000}
    kinds = {"alone": (readers, {1: writers}), "together": (readers, {0: writers, 1: writers, 2: writers}), "quiet": (None, {1: writers})}
    found = {kind: [] for kind in kinds}
    names = list(kinds)
    for number in range(rounds):
        for kind in names[number % 3:] + names[:number % 3]:
            found[kind].append(blocks.run(*kinds[kind]))
    print(f"== {READERS} readers on the primary without end, {WRITERS} writers per node ==")
    table(HEAD, [row(kind, block) for kind in kinds for block in found[kind]])
    per_node = [sum(block["commits"][i] for block in found["together"]) for i in range(3)]
    ratios = [together["rate"] / alone["rate"] for together, alone in zip(found["together"], found["alone"])]
    judge("commits of all nodes over those of one replica alone", statistics.median(ratios), 0.8, 1)
    judge("Jain's index of the nodes' commits", bank.jain(per_node), 0.9, None)
    quiet = statistics.median(block["rate"] for block in found["quiet"])
    print(f"(one replica alone, and nobody reads: {quiet:.0f}/s)\n", flush=True)


def bench_reads(blocks, rounds):
    scheduled = {"threads": WRITERS, "every_ms": EVERY_MS}
    twice = dict(scheduled, threads=2 * WRITERS)
    kinds = {"gateway": {1: scheduled, 2: scheduled}, "primary": {0: twice}}
    for pause in PAUSES_MS:
        free = min(blocks.run({"pause_ms": pause}, writers, blocks.seconds / 2)["free"] for writers in kinds.values())
        if free >= FREE:
            break
    else:
        print(f"MISS  no pace leaves a third of the processor free: {free * 100:.0f} % at a pause of {pause} ms")
    found = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind in list(kinds)[::-1 if number % 2 else 1]:
            found[kind].append(blocks.run({"pause_ms": pause}, kinds[kind]))
    print(f"== {READERS} readers on the primary, {pause} ms between two reads; {2 * WRITERS} writers, each every {EVERY_MS} ms ==")
    table(HEAD, [row(kind, block) for kind in kinds for block in found[kind]])
    commits = [sum(map(sum, (block["commits"] for block in found[kind]))) for kind in kinds]
    judge("writes by the gateway over those on the primary itself (1: the same number)", commits[0] / commits[1], 0.95, None)
    ratios = [gateway["p99"] / primary["p99"] for gateway, primary in zip(found["gateway"], found["primary"])]
    judge("p99 of the primary's reads, over that with as many writes on the primary itself", statistics.median(ratios), 1.5, 1, True)
    print(flush=True)


def main():
    parser = argparse.ArgumentParser(description="many writers over a gateway")
    parser.add_argument("--quick", action="store_true", help="a first impression: fewer and shorter blocks")
    parser.add_argument("--seconds", type=float, help="of a block")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    seconds, rounds = args.seconds or (4 if args.quick else 8), args.rounds or (2 if args.quick else 5)
    print(f"{os.cpu_count()} cores, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with Cluster(3, gateway=True) as cluster:
        bank.create(cluster, DB)
        txid = cluster.primary.pos(DB)[0]
        blocks = Blocks(cluster, seconds)
        bench_throughput(blocks, rounds)
        bench_reads(blocks, rounds)
        bank.verify(cluster, DB, blocks.load)
        bank.assert_one_txid_per_commit(cluster, DB, blocks.load, txid)
        over_halt = [node.counters(DB)["commits_remote"] for node in cluster.nodes]
        if any(over_halt):
            raise HarnessError(f"HALT was used: {over_halt} commits per node")
        print(f"sums exact, no error, no HALT; {blocks.load.total('commits')} commits", flush=True)


if __name__ == "__main__":
    main()
