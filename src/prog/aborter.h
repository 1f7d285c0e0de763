/*
 * aborter: a small child that ends the FUSE connection when litefwd has been killed.
 *
 * A worker that waits in a notification for a page whose reader waits for litefwd cannot die before
 * that page is unlocked (the kernel waits without regard to signals), /dev/fuse and LiteFS' locks
 * then stay open, and LiteFS stands still. The child hears of the death of the main thread by
 * PR_SET_PDEATHSIG and aborts the connection, which ends that wait.
 *
 * Threads: start before the first one, from the main thread, which must be the one that lives longest.
 * Errors: negative errno; litefwd goes on without.
 */
#ifndef LITEFWD_PROG_ABORTER_H
#define LITEFWD_PROG_ABORTER_H

struct aborter {
	int pid; /* 0: none */
	int fd; /* of the pipe to it */
};

int aborter_start(struct aborter *ret);

/* Mounted there: from now on the child acts. */
void aborter_arm(struct aborter *aborter, const char *mountpoint);

/* Nothing to abort any more: the child ends, and is waited for. Idempotent. */
void aborter_stop(struct aborter *aborter);

#endif
