/*
 * What SQLite's lock calls mean here.
 *
 *   READ(i) shared        the beginning of a read: guard and valid view, or wait for them (I1)
 *   READ(i) exclusive     a reader claims a slot to write its mark; refused while the gate is closed
 *   WRITE exclusive       the beginning of a write: upstream's begin (I5)
 *   CKPT exclusive        refused: an acknowledged checkpoint that did not happen gives torn reads
 *   SHARED exclusive      refused in WAL mode: the last to close would checkpoint without any shm lock
 *   SHARED shared         in rollback mode the beginning of a read; in WAL mode a connection is open
 *   RESERVED exclusive    in rollback mode what WRITE is in WAL mode; then SHARED exclusively to write to the database
 *
 * Bytes that SQLite does not lock give ENOLCK. F_SETLKW, which SQLite hardly uses, waits for other owners
 * as POSIX says, but not for what is refused above.
 *
 * Who waits in a queue of turns (a gateway's, here or elsewhere) and has been refused WRITE comes with READ first. It is that which
 * waits then, for a moment: with a snapshot from before its turn it would be sent away once more, and sleep, in the middle of it.
 *
 * A process with several connections holds a mutex of SQLite's during a lock call, and its
 * other threads cannot even unlock: it is answered EAGAIN instead of being parked for long.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#include "db/db_internal.h"

static struct log_limit limit_exclusive;

static void say_refused(const struct db *db, struct lock_owner *owner)
{
	owner->refused = false;
	if (log_allow(&limit_exclusive, 5000))
		log_warn("exclusive_refused",
			 "db=%s pid=%d do=\"a WAL database stays in WAL mode, without locking_mode EXCLUSIVE: LiteFS cannot follow\"",
			 db->name, (int)owner->tgid);
}

static void note_reader_locked(struct db *db, pid_t tgid)
{
	for (struct db_process *p = db->processes; p; p = p->next)
		if (p->tgid == tgid)
			p->has_read = true;
}

static void reader_left_locked(struct db *db)
{
	if (db_readers_locked(db) != 0)
		return;
	db->idle_since_ns = clock_now_ns();
	db->reader_warned = false;
	if (db->gate_closed || db->poison || db->must_fold || db->want_gap)
		pthread_cond_signal(&db->g_cond);
}

static void writer_left_locked(struct db *db, bool explicitly)
{
	db_local_writer_left_locked(db);
	if (!explicitly && db->committed_in_hold && db->mode == DB_MODE_WAL)
		db_must_publish_locked(db);
	/* It died, or let go of what it wrote; a commit in progress looks after its transaction itself. */
	if (db->mode == DB_MODE_ROLLBACK && db->up_state != UP_COMMIT && (db->writing || vjournal_is_hot(&db->journal)))
		db_drop_transaction_locked(db);
	db->between = false;
	db->committed_in_hold = false;
	db->up_idle_since_ns = clock_now_ns();
	if (db->must_fold)
		pthread_cond_signal(&db->g_cond);
	if (db->up_state == UP_HELD && !db->locks.exclusive[SLOT_HALT] &&
	    (db_hold_is_over_locked(db, db->up_idle_since_ns) || db->turn_commits >= db->turn_quota || db->turn_over)) {
		db->end_wanted = true; /* others want it too */
		/* On the primary they want the guard away as well: nobody new gets in before that. */
		db->want_gap = db->up_is_self;
	}
	if (db->up_state != UP_HELD && db->up_state != UP_IDLE)
		return;
	if (db->doomed || db->end_wanted)
		pthread_cond_signal(&db->u_cond);
	else
		db_answer_writes_locked(db, 0);
}

static void unlock_locked(struct db *db, struct lock_owner *owner, uint32_t slots, bool explicitly)
{
	uint32_t reads = db->mode == DB_MODE_WAL ? SLOTS_READ : SLOT_BIT(SLOT_SHARED);
	bool claimed = (owner->exclusive & SLOTS_READ & slots) != 0;
	bool wrote = (owner->exclusive & SLOT_BIT(db_write_slot_locked(db)) & slots) != 0;
	uint32_t released = lock_release(&db->locks, owner, slots);

	if (released & reads)
		reader_left_locked(db);
	if (claimed && db->gate_closed)
		pthread_cond_signal(&db->g_cond);
	if (wrote)
		writer_left_locked(db, explicitly);
	if (released & SLOT_BIT(SLOT_HALT)) {
		db->up_idle_since_ns = clock_now_ns();
		pthread_cond_signal(&db->u_cond);
		db_answer_writes_locked(db, 0);
	}
}

