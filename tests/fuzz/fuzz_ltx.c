/*
 * The LTX decoder. Byte 0: 1 gives the file the checksum that it should have, so that more than its rejection is reached;
 * 2 feeds it in pieces. What it accepts says the same again when it is encoded and decoded once more.
 */
#include <endian.h>
#include <errno.h>

#include "base/spool.h"
#include "format/crc64.h"
#include "format/ltx.h"
#include "fuzz.h"

struct source {
	const uint8_t *data;
	size_t left, piece;
};

static ptrdiff_t give(void *ctx, void *buf, size_t len)
{
	struct source *s = ctx;

	if (len > s->piece)
		len = s->piece;
	if (len > s->left)
		len = s->left;
	memcpy(buf, s->data, len);
	s->data += len;
	s->left -= len;
	return (ptrdiff_t)len;
}

/* 0 where it is a whole file; its contents into enc unless that is NULL. */
static int decode(const uint8_t *data, size_t size, size_t piece, struct ltx_header *ret, struct ltx_trailer *ret_trailer,
		  struct ltx_encoder *enc, struct spool *out)
{
	static uint8_t page[65536];
	struct source source = {data, size, piece};
	struct ltx_decoder dec;
	uint32_t pgno, last = 0, pages = 0;
	int err = ltx_decoder_init(&dec, give, &source), more = 0;

	if (!err) {
		*ret = dec.header;
		MUST(ltx_header_check(&dec.header) == 0);
	}
	if (!err && enc)
		err = ltx_encoder_init(enc, ret, spool_append, out);
	while (!err && (more = ltx_decoder_page(&dec, &pgno, page)) == 1) {
		MUST(pgno > last && pgno <= dec.header.commit && pgno != ltx_lock_pgno(dec.header.page_size));
		last = pgno;
		pages++;
		if (enc)
			err = ltx_encoder_page(enc, pgno, page);
	}
	if (!err && more < 0)
		err = more;
	if (!err)
		err = ltx_decoder_finish(&dec, ret_trailer);
	if (!err)
		MUST(pages == dec.pages && source.left == 0);
	if (!err && enc)
		err = ltx_encoder_finish(enc, ret_trailer->post_apply, ret_trailer);
	ltx_decoder_fini(&dec);
	return err;
}

static void again(const uint8_t *data, size_t size, const struct ltx_header *header, const struct ltx_trailer *trailer)
{
	struct ltx_encoder enc = {0};
	struct ltx_header h;
	struct ltx_trailer t;
	struct spool out;
	uint8_t *copy;

	spool_init(&out, "/nonexistent", (size_t)64 << 20);
	MUST(decode(data, size, SIZE_MAX, &h, &t, &enc, &out) == 0);
	MUST(t.post_apply == trailer->post_apply && t.file_checksum == trailer->file_checksum);
	copy = malloc(out.size);
	MUST(copy && spool_read(&out, 0, copy, out.size) == (ptrdiff_t)out.size);
	MUST(decode(copy, out.size, SIZE_MAX, &h, &t, NULL, NULL) == 0);
	MUST(h.commit == header->commit && h.max_txid == header->max_txid && t.file_checksum == trailer->file_checksum);
	free(copy);
	ltx_encoder_fini(&enc);
	spool_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ltx_header header;
	struct ltx_trailer trailer;
	uint8_t *file;
	int err;

	if (size < 1)
		return 0;
	file = malloc(size);
	MUST(file);
	memcpy(file, data + 1, size - 1);
	if ((data[0] & 1) && size - 1 >= LTX_HEADER_SIZE + LTX_TRAILER_SIZE) {
		uint64_t sum = htobe64(crc64_iso(0, file, size - 9) | LTX_CHECKSUM_FLAG);

		memcpy(file + size - 9, &sum, sizeof sum);
	}
	err = decode(file, size - 1, data[0] & 2 ? 7 : SIZE_MAX, &header, &trailer, NULL, NULL);
	MUST(err == 0 || err == -EBADMSG);
	if (!err)
		again(file, size - 1, &header, &trailer);
	free(file);
	return 0;
}
