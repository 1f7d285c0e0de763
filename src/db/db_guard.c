/*
 * The guard worker: LiteFS' read locks on behalf of this node's readers.
 *
 *   not held --a READ lock waits--> take, validate --> held --2 ms without readers--> give
 *        ^                                              |
 *        |                                              | held for 50 ms without a break
 *        +---- gap: LiteFS gets in <-- drained <-- gate closed
 *
 * Validation: the position under the guard is tip, or the view begins anew there.
 * The gate: aReadMark[1..4] become "unused", so that each new reader must claim a
 * slot by an exclusive lock call, which is refused; those inside finish. Only that
 * makes readers drain that overlap within one process.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/probe.h"
#include "base/random.h"
#include "db/db_internal.h"
#include "litefs/api.h"

static struct log_limit limit_ckpt;

/* What LiteFS' waiter needs to get in after `held_ns`: it polls every (i XOR 2) ms. */
static int64_t gap_ns(int64_t held_ns)
{
	double held_ms = (double)held_ns / (double)NS_PER_MS;

	if (held_ms > 500)
		held_ms = 500;
	return (int64_t)((sqrt(2 * held_ms) + 3) * (double)NS_PER_MS);
}

int db_give_guard_locked(struct db *db)
{
	int err;

	db_token_enter_locked(db);
	/* Readers may have been let in while the token was waited for (I1); those of a poisoned view need no guard. */
	if (!db->guard_held || db_is_publishing_locked(db) || db->settling ||
	    (db_readers_locked(db) && !db->poison && !db->stop)) {
		db_token_leave_locked(db);
		return db->guard_held ? -EBUSY : 0;
	}
	db->guard_held = false;
	db->valid = false;
	db->guard_epoch++;
	PROBE2(guard_given, db->name, db->guard_since_ns);
	if (db->absent) { /* there was nothing to lock */
		db_token_leave_locked(db);
		return 0;
	}
	pthread_mutex_unlock(&db->mu);
	err = guard_give_readers(&db->guard);
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	return err;
}

/* 0: held. -EAGAIN: LiteFS is applying, or halted. A database that LiteFS does not have needs no lock, but a look. */
int db_take_guard_locked(struct db *db)
{
	int err;

	if (db->guard_held)
		return 0;
	db_token_enter_locked(db);
	/* One that a commit creates is for that commit to find. */
	if (!(db->files_ok || db->absent) || db->window || db->guard_held || (db->absent && db->up_state == UP_COMMIT)) {
		err = db->guard_held ? 0 : -EAGAIN;
		db_token_leave_locked(db);
		return err;
	}
	pthread_mutex_unlock(&db->mu);
	err = db->absent ? db_appear(db, false) : 0;
	if (!err)
		err = guard_take_readers(&db->guard);
	else if (err == -ENOENT)
		err = 0; /* still absent */
	pthread_mutex_lock(&db->mu);
	if (!err && !db->files_ok && !db->absent)
		err = -EAGAIN; /* of a LiteFS that is gone: it goes with the descriptors */
	if (!err) {
		db->guard_held = true;
		db->valid = false; /* until the position was looked at */
		db->guard_epoch++;
		db->guard_since_ns = db->idle_since_ns = clock_now_ns();
		db->stats.guard_taken++;
		PROBE1(guard_taken, db->name);
	}
	db_token_leave_locked(db);
	if (err && err != -EAGAIN) {
		db->absent = false; /* LiteFS is gone: who knows what is there when it comes back */
		db_files_gone_locked(db, err);
	}
	return err;
}

/*
 * LiteFS' WAL on the primary holds what a direct client wrote, or a direct client has died over its journal: the
 * database file is not the truth. (One that is alive and writes to the file holds SHARED exclusively, and we the guard.)
 */
static int is_settled(struct db *db, bool *ret)
{
	bool unsettled = false;
	int err = 0;

	if (role_kind_now(db->config->role) != ROLE_REPLICA)
		err = lfs_files_unsettled(&db->files, &unsettled);
	*ret = !unsettled;
	return err;
}

/*
 * The view is lost while LiteFS had yet to apply what the clients have seen: it comes, unless the cluster's history is another one
 * by now. Nobody shall see the state before it again.
 */
