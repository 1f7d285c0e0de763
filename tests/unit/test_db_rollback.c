/*
 * db in rollback mode, creation and removal: driven as SQLite drives it. The two tables are ARCHITECTURE.md's, "Rollback
 * journals": what happens at the journal's end, and what happens in each state of a transaction.
 */
#include "rollback_rig.h"

#include <errno.h>
#include <fcntl.h>

#include "litefs/api.h"

#define SUPER "app.db-mj0123AB9CD"

static int setup(void **state)
{
	*state = rig_new(true);
	return 0;
}

static int setup_absent(void **state)
{
	struct rig *r = rig_new(false);

	rig_open(r, &r->a, "app.db", true);
	fake_set_pos(r->primary, "app.db", (struct pos){0});
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	rig_free(*state);
	return 0;
}

static bool is_hot(struct local *l)
{
	uint8_t head[JOURNAL_MAGIC_SIZE];

	return db_journal_exists(l->db) && db_journal_read(l->db, head, sizeof head, 0) == (ssize_t)sizeof head &&
	       !memcmp(head, journal_magic, sizeof head);
}

/* Whatever happened before: the next transaction finds `sees`, and goes through. */
static void assert_goes_on(struct local *l, uint64_t id, int sees)
{
	uint8_t fill = sees == 'z' ? 'y' : 'z';
	struct pos before;

	client_shared(l, id);
	assert_int_equal(client_read(l, id, 2), sees);
	assert_false(is_hot(l));
	client_unlock(l, id);
	before = rig_pos(l);
	client_commit(l, id, fill);
	assert_int_equal(rig_file(l, 2), fill);
	assert_true(rig_pos(l).txid == before.txid + 1);
	assert_true(rig_is_exact(l));
	assert_int_equal(fake_unhalted_tx(l->rig->primary), l->rig->role.state.kind == ROLE_PRIMARY ? rig_stat(l, "commits_self") : 0);
}

/* ---- the journal's end ---- */

enum fault { NONE, SAME_BYTES, REFUSED, GONE, ROLE, LOST, ANSWER_LOST, STALLED, FOREIGN };

static const struct end_row {
	enum fault fault;
	int result;
	int sees; /* the next reader */
	const char *counter; /* that rises */
	bool sent; /* something was, or was tried */
} end_rows[] = {
	{NONE, 0, 'b', "commits_remote", true},
	{SAME_BYTES, 0, 'a', "commits_empty", false},
	{REFUSED, -EIO, 'a', "refused", true},
	{GONE, -EIO, 'a', "refused", false},
	{ROLE, -EIO, 'a', "poisons", false},
	{LOST, -EIO, 'a', "not_committed", true},
	{ANSWER_LOST, 0, 'b', NULL, true},
	{STALLED, -EIO, 'a', "unknown", true},
	{FOREIGN, -EIO, 'x', "poisons", true},
};

static void prepare_fault(struct rig *r, enum fault fault)
{
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .status = 500,
						 .body = "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n"};
	static const struct fake_step lost = {.does = FAKE_CLOSE_AFTER_BODY}, answer_lost = {.does = FAKE_LOSE_ANSWER},
				      stalls = {.does = FAKE_STALL};

	switch (fault) {
	case REFUSED:
		fake_script(r->primary, FAKE_TX, &refuses);
		break;
	case GONE:
		fake_set_up(r->primary, false);
		break;
	case ROLE:
		db_role_changed(r->a.db);
		break;
	case LOST:
		fake_script(r->primary, FAKE_TX, &lost);
		break;
	case ANSWER_LOST:
		fake_script(r->primary, FAKE_TX, &answer_lost);
		break;
	case STALLED:
		r->settings.commit_timeout_ms = 400;
		fake_script(r->primary, FAKE_TX, &stalls);
		break;
	case FOREIGN:
		r->settings.commit_timeout_ms = 3000;
		fake_script(r->primary, FAKE_TX, &stalls);
		break;
	default:
		break;
	}
}

static void end_with_fault(const struct end_row *row, enum ending ending)
{
	struct rig *r = rig_new(true);
	struct local *l = &r->a;
	long long before, resets;
	char events[4000];
	struct waiting w;
	int result;

	client_open(l, 1);
	client_open(l, 2);
	client_advance(l, 1, WRITTEN, row->fault == SAME_BYTES ? 'a' : 'b', NULL);
	prepare_fault(r, row->fault);
	rig_take_events(r, events);
	before = row->counter ? rig_stat(l, row->counter) : 0;
	resets = rig_stat(l, "resets");
	result = client_start_end(l, 1, ending, &w);
	if (row->fault == STALLED || row->fault == FOREIGN) {
		assert_int_equal(result, DB_PARKED);
		assert_true(fake_wait_count(r->primary, FAKE_TX, 1));
	}
	if (row->fault == STALLED)
		fake_set_up(r->primary, false);
	if (row->fault == FOREIGN)
		rig_foreign(l, 'x', true);
	assert_int_equal(settled(result, &w), row->result);
	if (row->fault == GONE || row->fault == STALLED)
		fake_set_up(r->primary, true);
	assert_int_equal(fake_count(r->primary, FAKE_TX), row->sent);
	if (row->counter)
		assert_true(rig_stat(l, row->counter) > before);

	if (row->result) {
		/* No hot journal, and nobody reads what was not committed, not even its writer. */
		assert_false(db_journal_exists(l->db));
		assert_int_equal(rig_stat(l, "poisoned"), 1);
		assert_int_equal(client_read(l, 1, 2), -ESTALE);
		assert_int_equal(client_try_shared(l, 2), -EAGAIN); /* EXCLUSIVE is still held */
	} else {
		assert_int_equal(db_journal_exists(l->db), ending != UNLINKED);
		assert_int_equal(db_size(l->db, FILE_JOURNAL) > 0, ending == ZEROED);
		assert_int_equal(client_read(l, 1, 2), row->sees);
	}
	client_unlock(l, 1);
	client_shared(l, 2);
	assert_int_equal(client_read(l, 2, 2), row->sees);
	if (row->result) { /* by a view that began anew before, with the kernel's pages forgotten */
		assert_true(rig_stat(l, "resets") > resets);
		rig_take_events(r, events);
		assert_non_null(strstr(events, "inval 0+0;"));
	}
	client_unlock(l, 2);
	assert_goes_on(l, 1, row->sees);
	assert_goes_on(l, 2, 'z');
	rig_free(r);
}

static void at_each_ending(enum fault fault)
{
	const struct end_row *row = end_rows;

	while (row->fault != fault)
		row++;
	for (enum ending ending = UNLINKED; ending < ENDINGS; ending++)
		end_with_fault(row, ending);
}

#define END_CASE(name, fault)                                                                                                 \
	static void name(void **state)                                                                                        \
	{                                                                                                                     \
		(void)state;                                                                                                  \
		at_each_ending(fault);                                                                                        \
	}

