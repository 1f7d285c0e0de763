/*
 * db: one database as litefwd's clients see it: locks, view, virtual WAL and wal-index,
 * and the machine that turns a transaction into one LTX file. ARCHITECTURE.md has the
 * states; db_internal.h the invariants.
 *
 * Threads: db_lock, db_cancel, db_flush, db_release, db_wal_*, db_shm_*, db_size and
 * db_handle_* never wait for LiteFS or the network (one mutex, memory, a local spool file) and
 * are for the FUSE thread; db_open, db_stop and db_read block and are for a pool.
 * A call that must wait returns DB_PARKED and is answered by call->done, once, from a
 * worker (with db's mutex held: done may reply and free, and must not call db).
 * Errors: negative errno, as the client is to see it.
 */
#ifndef LITEFWD_DB_DB_H
#define LITEFWD_DB_DB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include <jansson.h>

#include "base/settings.h"
#include "base/spool.h"
#include "db/lock_table.h"
#include "format/names.h"
#include "format/pos.h"
#include "litefs/halt_record.h"
#include "litefs/role.h"

struct db;

#define DB_PARKED 1

enum db_mode { DB_MODE_ROLLBACK, DB_MODE_WAL };

/* What db tells the kernel through fs. Called from workers without db's mutex; may block on the kernel's page locks. */
struct db_notify {
	/* These bytes into the cached pages of "-shm". */
	void (*shm_store)(void *ctx, off_t off, const void *data, size_t len);
	/* Cached pages (and attributes) of the database; len 0: from off to the end. */
	void (*invalidate)(void *ctx, off_t off, off_t len);
	/* "-wal" and "-shm" have come or gone with the journal mode. */
	void (*mode_changed)(void *ctx);
	/*
	 * In WAL mode SQLite commits attached databases one after the other: what else has this process committed
	 * (db_committed_by()) in the transaction of which this database's part has just failed? May be NULL.
	 */
	void (*commit_failed)(void *ctx, pid_t tgid);
};

struct breakers;
struct gw_conns;
struct db_metrics;
struct super_table;
struct db_config {
	const struct settings *settings;
	struct super_table *supers;
	struct role *role;
	struct halt_record *halts;
	struct breakers *breakers; /* NULL: none */
	struct gw_conns *gw_conns; /* NULL: none */
	struct db_metrics *metrics; /* what is measured of all databases together; NULL: nowhere */
	uint64_t node_id;
	const struct db_notify *notify;
};

struct db_lock {
	enum lock_file file;
	short type; /* F_RDLCK, F_WRLCK, F_UNLCK */
	bool wait; /* F_SETLKW */
	int64_t start, end; /* bytes, end inclusive */
	uint64_t owner;
	pid_t tgid;
	uint64_t handle;
};

/* A call that may be parked. The caller embeds it and sets done; db owns it from DB_PARKED until done. */
struct db_call {
	void (*done)(struct db_call *call, int result);
	/* db's own: */
	struct db_call *next;
	int kind;
	uint64_t owner;
	uint32_t slots;
	int64_t parked_ns, deadline_ns;
	struct db_lock lock; /* PARK_LOCK: what it asks for */
};

/*
 * Borrows config; notify_ctx goes to notify. -ENOENT: LiteFS has no such database, and create is false (else it is
 * an empty one until its first commit); -EBADMSG: not SQLite's.
 */
int db_open(const struct db_config *config, const char *name, bool create, void *notify_ctx, struct db **ret);
/*
 * db_stop lets a commit in progress end (what is not replicated within 2 s is unknown then), gives back what is held upstream, joins the workers and
 * answers parked calls -EIO; afterwards calls are still allowed and fail or answer from memory. Blocks.
 * db_free: nobody may call any more.
 */
void db_stop(struct db *db);
void db_free(struct db *db);

const char *db_name(const struct db *db);
/* LiteFS has it, or it was created here and nothing is in it yet. Asks LiteFS: blocks. */
bool db_exists(struct db *db);
/* An empty database of this name is to exist; nothing if it does. -EEXIST is for the caller. */
void db_create(struct db *db);
/* The same without asking LiteFS: made here, and never written. */
bool db_is_virgin(struct db *db);
/* Drops the database everywhere. 0, DB_PARKED; -EBUSY: somebody has it open. */
int db_unlink(struct db *db, struct db_call *call);
enum db_mode db_mode(struct db *db);
/* Of FILE_DATABASE, FILE_WAL, FILE_SHM, FILE_JOURNAL. */
int64_t db_size(struct db *db, enum file_kind kind);

/*
 * With wait the call stays parked while other owners stand in the way. What db refuses for LiteFS' or the
 * primary's sake gets -EAGAIN all the same, as soon as without. There is no detection of deadlocks.
 * An unlock returns 0. call NULL: nothing is parked, and DB_PARKED says that it would be: ask again with a call,
 * at once, for what was asked for may be on its way.
 */
int db_lock(struct db *db, const struct db_lock *lock, struct db_call *call);
/* F_GETLK: *conflict's type becomes F_UNLCK, or start, end, type and tgid of what stands in the way. */
void db_getlk(struct db *db, struct db_lock *lock);
/* The caller of a parked lock was interrupted: it is answered -EINTR, unless it is a commit. */
void db_cancel(struct db *db, struct db_call *call);

