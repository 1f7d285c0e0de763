/* changeset: every transaction it builds is decoded, applied to an array of pages and its checksum computed anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <stdbool.h>

#include "base/log.h"
#include "db/changeset.h"
#include "format/crc64.h"
#include "format/ltx.h"
#include "format/sqlite_format.h"

#define MAX_FRAMES 400
#define NODE UINT64_C(0x1122334455667788)

struct frame {
	uint32_t pgno, commit;
	uint8_t *page;
};

/*
 * A database as an array of the pages base + 1 .. base + count. With base 0 it is a whole one;
 * with another, pages 1..base are all zero and never looked at, so that the lock page of a
 * database of 1 GiB is within reach.
 */
struct model {
	uint32_t page_size;
	uint32_t base, size; /* size: pages of the database */
	uint8_t *pages; /* of base + 1 .. base + room */
	uint32_t room;
};

struct ctx {
	uint32_t rnd;
	struct model db;
	struct frame frames[MAX_FRAMES];
	uint32_t frame_count;
	struct changeset cs;
	struct changeset_source source;
	struct spool ltx;
	/* what keep() was given */
	struct model kept;
	uint8_t *has_kept;
	unsigned keeps;
	/* faults */
	int fail_frame, fail_old, fail_keep; /* the n-th call fails; 0: none */
	int lie_old; /* the n-th call answers another page */
	unsigned frame_calls, old_calls, keep_calls;
};

static uint32_t rnd(struct ctx *c, uint32_t below)
{
	c->rnd = c->rnd * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)(c->rnd >> 4) * below) >> 28);
}

static uint8_t *page_of(const struct model *m, uint32_t pgno)
{
	assert_true(pgno > m->base && pgno - m->base <= m->room);
	return m->pages + (size_t)(pgno - m->base - 1) * m->page_size;
}

static void fill(struct ctx *c, uint8_t *page, uint32_t page_size)
{
	uint32_t v = rnd(c, UINT32_C(1) << 28);

	for (uint32_t i = 0; i < page_size; i += 4, v = v * 1664525 + 1013904223)
		memcpy(page + i, &v, 4);
}

static void fill_page1(struct ctx *c, uint8_t *page, uint32_t page_size)
{
	fill(c, page, page_size);
	memcpy(page, "SQLite format 3", 16);
	page[16] = page_size == 65536 ? 0 : (uint8_t)(page_size >> 8);
	page[17] = page_size == 65536 ? 1 : 0;
	page[18] = page[19] = 2;
}

static uint64_t checksum_of(const struct model *m)
{
	uint64_t sum = 0;

	for (uint32_t p = m->base + 1; p <= m->size; p++)
		if (p != UINT32_C(0x40000000) / m->page_size + 1)
			sum ^= ltx_page_checksum(p, page_of(m, p), m->page_size);
	return sum | UINT64_C(1) << 63;
}

static int source_frame(void *arg, uint32_t frame, struct vwal_frame *ret, void *page)
{
	struct ctx *c = arg;

	if (c->fail_frame && ++c->frame_calls == (unsigned)c->fail_frame)
		return -EBADMSG;
	assert_in_range(frame, c->cs.first_frame, c->cs.last_frame);
	ret->pgno = c->frames[frame - c->cs.first_frame].pgno;
	ret->commit = c->frames[frame - c->cs.first_frame].commit;
	if (page)
		memcpy(page, c->frames[frame - c->cs.first_frame].page, c->db.page_size);
	return 0;
}

static int source_old(void *arg, uint32_t pgno, void *page)
{
	struct ctx *c = arg;

	c->old_calls++;
	if (c->fail_old && c->old_calls == (unsigned)c->fail_old)
		return -EIO;
	assert_in_range(pgno, c->db.base + 1, c->db.size);
	assert_int_not_equal(pgno, UINT32_C(0x40000000) / c->db.page_size + 1);
	memcpy(page, page_of(&c->db, pgno), c->db.page_size);
	if (c->lie_old && c->old_calls == (unsigned)c->lie_old)
		((uint8_t *)page)[c->db.page_size - 1] ^= 1;
	return 0;
}

static int source_keep(void *arg, uint32_t pgno, const void *page)
{
	struct ctx *c = arg;

	if (c->fail_keep && ++c->keep_calls == (unsigned)c->fail_keep)
		return -ENOSPC;
	assert_in_range(pgno, c->db.base + 1, c->db.size);
	assert_false(c->has_kept[pgno - c->db.base]); /* once each */
	c->has_kept[pgno - c->db.base] = 1;
	memcpy(page_of(&c->kept, pgno), page, c->db.page_size);
	c->keeps++;
	return 0;
}

static void make(struct ctx *c, uint32_t page_size, uint32_t base, uint32_t pages, uint32_t room)
{
	c->db = (struct model){.page_size = page_size, .base = base, .size = base + pages, .room = room};
	c->db.pages = calloc(room, page_size);
	c->kept = c->db;
	c->kept.pages = calloc(room, page_size);
	c->has_kept = calloc(1, room + 1);
	for (uint32_t p = base + 1; p <= c->db.size; p++)
		if (p == 1)
			fill_page1(c, page_of(&c->db, p), page_size);
		else if (p != ltx_lock_pgno(page_size))
			fill(c, page_of(&c->db, p), page_size);
	c->cs = (struct changeset){.db_name = "t.db",
				   .page_size = page_size,
				   .first_frame = 2 + rnd(c, 1000),
				   .old_pages = c->db.size,
				   .before = {2 + rnd(c, 100000), checksum_of(&c->db)},
				   .node_id = NODE,
				   .timestamp_ms = 1700000000123};
	c->cs.last_frame = c->cs.first_frame - 1;
}

static void unmake(struct ctx *c)
{
	for (uint32_t i = 0; i < c->frame_count; i++)
		free(c->frames[i].page);
	c->frame_count = 0;
	free(c->db.pages);
	free(c->kept.pages);
	free(c->has_kept);
	c->db.pages = c->kept.pages = c->has_kept = NULL;
	c->keeps = 0;
	c->fail_frame = c->fail_old = c->fail_keep = c->lie_old = 0;
	c->frame_calls = c->old_calls = c->keep_calls = 0;
}

