/*
 * The life of a database: it appears, is created, is dropped, vanishes.
 *
 *   absent --LiteFS has it now--> there        db_appear: under the token, whenever somebody looks
 *   absent --first commit--> there             the window's LiteFS applies it, and it appears (db_commit.c)
 *   there --LiteFS does not know it--> absent  db_guard.c reopens it in vain, and LiteFS is alive
 *   there --unlink--> absent                   db_drop
 *
 * A drop is an LTX file without pages. LiteFS removes its files with it, the WAL among them, and whoever then
 * gives back WRITE ends LiteFS (LITEFS.md, 14): nobody may have the database open in LiteFS' own directory. On the primary
 * RESERVED, PENDING and SHARED are held exclusively meanwhile, and never WRITE: who has it open holds SHARED in WAL mode, and
 * a new one is shut out. From a replica the primary's locks are asked for before.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "db/db_internal.h"
#include "format/ltx.h"
#include "litefs/api.h"

#define DROP_LOCK_WAIT_NS (300 * NS_PER_MS)
#define DEBUG_TIMEOUT_MS 2000
#define SETTLE_NS (300 * NS_PER_MS)
#define PROBE_EVERY_NS (500 * NS_PER_MS)
#define PROBES 3
#define NOTICE_WAIT_NS (2 * NS_PER_S)

bool db_pos_is_empty(struct pos pos)
{
	return pos.txid == 0 || pos.checksum == LTX_CHECKSUM_FLAG;
}

int db_appear(struct db *db, bool in_window)
{
	struct lfs_files files;
	struct lfs_ident ident;
	int err;

	if (!lfs_dir_alive(db->config->settings->litefs_dir))
		return -ENOTCONN;
	err = db_files_open(db, &files, &ident);
	if (err == -ENOENT && !lfs_dir_alive(db->config->settings->litefs_dir))
		err = -ENOTCONN;
	if (err)
		return err == -EAGAIN ? -ENOENT : err;
	pthread_mutex_lock(&db->mu);
	db->files = files;
	db->ident = ident;
	db->files_ok = true;
	db->absent = db->created = false;
	db->guard_held = false;
	db->guard_epoch++;
	if (in_window) {
		db->window = true;
	} else {
		db->rebuild = true;
		db_poison_locked(db); /* readers of the empty one */
	}
	pthread_mutex_unlock(&db->mu);
	return 0;
}

void db_disown_connections_locked(struct db *db)
{
	/* To SQLite in that process SHARED is still held: it must not stand in others' way, nor serve for a read. */
	for (struct lock_owner *o = db->locks.owners; o; o = o->next)
		if (o->shared | o->exclusive) {
			lock_release(&db->locks, o, SLOTS_DATABASE | SLOTS_SHM);
			o->disowned = true;
		}
}

void db_vanish_locked(struct db *db)
{
	if (db->mode == DB_MODE_WAL)
		db_disown_connections_locked(db);
	db->absent = true;
	db->created = false;
	db->files_ok = false;
	db->guard_held = false;
	db->guard_epoch++;
	db->valid = false;
	db->rebuild = true;
	db->need_ckpt = false;
	db->mode = DB_MODE_ROLLBACK;
	db->page_size = 4096;
	db->base_pages = db->tip_pages = 0;
	db->base = db->tip = (struct pos){0};
	db->behind_count = 0;
	vjournal_remove(&db->journal);
	/* What is made under this name later has nothing to do with it. */
	db->seen.count = 0;
	db_mark_stale_locked(db);
	pthread_cond_broadcast(&db->changed);
}

bool db_is_virgin(struct db *db)
{
	bool virgin;

	pthread_mutex_lock(&db->mu);
	virgin = db->absent && db->created;
	pthread_mutex_unlock(&db->mu);
	return virgin;
}

/* Dropped by somebody else, and nobody has looked since: who opens it now begins with an empty one. */
static void notice_drop(struct db *db)
{
	int64_t until = clock_now_ns() + NOTICE_WAIT_NS;

	pthread_mutex_lock(&db->mu);
	if (!db->absent && !db_readers_locked(db))
		db_files_gone_locked(db, -ESTALE);
	if (db->absent && db->rebuild) { /* G has no other reason to begin anew: nobody reads */
		db->want_guard = true;
		pthread_cond_signal(&db->g_cond);
	}
	/* Until the kernel has forgotten it, too: SQLite would take its "-wal" for one of the new database. */
	while (!(db->absent && !db->rebuild) && !db_readers_locked(db) && !db->stop &&
	       clock_cond_wait_until(&db->changed, &db->mu, until) != -ETIMEDOUT)
		;
	pthread_mutex_unlock(&db->mu);
}

static bool is_gone(struct db *db)
{
	bool gone;

	pthread_mutex_lock(&db->mu);
	gone = db->absent && !db->created;
	pthread_mutex_unlock(&db->mu);
	return gone;
}