void db_session_unlock_locked(struct db *db, uint64_t id)
{
	struct lock_owner *owner = lock_owner_find(&db->locks, id);

	unlock_locked(db, owner, SLOT_BIT(SLOT_WRITE), true);
	lock_owner_forget(&db->locks, owner);
	reader_left_locked(db); /* it counted as one */
	db_answer_reads_locked(db); /* who was held back for it */
	db_answer_locks_locked(db);
}

/* A reader that was sent away has come again. SQLite sleeps longer each time, until it is let in. */
static void came_again(struct lock_owner *owner)
{
	int64_t away_ns;

	if (!owner->sent_away_ns)
		return;
	away_ns = clock_now_ns() - owner->sent_away_ns;
	owner->sent_away_ns = 0;
	if (away_ns > owner->retry_ns && away_ns < RETRY_SLEEP_MAX_NS)
		owner->retry_ns = away_ns;
}

void db_expect_return_locked(struct db *db, struct lock_owner *owner)
{
	int64_t now = clock_now_ns();
	int64_t until = now + owner->retry_ns * 3 / 2 + 3 * NS_PER_MS;

	owner->sent_away_ns = now;
	if (db->returning_until_ns < until)
		db->returning_until_ns = until;
}

static bool is_stale_locked(const struct db *db, pid_t tgid)
{
	for (const struct db_process *p = db->processes; p && db->mode == DB_MODE_ROLLBACK; p = p->next)
		if (p->tgid == tgid)
			return p->stale;
	return false;
}

/* Another node has WRITE, and ours is to come. */
static bool in_queue_locked(const struct db *db)
{
	if (db->holder)
		return true;
	return db->gateway && db->up == db->gateway &&
	       (db->up_state == UP_BEGIN || db->up_state == UP_PUBLISH || (db->up_state == UP_HELD && db->catching));
}

int db_read_request_locked(struct db *db, struct lock_owner *owner, uint32_t slots, bool parked)
{
	enum lock_slot slot;

	if (is_stale_locked(db, owner->tgid))
		return -EIO;
	if (!parked && lock_conflict(&db->locks, owner, slots, false, &slot))
		return -EAGAIN;
	if ((slots & SLOTS_READ) && db->mode != DB_MODE_WAL)
		return -EIO; /* the database has left WAL mode under an open connection */
	if (db->gate_closed || db->poison || db->want_gap || db->switching || db->drop_call)
		return DB_PARKED;
	if (!(db->guard_held && db->valid) && (!db->window || db->lending))
		return DB_PARKED;
	if (owner->hold_back_ns && in_queue_locked(db) && clock_now_ns() < owner->hold_back_ns)
		return DB_PARKED;
	owner->hold_back_ns = 0;
	if (lock_conflict(&db->locks, owner, slots, false, &slot))
		return -EAGAIN;
	owner->read_seq = db->commit_seq;
	owner->read_ns = clock_now_ns();
	owner->recoveries = 0;
	if (owner->refused)
		say_refused(db, owner);
	if (db->mode == DB_MODE_ROLLBACK)
		note_reader_locked(db, owner->tgid);
	lock_grant(&db->locks, owner, slots, false);
	return 0;
}

static void hold_back_locked(struct db *db, struct lock_owner *owner)
{
	int64_t now;

	if (owner->hold_back_ns || !owner->write_refused_ns || (owner->shared & SLOTS_READ) || !in_queue_locked(db))
		return;
	now = clock_now_ns();
	if (now - owner->write_refused_ns < HOLD_BACK_RECENT_NS)
		owner->hold_back_ns = now + (db_single_locked(db, owner->tgid) ? HOLD_BACK_SINGLE_NS : HOLD_BACK_NS);
}

