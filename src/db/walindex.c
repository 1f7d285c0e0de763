#include "db/walindex.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

#define SIZE_MAX_BYTES ((size_t)1 << 30)
#define SLOTS 8192
#define LINE 64 /* bytes of aHash that are stored at once */
#define LINES (SLOTS * sizeof(uint16_t) / LINE)
#define HASH_PIECES_MAX 32 /* of one block; then all of aHash in one */

/* A block holds the entries of frames base + 1 .. base + entries. */
struct block {
	size_t start; /* of its aPgno in data */
	size_t hash; /* of its aHash */
	uint32_t base, entries;
};

#define FIRST_ENTRIES ((WALINDEX_HASH_OFFSET - WALINDEX_PGNO_OFFSET) / 4)
#define ENTRIES (WALINDEX_HASH_OFFSET / 4)

static struct block block_at(uint32_t n)
{
	struct block b = {.hash = (size_t)n * WALINDEX_BLOCK_SIZE + WALINDEX_HASH_OFFSET, .entries = ENTRIES};

	b.start = (size_t)n * WALINDEX_BLOCK_SIZE;
	b.base = n ? FIRST_ENTRIES + (n - 1) * ENTRIES : 0;
	if (n == 0) {
		b.start = WALINDEX_PGNO_OFFSET;
		b.entries = FIRST_ENTRIES;
	}
	return b;
}

static uint32_t block_of(uint32_t frame)
{
	return (frame - 1 + ENTRIES - FIRST_ENTRIES) / ENTRIES;
}

/* How many of the block's entries belong to frames up to this one. */
static uint32_t entries_to(const struct block *b, uint32_t frame)
{
	return frame <= b->base ? 0 : frame - b->base < b->entries ? frame - b->base : b->entries;
}

int walindex_init(struct walindex *index)
{
	const uint16_t one = 1;
	const uint32_t pgno = 1;

	index->data = calloc(1, WALINDEX_BLOCK_SIZE);
	if (!index->data)
		return -ENOMEM;
	index->size = WALINDEX_BLOCK_SIZE;
	index->change = random_u32() & 0xffff;
	index->published = 1;
	index->clean_at = 0;
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
	index->published = 1;
	index->clean_at = 0; /* the clients' memory holds the last generation's entries */
}

void walindex_close_gate(struct walindex *index)
{
	memset(index->data + WALINDEX_READMARK_OFFSET + 4, 0xff, 4 * (WAL_NREADER - 1));
}

static int grow(struct walindex *index, uint64_t end)
{
	size_t size = (end + WALINDEX_BLOCK_SIZE - 1) / WALINDEX_BLOCK_SIZE * WALINDEX_BLOCK_SIZE;
	uint8_t *grown;

	if (end <= index->size)
		return 0;
	grown = realloc(index->data, size);
	if (!grown)
		return -ENOMEM;
	memset(grown + index->size, 0, size - index->size);
	index->data = grown;
	index->size = size;
	return 0;
}

/* aHash of the block that published ends in: a slot of ours stays, another's is taken unless it claims to be one of ours. */
static void merge_slots(uint8_t *data, size_t off, size_t end, const uint8_t *from, uint32_t ours)
{
	for (size_t at = off & ~(size_t)1; at < end; at += sizeof(uint16_t)) {
		uint8_t bytes[sizeof(uint16_t)];
		uint16_t old, slot;

		memcpy(&old, data + at, sizeof old);
		memcpy(bytes, &old, sizeof old);
		for (size_t i = 0; i < sizeof bytes; i++)
			if (at + i >= off && at + i < end)
				bytes[i] = from[at + i - off];
		memcpy(&slot, bytes, sizeof slot);
		if (old >= 1 && old <= ours)
			continue;
		if (slot <= ours)
			slot = 0;
		memcpy(data + at, &slot, sizeof slot);
	}
}

