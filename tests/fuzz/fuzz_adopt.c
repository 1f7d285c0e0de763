/*
 * changeset_adopt() over a database of four pages of 512 bytes at TXID 7. Byte 0: 1 the input is an LTX file, given the right position
 * and checksum; else a recipe for one: commit size, then pages and what they are filled with, then bytes to spoil.
 * What is adopted has the checksum of the pages that are then there, all of them, and every old page that changed was kept.
 */
#include <endian.h>
#include <errno.h>
#include <stdbool.h>

#include "db/changeset.h"
#include "format/crc64.h"
#include "format/sqlite_format.h"
#include "fuzz.h"

#define PAGE 512
#define OLD 4
#define ROOM 64 /* pages that the model can hold */

struct model {
	uint8_t old[OLD + 1][PAGE], now[ROOM + 1][PAGE];
	bool written[ROOM + 1], kept[OLD + 1];
	uint32_t commit, appended;
};

static void make_page1(uint8_t *page, uint8_t fill)
{
	memset(page, fill, PAGE);
	memcpy(page, "SQLite format 3", 16);
	page[16] = PAGE >> 8;
	page[17] = 0;
	page[18] = page[19] = 2;
}

static int old_page(void *ctx, uint32_t pgno, void *page)
{
	struct model *m = ctx;

	MUST(pgno >= 1 && pgno <= OLD);
	memcpy(page, m->old[pgno], PAGE);
	return 0;
}

static int keep(void *ctx, uint32_t pgno, const void *page)
{
	struct model *m = ctx;

	MUST(pgno >= 1 && pgno <= OLD && !memcmp(page, m->old[pgno], PAGE));
	m->kept[pgno] = true;
	return 0;
}

static int append(void *ctx, uint32_t pgno, uint32_t commit, const void *page)
{
	struct model *m = ctx;

	MUST(pgno && !m->commit);
	m->appended++;
	m->commit = commit;
	if (pgno > ROOM)
		return -EFBIG; /* more than the model holds */
	MUST(!m->written[pgno]);
	m->written[pgno] = true;
	memcpy(m->now[pgno], page, PAGE);
	return 0;
}

static uint64_t sum_of(const struct model *m, uint32_t pages, bool now)
{
	uint64_t sum = 0;

	for (uint32_t p = 1; p <= pages; p++)
		sum ^= ltx_page_checksum(p, now && m->written[p] ? m->now[p] : m->old[p], PAGE);
	return sum | LTX_CHECKSUM_FLAG;
}

struct source {
	const uint8_t *data;
	size_t left;
};

static ptrdiff_t give(void *ctx, void *buf, size_t len)
{
	struct source *s = ctx;

	if (len > s->left)
		len = s->left;
	memcpy(buf, s->data, len);
	s->data += len;
	s->left -= len;
	return (ptrdiff_t)len;
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof v);
}

/* The input itself, made to fit as far as that can be done without decompressing it. */
static uint8_t *from_file(struct fuzz_in *in, const struct pos *before, size_t *ret_size)
{
	size_t size = in->left;
	uint8_t *file = malloc(size + 1);

	MUST(file);
	memcpy(file, in->data, size);
	if (size >= LTX_HEADER_SIZE + LTX_TRAILER_SIZE) {
		put_be32(file + 8, PAGE);
		put64(file + 16, before->txid + 1);
		put64(file + 24, before->txid + 1);
		put64(file + 40, before->checksum);
		put64(file + size - 8, crc64_iso(0, file, size - 8) | LTX_CHECKSUM_FLAG);
	}
	*ret_size = size;
	return file;
}

/* COMMIT FLAGS COUNT, then PGNO FILL each, then pairs OFFSET XOR. */
static uint8_t *from_recipe(struct fuzz_in *in, struct model *m, const struct pos *before, size_t *ret_size)
{
	uint32_t commit = (uint32_t)fuzz_take(in, 1);
	unsigned flags = (unsigned)fuzz_take(in, 1), count = (unsigned)fuzz_take(in, 1) & 31;
	struct ltx_header header = {.flags = flags & LTX_FLAG_COMPRESS_LZ4, .page_size = PAGE, .commit = commit,
				    .min_txid = before->txid + 1, .max_txid = before->txid + 1, .pre_apply = before->checksum};
	struct ltx_encoder enc;
	struct ltx_trailer trailer;
	struct spool out;
	uint8_t page[PAGE], *file;
	uint64_t sum = before->checksum;
	uint32_t last = 0;
	int err;

	spool_init(&out, "/nonexistent", (size_t)64 << 20);
	err = ltx_encoder_init(&enc, &header, spool_append, &out);
	for (unsigned i = 0; !err && i < count; i++) {
		uint32_t pgno = (uint32_t)fuzz_take(in, 1);
		uint8_t fill = (uint8_t)fuzz_take(in, 1);

		if (!ltx_pgno_fits(&header, last, pgno))
			continue;
		last = pgno;
		memset(page, fill, sizeof page);
		if (pgno == 1 && fill & 7)
			make_page1(page, fill);
		sum ^= ltx_page_checksum(pgno, page, PAGE);
		if (pgno <= OLD)
			sum ^= ltx_page_checksum(pgno, m->old[pgno], PAGE);
		err = ltx_encoder_page(&enc, pgno, page);
	}
	for (uint32_t p = commit + 1; p <= OLD; p++)
		sum ^= ltx_page_checksum(p, m->old[p], PAGE);
	if (commit == 0)
		sum = 0;
	if (!err)
		err = ltx_encoder_finish(&enc, sum | LTX_CHECKSUM_FLAG, &trailer);
	MUST(!err);
	ltx_encoder_fini(&enc);
	*ret_size = out.size;
	file = malloc(out.size);
	MUST(file && spool_read(&out, 0, file, out.size) == (ptrdiff_t)out.size);
	spool_fini(&out);
	while (in->left >= 2) {
		size_t at = (size_t)fuzz_take(in, 2) % *ret_size;

		file[at] ^= (uint8_t)fuzz_take(in, 1);
	}
	return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_in in = {data, size};
	struct model *m = calloc(1, sizeof *m);
	struct changeset cs = {.db_name = "a.db", .page_size = PAGE, .old_pages = OLD, .before = {.txid = 7}};
	struct changeset_source source = {.old_page = old_page, .keep = keep, .ctx = m};
	struct source file;
	uint8_t *bytes;
	size_t len;
	int err;

	MUST(m);
	make_page1(m->old[1], 0x11);
	for (uint32_t p = 2; p <= OLD; p++)
		memset(m->old[p], (int)p, PAGE);
	cs.before.checksum = sum_of(m, OLD, false);
	bytes = fuzz_take(&in, 1) & 1 ? from_file(&in, &cs.before, &len) : from_recipe(&in, m, &cs.before, &len);
	file = (struct source){bytes, len};
	err = changeset_adopt(&cs, &source, append, give, &file);
	MUST(err == 0 || err == -EBADMSG || err == -EFBIG);
	if (!err) {
		MUST(m->commit && m->commit == cs.new_pages && cs.new_pages <= ROOM && cs.page_count == m->appended);
		for (uint32_t p = 1; p <= OLD; p++)
			MUST(m->kept[p] == (m->written[p] || p > cs.new_pages));
		for (uint32_t p = OLD + 1; p <= cs.new_pages; p++)
			MUST(m->written[p]);
		MUST(cs.after.txid == 8 && cs.after.checksum == sum_of(m, cs.new_pages, true));
	}
	free(bytes);
	free(m);
	return 0;
}
