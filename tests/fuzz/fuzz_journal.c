/*
 * The virtual rollback journal and the formats beside it. Byte 0: 1 the rest is a journal's end (the super-journal's name in it), 2 a
 * database's first page or a wal-index header; else writes and truncations, beside an array that does the same.
 */
#include <errno.h>
#include <stdbool.h>

#include "db/vjournal.h"
#include "format/sqlite_format.h"
#include "fuzz.h"

#define ROOM 4096

static void journal_end(const uint8_t *data, size_t size)
{
	struct vjournal journal;
	char name[SUPER_NAME_MAX];

	vjournal_init(&journal, "/nonexistent", (size_t)16 << 20);
	vjournal_create(&journal);
	MUST(vjournal_write(&journal, 0, data, size) == 0);
	vjournal_super(&journal, name);
	MUST(strlen(name) < SUPER_NAME_MAX && !strchr(name, '/'));
	vjournal_fini(&journal);
}

static void headers(const uint8_t *data, size_t size)
{
	uint8_t buf[WALINDEX_HEADER_SIZE] = {0};
	struct walindex_header h, again;
	struct sqlite_header page1;

	memcpy(buf, data, size < sizeof buf ? size : sizeof buf);
	if (sqlite_header_parse(buf, &page1) == 0)
		MUST(page1.page_size >= 512 && page1.page_size <= 65536 && !(page1.page_size & (page1.page_size - 1)));
	if (size && data[0] & 1) { /* a checksum that fits */
		uint32_t sum[2] = {0, 0};

		wal_checksum(buf, 40, sum);
		memcpy(buf + 40, sum, 8);
	}
	if (walindex_header_decode(buf, &h) == 0) {
		walindex_header_encode(&h, buf);
		MUST(walindex_header_decode(buf + 48, &again) == 0 && again.max_frame == h.max_frame &&
		     again.page_count == h.page_count && again.change == h.change);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = {data, size};
	struct vjournal journal;
	uint8_t model[ROOM], buf[ROOM];
	size_t end = 0;
	unsigned kind = (unsigned)fuzz_take(&in, 1);

	if (kind == 1 || kind == 2) {
		(kind == 1 ? journal_end : headers)(in.data, in.left);
		return 0;
	}
	vjournal_init(&journal, "/nonexistent", (size_t)16 << 20);
	vjournal_create(&journal);
	while (in.left) {
		unsigned op = (unsigned)fuzz_take(&in, 1);
		uint64_t off = op & 1 ? 0 : fuzz_take(&in, 2) % (ROOM - 256);
		size_t len = (size_t)fuzz_take(&in, 1), n;
		const uint8_t *bytes = op & 2 ? journal_magic : fuzz_take_bytes(&in, len, &n);
		bool was_hot = end >= 8 && !memcmp(model, journal_magic, 8), is_hot;

		if (op & 2)
			n = JOURNAL_MAGIC_SIZE;
		if (op & 4) {
			MUST(spool_truncate(&journal.bytes, off) == 0);
			end = off < end ? off : end;
		} else if (n) {
			bool ends = vjournal_write_ends(&journal, off, bytes, n);

			MUST(vjournal_write(&journal, off, bytes, n) == 0);
			if (off > end)
				memset(model + end, 0, off - end);
			memcpy(model + off, bytes, n);
			end = off + n > end ? off + n : end;
			is_hot = end >= 8 && !memcmp(model, journal_magic, 8);
			MUST(ends == (was_hot && !is_hot));
		}
		is_hot = end >= 8 && !memcmp(model, journal_magic, 8);
		MUST(journal.bytes.size == end && vjournal_is_hot(&journal) == is_hot);
		MUST(spool_read(&journal.bytes, 0, buf, sizeof buf) == (ptrdiff_t)end && !memcmp(buf, model, end));
	}
	vjournal_fini(&journal);
	return 0;
}
