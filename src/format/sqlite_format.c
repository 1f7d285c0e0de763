#include "format/sqlite_format.h"

#include <errno.h>
#include <string.h>

#define WAL_MAGIC UINT32_C(0x377f0682)
#define WAL_VERSION UINT32_C(3007000)

static bool native_is_big_endian(void)
{
	const uint16_t one = 1;
	uint8_t first;

	memcpy(&first, &one, 1);
	return first == 0;
}

const uint8_t journal_magic[JOURNAL_MAGIC_SIZE] = {0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7};

int journal_super_length(const uint8_t *tail, uint32_t *ret_checksum)
{
	uint32_t len = be32(tail);

	if (memcmp(tail + 8, journal_magic, sizeof journal_magic) != 0 || len == 0 || len > 4096)
		return -EBADMSG;
	*ret_checksum = be32(tail + 4);
	return (int)len;
}

int sqlite_header_parse(const uint8_t *page1, struct sqlite_header *ret)
{
	uint32_t size = (uint32_t)page1[16] << 8 | page1[17];

	if (memcmp(page1, "SQLite format 3", 16) != 0)
		return -EBADMSG;
	if (size == 1)
		size = 65536;
	if (size < 512 || size > 65536 || (size & (size - 1)))
		return -EBADMSG;
	ret->page_size = size;
	ret->wal = page1[18] == 2 && page1[19] == 2;
	ret->page_count = be32(page1 + 24) == be32(page1 + 92) ? be32(page1 + 28) : 0;
	return 0;
}

void wal_checksum(const uint8_t *data, uint32_t len, uint32_t sum[2])
{
	uint32_t a = sum[0], b = sum[1];

	for (uint32_t i = 0; i + 8 <= len; i += 8) {
		uint32_t w[2];

		memcpy(w, data + i, 8);
		a += w[0] + b;
		b += w[1] + a;
	}
	sum[0] = a;
	sum[1] = b;
}

void wal_header_encode(uint32_t page_size, uint32_t ckpt_seq, struct wal_salt salt, uint8_t *buf, uint32_t ret_sum[2])
{
	put_be32(buf, WAL_MAGIC | (native_is_big_endian() ? 1 : 0));
	put_be32(buf + 4, WAL_VERSION);
	put_be32(buf + 8, page_size);
	put_be32(buf + 12, ckpt_seq);
	memcpy(buf + 16, salt.bytes, 8);
	ret_sum[0] = ret_sum[1] = 0;
	wal_checksum(buf, 24, ret_sum);
	put_be32(buf + 24, ret_sum[0]);
	put_be32(buf + 28, ret_sum[1]);
}

void wal_frame_encode(uint32_t pgno, uint32_t commit, struct wal_salt salt, const uint8_t *page, uint32_t page_size,
		      uint32_t sum[2], uint8_t *buf)
{
	put_be32(buf, pgno);
	put_be32(buf + 4, commit);
	memcpy(buf + 8, salt.bytes, 8);
	wal_checksum(buf, 8, sum);
	wal_checksum(page, page_size, sum);
	put_be32(buf + 16, sum[0]);
	put_be32(buf + 20, sum[1]);
}

void walindex_header_encode(const struct walindex_header *header, uint8_t *buf)
{
	uint32_t sum[2] = {0, 0};
	uint32_t version = WAL_VERSION;
	uint16_t size = (uint16_t)((header->page_size & 0xff00) | (header->page_size >> 16));
	uint32_t marks[WAL_NREADER] = {0, header->max_frame, WALINDEX_READMARK_UNUSED, WALINDEX_READMARK_UNUSED,
				       WALINDEX_READMARK_UNUSED};

	memset(buf, 0, WALINDEX_HEADER_SIZE);
	memcpy(buf, &version, 4);
	memcpy(buf + 8, &header->change, 4);
	buf[12] = 1;
	buf[13] = native_is_big_endian();
	memcpy(buf + 14, &size, 2);
	memcpy(buf + 16, &header->max_frame, 4);
	memcpy(buf + 20, &header->page_count, 4);
	memcpy(buf + 24, header->frame_sum, 8);
	memcpy(buf + 32, header->salt.bytes, 8);
	wal_checksum(buf, 40, sum);
	memcpy(buf + 40, sum, 8);
	memcpy(buf + 48, buf, 48);
	memcpy(buf + WALINDEX_READMARK_OFFSET, marks, sizeof marks);
}

int walindex_header_decode(const uint8_t *buf, struct walindex_header *ret)
{
	uint32_t sum[2] = {0, 0}, version;
	uint16_t size;

	memcpy(&version, buf, 4);
	wal_checksum(buf, 40, sum);
	if (version != WAL_VERSION || buf[12] != 1 || memcmp(sum, buf + 40, 8) != 0)
		return -EBADMSG;
	memcpy(&ret->change, buf + 8, 4);
	memcpy(&size, buf + 14, 2);
	ret->page_size = (size & 0xfe00) + ((uint32_t)(size & 1) << 16);
	memcpy(&ret->max_frame, buf + 16, 4);
	memcpy(&ret->page_count, buf + 20, 4);
	memcpy(ret->frame_sum, buf + 24, 8);
	memcpy(ret->salt.bytes, buf + 32, 8);
	return 0;
}
