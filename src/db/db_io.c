/*
 * Bytes: the view of the database, the virtual WAL, the wal-index.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/probe.h"
#include "db/db_internal.h"

static struct log_limit limit_wal;

/* The pages of a set, laid over what LiteFS gave for [off, off + len). */
static int lay_over_locked(struct db *db, const struct page_set *set, uint8_t *buf, size_t len, off_t off)
{
	uint32_t size = db->page_size;

	if (!set->count)
		return 0;
	for (off_t at = off - off % size; at < off + (off_t)len; at += size) {
		off_t from = at > off ? at : off;
		off_t to = at + size < off + (off_t)len ? at + size : off + (off_t)len;
		int err = page_set_get(set, (uint32_t)(at / size) + 1, db->scratch);

		if (err == 0)
			memcpy(buf + (from - off), db->scratch + (from - at), (size_t)(to - from));
		else if (err != -ENOENT)
			return err;
	}
	return 0;
}

static int overlay_locked(struct db *db, uint8_t *buf, size_t len, off_t off)
{
	int err = lay_over_locked(db, &db->undo, buf, len, off);

	return err || !db->writing ? err : lay_over_locked(db, &db->overlay, buf, len, off);
}

static bool covered_locked(const struct db *db, size_t len, off_t off)
{
	for (off_t at = off - off % db->page_size; at < off + (off_t)len; at += db->page_size)
		if (!page_set_has(&db->undo, (uint32_t)(at / db->page_size) + 1) &&
		    !(db->writing && page_set_has(&db->overlay, (uint32_t)(at / db->page_size) + 1)))
			return false;
	return true;
}

/*
 * In the window the guard is away while there are readers. LiteFS writes pages before it sets
 * the position, so what was read counts only if the guard can be had now, and the position is ours.
 * 1: it counts; 0: LiteFS is applying; negative: it does not, and never will.
 */
static int check_in_window_locked(struct db *db)
{
	struct pos pos;
	int err;

	db_token_enter_locked(db);
	/* guard_held: the window is about to close, and the guard is its worker's to keep. */
	if (!db->window || !db->files_ok || db->guard_held) {
		db_token_leave_locked(db);
		return db->files_ok ? 0 : -ESTALE;
	}
	pthread_mutex_unlock(&db->mu);
	err = guard_take_readers(&db->guard);
	if (!err) {
		err = lfs_files_pos(&db->files, &pos);
		guard_give_readers(&db->guard);
	}
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	if (err == -EAGAIN)
		return 0;
	if (err) {
		db_files_gone_locked(db, err);
		return -ESTALE;
	}
	if ((db->window && pos_equal(pos, db->pending)) || db_pos_fits_locked(db, pos))
		return 1;
	return -ESTALE;
}

/* mu held on entry and exit. Bytes, or negative errno; -EAGAIN: again, something moved. */
static ssize_t read_once_locked(struct db *db, uint8_t *buf, size_t len, off_t off)
{
	off_t end = (off_t)db_database_pages_locked(db) * db->page_size;
	bool guarded = db->guard_held && db->valid;
	uint64_t epoch = db->guard_epoch;
	ssize_t n;
	int ok;

	if (db->poison && db_readers_locked(db))
		return -ESTALE; /* I7; SQLite takes EIO for a corrupt file system */
	if (off >= end)
		return 0;
	if ((off_t)len > end - off)
		len = (size_t)(end - off);
	if ((db->undo.count || db->writing) && covered_locked(db, len, off)) {
		ok = overlay_locked(db, buf, len, off);
		return ok ? ok : (ssize_t)len;
	}
	if (db->absent) { /* what is being created, and was not written yet */
		memset(buf, 0, len);
		ok = overlay_locked(db, buf, len, off);
		return ok ? ok : (ssize_t)len;
	}
	if (db_files_get_locked(db) != 0)
		return -ENOTCONN;
	pthread_mutex_unlock(&db->mu);
	n = lfs_files_read(&db->files, buf, len, off);
	if (n >= 0 && (size_t)n < len)
		memset(buf + n, 0, len - (size_t)n);
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	if (n < 0) {
		db_files_gone_locked(db, (int)n);
		return -ENOTCONN;
	}
	if (db->poison && db_readers_locked(db))
		return -ESTALE;
	ok = overlay_locked(db, buf, len, off);
	if (ok)
		return ok;
	/* Without readers nobody relies on it: the next one validates, and the kernel's copy goes if it was foreign. */
	if (!db_readers_locked(db) || (guarded && db->guard_held && db->valid && db->guard_epoch == epoch))
		return (ssize_t)len;
	if (!db->window) {
		/* Taken in the meantime, or on its way back (I8). */
		if (!db->guard_held)
			clock_cond_wait_until(&db->changed, &db->mu, clock_now_ns() + 20 * NS_PER_MS);
		return -EAGAIN;
	}
	db->stats.window_reads++;
	ok = check_in_window_locked(db);
	if (ok < 0)
		return ok;
	if (ok == 0) {
		int64_t until = clock_now_ns() + 20 * NS_PER_MS;

		while (db->window && !db->stop && clock_cond_wait_until(&db->changed, &db->mu, until) != -ETIMEDOUT)
			;
		return -EAGAIN;
	}
	return (ssize_t)len;
}