static int read_lock_locked(struct db *db, struct lock_owner *owner, uint32_t slots, struct db_call *call)
{
	int result;
	int64_t now;

	came_again(owner);
	hold_back_locked(db, owner);
	result = db_read_request_locked(db, owner, slots, false);
	if (result == 0)
		owner->retry_ns = 0; /* on the header that it has seen */
	if (result != DB_PARKED || !call)
		return result;
	owner->sent_away_ns = clock_now_ns(); /* unless it is parked */
	/* Whoever reads already must leave before the gate opens; its process' other calls must not wait for it. */
	if ((db->gate_closed || db->want_gap || db->poison || db->switching) && !db_single_locked(db, owner->tgid)) {
		db->stats.busy_gate++;
		return -EAGAIN;
	}
	if (db->need_ckpt && db->ckpt_failures >= CKPT_PATIENCE) {
		db->stats.busy_read++;
		return -EAGAIN;
	}
	/*
	 * Without the guard nobody reads here, so nobody's unlock is kept from us by the mutex that this call
	 * holds in its process. Long enough that SQLite's hundred tries outlast a HALT of 30 s on the primary:
	 * it says SQLITE_PROTOCOL after that.
	 */
	owner->sent_away_ns = 0;
	now = clock_now_ns();
	db->want_guard = true;
	db->stats.guard_waits++;
	db_park_locked(db, call, PARK_READ, owner->id, slots,
		       now + (db_single_locked(db, owner->tgid) ? READ_PARK_SINGLE_NS : READ_PARK_NS));
	return DB_PARKED;
}

/*
 * Has read for a while, with its process' only connection (an open cursor, say), and writes now: SQLite asks no busy handler
 * then, and the gate waits in vain for the very one that is asking. BEGIN IMMEDIATE asks at once, and comes again.
 */
bool db_is_upgrading_locked(const struct db *db, const struct lock_owner *owner)
{
	return !db->catching && db_single_locked(db, owner->tgid) && clock_now_ns() - owner->read_ns > UPGRADE_NS;
}

/*
 * For a begin. While the primary is away nobody waits for its timeouts; what is had in the background is kept for who comes back.
 * SQLite asks no busy handler on behalf of a database that is being created.
 */
static int wait_or_not_locked(struct db *db)
{
	if (!db->away || db->absent)
		return DB_PARKED;
	db->stats.busy_away++;
	return -EAGAIN;
}

void db_grant_write_locked(struct db *db, struct lock_owner *owner)
{
	db->committed_in_hold = false;
	if (db->keep_until_ns) { /* the time that clients took to come back is not their turn */
		db->keep_until_ns = 0;
		db->hold_since_ns = clock_now_ns();
		db->hold_end_ns = db->hold_since_ns + db->hold_span_ns;
	}
	db->between = false;
	lock_grant(&db->locks, owner, SLOT_BIT(db_write_slot_locked(db)), true);
}

/* I5. Grants, sends away, or says that the call may wait. */
int db_write_request_locked(struct db *db, struct lock_owner *owner)
{
	enum lock_slot slot, wanted = db_write_slot_locked(db);

	/*
	 * A reader that saw a header half written asks for WRITE first, to recover: it looks again when refused. If that does not
	 * help, a client has left it broken (it went on writing after its locks were dropped): a new one.
	 */
	if (!(owner->shared & (db->mode == DB_MODE_WAL ? SLOTS_READ : SLOT_BIT(SLOT_SHARED)))) {
		if (!owner->recoveries++)
			owner->recovery_ns = clock_now_ns();
		if (db->mode == DB_MODE_WAL && owner->recoveries >= RECOVERIES_MAX && clock_now_ns() - owner->recovery_ns > RECOVERY_NS)
			db_must_fold_locked(db);
		return -EAGAIN;
	}
	if (db->poison || db->must_fold || db->need_ckpt || !db->valid)
		return -EAGAIN;
	if (db->gate_closed && !db_is_upgrading_locked(db, owner))
		return -EAGAIN;
	if (lock_conflict(&db->locks, owner, SLOT_BIT(wanted), true, &slot))
		return DB_PARKED;
	if (db->gate_closed)
		return DB_PARKED; /* until it is given up */
	/* Somebody else's turn, and it takes it now; or something is in its way, and nobody waits for that. */
	if (db_local_turn_over_locked(db) && db_offer_session_locked(db))
		return DB_PARKED;
	switch (db->up_state) {
	case UP_HELD:
		if (db->doomed || db->end_wanted || db->renewing)
			return DB_PARKED;
		if (db->catching || !pos_equal(db->up_pos, db->tip))
			return -EAGAIN;
		if (db->up_is_self && db->up_rollback != (db->mode == DB_MODE_ROLLBACK)) {
			db->end_wanted = true; /* the journal mode has changed since: LiteFS' other lock */
			pthread_cond_signal(&db->u_cond);
			return DB_PARKED;
		}
		db_local_writer_locked(db);
		db_grant_write_locked(db, owner);
		return 0;
	case UP_IDLE:
		if (clock_now_ns() < db->begin_retry_ns)
			return -EAGAIN;
		/* It is the others' turn: who waited here would keep them out with its READ lock. */
		if (db->yielding && clock_now_ns() < db->pause_until_ns)
			return -EAGAIN;
		db->want_begin = true;
		pthread_cond_signal(&db->u_cond);
		return wait_or_not_locked(db);
	case UP_BEGIN:
	case UP_END:
		db->want_begin = true;
		return wait_or_not_locked(db);
	case UP_PUBLISH:
	case UP_COMMIT:
		return DB_PARKED;
	}
	return -EAGAIN;
}

