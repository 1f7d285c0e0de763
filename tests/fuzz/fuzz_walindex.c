/*
 * The wal-index: clients write back what they like, we publish. After each of our publications a reader that does as SQLite does
 * finds, for every page, the newest frame among the published ones; our header is whole; the patch lies within the file.
 */
#include <errno.h>

#include "db/walindex.h"
#include "format/sqlite_format.h"
#include "fuzz.h"

#define PAGE 512
#define PAGES 32
#define FIRST 4062
#define FRAMES_MAX 9000 /* into the third block */

/* SQLite's walFindFrame(). 0: in no frame. */
static uint32_t find(const struct walindex *index, uint32_t pgno, uint32_t last)
{
	uint32_t blocks = (last + 4096 - FIRST + 4095) / 4096;

	for (uint32_t n = blocks; n-- > 0;) {
		const uint8_t *block = index->data + (size_t)n * WALINDEX_BLOCK_SIZE;
		const uint8_t *pgnos = n ? block : block + WALINDEX_PGNO_OFFSET;
		uint32_t base = n ? FIRST + (n - 1) * 4096 : 0, found = 0, key = walindex_hash(pgno), steps = 0;
		uint16_t slot;

		MUST((size_t)(n + 1) * WALINDEX_BLOCK_SIZE <= index->size);
		for (;; key = (key + 1) % 8192) {
			uint32_t has;

			memcpy(&slot, block + WALINDEX_HASH_OFFSET + key * 2, 2);
			if (!slot)
				break;
			MUST(steps++ < 8192); /* "SQLITE_CORRUPT" */
			if (slot > (n ? 4096 : FIRST) || base + slot > last)
				continue;
			memcpy(&has, pgnos + (size_t)(slot - 1) * 4, 4);
			if (has == pgno && base + slot > found)
				found = base + slot;
		}
		if (found)
			return found;
	}
	return 0;
}

static void check_published(const struct walindex *index, const struct vwal *wal)
{
	struct walindex_header h;

	MUST(walindex_header_decode(index->data, &h) == 0 && walindex_header_decode(index->data + 48, &h) == 0);
	MUST(h.max_frame == index->published && h.change == index->change);
	for (uint32_t pgno = 1; pgno <= PAGES; pgno++) {
		uint32_t newest = 0;

		for (uint32_t f = 1; f <= index->published; f++)
			if (wal->pgnos[f - 1] == pgno)
				newest = f;
		MUST(find(index, pgno, index->published) == newest);
	}
}

static void publish(struct walindex *index, struct vwal *wal, uint32_t last)
{
	struct walindex_patch patch;
	uint32_t before = index->published;
	int err = walindex_publish(index, wal, last, PAGES, &patch);

	if (last <= before || last > wal->written) {
		MUST(err == -EINVAL && !patch.pieces && !patch.bytes);
		return;
	}
	MUST(err == 0 && index->published == last);
	for (size_t i = 0; i < patch.count; i++) {
		MUST(patch.pieces[i].off + patch.pieces[i].len <= index->size);
		MUST(!memcmp(patch.pieces[i].data, index->data + patch.pieces[i].off, patch.pieces[i].len));
	}
	walindex_patch_fini(&patch);
	wal->committed = last;
	check_published(index, wal);
}

static void client_writes(struct walindex *index, struct vwal *wal, struct fuzz_in *in)
{
	unsigned how = (unsigned)fuzz_take(in, 1);
	uint64_t off = fuzz_take(in, how & 1 ? 8 : 3);
	size_t len = (size_t)fuzz_take(in, 2) % 8192, n;
	uint8_t fill = (uint8_t)fuzz_take(in, 1), *page = malloc(len + 1);
	const uint8_t *own = fuzz_take_bytes(in, len < 64 ? len : 64, &n);
	int err;

	MUST(page);
	memset(page, fill, len + 1);
	memcpy(page, own, n);
	if (how & 2)
		off &= ~(uint64_t)4095;
	if (how & 4)
		off %= index->size;
	/* Beyond a few blocks there is nothing new to be seen; a huge offset is refused, and costs nothing. */
	if (off > 8 * WALINDEX_BLOCK_SIZE && off <= (uint64_t)1 << 30)
		off %= 8 * WALINDEX_BLOCK_SIZE;
	if (how & 8)
		wal->client_writes++;
	err = walindex_write(index, wal, off, page, len);
	MUST(err == 0 || err == -EFBIG);
	free(page);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = {data, size};
	uint8_t page[PAGE] = "SQLite format 3", buf[512];
	struct walindex index;
	struct vwal wal;
	unsigned restarts = 0;

	vwal_init(&wal, "/nonexistent", (size_t)16 << 20);
	MUST(vwal_restart(&wal, page, PAGE, PAGES) == 0 && walindex_init(&index) == 0);
	walindex_restart(&index, &wal, PAGES);
	while (in.left) {
		uint32_t n;

		switch (fuzz_take(&in, 1) % 6) {
		case 0:
		case 1:
			client_writes(&index, &wal, &in);
			break;
		case 2: /* frames, of a local writer or of ours */
			n = (uint32_t)fuzz_take(&in, 1);
			n = n & 128 ? (n & 127) * 16 : n & 15;
			memset(page, (int)n, sizeof page);
			for (uint32_t i = 0; i < n && wal.written < FRAMES_MAX; i++)
				MUST(vwal_append(&wal, wal.written + 1, 1 + (uint32_t)(i * 7 + n) % PAGES, 0, page) == 0);
			break;
		case 3:
			publish(&index, &wal, wal.written);
			break;
		case 4:
			publish(&index, &wal, index.published + (uint32_t)fuzz_take(&in, 1));
			break;
		default:
			if (fuzz_take(&in, 1) & 1) {
				walindex_close_gate(&index);
			} else if (restarts++ < 4) {
				MUST(vwal_restart(&wal, page, PAGE, PAGES) == 0);
				walindex_restart(&index, &wal, PAGES);
			}
			n = (uint32_t)fuzz_take(&in, 3);
			MUST(walindex_read(&index, n, buf, sizeof buf) <= sizeof buf);
			break;
		}
	}
	walindex_fini(&index);
	vwal_fini(&wal);
	return 0;
}
