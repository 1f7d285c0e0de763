#!/usr/bin/env python3
"""The history checker checked: a good history passes, and each way to break a promise is found, by its name and nothing else."""
import copy
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))
import history as h  # noqa: E402  pylint: disable=wrong-import-position

TXID0 = 100
FORK = 8  # the takeover's: numbers 9 and 10 are on the trunk and on a branch


def sum_of(state):
    return state[0] << 32 | state[1] & 0xffffffff


def row(state, ident, parts=1):
    return (*state, ident, parts, parts)


def good():
    """Three nodes, twelve transactions, two more that a failover dropped; each kind of verdict; readers on all nodes."""
    writes, trunk, ids, reads = [], [h.START], [], []

    def write(at, ident, node, verdict=h.ACKNOWLEDGED, before=None, **more):
        before = before or trunk[-1]
        state = (before[0] + 1, h.digest_after(before[1], ident))
        writes.append(h.Write(ident, node, f"w{node}", at, at + 0.5, verdict, state[0], state[1], before[1], **more))
        return state

    def there(at, ident, node, verdict=h.ACKNOWLEDGED):
        trunk.append(write(at, ident, node, verdict))
        ids.append(ident)

    def read(at, node, states, names, life=0, conn="r"):
        state = states[-1]
        entries = [row(s, name) for s, name in list(zip(states[1:], names))[::-1][:3]]
        reads.append(h.Read(node, f"{conn}{node}", life, at, at + 0.2, *state, entries, state, count=state[0],
                            pos=(TXID0 + state[0], sum_of(state))))

    def everywhere(at):
        for node in range(3):
            read(at + 0.1 * node, node, trunk, ids)
    for number in range(FORK):
        there(number, f"t{number + 1}", number % 3, h.UNKNOWN if number == 4 else h.OPEN if number == 5 else h.ACKNOWLEDGED)
        everywhere(number + 0.6)
    write(8.0, "busy", 1, h.BUSY)
    write(8.1, "failed", 2, h.FAILED)
    write(8.2, "unknown", 2, h.UNKNOWN)
    write(8.3, "killed", 1, h.OPEN)
    writes.append(h.Write("never begun", 1, "w1", 8.4, 8.5, h.BUSY))
    branch, names = list(trunk), list(ids)
    for at, ident in ((9.0, "d1"), (9.6, "d2")):  # on node 0 and 1; node 2 takes over without them
        branch.append(write(at, ident, 0, before=branch[-1]))
        names.append(ident)
    read(10.2, 0, branch, names)
    read(10.3, 1, branch, names)
    takeovers = [h.Takeover(11, 12, TXID0 + FORK, {TXID0 + s[0]: sum_of(s) for s in branch[1:]})]
    everywhere(12.1)
    for number in range(FORK, 12):
        there(number + 5, f"t{number + 1}", 1 + number % 2)
        everywhere(number + 5.6)
    rows = [row(s, name) for s, name in zip(trunk[1:], ids)]
    views = [h.View(f"n{node}", ["ok"], trunk[-1], list(rows), 0, TXID0 + len(rows)) for node in range(3)]
    return h.History(TXID0, writes, reads, takeovers, views, {TXID0 + s[0]: sum_of(s) for s in trunk[1:]},
                     files=[(node, TXID0 + s[0], sum_of(s)) for node in range(3) for s in trunk[3:]],
                     said=[(1, TXID0 + 5, sum_of(trunk[5]), "committed"), (2, TXID0 + 9, 7, "not_committed"),
                           (0, TXID0 + 9, sum_of(branch[9]), "committed")])


def of(history, ident):
    return next(w for w in history.writes if w.id == ident)


def drop_row(history, ident):
    """It is gone from all nodes, and the chain was never built on it."""
    for view in history.views:
        kept = [r[2] for r in view.rows if r[2] != ident]
        view.rows, view.state = [], h.START
        for name in kept:
            view.state = (view.state[0] + 1, h.digest_after(view.state[1], name))
            view.rows.append(row(view.state, name))
        view.txid = TXID0 + len(view.rows)


def add_row(history, ident):
    for view in history.views:
        view.state = (view.state[0] + 1, h.digest_after(view.state[1], ident))
        view.rows.append(row(view.state, ident))
        view.txid += 1


def at_read(history, node, after):
    return next(r for r in history.reads if r.node == node and r.began >= after)


def like(read, other):
    """read shows what other did."""
    read.n, read.digest, read.entries, read.again, read.count = other.n, other.digest, other.entries, other.again, other.count