END_CASE(end__all_well__committed_here_and_there, NONE)
END_CASE(end__same_bytes__a_rollback_and_nothing_sent, SAME_BYTES)
END_CASE(end__refused__eio_and_nothing_changed, REFUSED)
END_CASE(end__primary_gone_before__eio_and_nothing_sent, GONE)
END_CASE(end__role_changed_before__eio_and_nothing_sent, ROLE)
END_CASE(end__lost_before_the_primary_had_it__eio_and_nothing_changed, LOST)
END_CASE(end__answer_lost_and_replicated__committed, ANSWER_LOST)
END_CASE(end__primary_gone_in_the_middle__eio_and_unknown, STALLED)
END_CASE(end__another_transaction_came_instead__eio_and_that_one_seen, FOREIGN)

/* ---- the states of a transaction ---- */

enum event { DIES, ROLE_CHANGES, PRIMARY_GOES };

/* What becomes of a transaction when something happens in that state. Columns: db_write (where it is yet to come), the end, what is seen. */
static const struct state_row {
	enum stage stage;
	enum event event;
	int write, end;
	int sees;
} state_rows[] = {
	{SHARED, DIES, 0, 0, 'a'},
	{RESERVED, DIES, 0, 0, 'a'},
	{CREATED, DIES, 0, 0, 'a'},
	{HOT, DIES, 0, 0, 'a'},
	{EXCLUSIVE, DIES, 0, 0, 'a'},
	{WRITTEN, DIES, 0, 0, 'a'},
	{COMMITTING, DIES, 0, 0, 'b'},
	{RESERVED, ROLE_CHANGES, -EIO, 0, 'a'},
	{CREATED, ROLE_CHANGES, -EIO, 0, 'a'},
	{HOT, ROLE_CHANGES, -EIO, 0, 'a'},
	{EXCLUSIVE, ROLE_CHANGES, -EIO, 0, 'a'},
	{WRITTEN, ROLE_CHANGES, 0, -EIO, 'a'},
	{COMMITTING, ROLE_CHANGES, 0, 0, 'b'},
	{RESERVED, PRIMARY_GOES, 0, -EIO, 'a'},
	{CREATED, PRIMARY_GOES, 0, -EIO, 'a'},
	{HOT, PRIMARY_GOES, 0, -EIO, 'a'},
	{EXCLUSIVE, PRIMARY_GOES, 0, -EIO, 'a'},
	{WRITTEN, PRIMARY_GOES, 0, -EIO, 'a'},
	{COMMITTING, PRIMARY_GOES, 0, 0, 'b'}, /* it has it, and so has this node */
};

static void go_on_after(struct local *l, const struct state_row *row, struct waiting *w)
{
	int result;

	if (row->stage < HOT)
		assert_int_equal(client_journal(l, 1, NULL), 0);
	if (row->stage < EXCLUSIVE)
		assert_int_equal(client_try_exclusive(l, 1), 0);
	if (row->stage < WRITTEN) {
		result = client_write(l, 1, 2, 'b');
		assert_int_equal(result, row->write);
	}
	/* After a failed write SQLite rolls back, which ends the journal, too. */
	result = row->stage < COMMITTING ? client_end(l, 1, UNLINKED) : await(w);
	assert_int_equal(result, row->end);
	assert_false(db_journal_exists(l->db));
	client_unlock(l, 1);
}

/* The primary has applied it; what its answer is worth is for db to find out. */
static void wait_had(struct local *l, uint64_t txid)
{
	int64_t until = clock_now_ns() + LONG_NS;
	struct pos pos = {0};

	while (fake_get_pos(l->rig->primary, l->name, &pos) && pos.txid != txid && clock_now_ns() < until)
		clock_sleep_ns(NS_PER_MS);
	assert_true(pos.txid == txid);
}

static void happen(struct rig *r, const struct state_row *row)
{
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	rig_hold(r, row->stage == COMMITTING);
	client_advance(l, 1, row->stage, 'b', &w);
	if (row->stage == COMMITTING)
		wait_had(l, 11);
	if (row->event == DIES)
		client_die(l, 1);
	else if (row->event == ROLE_CHANGES)
		db_role_changed(l->db);
	else
		fake_set_up(r->primary, false);
	rig_hold(r, false);
	if (row->event != DIES)
		go_on_after(l, row, &w);
	else if (row->stage == COMMITTING)
		assert_int_equal(await(&w), row->end);
	assert_int_equal(fake_count(r->primary, FAKE_TX), row->stage == COMMITTING);
	if (row->event == PRIMARY_GOES) {
		client_shared(l, 2); /* reads go on without it */
		assert_int_equal(client_read(l, 2, 2), row->sees);
		client_unlock(l, 2);
		assert_true(rig_wait_idle(l)); /* what lingers is worth nothing */
		fake_set_up(r->primary, true);
	}
	assert_goes_on(l, 2, row->sees);
}

static void each_state(enum event event)
{
	for (size_t i = 0; i < sizeof state_rows / sizeof state_rows[0]; i++)
		if (state_rows[i].event == event) {
			struct rig *r = rig_new(true);

			happen(r, &state_rows[i]);
			rig_free(r);
		}
}

static void state__owner_dies_in_each__nothing_or_all_of_it(void **state)
{
	(void)state;
	each_state(DIES);
}

static void state__role_changes_in_each__fails_before_it_is_sent_or_not_at_all(void **state)
{
	(void)state;
	each_state(ROLE_CHANGES);
}

static void state__primary_goes_in_each__fails_at_the_end_or_not_at_all(void **state)
{
	(void)state;
	each_state(PRIMARY_GOES);
}

static void owner__dies_in_a_commit_that_is_refused__no_trace(void **state)
{
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .delay_ms = 100, .status = 500,
						 .body = "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n"};
	struct rig *r = *state;
	struct waiting w;

	client_open(&r->a, 1);
	client_open(&r->a, 2);
	fake_script(r->primary, FAKE_TX, &refuses);
	client_advance(&r->a, 1, COMMITTING, 'b', &w);
	client_die(&r->a, 1);
	assert_int_equal(await(&w), -EIO);
	assert_false(db_journal_exists(r->a.db));
	assert_goes_on(&r->a, 2, 'a');
}

/* It may not read what is not committed, nor may anybody begin beside it. */
static void others__while_a_transaction_is_written__kept_out(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	client_shared(l, 2);
	client_advance(l, 1, HOT, 'b', NULL);
	assert_int_equal(client_read(l, 2, 2), 'a'); /* readers go on beside RESERVED */
	assert_int_equal(client_lock(l, 2, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE, &w), -EAGAIN);
	assert_int_equal(client_try_exclusive(l, 1), -EAGAIN);
	client_unlock(l, 2);
	assert_int_equal(client_try_shared(l, 2), -EAGAIN); /* PENDING */
	assert_int_equal(client_try_exclusive(l, 1), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), 0);
	assert_int_equal(client_read(l, 1, 2), 'b'); /* its own */
	assert_int_equal(client_read(l, 1, 3), 'a');
	assert_int_equal(rig_file(l, 2), 'a');
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 2, 'b');
}