/* FLUSH: a descriptor was closed, POSIX drops the owner's locks on that file. */
void db_flush(struct db *db, enum lock_file file, uint64_t owner);
/* RELEASE: the last reference to an open file: locks taken through it by OFD owners go. */
void db_release(struct db *db, enum lock_file file, uint64_t handle);

/* Connections of a process: open and closed handles of the database file. */
void db_handle_opened(struct db *db, pid_t tgid);
void db_handle_closed(struct db *db, pid_t tgid);

/* When what it holds last changed, as far as is known here. */
struct timespec db_changed(struct db *db);

/*
 * For those who look at the file without SQLite's locks (cp, ls): the view begins anew if LiteFS has moved on and
 * nobody reads here. db_is_fresh: that has nothing to do. db_refresh blocks on LiteFS, for REFRESH_NS at most, and may fail
 * to: then they see the state before.
 */
bool db_is_fresh(struct db *db);
void db_refresh(struct db *db);

/* Blocks on LiteFS. tgid: whose handle it is. Bytes (short at the view's end) or negative errno. */
ssize_t db_read(struct db *db, pid_t tgid, void *buf, size_t len, off_t off);

ssize_t db_wal_read(struct db *db, void *buf, size_t len, off_t off);
/* 0, negative errno, or DB_PARKED: the write completes a transaction. */
int db_wal_write(struct db *db, uint64_t owner, const void *data, size_t len, off_t off, struct db_call *call);

ssize_t db_shm_read(struct db *db, void *buf, size_t len, off_t off);
int db_shm_write(struct db *db, const void *data, size_t len, off_t off);

/*
 * Rollback mode. The writer is the process that holds EXCLUSIVE: its pages are an overlay until its journal ends.
 * Whatever ends the journal of a transaction may be parked until that is committed. -EACCES: not the writer's, or
 * a transaction that litefwd could not commit (logged); -EIO: lost, nothing has changed.
 */
int db_write(struct db *db, pid_t tgid, const void *data, size_t len, off_t off);
int db_truncate(struct db *db, pid_t tgid, off_t size);
bool db_journal_exists(struct db *db);
int db_journal_create(struct db *db);
ssize_t db_journal_read(struct db *db, void *buf, size_t len, off_t off);
int db_journal_write(struct db *db, uint64_t owner, const void *data, size_t len, off_t off, struct db_call *call);
int db_journal_truncate(struct db *db, pid_t tgid, off_t size, struct db_call *call);
int db_journal_unlink(struct db *db, pid_t tgid, struct db_call *call);
/* The super-journal of this name ends: commits, where this database's journal names it; else 0. */
int db_commit_super(struct db *db, const char *super, struct db_call *call);

/*
 * Gateway: another node's litefwd writes this database here, on the primary, by a lock `id` of its own with a lease. It queues
 * for WRITE with this node's writers; a transaction of its is committed as one of ours is, and published in the virtual WAL.
 * None of these block. call as in db_lock(): DB_PARKED, then done; until then call and ltx are db's.
 */
struct db_gw_call {
	struct db_call call;
	uint64_t id;
	/* results */
	struct pos pos;
	uint32_t waiting; /* others that want WRITE, known ones */
	bool yield;
	bool unknown; /* commit: result is 0 or an error, but may be applied */
};

/*
 * begin: 0 held, at pos. -EAGAIN not had in time; -EHOSTUNREACH not the primary; -ENOTSUP in a rollback mode, or not there;
 * (or litefwd is ending); -EBUSY the queue is full; -EALREADY: id waits already. Held already: the lease is renewed, 0, or -EPERM: it is lost.
 */
int db_gw_begin(struct db *db, uint64_t id, uint64_t peer, int64_t until_ns, struct db_gw_call *call);
/*
 * commit: 0 committed, at pos. -EPERM the lock is not id's, or its lease is over: nothing was changed, nor looked at.
 * Else refused (-ESTALE position, -EBADMSG no such LTX, ...): nothing was changed, and the lock is gone. unknown: may be applied.
 * *ltx may be swapped for an empty one.
 */
int db_gw_commit(struct db *db, uint64_t id, struct spool *ltx, struct db_gw_call *call);
/* Ends the lock, or the wait for it (its call is answered -ECANCELED first). Nothing where there is none; a commit in progress ends first. */
void db_gw_end(struct db *db, uint64_t id);
/* The lease ends after grace_ms at the latest: the holder's connection is gone. */
void db_gw_shorten(struct db *db, uint64_t id, int64_t grace_ms);
/* A whole lease from now on, if it is not over: its next transaction is on its way. */
void db_gw_extend(struct db *db, uint64_t id);
/* The LTX file of this transaction in LiteFS' data directory, open for reading; negative errno. Blocks on a local disk. */
int db_ltx_open(struct db *db, uint64_t txid);

/* The role has changed: what is held may no longer be ours to hold. Does not block. */
void db_role_changed(struct db *db);

/* The process has committed this database, in WAL mode, and has not ended its transaction yet. */
bool db_committed_by(struct db *db, pid_t tgid);

/*
 * For a watchdog: each worker that rests comes when it is called, until until_ns; one that waits for LiteFS or the network is
 * alive. Never returns while somebody does not give back db's mutex.
 */
bool db_alive(struct db *db, int64_t until_ns);

/* LiteFS here stands at pos now, as it says itself: for db_status(). Any thread; does not block. */
void db_note_litefs_pos(struct db *db, struct pos pos);

/* Counters and state, a new reference. From memory alone. */
json_t *db_status(struct db *db);

#endif