class Good(unittest.TestCase):
    def test_good__every_verdict_and_a_failover__no_problem_and_each_outcome(self):
        result = h.check(good())
        self.assertEqual(result.problems, [], result.text())
        self.assertEqual(result.outcomes(), {"committed": 11, "not committed": 2, "busy": 2, "unknown": 2, "dropped": 2, "brought back": 0})
        self.assertEqual(result.unknown_there, 1)

    def test_good__in_any_order_of_its_records__the_same(self):
        for seed in range(5):
            history = good()
            random.Random(seed).shuffle(history.writes)
            random.Random(seed).shuffle(history.reads)
            self.assertEqual(h.check(history).problems, [])

    def test_good__without_its_views_positions__still_no_problem(self):
        history = good()
        history.positions = {txid: s for txid, s in history.positions.items() if txid > TXID0 + 4}
        self.assertEqual(h.check(history).problems, [])

    def test_good__litefwd_restarted_and_a_new_connection_reads_what_litefs_has__no_problem(self):
        history = good()
        late, early = at_read(history, 2, 6), at_read(history, 2, 4)
        like(late, early)
        late.life, late.conn = 1, "another"
        for write in history.writes:
            write.node = 0
        self.assertEqual(h.check(history).problems, [])


    def test_good__dead_mount_answers_from_its_caches__no_problem(self):
        history = good()
        late, early = at_read(history, 1, 7), at_read(history, 1, 6)
        like(late, early)
        self.assertEqual(of(history, "t8").node, 1)
        history.reads = [r for r in history.reads if r.node != 1 or r.began <= late.began]
        self.assertEqual({p.kind for p in h.check(history).problems}, {"stale read"})
        late.dead = True
        self.assertEqual(h.check(history).problems, [])


    def test_good__old_primary_shows_what_failed_and_was_dropped__no_problem_and_only_by_position(self):
        for position, expected in ((True, set()), (False, {"dirty read"})):
            history = good()
            last = of(history, "d2")
            state = (last.n + 1, h.digest_after(last.digest, "d3"))
            history.writes.append(h.Write("d3", 1, "w1", 10.4, 10.8, h.FAILED, *state, last.digest))
            read = copy.deepcopy(at_read(history, 0, 10))
            read.began, read.ended, read.n, read.digest, read.again, read.count, read.pos = 10.9, 11.0, *state, state, state[0], None
            read.entries = [row(state, "d3")] + read.entries
            history.reads.append(read)
            if position:
                history.takeovers[0].old[TXID0 + state[0]] = sum_of(state)
            self.assertEqual({p.kind for p in h.check(history).problems}, expected)


    def test_good__failed_and_brought_back_by_a_second_failover__counted_and_only_by_position(self):
        for position, expected in ((True, set()), (False, {"false failure", "false verdict"})):
            history = good()
            failed = of(history, "t9")
            failed.verdict, failed.began, failed.ended = h.FAILED, 8.6, 8.7
            history.said.append((1, TXID0 + 9, history.positions[TXID0 + 9], "not_committed"))
            history.reads = [r for r in history.reads if r.n < 9]
            if not position:
                for ident in ("d1", "d2"):
                    of(history, ident).verdict = h.OPEN
                history.takeovers, history.said = [], [said for said in history.said if said[0] != 0]
            result = h.check(history)
            self.assertEqual({p.kind for p in result.problems}, expected, result.text())
            self.assertEqual(result.outcome["t9"] == "brought back", position)

    def test_good__two_failovers_drop_the_same_txid__each_its_own(self):
        """The second one's primary has come back with a branch of its own, and stands at that TXID, too."""
        for order in (1, -1):
            history = good()
            first, fork = of(history, "d1"), of(history, "d1").prev
            again = h.Write("e1", 1, "w1", 12.5, 12.55, h.ACKNOWLEDGED, first.n, h.digest_after(fork, "e1"), fork)
            history.writes = (history.writes + [again])[::order]
            history.takeovers.append(h.Takeover(12.6, 12.9, TXID0 + first.n, {TXID0 + first.n: sum_of(again.state)}))
            history.reads = [r for r in history.reads if r.began < 12 or r.began > 13]
            result = h.check(history)
            self.assertEqual((result.problems, result.outcome["e1"], result.outcome["d1"]), ([], "dropped", "dropped"), result.text())


