/*
 * Three layers, each pulling from the one below:
 *
 *	content()   page numbers and pages, checksummed; decompressed when the file says so
 *	raw()       bytes of the file, exactly as many as asked for
 *	source      whatever it likes to give, down to one byte at a time
 *
 * The frame's end must be where the page block's end is, for the trailer behind
 * it is not compressed; so the frame is read to its own end, and not one byte further.
 */
#include "format/ltx.h"

#include <endian.h>
#include <errno.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>

#include "format/crc64.h"

#define IN_CAP 32768

struct frame {
	LZ4F_dctx *dctx;
	bool ended; /* a second frame, or one behind a skippable one, is malformed */
};

/* Reads more; in_len grows. -EBADMSG at the end of the file: every caller needs at least one more byte. */
static int fill(struct ltx_decoder *dec)
{
	ptrdiff_t n;

	if (dec->in_pos == dec->in_len)
		dec->in_pos = dec->in_len = 0;
	n = dec->source(dec->ctx, dec->in_buf + dec->in_len, dec->in_cap - dec->in_len);
	if (n < 0)
		return (int)n;
	if (n == 0)
		return -EBADMSG;
	if ((size_t)n > dec->in_cap - dec->in_len)
		return -EINVAL;
	dec->in_len += (size_t)n;
	return 0;
}

static int raw(struct ltx_decoder *dec, uint8_t *buf, size_t len)
{
	while (len) {
		size_t have = dec->in_len - dec->in_pos;

		if (have == 0) {
			int err = fill(dec);

			if (err)
				return err;
			continue;
		}
		if (have > len)
			have = len;
		memcpy(buf, dec->in_buf + dec->in_pos, have);
		dec->in_pos += have;
		buf += have;
		len -= have;
	}
	return 0;
}

/* Up to *len decompressed bytes, as many as one step gives; 0 only at the frame's end or when more input was read. */
static int frame_step(struct ltx_decoder *dec, struct frame *frame, uint8_t *buf, size_t *len)
{
	size_t used, hint;
	int err = dec->in_pos == dec->in_len ? fill(dec) : 0;

	if (err)
		return err;
	used = dec->in_len - dec->in_pos;
	hint = LZ4F_decompress(frame->dctx, buf, len, dec->in_buf + dec->in_pos, &used, NULL);
	if (LZ4F_isError(hint))
		return -EBADMSG;
	dec->in_pos += used;
	frame->ended = hint == 0;
	if (!frame->ended && used == 0 && *len == 0)
		return -EBADMSG; /* neither takes nor gives: would loop for ever */
	return 0;
}

static int frame_read(struct ltx_decoder *dec, struct frame *frame, uint8_t *buf, size_t len)
{
	while (len) {
		size_t n = len;
		int err = frame->ended ? -EBADMSG : frame_step(dec, frame, buf, &n);

		if (err)
			return err;
		buf += n;
		len -= n;
	}
	return 0;
}

/* Content behind the final zero page number is malformed. */
static int frame_end(struct ltx_decoder *dec, struct frame *frame)
{
	while (!frame->ended) {
		uint8_t extra;
		size_t n = sizeof extra;
		int err = frame_step(dec, frame, &extra, &n);

		if (err)
			return err;
		if (n)
			return -EBADMSG;
	}
	return 0;
}

static int content(struct ltx_decoder *dec, void *buf, size_t len)
{
	int err = dec->lz4 ? frame_read(dec, dec->lz4, buf, len) : raw(dec, buf, len);

	if (!err)
		dec->crc = crc64_iso(dec->crc, buf, len);
	return err;
}

static int frame_new(struct ltx_decoder *dec)
{
	struct frame *frame = calloc(1, sizeof *frame);

	if (!frame)
		return -ENOMEM;
	dec->lz4 = frame;
	return LZ4F_isError(LZ4F_createDecompressionContext(&frame->dctx, LZ4F_VERSION)) ? -ENOMEM : 0;
}

int ltx_decoder_init(struct ltx_decoder *dec, ltx_source_fn source, void *ctx)
{
	uint8_t buf[LTX_HEADER_SIZE];
	int err;

	*dec = (struct ltx_decoder){.source = source, .ctx = ctx, .in_cap = IN_CAP};
	dec->in_buf = malloc(dec->in_cap);
	if (!dec->in_buf)
		return -ENOMEM;
	err = content(dec, buf, sizeof buf);
	if (!err)
		err = ltx_header_decode(buf, &dec->header);
	if (!err && dec->header.flags & LTX_FLAG_COMPRESS_LZ4)
		err = frame_new(dec);
	return err;
}

static int end_page_block(struct ltx_decoder *dec)
{
	int err;

	if (!ltx_block_complete(&dec->header, dec->last_pgno))
		return -EBADMSG;
	err = dec->lz4 ? frame_end(dec, dec->lz4) : 0;
	if (!err)
		dec->page_block_ended = true;
	return err;
}

int ltx_decoder_page(struct ltx_decoder *dec, uint32_t *ret_pgno, void *page)
{
	uint32_t pgno;
	int err;

	if (dec->page_block_ended)
		return 0;
	err = content(dec, &pgno, sizeof pgno);
	if (err)
		return err;
	pgno = be32toh(pgno);
	if (pgno == 0)
		return end_page_block(dec);
	if (!ltx_pgno_fits(&dec->header, dec->last_pgno, pgno))
		return -EBADMSG;
	err = content(dec, page, dec->header.page_size);
	if (err)
		return err;
	if (dec->header.min_txid == 1)
		dec->pages_xor ^= ltx_page_checksum(pgno, page, dec->header.page_size);
	dec->last_pgno = pgno;
	dec->pages++;
	*ret_pgno = pgno;
	return 1;
}

/* 0 if the source has ended too. */
static int nothing_follows(struct ltx_decoder *dec)
{
	ptrdiff_t n;

	if (dec->in_pos < dec->in_len)
		return -EBADMSG;
	n = dec->source(dec->ctx, dec->in_buf, 1);
	return n > 0 ? -EBADMSG : (int)n;
}

int ltx_decoder_finish(struct ltx_decoder *dec, struct ltx_trailer *ret)
{
	uint64_t be[2];
	uint8_t buf[LTX_TRAILER_SIZE];
	struct ltx_trailer trailer;
	int err;

	if (!dec->page_block_ended)
		return -EINVAL;
	err = raw(dec, buf, sizeof buf);
	if (!err)
		err = nothing_follows(dec);
	if (err)
		return err;
	memcpy(be, buf, sizeof be);
	trailer = (struct ltx_trailer){.post_apply = be64toh(be[0]), .file_checksum = be64toh(be[1])};
	dec->crc = crc64_iso(dec->crc, buf, sizeof be[0]);
	if (trailer.file_checksum != (dec->crc | LTX_CHECKSUM_FLAG) || !(trailer.post_apply & LTX_CHECKSUM_FLAG) ||
	    !ltx_post_apply_fits(&dec->header, dec->pages_xor, trailer.post_apply))
		return -EBADMSG;
	*ret = trailer;
	return 0;
}

void ltx_decoder_fini(struct ltx_decoder *dec)
{
	struct frame *frame = dec->lz4;

	if (frame) {
		LZ4F_freeDecompressionContext(frame->dctx);
		free(frame);
	}
	free(dec->in_buf);
	dec->lz4 = NULL;
	dec->in_buf = NULL;
}