/* Without RESERVED only to play back a hot journal, and there is none. */
static void locks__exclusive_without_reserved__refused(void **state)
{
	struct rig *r = *state;
	struct waiting w;

	client_open(&r->a, 1);
	client_shared(&r->a, 1);
	assert_int_equal(client_lock(&r->a, 1, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE, &w), -EAGAIN);
	assert_int_equal(client_lock(&r->a, 1, F_WRLCK, SQLITE_RESERVED_BYTE, 2, &w), -EAGAIN);
	client_unlock(&r->a, 1);
	/* Nor RESERVED without SHARED. */
	assert_int_equal(client_lock(&r->a, 1, F_WRLCK, SQLITE_RESERVED_BYTE, 1, &w), -EAGAIN);
	assert_goes_on(&r->a, 1, 'a');
}

/* ---- what is refused ---- */

static void assert_untouched(struct local *l)
{
	assert_int_equal(rig_file(l, 2), 'a');
	assert_int_equal(rig_file_pages(l), PAGES);
	assert_int_equal(rig_pos(l).txid, 10);
	assert_int_equal(fake_count(l->rig->primary, FAKE_TX), 0);
	assert_int_equal(db_size(l->db, FILE_DATABASE), PAGES * PAGE);
}

static void write__without_the_locks__eacces(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_open(l, 2);
	for (enum stage stage = NOTHING; stage < EXCLUSIVE; stage++) {
		client_advance(l, 1, stage, 0, NULL);
		for (uint64_t id = 1; id <= 2; id++) {
			assert_int_equal(client_write(l, id, 2, 'b'), -EACCES);
			assert_int_equal(db_truncate(l->db, (pid_t)(1000 + id), PAGE), -EACCES);
		}
		assert_int_equal(client_read(l, 1, 2), 'a');
		if (stage >= HOT)
			assert_int_equal(client_end(l, 1, UNLINKED), 0);
		client_unlock(l, 1);
	}
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write(l, 2, 2, 'b'), -EACCES); /* another process */
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_untouched(l);
	assert_goes_on(l, 2, 'a');
}

/* journal_mode MEMORY and OFF, and what is left of the header by a journal that has ended. */
static void write__without_a_hot_journal__eacces(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_reserved(l, 1);
	assert_int_equal(client_try_exclusive(l, 1), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), -EACCES);
	assert_int_equal(db_truncate(l->db, 1001, PAGE), -EACCES);
	assert_int_equal(db_journal_create(l->db), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), -EACCES);
	assert_int_equal(client_journal(l, 1, NULL), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), -EACCES);
	assert_int_equal(client_read(l, 1, 2), 'a');
	client_unlock(l, 1);
	assert_untouched(l);
	assert_goes_on(l, 1, 'a');
}

static void write__super_journal_elsewhere__eacces(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, CREATED, 0, NULL);
	assert_int_equal(client_journal(l, 1, "/elsewhere/" SUPER), 0);
	assert_int_equal(client_try_exclusive(l, 1), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), -EACCES);
	assert_int_equal(client_end(l, 1, UNLINKED), 0); /* the rollback */
	client_unlock(l, 1);
	assert_untouched(l);
	assert_goes_on(l, 1, 'a');
}

static void write__another_page_size_or_part_of_a_page__eacces(void **state)
{
	uint8_t page[2 * PAGE] = {0};
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write_page1(l, 1, 8192, 1), -EACCES);
	assert_int_equal(client_write_page1(l, 1, 65536, 1), -EACCES);
	assert_int_equal(db_write(l->db, 1001, page, 512, PAGE), -EACCES);
	assert_int_equal(db_write(l->db, 1001, page, PAGE, 512), -EACCES);
	assert_int_equal(db_write(l->db, 1001, page, PAGE + 512, PAGE), -EACCES);
	assert_int_equal(db_truncate(l->db, 1001, PAGE + 512), -EACCES);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_untouched(l);
	assert_goes_on(l, 1, 'a');
}

static void journal__not_the_writers__refused_and_kept(void **state)
{
	static const uint8_t zeros[28];
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	waiting_init(&w);
	assert_int_equal(db_journal_create(l->db), -EACCES); /* nobody writes */
	assert_false(db_journal_exists(l->db));
	assert_int_equal(db_journal_unlink(l->db, 1001, &w.call), -ENOENT);
	assert_int_equal(db_journal_truncate(l->db, 1001, 0, &w.call), -ENOENT);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_int_equal(client_end(l, 2, UNLINKED), -EBUSY);
	assert_int_equal(client_end(l, 2, TRUNCATED), -EACCES);
	assert_int_equal(client_end(l, 2, ZEROED), -EACCES);
	assert_int_equal(db_journal_write(l->db, 2, zeros, sizeof zeros, 4096, &w.call), -EACCES);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	assert_int_equal(client_end(l, 1, UNLINKED), 0); /* it is as good as ever */
	client_unlock(l, 1);
	assert_int_equal(rig_file(l, 2), 'b');
	assert_goes_on(l, 2, 'b');
}

/* TRUNCATE and PERSIST keep it open; another connection's DELETE has unlinked it. */
static void journal__unlinked_under_its_writer__begins_anew_at_its_header(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	uint8_t head[JOURNAL_MAGIC_SIZE];
	struct waiting w;

	client_open(l, 1);
	client_reserved(l, 1);
	waiting_init(&w);
	assert_false(db_journal_exists(l->db));
	assert_int_equal(db_journal_write(l->db, 1, journal_magic, JOURNAL_MAGIC_SIZE, 512, &w.call), -EACCES);
	assert_int_equal(db_journal_write(l->db, 1, journal_magic, JOURNAL_MAGIC_SIZE, 0, &w.call), 0);
	assert_int_equal(db_journal_read(l->db, head, sizeof head, 0), sizeof head);
	assert_int_equal(client_try_exclusive(l, 1), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), 0);
	assert_int_equal(client_end(l, 1, TRUNCATED), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'b');
}

static void journal__read_back__as_written(void **state)
{
	struct rig *r = *state;
	uint8_t buf[16];

	client_open(&r->a, 1);
	client_advance(&r->a, 1, HOT, 0, NULL);
	assert_int_equal(db_size(r->a.db, FILE_JOURNAL), 512 + 8 + PAGE);
	assert_int_equal(db_journal_read(r->a.db, buf, 12, 0), 12);
	assert_memory_equal(buf, journal_magic, 8);
	assert_int_equal(buf[11], 1);
	assert_int_equal(db_journal_read(r->a.db, buf, 16, 512 + 8 + PAGE - 4), 4);
	client_die(&r->a, 1);
	assert_false(db_journal_exists(r->a.db));
}

/* ---- sizes and modes ---- */