/* The page is given to it to be filled. */
static uint8_t *add_frame(struct ctx *c, uint32_t pgno, uint32_t commit)
{
	struct frame *f = &c->frames[c->frame_count++];

	assert_in_range(c->frame_count, 1, MAX_FRAMES);
	*f = (struct frame){pgno, commit, calloc(1, c->db.page_size)};
	if (pgno == 1)
		fill_page1(c, f->page, c->db.page_size);
	else
		fill(c, f->page, c->db.page_size);
	c->cs.last_frame++;
	return f->page;
}

static void same_frame(struct ctx *c, uint32_t pgno, uint32_t commit)
{
	memcpy(add_frame(c, pgno, commit), page_of(&c->db, pgno), c->db.page_size);
}

static int build(struct ctx *c)
{
	return changeset_build(&c->cs, &c->source, &c->ltx);
}

/* What SQLite means by the frames: the array after them, pages never written being zero. */
static struct model expected_of(struct ctx *c)
{
	struct model m = c->db;
	uint32_t size = c->frames[c->frame_count - 1].commit;

	m.pages = calloc(m.room, m.page_size);
	for (uint32_t p = m.base + 1; p <= (size < m.size ? size : m.size); p++)
		memcpy(page_of(&m, p), page_of(&c->db, p), m.page_size);
	m.size = size;
	for (uint32_t i = 0; i < c->frame_count; i++)
		if (c->frames[i].pgno <= size)
			memcpy(page_of(&m, c->frames[i].pgno), c->frames[i].page, m.page_size);
	/* Of SQLite's own and LiteFS' nobody writes there. */
	if (ltx_lock_pgno(m.page_size) > m.base && ltx_lock_pgno(m.page_size) <= size)
		memset(page_of(&m, ltx_lock_pgno(m.page_size)), 0, m.page_size);
	return m;
}

/* Decodes and applies the file to db; then db must be what SQLite means, in content, size and checksum. */
static void apply_and_compare(struct ctx *c)
{
	struct model want = expected_of(c);
	struct spool_reader r = {.spool = &c->ltx};
	struct ltx_decoder dec;
	struct ltx_trailer trailer;
	uint8_t *page = malloc(c->db.page_size);
	uint32_t pgno, count = 0, old_size = c->db.size, lock = ltx_lock_pgno(c->db.page_size);
	struct model old = c->db;
	int more;

	old.pages = malloc((size_t)old.room * old.page_size);
	memcpy(old.pages, c->db.pages, (size_t)old.room * old.page_size);
	assert_int_equal(ltx_decoder_init(&dec, spool_reader_read, &r), 0);
	assert_int_equal(dec.header.page_size, c->db.page_size);
	assert_int_equal(dec.header.commit, want.size);
	assert_true(dec.header.min_txid == c->cs.before.txid + 1 && dec.header.max_txid == c->cs.before.txid + 1);
	assert_true(dec.header.pre_apply == c->cs.before.checksum);
	assert_true(dec.header.node_id == NODE);
	assert_true(dec.header.timestamp_ms == 1700000000123);
	while ((more = ltx_decoder_page(&dec, &pgno, page)) == 1) {
		count++;
		/* An unchanged page costs the network for nothing. */
		if (pgno <= old_size)
			assert_memory_not_equal(page, page_of(&old, pgno), c->db.page_size);
		memcpy(page_of(&c->db, pgno), page, c->db.page_size);
	}
	assert_int_equal(more, 0);
	assert_int_equal(ltx_decoder_finish(&dec, &trailer), 0);
	c->db.size = dec.header.commit;
	ltx_decoder_fini(&dec);
	assert_int_equal(count, c->cs.page_count);
	assert_int_equal(c->cs.new_pages, want.size);

	for (uint32_t p = want.base + 1; p <= want.size; p++)
		if (p != lock)
			assert_memory_equal(page_of(&c->db, p), page_of(&want, p), want.page_size);
	assert_true(c->cs.after.txid == c->cs.before.txid + 1);
	assert_true(c->cs.after.checksum == checksum_of(&want));
	assert_true(trailer.post_apply == c->cs.after.checksum);

	/* Undo: exactly the old pages that the transaction changes or cuts off. */
	for (uint32_t p = old.base + 1; p <= old_size; p++) {
		bool changed = p != lock &&
			       (p > want.size || memcmp(page_of(&old, p), page_of(&want, p), old.page_size) != 0);

		assert_int_equal(c->has_kept[p - old.base], changed);
		if (changed)
			assert_memory_equal(page_of(&c->kept, p), page_of(&old, p), old.page_size);
	}
	free(page);
	free(old.pages);
	free(want.pages);
}

static int setup(void **state)
{
	struct ctx *c = calloc(1, sizeof *c);

	c->rnd = 12345;
	c->source = (struct changeset_source){source_frame, source_old, source_keep, c};
	spool_init(&c->ltx, "/tmp", 64 << 10);
	*state = c;
	return 0;
}

static int teardown(void **state)
{
	struct ctx *c = *state;

	unmake(c);
	spool_fini(&c->ltx);
	free(c);
	return 0;
}

/* One random transaction over a database of `pages` pages. */
static void random_frames(struct ctx *c, uint32_t max_new)
{
	uint32_t n = 1 + rnd(c, 12), old = c->db.size - c->db.base, lock = ltx_lock_pgno(c->db.page_size);
	uint32_t size;

	switch (rnd(c, 4)) {
	case 0: /* grows, perhaps over pages never written */
		size = old + rnd(c, max_new - old + 1);
		break;
	case 1: /* cut */
		size = 1 + rnd(c, old);
		break;
	default:
		size = old;
	}
	for (uint32_t i = 0; i < n; i++) {
		/* Frames beyond the new end are there when a transaction grew before it was cut. */
		uint32_t pgno = c->db.base + 1 + rnd(c, i % 3 ? size : max_new);

		if (i && rnd(c, 4) == 0)
			pgno = c->frames[rnd(c, i)].pgno; /* again */
		if (pgno == lock)
			pgno = pgno > c->db.base + 1 ? pgno - 1 : pgno + 1;
		if (pgno <= c->db.size && rnd(c, 5) == 0)
			same_frame(c, pgno, 0);
		else
			add_frame(c, pgno, 0);
	}
	c->frames[n - 1].commit = c->db.base + size;
}