static bool behind_still_locked(struct db *db, struct pos pos)
{
	if (!db->behind_count || pos.txid >= db->tip.txid)
		return false;
	if (!db->behind_lost_ns)
		db->behind_lost_ns = clock_now_ns();
	return clock_now_ns() - db->behind_lost_ns < BEHIND_WAIT_NS;
}

/* Guard held, not valid, so nobody reads and nobody is let in. 0: valid. Position moved on: begin anew there. */
static int validate_locked(struct db *db)
{
	struct pos pos;
	bool settled = true;
	int err;

	if (db->absent) {
		if (!db->rebuild) {
			db->valid = true;
			return 0;
		}
		db_report_unknowns_locked(db, (struct pos){0}, true);
		pthread_mutex_unlock(&db->mu);
		err = db_reset(db, (struct pos){0});
		pthread_mutex_lock(&db->mu);
		return err;
	}
	if (db_files_get_locked(db) != 0)
		return -ENOTCONN;
	pthread_mutex_unlock(&db->mu);
	err = lfs_files_pos(&db->files, &pos);
	if (!err && db->mode == DB_MODE_ROLLBACK) /* a dead client's pages move no position */
		err = is_settled(db, &settled);
	pthread_mutex_lock(&db->mu);
	if (!err)
		db->litefs_pos = pos;
	if (!err && !settled) {
		db->need_ckpt = true;
		err = -EBUSY;
	} else if (!err && !db->rebuild && db_pos_fits_locked(db, pos)) {
		db->valid = true;
		db->fold_in_vain = false;
		db->behind_lost_ns = 0;
	} else if (!err && behind_still_locked(db, pos)) {
		err = -EINPROGRESS;
	} else if (!err) {
		db_report_unknowns_locked(db, pos, false);
		pthread_mutex_unlock(&db->mu);
		db_note_peer(db, pos.txid);
		err = db_files_current(db) ? 0 : -ESTALE; /* dropped, and perhaps made again: open anew */
		if (!err)
			err = is_settled(db, &settled);
		if (!err && settled)
			err = db_reset(db, pos);
		pthread_mutex_lock(&db->mu);
		if (!err && !settled) {
			db->need_ckpt = true;
			err = -EBUSY;
		}
	}
	db_files_put_locked(db);
	if (err && err != -EBUSY && err != -ENOMEM && err != -EBADMSG && err != -EINPROGRESS)
		db_files_gone_locked(db, err);
	return err;
}

/* /halt and DELETE on our own node: LiteFS checkpoints its WAL. Neither guard nor WRITE may be held. */
static void checkpoint_locked(struct db *db)
{
	uint64_t id = (random_u64() >> 1) | 1;
	struct api_halt halt;
	bool unsettled = true;
	int err, slot;

	if (db_give_guard_locked(db) != 0 || db_files_get_locked(db) != 0)
		return;
	pthread_mutex_unlock(&db->mu);
	err = lfs_files_unsettled(&db->files, &unsettled);
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	if (!err && !unsettled) { /* another node's HALT has done it meanwhile */
		db->need_ckpt = false;
		db->ckpt_failures = 0;
		return;
	}
	pthread_mutex_unlock(&db->mu);
	slot = halt_record_add(db->config->halts, db->config->settings->litefs_url, db->name, id);
	/* Not for long: G has calls to answer, and a direct reader that stays is in the way for as long as it likes. */
	err = api_halt(db->local_api, db->name, id, 100, &halt, NULL);
	if (err != -ENOTCONN)
		api_unhalt(db->local_api, db->name, id, 1000);
	if (err && err != -ENOTCONN) {
		/* A wait that was given up may still be granted, after a DELETE that overtook it. */
		clock_sleep_ns(50 * NS_PER_MS);
		api_unhalt(db->local_api, db->name, id, 1000);
	}
	halt_record_del(db->config->halts, slot);
	pthread_mutex_lock(&db->mu);
	if (!err) {
		db->need_ckpt = false;
		db->ckpt_failures = 0;
		db->stats.checkpoints++;
	} else {
		db->ckpt_failures++;
		if (log_allow(&limit_ckpt, 5000))
			log_warn("checkpoint_failed",
				 "db=%s error=\"%s\" do=\"litefwd asks LiteFS again; a direct client that reads without end is in the way\"",
				 db->name, api_error(db->local_api));
		clock_cond_wait_until(&db->g_cond, &db->mu, clock_now_ns() + 5 * NS_PER_MS);
	}
}