/* SQLite cuts the file after the journal's end, which is the commit: page 1 says by then how long it will be. */
static void truncate__after_the_end__smaller_by_page_1_already(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_int_equal(client_write(l, 1, 4, 'y'), 0);
	assert_int_equal(client_write_size(l, 1, 2), 0);
	assert_int_equal(db_size(l->db, FILE_DATABASE), PAGES * PAGE); /* not yet */
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	assert_int_equal(rig_file_pages(l), 2);
	assert_int_equal(db_truncate(l->db, 1001, 2 * PAGE), 0);
	client_unlock(l, 1);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 1);
	assert_goes_on(l, 1, 'b');
	assert_int_equal(db_size(l->db, FILE_DATABASE), 2 * PAGE);
}

static void truncate__vacuum__smaller_everywhere(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write(l, 1, 4, 'y'), 0); /* and then cut off */
	assert_int_equal(client_write(l, 1, 2, 'b'), 0);
	assert_int_equal(db_truncate(l->db, 1001, 2 * PAGE), 0);
	assert_int_equal(db_size(l->db, FILE_DATABASE), 2 * PAGE);
	assert_int_equal(client_read(l, 1, 3), -1);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	assert_int_equal(rig_file_pages(l), 2);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'b');
	assert_int_equal(db_size(l->db, FILE_DATABASE), 2 * PAGE);
}

static void truncate__after_page_1__smaller_everywhere(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(db_truncate(l->db, 1001, PAGES * PAGE), 0); /* as it is: nothing */
	assert_int_equal(client_write_page1(l, 1, PAGE, 1), 0); /* SQLite counts each change */
	assert_int_equal(db_truncate(l->db, 1001, 3 * PAGE), 0);
	assert_int_equal(client_read(l, 1, 3), 'a');
	assert_int_equal(client_read(l, 1, 4), -1);
	assert_int_equal(client_end(l, 1, TRUNCATED), 0);
	assert_int_equal(rig_file_pages(l), 3);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'a');
}

/* A page that was cut off and comes back is not what it was. */
static void truncate__then_grown_again__zeros_between(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(db_truncate(l->db, 1001, 2 * PAGE), 0);
	assert_int_equal(client_write(l, 1, 6, 'f'), 0);
	assert_int_equal(db_size(l->db, FILE_DATABASE), 6 * PAGE);
	assert_int_equal(client_write(l, 1, 3, 'c'), 0);
	assert_int_equal(client_write(l, 1, 4, 'd'), 0);
	assert_int_equal(client_read(l, 1, 4), 'd');
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_file_pages(l), 6);
	assert_int_equal(rig_file(l, 3), 'c');
	assert_int_equal(rig_file(l, 5), 0); /* never written */
	assert_int_equal(rig_file(l, 6), 'f');
	assert_goes_on(l, 1, 'a');
}

static void rollback__after_growth__nothing_sent_and_as_before(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_int_equal(client_write(l, 1, 6, 'f'), 0);
	/* As SQLite plays a journal back. */
	assert_int_equal(client_write(l, 1, 2, 'a'), 0);
	assert_int_equal(db_truncate(l->db, 1001, PAGES * PAGE), 0);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_untouched(l);
	assert_goes_on(l, 1, 'a');
}

static void mode__switched_to_wal__a_wal_with_its_first_frame(void **state)
{
	uint8_t head[WAL_HEADER_SIZE + WAL_FRAME_HEADER_SIZE];
	struct rig *r = *state;
	struct local *l = &r->a;
	char events[4000];
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write_page1(l, 1, PAGE, 2), 0);
	rig_take_events(r, events);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	assert_int_equal(db_mode(l->db), DB_MODE_ROLLBACK); /* its locks are still those of one */
	client_unlock(l, 1);
	client_shared(l, 2);
	assert_int_equal(db_mode(l->db), DB_MODE_WAL);
	assert_int_equal(rig_stat(l, "wal_frames"), 1);
	assert_int_equal(db_size(l->db, FILE_WAL), wal_frame_offset(2, PAGE));
	assert_int_equal(db_wal_read(l->db, head, sizeof head, 0), sizeof head);
	assert_int_equal(be32(head + WAL_HEADER_SIZE), 1); /* page 1, and a commit */
	assert_int_equal(be32(head + WAL_HEADER_SIZE + 4), PAGES);
	rig_take_events(r, events);
	assert_non_null(strstr(events, "mode;"));
	/* From now on nobody writes to the database itself, and SHARED is not to be had exclusively. */
	assert_int_equal(client_lock(l, 2, F_WRLCK, SQLITE_SHARED_FIRST, SQLITE_SHARED_SIZE, &w), -EAGAIN);
	assert_int_equal(client_write(l, 2, 2, 'b'), -EACCES);
	assert_int_equal(db_journal_create(l->db), -EACCES);
	assert_true(rig_is_exact(l));
}

static void mode__switch_fails__still_a_rollback_mode(void **state)
{
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .status = 500,
						 .body = "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n"};
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write_page1(l, 1, PAGE, 2), 0);
	fake_script(r->primary, FAKE_TX, &refuses);
	assert_int_equal(client_end(l, 1, UNLINKED), -EIO);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'a');
	assert_int_equal(db_mode(l->db), DB_MODE_ROLLBACK);
}

/* ---- behind the primary ---- */

static void reserved__behind_the_primary__busy_until_caught_up(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;
	int err;

	client_open(l, 1);
	client_shared(l, 1);
	rig_hold(r, true);
	rig_foreign(l, 'x', true);
	err = client_lock(l, 1, F_WRLCK, SQLITE_RESERVED_BYTE, 1, &w);
	assert_int_equal(settled(err, &w), -EAGAIN);
	client_unlock(l, 1);
	rig_hold(r, false);
	rig_wait_applied(r, 1);
	assert_goes_on(l, 1, 'x');
}

/* ---- locking_mode EXCLUSIVE: no lock call between transactions ---- */

static void commit_and_keep_the_locks(struct local *l, uint8_t fill)
{
	client_advance(l, 1, WRITTEN, fill, NULL);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
}

static void wait_given_back(struct local *l)
{
	assert_true(rig_wait_idle(l));
	assert_true(fake_halted_by(l->rig->primary, l->name) == 0);
}

static void exclusive_mode__between_transactions__others_get_their_turn(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	assert_int_equal(client_journal(l, 1, NULL), 0); /* waits for the next */
	assert_true(fake_halted_by(r->primary, "app.db") != 0);
	assert_int_equal(client_write(l, 1, 2, 'c'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	assert_int_equal(rig_file(l, 2), 'c');
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 2);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'c');
}

static void exclusive_mode__next_transaction_at_once__one_halt(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	r->settings.halt_linger_ms = r->settings.halt_max_hold_ms = 15000;
	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	for (uint8_t fill = 'c'; fill < 'f'; fill++) {
		assert_int_equal(client_journal(l, 1, NULL), 0);
		assert_int_equal(client_write(l, 1, 2, fill), 0);
		assert_int_equal(client_end(l, 1, ZEROED), 0);
		assert_int_equal(rig_file(l, 2), fill);
	}
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 1);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'e');
}