static void build__random_databases__file_undo_and_checksum_agree(void **state)
{
	struct ctx *c = *state;
	unsigned empty = 0, grew = 0, cut = 0, packed = 0;

	for (int round = 0; round < 1500; round++) {
		uint32_t page_size = UINT32_C(512) << rnd(c, round % 10 ? 4 : 8);
		uint32_t room = 1 + rnd(c, 30), old = 1 + rnd(c, room);

		make(c, page_size, 0, old, room);
		random_frames(c, room);
		assert_int_equal(build(c), 0);
		if (c->cs.page_count == 0 && c->cs.new_pages == old) {
			/* Nothing to send: then nothing may have changed, and nothing be kept. */
			struct model want = expected_of(c);

			assert_memory_equal(want.pages, c->db.pages, (size_t)old * page_size);
			assert_int_equal(c->keeps, 0);
			free(want.pages);
			empty++;
		} else {
			grew += c->cs.new_pages > old;
			cut += c->cs.new_pages < old;
			packed += (uint64_t)c->frame_count * page_size >= 65536;
			apply_and_compare(c);
		}
		unmake(c);
	}
	/* All kinds were there. */
	assert_true(empty > 10 && grew > 100 && cut > 100 && packed > 30);
}

static void build__around_the_lock_page__left_out(void **state)
{
	struct ctx *c = *state;
	unsigned over = 0, back = 0;

	for (int round = 0; round < 300; round++) {
		uint32_t page_size = UINT32_C(512) << rnd(c, round % 10 ? 4 : 8);
		uint32_t lock = ltx_lock_pgno(page_size), room = 12, old = 1 + rnd(c, room);

		/* lock - 6 .. lock + 5 */
		make(c, page_size, lock - 7, old, room);
		random_frames(c, room);
		assert_int_equal(build(c), 0);
		if (c->cs.page_count || c->cs.new_pages != c->cs.old_pages) {
			over += c->cs.old_pages < lock && c->cs.new_pages > lock;
			back += c->cs.old_pages > lock && c->cs.new_pages < lock;
			apply_and_compare(c);
		}
		unmake(c);
	}
	assert_true(over > 5 && back > 5);
}

static void build__frame_of_the_lock_page__ignored(void **state)
{
	struct ctx *c = *state;
	uint32_t lock = ltx_lock_pgno(4096);

	make(c, 4096, lock - 3, 5, 6);
	add_frame(c, lock - 1, 0);
	add_frame(c, lock, 0);
	add_frame(c, lock + 1, lock + 2);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 2);
	apply_and_compare(c);
}

static void build__grows_over_pages_never_written__zeros_sent(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 2, 20);
	add_frame(c, 9, 0);
	add_frame(c, 1, 20);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 19); /* 1 and 3..20 */
	assert_int_equal(c->keeps, 1);
	apply_and_compare(c);
}

static void build__only_cut__no_page_but_something_to_send(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 5, 5);
	same_frame(c, 2, 3);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 0);
	assert_int_equal(c->cs.new_pages, 3);
	assert_int_equal(c->keeps, 2);
	apply_and_compare(c);
}

static void build__same_bytes__nothing_to_send(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 5, 5);
	add_frame(c, 2, 0); /* written, and written back */
	same_frame(c, 2, 0);
	same_frame(c, 1, 5);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 0);
	assert_int_equal(c->cs.new_pages, 5);
	assert_int_equal(c->keeps, 0);
}

static void build__frames_beyond_the_new_end__not_sent(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 4, 9);
	add_frame(c, 9, 0);
	add_frame(c, 4, 0);
	add_frame(c, 3, 3);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 1);
	apply_and_compare(c);
}

static void build__another_transaction__results_and_file_anew(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 4);
	c->cs.page_count = 77;
	c->cs.new_pages = 78;
	assert_int_equal(spool_write(&c->ltx, 0, "old rubbish", 11), 0);
	assert_int_equal(spool_write(&c->ltx, 200000, "old rubbish", 11), 0);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 1);
	assert_int_equal(c->cs.new_pages, 4);
	assert_int_equal(c->ltx.size, 100 + 4 + 512 + 4 + 16);
	apply_and_compare(c);
}

static void build__no_transaction__ebadmsg(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 4, 4); /* no commit */
	add_frame(c, 2, 0);
	add_frame(c, 3, 0);
	assert_int_equal(build(c), -EBADMSG);
	unmake(c);

	make(c, 512, 0, 4, 4); /* a commit in the middle */
	add_frame(c, 2, 4);
	add_frame(c, 3, 4);
	assert_int_equal(build(c), -EBADMSG);
	unmake(c);

	make(c, 512, 0, 4, 4); /* page 0 */
	add_frame(c, 2, 0);
	add_frame(c, 0, 4);
	assert_int_equal(build(c), -EBADMSG);
	unmake(c);

	make(c, 512, 0, 4, 4); /* of another generation */
	add_frame(c, 2, 0);
	add_frame(c, 3, 4);
	c->fail_frame = 2;
	assert_int_equal(build(c), -EBADMSG);
	assert_int_equal(c->keeps, 0);
}

static void build__what_litefs_cannot_take__eproto(void **state)
{
	struct ctx *c = *state;
	uint8_t *page;

	for (int kind = 0; kind < 5; kind++) {
		make(c, 4096, 0, 4, 4);
		add_frame(c, 2, 0);
		page = add_frame(c, 1, 4);
		switch (kind) {
		case 0: /* another page size */
			page[16] = 0x20;
			break;
		case 1: /* to a rollback journal */
			page[18] = page[19] = 1;
			break;
		case 2: /* half of it */
			page[18] = 1;
			break;
		case 3:
			page[19] = 1;
			break;
		default: /* no SQLite database */
			page[0] ^= 1;
		}
		assert_int_equal(build(c), -EPROTO);
		unmake(c);
	}
	/* The last image of page 1 is what counts. */
	make(c, 4096, 0, 4, 4);
	page = add_frame(c, 1, 0);
	page[18] = page[19] = 1;
	add_frame(c, 1, 4);
	assert_int_equal(build(c), 0);
	apply_and_compare(c);
}

static void build__any_reader_fails_at_any_call__its_error(void **state)
{
	struct ctx *c = *state;
	unsigned failed[3] = {0};

	for (int which = 0; which < 3; which++) {
		for (int nth = 1;; nth++) {
			int err;

			make(c, 512, 0, 6, 9);
			add_frame(c, 2, 0);
			add_frame(c, 3, 0);
			add_frame(c, 9, 0);
			add_frame(c, 2, 4);
			*(which == 0 ? &c->fail_frame : which == 1 ? &c->fail_old : &c->fail_keep) = nth;
			err = build(c);
			unmake(c);
			if (!err)
				break;
			assert_int_equal(err, which == 0 ? -EBADMSG : which == 1 ? -EIO : -ENOSPC);
			failed[which]++;
		}
	}
	assert_int_equal(failed[0], 4 + 2); /* headers, then the pages that remain */
	assert_int_equal(failed[1], 2 * (2 + 2)); /* 2, 3 and the cut 5, 6: built, and checked */
	assert_int_equal(failed[2], 4);
}

