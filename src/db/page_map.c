#include "db/page_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_CAP 4096

void page_map_fini(struct page_map *map)
{
	free(map->entries);
	*map = (struct page_map){0};
}

void page_map_clear(struct page_map *map)
{
	if (map->cap > KEEP_CAP)
		page_map_fini(map);
	else if (map->entries)
		memset(map->entries, 0, sizeof *map->entries * map->cap);
	map->count = 0;
}

static struct page_map_entry *entry_of(const struct page_map *map, uint32_t pgno)
{
	uint32_t i = (pgno * UINT32_C(2654435761)) & (map->cap - 1);

	while (map->entries[i].pgno && map->entries[i].pgno != pgno)
		i = (i + 1) & (map->cap - 1);
	return &map->entries[i];
}

uint32_t page_map_get(const struct page_map *map, uint32_t pgno)
{
	return map->count ? entry_of(map, pgno)->value : 0;
}

static int grow(struct page_map *map)
{
	struct page_map old = *map;

	if (map->count + 1 <= map->cap / 2)
		return 0;
	map->cap = old.cap ? old.cap * 2 : 64;
	map->entries = calloc(map->cap, sizeof *map->entries);
	if (!map->entries) {
		*map = old;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < old.cap; i++)
		if (old.entries[i].pgno)
			*entry_of(map, old.entries[i].pgno) = old.entries[i];
	free(old.entries);
	return 0;
}

int page_map_put(struct page_map *map, uint32_t pgno, uint32_t value)
{
	struct page_map_entry *entry;
	int err = grow(map);

	if (err)
		return err;
	entry = entry_of(map, pgno);
	if (!entry->pgno) {
		entry->pgno = pgno;
		map->count++;
	}
	entry->value = value;
	return 0;
}

void page_map_cut(struct page_map *map, uint32_t last_pgno)
{
	for (uint32_t i = 0; i < map->cap; i++)
		if (map->entries[i].pgno > last_pgno)
			map->entries[i].value = 0;
}