/* A transaction has begun with its journal's header: what it needs is not given back under it. */
static void exclusive_mode__header_in_time_and_pages_later__not_given_back_between(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	r->settings.halt_linger_ms = r->settings.halt_max_hold_ms = 300;
	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	assert_int_equal(client_journal(l, 1, NULL), 0);
	clock_sleep_ns(600 * NS_PER_MS);
	assert_int_equal(client_write(l, 1, 2, 'c'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	assert_int_equal(rig_file(l, 2), 'c');
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'c');
}

static void exclusive_mode__stray_write_between__refused_and_no_matter(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_open(l, 2);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	assert_int_equal(client_write(l, 2, 2, 'x'), -EACCES);
	assert_int_equal(client_journal(l, 1, NULL), 0);
	assert_int_equal(client_write(l, 1, 2, 'c'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 2, 'c');
}

static void exclusive_mode__rolled_back__others_get_their_turn(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	wait_given_back(l);
	assert_int_equal(client_journal(l, 1, NULL), 0);
	assert_int_equal(client_write(l, 1, 2, 'b'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	wait_given_back(l);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'b');
}

static void exclusive_mode__another_committed_between__eio_until_it_lets_go(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	rig_foreign(l, 'x', true);
	assert_int_equal(client_journal(l, 1, NULL), -EIO);
	assert_int_equal(client_write(l, 1, 2, 'c'), -EIO);
	assert_int_equal(client_end(l, 1, ZEROED), 0); /* the rollback */
	assert_int_equal(fake_count(r->primary, FAKE_TX), 1);
	client_unlock(l, 1);
	rig_wait_applied(r, 2);
	assert_goes_on(l, 1, 'x');
}

static void exclusive_mode__no_primary_between__eio_not_for_ever(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	fake_set_up(r->primary, false);
	assert_int_equal(client_journal(l, 1, NULL), -EIO);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	fake_set_up(r->primary, true);
	clock_sleep_ns(200 * NS_PER_MS);
	assert_int_equal(client_journal(l, 1, NULL), 0); /* nothing was lost: it goes on */
	assert_int_equal(client_write(l, 1, 2, 'c'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'c');
}

static int start_header(struct local *l, struct waiting *w)
{
	uint8_t header[512] = {0};

	waiting_init(w);
	memcpy(header, journal_magic, JOURNAL_MAGIC_SIZE);
	return db_journal_write(l->db, 1, header, sizeof header, 0, &w->call);
}

/* Its locks never leave LiteFS a gap, however often that is tried: no reason to fail. */
static void exclusive_mode__begin_takes_long__waited_for(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	fake_lock(r->primary, "app.db", true);
	assert_int_equal(start_header(l, &w), DB_PARKED);
	clock_sleep_ns(800 * NS_PER_MS);
	assert_true(rig_stat(l, "gates_failed") > 0);
	assert_false(is_done(&w));
	fake_lock(r->primary, "app.db", false);
	assert_int_equal(await(&w), 0);
	assert_int_equal(client_write(l, 1, 2, 'c'), 0);
	assert_int_equal(client_end(l, 1, ZEROED), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'c');
}

static void exclusive_mode__owner_dies_while_it_waits__answered(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	r->settings.halt_timeout_ms = 500;
	client_open(l, 1);
	client_open(l, 2);
	commit_and_keep_the_locks(l, 'b');
	wait_given_back(l);
	fake_lock(r->primary, "app.db", true);
	assert_int_equal(start_header(l, &w), DB_PARKED);
	client_die(l, 1);
	assert_int_equal(await(&w), -EIO);
	fake_lock(r->primary, "app.db", false);
	r->settings.halt_timeout_ms = 10000;
	assert_goes_on(l, 2, 'b');
}

/* ---- longer than the lock's life ---- */

static void transaction__longer_than_the_ttl__renewed_or_failed(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	unsigned halts;

	fake_set_ttl(r->primary, 4000, 10000);
	client_open(l, 1);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_true(fake_wait_count(r->primary, FAKE_HALT, 2));
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_file(l, 2), 'b');
	client_advance(l, 1, WRITTEN, 'c', NULL);
	halts = fake_count(r->primary, FAKE_HALT);
	rig_foreign(l, 'x', true); /* as if it had come between two locks */
	assert_true(fake_wait_count(r->primary, FAKE_HALT, halts + 1));
	assert_int_equal(client_end(l, 1, UNLINKED), -EIO);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 1);
	client_unlock(l, 1);
	rig_wait_applied(r, 2);
	assert_goes_on(l, 1, 'x');
}

/* ---- several databases in one transaction ---- */

static void begin_both(struct rig *r)
{
	rig_open(r, &r->b, "two.db", false);
	assert_int_equal(super_create(r->config.supers, SUPER), 0);
	for (int i = 0; i < 2; i++) {
		struct local *l = i ? &r->b : &r->a;

		client_open(l, 1);
		client_advance(l, 1, CREATED, 0, NULL);
		assert_int_equal(client_journal(l, 1, "/mnt/" SUPER), 0);
		assert_int_equal(client_try_exclusive(l, 1), 0);
		assert_int_equal(client_write(l, 1, 2, 'b'), 0);
	}
}

static int commit_super(struct local *l, const char *super)
{
	struct waiting w;

	waiting_init(&w);
	return settled(db_commit_super(l->db, super, &w.call), &w);
}

static void super__two_databases__both_committed_at_its_end(void **state)
{
	struct rig *r = *state;

	begin_both(r);
	assert_int_equal(commit_super(&r->a, "another-mj0123AB9CD"), 0); /* not theirs */
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	assert_int_equal(commit_super(&r->a, SUPER), 0);
	assert_int_equal(commit_super(&r->b, SUPER), 0);
	assert_int_equal(super_unlink(r->config.supers, SUPER), 0);
	assert_int_equal(rig_file(&r->a, 2), 'b');
	assert_int_equal(rig_file(&r->b, 2), 'b');
	/* What is left of the journals says nothing any more, however it ends. */
	assert_int_equal(client_end(&r->a, 1, UNLINKED), 0);
	assert_int_equal(client_end(&r->b, 1, TRUNCATED), 0); /* PERSIST, too, after a super-journal */
	assert_int_equal(fake_count(r->primary, FAKE_TX), 2);
	client_unlock(&r->a, 1);
	client_unlock(&r->b, 1);
	assert_goes_on(&r->a, 1, 'b');
	assert_goes_on(&r->b, 1, 'b');
}

/* SQLite rolls back, and so takes back the one that was committed: by a transaction of its own. */
static void super__second_fails__eio_and_the_first_can_be_taken_back(void **state)
{
	static const struct fake_step honest = {.does = FAKE_HONEST};
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .status = 500,
						 .body = "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n"};
	struct rig *r = *state;
	uint8_t page1[PAGE];

	assert_int_equal(db_read(r->a.db, 1001, page1, PAGE, 0), PAGE);
	begin_both(r);
	client_open(&r->a, 2);
	fake_script(r->primary, FAKE_TX, &honest);
	fake_script(r->primary, FAKE_TX, &refuses);
	assert_int_equal(commit_super(&r->a, SUPER), 0);
	assert_int_equal(commit_super(&r->b, SUPER), -EIO);
	assert_int_equal(rig_file(&r->a, 2), 'b');
	assert_int_equal(rig_file(&r->b, 2), 'a');
	assert_true(db_journal_exists(r->a.db));
	assert_true(super_exists(r->config.supers, SUPER));
	assert_false(db_journal_exists(r->b.db));
	client_unlock(&r->b, 1);
	clock_sleep_ns(100 * NS_PER_MS); /* however long it took to find that out */
	assert_int_equal(client_write(&r->a, 1, 2, 'a'), 0);
	assert_int_equal(db_write(r->a.db, 1001, page1, PAGE, 0), 0); /* the change counter, too */
	assert_int_equal(client_end(&r->a, 1, UNLINKED), 0);
	client_unlock(&r->a, 1);
	assert_int_equal(rig_file(&r->a, 2), 'a');
	assert_int_equal(rig_pos(&r->a).txid, 12);
	/* It is the very state that it was: whoever has cached it may go on. */
	assert_goes_on(&r->a, 2, 'a');
	assert_goes_on(&r->a, 1, 'z');
	assert_goes_on(&r->b, 1, 'a');
}

static void super__owner_dies_after_its_commit__no_journal_left(void **state)
{
	struct rig *r = *state;

	begin_both(r);
	assert_int_equal(commit_super(&r->a, SUPER), 0);
	client_die(&r->a, 1);
	client_die(&r->b, 1);
	assert_false(db_journal_exists(r->a.db) || db_journal_exists(r->b.db));
	client_open(&r->a, 2);
	client_open(&r->b, 2);
	assert_goes_on(&r->a, 2, 'b');
	assert_goes_on(&r->b, 2, 'a'); /* before the point of no return: in parts, as SQLite's own journals would not be */
}

/* ---- this node is the primary ---- */

static void setup_primary(struct rig *r)
{
	rig_make_primary(r);
	db_role_changed(r->a.db);
	client_open(&r->a, 1);
	client_open(&r->a, 2);
}

static void primary__commit_and_rollback__by_litefs_own_locks(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	setup_primary(r);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_file(l, 2), 'b');
	client_advance(l, 2, WRITTEN, 'c', NULL);
	assert_int_equal(client_write(l, 2, 2, 'b'), 0);
	assert_int_equal(client_end(l, 2, UNLINKED), 0);
	client_unlock(l, 2);
	assert_int_equal(rig_stat(l, "commits_self"), 1);
	assert_int_equal(rig_stat(l, "commits_empty"), 1);
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 0);
	assert_goes_on(l, 2, 'b');
}