static void build__old_page_differs_when_checked__euclean(void **state)
{
	struct ctx *c = *state;

	/* Two calls build (page 2, and 6 that is cut off), the next two check. */
	for (int nth = 1; nth <= 4; nth++) {
		make(c, 512, 0, 6, 6);
		add_frame(c, 2, 5);
		c->lie_old = nth;
		assert_int_equal(build(c), -EUCLEAN);
		assert_int_equal(c->old_calls, 4);
		unmake(c);
	}
	/* Also where the file carries no page. */
	make(c, 512, 0, 6, 6);
	same_frame(c, 2, 5);
	c->lie_old = 3; /* 2 compared, 6 cut off, 6 checked */
	assert_int_equal(build(c), -EUCLEAN);
}

static void build__empty_after_a_drop__not_a_snapshot(void **state)
{
	struct ctx *c = *state;

	make(c, 512, 0, 0, 3);
	c->cs.before = (struct pos){9, LTX_CHECKSUM_FLAG};
	add_frame(c, 1, 0);
	add_frame(c, 3, 3);
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 3);
	assert_true(c->cs.after.txid == 10);
	apply_and_compare(c);
}

/* ---- of an overlay: each page once, in any order ---- */

/* The frames' last images, shuffled. */
static int build_refs(struct ctx *c, struct page_ref refs[MAX_FRAMES])
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->frame_count; i++) {
		bool last = true;

		for (uint32_t k = i + 1; k < c->frame_count; k++)
			last = last && c->frames[k].pgno != c->frames[i].pgno;
		if (last)
			refs[n++] = (struct page_ref){c->frames[i].pgno, c->cs.first_frame + i};
	}
	for (uint32_t i = n; i > 1; i--) {
		uint32_t k = rnd(c, i);
		struct page_ref tmp = refs[k];

		refs[k] = refs[i - 1];
		refs[i - 1] = tmp;
	}
	c->cs.refs = refs;
	c->cs.ref_count = n;
	c->cs.new_pages = c->frames[c->frame_count - 1].commit;
	return build(c);
}

/* TXID 1 is a snapshot to LiteFS, which drops every other file for it: only of what was empty, and never of a WAL. */
static void build__position_zero__a_snapshot_only_of_an_empty_database(void **state)
{
	struct ctx *c = *state;
	struct page_ref refs[MAX_FRAMES];

	make(c, 512, 0, 0, 2);
	c->cs.before = (struct pos){0};
	add_frame(c, 1, 0);
	add_frame(c, 2, 2);
	assert_int_equal(build(c), -EUCLEAN);
	c->cs.any_mode = true;
	assert_int_equal(build_refs(c, refs), 0);
	assert_int_equal(c->cs.page_count, 2);
	apply_and_compare(c);
	unmake(c);

	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 4);
	c->cs.before = (struct pos){0};
	assert_int_not_equal(build_refs(c, refs), 0); /* whoever sees it first: the format, or the check */
	unmake(c);
	/* Not even one that carries every page. */
	make(c, 512, 0, 2, 2);
	add_frame(c, 1, 0);
	add_frame(c, 2, 2);
	c->cs.before = (struct pos){0};
	assert_int_not_equal(build_refs(c, refs), 0);
	unmake(c);
	/* No transaction, and yet something before it. */
	make(c, 512, 0, 0, 2);
	add_frame(c, 1, 1);
	c->cs.before = (struct pos){0, LTX_CHECKSUM_FLAG | 5};
	assert_int_not_equal(build_refs(c, refs), 0);
}

static void build_refs__random_databases__as_of_frames(void **state)
{
	struct ctx *c = *state;
	struct page_ref refs[MAX_FRAMES];
	unsigned empty = 0, grew = 0, cut = 0, over_lock = 0;

	for (int round = 0; round < 800; round++) {
		uint32_t page_size = UINT32_C(512) << rnd(c, round % 10 ? 4 : 8);
		uint32_t base = round % 4 ? 0 : ltx_lock_pgno(page_size) - 7;
		uint32_t room = base ? 12 : 1 + rnd(c, 30), old = 1 + rnd(c, room);

		make(c, page_size, base, old, room);
		random_frames(c, room);
		c->cs.any_mode = true;
		assert_int_equal(build_refs(c, refs), 0);
		if (c->cs.page_count == 0 && c->cs.new_pages == c->cs.old_pages) {
			assert_int_equal(c->keeps, 0);
			empty++;
		} else {
			grew += c->cs.new_pages > c->cs.old_pages;
			cut += c->cs.new_pages < c->cs.old_pages;
			over_lock += base != 0;
			apply_and_compare(c);
		}
		unmake(c);
	}
	assert_true(empty > 5 && grew > 50 && cut > 50 && over_lock > 100);
}

static void build_refs__page_1__mode_told_only_when_it_is_sent(void **state)
{
	static const struct {
		int write, read;
		bool any_mode, same;
		int err;
		bool to_wal;
	} cases[] = {
		{1, 1, true, false, 0, false},
		{2, 2, true, false, 0, true},
		{2, 1, true, false, 0, false}, /* both or none */
		{1, 2, true, false, 0, false},
		{1, 1, false, false, -EPROTO, false},
		{2, 2, false, false, 0, true},
	};
	struct ctx *c = *state;
	struct page_ref refs[MAX_FRAMES];

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint8_t *page;

		make(c, 4096, 0, 4, 4);
		add_frame(c, 2, 0);
		page = add_frame(c, 1, 4);
		page[18] = (uint8_t)cases[i].write;
		page[19] = (uint8_t)cases[i].read;
		c->cs.any_mode = cases[i].any_mode;
		assert_int_equal(build_refs(c, refs), cases[i].err);
		assert_int_equal(c->cs.to_wal, cases[i].to_wal);
		if (!cases[i].err)
			apply_and_compare(c);
		unmake(c);
	}
	/* Without page 1 nothing is said about the mode, whatever it was the last time. */
	make(c, 4096, 0, 4, 4);
	add_frame(c, 2, 4);
	c->cs.any_mode = c->cs.to_wal = true;
	assert_int_equal(build_refs(c, refs), 0);
	assert_false(c->cs.to_wal);
}

