/*
 * page_set: images of pages by number, in memory or spooled.
 *
 * Two of them make the view of a database:
 *   undo     pages of the base position that LiteFS has, or may have, overwritten since by our own commits:
 *            view(page) = undo[page] if present, else LiteFS' page. The first image of a page is the one (add).
 *   overlay  pages that a transaction in rollback mode has written to the database, seen by their writer
 *            alone. The last image is the one (put).
 *
 * Pure but for the spool; the caller's lock. Errors: -ENOMEM, spool's; unchanged.
 */
#ifndef LITEFWD_DB_PAGE_SET_H
#define LITEFWD_DB_PAGE_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/spool.h"
#include "db/page_map.h"

struct page_set {
	struct spool pages;
	uint32_t page_size;
	uint32_t count; /* slots */
	uint32_t *pgnos; /* in order of arrival; slot i of the spool holds pgnos[i] */
	uint32_t pgnos_cap;
	struct page_map map; /* slot + 1 */
};

void page_set_init(struct page_set *set, const char *spool_dir, size_t threshold);
void page_set_fini(struct page_set *set);

/* Empty, for pages of this size. */
void page_set_reset(struct page_set *set, uint32_t page_size);

bool page_set_has(const struct page_set *set, uint32_t pgno);

/* Keeps the first image of a page: a second one for the same pgno is ignored. */
int page_set_add(struct page_set *set, uint32_t pgno, const void *page);

/* Keeps the last one. */
int page_set_put(struct page_set *set, uint32_t pgno, const void *page);

/* 0, or -ENOENT. */
int page_set_get(const struct page_set *set, uint32_t pgno, void *page);

/* Pages beyond this one are not there any more. Their slots stay, see page_set_slot_is_current(). */
void page_set_cut(struct page_set *set, uint32_t last_pgno);

/* slot < count: false if its page was cut off (and perhaps added again, in another slot). */
bool page_set_slot_is_current(const struct page_set *set, uint32_t slot);

#endif
