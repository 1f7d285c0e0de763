#include "db/page_set.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PGNOS_KEEP 4096

void page_set_init(struct page_set *set, const char *spool_dir, size_t threshold)
{
	*set = (struct page_set){0};
	spool_init(&set->pages, spool_dir, threshold);
}

void page_set_fini(struct page_set *set)
{
	spool_fini(&set->pages);
	page_map_fini(&set->map);
	free(set->pgnos);
	set->pgnos = NULL;
	set->count = set->pgnos_cap = 0;
}

void page_set_reset(struct page_set *set, uint32_t page_size)
{
	spool_reset(&set->pages);
	page_map_clear(&set->map);
	set->page_size = page_size;
	set->count = 0;
	if (set->pgnos_cap > PGNOS_KEEP) {
		free(set->pgnos);
		set->pgnos = NULL;
		set->pgnos_cap = 0;
	}
}

bool page_set_has(const struct page_set *set, uint32_t pgno)
{
	return page_map_get(&set->map, pgno) != 0;
}

static int reserve(struct page_set *set)
{
	uint32_t cap = set->pgnos_cap ? set->pgnos_cap * 2 : 64;
	uint32_t *pgnos;

	if (set->count < set->pgnos_cap)
		return 0;
	pgnos = realloc(set->pgnos, sizeof *pgnos * cap);
	if (!pgnos)
		return -ENOMEM;
	set->pgnos = pgnos;
	set->pgnos_cap = cap;
	return 0;
}

int page_set_add(struct page_set *set, uint32_t pgno, const void *page)
{
	int err;

	if (page_set_has(set, pgno))
		return 0;
	err = reserve(set);
	if (!err)
		err = spool_write(&set->pages, (uint64_t)set->count * set->page_size, page, set->page_size);
	if (!err)
		err = page_map_put(&set->map, pgno, set->count + 1);
	if (err)
		return err;
	set->pgnos[set->count++] = pgno;
	return 0;
}

int page_set_put(struct page_set *set, uint32_t pgno, const void *page)
{
	uint32_t slot = page_map_get(&set->map, pgno);

	if (!slot)
		return page_set_add(set, pgno, page);
	return spool_write(&set->pages, (uint64_t)(slot - 1) * set->page_size, page, set->page_size);
}

int page_set_get(const struct page_set *set, uint32_t pgno, void *page)
{
	uint32_t slot = page_map_get(&set->map, pgno);

	if (!slot)
		return -ENOENT;
	if (spool_read(&set->pages, (uint64_t)(slot - 1) * set->page_size, page, set->page_size) !=
	    (ptrdiff_t)set->page_size)
		return -EIO;
	return 0;
}

void page_set_cut(struct page_set *set, uint32_t last_pgno)
{
	page_map_cut(&set->map, last_pgno);
}

bool page_set_slot_is_current(const struct page_set *set, uint32_t slot)
{
	return page_map_get(&set->map, set->pgnos[slot]) == slot + 1;
}
