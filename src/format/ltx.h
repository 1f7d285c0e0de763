/*
 * ltx: LiteFS' transaction file, as LiteFS v0.5.14 (superfly/ltx v0.3.14) reads and writes it.
 *
 *   header   100 bytes, big-endian
 *     0 "LTX1"   4 flags (1 = LZ4 frame over the page block)   8 page size   12 commit (pages after)
 *    16 min TXID   24 max TXID   32 timestamp ms (signed)   40 pre-apply checksum
 *    48 WAL offset (signed)   56 WAL size (signed)   64 WAL salts 2 x u32   72 node id   80 zero x 20
 *   page block: per page, ascending: pgno u32, page bytes; then u32 0
 *   trailer  16 bytes: post-apply checksum u64, file checksum u64
 *
 * Compressed, the page block with its final zero is one LZ4 frame (independent
 * blocks of at most 64 KiB, content checksum); header and trailer stay plain.
 * The file checksum is CRC-64/ISO over everything before it, the page block in
 * its uncompressed form, with bit 63 set. It refuses to know databases, HTTP
 * and files: bytes come from and go to callbacks.
 *
 * Ownership: borrows everything. Threads: one encoder or decoder, one thread.
 * Errors: -EINVAL what the format forbids (encoder: a caller's bug); -EBADMSG a
 * malformed file (decoder); -ENOMEM; what a callback returned. After an error
 * only *_fini may be called.
 */
#ifndef LITEFWD_FORMAT_LTX_H
#define LITEFWD_FORMAT_LTX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LTX_HEADER_SIZE 100
#define LTX_TRAILER_SIZE 16
#define LTX_PAGE_HEADER_SIZE 4
#define LTX_FLAG_COMPRESS_LZ4 UINT32_C(1)
#define LTX_CHECKSUM_FLAG (UINT64_C(1) << 63)

struct ltx_header {
	uint32_t flags;
	uint32_t page_size; /* power of two, 512..65536 */
	uint32_t commit; /* database size in pages after the transaction; 0: dropped */
	uint64_t min_txid;
	uint64_t max_txid;
	int64_t timestamp_ms;
	uint64_t pre_apply; /* 0 for a snapshot (min_txid 1), else bit 63 set */
	int64_t wal_offset;
	int64_t wal_size;
	uint32_t wal_salt[2];
	uint64_t node_id;
};

struct ltx_trailer {
	uint64_t post_apply;
	uint64_t file_checksum;
};

/* The page that SQLite never writes: where its lock bytes lie. */
static inline uint32_t ltx_lock_pgno(uint32_t page_size)
{
	return UINT32_C(0x40000000) / page_size + 1;
}

/* CRC-64/ISO over pgno (big-endian u32) and the page, bit 63 set. */
uint64_t ltx_page_checksum(uint32_t pgno, const void *page, uint32_t page_size);

/* True if pgno may be sent after last_pgno (0: as the first) in a file with this header. */
bool ltx_pgno_fits(const struct ltx_header *header, uint32_t last_pgno, uint32_t pgno);

/* True if the page block may end after last_pgno (0: without a page): a snapshot needs every page. */
bool ltx_block_complete(const struct ltx_header *header, uint32_t last_pgno);

/* What a snapshot's or a drop's pages demand, whatever a database file says; true for other files. */
bool ltx_post_apply_fits(const struct ltx_header *header, uint64_t pages_xor, uint64_t post_apply);

/* 0 or -EINVAL: what LiteFS' own Header.Validate and our stricter rules demand. */
int ltx_header_check(const struct ltx_header *header);

/* buf: LTX_HEADER_SIZE bytes. decode checks magic and header: 0 or -EBADMSG. */
void ltx_header_encode(const struct ltx_header *header, uint8_t *buf);
int ltx_header_decode(const uint8_t *buf, struct ltx_header *ret);

/* ---- encoder ---- */

/* Takes all of data or fails with a negative errno. */
typedef int (*ltx_sink_fn)(void *ctx, const void *data, size_t len);

struct ltx_encoder {
	struct ltx_header header;
	ltx_sink_fn sink;
	void *ctx;
	uint64_t crc;
	uint64_t pages_xor; /* of the page checksums: a snapshot's post-apply checksum */
	uint32_t last_pgno;
	uint32_t pages;
	uint64_t bytes; /* given to the sink so far */
	void *lz4; /* LZ4F context; NULL when not compressing */
	uint8_t *lz4_buf;
	size_t lz4_cap;
};

/* Checks and writes the header. */
int ltx_encoder_init(struct ltx_encoder *enc, const struct ltx_header *header, ltx_sink_fn sink, void *ctx);

/* pgno: ascending, 1..commit, never the lock page (-EINVAL). A snapshot needs every page. */
int ltx_encoder_page(struct ltx_encoder *enc, uint32_t pgno, const void *page);

/*
 * post_apply: bit 63 set; of a snapshot or a drop it must be what follows from
 * its pages (-EINVAL). Writes the end of the page block and the trailer.
 */
int ltx_encoder_finish(struct ltx_encoder *enc, uint64_t post_apply, struct ltx_trailer *ret);

/* Frees; after init succeeded or failed; twice is harmless. */
void ltx_encoder_fini(struct ltx_encoder *enc);

/* ---- decoder ---- */

/* Up to len bytes; 0 at the end; or a negative errno. */
typedef ptrdiff_t (*ltx_source_fn)(void *ctx, void *buf, size_t len);

struct ltx_decoder {
	struct ltx_header header;
	ltx_source_fn source;
	void *ctx;
	uint64_t crc;
	uint64_t pages_xor;
	uint32_t last_pgno;
	uint32_t pages;
	bool page_block_ended;
	void *lz4; /* NULL when not compressed */
	uint8_t *in_buf; /* what the source gave and was not consumed yet */
	size_t in_len, in_pos, in_cap;
};

int ltx_decoder_init(struct ltx_decoder *dec, ltx_source_fn source, void *ctx);

/*
 * The next page into page (header.page_size bytes) and *ret_pgno.
 * 1: a page; 0: the page block has ended; negative: error.
 * Order, range, lock page and a snapshot's completeness are checked.
 */
int ltx_decoder_page(struct ltx_decoder *dec, uint32_t *ret_pgno, void *page);

/*
 * After ltx_decoder_page() returned 0 (-EINVAL before): trailer read, both
 * checksums' bit 63, the file checksum and a snapshot's or drop's post-apply
 * checksum verified; nothing may follow.
 */
int ltx_decoder_finish(struct ltx_decoder *dec, struct ltx_trailer *ret);

void ltx_decoder_fini(struct ltx_decoder *dec);

#endif
