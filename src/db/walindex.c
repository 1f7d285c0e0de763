#include "db/walindex.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

#define SIZE_MAX_BYTES ((size_t)1 << 30)

int walindex_init(struct walindex *index)
{
	const uint16_t one = 1;
	const uint32_t pgno = 1;

	index->data = calloc(1, WALINDEX_BLOCK_SIZE);
	if (!index->data)
		return -ENOMEM;
	index->size = WALINDEX_BLOCK_SIZE;
	index->change = random_u32() & 0xffff;
	/*
	 * Frame 1 is page 1 in every generation, and SQLite's writers clear only what lies
	 * beyond mxFrame, so this entry stays for good.
	 */
	memcpy(index->data + WALINDEX_PGNO_OFFSET, &pgno, sizeof pgno);
	memcpy(index->data + WALINDEX_HASH_OFFSET + walindex_hash(pgno) * sizeof one, &one, sizeof one);
	return 0;
}

void walindex_fini(struct walindex *index)
{
	free(index->data);
	index->data = NULL;
}

void walindex_restart(struct walindex *index, const struct vwal *wal, uint32_t page_count)
{
	struct walindex_header header = {
		/* A client that died may have published one more than we saw: stay ahead of it. */
		.change = index->change += 16,
		.page_size = wal->page_size,
		.max_frame = 1,
		.page_count = page_count,
		.frame_sum = {wal->frame_sum[0], wal->frame_sum[1]},
		.salt = wal->salt,
	};

	walindex_header_encode(&header, index->data);
}

void walindex_close_gate(struct walindex *index)
{
	memset(index->data + WALINDEX_READMARK_OFFSET + 4, 0xff, 4 * (WAL_NREADER - 1));
}

int walindex_write(struct walindex *index, uint64_t off, const uint8_t *data, size_t len)
{
	uint64_t end = off + len;

	if (off > SIZE_MAX_BYTES || len > SIZE_MAX_BYTES - off)
		return -EFBIG;
	if (end > index->size) {
		size_t size = (end + WALINDEX_BLOCK_SIZE - 1) / WALINDEX_BLOCK_SIZE * WALINDEX_BLOCK_SIZE;
		uint8_t *grown = realloc(index->data, size);

		if (!grown)
			return -ENOMEM;
		memset(grown + index->size, 0, size - index->size);
		index->data = grown;
		index->size = size;
	}
	if (off == 0 && len >= WALINDEX_HEADER_SIZE) {
		uint32_t ours, theirs;

		memcpy(&ours, index->data + 8, 4);
		memcpy(&theirs, data + 8, 4);
		if ((int32_t)(theirs - ours) < 0) {
			off += WALINDEX_HEADER_SIZE;
			data += WALINDEX_HEADER_SIZE;
			len -= WALINDEX_HEADER_SIZE;
		}
	}
	memcpy(index->data + off, data, len);
	return 0;
}

size_t walindex_read(const struct walindex *index, uint64_t off, void *buf, size_t len)
{
	if (off >= index->size)
		return 0;
	if (len > index->size - off)
		len = index->size - off;
	memcpy(buf, index->data + off, len);
	return len;
}