/* What lies beyond the block's first `keep` entries goes, as SQLite's walCleanupHash() does it. */
static void clear_beyond(uint8_t *data, const struct block *b, uint32_t keep)
{
	memset(data + b->start + keep * sizeof(uint32_t), 0, (b->entries - keep) * sizeof(uint32_t));
	for (size_t at = b->hash; at < b->hash + SLOTS * sizeof(uint16_t); at += sizeof(uint16_t)) {
		uint16_t slot;

		memcpy(&slot, data + at, sizeof slot);
		if (slot > keep)
			memset(data + at, 0, sizeof slot);
	}
}

/*
 * Since we published, and cleared what was beyond, entries can only be of frames that were written since. Others were in a page
 * that the kernel had copied before. They must not come back in one page of a block alone: SQLite's writers would leave holes in aHash's
 * chains when they clean up, or clear what they have just appended.
 */
static void drop_stray(struct walindex *index, uint32_t written, uint64_t off, size_t len)
{
	for (uint64_t n = off / WALINDEX_BLOCK_SIZE; len && n <= (off + len - 1) / WALINDEX_BLOCK_SIZE; n++) {
		struct block b = block_at((uint32_t)n);

		clear_beyond(index->data, &b, entries_to(&b, written));
	}
}

/* What a client wrote back beyond the header. */
static void merge(struct walindex *index, uint64_t off, const uint8_t *data, size_t len)
{
	uint32_t n = block_of(index->published);
	struct block b = block_at(n);
	uint32_t ours = entries_to(&b, index->published);
	size_t end = off + len, ours_end = b.start + ours * sizeof(uint32_t), next = (size_t)(n + 1) * WALINDEX_BLOCK_SIZE;

	if (off < ours_end) { /* blocks that are full, and the beginning of aPgno in this one */
		size_t skip = ours_end - off < len ? ours_end - off : len;

		off += skip;
		data += skip;
	}
	if (off < end && off < b.hash) {
		size_t stop = end < b.hash ? end : b.hash;

		memcpy(index->data + off, data, stop - off);
		data += stop - off;
		off = stop;
	}
	if (off < end && off < next) {
		size_t stop = end < next ? end : next;

		merge_slots(index->data, off, stop, data, ours);
		data += stop - off;
		off = stop;
	}
	if (off < end)
		memcpy(index->data + off, data, end - off);
}