static void build_refs__what_litefs_cannot_take__eproto(void **state)
{
	struct ctx *c = *state;
	struct page_ref refs[MAX_FRAMES];

	for (int kind = 0; kind < 2; kind++) {
		uint8_t *page;

		make(c, 4096, 0, 4, 4);
		page = add_frame(c, 1, 4);
		if (kind)
			page[16] = 0x20; /* another page size */
		else
			page[0] ^= 1; /* no SQLite database */
		c->cs.any_mode = true;
		assert_int_equal(build_refs(c, refs), -EPROTO);
		unmake(c);
	}
}

static void build_refs__no_size_or_one_from_nowhere__ebadmsg(void **state)
{
	struct ctx *c = *state;
	struct page_ref refs[MAX_FRAMES];

	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 0);
	assert_int_equal(build_refs(c, refs), -EBADMSG);
	unmake(c);
	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 4 + 1 + 65536 + 1);
	assert_int_equal(build_refs(c, refs), -EBADMSG);
	assert_int_equal(c->keeps, 0);
}

/* VACUUM, as far as it is a cut: no image at all. */
static void build_refs__none_and_a_cut__something_to_send(void **state)
{
	struct ctx *c = *state;
	struct page_ref refs[1];

	make(c, 512, 0, 5, 5);
	c->cs.refs = refs;
	c->cs.new_pages = 3;
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 0);
	assert_int_equal(c->cs.new_pages, 3);
	same_frame(c, 2, 3); /* for the comparison alone */
	apply_and_compare(c);
	unmake(c);

	make(c, 512, 0, 5, 5);
	c->cs.refs = refs;
	c->cs.new_pages = 5;
	assert_int_equal(build(c), 0);
	assert_int_equal(c->cs.page_count, 0);
	assert_int_equal(c->keeps, 0);
}

static void build__spool_fails__its_error(void **state)
{
	struct ctx *c = *state;

	spool_fini(&c->ltx);
	spool_init(&c->ltx, "/nonexistent/dir", 600);
	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 0);
	add_frame(c, 3, 4);
	assert_int_equal(build(c), -ENOENT);
	unmake(c);
	make(c, 512, 0, 4, 4);
	add_frame(c, 2, 4);
	c->ltx.threshold = 4096;
	assert_int_equal(build(c), 0);
	apply_and_compare(c);
}

static void build__beyond_the_thresholds__spilled_and_packed(void **state)
{
	struct ctx *c = *state;

	make(c, 4096, 0, 300, 300);
	for (uint32_t p = 2; p <= 300; p++)
		add_frame(c, p, p == 300 ? 300 : 0);
	assert_int_equal(build(c), 0);
	assert_true(c->ltx.fd >= 0);
	assert_int_equal(c->cs.page_count, 299);
	apply_and_compare(c);
}

/* ---- the other way round: of another node's file ---- */

/* What append() was given, over the pages before it. */
struct adopted {
	struct ctx *c;
	struct model got;
	uint32_t last_pgno, commit;
	unsigned calls;
	int fail_append, fail_read; /* the n-th call fails; 0: none */
	struct spool_reader reader;
	unsigned reads;
	size_t step; /* of a read; 0: as asked for */
	bool keep_got; /* for the caller to free */
};

/* source's ctx is handed to append, too. */
static struct adopted *adopting;

static int append_page(void *arg, uint32_t pgno, uint32_t commit, const void *page)
{
	struct adopted *a = adopting;

	assert_ptr_equal(arg, a->c);
	if (a->fail_append && ++a->calls == (unsigned)a->fail_append)
		return -ENOSPC;
	assert_int_equal(a->commit, 0); /* nothing after the end */
	assert_true(pgno > a->last_pgno);
	a->last_pgno = pgno;
	a->commit = commit;
	memcpy(page_of(&a->got, pgno), page, a->got.page_size);
	return 0;
}

static ptrdiff_t adopt_read(void *arg, void *buf, size_t len)
{
	struct adopted *a = arg;

	if (a->fail_read && ++a->reads == (unsigned)a->fail_read)
		return -EIO;
	return spool_reader_read(&a->reader, buf, a->step && len > a->step ? a->step : len);
}

/* The file in c->ltx over c->db at cs.before; what building it has kept is forgotten. */
static int adopt(struct ctx *c, struct changeset *cs, struct adopted *a)
{
	struct changeset_source source = {.old_page = source_old, .keep = source_keep, .ctx = c};
	int err;

	*cs = (struct changeset){.db_name = "t.db", .page_size = c->db.page_size, .first_frame = c->cs.first_frame,
				 .old_pages = c->db.size, .before = c->cs.before, .page_count = 77, .new_pages = 78};
	a->c = c;
	a->got = c->db;
	a->got.pages = malloc((size_t)c->db.room * c->db.page_size);
	memcpy(a->got.pages, c->db.pages, (size_t)c->db.room * c->db.page_size);
	a->reader = (struct spool_reader){.spool = &c->ltx};
	memset(c->has_kept, 0, c->db.room + 1);
	c->keeps = 0;
	adopting = a;
	err = changeset_adopt(cs, &source, append_page, adopt_read, a);
	assert_true(cs->adopted);
	if (!a->keep_got)
		free(a->got.pages);
	return err;
}

/* What was built is adopted: the same pages, the same undo, the same position. */
static void adopt_and_compare(struct ctx *c, size_t step)
{
	struct model want = expected_of(c);
	struct adopted a = {.step = step, .keep_got = true};
	struct changeset cs;
	unsigned keeps = c->keeps;
	size_t bytes = (size_t)c->db.room * c->db.page_size;
	uint8_t *kept = malloc(bytes), *has = malloc(c->db.room + 1);

	memcpy(kept, c->kept.pages, bytes); /* pages that were not kept are zero */
	memcpy(has, c->has_kept, c->db.room + 1);
	memset(c->kept.pages, 0, bytes);
	assert_int_equal(adopt(c, &cs, &a), 0);
	assert_int_equal(cs.new_pages, want.size);
	assert_int_equal(a.commit, want.size);
	assert_int_equal(cs.page_count, c->cs.page_count);
	assert_true(cs.after.txid == c->cs.after.txid && cs.after.checksum == c->cs.after.checksum);
	assert_true(cs.node_id == NODE && cs.timestamp_ms == 1700000000123);
	for (uint32_t p = want.base + 1; p <= want.size; p++)
		if (p != ltx_lock_pgno(want.page_size))
			assert_memory_equal(page_of(&a.got, p), page_of(&want, p), want.page_size);
	assert_int_equal(c->keeps, keeps);
	assert_memory_equal(c->has_kept, has, c->db.room + 1);
	assert_memory_equal(c->kept.pages, kept, bytes);
	free(a.got.pages);
	free(want.pages);
	free(kept);
	free(has);
}

