/*
 * Rollback journals: a write transaction of a database that is not in WAL mode.
 *
 *   RESERVED            begin upstream, as WRITE does (db_locks.c)
 *   journal             a file of ours (vjournal)
 *   database pages      an overlay, which only their writer sees: EXCLUSIVE shuts out the others
 *   the journal's end   the commit: unlink, truncation to nothing, or a zeroed header. Rollback ends the same way: then
 *                       no page differs from the view, and there is nothing to send
 *
 * A commit that fails drops overlay and journal, so that no hot journal is left, and poisons: SQLite lets go of all its
 * locks in that state, and the view begins anew. An owner that dies or lets go in the middle loses its transaction alike.
 *
 * What has no point at which it can be committed is refused at its first write to the database: no journal (journal_mode
 * MEMORY and OFF), or a super-journal that is not in this mount (SQLite ignores errors after its unlink).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "db/db_internal.h"
#include "db/super_table.h"

static struct log_limit limit_lock, limit_journal, limit_super, limit_size;

enum lock_slot db_write_slot_locked(const struct db *db)
{
	return db->mode == DB_MODE_WAL ? SLOT_WRITE : SLOT_RESERVED;
}

struct lock_owner *db_writer_locked(const struct db *db)
{
	return db->locks.exclusive[db_write_slot_locked(db)];
}

bool db_is_publishing_locked(const struct db *db)
{
	return db->up_state == UP_COMMIT || db->up_state == UP_PUBLISH;
}

void db_note_state_locked(struct db *db, const uint8_t *page1)
{
	if (!seen_states_add(&db->seen, page1, db->tip))
		return;
	log_warn("history_changed",
		 "db=%s do=\"programs that have it open in a rollback mode get I/O errors until they open it anew\"", db->name);
	db_mark_stale_locked(db);
}

void db_mark_stale_locked(struct db *db)
{
	const struct lock_owner *writer = db->locks.exclusive[SLOT_RESERVED];

	/* Who has written this very state, by its only connection, knows it. */
	for (struct db_process *p = db->processes; p; p = p->next)
		if (p->has_read && (!writer || p->tgid != writer->tgid || p->opens > 1))
			p->stale = true;
}

void db_drop_transaction_locked(struct db *db)
{
	vjournal_remove(&db->journal);
	if (!db->writing)
		return;
	db->writing = false;
	page_set_reset(&db->overlay, db->page_size);
	/* The kernel has its pages: the view begins anew before anybody reads, and those are forgotten. */
	db->rebuild = true;
	db_poison_locked(db);
}

static int refuse(struct log_limit *limit, const struct db *db, const char *reason, const char *todo)
{
	if (log_allow(limit, 5000))
		log_warn("database_write_refused", "db=%s reason=%s do=\"%s\"", db->name, reason, todo);
	return -EACCES;
}

/* The process that may write to the database now. */
static bool is_writer_locked(const struct db *db, pid_t tgid)
{
	const struct lock_owner *writer = db->locks.exclusive[SLOT_SHARED];

	return db->mode == DB_MODE_ROLLBACK && writer && writer == db->locks.exclusive[SLOT_RESERVED] && writer->tgid == tgid;
}

/* In locking_mode EXCLUSIVE what is held may be ahead of what the writer knows (I5). */
static bool may_commit_locked(const struct db *db)
{
	return !db->poison && !db->doomed && !db->catching && db->up_state == UP_HELD && pos_equal(db->up_pos, db->tip);
}

static int may_write_locked(struct db *db, pid_t tgid)
{
	char super[SUPER_NAME_MAX];

	if (!is_writer_locked(db, tgid))
		return refuse(&limit_lock, db, "no_lock",
			      db->mode == DB_MODE_WAL ? "write through SQLite; a database cannot be overwritten as a file"
						      : "write through SQLite with its locks (not nolock=1); a database cannot be overwritten as a file");
	if (!may_commit_locked(db))
		return -EIO;
	if (!vjournal_is_hot(&db->journal))
		return refuse(&limit_journal, db, "no_journal",
			      "use journal_mode DELETE, TRUNCATE, PERSIST or WAL: MEMORY and OFF have no point at which litefwd could commit");
	vjournal_super(&db->journal, super);
	if (super[0] && !super_exists(db->config->supers, super))
		return refuse(&limit_super, db, "super_journal_elsewhere",
			      "open a database of this mount as main, and attach the others: their common journal must be here");
	return 0;
}

