/*
 * Transactions that no client of this node has written: another node's, committed here over the gateway, and those that a
 * gateway's begin brings. They are appended to the virtual WAL and published in the wal-index the way a writing SQLite
 * process does it (frames, hash tables, header), so that new readers see them at once and old ones keep their snapshot.
 *
 * Of the second kind LiteFS here may know nothing yet: its positions up to tip are kept in `behind`. While that is so, a page
 * that such a transaction has changed is read from tip_frames or undo, and every other one is the same at all of these
 * positions: nothing is read from a page that LiteFS may be writing. No fold before LiteFS stands at tip.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "db/db_commit.h"
#include "db/db_internal.h"
#include "format/ltx.h"

/* What LiteFS is given to apply what readers have kept from it, and how long before the lease's end it must be over. */
#define CATCH_UP_NS NS_PER_S
#define LEASE_MARGIN_NS (500 * NS_PER_MS)

struct in_memory {
	const uint8_t *data;
	uint64_t left;
};

static ptrdiff_t read_memory(void *ctx, void *buf, size_t len)
{
	struct in_memory *m = ctx;

	if (len > m->left)
		len = (size_t)m->left;
	memcpy(buf, m->data, len);
	m->data += len;
	m->left -= len;
	return (ptrdiff_t)len;
}

/* WRITE is ours, so nobody else appends. */
static int append(void *ctx, uint32_t pgno, uint32_t commit, const void *page)
{
	struct db *db = ctx;
	int err;

	pthread_mutex_lock(&db->mu);
	err = vwal_append(&db->wal, ++db->append_frame, pgno, commit, page);
	pthread_mutex_unlock(&db->mu);
	return err;
}

/* Appended and checked; not committed. */
static int adopt(struct db *db, struct changeset *cs, ltx_source_fn read, void *read_ctx)
{
	int err;

	pthread_mutex_lock(&db->mu);
	*cs = (struct changeset){
		.db_name = db->name,
		.page_size = db->page_size,
		.first_frame = db->wal.committed + 1,
		.old_pages = db->tip_pages,
		.before = db->tip,
	};
	db->append_frame = db->wal.committed;
	pthread_mutex_unlock(&db->mu);
	err = db_adopt_ltx(db, cs, append, read, read_ctx);
	cs->last_frame = db->append_frame;
	return err;
}

void db_must_fold_locked(struct db *db)
{
	db->must_fold = true;
	db->unpublished = false;
	pthread_cond_signal(&db->g_cond);
}

void db_must_publish_locked(struct db *db)
{
	db->unpublished |= !db->must_fold;
	db->must_fold = true;
	pthread_cond_signal(&db->g_cond);
}

/* What is committed: the clients are shown it. mu is let go. */
static int publish_locked(struct db *db)
{
	struct walindex_patch patch;
	int err = db->valid && !db->poison && !db->restarting
			  ? walindex_publish(&db->index, &db->wal, db->wal.committed, db->tip_pages, &patch)
			  : -ESTALE;

	if (err)
		return err;
	pthread_mutex_unlock(&db->mu);
	for (size_t i = 0; i < patch.count; i++)
		db->config->notify->shm_store(db->notify_ctx, (off_t)patch.pieces[i].off, patch.pieces[i].data, patch.pieces[i].len);
	walindex_patch_fini(&patch);
	pthread_mutex_lock(&db->mu);
	return 0;
}

/* Without memory they see it after the next fold, and nobody writes before. */
static void publish(struct db *db)
{
	pthread_mutex_lock(&db->mu);
	if (publish_locked(db) != 0)
		db_must_fold_locked(db);
	pthread_mutex_unlock(&db->mu);
}

void db_mend_locked(struct db *db)
{
	bool done = publish_locked(db) == 0;

	if (done && db->unpublished) /* and nothing else has come to light meanwhile */
		db->must_fold = false;
	db->unpublished = false;
	if (!done)
		return;
	db->stats.mends++;
	db_answer_writes_locked(db, 0);
}

enum verdict db_commit_foreign(struct db *db, int *ret_reason)
{
	struct spool_reader in = {.spool = &db->ltx};
	struct changeset cs;
	enum verdict verdict;
	int err = adopt(db, &cs, spool_reader_read, &in);

