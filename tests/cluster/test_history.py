"""Counted faults under a checked history: every node reads and writes all the time, and one fault after the other happens to a transaction.

A fault counts when its effect was seen (fault_kinds.py). At the end the checker (history.py) looks at every transaction and every read. The table
says how many took effect, by kind, upstream, and what became of the transaction that it happened to:

    committed       it is there (and its client was told so, or had been killed)
    not committed   an error, and it is nowhere
    busy            BUSY, and it is nowhere
    unknown         an I/O error, litefwd has said "unknown" of it, and it is there or not
    dropped         acknowledged, and LiteFS' own failover has dropped it, as its position says
    brought back    a failover had dropped it, its client was told so, and the next failover has dropped what came instead

make check-soak goes on until LITEFWD_SOAK_FAULTS (10,000) have taken effect, in rounds, each a new cluster with a seed of its own.
LITEFWD_SOAK_STATE=FILE keeps what was counted, and the next run goes on from there.
"""
import json
import os
import time

import fault_kinds
import history
from cluster import HarnessError, slow_factor
from history_run import GATEWAY, SELF, HistoryCluster, HistoryRun
from marks import bound, note, soak

OPTS = {"commit_timeout": "2s", "halt_timeout": "1s", "spool_threshold": "64K"}
MIB = 1 << 20
AT_LEAST = 5  # of each kind
TRIES, TRIES_S = 25, 60  # of one fault, until it takes effect: so many, and for so long


def seed():
    return int(os.environ.get("LITEFWD_TEST_SEED", "1"))


def node_for(run, upstream):
    """One that goes by that upstream; None: there is none while node 2 is the primary."""
    if upstream == SELF:
        return run.cluster.primary
    nodes = [node for node in run.cluster.replicas if (node.gateway_url is not None) == (upstream == GATEWAY)]
    return run.rng.choice(nodes) if nodes else None