/* The first write of a transaction: what it stands on. An empty database gets its page size with its first page. */
static int start_writing_locked(struct db *db, const uint8_t *data, size_t len, off_t off)
{
	struct sqlite_header header;

	if (db->base_pages == 0) {
		/* A transaction larger than SQLite's cache writes other pages before page 1, each by one call. */
		if (off == 0 ? len < 512 || sqlite_header_parse(data, &header) != 0 : len < 512 || len > 65536 || (len & (len - 1)))
			return refuse(&limit_size, db, "no_database", "only SQLite databases can be created here");
		db->page_size = off == 0 ? header.page_size : (uint32_t)len;
	}
	page_set_reset(&db->overlay, db->page_size);
	db->overlay_pages = db->base_pages;
	db->writing = true;
	return 0;
}

int db_write(struct db *db, pid_t tgid, const void *data, size_t len, off_t off)
{
	struct sqlite_header header;
	int err;

	pthread_mutex_lock(&db->mu);
	err = may_write_locked(db, tgid);
	if (!err && !db->writing)
		err = start_writing_locked(db, data, len, off);
	if (!err && (off % db->page_size || len % db->page_size ||
		     (off == 0 && sqlite_header_parse(data, &header) == 0 && header.page_size != db->page_size)))
		err = refuse(&limit_size, db, "page_size", "LiteFS cannot change a database's page size: set it back");
	for (size_t done = 0; !err && done < len; done += db->page_size) {
		uint32_t pgno = (uint32_t)((off + (off_t)done) / db->page_size) + 1;

		err = page_set_put(&db->overlay, pgno, (const uint8_t *)data + done);
		if (!err && pgno > db->overlay_pages)
			db->overlay_pages = pgno;
	}
	if (err) { /* a mapping of the file has it in the kernel's pages */
		db->spoiled = true;
		pthread_cond_signal(&db->g_cond);
	}
	pthread_mutex_unlock(&db->mu);
	return err;
}

int db_truncate(struct db *db, pid_t tgid, off_t size)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (size == (off_t)db_database_pages_locked(db) * db->page_size)
		goto out;
	err = may_write_locked(db, tgid);
	if (!err && (size % db->page_size || size / db->page_size > UINT32_MAX))
		err = refuse(&limit_size, db, "page_size", "LiteFS cannot change a database's page size: set it back");
	if (!err && !db->writing && db->base_pages == 0)
		err = -EINVAL;
	if (!err && !db->writing) {
		page_set_reset(&db->overlay, db->page_size);
		db->writing = true;
	}
	if (!err) {
		db->overlay_pages = (uint32_t)(size / db->page_size);
		page_set_cut(&db->overlay, db->overlay_pages);
	}
out:
	pthread_mutex_unlock(&db->mu);
	return err;
}

uint32_t db_database_pages_locked(const struct db *db)
{
	return db->writing ? db->overlay_pages : db->base_pages;
}

/* ---- the journal ---- */

bool db_journal_exists(struct db *db)
{
	bool exists;

	pthread_mutex_lock(&db->mu);
	exists = db->journal.exists;
	pthread_mutex_unlock(&db->mu);
	return exists;
}

int db_journal_create(struct db *db)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	/* A journal from nowhere would be played back by whoever reads next. */
	if (!db->journal.exists && (db->mode != DB_MODE_ROLLBACK || !db->locks.exclusive[SLOT_RESERVED]))
		err = -EACCES;
	else
		vjournal_create(&db->journal);
	pthread_mutex_unlock(&db->mu);
	return err;
}

ssize_t db_journal_read(struct db *db, void *buf, size_t len, off_t off)
{
	ssize_t n;

	pthread_mutex_lock(&db->mu);
	n = spool_read(&db->journal.bytes, (uint64_t)off, buf, len);
	pthread_mutex_unlock(&db->mu);
	return n;
}

/*
 * SQLite makes the file shorter (VACUUM, auto_vacuum) only when the journal has ended and the transaction is committed: by then
 * LiteFS has it. What size it will be says page 1 already; the truncation finds nothing left to do.
 */
static int cut_to_header_locked(struct db *db)
{
	struct sqlite_header header;
	int err = page_set_get(&db->overlay, 1, db->scratch);

	if (err == -ENOENT)
		return 0;
	if (!err && sqlite_header_parse(db->scratch, &header) == 0 && header.page_count && header.page_count < db->overlay_pages) {
		db->overlay_pages = header.page_count;
		page_set_cut(&db->overlay, db->overlay_pages);
	}
	return err;
}

/* The transaction ends: parked until it is committed, where there is something to commit. */
static int end_transaction_locked(struct db *db, enum journal_end end, struct db_call *call)
{
	const struct lock_owner *writer = db->locks.exclusive[SLOT_RESERVED];

	if (!db->writing) {
		/* In locking_mode EXCLUSIVE nobody says that it is over: upstream may go. */
		db->between = writer != NULL;
		db->up_idle_since_ns = clock_now_ns();
		pthread_cond_signal(&db->u_cond);
		return 0;
	}
	if (!may_commit_locked(db) || cut_to_header_locked(db)) {
		db_drop_transaction_locked(db);
		return -EIO;
	}
	db->commit_call = call;
	db->journal_end = end;
	db->up_state = UP_COMMIT;
	call->kind = PARK_COMMIT;
	call->owner = writer ? writer->id : 0;
	pthread_cond_signal(&db->u_cond);
	return DB_PARKED;
}