static void adopt__whatever_is_built__same_pages_undo_and_position(void **state)
{
	struct ctx *c = *state;
	unsigned grew = 0, cut = 0, packed = 0, over_lock = 0, sizes = 0;

	for (int round = 0; round < 1200; round++) {
		uint32_t page_size = UINT32_C(512) << rnd(c, round % 5 ? 4 : 8);
		uint32_t base = round % 4 ? 0 : ltx_lock_pgno(page_size) - 7;
		uint32_t room = base ? 12 : 1 + rnd(c, 30), old = 1 + rnd(c, room);

		make(c, page_size, base, old, room);
		random_frames(c, room);
		assert_int_equal(build(c), 0);
		if (c->cs.page_count) {
			grew += c->cs.new_pages > c->cs.old_pages;
			cut += c->cs.new_pages < c->cs.old_pages;
			packed += (uint64_t)c->frame_count * page_size >= 65536;
			over_lock += base != 0;
			sizes |= page_size;
			adopt_and_compare(c, round % 3 ? 0 : 1 + rnd(c, 300));
		}
		unmake(c);
	}
	assert_true(grew > 100 && cut > 100 && packed > 30 && over_lock > 100);
	assert_int_equal(sizes, 512 | 1024 | 2048 | 4096 | 8192 | 16384 | 32768 | 65536);
}

/* A cut is of page 1, too, which holds the size: a file without any page is no writer's. */
static void adopt__a_cut_without_a_page__ebadmsg(void **state)
{
	struct ctx *c = *state;
	struct adopted a = {0};
	struct changeset cs;

	make(c, 512, 0, 5, 5);
	same_frame(c, 2, 3);
	assert_int_equal(build(c), 0);
	assert_int_equal(adopt(c, &cs, &a), -EBADMSG);
	assert_int_equal(a.commit, 0);
}

/* ---- files that no encoder makes ---- */

struct raw {
	struct ltx_header header;
	uint32_t pgnos[8]; /* up to 0 */
	uint64_t sum; /* post-apply, as the pages have it */
};

/* Page n of the file is filled with its number in the list. */
static void raw_page(struct ctx *c, const struct raw *r, int i, uint8_t *page)
{
	uint32_t size = r->header.page_size;

	if (r->pgnos[i] == 1) {
		fill_page1(c, page, c->db.page_size);
		return;
	}
	memset(page, 'A' + i, size);
}

static void raw_finish(struct ctx *c, uint64_t post)
{
	uint8_t *all = malloc(c->ltx.size + 16), trailer[16];
	uint64_t crc;

	put_be32(trailer, (uint32_t)(post >> 32));
	put_be32(trailer + 4, (uint32_t)post);
	assert_int_equal(spool_read(&c->ltx, 0, all, c->ltx.size), c->ltx.size);
	crc = crc64_iso(crc64_iso(0, all, c->ltx.size), trailer, 8) | LTX_CHECKSUM_FLAG;
	put_be32(trailer + 8, (uint32_t)(crc >> 32));
	put_be32(trailer + 12, (uint32_t)crc);
	assert_int_equal(spool_append(&c->ltx, trailer, 16), 0);
	free(all);
}

/* Writes it, its post-apply checksum following from c->db and its pages; flip: of that checksum. */
static void raw_write(struct ctx *c, struct raw *r, uint64_t flip)
{
	uint32_t lock = ltx_lock_pgno(c->db.page_size);
	uint8_t *page = malloc(65536), head[LTX_HEADER_SIZE], pgno[4];
	uint64_t sum = c->cs.before.checksum;

	spool_reset(&c->ltx);
	ltx_header_encode(&r->header, head);
	assert_int_equal(spool_append(&c->ltx, head, sizeof head), 0);
	for (int i = 0; r->pgnos[i]; i++) {
		uint32_t p = r->pgnos[i];

		raw_page(c, r, i, page);
		put_be32(pgno, p);
		assert_int_equal(spool_append(&c->ltx, pgno, 4), 0);
		assert_int_equal(spool_append(&c->ltx, page, r->header.page_size), 0);
		sum ^= ltx_page_checksum(p, page, r->header.page_size);
		if (p <= c->db.size && p != lock)
			sum ^= ltx_page_checksum(p, page_of(&c->db, p), c->db.page_size);
	}
	for (uint64_t n = (uint64_t)r->header.commit + 1; n <= c->db.size; n++) {
		uint32_t p = (uint32_t)n;

		if (p != lock)
			sum ^= ltx_page_checksum(p, page_of(&c->db, p), c->db.page_size);
	}
	put_be32(pgno, 0);
	assert_int_equal(spool_append(&c->ltx, pgno, 4), 0);
	r->sum = sum | LTX_CHECKSUM_FLAG;
	raw_finish(c, r->sum ^ flip);
	free(page);
}

/* A good one: of a database of four pages, 2 changed, 5 and 6 added. */
static struct raw raw_of(struct ctx *c)
{
	return (struct raw){
		.header = {.page_size = c->db.page_size, .commit = c->db.base + 6, .min_txid = c->cs.before.txid + 1,
			   .max_txid = c->cs.before.txid + 1, .pre_apply = c->cs.before.checksum, .node_id = NODE,
			   .timestamp_ms = 1},
		.pgnos = {c->db.base + 2, c->db.base + 5, c->db.base + 6},
	};
}

static int adopt_raw(struct ctx *c, struct raw *r, uint64_t flip)
{
	struct adopted a = {0};
	struct changeset cs;
	int err;

	raw_write(c, r, flip);
	err = adopt(c, &cs, &a);
	if (!err) {
		assert_int_equal(a.commit, r->header.commit);
		assert_true(cs.after.checksum == r->sum);
	}
	return err;
}