/* A process whose connections are of a WAL database that is no more. */
static bool is_disowned_locked(const struct db *db, pid_t tgid)
{
	for (const struct lock_owner *o = db->locks.owners; o; o = o->next)
		if (o->disowned && o->tgid == tgid)
			return true;
	return false;
}

ssize_t db_read(struct db *db, pid_t tgid, void *buf, size_t len, off_t off)
{
	int64_t until = clock_now_ns() + GONE_WAIT_NS;
	ssize_t n;

	pthread_mutex_lock(&db->mu);
	for (;;) {
		n = db->stop || is_disowned_locked(db, tgid) ? -ESTALE : read_once_locked(db, buf, len, off);
		/* LiteFS was restarted while nobody looked: who opens the database now need not notice. */
		if (n == -ENOTCONN && !db_readers_locked(db) && clock_now_ns() < until) {
			clock_cond_wait_until(&db->changed, &db->mu, clock_now_ns() + 50 * NS_PER_MS);
			continue;
		}
		if (n != -EAGAIN)
			break;
	}
	pthread_mutex_unlock(&db->mu);
	return n == -ENOTCONN ? -ESTALE : n;
}

ssize_t db_wal_read(struct db *db, void *buf, size_t len, off_t off)
{
	ssize_t n;

	pthread_mutex_lock(&db->mu);
	/* Frames stay good for their readers even when the database's pages are not (I7): no reset comes before they leave. */
	n = spool_read(&db->wal.bytes, (uint64_t)off, buf, len);
	/*
	 * Beyond what is committed reads only who writes. Else the header in the clients' memory is not ours (a writer
	 * whose locks were dropped under it has published it late): make a new one.
	 */
	if (!db->locks.exclusive[SLOT_WRITE] && db_readers_locked(db) && db->mode == DB_MODE_WAL &&
	    off + (off_t)len > wal_frame_offset(db->wal.committed + 1, db->page_size))
		db_must_fold_locked(db);
	pthread_mutex_unlock(&db->mu);
	return n;
}

int db_wal_write(struct db *db, uint64_t owner, const void *data, size_t len, off_t off, struct db_call *call)
{
	const struct lock_owner *writer;
	uint32_t frame = 0;
	int err;

	pthread_mutex_lock(&db->mu);
	writer = db->locks.exclusive[SLOT_WRITE];
	if (db->mode != DB_MODE_WAL || !writer || writer->id != owner) {
		if (log_allow(&limit_wal, 5000))
			log_warn("wal_write_without_lock",
				 "db=%s do=\"write through SQLite with its locks (not nolock=1, not locking_mode=EXCLUSIVE)\"",
				 db->name);
		err = -EACCES;
		goto out;
	}
	/*
	 * After its commit, and until it unlocks, a writer still rewrites headers and fills up a sector: that
	 * must not fail for what has happened to upstream or the view since, for the transaction is committed.
	 */
	if (!db->committed_in_hold && (db->poison || db->must_fold || db->up_state != UP_HELD)) {
		err = -EIO;
		goto out;
	}
	err = vwal_write(&db->wal, (uint64_t)off, data, len, &frame);
	if (!err && frame && db->committed_in_hold && vwal_repeats(&db->wal, frame)) {
		db->wal.committed = frame;
		goto out;
	}
	if (err == -EIO) {
		log_error("wal_write_refused", "db=%s off=%lld len=%zu committed=%u do=\"report this; the transaction fails\"",
			  db->name, (long long)off, len, db->wal.committed);
		db_must_fold_locked(db); /* it writes on an old header, or is not SQLite, or may not publish: start afresh */
	}
	if (err || !frame)
		goto out;
	if (db->doomed || db->poison || db->must_fold || db->up_state != UP_HELD || db->catching ||
	    !pos_equal(db->up_pos, db->tip)) { /* I5: upstream may be another one than WRITE was granted on */
		err = -EIO;
		goto out;
	}
	db->commit_call = call;
	db->commit_frame = frame;
	db->up_state = UP_COMMIT;
	PROBE2(frames, db->name, frame);
	call->kind = PARK_COMMIT;
	call->owner = owner;
	pthread_cond_signal(&db->u_cond);
	err = DB_PARKED;
out:
	pthread_mutex_unlock(&db->mu);
	return err;
}

ssize_t db_shm_read(struct db *db, void *buf, size_t len, off_t off)
{
	size_t n;

	pthread_mutex_lock(&db->mu);
	n = walindex_read(&db->index, (uint64_t)off, buf, len);
	pthread_mutex_unlock(&db->mu);
	return (ssize_t)n;
}

int db_shm_write(struct db *db, const void *data, size_t len, off_t off)
{
	int err;

	pthread_mutex_lock(&db->mu);
	err = walindex_write(&db->index, &db->wal, (uint64_t)off, data, len);
	pthread_mutex_unlock(&db->mu);
	return err;
}