void db_note_refused_write_locked(struct db *db, struct lock_owner *owner)
{
	db->stats.busy_write++;
	db->writer_sent_away_ns = clock_now_ns();
	if (owner)
		owner->write_refused_ns = db->writer_sent_away_ns;
}

static int write_lock_locked(struct db *db, struct lock_owner *owner, struct db_call *call)
{
	int result = db_write_request_locked(db, owner);
	int64_t wait_ns;

	if (result == 0 || result == -EAGAIN)
		db_measure(DB_HISTOGRAM(db, write_wait[result != 0]), 0);
	if (result == 0)
		owner->write_refused_ns = 0;
	if (result == -EAGAIN)
		db_note_refused_write_locked(db, owner);
	if (result != DB_PARKED || !call)
		return result;
	if (db->absent && !db_writer_locked(db)) {
		/*
		 * It is being created, mostly by PRAGMA journal_mode = WAL, for which SQLite asks no busy handler. Nobody can
		 * be kept from unlocking who would matter: nothing is in it yet.
		 */
		wait_ns = WRITE_PARK_CREATE_NS;
	} else if (db_single_locked(db, owner->tgid)) {
		/* SQLite's busy_timeout counts its own sleeps, not our waiting: long enough for a begin that nobody contends. */
		wait_ns = db->rtt_ns * 3 + WRITE_PARK_SINGLE_NS;
		if (db_is_upgrading_locked(db, owner) && wait_ns < WRITE_PARK_UPGRADE_NS)
			wait_ns = WRITE_PARK_UPGRADE_NS;
		if (wait_ns > db->config->settings->halt_timeout_ms * NS_PER_MS)
			wait_ns = db->config->settings->halt_timeout_ms * NS_PER_MS;
	} else if (db_writer_locked(db) && !db->holder) {
		/* It may be of the same process. */
		db_measure(DB_HISTOGRAM(db, write_wait[1]), 0);
		db_note_refused_write_locked(db, owner);
		return -EAGAIN;
	} else {
		wait_ns = db->rtt_ns * 3 / 2;
		if (wait_ns < WRITE_PARK_MIN_NS)
			wait_ns = WRITE_PARK_MIN_NS;
		if (wait_ns > WRITE_PARK_MAX_NS)
			wait_ns = WRITE_PARK_MAX_NS;
	}
	db_park_locked(db, call, PARK_WRITE, owner->id, SLOT_BIT(db_write_slot_locked(db)), clock_now_ns() + wait_ns);
	return DB_PARKED;
}

static int shm_lock_locked(struct db *db, struct lock_owner *owner, uint32_t slots, bool exclusive,
			   struct db_call *call)
{
	enum lock_slot slot;

