/*
 * Calls that wait. A parked lock call is answered by whoever changes what it waits
 * for, under mu; the guard worker answers those whose time is over.
 */
#include <errno.h>
#include <fcntl.h>

#include "db/db_internal.h"

void db_park_locked(struct db *db, struct db_call *call, enum park_kind kind, uint64_t owner, uint32_t slots,
		    int64_t deadline_ns)
{
	struct db_call **tail = &db->parked;

	call->kind = kind;
	call->owner = owner;
	call->slots = slots;
	call->parked_ns = clock_now_ns();
	call->deadline_ns = deadline_ns;
	call->next = NULL;
	while (*tail)
		tail = &(*tail)->next;
	*tail = call;
	pthread_cond_signal(&db->g_cond);
}

static void answer(struct db *db, struct db_call **pp, int result)
{
	struct db_call *call = *pp;

	*pp = call->next;
	if (call->kind == PARK_WRITE && (result == 0 || result == -EAGAIN))
		db_measure(DB_HISTOGRAM(db, write_wait[result != 0]), clock_now_ns() - call->parked_ns);
	if (result == -EAGAIN && call->kind == PARK_READ) {
		struct lock_owner *owner = lock_owner_find(&db->locks, call->owner);

		db->stats.busy_read++;
		if (owner)
			owner->sent_away_ns = clock_now_ns();
	}
	if (result == -EAGAIN && call->kind == PARK_WRITE)
		db_note_refused_write_locked(db, lock_owner_find(&db->locks, call->owner));
	if (result == 0 && call->kind == PARK_WRITE) {
		struct lock_owner *owner = lock_owner_find(&db->locks, call->owner);

		if (owner)
			owner->write_refused_ns = 0;
	}
	if (result == -EAGAIN && call->kind == PARK_AGAIN)
		result = -EIO; /* a write knows no BUSY */
	call->done(call, result);
}

void db_answer_locks_locked(struct db *db)
{
	struct db_call **pp = &db->parked;

	while (*pp) {
		struct db_call *call = *pp;
		struct lock_owner *owner = lock_owner_find(&db->locks, call->owner);
		const struct lock_owner nobody = {0};
		enum lock_slot slot;
		int result;

		if (call->kind != PARK_LOCK ||
		    lock_conflict(&db->locks, owner ? owner : &nobody, call->slots, call->lock.type == F_WRLCK, &slot)) {
			pp = &call->next;
			continue;
		}
		*pp = call->next;
		result = db_lock_request_locked(db, &call->lock, call); /* may be parked again, as READ or WRITE */
		if (result != DB_PARKED)
			call->done(call, result);
		pp = &db->parked; /* what it has been given may be a downgrade */
	}
}

void db_answer_reads_locked(struct db *db)
{
	struct db_call **pp = &db->parked;
	bool granted = false;

	while (*pp) {
		struct lock_owner *owner;
		int result;

		if ((*pp)->kind != PARK_READ) {
			pp = &(*pp)->next;
			continue;
		}
		owner = lock_owner_find(&db->locks, (*pp)->owner);
		result = owner ? db_read_request_locked(db, owner, (*pp)->slots, true) : -EAGAIN;
		if (result == DB_PARKED) {
			pp = &(*pp)->next;
			continue;
		}
		if (result == 0 && (*pp)->parked_ns < db->restarted_ns)
			db_expect_return_locked(db, owner);
		answer(db, pp, result);
		granted |= result == 0;
	}
	if (granted) /* it may have been exclusive before */
		db_answer_locks_locked(db);
}

/* One that holds EXCLUSIVE cannot come again later: only a begin that has failed is an answer to it. */
static bool begin_is_to_come_locked(const struct db *db)
{
	return db->up_state == UP_BEGIN || db->up_state == UP_END || (db->up_state == UP_IDLE && db->want_begin);
}

