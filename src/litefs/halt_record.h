/*
 * halt_record: the ids of HALT locks that may be held, in a small file, so that a
 * litefwd that was killed is followed by one that frees them.
 *
 * File: fixed slots of 1024 bytes: id (decimal), space, database name, space, primary's
 * URL, newline, zero padding; a free slot begins with a zero byte. Local and private (0600).
 * Threads: any. Blocks on a local file only. Errors: negative errno; a record that cannot
 * be written is logged once and the HALT goes on without (it expires by itself).
 */
#ifndef LITEFWD_LITEFS_HALT_RECORD_H
#define LITEFWD_LITEFS_HALT_RECORD_H

#include <stdint.h>

struct halt_record;

/* path: created if missing. -EPERM: it is another user's, others may write it, or it is no plain file. */
int halt_record_open(const char *path, struct halt_record **ret);
void halt_record_close(struct halt_record *rec); /* NULL is harmless */

/* Calls unhalt for every recorded id, and forgets those for which it returned 0. Before the first add. */
int halt_record_free_stale(struct halt_record *rec,
			   int (*unhalt)(void *ctx, const char *url, const char *name, uint64_t id), void *ctx);

/* rec may be NULL (no record kept). Returns the slot for halt_record_del(), or -1. */
int halt_record_add(struct halt_record *rec, const char *url, const char *name, uint64_t id);
void halt_record_del(struct halt_record *rec, int slot);

#endif