static bool several_connections_locked(const struct db *db)
{
	for (const struct lock_owner *o = db->locks.owners; o; o = o->next)
		if ((o->shared & SLOTS_READ) && !db_single_locked(db, o->tgid))
			return true;
	return false;
}

static void reopen_gate_locked(struct db *db)
{
	db->gate_closed = false;
	db_answer_reads_locked(db);
	db_answer_writes_locked(db, 0); /* of a reader that was waited for */
}

static void warn_reader_locked(struct db *db)
{
	if (db->reader_warned || clock_now_ns() - db->guard_since_ns < 5 * NS_PER_S)
		return;
	for (const struct lock_owner *o = db->locks.owners; o; o = o->next)
		if (o->shared & (db->mode == DB_MODE_WAL ? SLOTS_READ : SLOT_BIT(SLOT_SHARED))) {
			log_warn("long_reader",
				 "db=%s pid=%d held_ms=%" PRId64
				 " do=\"end the read transaction: it holds back replication and writes on this node\"",
				 db->name, (int)o->tgid, (clock_now_ns() - db->guard_since_ns) / NS_PER_MS);
			db->reader_warned = true;
			return;
		}
}

/* read_max_hold: who reads for longer gets EIO from now on, and LiteFS its turn. */
static bool end_long_readers_locked(struct db *db)
{
	int64_t max_ms = db->config->settings->read_max_hold_ms;
	int64_t held_ms = (clock_now_ns() - db->guard_since_ns) / NS_PER_MS;

	if (!max_ms || held_ms < max_ms || db->up_state != UP_IDLE)
		return false;
	log_warn("reader_ended", "db=%s held_ms=%" PRId64 " do=\"make read transactions shorter than read_max_hold=\"",
		 db->name, held_ms);
	db_poison_locked(db);
	return true;
}

/* Gate closed on return 0, and nobody reads (or nobody who gets an answer, see read_max_hold). -EBUSY: somebody stays; the gate is open again. */
static int drain_locked(struct db *db, int64_t wait_ns)
{
	int64_t until = clock_now_ns() + wait_ns;

	db->gate_closed = true;
	db->stats.gates++;
	while (db_reader_claims_locked(db) && clock_now_ns() < until && !db->stop)
		clock_cond_wait_until(&db->g_cond, &db->mu, until);
	if (db->mode == DB_MODE_WAL && db->valid && !db_reader_claims_locked(db) && several_connections_locked(db)) {
		uint8_t marks[4 * (WAL_NREADER - 1)];

		walindex_close_gate(&db->index);
		memcpy(marks, db->index.data + WALINDEX_READMARK_OFFSET + 4, sizeof marks);
		pthread_mutex_unlock(&db->mu);
		db->config->notify->shm_store(db->notify_ctx, WALINDEX_READMARK_OFFSET + 4, marks, sizeof marks);
		pthread_mutex_lock(&db->mu);
	}
	while (db_readers_locked(db) && !db->stop) {
		int64_t next = until;

		db_expire_locked(db, clock_now_ns(), &next);
		if (clock_cond_wait_until(&db->g_cond, &db->mu, next) == -ETIMEDOUT && clock_now_ns() >= until)
			break;
	}
	if (!db_readers_locked(db)) {
		db->gate_failures = 0;
		return 0;
	}
	db->stats.gates_failed++;
	warn_reader_locked(db);
	if (end_long_readers_locked(db))
		return 0;
	reopen_gate_locked(db);
	/* Ever more rarely while the same reader stays: each try costs the others some waiting. */
	db->gate_retry_ns = clock_now_ns() + (NS_PER_MS * 100 << (db->gate_failures < 4 ? db->gate_failures : 4));
	db->gate_failures++;
	return -EBUSY;
}

static bool writer_locked(const struct db *db)
{
	return db_writer_locked(db) != NULL || db_is_publishing_locked(db);
}

/* When what was committed here is to go into the file, if nobody is there by then. */
static int64_t idle_fold_at_locked(const struct db *db)
{
	if (db->wal.committed <= 1 || db->behind_count || db->fold_in_vain)
		return INT64_MAX;
	return db->want_fold ? 0 : db->committed_ns + FOLD_IDLE_NS;
}

