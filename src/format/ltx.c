/*
 * What encoder and decoder share: the header, and the rules for page numbers.
 * Both ask the same predicates, so that nothing is sent that we would refuse.
 */
#include "format/ltx.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "format/crc64.h"

#define FLAG_MASK LTX_FLAG_COMPRESS_LZ4

static const char magic[4] = {'L', 'T', 'X', '1'};

uint64_t ltx_page_checksum(uint32_t pgno, const void *page, uint32_t page_size)
{
	uint32_t be = htobe32(pgno);

	return crc64_iso(crc64_iso(0, &be, sizeof be), page, page_size) | LTX_CHECKSUM_FLAG;
}

static bool is_snapshot(const struct ltx_header *header)
{
	return header->min_txid == 1;
}

static bool page_size_ok(uint32_t size)
{
	return size >= 512 && size <= 65536 && (size & (size - 1)) == 0;
}

/* A WAL segment has a place and a length, or neither and then no salts. */
static bool wal_ok(const struct ltx_header *header)
{
	if (header->wal_offset < 0 || header->wal_size < 0)
		return false;
	if (!header->wal_offset != !header->wal_size)
		return false;
	return header->wal_offset || (!header->wal_salt[0] && !header->wal_salt[1]);
}

int ltx_header_check(const struct ltx_header *header)
{
	if (header->flags & ~FLAG_MASK || !page_size_ok(header->page_size))
		return -EINVAL;
	if (header->min_txid == 0 || header->min_txid > header->max_txid)
		return -EINVAL;
	if (!wal_ok(header))
		return -EINVAL;
	if (is_snapshot(header))
		return header->pre_apply ? -EINVAL : 0;
	return header->pre_apply & LTX_CHECKSUM_FLAG ? 0 : -EINVAL;
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof v);
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof v);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return be32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof v);
	return be64toh(v);
}

void ltx_header_encode(const struct ltx_header *header, uint8_t *buf)
{
	memset(buf, 0, LTX_HEADER_SIZE);
	memcpy(buf, magic, sizeof magic);
	put32(buf + 4, header->flags);
	put32(buf + 8, header->page_size);
	put32(buf + 12, header->commit);
	put64(buf + 16, header->min_txid);
	put64(buf + 24, header->max_txid);
	put64(buf + 32, (uint64_t)header->timestamp_ms);
	put64(buf + 40, header->pre_apply);
	put64(buf + 48, (uint64_t)header->wal_offset);
	put64(buf + 56, (uint64_t)header->wal_size);
	put32(buf + 64, header->wal_salt[0]);
	put32(buf + 68, header->wal_salt[1]);
	put64(buf + 72, header->node_id);
}

int ltx_header_decode(const uint8_t *buf, struct ltx_header *ret)
{
	static const uint8_t zero[LTX_HEADER_SIZE - 80];
	struct ltx_header h = {
		.flags = get32(buf + 4),
		.page_size = get32(buf + 8),
		.commit = get32(buf + 12),
		.min_txid = get64(buf + 16),
		.max_txid = get64(buf + 24),
		.timestamp_ms = (int64_t)get64(buf + 32),
		.pre_apply = get64(buf + 40),
		.wal_offset = (int64_t)get64(buf + 48),
		.wal_size = (int64_t)get64(buf + 56),
		.wal_salt = {get32(buf + 64), get32(buf + 68)},
		.node_id = get64(buf + 72),
	};

	/* Later releases of the module use the padding, under the same magic and with another page block. */
	if (memcmp(buf, magic, sizeof magic) || memcmp(buf + 80, zero, sizeof zero) || ltx_header_check(&h))
		return -EBADMSG;
	*ret = h;
	return 0;
}

static uint32_t after(uint32_t pgno, uint32_t lock_pgno)
{
	return pgno + 1 == lock_pgno ? pgno + 2 : pgno + 1;
}

bool ltx_pgno_fits(const struct ltx_header *header, uint32_t last_pgno, uint32_t pgno)
{
	uint32_t lock_pgno = ltx_lock_pgno(header->page_size);

	if (pgno <= last_pgno || pgno > header->commit || pgno == lock_pgno)
		return false;
	return !is_snapshot(header) || pgno == after(last_pgno, lock_pgno);
}

bool ltx_block_complete(const struct ltx_header *header, uint32_t last_pgno)
{
	uint32_t last = header->commit;

	if (!is_snapshot(header))
		return true;
	if (last == ltx_lock_pgno(header->page_size))
		last--;
	return last_pgno == last;
}

bool ltx_post_apply_fits(const struct ltx_header *header, uint64_t pages_xor, uint64_t post_apply)
{
	if (header->commit == 0)
		return post_apply == LTX_CHECKSUM_FLAG;
	return !is_snapshot(header) || post_apply == (pages_xor | LTX_CHECKSUM_FLAG);
}
