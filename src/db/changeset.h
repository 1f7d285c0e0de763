/*
 * changeset: one transaction, of the virtual WAL or of an overlay, as an LTX file.
 *
 * Takes the last image of each page among the transaction's frames, drops what lies
 * beyond the new end, adds zero pages where the database grew over pages that were never
 * written (LiteFS exits on a page without a checksum), leaves out what did not change, and
 * computes the post-apply checksum. Then the file is decoded again and its checksum
 * recomputed from the pages it carries: one wrong one ends the primary for good.
 *
 * Threads: one per object; it calls the readers, which take the locks they need. May block on
 * LiteFS' files and the spool. Errors: negative errno, nothing may be sent; -EBADMSG frames
 * that are no transaction, -EPROTO a transaction that LiteFS cannot take (message logged),
 * -EUCLEAN the check failed: a bug of ours, logged.
 */
#ifndef LITEFWD_DB_CHANGESET_H
#define LITEFWD_DB_CHANGESET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/spool.h"
#include "db/vwal.h"
#include "format/ltx.h"
#include "format/pos.h"

/* The image of a page: the frame of a WAL, or whatever else source->frame() knows it by; from 1. */
struct page_ref {
	uint32_t pgno;
	uint32_t frame;
};

struct changeset_source {
	/* As vwal_frame(). */
	int (*frame)(void *ctx, uint32_t frame, struct vwal_frame *ret, void *page);
	/* The page at `before`, which is what LiteFS' file holds. */
	int (*old_page)(void *ctx, uint32_t pgno, void *page);
	/* Keep this old page for readers of the base; called before the file can be sent. */
	int (*keep)(void *ctx, uint32_t pgno, const void *page);
	void *ctx;
};

struct changeset {
	const char *db_name; /* for the log */
	uint32_t page_size;
	uint32_t first_frame, last_frame; /* where refs is NULL */
	const struct page_ref *refs; /* borrowed; each page once, in any order: a transaction that is no WAL's */
	uint32_t ref_count;
	bool any_mode; /* page 1 may name either journal mode; else it must be WAL */
	uint32_t old_pages; /* size before */
	struct pos before;
	uint64_t node_id;
	int64_t timestamp_ms;
	bool adopted; /* of another node: see changeset_adopt() */
	uint32_t new_pages; /* a result; given with refs */
	/* results */
	bool to_wal; /* page 1 is in the file, and says WAL */
	uint32_t page_count; /* pages in the file; 0: nothing changed, nothing to send */
	struct pos after;
};

/*
 * The other way round: a transaction that another node has made, read from its LTX file. Checked like one of ours against the pages at
 * `before`, old pages kept; its pages go to append in order, the last one with its commit size. Nothing of it counts unless
 * the result is 0. Fills node_id, timestamp_ms and the results. -EBADMSG, logged: not such a transaction.
 */
int changeset_adopt(struct changeset *cs, const struct changeset_source *source,
		    int (*append)(void *ctx, uint32_t pgno, uint32_t commit, const void *page), ltx_source_fn read, void *read_ctx);

/* Writes the file to ltx (reset first). */
int changeset_build(struct changeset *cs, const struct changeset_source *source, struct spool *ltx);

#endif