static void fold_locked(struct db *db)
{
	int err;

	db->want_fold = false;
	if (db->absent)
		db->must_fold = db->unpublished = db->switching = false;
	if (db_files_get_locked(db) != 0)
		return;
	db->valid = false; /* from here on nobody is let in */
	pthread_mutex_unlock(&db->mu);
	err = db_fold(db);
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	if (err)
		db->rebuild = true;
	if (err && err != -ENOMEM)
		db_files_gone_locked(db, err);
}

/* After a turn of this node. Where nobody is known to wait: enough for one who has just come. */
static int64_t turn_gap_locked(const struct db *db)
{
	if (db->long_gap)
		return LONG_PAUSE_NS - 10 * NS_PER_MS;
	return db_peers_locked(db, clock_now_ns()) ? gap_ns(2 * GUARD_HOLD_MAX_NS) : LONE_GAP_NS;
}

/* LiteFS' turn. Readers wait (parked) until the gap is over. */
static void gap_locked(struct db *db)
{
	int64_t gap = gap_ns(clock_now_ns() - db->guard_since_ns);

	if (db->want_gap)
		gap = turn_gap_locked(db);
	db->long_gap = false;
	/* Writers that wait for upstream hold READ meanwhile: they come again. */
	if (db->up_state == UP_IDLE || db->up_state == UP_BEGIN)
		db_send_writers_away_locked(db);
	db->want_gap = false;
	if (drain_locked(db, GATE_WAIT_NS) != 0) {
		if (db->mode == DB_MODE_WAL && db->up_state == UP_IDLE && db_role_moves(db)) {
			db->want_lend = true;
			pthread_cond_signal(&db->u_cond);
		} else if (db->gateway && db->up_state == UP_IDLE && clock_now_ns() >= db->refresh_retry_ns) {
			db->want_refresh = true;
			pthread_cond_signal(&db->u_cond);
		}
		return;
	}
	if (db->valid && db->guard_held && !db_readers_locked(db) && !writer_locked(db) && db_fold_wanted_locked(db))
		fold_locked(db);
	if (db_give_guard_locked(db) == 0)
		db->gap_until_ns = clock_now_ns() + gap;
	db->gate_closed = false;
}

/* A database that was not there may be now. -ENOENT: it is not. */
static int look_again_locked(struct db *db)
{
	int err;

	if (!db->absent)
		return 0;
	db_token_enter_locked(db);
	pthread_mutex_unlock(&db->mu);
	err = db_appear(db, false);
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	return err;
}

/* Upstream is held and ahead of us: hold readers back until LiteFS has caught up. */
static void catch_up_locked(struct db *db)
{
	int64_t start = clock_now_ns(), until = start + CATCHUP_WAIT_NS;
	struct pos target = db->up_pos, pos = {0};
	bool there = false;

	db->stats.catchups++;
	if (drain_locked(db, GATE_WAIT_NS) == 0 && db_give_guard_locked(db) == 0) {
		while (!there && (db->files_ok || db->absent) && !db->stop && clock_now_ns() < until && db->up_state == UP_HELD &&
		       !db->doomed) {
			int err = look_again_locked(db);

			if (!err)
				err = db_files_get_locked(db);
			if (err == -ENOENT) { /* nothing here, and nothing upstream: there */
				there = db_pos_is_empty(target);
				if (there)
					break;
				pthread_mutex_unlock(&db->mu);
				clock_sleep_ns(NS_PER_MS);
				pthread_mutex_lock(&db->mu);
				continue;
			}
			if (err)
				break;
			pthread_mutex_unlock(&db->mu);
			err = lfs_files_pos(&db->files, &pos);
			if (!err && !pos_equal(pos, target))
				clock_sleep_ns(150 * NS_PER_US);
			pthread_mutex_lock(&db->mu);
			db_files_put_locked(db);
			if (err)
				db_files_gone_locked(db, err);
			else
				db->litefs_pos = pos;
			there = !err && pos_equal(pos, target);
		}
		while (there && db_take_guard_locked(db) == -EAGAIN && clock_now_ns() < until) {
			pthread_mutex_unlock(&db->mu);
			clock_sleep_ns(100 * NS_PER_US);
			pthread_mutex_lock(&db->mu);
		}
		if (there && (!db->guard_held || (!db->valid && validate_locked(db) != 0)))
			there = false;
		if (there && db->absent)
			db->base = db->tip = target;
	}
	db->gate_closed = false;
	db->catching = false;
	db_measure(DB_HISTOGRAM(db, catch_up), clock_now_ns() - start);
	PROBE3(catch_up_done, db->name, target.txid, (int)there);
	if (there) {
		db->keep_until_ns = clock_now_ns() + KEEP_NS; /* (at a gateway, too: who was sent away has slept longer by now) */
		db_answer_writes_locked(db, 0);
	} else {
		db->stats.catchups_failed++;
		db->end_wanted = true;
	}
	pthread_cond_signal(&db->u_cond);
	db_answer_reads_locked(db);
}

