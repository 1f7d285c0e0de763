/*
 * Sessions: other nodes' litefwd that write this database here, on the primary (db.h, "Gateway"). db_turns.c says who is next.
 *
 *   begin --> waits --its turn, WRITE free, upstream held, view valid--> held --end, lease over, doomed, poison--> gone
 *               `--time is over--> gone                                  held --commit--> (UP_COMMIT) --> held
 *
 * What is held is WRITE in the lock table, by an owner of the session's id, and a reader's claim on the guard
 * (db_readers_locked() counts it): so it is to the rest of db what a client of this node is. WRITE is LiteFS' too, by the self upstream.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "db/db_commit.h"
#include "db/db_internal.h"
#include "litefs/gw_proto.h"

#define SESSIONS_MAX 64
#define LEASE_NS (GW_LEASE_MS * NS_PER_MS)

static struct db_session *find(const struct db *db, uint64_t id)
{
	for (struct db_session *s = db->sessions; s; s = s->next)
		if (s->id == id)
			return s;
	return NULL;
}

static void unlink_session(struct db *db, struct db_session *s)
{
	struct db_session **pp = &db->sessions;

	while (*pp != s)
		pp = &(*pp)->next;
	*pp = s->next;
}

/* Not in the middle of its commit. */
static void drop(struct db *db, struct db_session *s)
{
	unlink_session(db, s);
	if (s->held) {
		db->holder = NULL;
		db_session_unlock_locked(db, s->id);
	}
	free(s);
}

/* What each answer says. */
static void describe(const struct db *db, struct db_gw_call *call)
{
	call->pos = db->tip;
	call->waiting = db_count_waiting_locked(db);
}

static void answer_wait(struct db *db, struct db_session *s, int result)
{
	struct db_gw_call *call = s->call;

	s->call = NULL;
	describe(db, call);
	call->call.done(&call->call, result);
}

static void want_guard_locked(struct db *db)
{
	db->want_guard = true;
	pthread_cond_signal(&db->g_cond);
}

/* May a session be given WRITE now? What is missing is asked for. */
static bool can_hold_locked(struct db *db)
{
	int64_t now = clock_now_ns();

	if (db->holder || db->stop || db->absent || db->mode != DB_MODE_WAL || db_writer_locked(db) || db->locks.exclusive[SLOT_HALT])
		return false;
	if (db->poison || db->must_fold || db->need_ckpt || db->gate_closed || db->switching || db->drop_call)
		return false;
	if (db->up_state == UP_IDLE && now >= db->begin_retry_ns && !(db->yielding && now < db->pause_until_ns)) {
		db->want_begin = true; /* U takes the guard as well */
		pthread_cond_signal(&db->u_cond);
	}
	if (db->up_state != UP_HELD || db->doomed || db->end_wanted || db->renewing || db->catching || !db->up_is_self)
		return false;
	if (!(db->guard_held && db->valid) || db->restarting) {
		want_guard_locked(db);
		return false;
	}
	if (db->up_rollback) {
		db->end_wanted = true; /* the journal mode has changed since: LiteFS' other lock */
		pthread_cond_signal(&db->u_cond);
		return false;
	}
	return pos_equal(db->up_pos, db->tip);
}

/* 0, or -ENOMEM. */
static int hold(struct db *db, struct db_session *s)
{
	struct lock_owner *owner = lock_owner_get(&db->locks, s->id, -1);

	if (!owner)
		return -ENOMEM;
	db_turn_start_locked(db, s->peer);
	db_grant_write_locked(db, owner);
	db->holder = s;
	s->held = true;
	s->lease_ns = clock_now_ns() + LEASE_NS;
	return 0;
}

bool db_offer_session_locked(struct db *db)
{
	struct db_session *s = db_next_session_locked(db);
	int err;

	if (!s || !can_hold_locked(db))
		return false;
	err = hold(db, s);
	answer_wait(db, s, err);
	if (err)
		drop(db, s);
	return !err;
}