static void primary__direct_reader_stays__eio_and_nothing_sent(void **state)
{
	struct flock shared = {.l_type = F_RDLCK, .l_start = SQLITE_SHARED_FIRST, .l_len = SQLITE_SHARED_SIZE};
	struct rig *r = *state;
	struct local *l = &r->a;

	setup_primary(r);
	r->settings.commit_timeout_ms = 400;
	assert_int_equal(fcntl(l->db_fd, F_OFD_SETLK, &shared), 0);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	assert_int_equal(client_end(l, 1, UNLINKED), -EIO);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	assert_false(db_journal_exists(l->db));
	client_unlock(l, 1);
	client_shared(l, 2); /* beside it */
	assert_int_equal(client_read(l, 2, 2), 'a');
	client_unlock(l, 2);
	shared.l_type = F_UNLCK;
	assert_int_equal(fcntl(l->db_fd, F_OFD_SETLK, &shared), 0);
	r->settings.commit_timeout_ms = 15000;
	assert_goes_on(l, 2, 'a');
}

static void primary__answer_lost__committed_by_the_evidence(void **state)
{
	static const struct fake_step answer_lost = {.does = FAKE_LOSE_ANSWER};
	struct rig *r = *state;
	struct local *l = &r->a;

	setup_primary(r);
	client_advance(l, 1, WRITTEN, 'b', NULL);
	fake_script(r->primary, FAKE_TX, &answer_lost);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_file(l, 2), 'b');
	assert_int_equal(rig_stat(l, "unknown"), 0);
	client_shared(l, 2);
	assert_int_equal(client_read(l, 2, 2), 'b');
	client_unlock(l, 2);
}

/* ---- life ---- */

static int create_first(struct local *l, uint64_t id, struct waiting *w)
{
	client_reserved(l, id);
	assert_int_equal(client_read(l, id, 1), -1);
	assert_int_equal(client_journal(l, id, NULL), 0);
	assert_int_equal(client_try_exclusive(l, id), 0);
	assert_int_equal(client_write_page1(l, id, PAGE, 1), 0);
	assert_int_equal(client_write(l, id, 2, 'b'), 0);
	return client_start_end(l, id, UNLINKED, w);
}

static void open__absent__only_where_it_is_to_be_created(void **state)
{
	struct rig *r = *state;
	struct db *db = NULL;

	assert_int_equal(db_open(&r->config, "none.db", false, r, &db), -ENOENT);
	assert_null(db);
	assert_int_equal(rig_stat(&r->a, "absent"), 1);
	assert_true(db_exists(r->a.db) && db_is_virgin(r->a.db));
	assert_int_equal(db_mode(r->a.db), DB_MODE_ROLLBACK);
	assert_int_equal(db_size(r->a.db, FILE_DATABASE), 0);
	client_open(&r->a, 1);
	client_shared(&r->a, 1);
	assert_int_equal(client_read(&r->a, 1, 1), -1);
	client_unlock(&r->a, 1);
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 0); /* nothing is asked of anybody */
}

static void create__first_commit__litefs_has_it(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	assert_int_equal(settled(create_first(l, 1, &w), &w), 0);
	assert_int_equal(rig_stat(l, "absent"), 0);
	assert_false(db_is_virgin(l->db));
	client_unlock(l, 1);
	assert_int_equal(rig_pos(l).txid, 1);
	assert_int_equal(rig_file_pages(l), 2);
	assert_true(rig_is_exact(l));
	assert_goes_on(l, 2, 'b');
}

static void create__on_the_primary__by_its_own_halt(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	setup_primary(r);
	assert_int_equal(settled(create_first(l, 1, &w), &w), 0);
	client_unlock(l, 1);
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 1);
	assert_true(fake_halted_by(r->primary, "app.db") == 0);
	assert_int_equal(rig_pos(l).txid, 1);
	client_shared(l, 2);
	assert_int_equal(client_read(l, 2, 2), 'b');
	client_unlock(l, 2);
	client_commit(l, 2, 'c'); /* and from now on by LiteFS' locks */
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 1);
	assert_int_equal(rig_file(l, 2), 'c');
}

