/*
 * walindex: what backs the clients' "-shm": the bytes that the kernel reads pages
 * from and writes them back to. The pages that clients have mapped are the truth
 * while they are cached; db writes a header here first and then into the cached
 * page (notify_store), and a write-back that was under way with an older header
 * must not undo that: headers are ordered by iChange, which only grows.
 *
 * Pure; the caller's lock. Errors: -ENOMEM, -EFBIG; unchanged.
 */
#ifndef LITEFWD_DB_WALINDEX_H
#define LITEFWD_DB_WALINDEX_H

#include <stddef.h>
#include <stdint.h>

#include "db/vwal.h"

struct walindex {
	uint8_t *data;
	size_t size; /* at least WALINDEX_BLOCK_SIZE, so that SQLite finds a valid header and never recovers */
	uint32_t change; /* iChange of the last header known to be published */
};

int walindex_init(struct walindex *index);
void walindex_fini(struct walindex *index);

/* A header for a WAL that holds its first frame alone. (The hash table has that frame from walindex_init() on.) */
void walindex_restart(struct walindex *index, const struct vwal *wal, uint32_t page_count);

/* Every read mark but 0 unused: whoever wants to read must claim a slot first (the gate). */
void walindex_close_gate(struct walindex *index);

int walindex_write(struct walindex *index, uint64_t off, const uint8_t *data, size_t len);
size_t walindex_read(const struct walindex *index, uint64_t off, void *buf, size_t len);

#endif
