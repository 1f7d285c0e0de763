/*
 * The view's two new beginnings (I3): reset, at a position that is not ours, and
 * fold, at our own tip. Both end with a WAL of one frame, no undo, a fresh header in
 * the clients' wal-index, and the kernel's copies of changed pages gone.
 *
 * The order matters: undo is freed before the kernel's pages are invalidated, so that
 * whoever reads again reads LiteFS' page; and no READ lock is granted until all is done,
 * for `valid` is false meanwhile.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/probe.h"
#include "db/db_internal.h"
#include "format/ltx.h"

#define RUNS_MAX 128

struct fresh {
	uint8_t *page1;
	struct sqlite_header header;
	uint32_t pages;
};

/*
 * The file may be longer than the database: SQLite with a rollback journal cuts it after its commit, and a direct client may
 * have died in between. LiteFS counts what the transaction says; a page too many in our checksum would end it.
 */
static uint32_t pages_at(struct db *db, struct pos pos, const struct sqlite_header *header, int64_t size)
{
	uint32_t pages = (uint32_t)(size / header->page_size);
	struct ltx_header ltx;

	if (db_ltx_header(db, pos.txid, &ltx) == 0 && ltx.commit)
		return ltx.commit;
	return header->page_count && header->page_count < pages ? header->page_count : pages;
}

/* known: the database's size in pages, or 0. */
static int read_fresh(struct db *db, struct pos pos, uint32_t known, struct fresh *f)
{
	int64_t size;
	ssize_t n;
	int err;

	if (db->absent) { /* an empty file, of SQLite's usual page size until somebody says otherwise */
		f->header = (struct sqlite_header){.page_size = 4096};
		memset(f->page1, 0, f->header.page_size);
		f->pages = 0;
		return 0;
	}
	n = lfs_files_read(&db->files, f->page1, 65536, 0);
	err = n < 0 ? (int)n : n < 512 ? -EBADMSG : sqlite_header_parse(f->page1, &f->header);
	if (!err)
		err = lfs_files_size(&db->files, &size);
	if (!err)
		f->pages = known ? known : pages_at(db, pos, &f->header, size);
	return err;
}

static int compare_pgno(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* pgnos NULL: everything. */
static void invalidate(struct db *db, uint32_t *pgnos, uint32_t count, uint32_t page_size)
{
	const struct db_notify *notify = db->config->notify;
	uint32_t runs = 0;

	if (pgnos) {
		qsort(pgnos, count, sizeof *pgnos, compare_pgno);
		for (uint32_t i = 0; i < count; i++)
			runs += i == 0 || pgnos[i] > pgnos[i - 1] + 1;
	}
	if (!pgnos || runs > RUNS_MAX) {
		notify->invalidate(db->notify_ctx, 0, 0);
		return;
	}
	for (uint32_t i = 0; i < count;) {
		uint32_t first = pgnos[i], last = first, n = 1;

		for (; i + n < count && pgnos[i + n] <= last + 1; n++)
			last = pgnos[i + n];
		notify->invalidate(db->notify_ctx, (off_t)(first - 1) * page_size, (off_t)(last - first + 1) * page_size);
		i += n;
	}
}

/* A reader that has claimed a slot may be about to write its mark; it takes no time unless it was stopped. */
static void wait_for_claims_locked(struct db *db)
{
	int64_t until = clock_now_ns() + 100 * NS_PER_MS;

	while (db_reader_claims_locked(db) && !db->stop)
		if (clock_cond_wait_until(&db->g_cond, &db->mu, until) == -ETIMEDOUT)
			break;
}

static void store_header(struct db *db, const uint8_t *header)
{
	/* As SQLite's writers do: the second copy first, so that a reader between the two sees them differ. */
	db->config->notify->shm_store(db->notify_ctx, 48, header + 48, WALINDEX_HEADER_SIZE - 48);
	db->config->notify->shm_store(db->notify_ctx, 0, header, 48);
}

/* Counted before anybody is let in. */
static void note_restart_locked(struct db *db, bool foreign)
{
	if (foreign) {
		db->stats.resets++;
		PROBE2(reset, db->name, db->tip.txid);
	} else {
		db->stats.folds++;
		PROBE2(fold, db->name, db->tip.txid);
	}
}

static void end_restart(struct db *db, bool done, bool foreign)
{
	pthread_mutex_lock(&db->mu);
	db->restarting = false;
	db->valid = done;
	db->rebuild = !done;
	db->restarted_ns = clock_now_ns();
	if (done) {
		db->must_fold = db->unpublished = db->switching = db->want_fold = db->fold_in_vain = false;
		note_restart_locked(db, foreign);
	}
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mu);
}

