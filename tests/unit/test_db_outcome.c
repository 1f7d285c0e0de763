/*
 * What is found out later about transactions whose outcome nobody knew when their clients were answered: several at a time, with one
 * TXID, under a wall clock that stands still.
 */
#include "wal_rig.h"

#include <errno.h>
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