	if (exclusive && (slots & (SLOT_BIT(SLOT_CKPT) | SLOT_BIT(SLOT_RECOVER))))
		return -EAGAIN;
	if (exclusive && db->mode != DB_MODE_WAL && slots != SLOT_BIT(SLOT_DMS))
		return -EAGAIN; /* of a connection that has not noticed yet */
	if (exclusive && slots == SLOT_BIT(SLOT_WRITE))
		return owner->exclusive & slots ? 0 : write_lock_locked(db, owner, call);
	if (exclusive && (slots & SLOT_BIT(SLOT_WRITE)))
		return -EAGAIN;
	if (!exclusive && (slots & SLOTS_READ))
		return read_lock_locked(db, owner, slots, call);
	if (exclusive && (slots & SLOTS_READ)) {
		came_again(owner);
		if (db->gate_closed || db->poison || db->restarting) {
			owner->sent_away_ns = clock_now_ns();
			return -EAGAIN;
		}
	}
	if (lock_conflict(&db->locks, owner, slots, exclusive, &slot))
		return -EAGAIN;
	lock_grant(&db->locks, owner, slots, exclusive);
	return 0;
}

static int database_lock_locked(struct db *db, struct lock_owner *owner, uint32_t slots, bool exclusive,
				struct db_call *call)
{
	enum lock_slot slot;

	if (db->mode == DB_MODE_WAL && exclusive && slots != SLOT_BIT(SLOT_PENDING)) {
		/* A connection that closes asks for it, too, but once, and unlocks then. */
		if (owner->refused)
			say_refused(db, owner);
		owner->refused = true;
		return -EAGAIN;
	}
	if (db->mode == DB_MODE_ROLLBACK && !exclusive && (slots & SLOT_BIT(SLOT_SHARED)) &&
	    !((owner->shared | owner->exclusive) & SLOT_BIT(SLOT_SHARED)))
		return read_lock_locked(db, owner, slots, call);
	if (db->mode == DB_MODE_ROLLBACK && exclusive && (slots & SLOT_BIT(SLOT_RESERVED)) &&
	    !(owner->exclusive & SLOT_BIT(SLOT_RESERVED)))
		return slots == SLOT_BIT(SLOT_RESERVED) ? write_lock_locked(db, owner, call) : -EAGAIN;
	/* Without RESERVED only to play back a hot journal, and there is none. */
	if (db->mode == DB_MODE_ROLLBACK && exclusive && (slots & SLOT_BIT(SLOT_SHARED)) &&
	    !(owner->exclusive & SLOT_BIT(SLOT_RESERVED)))
		return -EAGAIN;
	if (lock_conflict(&db->locks, owner, slots, exclusive, &slot))
		return -EAGAIN;
	lock_grant(&db->locks, owner, slots, exclusive);
	return 0;
}

/*
 * An application's own HALT: upstream is begun, this node has caught up, and it is kept until the lock is given back: the
 * writers of this node take no turns meanwhile. It needs no READ lock, so it simply waits.
 */
int db_halt_request_locked(struct db *db, struct lock_owner *owner)
{
	enum lock_slot slot;

	if (db->holder || lock_conflict(&db->locks, owner, SLOT_BIT(SLOT_HALT), true, &slot))
		return DB_PARKED; /* of another node, or here */
	if (db->up_state == UP_IDLE) {
		db->want_begin = true;
		pthread_cond_signal(&db->u_cond);
	}
	if (db->up_state != UP_HELD || db->doomed || db->end_wanted || db->renewing || db->catching)
		return DB_PARKED;
	if (!pos_equal(db->up_pos, db->tip)) {
		db->catching = true;
		pthread_cond_signal(&db->g_cond);
		return DB_PARKED;
	}
	lock_grant(&db->locks, owner, SLOT_BIT(SLOT_HALT), true);
	return 0;
}

static int halt_lock_locked(struct db *db, struct lock_owner *owner, bool exclusive, bool wait, struct db_call *call)
{
	int64_t timeout_ns = db->config->settings->halt_timeout_ms * NS_PER_MS;
	int result;

	if (!exclusive)
		return -EINVAL; /* as LiteFS answers */
	if (owner->exclusive & SLOT_BIT(SLOT_HALT))
		return 0;
	result = db_halt_request_locked(db, owner);
	if (result != DB_PARKED || !call)
		return result;
	/* F_SETLK cannot wait for others; but a begin takes a round trip, and is what was asked for. */
	db_park_locked(db, call, PARK_HALT, owner->id, SLOT_BIT(SLOT_HALT),
		       clock_now_ns() + (wait ? timeout_ns : WRITE_PARK_SINGLE_NS + 3 * db->rtt_ns));
	return DB_PARKED;
}