static void reopen_locked(struct db *db)
{
	struct lfs_files files;
	struct lfs_ident ident;
	int err;

	/* Users first, for one that is in a call may want the token; no new ones come while files_ok is false. */
	for (;;) {
		while (db->files_users && !db->stop)
			pthread_cond_wait(&db->changed, &db->mu);
		db_token_enter_locked(db);
		if (!db->files_users || db->stop)
			break;
		db_token_leave_locked(db);
	}
	if (db->stop) {
		db_token_leave_locked(db);
		return;
	}
	pthread_mutex_unlock(&db->mu);
	if (db->files.dir) {
		guard_before_close(&db->guard);
		lfs_files_close(&db->files);
		guard_forget(&db->guard);
	}
	err = lfs_dir_alive(db->config->settings->litefs_dir) ? db_files_open(db, &files, &ident) : -ENOTCONN;
	if (err == -ENOENT && !lfs_dir_alive(db->config->settings->litefs_dir))
		err = -ENOTCONN; /* what a LiteFS does not list that is not there exists all the same */
	pthread_mutex_lock(&db->mu);
	db->guard_held = db->valid = false;
	db->guard_epoch++;
	if (!err) {
		db->files = files;
		db->ident = ident;
		db->files_ok = true;
		log_info("litefs_back", "db=%s", db->name);
	}
	if (err == -ENOENT) {
		db_vanish_locked(db);
		db->want_guard = true; /* and the view begins anew at once */
		db_token_leave_locked(db);
		return;
	}
	db_token_leave_locked(db);
	if (err && !db->stop)
		clock_cond_wait_until(&db->g_cond, &db->mu, clock_now_ns() + 100 * NS_PER_MS);
}

static bool reads_parked_locked(const struct db *db)
{
	for (const struct db_call *c = db->parked; c; c = c->next)
		if (c->kind == PARK_READ)
			return true;
	return false;
}

/* How long the guard may be held without a break. Writers that wait for upstream hold READ meanwhile. */
static int64_t hold_max_ns(const struct db *db)
{
	if (db->up_state != UP_BEGIN)
		return GUARD_HOLD_MAX_NS;
	return 5 * GUARD_HOLD_MAX_NS + 2 * db->rtt_ns;
}

/* One step with the guard held. Returns when to look again. */
static int64_t step_held_locked(struct db *db, int64_t now)
{
	unsigned readers = db_readers_locked(db);
	bool idle = db->up_state == UP_IDLE || db->up_state == UP_BEGIN;
	int64_t gap_at = db->guard_since_ns + hold_max_ns(db);
	bool unused;

	if (!db->valid) {
		int err;

		if (db->poison) { /* they leave, and G is woken; they need no guard for EIO */
			db_give_guard_locked(db);
			return now + 20 * NS_PER_MS;
		}
		if (readers) { /* I1 is broken: a bug of ours, and nobody may read on */
			log_error("reader_without_guard", "db=%s do=\"report this bug; its readers get errors until they begin anew\"",
				  db->name);
			db_poison_locked(db);
			return now;
		}
		err = validate_locked(db);
		if (err == -EBADMSG || err == -EINPROGRESS) { /* no database there now, or not yet what is to come: let LiteFS go on */
			db_give_guard_locked(db);
			db->gap_until_ns = clock_now_ns() + 20 * NS_PER_MS;
		}
		return err ? clock_now_ns() + NS_PER_MS : 0;
	}
	db_answer_reads_locked(db);
	readers = db_readers_locked(db);
	if (db->unpublished && !writer_locked(db) && (readers || db->behind_count)) {
		db_mend_locked(db);
		return 0;
	}
	if (!readers && !writer_locked(db) && db_fold_wanted_locked(db)) {
		fold_locked(db);
		return 0;
	}
	if (!readers && now < db->returning_until_ns)
		return db->returning_until_ns;
	unused = !readers && now - db->idle_since_ns >= GUARD_IDLE_NS;
	if (!readers && !writer_locked(db) && now >= idle_fold_at_locked(db) && (db->want_fold || unused)) {
		fold_locked(db);
		return 0;
	}
	if (unused) {
		if (db_give_guard_locked(db) != 0)
			return now + NS_PER_MS;
		else if (db->must_fold && db->behind_count) /* which is why it is taken again at once, and LiteFS is to come in between */
			db->gap_until_ns = now + gap_ns(GUARD_HOLD_MAX_NS);
		return 0;
	}
	if (gap_at < db->gate_retry_ns)
		gap_at = db->gate_retry_ns;
	if (gap_at < db->returning_until_ns)
		gap_at = db->returning_until_ns;
	if (idle && now >= gap_at) {
		gap_locked(db);
		return 0;
	}
	if (!readers)
		return db->idle_since_ns + GUARD_IDLE_NS;
	return idle && gap_at < now + 5 * NS_PER_MS ? gap_at : now + 5 * NS_PER_MS;
}