bool db_exists(struct db *db)
{
	char path[4096 + 300];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", db->config->settings->litefs_dir, db->name);
	/* LiteFS decides. While it is gone everything stays as it was. */
	if (stat(path, &st) == 0)
		return true;
	if (errno != ENOENT || !lfs_dir_alive(db->config->settings->litefs_dir))
		return !is_gone(db);
	if (stat(path, &st) == 0) /* it was mounted in between */
		return true;
	notice_drop(db);
	return !is_gone(db);
}

void db_create(struct db *db)
{
	pthread_mutex_lock(&db->mu);
	if (db->absent && !db->created) {
		db->created = true;
		clock_gettime(CLOCK_REALTIME, &db->changed_at);
	}
	pthread_mutex_unlock(&db->mu);
}

/* ---- drop ---- */

int db_unlink(struct db *db, struct db_call *call)
{
	int err = DB_PARKED;

	pthread_mutex_lock(&db->mu);
	for (const struct lock_owner *o = db->locks.owners; o; o = o->next)
		if ((o->shared || o->exclusive) && !(db->holder && db->holder->id == o->id))
			err = -EBUSY;
	/* Another node that writes here is waited for, as by HALT it would be. */
	if (db->drop_call || db->stop || (db->up_state == UP_COMMIT && !db->commit_session))
		err = -EBUSY;
	if (err == DB_PARKED && db->absent) {
		err = db->created ? 0 : -ENOENT;
		db->created = false;
		vjournal_remove(&db->journal);
	} else if (err == DB_PARKED) {
		call->kind = PARK_COMMIT;
		db->drop_call = call;
		db->end_wanted = true;
		pthread_cond_signal(&db->u_cond);
	}
	if (err == -EBUSY)
		log_warn("drop_refused", "db=%s reason=in_use do=\"end the programs of this node that have it open, and remove it then\"",
			 db->name);
	pthread_mutex_unlock(&db->mu);
	return err;
}

static ptrdiff_t drop_read_at(void *ctx, void *buf, size_t len, uint64_t offset)
{
	return spool_read(&((struct db *)ctx)->ltx, offset, buf, len);
}

static int encode_drop(struct db *db, struct pos before, struct pos *after, int64_t timestamp_ms)
{
	struct ltx_header header = {
		.page_size = db->page_size,
		.min_txid = before.txid + 1,
		.max_txid = before.txid + 1,
		.timestamp_ms = timestamp_ms,
		.pre_apply = before.checksum,
		.node_id = db->config->node_id,
	};
	struct ltx_trailer trailer;
	struct ltx_encoder enc;
	int err;

	*after = (struct pos){before.txid + 1, LTX_CHECKSUM_FLAG};
	spool_reset(&db->ltx);
	err = ltx_encoder_init(&enc, &header, spool_append, &db->ltx);
	if (!err)
		err = ltx_encoder_finish(&enc, after->checksum, &trailer);
	ltx_encoder_fini(&enc);
	return err;
}

/* Somebody has it open in LiteFS' directory on the primary: -EBUSY. Not on this node, for that is what SHARED tells. */
static int ask_primary(struct db *db)
{
	struct role_state *role = calloc(1, sizeof *role);
	struct api_debug_db state;
	struct api *api = NULL;
	int err;

	if (!role)
		return -ENOMEM;
	role_get(db->config->role, role);
	err = role->primary_url[0] ? api_new(role->primary_url, db->config->node_id, &api) : -EHOSTUNREACH;
	free(role);
	if (!err)
		err = api_debug_db(api, db->name, DEBUG_TIMEOUT_MS, &state);
	api_free(api);
	if (err)
		return err;
	return state.shared == API_UNLOCKED && state.dms == API_UNLOCKED ? 0 : -EBUSY;
}

/* No direct client of this node has the database open, or reads it. */
static int ask_locally(struct db *db)
{
	int64_t until = clock_now_ns() + DROP_LOCK_WAIT_NS;
	int err;

	db_token_enter_locked(db);
	pthread_mutex_unlock(&db->mu);
	/* LiteFS holds it, too, now and then, and for a short read that is no open connection. */
	while ((err = guard_try_alone(&db->guard)) == -EAGAIN && clock_now_ns() < until)
		clock_sleep_ns(10 * NS_PER_MS);
	guard_set_rollback(&db->guard, true); /* for self's begin */
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	return err;
}

static int begin_drop(struct db *db, struct upstream *up, struct pos *ret)
{
	int64_t until = clock_now_ns() + db->config->settings->halt_timeout_ms * NS_PER_MS;
	struct upstream_grant grant = {0};
	int err = 0;

	if (upstream_kind(up) == UPSTREAM_REMOTE) {
		for (int i = 0; i < 20; i++) { /* the locks of a short read are no open connection */
			err = ask_primary(db);
			if (err != -EBUSY)
				break;
			clock_sleep_ns(25 * NS_PER_MS);
		}
	}
	if (!err)
		err = upstream_begin(up, (struct pos){0}, until, &grant);
	if (!err)
		*ret = grant.pos;
	return err;
}

