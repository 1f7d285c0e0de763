/*
 * The window of a commit that went to another node: LiteFS here gets its locks, applies our transaction, and
 * the guard is taken back. Readers go on meanwhile, by undo (I2).
 */
#include <errno.h>
#include <stdlib.h>

#include "db/db_commit.h"
#include "db/db_internal.h"

#define WIDEN_NS (15 * NS_PER_MS)
#define SOON_NS (3 * NS_PER_MS / 2)
#define LEND_MIN_NS (20 * NS_PER_MS) /* what a waiter needs that has waited for some 100 ms */

int db_files_get(struct db *db)
{
	int err;

	pthread_mutex_lock(&db->mu);
	err = db_files_get_locked(db);
	pthread_mutex_unlock(&db->mu);
	return err;
}

void db_files_put(struct db *db, int err)
{
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

bool db_is_absent(struct db *db)
{
	bool absent;

	pthread_mutex_lock(&db->mu);
	absent = db->absent;
	pthread_mutex_unlock(&db->mu);
	return absent;
}

/* Of a database that this commit creates: its files come when LiteFS has applied it. */
static int created_pos(struct db *db)
{
	int err;

	pthread_mutex_lock(&db->mu);
	db_token_enter_locked(db);
	pthread_mutex_unlock(&db->mu);
	err = db_appear(db, true);
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	pthread_mutex_unlock(&db->mu);
	return err;
}

/* LiteFS' position here; -ENOTCONN while it is gone, -ENOENT while it does not have the database. */
int db_local_pos(struct db *db, struct pos *ret)
{
	int err;

	if (db_is_absent(db)) {
		err = created_pos(db);
		if (err)
			return err;
	}
	err = db_files_get(db);
	if (err)
		return err;
	err = lfs_files_pos(&db->files, ret);
	db_files_put(db, err);
	return err;
}

void db_open_window(struct db *db, struct pos after)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (db->window) {
		pthread_mutex_unlock(&db->mu);
		return;
	}
	db_token_enter_locked(db);
	db->window = db->files_ok;
	db->pending = after;
	if (db->guard_held) {
		db->guard_held = false;
		db->guard_epoch++;
		pthread_mutex_unlock(&db->mu);
		/* A LiteFS that knows it in a rollback mode waits for SHARED as well. */
		err = db->mode == DB_MODE_WAL ? guard_give_read0(&db->guard) : guard_give_readers(&db->guard);
		pthread_mutex_lock(&db->mu);
	}
	db_token_leave_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

/* LiteFS does not come: it may take this database for one in a rollback mode, which waits for SHARED. */
static void widen_window(struct db *db)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	db_token_enter_locked(db);
	if (db->window && db->files_ok) {
		pthread_mutex_unlock(&db->mu);
		err = guard_give_readers(&db->guard);
		pthread_mutex_lock(&db->mu);
	}
	db_token_leave_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

/* Takes the guard back, as long as it takes LiteFS to finish what it is applying. 0, or LiteFS is gone. */
int db_take_back_guard(struct db *db)
{
	int err = -EAGAIN;

	for (int64_t pause_ns = 50 * NS_PER_US; err == -EAGAIN;) {
		pthread_mutex_lock(&db->mu);
		db_token_enter_locked(db);
		if (!db->files_ok || !db->window) {
			err = -ENOTCONN;
		} else {
			pthread_mutex_unlock(&db->mu);
			err = guard_take_readers(&db->guard);
			pthread_mutex_lock(&db->mu);
			if (!err) {
				db->guard_held = true;
				db->guard_epoch++;
				db->guard_since_ns = db->idle_since_ns = clock_now_ns();
			}
		}
		db_token_leave_locked(db);
		if (err == -EAGAIN && db_is_over(db))
			err = -ENOTCONN;
		pthread_mutex_unlock(&db->mu);
		if (err == -EAGAIN) {
			clock_sleep_ns(pause_ns);
			if (pause_ns < 2 * NS_PER_MS)
				pause_ns += pause_ns / 4;
		}
	}
	return err;
}

/* A position that is neither what was nor what we sent, under readers: nobody reads a torn snapshot (I7). */
void db_close_window_locked(struct db *db, bool ours)
{
	if (!ours) {
		db->rebuild = true;
		db_poison_locked(db);
	}
	db->window = false;
	pthread_cond_broadcast(&db->changed);
	pthread_cond_signal(&db->g_cond);
}

bool db_role_moves(struct db *db)
{
	struct role_state *role = calloc(1, sizeof *role);
	bool moves;

	if (!role)
		return false;
	role_get(db->config->role, role);
	moves = role->kind == ROLE_UNKNOWN && role->local_alive;
	free(role);
	return moves;
}

/*
 * LiteFS takes all locks of each database when it loses its primary or its lease, and waits for them for ever before it
 * follows anybody or takes over. It changes nothing meanwhile, so readers need not go: the guard does, for as long as
 * LiteFS' waiter needs to look again, and as long as it has the locks then.
 */
void db_lend_guard(struct db *db)
{
	int64_t now = clock_now_ns(), until, since;
	struct pos tip, pos;
	bool ours;
	int err;

	pthread_mutex_lock(&db->mu);
	tip = db->tip;
	db->lending = true;
	since = now - db->role_changed_ns;
	pthread_mutex_unlock(&db->mu);
	until = now + (since < 4 * LONG_PAUSE_NS ? LEND_MIN_NS : LONG_PAUSE_NS);
	db_open_window(db, tip);
	widen_window(db);
	while (clock_now_ns() < until && !db->stop && db_role_moves(db))
		clock_sleep_ns(NS_PER_MS / 2);
	err = db_take_back_guard(db);
	if (!err)
		err = db_local_pos(db, &pos);
	pthread_mutex_lock(&db->mu);
	ours = !err && db_pos_fits_locked(db, pos);
	db->stats.lends++;
	db->lending = false;
	db_close_window_locked(db, ours);
	pthread_mutex_unlock(&db->mu);
}

/* Until LiteFS here stands at `after`, or at something else, or until_ns. 1 there, 0 not yet, -ESTALE elsewhere. */
int db_await_pos(struct db *db, struct pos after, int64_t until_ns)
{
	int64_t pause_ns = 40 * NS_PER_US;
	int64_t start_ns = clock_now_ns(), widen_ns = start_ns + WIDEN_NS;
	uint64_t seen_txid = 0;

	for (;;) {
		struct pos pos;
		int err = db_local_pos(db, &pos);

		if (!err && pos.txid != seen_txid)
			db_note_litefs_pos(db, pos);
		seen_txid = err ? seen_txid : pos.txid;
		if (!err && pos_equal(pos, after))
			return 1;
		if (!err && pos.txid >= after.txid)
			return -ESTALE;
		if (clock_now_ns() >= until_ns || db_is_over(db))
			return 0;
		if (clock_now_ns() >= widen_ns) {
			widen_window(db);
			widen_ns = INT64_MAX;
		}
		clock_sleep_ns(pause_ns);
		/* It mostly comes with the answer: a look costs a page of the kernel's cache. */
		if (pause_ns < NS_PER_MS && clock_now_ns() - start_ns > SOON_NS)
			pause_ns += pause_ns / 4;
	}
}