static void create__refused_or_owner_dies__still_empty(void **state)
{
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .status = 500,
						 .body = "write ltx file: ltx validation error: unexpected EOF\n"};
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_open(l, 2);
	fake_script(r->primary, FAKE_TX, &refuses);
	assert_int_equal(settled(create_first(l, 1, &w), &w), -EIO);
	assert_false(db_journal_exists(l->db));
	client_unlock(l, 1);
	client_reserved(l, 2);
	assert_int_equal(client_read(l, 2, 1), -1);
	assert_int_equal(client_journal(l, 2, NULL), 0);
	assert_int_equal(client_try_exclusive(l, 2), 0);
	assert_int_equal(client_write_page1(l, 2, PAGE, 1), 0);
	assert_int_equal(client_read(l, 2, 1), 'S');
	client_die(l, 2);
	assert_int_equal(rig_stat(l, "absent"), 1);
	assert_int_equal(settled(create_first(l, 1, &w), &w), 0);
	client_unlock(l, 1);
	assert_goes_on(l, 1, 'b');
}

static void create__no_database__eacces(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(client_write(l, 1, 1, 'x'), -EACCES);
	assert_int_equal(db_write(l->db, 1001, "x", 1, PAGE), -EACCES); /* SQLite writes pages, in any order */
	assert_int_equal(db_truncate(l->db, 1001, PAGE), -EINVAL);
	assert_int_equal(client_end(l, 1, UNLINKED), 0);
	client_unlock(l, 1);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	assert_true(db_is_virgin(l->db));
}

/* An absent database is looked for again by the first reader after a pause of 2 ms: nothing of LiteFS' is held meanwhile. */
static void wait_seen(struct local *l, uint64_t id, int want)
{
	int64_t until = clock_now_ns() + LONG_NS;
	int sees = -1;

	while (sees == -1 && clock_now_ns() < until) {
		client_shared(l, id);
		sees = client_read(l, id, 2);
		client_unlock(l, id);
		clock_sleep_ns(5 * NS_PER_MS);
	}
	assert_int_equal(sees, want);
}

/* Two nodes at once: the second finds the first one's. */
static void create__another_was_quicker__busy_then_seen(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;
	int err;

	client_open(l, 1);
	client_shared(l, 1);
	rig_hold(r, true);
	rig_create_here(l, 'x');
	err = client_lock(l, 1, F_WRLCK, SQLITE_RESERVED_BYTE, 1, &w);
	assert_int_equal(settled(err, &w), -EAGAIN);
	client_unlock(l, 1);
	rig_hold(r, false);
	rig_wait_applied(r, 1);
	wait_seen(l, 1, 'x');
	assert_goes_on(l, 1, 'x');
	assert_int_equal(rig_pos(l).txid, 2);
}

static void life__dropped_and_made_again_elsewhere__followed(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	client_shared(l, 1);
	assert_int_equal(client_read(l, 1, 2), 'a');
	client_unlock(l, 1);
	rig_drop_here(l);
	rig_wait_applied(r, 1);
	assert_false(db_exists(l->db));
	assert_false(db_is_virgin(l->db));
	assert_int_equal(rig_stat(l, "absent"), 1);
	assert_int_equal(db_size(l->db, FILE_DATABASE), 0);
	assert_int_equal(client_try_shared(l, 1), -EIO);
	client_die(l, 1); /* what it knows is of the dropped one */
	client_open(l, 1);
	rig_create_here(l, 'y');
	rig_wait_applied(r, 2);
	assert_true(db_exists(l->db));
	wait_seen(l, 1, 'y');
	assert_goes_on(l, 1, 'y');
	assert_int_equal(rig_pos(l).txid, 13);
	assert_int_equal(db_size(l->db, FILE_DATABASE), 2 * PAGE);
}

static void life__dropped_elsewhere_and_created_here__not_a_snapshot(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	rig_drop_here(l);
	rig_wait_applied(r, 1);
	assert_false(db_exists(l->db));
	client_die(l, 1); /* what it knows is of the dropped one */
	client_open(l, 1);
	db_create(l->db);
	assert_true(db_exists(l->db) && db_is_virgin(l->db));
	assert_int_equal(settled(create_first(l, 1, &w), &w), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_pos(l).txid, 12);
	assert_goes_on(l, 1, 'b');
}

/* LiteFS keeps a name's page size, and ends itself at another. */
static void life__created_again_with_another_page_size__eio_and_nothing_sent(void **state)
{
	uint8_t page[1024] = "SQLite format 3";
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	rig_drop_here(l);
	rig_wait_applied(r, 1);
	assert_false(db_exists(l->db));
	client_die(l, 1); /* what it knows is of the dropped one */
	client_open(l, 1);
	db_create(l->db);
	page[16] = 4;
	page[18] = page[19] = 1;
	client_advance(l, 1, EXCLUSIVE, 0, NULL);
	assert_int_equal(db_write(l->db, 1001, page, sizeof page, 0), 0);
	assert_int_equal(client_end(l, 1, UNLINKED), -EIO);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_stat(l, "absent"), 1);
}

static int unlink_db(struct local *l)
{
	struct waiting w;

	waiting_init(&w);
	return settled(db_unlink(l->db, &w.call), &w);
}

static void unlink__never_written__gone_and_nobody_asked(void **state)
{
	struct rig *r = *state;

	assert_int_equal(unlink_db(&r->a), 0);
	assert_false(db_exists(r->a.db) || db_is_virgin(r->a.db));
	assert_int_equal(unlink_db(&r->a), -ENOENT);
	db_create(r->a.db);
	assert_true(db_exists(r->a.db) && db_is_virgin(r->a.db));
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 0);
}

static void unlink__locked_in_each_state__ebusy_and_kept(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	for (enum stage stage = SHARED; stage <= COMMITTING; stage++) {
		client_open(l, (uint64_t)stage);
		rig_hold(r, stage == COMMITTING);
		client_advance(l, (uint64_t)stage, stage, 'b', &w);
		assert_int_equal(unlink_db(l), -EBUSY);
		rig_hold(r, false);
		if (stage == COMMITTING)
			assert_int_equal(await(&w), 0);
		client_die(l, (uint64_t)stage);
	}
	assert_true(db_exists(l->db));
	assert_goes_on(l, 1, 'b');
}

static void unlink__free__dropped_everywhere(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;
	struct waiting w;

	client_open(l, 1);
	client_commit(l, 1, 'b');
	assert_int_equal(unlink_db(l), 0);
	assert_int_equal(rig_pos(l).txid, 12);
	assert_true(rig_pos(l).checksum == LTX_CHECKSUM_FLAG);
	assert_int_equal(l->db_fd, -1);
	assert_false(db_exists(l->db));
	assert_true(fake_halted_by(r->primary, "app.db") == 0);
	assert_int_equal(unlink_db(l), -ENOENT);
	client_die(l, 1); /* what it knows is of the dropped one */
	client_open(l, 1);
	db_create(l->db);
	assert_int_equal(settled(create_first(l, 1, &w), &w), 0);
	client_unlock(l, 1);
	assert_int_equal(rig_pos(l).txid, 13);
	assert_goes_on(l, 1, 'b');
}