/* Until LiteFS here has no such database any more. */
static int await_gone(struct db *db, int64_t until)
{
	char path[4096 + 300];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", db->config->settings->litefs_dir, db->name);
	for (;;) {
		if (stat(path, &st) < 0 && errno == ENOENT && lfs_dir_alive(db->config->settings->litefs_dir))
			return 0;
		if (clock_now_ns() >= until || db_is_over(db))
			return -ETIMEDOUT;
		clock_sleep_ns(NS_PER_MS);
	}
}

/*
 * Nobody has said what became of it: as db_decide(), fresh locks upstream show the position before it, again and again, for what
 * was sent may still be under way. False: it is gone, or nobody can tell.
 */
static bool is_refuted(struct db *db, struct upstream *up, struct pos before, int64_t until)
{
	int64_t next = clock_now_ns() + SETTLE_NS;
	struct upstream_node sent_to, node;
	struct pos pos;
	int seen = 0;

	upstream_node(up, &sent_to);
	clock_sleep_ns(SETTLE_NS);
	upstream_end(up);
	while (clock_now_ns() < until && !db_is_over(db)) {
		if (await_gone(db, clock_now_ns()) == 0)
			return false;
		if (clock_now_ns() < next) {
			clock_sleep_ns(10 * NS_PER_MS);
			continue;
		}
		if (upstream_probe(up, clock_now_ns() + NS_PER_S, &pos) == 0 && pos_equal(pos, before)) {
			upstream_node(up, &node);
			if (upstream_node_equal(&node, &sent_to) && ++seen >= PROBES)
				return true;
		}
		next = clock_now_ns() + PROBE_EVERY_NS;
	}
	return false;
}

static int send_drop(struct db *db, struct upstream *up, struct pos before)
{
	int64_t timeout_ns = db->config->settings->commit_timeout_ms * NS_PER_MS, until = clock_now_ns() + timeout_ns;
	struct upstream_tx tx = {.before = before, .read_at = drop_read_at, .ctx = db};
	int64_t timestamp_ms = db_timestamp_ms(db, before);
	enum outcome outcome;
	int err = db_pos_is_empty(before) ? -ENOENT : encode_drop(db, before, &tx.after, timestamp_ms);

	if (err)
		return err;
	tx.size = db->ltx.size;
	outcome = upstream_commit(up, &tx, clock_now_ns() + (upstream_kind(up) == UPSTREAM_SELF ? DROP_LOCK_WAIT_NS : timeout_ns / 2));
	if (outcome == OUTCOME_REFUSED)
		return upstream_kind(up) == UPSTREAM_SELF ? -EBUSY : -EIO;
	if (outcome == OUTCOME_UNKNOWN && is_refuted(db, up, before, until))
		return -EIO;
	if (await_gone(db, until) != 0 || (outcome == OUTCOME_UNKNOWN && db_ltx_is_of(db, tx.after.txid, db->config->node_id, timestamp_ms) != 1)) {
		const struct db_unknown unknown = {.after = tx.after, .node_id = db->config->node_id, .timestamp_ms = timestamp_ms,
						   .here = upstream_kind(up) == UPSTREAM_SELF, .drop = true};

		pthread_mutex_lock(&db->mu);
		db_note_unknown_locked(db, &unknown);
		pthread_mutex_unlock(&db->mu);
		return -EIO;
	}
	return 0;
}

static int drop(struct db *db)
{
	enum role_kind kind = role_kind_now(db->config->role);
	struct upstream *up = NULL;
	struct pos before = {0};
	int err;

	if (kind != ROLE_UNKNOWN)
		up = kind == ROLE_PRIMARY ? db->self : db->remote;
	if (!up)
		return -EHOSTUNREACH;
	err = db_give_guard_locked(db);
	if (!err)
		err = ask_locally(db);
	if (err)
		return -EBUSY;
	pthread_mutex_unlock(&db->mu);
	err = begin_drop(db, up, &before);
	if (!err) {
		err = send_drop(db, up, before);
		upstream_end(up);
	}
	pthread_mutex_lock(&db->mu);
	return err;
}

void db_drop(struct db *db)
{
	struct db_call *call = db->drop_call;
	int err = db_files_get_locked(db);

	if (!err) {
		err = drop(db);
		db_files_put_locked(db);
	}
	spool_reset(&db->ltx);
	if (!err) {
		log_info("dropped", "db=%s", db->name);
		/* The descriptors are of files that are gone; G opens the name anew, in vain. */
		db_files_gone_locked(db, -ESTALE);
	} else {
		log_warn("drop_failed", "db=%s error=\"%s\" do=\"%s\"", db->name, strerror(-err),
			 err == -EBUSY ? "a program has it open in LiteFS' own directory: end it" : "check the primary, and try again");
	}
	if (err == -EUCLEAN) { /* LiteFS' WAL is to be emptied first: so G does, and the next attempt will do */
		db->need_ckpt = true;
		err = -EBUSY;
	}
	db->drop_call = NULL;
	pthread_cond_signal(&db->g_cond);
	if (call)
		call->done(call, err == -EHOSTUNREACH || err == -EAGAIN ? -EBUSY : err);
	db_answer_reads_locked(db);
}
