#include "db/changeset.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "format/ltx.h"

/* Below this the round trip costs more than the bytes. */
#define COMPRESS_FROM_BYTES ((uint64_t)64 << 10)

#define GROWTH_UNWRITTEN_MAX 65536

struct build {
	struct changeset *cs;
	const struct changeset_source *source;
	struct page_ref *refs;
	size_t ref_count;
	uint8_t *new_page, *old_page;
	uint64_t sum; /* post-apply checksum in the making */
};

static int compare_ref(const void *a, const void *b)
{
	const struct page_ref *x = a, *y = b;

	if (x->pgno != y->pgno)
		return x->pgno < y->pgno ? -1 : 1;
	return x->frame < y->frame ? -1 : x->frame > y->frame;
}

/* SQLite writes nearly every page that it adds; LiteFS' own limit is far away. A size from nowhere is not believed. */
static int check_growth(const struct changeset *cs, uint32_t images)
{
	if (cs->new_pages > cs->old_pages && cs->new_pages - cs->old_pages > (uint64_t)images + GROWTH_UNWRITTEN_MAX)
		return -EBADMSG;
	return 0;
}

static int collect_refs(struct build *b)
{
	struct changeset *cs = b->cs;

	if (cs->new_pages == 0)
		return -EBADMSG;
	b->refs = malloc(sizeof *b->refs * (cs->ref_count + 1));
	if (!b->refs)
		return -ENOMEM;
	memcpy(b->refs, cs->refs, sizeof *b->refs * cs->ref_count);
	qsort(b->refs, cs->ref_count, sizeof *b->refs, compare_ref);
	b->ref_count = cs->ref_count;
	return check_growth(cs, cs->ref_count);
}

static int collect(struct build *b)
{
	struct changeset *cs = b->cs;
	uint32_t n = cs->last_frame - cs->first_frame + 1;
	size_t kept = 0;

	b->refs = malloc(sizeof *b->refs * n);
	if (!b->refs)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		struct vwal_frame f;
		int err = b->source->frame(b->source->ctx, cs->first_frame + i, &f, NULL);

		if (err)
			return err;
		if (f.pgno == 0 || (f.commit != 0) != (i == n - 1))
			return -EBADMSG;
		b->refs[i] = (struct page_ref){f.pgno, cs->first_frame + i};
		cs->new_pages = f.commit;
	}
	if (check_growth(cs, n) != 0)
		return -EBADMSG;
	qsort(b->refs, n, sizeof *b->refs, compare_ref);
	for (uint32_t i = 0; i < n; i++)
		if (i + 1 == n || b->refs[i + 1].pgno != b->refs[i].pgno)
			b->refs[kept++] = b->refs[i];
	b->ref_count = kept;
	return 0;
}

static int check_page1(struct build *b)
{
	struct sqlite_header header;

	if (sqlite_header_parse(b->new_page, &header) != 0 || header.page_size != b->cs->page_size ||
	    !(header.wal || b->cs->any_mode)) {
		log_error("transaction_refused",
			  "db=%s do=\"page size and journal mode of a database cannot be changed through LiteFS\"",
			  b->cs->db_name);
		return -EPROTO;
	}
	b->cs->to_wal = header.wal;
	return 0;
}

/* The page as it is before leaves the checksum, and stays for readers of the base. buf: has it then. */
static int leave_page(const struct changeset *cs, const struct changeset_source *source, uint32_t pgno, uint8_t *buf, uint64_t *sum)
{
	int err = source->old_page(source->ctx, pgno, buf);

	if (err)
		return err;
	*sum ^= ltx_page_checksum(pgno, buf, cs->page_size);
	return source->keep(source->ctx, pgno, buf);
}

/* So do pages that are cut off. */
static int cut_pages(const struct changeset *cs, const struct changeset_source *source, uint8_t *buf, uint64_t *sum)
{
	int err = 0;

	for (uint32_t pgno = cs->new_pages + 1; !err && pgno <= cs->old_pages; pgno++)
		if (pgno != ltx_lock_pgno(cs->page_size))
			err = leave_page(cs, source, pgno, buf, sum);
	return err;
}