def enough(kinds, rng):
    """AT_LEAST of each kind, each upstream as often as the others."""
    wanted = [(kind, upstream) for kind in kinds for upstream in kind.upstreams * -(-AT_LEAST // len(kind.upstreams))]
    rng.shuffle(wanted)
    return wanted


def at_random(kinds, rng, count):
    return [(kind, rng.choice(kind.upstreams)) for kind in rng.choices(kinds, k=count)]


def inject_all(run, wanted):
    """Each of them once, as soon as it takes effect."""
    tries, waiting, seconds, vain = {}, list(enumerate(wanted)), {}, {}
    while waiting:
        number, (kind, upstream) = waiting.pop(0)
        node = node_for(run, upstream)
        if not node:  # the only one that goes by HALT is the primary
            fault_kinds.hand_over(run, run.cluster.nodes[0])
            node = node_for(run, upstream)
        begin = time.monotonic()
        if kind.inject(run, node, upstream):
            seconds.setdefault(kind.name, []).append(time.monotonic() - begin)
            continue
        vain.setdefault(f"{kind.name}, {upstream}", []).append(time.monotonic() - begin)
        tries.setdefault(number, []).append(begin)
        if len(tries[number]) >= TRIES and begin - tries[number][0] > TRIES_S * slow_factor():
            raise HarnessError(f"{kind.name} over {upstream} did not take effect in {len(tries[number])} tries")
        time.sleep(0.05)  # a gateway that was lost is asked again after up to 3 s
        waiting.append((number, (kind, upstream)))
        run.cluster.assert_alive()
    for what, found in (("took effect", seconds), ("in vain", vain)):
        for name, took in sorted(found.items(), key=lambda item: -sum(item[1])):
            print(f"{sum(took):6.1f} s for {len(took)} {what}: {name}")


def a_round(number, consul, choose):
    """A cluster, the faults that choose(rng) says, and the checker. {(kind, upstream): {outcome: count}}, counts of the whole history."""
    print(f"a round with seed {number}, Consul {consul}")
    options = {"consul": True} if consul else {"small": {0: 256 * MIB}, "spool": 6 * MIB}
    with HistoryCluster(litefwd_opts=OPTS, **options) as cluster, HistoryRun(cluster, number) as run:
        for node in cluster.nodes:
            run.start(node, "writer", 0.04)
            run.start(node, "reader", 0.02)
        inject_all(run, choose(run.rng))
        result, found = run.judge()
        assert not result.problems, result.text()
        assert found.writes and len(found.reads) > 100, "too little was done to prove anything"
        for kind in {kind for kind, *_ in run.effects}:
            print(kind, [(upstream, ident, result.outcome[ident]) for name, upstream, ident in run.effects if name == kind])
        table = {}
        for kind, upstream, ident in run.effects:
            row = table.setdefault((kind, upstream), dict.fromkeys(history.OUTCOMES, 0))
            row[result.outcome[ident]] += 1
        counts = {"transactions": len(found.writes), "reads": len(found.reads), "takeovers": len(found.takeovers),
                  "reads in a dead mount": sum(read.dead for read in found.reads), "unknown and there": result.unknown_there,
                  **result.outcomes()}
        return table, counts


def add(into, table):
    for key, row in table.items():
        to = into.setdefault(key, dict.fromkeys(history.OUTCOMES, 0))
        for outcome, count in row.items():
            to[outcome] += count


def show(table, counts):
    """As notes of the run: 0 lost and so on, for else a_round() has not come back."""
    for (kind, upstream), row in sorted(table.items()):
        note(f"{sum(row.values()):5}  {kind} ({upstream}): " + ", ".join(f"{count} {outcome}" for outcome, count in row.items() if count))
    total = {outcome: sum(row[outcome] for row in table.values()) for outcome in history.OUTCOMES}
    note(f"{sum(total.values()):5}  faults in all: " + ", ".join(f"{count} {outcome}" for outcome, count in total.items()))
    note(f"of all transactions: {counts}")
    note("0 lost, 0 doubled, 0 false success, 0 false failure, no LiteFS has ended")


def assert_enough(table, kinds):
    few = {kind.name: found for kind in kinds
           if (found := sum(sum(row.values()) for (name, _), row in table.items() if name == kind.name)) < AT_LEAST}
    assert not few, f"too few: {few}"


def checked(kinds, consul):
    table, counts = a_round(seed(), consul, lambda rng: enough(kinds, rng))
    show(table, counts)
    assert_enough(table, kinds)


@bound(400)
def test_history__every_fault_of_requests_and_processes__promises_hold():
    checked(fault_kinds.STATIC, consul=False)


@bound(400)
def test_history__handoffs_and_failovers__promises_hold():
    checked(fault_kinds.CONSUL, consul=True)


class Soak:
    """What was counted so far."""

    def __init__(self):
        self.path = os.environ.get("LITEFWD_SOAK_STATE")
        self.rounds, self.seed, self.table, self.counts = 0, seed(), {}, {}
        if self.path and os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                kept = json.load(file)
            self.rounds, self.seed, self.counts = kept["rounds"], kept["seed"], kept["counts"]
            self.table = {(kind, upstream): row for kind, upstream, row in kept["table"]}

    @property
    def faults(self):
        return sum(sum(row.values()) for row in self.table.values())

    def add(self, table, counts):
        self.rounds += 1
        add(self.table, table)
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        if self.path:
            with open(self.path + ".new", "w", encoding="utf-8") as file:
                json.dump({"rounds": self.rounds, "seed": self.seed, "counts": self.counts,
                           "table": [(*key, row) for key, row in self.table.items()]}, file)
            os.rename(self.path + ".new", self.path)


@soak
@bound(6 * 3600)
def test_history__soak__promises_hold():
    wanted = int(os.environ.get("LITEFWD_SOAK_FAULTS", "10000"))
    state = Soak()
    began = time.monotonic()
    while state.faults < wanted:
        consul = state.rounds % 2 == 1
        kinds, most = (fault_kinds.CONSUL, 20) if consul else (fault_kinds.STATIC, 200)
        count = min(most, wanted - state.faults)
        state.add(*a_round(1000 * state.seed + state.rounds, consul, lambda rng: at_random(kinds, rng, count)))
        # To the terminal: a test's own output is only shown when it has ended.
        with open(os.environ.get("LITEFWD_SOAK_PROGRESS", os.devnull), "a", encoding="utf-8") as progress:
            print(f"seed {state.seed}, round {state.rounds}: {state.faults} of {wanted} faults, {time.monotonic() - began:.0f} s", file=progress)
    show(state.table, state.counts)
