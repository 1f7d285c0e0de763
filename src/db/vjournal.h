/*
 * vjournal: the rollback journal that litefwd's clients see. It is theirs alone: LiteFS gets the
 * transaction at the journal's end, and a client that dies leaves none behind.
 *
 * SQLite ends a transaction, committed or rolled back, by the journal's end: it unlinks the file (DELETE), truncates it
 * (TRUNCATE) or zeroes its header (PERSIST). A journal without a valid header is no journal.
 *
 * Pure but for the spool; the caller's lock. Errors: the spool's; contents then unchanged but for the range written.
 */
#ifndef LITEFWD_DB_VJOURNAL_H
#define LITEFWD_DB_VJOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/spool.h"

struct vjournal {
	struct spool bytes;
	bool exists;
};

void vjournal_init(struct vjournal *journal, const char *spool_dir, size_t threshold);
void vjournal_fini(struct vjournal *journal);

void vjournal_create(struct vjournal *journal); /* empty, if it did not exist */
void vjournal_remove(struct vjournal *journal);

/* It exists and begins with SQLite's magic: what has been written to the database can be taken back. */
bool vjournal_is_hot(const struct vjournal *journal);

/* True if this write makes a hot journal a cold one. */
bool vjournal_write_ends(const struct vjournal *journal, uint64_t off, const uint8_t *data, size_t len);

int vjournal_write(struct vjournal *journal, uint64_t off, const void *data, size_t len);

/* Last component of the path of the super-journal that its end names; "" where it names none. */
#define SUPER_NAME_MAX 256
void vjournal_super(const struct vjournal *journal, char ret[SUPER_NAME_MAX]);

#endif