static void adopt__each_field_of_the_header__only_the_one_that_fits(void **state)
{
	struct ctx *c = *state;

	/* Every bit of the header flipped, the file's own checksum right all the same. */
	for (int bit = 0; bit < LTX_HEADER_SIZE * 8; bit++) {
		int byte = bit / 8;
		/* Timestamp and node; where it was in LiteFS' WAL, of which the format has its own idea. */
		bool any = (byte >= 32 && byte < 40) || (byte >= 72 && byte < 80), wal = byte >= 48 && byte < 72;
		struct adopted a = {0};
		struct changeset cs;
		struct raw r;
		uint8_t b;
		int err;

		make(c, 512, 0, 4, 8);
		r = raw_of(c);
		raw_write(c, &r, 0);
		assert_int_equal(spool_truncate(&c->ltx, c->ltx.size - 16), 0);
		assert_int_equal(spool_read(&c->ltx, (uint64_t)byte, &b, 1), 1);
		b ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(spool_write(&c->ltx, (uint64_t)byte, &b, 1), 0);
		raw_finish(c, r.sum);
		err = adopt(c, &cs, &a);
		if (!wal)
			assert_int_equal(err, any ? 0 : -EBADMSG);
		else
			assert_true(err == 0 || err == -EBADMSG);
		if (err)
			assert_int_equal(a.commit, 0); /* refused before its end */
		unmake(c);
	}
}

static void adopt__values_of_the_header__as_litefs_would_have_to_take_them(void **state)
{
	enum { GOOD, SIZE, PRE, TXID_BEFORE, TXID_SAME, TXID_AFTER, RANGE, DROP, SNAPSHOT, GROWTH, CASES };
	struct ctx *c = *state;

	for (int kind = 0; kind < CASES; kind++) {
		struct raw r;

		make(c, 1024, 0, 4, 8);
		r = raw_of(c);
		switch (kind) {
		case SIZE:
			r.header.page_size = 2048;
			break;
		case PRE:
			r.header.pre_apply ^= 1;
			break;
		case TXID_BEFORE:
			r.header.min_txid = r.header.max_txid = c->cs.before.txid - 1;
			break;
		case TXID_SAME:
			r.header.min_txid = r.header.max_txid = c->cs.before.txid;
			break;
		case TXID_AFTER:
			r.header.min_txid++;
			r.header.max_txid++;
			break;
		case RANGE:
			r.header.max_txid++;
			break;
		case DROP:
			r.header.commit = 0;
			r.pgnos[0] = 0;
			break;
		case SNAPSHOT: /* of a database without a position: never one of a WAL */
			c->cs.before = (struct pos){0};
			r = raw_of(c);
			for (uint32_t i = 0; i < 6; i++)
				r.pgnos[i] = i + 1;
			break;
		case GROWTH:
			r.header.commit = UINT32_MAX;
			break;
		default:
			break;
		}
		assert_int_equal(adopt_raw(c, &r, 0), kind == GOOD ? 0 : -EBADMSG);
		unmake(c);
	}
}

static void adopt__pages__in_order_each_once_and_all_that_are_added(void **state)
{
	static const struct {
		uint32_t old, commit, pgnos[8];
		bool at_lock; /* numbers count from three pages before the lock page, which is 3 then */
		int err;
	} cases[] = {
		{4, 6, {2, 5, 6}, false, 0},
		{4, 4, {2}, false, 0},
		{4, 2, {2}, false, 0},
		{4, 6, {1, 2, 3, 4, 5, 6}, false, 0},
		{4, 6, {5, 6}, false, 0},
		{4, 6, {0}, false, -EBADMSG},
		{4, 4, {0}, false, -EBADMSG},
		{4, 6, {2, 6}, false, -EBADMSG},
		{4, 6, {2, 5}, false, -EBADMSG},
		{4, 6, {2}, false, -EBADMSG},
		{4, 6, {5, 6, 2}, false, -EBADMSG},
		{4, 6, {2, 6, 5}, false, -EBADMSG},
		{4, 6, {2, 2, 5, 6}, false, -EBADMSG},
		{4, 6, {2, 5, 5, 6}, false, -EBADMSG},
		{4, 6, {2, 5, 6, 7}, false, -EBADMSG},
		{4, 2, {3}, false, -EBADMSG},
		{4, 2, {4}, false, -EBADMSG},
		/* 3 is the lock page. */
		{1, 5, {2, 4, 5}, true, 0},
		{2, 5, {4, 5}, true, 0},
		{2, 4, {4}, true, 0},
		{3, 4, {4}, true, 0},
		{4, 2, {1}, true, 0},
		{4, 5, {2, 5}, true, 0},
		{2, 3, {1}, true, 0}, /* ends with it */
		{1, 5, {2, 3, 4, 5}, true, -EBADMSG},
		{4, 4, {3}, true, -EBADMSG},
		{1, 5, {2, 5}, true, -EBADMSG},
		{1, 5, {4, 5}, true, -EBADMSG},
		{2, 5, {4}, true, -EBADMSG},
		{2, 4, {1}, true, -EBADMSG},
	};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint32_t base = cases[i].at_lock ? ltx_lock_pgno(4096) - 3 : 0;
		struct raw r;
		int err;

		make(c, 4096, base, cases[i].old, 8);
		r = raw_of(c);
		r.header.commit = base + cases[i].commit;
		for (int k = 0; k < 8; k++)
			r.pgnos[k] = cases[i].pgnos[k] ? base + cases[i].pgnos[k] : 0;
		err = adopt_raw(c, &r, 0);
		if (err != cases[i].err)
			print_message("case %zu: %d\n", i, err);
		assert_int_equal(err, cases[i].err);
		unmake(c);
	}
}

static void adopt__post_apply_checksum__from_the_pages_alone(void **state)
{
	struct ctx *c = *state;

	for (int bit = 0; bit < 64; bit++) {
		struct raw r;

		make(c, 512, 0, 4, 8);
		r = raw_of(c);
		assert_int_equal(adopt_raw(c, &r, UINT64_C(1) << bit), -EBADMSG);
		unmake(c);
	}
}