int walindex_write(struct walindex *index, const struct vwal *wal, uint64_t off, const uint8_t *data, size_t len)
{
	int err;

	if (off > SIZE_MAX_BYTES || len > SIZE_MAX_BYTES - off)
		return -EFBIG;
	err = grow(index, off + len);
	if (err)
		return err;
	if (off < WALINDEX_HEADER_SIZE) {
		size_t n = len < WALINDEX_HEADER_SIZE - off ? len : WALINDEX_HEADER_SIZE - off;
		uint32_t ours, theirs;
		bool late = false;

		if (off == 0 && len >= WALINDEX_HEADER_SIZE) {
			memcpy(&ours, index->data + 8, 4);
			memcpy(&theirs, data + 8, 4);
			late = (int32_t)(theirs - ours) < 0;
		}
		if (!late)
			memcpy(index->data + off, data, n);
		off += n;
		data += n;
		len -= n;
	}
	if (wal->client_writes == index->clean_at)
		return 0;
	merge(index, off, data, len);
	if (index->clean_at) /* else they may be of an earlier generation, and the clients' memory has them, too */
		drop_stray(index, wal->written, off, len);
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

/* As SQLite's walIndexAppend(); the place is free. ret: the slot. */
static uint32_t add_entry(uint8_t *data, const struct block *b, uint32_t entry, uint32_t pgno)
{
	uint16_t value = (uint16_t)entry, slot;
	uint32_t key = walindex_hash(pgno);

	for (;; key = (key + 1) % SLOTS) { /* it ends: there are more slots than entries */
		memcpy(&slot, data + b->hash + key * sizeof slot, sizeof slot);
		if (!slot)
			break;
	}
	memcpy(data + b->start + (entry - 1) * sizeof pgno, &pgno, sizeof pgno);
	memcpy(data + b->hash + key * sizeof value, &value, sizeof value);
	return key;
}

static void add_piece(struct walindex_patch *patch, const struct walindex *index, size_t off, size_t len, size_t *used)
{
	memcpy(patch->bytes + *used, index->data + off, len);
	patch->pieces[patch->count++] = (struct walindex_piece){.off = off, .len = len, .data = patch->bytes + *used};
	*used += len;
}

static void add_lines(struct walindex_patch *patch, const struct walindex *index, size_t hash, const bool *lines, size_t *used)
{
	size_t runs = 0;

	for (size_t i = 0; i < LINES; i++)
		runs += lines[i] && (i == 0 || !lines[i - 1]);
	if (runs > HASH_PIECES_MAX) {
		add_piece(patch, index, hash, SLOTS * sizeof(uint16_t), used);
		return;
	}
	for (size_t i = 0, n; i < LINES; i += n) {
		for (n = 0; i + n < LINES && lines[i + n]; n++)
			;
		if (n)
			add_piece(patch, index, hash + i * LINE, n * LINE, used);
		else
			n = 1;
	}
}

static void publish_block(struct walindex *index, const struct vwal *wal, uint32_t n, uint32_t last, bool junk,
			  struct walindex_patch *patch, size_t *used)
{
	struct block b = block_at(n);
	uint32_t have = entries_to(&b, index->published), want = entries_to(&b, last);
	bool lines[LINES] = {0};

	clear_beyond(index->data, &b, have);
	for (uint32_t entry = have + 1; entry <= want; entry++) {
		uint32_t slot = add_entry(index->data, &b, entry, wal->pgnos[b.base + entry - 1]);

		lines[slot * sizeof(uint16_t) / LINE] = true;
	}
	if (!have) {
		add_piece(patch, index, b.start, WALINDEX_BLOCK_SIZE, used); /* a new block, and never the first */
	} else if (junk) {
		add_piece(patch, index, b.start + have * sizeof(uint32_t), (b.entries - have) * sizeof(uint32_t), used);
		add_piece(patch, index, b.hash, SLOTS * sizeof(uint16_t), used);
	} else {
		add_piece(patch, index, b.start + have * sizeof(uint32_t), (want - have) * sizeof(uint32_t), used);
		add_lines(patch, index, b.hash, lines, used);
	}
}

int walindex_publish(struct walindex *index, const struct vwal *wal, uint32_t last_frame, uint32_t page_count,
		     struct walindex_patch *ret)
{
	struct walindex_header header = {.page_size = wal->page_size, .max_frame = last_frame, .page_count = page_count};
	uint8_t bytes[WALINDEX_HEADER_SIZE];
	uint32_t first, last;
	size_t used = 0;
	int err;

	*ret = (struct walindex_patch){0};
	if (last_frame <= index->published || vwal_frame_sum(wal, last_frame, header.frame_sum) != 0)
		return -EINVAL;
	first = block_of(index->published + 1);
	last = block_of(last_frame);
	if (last >= SIZE_MAX_BYTES / WALINDEX_BLOCK_SIZE)
		return -EFBIG;
	ret->bytes = malloc((size_t)(last - first + 1) * WALINDEX_BLOCK_SIZE + 2 * 48);
	ret->pieces = malloc(((size_t)(last - first) + HASH_PIECES_MAX + 1 + 2) * sizeof *ret->pieces);
	err = ret->bytes && ret->pieces ? grow(index, (uint64_t)(last + 1) * WALINDEX_BLOCK_SIZE) : -ENOMEM;
	if (err) {
		walindex_patch_fini(ret);
		return err;
	}
	for (uint32_t n = first; n <= last; n++)
		publish_block(index, wal, n, last_frame, wal->client_writes != index->clean_at, ret, &used);
	header.change = ++index->change;
	header.salt = wal->salt;
	walindex_header_encode(&header, bytes);
	memcpy(index->data, bytes, 2 * 48);
	add_piece(ret, index, 48, 48, &used);
	add_piece(ret, index, 0, 48, &used);
	index->published = last_frame;
	index->clean_at = wal->client_writes;
	return 0;
}

void walindex_patch_fini(struct walindex_patch *patch)
{
	free(patch->pieces);
	free(patch->bytes);
	*patch = (struct walindex_patch){0};
}