void db_send_writers_away_locked(struct db *db)
{
	struct db_call **pp = &db->parked;

	while (*pp) {
		const struct lock_owner *owner = lock_owner_find(&db->locks, (*pp)->owner);

		if ((*pp)->kind == PARK_WRITE && !(owner && db_is_upgrading_locked(db, owner)))
			answer(db, pp, -EAGAIN);
		else
			pp = &(*pp)->next;
	}
}

void db_answer_writes_locked(struct db *db, int result)
{
	struct db_call **pp = &db->parked;

	if (result == 0 && db->sessions && db_session_is_next_locked(db))
		db_offer_session_locked(db);
	while (*pp) {
		struct lock_owner *owner;
		int r = result;

		if ((*pp)->kind == PARK_AGAIN) {
			bool held = db->up_state == UP_HELD && !db->doomed;

			if (r == 0 ? !held : begin_is_to_come_locked(db)) {
				pp = &(*pp)->next;
				continue;
			}
			if (r == 0 && !pos_equal(db->up_pos, db->tip)) {
				r = -EIO; /* others have written: what this connection knows is old, and LiteFS is to go on */
				db_poison_locked(db);
			}
			db->between = r != 0;
			answer(db, pp, r);
			continue;
		}
		if ((*pp)->kind == PARK_HALT && (r == 0 || db->up_state == UP_HELD)) { /* catching up is no refusal */
			owner = lock_owner_find(&db->locks, (*pp)->owner);
			r = owner ? db_halt_request_locked(db, owner) : -EAGAIN;
		}
		if ((*pp)->kind != PARK_WRITE && (*pp)->kind != PARK_HALT) {
			pp = &(*pp)->next;
			continue;
		}
		if (r == 0 && (*pp)->kind == PARK_WRITE) {
			owner = lock_owner_find(&db->locks, (*pp)->owner);
			/* One whose snapshot is old would be sent away by SQLite itself, after a round with WRITE. */
			if (!owner || owner->read_seq != db->commit_seq)
				r = -EAGAIN;
			else
				r = db_write_request_locked(db, owner);
		}
		if (r == DB_PARKED)
			pp = &(*pp)->next;
		else
			answer(db, pp, r);
	}
	if (result == 0 && db->sessions && db_session_is_next_locked(db))
		db_offer_session_locked(db);
}

/* True: answered. */
static bool end_hold_back_locked(struct db *db, struct db_call **pp, int64_t now_ns, int64_t *next_ns)
{
	struct lock_owner *owner = lock_owner_find(&db->locks, (*pp)->owner);
	int result;

	if (!owner || !owner->hold_back_ns)
		return false;
	if (now_ns < owner->hold_back_ns) {
		if (owner->hold_back_ns < *next_ns)
			*next_ns = owner->hold_back_ns;
		return false;
	}
	result = db_read_request_locked(db, owner, (*pp)->slots, true);
	if (result == DB_PARKED)
		return false;
	answer(db, pp, result);
	return true;
}

void db_expire_locked(struct db *db, int64_t now_ns, int64_t *next_ns)
{
	struct db_call **pp = &db->parked;

	db_tick_sessions_locked(db, now_ns, next_ns);

	while (*pp) {
		if ((*pp)->kind == PARK_READ && end_hold_back_locked(db, pp, now_ns, next_ns))
			continue;
		if ((*pp)->kind != PARK_COMMIT && (*pp)->deadline_ns <= now_ns) {
			answer(db, pp, -EAGAIN);
			continue;
		}
		if ((*pp)->kind != PARK_COMMIT && (*pp)->deadline_ns < *next_ns)
			*next_ns = (*pp)->deadline_ns;
		pp = &(*pp)->next;
	}
}

void db_cancel(struct db *db, struct db_call *call)
{
	pthread_mutex_lock(&db->mu);
	for (struct db_call **pp = &db->parked; *pp; pp = &(*pp)->next)
		if (*pp == call) {
			if (call->kind != PARK_COMMIT)
				answer(db, pp, -EINTR);
			break;
		}
	pthread_mutex_unlock(&db->mu);
}