static void adopt__old_pages_are_others__ebadmsg(void **state)
{
	struct ctx *c = *state;

	/* 2 is changed, 5 and 6 are cut off. */
	for (int nth = 1; nth <= 4; nth++) {
		struct raw r;

		make(c, 512, 0, 6, 8);
		r = raw_of(c);
		r.header.commit = 4;
		r.pgnos[1] = 0;
		raw_write(c, &r, 0);
		c->old_calls = 0;
		c->lie_old = nth;
		assert_int_equal(adopt_raw(c, &r, 0), nth <= 3 ? -EBADMSG : 0);
		assert_int_equal(c->old_calls, 3);
		unmake(c);
	}
}

static void adopt__page_1__of_this_page_size_and_in_wal_mode(void **state)
{
	static const struct {
		int at, value, err;
	} cases[] = {
		{50, 1, 0}, {0, 'X', -EBADMSG}, {16, 0x20, -EBADMSG}, {18, 1, -EBADMSG}, {19, 1, -EBADMSG}, {18, 3, -EBADMSG},
	};
	struct ctx *c = *state;

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct adopted a = {0};
		struct changeset cs;
		uint64_t sum;
		struct raw r;
		uint8_t page[4096];

		make(c, 4096, 0, 4, 8);
		r = raw_of(c);
		r.pgnos[0] = 1;
		r.pgnos[1] = 0;
		r.header.commit = 4;
		raw_write(c, &r, 0);
		assert_int_equal(spool_read(&c->ltx, 104, page, sizeof page), sizeof page);
		sum = r.sum ^ ltx_page_checksum(1, page, sizeof page);
		page[cases[i].at] = (uint8_t)cases[i].value;
		sum ^= ltx_page_checksum(1, page, sizeof page);
		assert_int_equal(spool_write(&c->ltx, 104, page, sizeof page), 0);
		assert_int_equal(spool_truncate(&c->ltx, c->ltx.size - 16), 0);
		raw_finish(c, sum | LTX_CHECKSUM_FLAG);
		assert_int_equal(adopt(c, &cs, &a), cases[i].err);
		unmake(c);
	}
}

static void adopt__file_cut_longer_or_damaged_at_any_place__ebadmsg(void **state)
{
	struct ctx *c = *state;

	for (int packed = 0; packed < 2; packed++) {
		uint32_t page_size = packed ? 16384 : 512;
		uint64_t size;
		uint8_t *all;

		make(c, page_size, 0, 6, 8);
		for (uint32_t p = 2; p <= 8; p++)
			memset(add_frame(c, p, p == 8 ? 8 : 0), (int)p, page_size);
		assert_int_equal(build(c), 0);
		size = c->ltx.size;
		all = malloc(size + 1);
		assert_int_equal(spool_read(&c->ltx, 0, all, size), size);
		all[size] = 0;
		for (uint64_t at = 0; at <= size + 1; at += at < 120 || at + 20 > size ? 1 : 7) {
			for (int kind = 0; kind < 2; kind++) {
				struct adopted a = {0};
				struct changeset cs;
				uint64_t len = kind ? size : at;
				bool same = kind ? at >= size : at == size;

				spool_reset(&c->ltx);
				if (kind && at < size)
					all[at] ^= 0x10;
				assert_int_equal(spool_append(&c->ltx, all, len), 0);
				if (kind && at < size)
					all[at] ^= 0x10;
				assert_int_equal(adopt(c, &cs, &a), same ? 0 : -EBADMSG);
			}
		}
		free(all);
		unmake(c);
	}
}

static void adopt__whoever_fails_at_any_call__its_error(void **state)
{
	struct ctx *c = *state;
	unsigned failed[4] = {0};

	for (int which = 0; which < 4; which++) {
		for (int nth = 1;; nth++) {
			struct adopted a = {.step = 200};
			struct changeset cs;
			int err;

			make(c, 512, 0, 6, 8);
			add_frame(c, 2, 0);
			add_frame(c, 3, 4);
			assert_int_equal(build(c), 0);
			c->old_calls = c->keep_calls = 0;
			*(which == 0 ? &a.fail_append : which == 1 ? &a.fail_read : which == 2 ? &c->fail_old : &c->fail_keep) = nth;
			err = adopt(c, &cs, &a);
			unmake(c);
			if (!err)
				break;
			assert_int_equal(err, which == 0 || which == 3 ? -ENOSPC : -EIO);
			failed[which]++;
		}
	}
	assert_int_equal(failed[0], 2);
	assert_true(failed[1] >= 6);
	assert_int_equal(failed[2], 4); /* 2, 3 and the cut 5, 6 */
	assert_int_equal(failed[3], 4);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(build__random_databases__file_undo_and_checksum_agree),
		TEST(build__around_the_lock_page__left_out),
		TEST(build__frame_of_the_lock_page__ignored),
		TEST(build__grows_over_pages_never_written__zeros_sent),
		TEST(build__only_cut__no_page_but_something_to_send),
		TEST(build__same_bytes__nothing_to_send),
		TEST(build__frames_beyond_the_new_end__not_sent),
		TEST(build__another_transaction__results_and_file_anew),
		TEST(build__no_transaction__ebadmsg),
		TEST(build__what_litefs_cannot_take__eproto),
		TEST(build__any_reader_fails_at_any_call__its_error),
		TEST(build__old_page_differs_when_checked__euclean),
		TEST(build__position_zero__a_snapshot_only_of_an_empty_database),
		TEST(build__empty_after_a_drop__not_a_snapshot),
		TEST(build_refs__random_databases__as_of_frames),
		TEST(build_refs__page_1__mode_told_only_when_it_is_sent),
		TEST(build_refs__what_litefs_cannot_take__eproto),
		TEST(build_refs__no_size_or_one_from_nowhere__ebadmsg),
		TEST(build_refs__none_and_a_cut__something_to_send),
		TEST(build__spool_fails__its_error),
		TEST(build__beyond_the_thresholds__spilled_and_packed),
		TEST(adopt__whatever_is_built__same_pages_undo_and_position),
		TEST(adopt__a_cut_without_a_page__ebadmsg),
		TEST(adopt__each_field_of_the_header__only_the_one_that_fits),
		TEST(adopt__values_of_the_header__as_litefs_would_have_to_take_them),
		TEST(adopt__pages__in_order_each_once_and_all_that_are_added),
		TEST(adopt__post_apply_checksum__from_the_pages_alone),
		TEST(adopt__old_pages_are_others__ebadmsg),
		TEST(adopt__page_1__of_this_page_size_and_in_wal_mode),
		TEST(adopt__file_cut_longer_or_damaged_at_any_place__ebadmsg),
		TEST(adopt__whoever_fails_at_any_call__its_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