/* frame 0: a page that was never written, of zeros. */
static int add_page(struct build *b, struct ltx_encoder *enc, uint32_t pgno, uint32_t frame)
{
	struct changeset *cs = b->cs;
	struct vwal_frame f;
	int err = 0;

	if (frame)
		err = b->source->frame(b->source->ctx, frame, &f, b->new_page);
	else
		memset(b->new_page, 0, cs->page_size);
	if (!err && pgno == 1)
		err = check_page1(b);
	if (err)
		return err;
	if (pgno <= cs->old_pages) {
		err = b->source->old_page(b->source->ctx, pgno, b->old_page);
		if (err)
			return err;
		if (memcmp(b->old_page, b->new_page, cs->page_size) == 0)
			return 0;
		b->sum ^= ltx_page_checksum(pgno, b->old_page, cs->page_size);
		err = b->source->keep(b->source->ctx, pgno, b->old_page);
		if (err)
			return err;
	}
	b->sum ^= ltx_page_checksum(pgno, b->new_page, cs->page_size);
	cs->page_count++;
	return ltx_encoder_page(enc, pgno, b->new_page);
}

static int encode_pages(struct build *b, struct ltx_encoder *enc)
{
	struct changeset *cs = b->cs;
	uint32_t lock_page = ltx_lock_pgno(cs->page_size);
	uint32_t grown = cs->old_pages + 1;
	int err = 0;

	for (size_t i = 0; !err && i < b->ref_count; i++) {
		struct page_ref ref = b->refs[i];

		if (ref.pgno > cs->new_pages)
			break;
		for (; !err && grown < ref.pgno; grown++)
			if (grown != lock_page)
				err = add_page(b, enc, grown, 0);
		if (!err && ref.pgno != lock_page)
			err = add_page(b, enc, ref.pgno, ref.frame);
		if (grown == ref.pgno)
			grown++;
	}
	for (; !err && grown <= cs->new_pages; grown++)
		if (grown != lock_page)
			err = add_page(b, enc, grown, 0);
	return err;
}

static struct ltx_header header_of(const struct changeset *cs)
{
	uint64_t images = cs->refs ? cs->ref_count : cs->last_frame - cs->first_frame + 1;
	uint64_t bytes = images * cs->page_size;

	return (struct ltx_header){
		.flags = bytes >= COMPRESS_FROM_BYTES ? LTX_FLAG_COMPRESS_LZ4 : 0,
		.page_size = cs->page_size,
		.commit = cs->new_pages,
		.min_txid = cs->before.txid + 1,
		.max_txid = cs->before.txid + 1,
		.timestamp_ms = cs->timestamp_ms,
		.pre_apply = cs->before.checksum,
		.node_id = cs->node_id,
	};
}

static int encode(struct build *b, struct spool *ltx)
{
	struct changeset *cs = b->cs;
	struct ltx_header header = header_of(cs);
	struct ltx_encoder enc;
	struct ltx_trailer trailer;
	int err = ltx_encoder_init(&enc, &header, spool_append, ltx);

	b->sum = cs->before.checksum;
	if (!err)
		err = encode_pages(b, &enc);
	if (!err)
		err = cut_pages(cs, b->source, b->old_page, &b->sum);
	cs->after = (struct pos){cs->before.txid + 1, b->sum | LTX_CHECKSUM_FLAG};
	if (!err)
		err = ltx_encoder_finish(&enc, cs->after.checksum, &trailer);
	ltx_encoder_fini(&enc);
	return err;
}

