/*
 * ltxtool: LTX files seen with our decoder and written by our encoder, for tests.
 *
 *	ltxtool verify FILE...          one line per file, key=value; exit 1 if one is malformed
 *	ltxtool reencode [-z] IN OUT    the same header and pages, written by us; -z: compressed
 *
 * "pages_xor" is the XOR of the checksums of all pages in the file.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/ltx.h"

static ptrdiff_t read_file(void *ctx, void *buf, size_t len)
{
	size_t n = fread(buf, 1, len, ctx);

	return n == 0 && ferror((FILE *)ctx) ? -EIO : (ptrdiff_t)n;
}

static int write_file(void *ctx, const void *data, size_t len)
{
	return fwrite(data, 1, len, ctx) == len ? 0 : -EIO;
}

struct seen {
	struct ltx_header header;
	struct ltx_trailer trailer;
	uint32_t pages, first_pgno, last_pgno;
	uint64_t pages_xor;
};

/* Decodes everything; enc (may be NULL) gets the pages. */
static int decode(struct ltx_decoder *dec, struct ltx_encoder *enc, struct seen *ret)
{
	static uint8_t page[65536];
	uint32_t pgno;
	int more;

	ret->header = dec->header;
	while ((more = ltx_decoder_page(dec, &pgno, page)) > 0) {
		int err = enc ? ltx_encoder_page(enc, pgno, page) : 0;

		if (err)
			return err;
		if (ret->pages++ == 0)
			ret->first_pgno = pgno;
		ret->last_pgno = pgno;
		ret->pages_xor ^= ltx_page_checksum(pgno, page, dec->header.page_size);
	}
	return more ? more : ltx_decoder_finish(dec, &ret->trailer);
}

static void print(const char *name, const struct seen *s)
{
	const struct ltx_header *h = &s->header;

	printf("file=%s flags=%" PRIu32 " page_size=%" PRIu32 " commit=%" PRIu32, name, h->flags, h->page_size, h->commit);
	printf(" min_txid=%016" PRIx64 " max_txid=%016" PRIx64 " timestamp_ms=%" PRId64, h->min_txid, h->max_txid,
	       h->timestamp_ms);
	printf(" pre_apply=%016" PRIx64 " wal_offset=%" PRId64 " wal_size=%" PRId64 " wal_salt=%08" PRIx32 "%08" PRIx32,
	       h->pre_apply, h->wal_offset, h->wal_size, h->wal_salt[0], h->wal_salt[1]);
	printf(" node_id=%016" PRIx64 " pages=%" PRIu32 " first_pgno=%" PRIu32 " last_pgno=%" PRIu32, h->node_id, s->pages,
	       s->first_pgno, s->last_pgno);
	printf(" pages_xor=%016" PRIx64 " post_apply=%016" PRIx64 " file_checksum=%016" PRIx64 "\n", s->pages_xor,
	       s->trailer.post_apply, s->trailer.file_checksum);
}

static int complain(const char *name, int err)
{
	fprintf(stderr, "ltxtool: %s: %s\n", name, strerror(-err));
	return 1;
}

static int verify(const char *name)
{
	FILE *in = fopen(name, "rb");
	struct ltx_decoder dec;
	struct seen seen = {0};
	int err;

	if (!in)
		return complain(name, -errno);
	err = ltx_decoder_init(&dec, read_file, in);
	if (!err)
		err = decode(&dec, NULL, &seen);
	ltx_decoder_fini(&dec);
	fclose(in);
	if (err)
		return complain(name, err);
	print(name, &seen);
	return 0;
}

static int reencode_streams(FILE *in, FILE *out, uint32_t flags)
{
	struct ltx_decoder dec;
	struct ltx_encoder enc;
	struct ltx_header header;
	struct ltx_trailer trailer;
	struct seen seen = {0};
	int err = ltx_decoder_init(&dec, read_file, in);

	if (!err) {
		header = dec.header;
		header.flags = flags;
		err = ltx_encoder_init(&enc, &header, write_file, out);
		if (!err)
			err = decode(&dec, &enc, &seen);
		if (!err)
			err = ltx_encoder_finish(&enc, seen.trailer.post_apply, &trailer);
		ltx_encoder_fini(&enc);
	}
	ltx_decoder_fini(&dec);
	return err;
}

static int reencode(const char *in_name, const char *out_name, uint32_t flags)
{
	FILE *in = fopen(in_name, "rb"), *out;
	int err;

	if (!in)
		return complain(in_name, -errno);
	out = fopen(out_name, "wb");
	if (!out) {
		err = -errno;
		fclose(in);
		return complain(out_name, err);
	}
	err = reencode_streams(in, out, flags);
	if (fclose(out) && !err)
		err = -errno;
	fclose(in);
	return err ? complain(in_name, err) : 0;
}

int main(int argc, char **argv)
{
	int bad = 0;

	if (argc >= 3 && !strcmp(argv[1], "verify")) {
		for (int i = 2; i < argc; i++)
			bad |= verify(argv[i]);
		return bad;
	}
	if (argc == 4 && !strcmp(argv[1], "reencode"))
		return reencode(argv[2], argv[3], 0);
	if (argc == 5 && !strcmp(argv[1], "reencode") && !strcmp(argv[2], "-z"))
		return reencode(argv[3], argv[4], LTX_FLAG_COMPRESS_LZ4);
	fprintf(stderr, "usage: ltxtool verify FILE... | ltxtool reencode [-z] IN OUT\n");
	return 2;
}