	if (err) {
		log_warn("gateway_commit_refused", "db=%s peer=%016" PRIx64 " error=\"%s\"", db->name, db->commit_session->peer,
			 strerror(-err));
		pthread_mutex_lock(&db->mu);
		db->tx_outcome = DB_TX_REFUSED;
		db->stats.refused++;
		pthread_mutex_unlock(&db->mu);
		*ret_reason = err;
		return VERDICT_NOT_COMMITTED;
	}
	verdict = db_send(db, &cs, cs.last_frame);
	if (verdict == VERDICT_COMMITTED)
		publish(db);
	return verdict;
}

bool db_pos_fits_locked(struct db *db, struct pos pos)
{
	if (pos_equal(pos, db->tip)) {
		db->behind_count = 0;
		return true;
	}
	for (unsigned i = 0; i < db->behind_count; i++) {
		if (!pos_equal(pos, db->behind[i]))
			continue;
		memmove(db->behind, db->behind + i, (db->behind_count - i) * sizeof *db->behind);
		db->behind_count -= i;
		return true;
	}
	return false;
}

/* One of begin's transactions is the clients' latest now. -ESTALE: the view was lost meanwhile. */
static int advance(struct db *db, const struct changeset *cs)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (!db->guard_held || !db->valid || db->poison || db->behind_count >= BEHIND_MAX || !pos_equal(db->tip, cs->before)) {
		err = -ESTALE;
	} else {
		db->behind[db->behind_count++] = db->tip;
		db_commit_done_locked(db, cs, cs->last_frame);
		err = db->poison || !db->valid ? -ENOMEM : 0;
	}
	pthread_mutex_unlock(&db->mu);
	return err;
}

/* While begin waited its turn LiteFS here has gone on, and the view with it. */
static bool has_it(struct db *db, const uint8_t *ltx, uint64_t size)
{
	struct ltx_header header;
	bool has;

	if (size < LTX_HEADER_SIZE || ltx_header_decode(ltx, &header) != 0)
		return false; /* adopt() says what is wrong with it */
	pthread_mutex_lock(&db->mu);
	has = header.max_txid <= db->tip.txid;
	pthread_mutex_unlock(&db->mu);
	return has;
}

int db_publish_bundle(struct db *db, const struct upstream_grant *grant)
{
	struct in_memory in = {.data = grant->ltx};
	unsigned done = 0;
	int err = db_files_get(db);

	if (err)
		return err;
	for (unsigned i = 0; !err && i < grant->tx_count; i++) {
		struct changeset cs;

		in.left = grant->tx_size[i];
		if (has_it(db, in.data, in.left)) {
			in.data += in.left;
			continue;
		}
		err = adopt(db, &cs, read_memory, &in);
		if (!err)
			err = advance(db, &cs);
		done += !err; /* and all of its bytes were read */
	}
	db_files_put(db, 0);
	if (done)
		publish(db);
	pthread_mutex_lock(&db->mu);
	db->stats.bundles += done > 0;
	db->stats.bundle_transactions += done;
	if (!err && !pos_equal(db->tip, grant->pos))
		err = -EBADMSG;
	pthread_mutex_unlock(&db->mu);
	return err;
}

void db_let_litefs_catch_up(struct db *db)
{
	int64_t until = clock_now_ns() + CATCH_UP_NS, lease = upstream_hold_until(db->up) - LEASE_MARGIN_NS;
	struct pos tip, pos;
	bool ours;
	int err;

	pthread_mutex_lock(&db->mu);
	tip = db->tip;
	pthread_mutex_unlock(&db->mu);
	db_open_window(db, tip);
	db_await_pos(db, tip, until < lease ? until : lease);
	err = db_take_back_guard(db);
	if (!err)
		err = db_local_pos(db, &pos);
	pthread_mutex_lock(&db->mu);
	ours = !err && db_pos_fits_locked(db, pos);
	if (!err)
		db->litefs_pos = pos;
	db_close_window_locked(db, ours);
	pthread_mutex_unlock(&db->mu);
}