/* From the file alone and LiteFS' pages: nothing that encode() computed is believed. */
static int verify(struct build *b, const struct spool *ltx)
{
	struct changeset *cs = b->cs;
	struct spool_reader reader = {.spool = ltx};
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	uint64_t sum = cs->before.checksum;
	uint32_t pgno, pages = 0;
	int err = ltx_decoder_init(&dec, spool_reader_read, &reader), more = 0;

	if (!err && (dec.header.page_size != cs->page_size || dec.header.pre_apply != cs->before.checksum ||
		     dec.header.min_txid != cs->before.txid + 1 || dec.header.max_txid != cs->before.txid + 1 ||
		     /* LiteFS takes TXID 1 for a snapshot, whatever it has: only where there is nothing yet. */
		     (dec.header.min_txid < 2 && (!cs->refs || cs->old_pages || cs->before.checksum))))
		err = -EUCLEAN;
	while (!err && (more = ltx_decoder_page(&dec, &pgno, b->new_page)) == 1) {
		pages++;
		sum ^= ltx_page_checksum(pgno, b->new_page, cs->page_size);
		if (pgno > cs->old_pages)
			continue;
		err = b->source->old_page(b->source->ctx, pgno, b->old_page);
		if (!err)
			sum ^= ltx_page_checksum(pgno, b->old_page, cs->page_size);
	}
	if (!err && more < 0)
		err = more;
	for (uint32_t p = dec.header.commit + 1; !err && p <= cs->old_pages; p++) {
		if (p == ltx_lock_pgno(cs->page_size))
			continue;
		err = b->source->old_page(b->source->ctx, p, b->old_page);
		if (!err)
			sum ^= ltx_page_checksum(p, b->old_page, cs->page_size);
	}
	if (!err)
		err = ltx_decoder_finish(&dec, &trailer);
	if (!err && (trailer.post_apply != (sum | LTX_CHECKSUM_FLAG) || trailer.post_apply != cs->after.checksum ||
		     pages != cs->page_count))
		err = -EUCLEAN;
	ltx_decoder_fini(&dec);
	/* What the file is to blame for; an error of a reader or of the spool is its own. */
	if (err == -EBADMSG || err == -EINVAL)
		err = -EUCLEAN;
	if (err == -EUCLEAN)
		log_error("ltx_check_failed",
			  "db=%s txid=%016" PRIx64 " error=%d do=\"report this bug; the transaction was not sent\"", cs->db_name,
			  cs->after.txid, -err);
	return err;
}

int changeset_build(struct changeset *cs, const struct changeset_source *source, struct spool *ltx)
{
	struct build b = {.cs = cs, .source = source};
	int err;

	cs->page_count = 0;
	cs->to_wal = false;
	if (!cs->refs)
		cs->new_pages = 0;
	spool_reset(ltx);
	b.new_page = malloc(cs->page_size);
	b.old_page = malloc(cs->page_size);
	err = !b.new_page || !b.old_page ? -ENOMEM : cs->refs ? collect_refs(&b) : collect(&b);
	if (!err)
		err = encode(&b, ltx);
	if (!err && (cs->page_count || cs->new_pages != cs->old_pages))
		err = verify(&b, ltx);
	free(b.refs);
	free(b.new_page);
	free(b.old_page);
	return err;
}

struct adopt {
	struct changeset *cs;
	const struct changeset_source *source;
	int (*append)(void *ctx, uint32_t pgno, uint32_t commit, const void *page);
	struct ltx_decoder dec;
	uint8_t *page, *next, *old_page;
	uint64_t sum;
	uint32_t grown; /* the next page that must be there */
	const char *reason;
	bool ours; /* the error is of a callback, not of the file */
};

static int refuse(struct adopt *a, const char *reason)
{
	a->reason = reason;
	return -EBADMSG;
}

static int check_adopted_header(struct adopt *a)
{
	const struct changeset *cs = a->cs;
	const struct ltx_header *header = &a->dec.header;

	if (header->pre_apply != cs->before.checksum || header->min_txid != cs->before.txid + 1 || header->max_txid != header->min_txid)
		return refuse(a, "position");
	if (header->page_size != cs->page_size)
		return refuse(a, "page_size");
	if (header->min_txid < 2 || header->commit == 0)
		return refuse(a, "snapshot_or_drop");
	return 0;
}

/* What a callback has answered. */
static int of_ours(struct adopt *a, int err)
{
	a->ours = err != 0;
	return err;
}

