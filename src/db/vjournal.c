#include "db/vjournal.h"

#include <stdlib.h>
#include <string.h>

#include "format/sqlite_format.h"

void vjournal_init(struct vjournal *journal, const char *spool_dir, size_t threshold)
{
	*journal = (struct vjournal){0};
	spool_init(&journal->bytes, spool_dir, threshold);
}

void vjournal_fini(struct vjournal *journal)
{
	spool_fini(&journal->bytes);
}

void vjournal_create(struct vjournal *journal)
{
	journal->exists = true;
}

void vjournal_remove(struct vjournal *journal)
{
	spool_reset(&journal->bytes);
	journal->exists = false;
}

bool vjournal_is_hot(const struct vjournal *journal)
{
	uint8_t head[JOURNAL_MAGIC_SIZE];

	return journal->exists && spool_read(&journal->bytes, 0, head, sizeof head) == (ptrdiff_t)sizeof head &&
	       !memcmp(head, journal_magic, sizeof head);
}

bool vjournal_write_ends(const struct vjournal *journal, uint64_t off, const uint8_t *data, size_t len)
{
	if (off >= JOURNAL_MAGIC_SIZE || !vjournal_is_hot(journal))
		return false;
	for (size_t i = 0; i < len && off + i < JOURNAL_MAGIC_SIZE; i++)
		if (data[i] != journal_magic[off + i])
			return true;
	return false;
}

int vjournal_write(struct vjournal *journal, uint64_t off, const void *data, size_t len)
{
	return spool_write(&journal->bytes, off, data, len);
}

void vjournal_super(const struct vjournal *journal, char ret[SUPER_NAME_MAX])
{
	uint8_t tail[JOURNAL_SUPER_TAIL_SIZE];
	uint64_t size = journal->bytes.size;
	uint32_t checksum, sum = 0;
	char *path, *name;
	int len;

	ret[0] = 0;
	if (size < sizeof tail || spool_read(&journal->bytes, size - sizeof tail, tail, sizeof tail) != (ptrdiff_t)sizeof tail)
		return;
	len = journal_super_length(tail, &checksum);
	if (len < 0 || (uint64_t)len + sizeof tail > size)
		return;
	path = malloc((size_t)len + 1);
	if (!path)
		return;
	if (spool_read(&journal->bytes, size - sizeof tail - (uint64_t)len, path, (size_t)len) == len) {
		path[len] = 0;
		for (int i = 0; i < len; i++) /* SQLite adds plain chars */
			sum += (uint32_t)path[i];
		name = strrchr(path, '/');
		name = name ? name + 1 : path;
		if (sum == checksum && strlen(name) < SUPER_NAME_MAX)
			strcpy(ret, name);
	}
	free(path);
}