/* The journal stands for another process' transaction. */
static bool is_anothers_locked(const struct db *db, pid_t tgid)
{
	const struct lock_owner *writer = db->locks.exclusive[SLOT_RESERVED];

	return writer && writer->tgid != tgid && (db->writing || vjournal_is_hot(&db->journal));
}

void db_finish_journal_locked(struct db *db, enum journal_end end)
{
	static const uint8_t zeros[JOURNAL_MAGIC_SIZE];

	if (end == JOURNAL_REMOVED)
		vjournal_remove(&db->journal);
	else if (end == JOURNAL_TRUNCATED)
		spool_truncate(&db->journal.bytes, 0);
	else if (end == JOURNAL_ZEROED)
		vjournal_write(&db->journal, 0, zeros, sizeof zeros);
}

/*
 * In locking_mode EXCLUSIVE the next transaction begins without a lock call: its journal's header is its first sign of
 * life, and is answered when upstream is there again.
 */
static int begin_again_locked(struct db *db, uint64_t owner, struct db_call *call)
{
	if (db->up_state == UP_HELD && !db->doomed && !db->end_wanted) {
		db->between = !pos_equal(db->up_pos, db->tip);
		if (db->between)
			db_poison_locked(db);
		return db->between ? -EIO : 0;
	}
	db->want_begin = true;
	pthread_cond_signal(&db->u_cond);
	db_park_locked(db, call, PARK_AGAIN, owner, 0,
		       clock_now_ns() + db->config->settings->halt_timeout_ms * NS_PER_MS);
	return DB_PARKED;
}

int db_journal_write(struct db *db, uint64_t owner, const void *data, size_t len, off_t off, struct db_call *call)
{
	const struct lock_owner *writer;
	int err;

	pthread_mutex_lock(&db->mu);
	writer = db->locks.exclusive[SLOT_RESERVED];
	/*
	 * A connection with an open cursor keeps its journal (TRUNCATE, PERSIST) open between transactions; meanwhile another one's
	 * rollback (DELETE) may have unlinked it. SQLite goes on with a file without a name, and so may it here.
	 */
	if (!db->journal.exists && db->mode == DB_MODE_ROLLBACK && writer && writer->id == owner && off == 0)
		vjournal_create(&db->journal);
	if (db->mode != DB_MODE_ROLLBACK || !writer || writer->id != owner || !db->journal.exists || off < 0) {
		err = refuse(&limit_lock, db, "no_lock", "a journal is SQLite's own; do not write to it");
	} else if (vjournal_write_ends(&db->journal, (uint64_t)off, data, len)) {
		err = end_transaction_locked(db, JOURNAL_ZEROED, call);
		if (!err)
			err = vjournal_write(&db->journal, (uint64_t)off, data, len);
	} else {
		err = vjournal_write(&db->journal, (uint64_t)off, data, len);
		if (!err && db->between)
			err = begin_again_locked(db, owner, call);
	}
	pthread_mutex_unlock(&db->mu);
	return err;
}

int db_journal_truncate(struct db *db, pid_t tgid, off_t size, struct db_call *call)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (!db->journal.exists || size < 0) {
		err = -ENOENT;
	} else if ((uint64_t)size < db->journal.bytes.size) {
		if (is_anothers_locked(db, tgid))
			err = refuse(&limit_lock, db, "no_lock", "a journal is SQLite's own; do not write to it");
		else if (size < JOURNAL_MAGIC_SIZE && vjournal_is_hot(&db->journal))
			err = end_transaction_locked(db, JOURNAL_TRUNCATED, call);
		if (!err)
			err = spool_truncate(&db->journal.bytes, (uint64_t)size);
	}
	pthread_mutex_unlock(&db->mu);
	return err;
}

int db_journal_unlink(struct db *db, pid_t tgid, struct db_call *call)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (!db->journal.exists)
		err = -ENOENT;
	else if (is_anothers_locked(db, tgid))
		err = -EBUSY;
	else
		err = end_transaction_locked(db, JOURNAL_REMOVED, call);
	if (!err)
		vjournal_remove(&db->journal);
	pthread_mutex_unlock(&db->mu);
	return err;
}

int db_commit_super(struct db *db, const char *super, struct db_call *call)
{
	char name[SUPER_NAME_MAX];
	int err = 0;

	pthread_mutex_lock(&db->mu);
	vjournal_super(&db->journal, name);
	if (db->writing && !strcmp(name, super))
		err = end_transaction_locked(db, JOURNAL_KEPT, call);
	pthread_mutex_unlock(&db->mu);
	return err;
}