void db_refuse_sessions_locked(struct db *db, int result)
{
	struct db_session *s, *next;

	for (s = db->sessions; s; s = next) {
		next = s->next;
		if (s->held)
			continue;
		answer_wait(db, s, result);
		drop(db, s);
	}
}

/*
 * A session never outlives the LiteFS lock that it was given: else it might commit under the next one, when its node has found
 * out by a HALT in between that it did not.
 */
void db_end_holder_locked(struct db *db)
{
	if (db->holder && !db->holder->committing)
		drop(db, db->holder);
}

static bool is_lost_locked(const struct db *db, const struct db_session *s, int64_t now)
{
	return now >= s->lease_ns || db->poison || db->doomed || db->up_state == UP_IDLE || db->up_state == UP_END;
}

/* True: one is gone, and perhaps others with it. */
static bool drop_one_locked(struct db *db, int64_t now)
{
	for (struct db_session *s = db->sessions; s; s = s->next) {
		if (s->held && !s->committing && is_lost_locked(db, s, now)) {
			if (now >= s->lease_ns)
				log_warn("gateway_lease_over", "db=%s peer=%016" PRIx64 " do=\"look at that node\"", db->name, s->peer);
			drop(db, s);
			return true;
		}
		if (!s->held && (now >= s->until_ns || db->absent || db->mode != DB_MODE_WAL)) {
			answer_wait(db, s, now >= s->until_ns ? -EAGAIN : -ENOTSUP);
			drop(db, s);
			return true;
		}
	}
	return false;
}

void db_tick_sessions_locked(struct db *db, int64_t now, int64_t *next_ns)
{
	if (!db->sessions)
		return;
	while (drop_one_locked(db, now))
		;
	if (!db->holder && db_session_is_next_locked(db))
		db_offer_session_locked(db);
	/* What is waited for wakes G; this is for leases, and for what does not. */
	if (db->sessions && *next_ns > now + 5 * NS_PER_MS)
		*next_ns = now + 5 * NS_PER_MS;
}

/* ---- the calls ---- */

static int begin_locked(struct db *db, struct db_session *s, struct db_gw_call *call)
{
	struct db_session **tail = &db->sessions;
	unsigned n = 0;
	int err;

	for (; *tail; tail = &(*tail)->next)
		n++;
	if (n >= SESSIONS_MAX)
		return -EBUSY;
	if (!n) { /* whoever writes now is of this node */
		db_turn_start_locked(db, 0);
		db->local_until_ns = db_writer_locked(db) ? INT64_MAX : 0;
	}
	*tail = s;
	if (db_next_session_locked(db) == s && db_session_is_next_locked(db) && can_hold_locked(db)) {
		err = hold(db, s);
		if (err) {
			unlink_session(db, s);
			return err;
		}
		describe(db, call);
		return 0;
	}
	s->call = call;
	pthread_cond_signal(&db->g_cond);
	return DB_PARKED;
}

int db_gw_begin(struct db *db, uint64_t id, uint64_t peer, int64_t until_ns, struct db_gw_call *call)
{
	struct db_session *s, *fresh;
	int err;

	call->id = id;
	if (role_kind_now(db->config->role) != ROLE_PRIMARY)
		return -EHOSTUNREACH;
	fresh = calloc(1, sizeof *fresh);
	if (!fresh)
		return -ENOMEM;
	pthread_mutex_lock(&db->mu);
	s = find(db, id);
	if (s && !s->held) {
		err = -EALREADY;
	} else if (s) {
		err = is_lost_locked(db, s, clock_now_ns()) ? -EPERM : 0;
		if (!err) {
			s->lease_ns = clock_now_ns() + LEASE_NS;
			describe(db, call);
		}
	} else if (db->stop || db->absent || db->mode != DB_MODE_WAL || lock_owner_find(&db->locks, id)) {
		err = -ENOTSUP;
		if (!db->stop && !db->absent && !(db->guard_held && db->valid)) /* the mode may have changed since anybody here looked */
			want_guard_locked(db);
	} else {
		*fresh = (struct db_session){.id = id, .peer = peer, .until_ns = until_ns};
		err = begin_locked(db, fresh, call);
		if (err == 0 || err == DB_PARKED)
			fresh = NULL;
	}
	pthread_mutex_unlock(&db->mu);
	free(fresh);
	return err;
}

