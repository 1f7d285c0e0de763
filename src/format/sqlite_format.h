/*
 * sqlite_format: the parts of SQLite's file formats that litefwd reads and writes.
 * Source: https://sqlite.org/fileformat2.html and https://sqlite.org/walformat.html.
 *
 *   database page 1   16 page size u16 (1 = 65536)   18 write version   19 read version (1 rollback, 2 WAL)
 *                     24 change counter   28 size in pages
 *   WAL header, 32 bytes, big-endian
 *                      0 magic 0x377f0682 (| 1: big-endian checksums)   4 3007000   8 page size
 *                     12 checkpoint number   16 salt 8 bytes   24 checksum 2 x u32
 *   WAL frame          0 pgno   4 size in pages after commit, else 0   8 salt   16 checksum 2 x u32   24 page
 *   wal-index block 0, native byte order
 *                      0 header 48   48 header again   96 nBackfill   100 aReadMark[5]   120 lock bytes
 *                    128 nBackfillAttempted   132 unused   136 aPgno[4062]   16384 aHash[8192] u16
 *
 *   rollback journal, big-endian
 *                      0 magic d9d505f920a163d7 (zeros: no transaction)   8 records u32   12 nonce   16 size in pages before
 *                     20 sector size   24 page size   padding to a sector, records
 *     its end, in a transaction of several databases: pgno of the lock page u32, the super-journal's path, its
 *                     length u32, checksum (sum of the path's bytes) u32, magic
 *
 * Pure; threads: any. Errors: -EBADMSG, outputs unchanged.
 */
#ifndef LITEFWD_FORMAT_SQLITE_FORMAT_H
#define LITEFWD_FORMAT_SQLITE_FORMAT_H

#include <stdbool.h>
#include <stdint.h>

/* Lock bytes of the database file ... */
#define SQLITE_PENDING_BYTE INT64_C(0x40000000)
#define SQLITE_RESERVED_BYTE (SQLITE_PENDING_BYTE + 1)
#define SQLITE_SHARED_FIRST (SQLITE_PENDING_BYTE + 2)
#define SQLITE_SHARED_SIZE 510
/* ... and of the shm. */
#define WAL_WRITE_BYTE 120
#define WAL_CKPT_BYTE 121
#define WAL_RECOVER_BYTE 122
#define WAL_READ_BYTE(i) (123 + (i))
#define WAL_NREADER 5
#define WAL_DMS_BYTE 128
/* ... and LiteFS' own, of NAME-lock: an application holds HALT (litefs-go's Halt()). */
#define LITEFS_HALT_BYTE 72

#define WAL_HEADER_SIZE 32
#define WAL_FRAME_HEADER_SIZE 24
#define WALINDEX_BLOCK_SIZE 32768
#define WALINDEX_HEADER_SIZE 136 /* both copies, backfill and read marks */
#define WALINDEX_READMARK_OFFSET 100
#define WALINDEX_PGNO_OFFSET 136
#define WALINDEX_HASH_OFFSET 16384
#define WALINDEX_READMARK_UNUSED UINT32_C(0xffffffff)

struct sqlite_header {
	uint32_t page_size;
	bool wal; /* both versions are 2 */
	uint32_t page_count; /* as page 1 says; 0 when it is not trustworthy */
};

#define SQLITE_COUNTER_OFFSET 24 /* change counter */
#define SQLITE_VALID_FOR_OFFSET 92 /* the counter that the size in pages was written with */

/* page1: at least 100 bytes. */
int sqlite_header_parse(const uint8_t *page1, struct sqlite_header *ret);

/* What the frames of one WAL generation share, and the running checksum. */
struct wal_salt {
	uint8_t bytes[8];
};

/* SQLite's checksum over len bytes (a multiple of 8), words in native order, continued in sum. */
void wal_checksum(const uint8_t *data, uint32_t len, uint32_t sum[2]);

/* buf: WAL_HEADER_SIZE. ret_sum: the checksum that the first frame continues. */
void wal_header_encode(uint32_t page_size, uint32_t ckpt_seq, struct wal_salt salt, uint8_t *buf, uint32_t ret_sum[2]);

/* buf: WAL_FRAME_HEADER_SIZE. sum: in and out. */
void wal_frame_encode(uint32_t pgno, uint32_t commit, struct wal_salt salt, const uint8_t *page, uint32_t page_size,
		      uint32_t sum[2], uint8_t *buf);

static inline int64_t wal_frame_offset(uint32_t frame, uint32_t page_size)
{
	return WAL_HEADER_SIZE + (int64_t)(frame - 1) * (WAL_FRAME_HEADER_SIZE + page_size);
}

struct walindex_header {
	uint32_t change; /* iChange */
	uint32_t page_size;
	uint32_t max_frame;
	uint32_t page_count;
	uint32_t frame_sum[2];
	struct wal_salt salt;
};

/* buf: WALINDEX_HEADER_SIZE: both copies, nothing backfilled, readers at max_frame through slot 1, other slots unused. */
void walindex_header_encode(const struct walindex_header *header, uint8_t *buf);

/* Either copy (48 bytes): 0 or -EBADMSG (version, isInit, checksum). */
int walindex_header_decode(const uint8_t *buf, struct walindex_header *ret);

/* Slot in aHash of block 0 where a lone page lands. */
static inline uint32_t walindex_hash(uint32_t pgno)
{
	return (pgno * 383) & 8191;
}

#define JOURNAL_MAGIC_SIZE 8
extern const uint8_t journal_magic[JOURNAL_MAGIC_SIZE];
/* Behind the path of the super-journal. */
#define JOURNAL_SUPER_TAIL_SIZE 16
/* tail: the journal's last bytes. Length of the path before it; -EBADMSG: names no super-journal. */
int journal_super_length(const uint8_t *tail, uint32_t *ret_checksum);

static inline uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void put_be32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

#endif
