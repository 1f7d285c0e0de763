/*
 * undo: the pages of the base position that LiteFS has, or may have, overwritten
 * since by our own commits: view(page) = undo[page] if present, else LiteFS' page.
 *
 * Pure but for the spool; the caller's lock. Errors: -ENOMEM, spool's; unchanged.
 */
#ifndef LITEFWD_DB_UNDO_H
#define LITEFWD_DB_UNDO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/spool.h"
#include "db/page_map.h"

struct undo {
	struct spool pages;
	uint32_t page_size;
	uint32_t count;
	uint32_t *pgnos; /* in order of arrival; slot i of the spool holds pgnos[i] */
	uint32_t pgnos_cap;
	struct page_map map; /* index + 1 into pgnos */
};

void undo_init(struct undo *undo, const char *spool_dir, size_t threshold);
void undo_fini(struct undo *undo);

/* Empty, for pages of this size. */
void undo_reset(struct undo *undo, uint32_t page_size);

bool undo_has(const struct undo *undo, uint32_t pgno);

/* Keeps the first image of a page: a second one for the same pgno is ignored. */
int undo_put(struct undo *undo, uint32_t pgno, const void *page);

/* 0, or -ENOENT. */
int undo_get(const struct undo *undo, uint32_t pgno, void *page);

#endif