/* For what nobody waits for: LiteFS elsewhere is the next reader's business, with all that follows from it. */
static bool litefs_is_at_tip_locked(struct db *db)
{
	struct pos pos;

	return db_look_at_pos_locked(db, &pos) == 0 && pos_equal(pos, db->tip);
}

static int64_t step_away_locked(struct db *db, int64_t now)
{
	int64_t fold_at = idle_fold_at_locked(db);
	bool wanted;

	if (db->window)
		return now + 5 * NS_PER_MS;
	if (db->poison)
		return now + 20 * NS_PER_MS;
	wanted = reads_parked_locked(db) || db->must_fold || db->want_guard;
	if (!wanted && now < fold_at)
		return fold_at < now + 3600 * NS_PER_S ? fold_at : now + 3600 * NS_PER_S;
	if (now < db->gap_until_ns)
		return db->gap_until_ns;
	if (!wanted && !litefs_is_at_tip_locked(db)) {
		db->fold_in_vain = true;
		return 0;
	}
	if (db_take_guard_locked(db) != 0)
		return clock_now_ns() + (wanted ? 300 * NS_PER_US : FOLD_RETRY_NS);
	db->want_guard = false;
	if (!db->valid)
		validate_locked(db);
	return 0;
}

void *db_guard_main(void *arg)
{
	struct db *db = arg;

	pthread_mutex_lock(&db->mu);
	while (!db->stop) {
		int64_t now = clock_now_ns(), next = now + 3600 * NS_PER_S, step;

		db_expire_locked(db, now, &next);
		if (db->poison && !db_readers_locked(db)) {
			db->poison = false;
			db->valid = false;
			db->rebuild = true;
		}
		if (!db->files_ok && !db->absent) {
			reopen_locked(db);
			continue;
		}
		if (db->spoiled) {
			db->spoiled = false;
			pthread_mutex_unlock(&db->mu);
			db->config->notify->invalidate(db->notify_ctx, 0, 0);
			pthread_mutex_lock(&db->mu);
			continue;
		}
		if (db->need_ckpt && db->up_state == UP_IDLE) {
			if (!db_readers_locked(db) || drain_locked(db, GATE_WAIT_NS) == 0) {
				checkpoint_locked(db);
				db->gate_closed = false;
				db_answer_reads_locked(db);
				if (!db->need_ckpt)
					db->want_guard = true;
			}
			if (db->need_ckpt)
				clock_cond_wait_until(&db->g_cond, &db->mu, clock_now_ns() + 20 * NS_PER_MS);
			continue;
		}
		if (db->catching && db->up_state == UP_HELD) {
			catch_up_locked(db);
			continue;
		}
		if (db->want_gap && db->up_state == UP_IDLE) {
			if (db->guard_held) {
				gap_locked(db);
			} else {
				db->want_gap = false;
				db->gap_until_ns = clock_now_ns() + turn_gap_locked(db);
				db->long_gap = false;
			}
			continue;
		}
		step = db->guard_held ? step_held_locked(db, now) : step_away_locked(db, now);
		if (step < next)
			next = step;
		if (next > clock_now_ns())
			db_guard_rest_locked(db, next);
	}
	if (db->guard_held)
		db_give_guard_locked(db);
	pthread_mutex_unlock(&db->mu);
	return NULL;
}
