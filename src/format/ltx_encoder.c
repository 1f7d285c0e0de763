/*
 * Everything goes through content(): checksummed as it is, then to the sink or
 * through LZ4. The trailer's last eight bytes and the header are the exceptions:
 * the former is the checksum, the latter is never compressed.
 *
 * The LZ4 frame is made as LiteFS' own library makes it by default, for that
 * library has to read it: blocks that do not refer to each other, a content checksum.
 */
#include "format/ltx.h"

#include <endian.h>
#include <errno.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>

#include "format/crc64.h"

#define CHUNK_MAX 65536 /* what one LZ4F_compressUpdate() is given at most: the largest page */

static const LZ4F_preferences_t lz4_prefs = {
	.frameInfo = {
		.blockSizeID = LZ4F_max64KB,
		.blockMode = LZ4F_blockIndependent,
		.contentChecksumFlag = LZ4F_contentChecksumEnabled,
	},
};

static int emit(struct ltx_encoder *enc, const void *data, size_t len)
{
	int err;

	if (len == 0)
		return 0;
	err = enc->sink(enc->ctx, data, len);
	if (!err)
		enc->bytes += len;
	return err;
}

/* What an LZ4F call left in lz4_buf. */
static int emit_lz4(struct ltx_encoder *enc, size_t len)
{
	return LZ4F_isError(len) ? -ENOMEM : emit(enc, enc->lz4_buf, len);
}

static int content(struct ltx_encoder *enc, const void *data, size_t len)
{
	enc->crc = crc64_iso(enc->crc, data, len);
	if (!enc->lz4)
		return emit(enc, data, len);
	return emit_lz4(enc, LZ4F_compressUpdate(enc->lz4, enc->lz4_buf, enc->lz4_cap, data, len, NULL));
}

static int lz4_begin(struct ltx_encoder *enc)
{
	LZ4F_cctx *cctx;

	if (LZ4F_isError(LZ4F_createCompressionContext(&cctx, LZ4F_VERSION)))
		return -ENOMEM;
	enc->lz4 = cctx;
	enc->lz4_cap = LZ4F_compressBound(CHUNK_MAX, &lz4_prefs);
	if (enc->lz4_cap < LZ4F_HEADER_SIZE_MAX)
		enc->lz4_cap = LZ4F_HEADER_SIZE_MAX;
	enc->lz4_buf = malloc(enc->lz4_cap);
	if (!enc->lz4_buf)
		return -ENOMEM;
	return emit_lz4(enc, LZ4F_compressBegin(cctx, enc->lz4_buf, enc->lz4_cap, &lz4_prefs));
}

int ltx_encoder_init(struct ltx_encoder *enc, const struct ltx_header *header, ltx_sink_fn sink, void *ctx)
{
	uint8_t buf[LTX_HEADER_SIZE];
	int err;

	*enc = (struct ltx_encoder){.header = *header, .sink = sink, .ctx = ctx};
	err = ltx_header_check(header);
	if (err)
		return err;
	ltx_header_encode(header, buf);
	enc->crc = crc64_iso(0, buf, sizeof buf);
	err = emit(enc, buf, sizeof buf);
	if (!err && header->flags & LTX_FLAG_COMPRESS_LZ4)
		err = lz4_begin(enc);
	return err;
}

int ltx_encoder_page(struct ltx_encoder *enc, uint32_t pgno, const void *page)
{
	uint32_t be = htobe32(pgno);
	int err;

	if (!ltx_pgno_fits(&enc->header, enc->last_pgno, pgno))
		return -EINVAL;
	err = content(enc, &be, sizeof be);
	if (!err)
		err = content(enc, page, enc->header.page_size);
	if (err)
		return err;
	if (enc->header.min_txid == 1)
		enc->pages_xor ^= ltx_page_checksum(pgno, page, enc->header.page_size);
	enc->last_pgno = pgno;
	enc->pages++;
	return 0;
}

/* The zero page number, and the end of the LZ4 frame. */
static int end_page_block(struct ltx_encoder *enc)
{
	const uint32_t zero = 0;
	int err = content(enc, &zero, sizeof zero);

	if (!err && enc->lz4)
		err = emit_lz4(enc, LZ4F_compressEnd(enc->lz4, enc->lz4_buf, enc->lz4_cap, NULL));
	return err;
}

int ltx_encoder_finish(struct ltx_encoder *enc, uint64_t post_apply, struct ltx_trailer *ret)
{
	uint64_t be[2] = {htobe64(post_apply), 0};
	uint64_t file_checksum;
	int err;

	if (!(post_apply & LTX_CHECKSUM_FLAG) || !ltx_block_complete(&enc->header, enc->last_pgno) ||
	    !ltx_post_apply_fits(&enc->header, enc->pages_xor, post_apply))
		return -EINVAL;
	err = end_page_block(enc);
	if (err)
		return err;
	enc->crc = crc64_iso(enc->crc, be, sizeof be[0]);
	file_checksum = enc->crc | LTX_CHECKSUM_FLAG;
	be[1] = htobe64(file_checksum);
	err = emit(enc, be, sizeof be);
	if (!err)
		*ret = (struct ltx_trailer){.post_apply = post_apply, .file_checksum = file_checksum};
	return err;
}

void ltx_encoder_fini(struct ltx_encoder *enc)
{
	if (enc->lz4)
		LZ4F_freeCompressionContext(enc->lz4);
	free(enc->lz4_buf);
	enc->lz4 = NULL;
	enc->lz4_buf = NULL;
}
