/*
 * page_map: page numbers to 32-bit values; 0 is no value.
 *
 * Pure; the caller's lock. Errors: -ENOMEM, unchanged.
 */
#ifndef LITEFWD_DB_PAGE_MAP_H
#define LITEFWD_DB_PAGE_MAP_H

#include <stdint.h>

struct page_map_entry {
	uint32_t pgno; /* 0: free */
	uint32_t value;
};

/* Zeroed: empty. */
struct page_map {
	struct page_map_entry *entries; /* open addressing */
	uint32_t cap; /* power of two, or 0 */
	uint32_t count; /* entries in use, with and without a value */
};

void page_map_fini(struct page_map *map);
void page_map_clear(struct page_map *map); /* a large one gives its memory back */

uint32_t page_map_get(const struct page_map *map, uint32_t pgno);
int page_map_put(struct page_map *map, uint32_t pgno, uint32_t value);

/* Pages beyond this one have no value any more. */
void page_map_cut(struct page_map *map, uint32_t last_pgno);

#endif