int db_gw_commit(struct db *db, uint64_t id, struct spool *ltx, struct db_gw_call *call)
{
	struct db_session *s;
	struct spool swap;
	int err = DB_PARKED;

	call->id = id;
	pthread_mutex_lock(&db->mu);
	s = find(db, id);
	if (!s || !s->held || s->committing || db->stop || is_lost_locked(db, s, clock_now_ns())) {
		err = -EPERM;
	} else if (db->up_state != UP_HELD || db->renewing || db->catching || !pos_equal(db->up_pos, db->tip)) {
		err = -ESTALE;
		drop(db, s);
	} else {
		swap = db->ltx;
		db->ltx = *ltx;
		*ltx = swap;
		s->committing = true;
		s->call = call;
		db->commit_call = &call->call;
		db->commit_session = s;
		db->up_state = UP_COMMIT;
		call->call.kind = PARK_COMMIT;
		call->call.owner = id;
		pthread_cond_signal(&db->u_cond);
	}
	pthread_mutex_unlock(&db->mu);
	return err;
}

void db_end_session_commit_locked(struct db *db, struct db_session *s, enum verdict verdict)
{
	struct db_gw_call *call = s->call;

	describe(db, call);
	call->unknown = verdict == VERDICT_UNKNOWN;
	call->yield = db->end_wanted || db->drop_call || ((call->waiting || db_locals_wait_locked(db)) && db_turn_is_over_locked(db)) ||
		      /* LiteFS' own waiters (HALT, direct clients) cannot be seen before they have had their turn: one for them, now and then. */
		      db_hold_is_over_locked(db, clock_now_ns());
	s->committing = false;
	s->call = NULL;
	s->lease_ns = clock_now_ns() + LEASE_NS;
	if (verdict != VERDICT_COMMITTED)
		s->ended = true;
	else
		db->stats.gateway_commits++;
}

void db_end_session_locked(struct db *db, struct db_session *s)
{
	if (s->ended)
		drop(db, s);
}

void db_gw_end(struct db *db, uint64_t id)
{
	struct db_session *s;

	pthread_mutex_lock(&db->mu);
	s = find(db, id);
	if (s && s->committing) {
		s->ended = true;
	} else if (s) {
		if (!s->held)
			answer_wait(db, s, -ECANCELED);
		drop(db, s);
	}
	pthread_mutex_unlock(&db->mu);
}

void db_gw_shorten(struct db *db, uint64_t id, int64_t grace_ms)
{
	int64_t until = clock_now_ns() + grace_ms * NS_PER_MS;
	struct db_session *s;

	pthread_mutex_lock(&db->mu);
	s = find(db, id);
	if (s && s->held && s->lease_ns > until)
		s->lease_ns = until;
	pthread_mutex_unlock(&db->mu);
}

void db_gw_extend(struct db *db, uint64_t id)
{
	struct db_session *s;

	pthread_mutex_lock(&db->mu);
	s = find(db, id);
	if (s && s->held && clock_now_ns() < s->lease_ns)
		s->lease_ns = clock_now_ns() + LEASE_NS;
	pthread_mutex_unlock(&db->mu);
}

/* At the end of the program, with the workers gone. */
void db_stop_sessions_locked(struct db *db)
{
	struct db_session *s;

	while ((s = db->sessions)) {
		if (s->call)
			answer_wait(db, s, -EIO);
		drop(db, s);
	}
}