static void unlink__open_in_litefs_own_directory__ebusy_and_kept(void **state)
{
	struct flock shared = {.l_type = F_RDLCK, .l_start = SQLITE_SHARED_FIRST, .l_len = SQLITE_SHARED_SIZE};
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	fake_set_locks(r->primary, "app.db", "shared", "unlocked"); /* on the primary */
	assert_int_equal(unlink_db(l), -EBUSY);
	fake_set_locks(r->primary, "app.db", "unlocked", "unlocked");
	assert_int_equal(fcntl(l->db_fd, F_OFD_SETLK, &shared), 0); /* on this node */
	assert_int_equal(unlink_db(l), -EBUSY);
	shared.l_type = F_UNLCK;
	assert_int_equal(fcntl(l->db_fd, F_OFD_SETLK, &shared), 0);
	assert_int_equal(fake_count(r->primary, FAKE_TX), 0);
	assert_true(db_exists(l->db));
	assert_goes_on(l, 1, 'a');
}

static void unlink__each_failure__the_database_as_it_was(void **state)
{
	static const struct fake_step refuses = {.does = FAKE_ANSWER, .status = 500,
						 .body = "write ltx file: pre-apply checksum mismatch: 1, expecting 2\n"};
	struct rig *r = *state;
	struct local *l = &r->a;

	client_open(l, 1);
	fake_script(r->primary, FAKE_TX, &refuses);
	assert_int_equal(unlink_db(l), -EIO);
	assert_true(db_exists(l->db));
	fake_set_up(r->primary, false);
	assert_int_not_equal(unlink_db(l), 0);
	fake_set_up(r->primary, true);
	assert_true(db_exists(l->db));
	assert_goes_on(l, 1, 'a');
}

static void unlink__on_the_primary__under_litefs_own_locks(void **state)
{
	struct rig *r = *state;
	struct local *l = &r->a;

	setup_primary(r);
	client_commit(l, 1, 'b');
	assert_int_equal(unlink_db(l), 0);
	assert_int_equal(fake_count(r->primary, FAKE_HALT), 0);
	assert_int_equal(rig_pos(l).txid, 12);
	assert_false(db_exists(l->db));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_ABSENT(f) cmocka_unit_test_setup_teardown(f, setup_absent, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(end__all_well__committed_here_and_there),
		cmocka_unit_test(end__same_bytes__a_rollback_and_nothing_sent),
		cmocka_unit_test(end__refused__eio_and_nothing_changed),
		cmocka_unit_test(end__primary_gone_before__eio_and_nothing_sent),
		cmocka_unit_test(end__role_changed_before__eio_and_nothing_sent),
		cmocka_unit_test(end__lost_before_the_primary_had_it__eio_and_nothing_changed),
		cmocka_unit_test(end__answer_lost_and_replicated__committed),
		cmocka_unit_test(end__primary_gone_in_the_middle__eio_and_unknown),
		cmocka_unit_test(end__another_transaction_came_instead__eio_and_that_one_seen),
		cmocka_unit_test(state__owner_dies_in_each__nothing_or_all_of_it),
		cmocka_unit_test(state__role_changes_in_each__fails_before_it_is_sent_or_not_at_all),
		cmocka_unit_test(state__primary_goes_in_each__fails_at_the_end_or_not_at_all),
		TEST(owner__dies_in_a_commit_that_is_refused__no_trace),
		TEST(others__while_a_transaction_is_written__kept_out),
		TEST(locks__exclusive_without_reserved__refused),
		TEST(write__without_the_locks__eacces),
		TEST(write__without_a_hot_journal__eacces),
		TEST(write__super_journal_elsewhere__eacces),
		TEST(write__another_page_size_or_part_of_a_page__eacces),
		TEST(journal__not_the_writers__refused_and_kept),
		TEST(journal__unlinked_under_its_writer__begins_anew_at_its_header),
		TEST(journal__read_back__as_written),
		TEST(truncate__after_the_end__smaller_by_page_1_already),
		TEST(truncate__vacuum__smaller_everywhere),
		TEST(truncate__after_page_1__smaller_everywhere),
		TEST(truncate__then_grown_again__zeros_between),
		TEST(rollback__after_growth__nothing_sent_and_as_before),
		TEST(mode__switched_to_wal__a_wal_with_its_first_frame),
		TEST(mode__switch_fails__still_a_rollback_mode),
		TEST(reserved__behind_the_primary__busy_until_caught_up),
		TEST(exclusive_mode__between_transactions__others_get_their_turn),
		TEST(exclusive_mode__next_transaction_at_once__one_halt),
		TEST(exclusive_mode__header_in_time_and_pages_later__not_given_back_between),
		TEST(exclusive_mode__stray_write_between__refused_and_no_matter),
		TEST(exclusive_mode__rolled_back__others_get_their_turn),
		TEST(exclusive_mode__another_committed_between__eio_until_it_lets_go),
		TEST(exclusive_mode__no_primary_between__eio_not_for_ever),
		TEST(exclusive_mode__begin_takes_long__waited_for),
		TEST(exclusive_mode__owner_dies_while_it_waits__answered),
		TEST(transaction__longer_than_the_ttl__renewed_or_failed),
		TEST(super__two_databases__both_committed_at_its_end),
		TEST(super__second_fails__eio_and_the_first_can_be_taken_back),
		TEST(super__owner_dies_after_its_commit__no_journal_left),
		TEST(primary__commit_and_rollback__by_litefs_own_locks),
		TEST(primary__direct_reader_stays__eio_and_nothing_sent),
		TEST(primary__answer_lost__committed_by_the_evidence),
		TEST_ABSENT(open__absent__only_where_it_is_to_be_created),
		TEST_ABSENT(create__first_commit__litefs_has_it),
		TEST_ABSENT(create__on_the_primary__by_its_own_halt),
		TEST_ABSENT(create__refused_or_owner_dies__still_empty),
		TEST_ABSENT(create__no_database__eacces),
		TEST_ABSENT(create__another_was_quicker__busy_then_seen),
		TEST(life__dropped_and_made_again_elsewhere__followed),
		TEST(life__dropped_elsewhere_and_created_here__not_a_snapshot),
		TEST(life__created_again_with_another_page_size__eio_and_nothing_sent),
		TEST_ABSENT(unlink__never_written__gone_and_nobody_asked),
		TEST(unlink__locked_in_each_state__ebusy_and_kept),
		TEST(unlink__free__dropped_everywhere),
		TEST(unlink__open_in_litefs_own_directory__ebusy_and_kept),
		TEST(unlink__each_failure__the_database_as_it_was),
		TEST(unlink__on_the_primary__under_litefs_own_locks),
	};
	int failed;

	if (api_global_init())
		return 1;
	cmocka_set_test_filter(getenv("FILTER"));
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	api_global_fini();
	return failed;
}
