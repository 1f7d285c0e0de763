#include "db/undo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PGNOS_KEEP 4096

void undo_init(struct undo *undo, const char *spool_dir, size_t threshold)
{
	*undo = (struct undo){0};
	spool_init(&undo->pages, spool_dir, threshold);
}

void undo_fini(struct undo *undo)
{
	spool_fini(&undo->pages);
	page_map_fini(&undo->map);
	free(undo->pgnos);
	undo->pgnos = NULL;
	undo->count = undo->pgnos_cap = 0;
}

void undo_reset(struct undo *undo, uint32_t page_size)
{
	spool_reset(&undo->pages);
	page_map_clear(&undo->map);
	undo->page_size = page_size;
	undo->count = 0;
	if (undo->pgnos_cap > PGNOS_KEEP) {
		free(undo->pgnos);
		undo->pgnos = NULL;
		undo->pgnos_cap = 0;
	}
}

bool undo_has(const struct undo *undo, uint32_t pgno)
{
	return page_map_get(&undo->map, pgno) != 0;
}

static int reserve(struct undo *undo)
{
	uint32_t cap = undo->pgnos_cap ? undo->pgnos_cap * 2 : 64;
	uint32_t *pgnos;

	if (undo->count < undo->pgnos_cap)
		return 0;
	pgnos = realloc(undo->pgnos, sizeof *pgnos * cap);
	if (!pgnos)
		return -ENOMEM;
	undo->pgnos = pgnos;
	undo->pgnos_cap = cap;
	return 0;
}

int undo_put(struct undo *undo, uint32_t pgno, const void *page)
{
	int err;

	if (undo_has(undo, pgno))
		return 0;
	err = reserve(undo);
	if (!err)
		err = spool_write(&undo->pages, (uint64_t)undo->count * undo->page_size, page, undo->page_size);
	if (!err)
		err = page_map_put(&undo->map, pgno, undo->count + 1);
	if (err)
		return err;
	undo->pgnos[undo->count++] = pgno;
	return 0;
}

int undo_get(const struct undo *undo, uint32_t pgno, void *page)
{
	uint32_t slot = page_map_get(&undo->map, pgno);

	if (!slot)
		return -ENOENT;
	if (spool_read(&undo->pages, (uint64_t)(slot - 1) * undo->page_size, page, undo->page_size) !=
	    (ptrdiff_t)undo->page_size)
		return -EIO;
	return 0;
}