/* Not for F_UNLCK. call is not parked, or NULL as for db_lock(). */
int db_lock_request_locked(struct db *db, const struct db_lock *lock, struct db_call *call)
{
	uint32_t slots = lock_slots(lock->file, lock->start, lock->end);
	bool exclusive = lock->type == F_WRLCK;
	struct lock_owner *owner;
	enum lock_slot slot;

	if (db->stop)
		return -EIO;
	if (!slots)
		return -ENOLCK; /* no byte that SQLite locks */
	owner = lock_owner_get(&db->locks, lock->owner, lock->tgid);
	if (!owner)
		return -ENOMEM;
	if (owner->disowned)
		return -EIO;
	owner->handle[lock->file] = lock->handle;
	if (lock->file == LOCK_FILE_LOCK)
		return halt_lock_locked(db, owner, exclusive, lock->wait, call);
	if (lock->wait && lock_conflict(&db->locks, owner, slots, exclusive, &slot)) {
		if (!call)
			return DB_PARKED;
		call->lock = *lock;
		db_park_locked(db, call, PARK_LOCK, owner->id, slots, INT64_MAX);
		return DB_PARKED;
	}
	if (lock->file == LOCK_FILE_SHM)
		return shm_lock_locked(db, owner, slots, exclusive, call);
	return database_lock_locked(db, owner, slots, exclusive, call);
}

int db_lock(struct db *db, const struct db_lock *lock, struct db_call *call)
{
	uint32_t slots = lock_slots(lock->file, lock->start, lock->end);
	struct lock_owner *owner;
	int result = 0;

	pthread_mutex_lock(&db->mu);
	if (lock->type == F_UNLCK) {
		owner = lock_owner_find(&db->locks, lock->owner);
		if (owner && (slots & SLOT_BIT(SLOT_SHARED)))
			owner->disowned = owner->refused = false; /* the last connection of the process has let go */
		if (owner)
			unlock_locked(db, owner, slots, true);
	} else {
		result = db_lock_request_locked(db, lock, call);
	}
	if (result == 0 && lock->type != F_WRLCK)
		db_answer_locks_locked(db);
	pthread_mutex_unlock(&db->mu);
	return result;
}

void db_getlk(struct db *db, struct db_lock *lock)
{
	uint32_t slots = lock_slots(lock->file, lock->start, lock->end);
	const struct lock_owner nobody = {0};
	const struct lock_owner *asking, *other;
	enum lock_slot slot;

	pthread_mutex_lock(&db->mu);
	asking = lock_owner_find(&db->locks, lock->owner);
	other = lock_conflict(&db->locks, asking ? asking : &nobody, slots, lock->type == F_WRLCK, &slot);
	if (!other) {
		lock->type = F_UNLCK;
	} else {
		lock->type = other->exclusive & SLOT_BIT(slot) ? F_WRLCK : F_RDLCK;
		lock->tgid = other->tgid;
		lock_extent(other, slot, &lock->start, &lock->end);
	}
	pthread_mutex_unlock(&db->mu);
}

/* A call that is parked for an owner that is gone finds no owner, and is answered. */
static void drop_locked(struct db *db, struct lock_owner *owner, enum lock_file file)
{
	bool parked = false;

	unlock_locked(db, owner, lock_file_slots(file), false);
	if (file == LOCK_FILE_DATABASE) {
		if (owner->refused)
			say_refused(db, owner);
		owner->disowned = false;
	}
	for (const struct db_call *c = db->parked; c; c = c->next)
		parked |= c->owner == owner->id;
	if (!owner->shared && !owner->exclusive && !parked)
		lock_owner_forget(&db->locks, owner);
	db_answer_locks_locked(db);
}

void db_flush(struct db *db, enum lock_file file, uint64_t id)
{
	struct lock_owner *owner;

	pthread_mutex_lock(&db->mu);
	owner = lock_owner_find(&db->locks, id);
	if (owner)
		drop_locked(db, owner, file);
	pthread_mutex_unlock(&db->mu);
}

void db_release(struct db *db, enum lock_file file, uint64_t handle)
{
	struct lock_owner *owner, *next;

	pthread_mutex_lock(&db->mu);
	for (owner = db->locks.owners; owner; owner = next) {
		next = owner->next;
		if (owner->handle[file] == handle && ((owner->shared | owner->exclusive) & lock_file_slots(file)))
			drop_locked(db, owner, file);
	}
	pthread_mutex_unlock(&db->mu);
}
