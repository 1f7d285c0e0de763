/*
 * db in WAL mode, where what one part does meets another: a change of role in the moment in which a begin ends, writers that die
 * under readers that stay, a guard that is lent.
 */
#include "wal_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "litefs/api.h"

static struct rig *start(bool gateway)
{
	struct rig *r = rig_new(false);

	r->wal = true;
	if (gateway)
		r->settings.gateway_url = strdup("http://{hostname}:1");
	rig_open(r, &r->a, "app.db", false);
	wal_open(&r->a, 1);
	wal_open(&r->a, 2);
	wal_open(&r->a, 3);
	return r;
}

static void end(struct rig *r)
{
	free(r->settings.gateway_url);
	rig_free(r);
}

static void set_role(struct rig *r, enum role_kind kind)
{
	pthread_mutex_lock(&r->role.mutex);
	r->role.state.kind = kind;
	r->role.state.local_alive = true;
	r->role.state.epoch++;
	pthread_mutex_unlock(&r->role.mutex);
	db_role_changed(r->a.db);
}

/* ---- a change of role ---- */

static struct rig *changing;

static void change_role(void)
{
	set_role(changing, ROLE_REPLICA);
}

/* What was had is given back unused: on it nothing could be sent any more, and on the primary it would be LiteFS' own lock, which LiteFS waits for. */
static void role_changes__just_when_a_begin_has_ended__given_back_before_anybody_writes(void **state)
{
	struct rig *r = changing = start(true);
	struct local *l = &r->a;
	unsigned granted;

	(void)state;
	atomic_store(&gateway_begun, change_role);
	granted = fake_granted(r->primary);
	wal_begin(l, 1);
	assert_null(atomic_load(&gateway_begun));
	assert_int_equal(fake_granted(r->primary) - granted, 2);
	assert_int_equal(wal_commit(l, 1, 'b'), 0);
	wal_end(l, 1);
	assert_int_equal(wal_latest(l, 2), 'b');
	assert_true(rig_is_exact(l));
	end(r);
}

/* ---- a writer dies, and a reader stays ---- */

/* Its transaction is published for it: nobody can take away the header that the reader may be looking at. */
static void writer_dies__between_its_commit_and_its_header_under_a_reader__the_others_go_on_writing(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;

	(void)state;
	wal_read(l, 2);
	wal_begin(l, 1);
	assert_int_equal(wal_commit(l, 1, 'b'), 0);
	wal_die(l, 1);
	wal_begin(l, 3);
	assert_int_equal(wal_commit(l, 3, 'c'), 0);
	wal_end(l, 3);
	assert_int_equal(rig_stat(l, "folds"), 0);
	wal_shm_lock(l, 2, F_UNLCK, WAL_READ_BYTE(1));
	assert_int_equal(wal_latest(l, 2), 'c');
	assert_true(rig_is_exact(l));
	end(r);
}

static void writer_dies__in_its_commit_under_a_reader__the_others_go_on_writing(void **state)
{
	struct rig *r = start(false);
	struct local *l = &r->a;
	struct waiting w;

	(void)state;
	wal_read(l, 2);
	wal_begin(l, 1);
	r->answer_delay_ms = 100;
	assert_int_equal(wal_write(l, 1, 'b', false, &w), DB_PARKED);
	wal_die(l, 1);
	assert_int_equal(await(&w), 0);
	wal_begin(l, 3);
	assert_int_equal(wal_commit(l, 3, 'c'), 0);
	wal_end(l, 3);
	assert_int_equal(rig_stat(l, "folds"), 0);
	wal_shm_lock(l, 2, F_UNLCK, WAL_READ_BYTE(1));
	assert_int_equal(wal_latest(l, 2), 'c');
	end(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(role_changes__just_when_a_begin_has_ended__given_back_before_anybody_writes),
		cmocka_unit_test(writer_dies__between_its_commit_and_its_header_under_a_reader__the_others_go_on_writing),
		cmocka_unit_test(writer_dies__in_its_commit_under_a_reader__the_others_go_on_writing),
	};
	int failed;

	if (api_global_init())
		return 1;
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