static int restart(struct db *db, struct pos pos, bool foreign)
{
	uint8_t header[WALINDEX_HEADER_SIZE];
	struct fresh f = {.page1 = malloc(65536)};
	bool mode_changed, grown;
	uint32_t *pgnos = NULL, count = 0, old_end = 0;
	int err;

	if (!f.page1)
		return -ENOMEM;
	err = read_fresh(db, pos, foreign ? 0 : db->tip_pages, &f);
	if (err) {
		free(f.page1);
		return err;
	}
	pthread_mutex_lock(&db->mu);
	if (db->valid || db_readers_locked(db)) { /* I3 */
		pthread_mutex_unlock(&db->mu);
		free(f.page1);
		return -EBUSY;
	}
	db->restarting = true;
	wait_for_claims_locked(db);
	mode_changed = (f.header.wal ? DB_MODE_WAL : DB_MODE_ROLLBACK) != db->told_mode;
	grown = f.pages != db->base_pages;
	if (!foreign) {
		pgnos = malloc(sizeof *pgnos * (db->undo.count + 1));
		if (pgnos && db->undo.count)
			memcpy(pgnos, db->undo.pgnos, sizeof *pgnos * db->undo.count);
		count = db->undo.count;
		/*
		 * Behind the old end the kernel may have zeros: of the page that the end was in, and of as many as it read
		 * ahead while it still thought the file longer, which it keeps when it is told of the end.
		 */
		if (grown && db->base_pages)
			old_end = db->base_pages < f.pages ? db->base_pages : f.pages;
	}
	err = vwal_restart(&db->wal, f.page1, f.header.page_size, f.pages);
	if (!err) {
		if (db->mode == DB_MODE_WAL && !f.header.wal)
			db_disown_connections_locked(db);
		db->mode = db->told_mode = f.header.wal ? DB_MODE_WAL : DB_MODE_ROLLBACK;
		db->page_size = f.header.page_size;
		db->base = db->tip = pos;
		db->behind_count = 0;
		db->behind_lost_ns = 0;
		db->base_pages = db->tip_pages = f.pages;
		page_set_reset(&db->undo, f.header.page_size);
		page_map_clear(&db->tip_frames);
		page_set_reset(&db->overlay, f.header.page_size);
		db->writing = false;
		walindex_restart(&db->index, &db->wal, f.pages);
		memcpy(header, db->index.data, sizeof header);
		if (foreign) {
			db->commit_seq++;
			clock_gettime(CLOCK_REALTIME, &db->changed_at);
		}
		if (db->mode == DB_MODE_ROLLBACK && f.pages)
			db_note_state_locked(db, f.page1);
	}
	pthread_mutex_unlock(&db->mu);
	free(f.page1);
	if (err) {
		free(pgnos);
		end_restart(db, false, foreign);
		return err;
	}
	store_header(db, header);
	invalidate(db, pgnos, count, f.header.page_size); /* no memory for a list: everything, too */
	if (pgnos && old_end)
		db->config->notify->invalidate(db->notify_ctx, (off_t)(old_end - 1) * f.header.page_size, 0);
	if (mode_changed)
		db->config->notify->mode_changed(db->notify_ctx);
	free(pgnos);
	end_restart(db, true, foreign);
	return 0;
}

int db_reset(struct db *db, struct pos pos)
{
	return restart(db, pos, true);
}

int db_fold(struct db *db)
{
	struct pos tip;

	pthread_mutex_lock(&db->mu);
	tip = db->tip;
	pthread_mutex_unlock(&db->mu);
	return restart(db, tip, false);
}

bool db_fold_wanted_locked(const struct db *db)
{
	if (db->behind_count) /* LiteFS is not at tip */
		return false;
	return db->must_fold || db->wal.committed > FOLD_FRAMES ||
	       (uint64_t)db->undo.count * db->page_size > FOLD_BYTES;
}

/* Nobody is here whose snapshot stands in the way, and what was committed here since base is in the file (a fold). */
static bool fresh_locked(const struct db *db)
{
	if (db->stop || db->absent || !db->files_ok || db->poison || db->window)
		return true;
	if (db_readers_locked(db) || db->locks.exclusive[SLOT_WRITE])
		return true;
	return db->guard_held && db->valid && db->wal.committed <= 1;
}

bool db_is_fresh(struct db *db)
{
	bool fresh;

	pthread_mutex_lock(&db->mu);
	fresh = fresh_locked(db);
	pthread_mutex_unlock(&db->mu);
	return fresh;
}

int db_look_at_pos_locked(struct db *db, struct pos *ret)
{
	int err = db_files_get_locked(db);

	if (err)
		return err;
	pthread_mutex_unlock(&db->mu);
	err = lfs_files_pos(&db->files, ret);
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	return err;
}

/* True: LiteFS is where the view's base is. */
static bool unmoved_locked(struct db *db)
{
	struct pos pos;

	return db_look_at_pos_locked(db, &pos) != 0 || (pos_equal(pos, db->tip) && !db->rebuild && db->wal.committed <= 1);
}

void db_refresh(struct db *db)
{
	int64_t now = clock_now_ns(), until = now + REFRESH_NS, until_fold = now + 10 * GUARD_IDLE_NS;

	pthread_mutex_lock(&db->mu);
	while (!fresh_locked(db) && clock_now_ns() < until && db->ckpt_failures < CKPT_PATIENCE) {
		db->want_fold = db->wal.committed > 1;
		if (db->guard_held && db->valid) { /* G folds when it has been idle; who comes again and again keeps it from that */
			if (clock_now_ns() >= until_fold)
				break;
		} else if (unmoved_locked(db)) {
			break;
		} else {
			db->want_guard = true; /* G looks at the position when it has the guard */
			pthread_cond_signal(&db->g_cond);
		}
		clock_cond_wait_until(&db->changed, &db->mu, clock_now_ns() + NS_PER_MS / 2);
	}
	pthread_mutex_unlock(&db->mu);
}
