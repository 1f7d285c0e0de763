/*
 * What is found out later about transactions whose outcome nobody knew when their clients were answered: several at a time, with one
 * TXID, under a wall clock that stands still.
 */
#include "wal_rig.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "litefs/api.h"

static _Atomic int64_t wall_ms;

int64_t __wrap_clock_wall_ms(void);

int64_t __wrap_clock_wall_ms(void)
{
	return atomic_load(&wall_ms);
}

static struct rig *start(bool primary)
{
	struct rig *r = rig_new(false);

	atomic_store(&wall_ms, 1700000000000);
	r->wal = true;
	if (primary)
		rig_make_primary(r);
	rig_open(r, &r->a, "app.db", false);
	wal_open(&r->a, 1);
	wal_open(&r->a, 2);
	return r;
}

static size_t count_open(struct local *l)
{
	json_t *o = db_status(l->db);
	size_t n = json_array_size(json_object_get(o, "unknowns"));

	json_decref(o);
	return n;
}

/* A COMMIT that the primary has received, all of it, and is gone. */
static void lose_one(struct rig *r, uint8_t fill)
{
	static const struct fake_step stall = {.does = FAKE_STALL};
	unsigned sent = fake_bodies(r->primary, FAKE_TX);
	int64_t until = clock_now_ns() + LONG_NS;
	struct local *l = &r->a;
	struct waiting w;

	wal_begin(l, 1);
	r->settings.commit_timeout_ms = 300; /* three looks take longer */
	fake_script(r->primary, FAKE_TX, &stall);
	assert_int_equal(wal_write(l, 1, fill, false, &w), DB_PARKED);
	while (fake_bodies(r->primary, FAKE_TX) == sent && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	fake_set_up(r->primary, false);
	if (r->role.state.kind == ROLE_PRIMARY) /* a direct client keeps us from looking under LiteFS' locks */
		rig_lock_write(l, true);
	assert_int_equal(await(&w), -EIO);
	rig_lock_write(l, false);
	wal_end(l, 1);
	r->settings.commit_timeout_ms = 15000;
	fake_set_up(r->primary, true);
}

/* What the primary was sent last reaches this node after all. */
static void deliver(struct rig *r)
{
	size_t len;
	uint8_t *ltx = fake_last_tx(r->primary, &len);

	assert_non_null(ltx);
	rig_queue(&r->a, ltx, len);
	free(ltx);
	rig_wait_applied(r, 1);
	fake_set_pos(r->primary, "app.db", rig_pos(&r->a));
}

static void unknown__several_with_one_txid__each_is_told_from_what_was_committed(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;

	(void)state;
	for (int i = 0; i < 3; i++) {
		lose_one(r, 'b'); /* the same bytes, at the same time: only their timestamps tell them apart */
		assert_int_equal(rig_stat(l, "unknown"), i + 1);
		assert_int_equal(count_open(l), i + 1);
	}
	atomic_fetch_sub(&wall_ms, 3600 * 1000);
	wal_begin(l, 2);
	assert_int_equal(wal_commit(l, 2, 'b'), 0);
	wal_end(l, 2);
	assert_int_equal(rig_pos(l).txid, 11);
	assert_int_equal(count_open(l), 0);
	assert_int_equal(rig_stat(l, "verdicts_not_committed"), 3);
	assert_int_equal(rig_stat(l, "verdicts_committed"), 0);
	assert_int_equal(rig_stat(l, "verdicts_none"), 0);
	rig_free(r);
}

static void unknown__comes_after_all__committed_and_the_others_not(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;

	(void)state;
	lose_one(r, 'b');
	lose_one(r, 'c');
	assert_int_equal(wal_latest(l, 2), 'a');
	assert_int_equal(count_open(l), 2);
	deliver(r); /* the second one */
	assert_int_equal(wal_latest(l, 2), 'c');
	assert_int_equal(count_open(l), 0);
	assert_int_equal(rig_stat(l, "verdicts_committed"), 1);
	assert_int_equal(rig_stat(l, "verdicts_not_committed"), 1);
	rig_free(r);
}

static void unknown__another_nodes_in_its_place__not_committed(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;

	(void)state;
	lose_one(r, 'b');
	rig_foreign(l, 'x', true);
	rig_wait_applied(r, 1);
	assert_int_equal(wal_latest(l, 2), 'x');
	assert_int_equal(rig_stat(l, "verdicts_not_committed"), 1);
	assert_int_equal(count_open(l), 0);
	rig_free(r);
}

/* A node that is demoted has it, and may lose it yet: the next transaction of the cluster upon it is what proves it. */
static void unknown__on_a_demoted_primary__committed_only_when_built_upon(void **state)
{
	struct rig *r = start(true);
	struct local *l = &r->a;

	(void)state;
	lose_one(r, 'b');
	pthread_mutex_lock(&r->role.mutex);
	r->role.state.kind = ROLE_REPLICA;
	r->role.state.epoch++;
	pthread_mutex_unlock(&r->role.mutex);
	db_role_changed(l->db);
	assert_true(rig_wait_idle(l));
	deliver(r);
	assert_int_equal(wal_latest(l, 2), 'b');
	assert_int_equal(count_open(l), 1);
	rig_foreign(l, 'x', true);
	rig_wait_applied(r, 2);
	assert_int_equal(wal_latest(l, 2), 'x');
	assert_int_equal(count_open(l), 0);
	assert_int_equal(rig_stat(l, "verdicts_committed"), 1);
	rig_free(r);
}

/* ---- another primary ---- */

#define OTHER UINT64_C(0xBBBB000000000002)

/* LiteFS here follows another node, which has what this one has. */
static struct fake *fail_over(struct rig *r)
{
	struct fake *other = fake_start(OTHER);

	fake_set_pos(other, "app.db", rig_pos(&r->a));
	fake_set_cluster(other, r->role.state.cluster_id, "/nowhere");
	pthread_mutex_lock(&r->role.mutex);
	r->role.state.kind = ROLE_REPLICA;
	snprintf(r->role.state.primary_url, sizeof r->role.state.primary_url, "%s", fake_url(other));
	r->role.state.epoch++;
	pthread_mutex_unlock(&r->role.mutex);
	return other;
}

static void wait_for_body(struct rig *r)
{
	int64_t until = clock_now_ns() + LONG_NS;

	while (!fake_bodies(r->primary, FAKE_TX) && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_int_equal(fake_bodies(r->primary, FAKE_TX), 1);
}

/* The new primary has not got it. The old one has, and is the primary again before it has followed anybody. */
static void failover__in_a_commit__what_the_new_primary_has_not_proves_nothing(void **state)
{
	static const struct fake_step stall = {.does = FAKE_STALL};
	struct rig *r = start(false);
	struct local *l = &r->a;
	struct fake *other;
	struct waiting w;

	(void)state;
	r->settings.commit_timeout_ms = 4 * (int)(LONG_NS / NS_PER_MS); /* it is not waited for */
	wal_begin(l, 1);
	fake_script(r->primary, FAKE_TX, &stall);
	assert_int_equal(wal_write(l, 1, 'b', false, &w), DB_PARKED);
	wait_for_body(r);
	other = fail_over(r);
	db_role_changed(l->db);
	fake_set_up(r->primary, false);
	assert_int_equal(await(&w), -EIO);
	wal_end(l, 1);
	assert_int_equal(rig_stat(l, "not_committed"), 0);
	assert_int_equal(rig_stat(l, "unknown"), 1);
	assert_int_equal(wal_latest(l, 2), 'a');
	deliver(r);
	assert_int_equal(wal_latest(l, 2), 'b');
	assert_int_equal(rig_stat(l, "verdicts_committed"), 1);
	assert_int_equal(count_open(l), 0);
	rig_free(r);
	fake_stop(other);
}

static void failover__after_the_answer_before_replication__nobody_waits_for_what_may_never_come(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;
	struct fake *other;
	struct waiting w;

	(void)state;
	r->settings.commit_timeout_ms = 4 * (int)(LONG_NS / NS_PER_MS);
	rig_hold(r, true);
	wal_begin(l, 1);
	assert_int_equal(wal_write(l, 1, 'b', false, &w), DB_PARKED);
	wait_for_body(r);
	other = fail_over(r);
	db_role_changed(l->db);
	assert_int_equal(await(&w), -EIO);
	wal_end(l, 1);
	assert_int_equal(rig_stat(l, "unknown"), 1);
	assert_int_equal(rig_stat(l, "not_committed"), 0);
	rig_hold(r, false);
	rig_wait_applied(r, 1);
	assert_int_equal(wal_latest(l, 2), 'b');
	assert_int_equal(rig_stat(l, "verdicts_committed"), 1);
	rig_free(r);
	fake_stop(other);
}

/* The node was demoted while its own LiteFS applied it. role: whether litefwd has heard of that. */
static void demote(bool heard, int64_t commit_timeout_ms)
{
	struct rig *r = start(true);
	struct local *l = &r->a;
	struct fake *other = NULL;

	r->settings.commit_timeout_ms = (int)commit_timeout_ms;
	wal_begin(l, 1);
	if (heard)
		other = fail_over(r);
	assert_int_equal(fchmod(l->db_fd, 0444), 0); /* as LiteFS shows it on a replica */
	assert_int_equal(wal_commit(l, 1, 'b'), -EIO);
	wal_end(l, 1);
	assert_int_equal(rig_stat(l, "unknown"), 1);
	assert_int_equal(rig_stat(l, "not_committed"), 0);
	assert_int_equal(count_open(l), 1);
	rig_free(r);
	if (other)
		fake_stop(other);
}

static void demoted__in_its_own_commit__unknown_whatever_the_new_primary_has(void **state)
{
	(void)state;
	demote(true, 4 * LONG_NS / NS_PER_MS);
}

static void demoted__in_its_own_commit_and_nobody_has_said_so__not_committed_by_its_own_word(void **state)
{
	(void)state;
	demote(false, 1500);
}

static void unknown__open_at_the_end__said_to_be_so(void **state)
{
	struct rig *r = start(false);

	(void)state;
	lose_one(r, 'b');
	db_stop(r->a.db);
	assert_int_equal(count_open(&r->a), 0);
	assert_int_equal(rig_stat(&r->a, "verdicts_none"), 1);
	rig_free(r);
}

static void clock__set_back_between_transactions__all_go_through(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;

	(void)state;
	for (int i = 0; i < 6; i++) {
		atomic_fetch_add(&wall_ms, i % 2 ? INT64_C(-400) * 86400 * 1000 : INT64_C(365) * 86400 * 1000);
		wal_begin(l, 1);
		assert_int_equal(wal_commit(l, 1, (uint8_t)('b' + i)), 0);
		wal_end(l, 1);
		assert_int_equal(wal_latest(l, 2), 'b' + i);
	}
	assert_true(rig_is_exact(l));
	assert_int_equal(rig_stat(l, "commits_remote"), 6);
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(unknown__several_with_one_txid__each_is_told_from_what_was_committed),
		cmocka_unit_test(unknown__comes_after_all__committed_and_the_others_not),
		cmocka_unit_test(unknown__another_nodes_in_its_place__not_committed),
		cmocka_unit_test(unknown__on_a_demoted_primary__committed_only_when_built_upon),
		cmocka_unit_test(failover__in_a_commit__what_the_new_primary_has_not_proves_nothing),
		cmocka_unit_test(failover__after_the_answer_before_replication__nobody_waits_for_what_may_never_come),
		cmocka_unit_test(demoted__in_its_own_commit__unknown_whatever_the_new_primary_has),
		cmocka_unit_test(demoted__in_its_own_commit_and_nobody_has_said_so__not_committed_by_its_own_word),
		cmocka_unit_test(unknown__open_at_the_end__said_to_be_so),
		cmocka_unit_test(clock__set_back_between_transactions__all_go_through),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
