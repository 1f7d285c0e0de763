/* db_alive: who waits for LiteFS or the network is alive; a lock that nobody gives back and a worker that does not come are not. */
#include "wal_rig.h"

#include <errno.h>

#include "db/db_internal.h"
#include "litefs/api.h"

static struct rig *start(void)
{
	struct rig *r = rig_new(false);

	r->wal = true;
	rig_open(r, &r->a, "app.db", false);
	wal_open(&r->a, 1);
	return r;
}

/* A COMMIT that waits for a primary that says nothing. */
static void stall(struct rig *r, struct waiting *w)
{
	static const struct fake_step stalls = {.does = FAKE_STALL};
	int64_t until_ns = clock_now_ns() + LONG_NS;

	wal_begin(&r->a, 1);
	fake_script(r->primary, FAKE_TX, &stalls);
	assert_int_equal(wal_write(&r->a, 1, 7, false, w), DB_PARKED);
	while (!fake_bodies(r->primary, FAKE_TX) && clock_now_ns() < until_ns)
		clock_sleep_ns(NS_PER_MS);
}

static void end_stall(struct rig *r, struct waiting *w)
{
	fake_set_up(r->primary, false);
	assert_int_equal(await(w), -EIO);
	wal_end(&r->a, 1);
}

static void alive__nothing_to_do__yes(void **state)
{
	struct rig *r = start();

	(void)state;
	for (int i = 0; i < 20; i++)
		assert_true(db_alive(r->a.db, clock_now_ns() + LONG_NS));
	assert_int_equal(wal_latest(&r->a, 1), wal_latest(&r->a, 1)); /* and it goes on working */
	rig_free(r);
}

static void alive__commit_waits_for_the_primary__yes(void **state)
{
	struct rig *r = start();
	struct waiting w;

	(void)state;
	r->settings.commit_timeout_ms = 300;
	stall(r, &w);
	assert_true(db_alive(r->a.db, clock_now_ns() + LONG_NS));
	end_stall(r, &w);
	assert_true(db_alive(r->a.db, clock_now_ns() + LONG_NS));
	rig_free(r);
}

static void alive__worker_does_not_come__no(void **state)
{
	struct rig *r = start();
	struct db *db = r->a.db;
	struct waiting w;

	(void)state;
	r->settings.commit_timeout_ms = 300;
	stall(r, &w);
	/* As if it rested: it is the one that cannot come. */
	pthread_mutex_lock(&db->mu);
	db->u_rests = true;
	pthread_mutex_unlock(&db->mu);
	assert_false(db_alive(db, clock_now_ns() + 50 * NS_PER_MS));
	pthread_mutex_lock(&db->mu);
	db->u_rests = db->u_called = false;
	pthread_mutex_unlock(&db->mu);
	end_stall(r, &w);
	rig_free(r);
}

struct asker {
	struct db *db;
	atomic_bool asks, answered;
};

static void *ask(void *arg)
{
	struct asker *asker = arg;

	atomic_store(&asker->asks, true);
	if (db_alive(asker->db, clock_now_ns() + LONG_NS))
		atomic_store(&asker->answered, true);
	return NULL;
}

static void alive__mutex_is_kept__no_answer_before_it_is_given_back(void **state)
{
	struct rig *r = start();
	struct asker asker = {.db = r->a.db};
	pthread_t thread;

	(void)state;
	pthread_mutex_lock(&r->a.db->mu);
	assert_int_equal(pthread_create(&thread, NULL, ask, &asker), 0);
	while (!atomic_load(&asker.asks))
		clock_sleep_ns(NS_PER_MS);
	clock_sleep_ns(50 * NS_PER_MS);
	assert_false(atomic_load(&asker.answered));
	pthread_mutex_unlock(&r->a.db->mu);
	pthread_join(thread, NULL);
	assert_true(atomic_load(&asker.answered));
	rig_free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(alive__nothing_to_do__yes),
		cmocka_unit_test(alive__commit_waits_for_the_primary__yes),
		cmocka_unit_test(alive__worker_does_not_come__no),
		cmocka_unit_test(alive__mutex_is_kept__no_answer_before_it_is_given_back),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests_name("db_alive", tests, NULL, NULL);
	api_global_fini();
	return failed;
}