class Spoiled(unittest.TestCase):
    def finds(self, kinds, spoil):
        history = good()
        spoil(history)
        result = h.check(history)
        self.assertEqual({p.kind for p in result.problems}, set(kinds), result.text())

    # -- writes

    def test_lost__acknowledged_and_seen_and_gone__found(self):
        def spoil(history):
            drop_row(history, "t12")
            history.reads = [r for r in history.reads if r.n < 12 or r.node == 0]
        self.finds({"lost", "vanished read"}, spoil)

    def test_false_success__acknowledged_and_never_there__found(self):
        def spoil(history):
            drop_row(history, "t12")
            history.reads = [r for r in history.reads if r.n < 12]
        self.finds({"false success"}, spoil)

    def test_lost__below_the_takeovers_position__not_taken_for_dropped(self):
        def spoil(history):
            history.takeovers[0].txid = TXID0 + FORK + 1
            del history.positions[TXID0 + FORK + 1]
            history.reads = [r for r in history.reads if (r.n, r.node) not in ((10, 0), (10, 1))]
        self.finds({"lost"}, spoil)

    def test_false_success__with_the_same_position_as_survived__not_taken_for_dropped(self):
        def spoil(history):
            history.takeovers[0].old[TXID0 + 10] = history.positions[TXID0 + 10]
            history.reads = [r for r in history.reads if r.digest != of(history, "d2").digest]
        self.finds({"false success"}, spoil)

    def test_false_success__which_the_old_primary_never_had__not_taken_for_dropped(self):
        def spoil(history):
            del history.takeovers[0].old[TXID0 + 10]
            history.reads = [r for r in history.reads if r.digest != of(history, "d2").digest]
        self.finds({"false success"}, spoil)

    def test_lost__begun_after_the_takeover__not_taken_for_dropped(self):
        def spoil(history):
            write = of(history, "d1")
            write.began, write.ended = 12.5, 12.6
        self.finds({"lost"}, spoil)

    def test_doubled__same_id_twice__found(self):
        self.finds({"doubled"}, lambda history: add_row(history, "t3"))

    def test_doubled__txid_counted_twice__found(self):
        def spoil(history):
            for view in history.views:
                view.txid += 1
        self.finds({"doubled"}, spoil)

    def test_false_failure__error_and_there__found(self):
        def spoil(history):
            of(history, "t7").verdict = h.FAILED
        self.finds({"false failure"}, spoil)

    def test_false_failure__busy_and_there__found(self):
        def spoil(history):
            of(history, "t7").verdict = h.BUSY
        self.finds({"false failure"}, spoil)

    def test_nobodys__row_without_a_writer__found(self):
        self.finds({"nobody's"}, lambda history: add_row(history, "ghost"))

    def test_lost_update__two_built_on_the_same_state__found(self):
        def spoil(history):
            for view in history.views:
                n, _, ident, parts, found = view.rows[6]
                view.rows[6] = (n, h.digest_after(view.rows[4][1], ident), ident, parts, found)
            history.reads = []
        self.finds({"broken chain"}, spoil)

    def test_partial__row_of_a_transaction_missing__found(self):
        def spoil(history):
            for view in history.views:
                view.rows[3] = view.rows[3][:4] + (0,)
        self.finds({"partial"}, spoil)

    def test_partial__rows_of_nothing__found(self):
        def spoil(history):
            history.views[0].stray_parts = 2
        self.finds({"partial"}, spoil)

    def test_write_order__began_after_the_next_was_acknowledged__found(self):
        def spoil(history):
            write = of(history, "t2")
            write.began, write.ended, write.node = 3.55, 3.58, 5
            history.reads = []
        self.finds({"write order"}, spoil)

    # -- the end

    def test_nodes_differ__one_lacks_the_last__found(self):
        def spoil(history):
            view = history.views[2]
            view.rows, view.state, view.txid = view.rows[:-1], tuple(view.rows[-2][:2]), view.txid - 1
        self.finds({"nodes differ"}, spoil)

    def test_nodes_differ__another_row_in_the_middle__found(self):
        def spoil(history):
            history.views[1].rows[4] = row(tuple(history.views[1].rows[4][:2]), "other")
        self.finds({"nodes differ"}, spoil)

    def test_integrity__not_ok__found(self):
        def spoil(history):
            history.views[1].integrity = ["row 3 missing from index"]
        self.finds({"integrity"}, spoil)

    # -- reads

    def test_torn_read__last_row_is_older_than_the_chain__found(self):
        def spoil(history):
            read = at_read(history, 1, 5)
            read.entries = read.entries[1:]
        self.finds({"torn read"}, spoil)

    def test_torn_read__snapshot_changes__found(self):
        def spoil(history):
            at_read(history, 1, 5).again = at_read(history, 1, 6).state
        self.finds({"torn read"}, spoil)

    def test_torn_read__row_without_its_parts__found(self):
        def spoil(history):
            read = at_read(history, 1, 5)
            read.entries[1] = read.entries[1][:4] + (0,)
        self.finds({"torn read"}, spoil)

    def test_torn_read__count_is_another__found(self):
        def spoil(history):
            at_read(history, 1, 5).count -= 1
        self.finds({"torn read"}, spoil)

    def test_torn_read__rows_in_between_are_missing__found(self):
        def spoil(history):
            read = at_read(history, 1, 5)
            del read.entries[1]
        self.finds({"torn read"}, spoil)

    def test_torn_read__state_that_nobody_made__found(self):
        def spoil(history):
            read = at_read(history, 1, 5)
            read.digest += 1
            read.again, read.entries = read.state, [row(read.state, "what")]
        self.finds({"torn read"}, spoil)

    def test_dirty_read__of_what_failed__found(self):
        def spoil(history):
            for ident, kind in (("failed", 0.5), ("busy", 0.6)):
                write = of(history, ident)
                read = copy.deepcopy(at_read(history, 2, 7))
                read.began = read.ended = 8 + kind
                read.n, read.digest, read.again, read.count = *write.state, write.state, write.n
                read.entries = [row(write.state, ident)] + read.entries
                history.reads.append(read)
        self.finds({"dirty read"}, spoil)

    def test_vanished_read__of_an_unknown_that_is_not_there__found(self):
        def spoil(history):
            write = of(history, "unknown")
            read = copy.deepcopy(at_read(history, 2, 7))
            read.began = read.ended = 8.7
            read.n, read.digest, read.again, read.count = *write.state, write.state, write.n
            read.entries = [row(write.state, "unknown")] + read.entries
            history.reads.append(read)
        self.finds({"vanished read"}, spoil)

    def test_back_in_time__new_then_old_on_one_connection__found(self):
        def spoil(history):
            read = copy.deepcopy(at_read(history, 1, 5))
            read.began = read.ended = at_read(history, 1, 6).ended + 0.001
            read.life, read.pos = 1, None
            for write in history.writes:
                write.node = 0
            history.reads.append(read)
        self.finds({"back in time"}, spoil)

    def test_node_order__stale_then_new_then_stale_on_three_connections__found(self):
        def spoil(history):
            read = copy.deepcopy(at_read(history, 1, 5))
            read.began = read.ended = at_read(history, 1, 6).ended + 0.001
            read.conn = "another"
            for write in history.writes:
                write.node = 0
            history.reads.append(read)
        self.finds({"node order"}, spoil)

    def test_node_order__back_to_the_branch_after_the_trunk__found(self):
        def spoil(history):
            read = copy.deepcopy(at_read(history, 1, 10))
            read.began = read.ended = 16.9
            read.conn, read.pos = "another", None
            for write in history.writes:
                write.node = 0
            history.reads.append(read)
        self.finds({"node order"}, spoil)

    def test_stale_read__own_node_has_acknowledged_more__found(self):
        def spoil(history):
            like(at_read(history, 1, 7), at_read(history, 1, 6))
            write = of(history, "t8")
            self.assertEqual(write.node, 1)
            history.reads = [r for r in history.reads if r.node != 1 or r.began < 8]
        self.finds({"stale read"}, spoil)

    # -- positions and the log

    def test_diverged__one_txid_with_two_checksums__found(self):
        def spoil(history):
            read = at_read(history, 1, 5)
            read.pos = (read.pos[0], read.pos[1] ^ 1)
        self.finds({"diverged"}, spoil)

    def test_diverged__a_nodes_ltx_file_is_another__found(self):
        self.finds({"diverged"}, lambda history: history.files.append((2, TXID0 + 4, 5)))

    def test_position_back__without_a_failover__found(self):
        def spoil(history):
            at_read(history, 1, 5).pos = at_read(history, 1, 2).pos
        self.finds({"position back"}, spoil)

    def test_false_verdict__committed_and_not_there__found(self):
        def spoil(history):
            history.said[1] = history.said[1][:3] + ("committed",)
        self.finds({"false verdict"}, spoil)

    def test_false_verdict__not_committed_and_there__found(self):
        def spoil(history):
            history.said[0] = history.said[0][:3] + ("not_committed",)
        self.finds({"false verdict"}, spoil)


if __name__ == "__main__":
    unittest.main()
