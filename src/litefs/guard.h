/*
 * guard: the locks that litefwd shows LiteFS for one database, POSIX record locks
 * on lfs_files' descriptors (never OFD: LiteFS never hears that their owner died).
 *
 *   readers   READ0 of the shm and SHARED of the database, shared: LiteFS applies nothing
 *             meanwhile, in whatever mode it believes the database to be
 *   writer    WRITE of the shm, exclusive (self only). NAME-wal exists and SHARED is held before it is
 *             taken and until after it is given back, or LiteFS exits (LITEFS.md, 9); DMS is held, shared,
 *             as LiteFS does it when it applies: a direct client that opens the shm first would truncate it
 *             while LiteFS writes it after a /tx, and die of SIGBUS
 *   commit    READ0..READ4 exclusive (self only, under writer)
 *
 * On a database in a rollback mode (guard_set_rollback()) writer is RESERVED and PENDING instead, which shut out other
 * writers, new readers and HALT in whatever mode LiteFS believes the database to be, and commit is SHARED exclusive. Never WRITE
 * there, for it would need a "-wal"; giving these back makes LiteFS do nothing.
 *
 * All of litefwd's locks on a file belong to one owner, this process, so this module
 * counts what still needs SHARED. Threads: one at a time per object (db's token), but for guard_unsettled().
 * Each call is one to three round trips to LiteFS; it may block as long as LiteFS does.
 * Errors: -EAGAIN somebody else has it, nothing is held that was not; other negative
 * errno: LiteFS is gone, what is held is undefined until guard_forget().
 */
#ifndef LITEFWD_LITEFS_GUARD_H
#define LITEFWD_LITEFS_GUARD_H

#include <stdbool.h>

#include "litefs/dir.h"

struct guard {
	struct lfs_files *files; /* borrowed */
	bool shared_db; /* SHARED is held */
	bool readers;
	bool writer;
	bool exclusive;
	bool rollback; /* what writer and exclusive stand for */
};

void guard_init(struct guard *guard, struct lfs_files *files);

int guard_take_readers(struct guard *guard);
int guard_give_readers(struct guard *guard);

/*
 * READ0 alone, for a moment: a LiteFS that holds the database for one in WAL mode applies beside SHARED.
 * guard_give_readers() or guard_take_readers() goes on from there.
 */
int guard_give_read0(struct guard *guard);

/* Before guard_take_writer(); ignored while writer is held. */
void guard_set_rollback(struct guard *guard, bool rollback);

int guard_take_writer(struct guard *guard);
/* After an error writer is still held if NAME-wal could not be made: to be tried again, or LiteFS is gone. */
int guard_give_writer(struct guard *guard);

/* Under writer, first of all: NAME-wal is made sure of, and then as lfs_files_unsettled(). Readers may be taken meanwhile. */
int guard_unsettled(struct guard *guard, bool *ret);

/* Upgrade of the readers' lock in place, and back to it (or to none, when readers is not held). */
int guard_take_exclusive(struct guard *guard);
int guard_give_exclusive(struct guard *guard);

/* Nothing is held: could SHARED be had exclusively? It is given back at once. 0, or -EAGAIN: a direct client has the database open. */
int guard_try_alone(struct guard *guard);

/* The descriptors will be closed, which gives everything back: as for WRITE, "-wal" is there (or LiteFS is gone). */
void guard_before_close(struct guard *guard);

/* The descriptors were closed: nothing is held any more. */
void guard_forget(struct guard *guard);

#endif