static int give(struct adopt *a, uint32_t pgno, uint32_t commit)
{
	return of_ours(a, a->append(a->source->ctx, pgno, commit, a->page));
}

/* LiteFS exits on a page without a checksum: pages that are added are all there, but for the lock page. */
static int adopt_page(struct adopt *a, uint32_t pgno, const uint8_t *page)
{
	struct changeset *cs = a->cs;
	struct sqlite_header header;
	int err = 0;

	if (pgno == 1 && (sqlite_header_parse(page, &header) != 0 || header.page_size != cs->page_size || !header.wal))
		return refuse(a, "page_1");
	if (pgno <= cs->old_pages) {
		err = of_ours(a, leave_page(cs, a->source, pgno, a->old_page, &a->sum));
	} else {
		if (a->grown == ltx_lock_pgno(cs->page_size))
			a->grown++;
		if (pgno != a->grown)
			return refuse(a, "page_missing");
		a->grown++;
	}
	a->sum ^= ltx_page_checksum(pgno, page, cs->page_size);
	cs->page_count++;
	return err;
}

static int adopt_pages(struct adopt *a)
{
	struct changeset *cs = a->cs;
	uint32_t pgno, last = 0;
	int err = 0, more;

	cs->new_pages = a->dec.header.commit;
	while ((more = ltx_decoder_page(&a->dec, &pgno, a->next)) == 1) {
		uint8_t *swap = a->page;

		if (last)
			err = give(a, last, 0);
		if (!err)
			err = adopt_page(a, pgno, a->next);
		if (err)
			return err;
		a->page = a->next;
		a->next = swap;
		last = pgno;
	}
	if (more < 0)
		return more;
	if (!last)
		return refuse(a, "no_page");
	if (a->grown == ltx_lock_pgno(cs->page_size))
		a->grown++;
	if (cs->new_pages > cs->old_pages && a->grown <= cs->new_pages)
		return refuse(a, "page_missing");
	return give(a, last, cs->new_pages);
}

int changeset_adopt(struct changeset *cs, const struct changeset_source *source,
		    int (*append)(void *ctx, uint32_t pgno, uint32_t commit, const void *page), ltx_source_fn read, void *read_ctx)
{
	struct adopt a = {.cs = cs, .source = source, .append = append, .sum = cs->before.checksum, .grown = cs->old_pages + 1};
	struct ltx_trailer trailer;
	int err = ltx_decoder_init(&a.dec, read, read_ctx);

	cs->adopted = true;
	cs->page_count = 0;
	a.page = malloc(cs->page_size);
	a.next = malloc(cs->page_size);
	a.old_page = malloc(cs->page_size);
	if (!err && (!a.page || !a.next || !a.old_page))
		err = -ENOMEM;
	if (!err)
		err = check_adopted_header(&a);
	if (!err)
		err = adopt_pages(&a);
	if (!err)
		err = of_ours(&a, cut_pages(cs, source, a.old_page, &a.sum));
	if (!err)
		err = ltx_decoder_finish(&a.dec, &trailer);
	if (!err && trailer.post_apply != (a.sum | LTX_CHECKSUM_FLAG))
		err = refuse(&a, "checksum");
	cs->after = (struct pos){cs->before.txid + 1, a.sum | LTX_CHECKSUM_FLAG};
	cs->node_id = a.dec.header.node_id;
	cs->timestamp_ms = a.dec.header.timestamp_ms;
	ltx_decoder_fini(&a.dec);
	free(a.page);
	free(a.next);
	free(a.old_page);
	if (a.ours && err == -EBADMSG)
		err = -EIO;
	if (!a.ours && (err == -EBADMSG || err == -EINVAL)) {
		err = -EBADMSG;
		log_error("foreign_transaction_refused",
			  "db=%s txid=%016" PRIx64 " reason=%s do=\"nothing was changed; look at the node that it came from\"", cs->db_name,
			  cs->after.txid, a.reason ? a.reason : "format");
	}
	return err;
}
