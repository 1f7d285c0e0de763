#include "db/undo.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void undo_init(struct undo *undo, const char *spool_dir, size_t threshold)
{
	*undo = (struct undo){0};
	spool_init(&undo->pages, spool_dir, threshold);
}

void undo_fini(struct undo *undo)
{
	spool_fini(&undo->pages);
	free(undo->pgnos);
	free(undo->map);
	undo->pgnos = undo->map = NULL;
	undo->count = undo->pgnos_cap = undo->map_cap = 0;
}

void undo_reset(struct undo *undo, uint32_t page_size)
{
	spool_reset(&undo->pages);
	undo->page_size = page_size;
	undo->count = 0;
	if (undo->map_cap > 4096) {
		free(undo->pgnos);
		free(undo->map);
		undo->pgnos = undo->map = NULL;
		undo->pgnos_cap = undo->map_cap = 0;
	} else if (undo->map) {
		memset(undo->map, 0, sizeof *undo->map * undo->map_cap);
	}
}

static uint32_t bucket_of(const struct undo *undo, uint32_t pgno)
{
	uint32_t i = (pgno * UINT32_C(2654435761)) & (undo->map_cap - 1);

	while (undo->map[i] && undo->pgnos[undo->map[i] - 1] != pgno)
		i = (i + 1) & (undo->map_cap - 1);
	return i;
}

bool undo_has(const struct undo *undo, uint32_t pgno)
{
	return undo->count && undo->map[bucket_of(undo, pgno)];
}

static int grow(struct undo *undo)
{
	uint32_t cap = undo->map_cap ? undo->map_cap * 2 : 64;
	uint32_t *map, *pgnos;

	if (undo->count + 1 <= undo->map_cap / 2)
		return 0;
	map = calloc(cap, sizeof *map);
	pgnos = realloc(undo->pgnos, sizeof *pgnos * cap / 2);
	if (pgnos)
		undo->pgnos = pgnos;
	if (!map || !pgnos) {
		free(map);
		return -ENOMEM;
	}
	undo->pgnos_cap = cap / 2;
	free(undo->map);
	undo->map = map;
	undo->map_cap = cap;
	for (uint32_t i = 0; i < undo->count; i++)
		undo->map[bucket_of(undo, undo->pgnos[i])] = i + 1;
	return 0;
}

int undo_put(struct undo *undo, uint32_t pgno, const void *page)
{
	int err;

	if (undo_has(undo, pgno))
		return 0;
	err = grow(undo);
	if (!err)
		err = spool_write(&undo->pages, (uint64_t)undo->count * undo->page_size, page, undo->page_size);
	if (err)
		return err;
	undo->pgnos[undo->count] = pgno;
	undo->map[bucket_of(undo, pgno)] = undo->count + 1;
	undo->count++;
	return 0;
}

int undo_get(const struct undo *undo, uint32_t pgno, void *page)
{
	uint32_t slot;

	if (!undo->count)
		return -ENOENT;
	slot = undo->map[bucket_of(undo, pgno)];
	if (!slot)
		return -ENOENT;
	if (spool_read(&undo->pages, (uint64_t)(slot - 1) * undo->page_size, page, undo->page_size) !=
	    (ptrdiff_t)undo->page_size)
		return -EIO;
	return 0;
}
