/*
 * From a transaction, of the virtual WAL or of the overlay of a rollback journal, to the LTX file that is sent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "db/db_commit.h"
#include "db/db_internal.h"
#include "format/ltx.h"

static int source_frame(void *ctx, uint32_t frame, struct vwal_frame *ret, void *page)
{
	struct db *db = ctx;
	int err;

	pthread_mutex_lock(&db->mu);
	err = vwal_frame(&db->wal, frame, ret, page);
	pthread_mutex_unlock(&db->mu);
	return err;
}

static int source_overlay(void *ctx, uint32_t slot, struct vwal_frame *ret, void *page)
{
	struct db *db = ctx;
	int err;

	pthread_mutex_lock(&db->mu);
	*ret = (struct vwal_frame){.pgno = db->overlay.pgnos[slot - 1]};
	err = page_set_get(&db->overlay, ret->pgno, page);
	pthread_mutex_unlock(&db->mu);
	return err;
}

static int source_old_page(void *ctx, uint32_t pgno, void *page)
{
	struct db *db = ctx;
	struct vwal_frame f;
	uint32_t frame;
	ssize_t n;
	int err = 0;

	/*
	 * LiteFS stands at tip (its checksum says so), and has just dropped these pages from its cache: our
	 * own last image of them saves a round trip each.
	 */
	pthread_mutex_lock(&db->mu);
	frame = page_map_get(&db->tip_frames, pgno);
	if (frame)
		err = vwal_frame(&db->wal, frame, &f, page);
	pthread_mutex_unlock(&db->mu);
	if (frame)
		return err ? err : f.pgno == pgno ? 0 : -EUCLEAN;
	n = lfs_files_read(&db->files, page, db->page_size, (off_t)(pgno - 1) * db->page_size);

	return n < 0 ? (int)n : n != (ssize_t)db->page_size ? -EIO : 0;
}

static int source_keep(void *ctx, uint32_t pgno, const void *page)
{
	struct db *db = ctx;
	int err = 0;

	pthread_mutex_lock(&db->mu);
	/* In a rollback mode nobody reads but the writer. */
	if (db->mode == DB_MODE_WAL && pgno <= db->base_pages)
		err = page_set_add(&db->undo, pgno, page);
	pthread_mutex_unlock(&db->mu);
	return err;
}

/* The overlay's pages. NULL: no memory. */
struct page_ref *db_list_overlay(struct db *db, uint32_t *ret_count)
{
	struct page_ref *refs;
	uint32_t n = 0;

	pthread_mutex_lock(&db->mu);
	refs = malloc(sizeof *refs * ((size_t)db->overlay.count + 1));
	for (uint32_t i = 0; refs && i < db->overlay.count; i++)
		if (page_set_slot_is_current(&db->overlay, i))
			refs[n++] = (struct page_ref){db->overlay.pgnos[i], i + 1};
	pthread_mutex_unlock(&db->mu);
	*ret_count = n;
	return refs;
}

/*
 * LiteFS keeps the page size that it has first seen under a name, even after a drop, and exits on another one (LITEFS.md,
 * 13). What is left of a dropped database is its last LTX file, which LiteFS never deletes.
 */
static int check_page_size(struct db *db, const struct changeset *cs)
{
	struct ltx_header header;
	int err;

	if (!db_is_absent(db) || cs->before.txid == 0)
		return 0;
	err = db_ltx_header(db, cs->before.txid, &header);
	if (!err && header.page_size == cs->page_size)
		return 0;
	log_error("transaction_refused",
		  "db=%s reason=page_size page_size=%u earlier=%u do=\"a database of this name was dropped, and LiteFS keeps its page "
		  "size: create it with that one (PRAGMA page_size), or under another name\"",
		  db->name, cs->page_size, err ? 0 : header.page_size);
	return -EPROTO;
}

/* From its writer's hold on it has committed before: is there anything new? */
static int overlay_differs(struct db *db, bool *ret)
{
	uint8_t *pages = malloc((size_t)db->page_size * 2);
	uint32_t n = 0;
	struct page_ref *refs = pages ? db_list_overlay(db, &n) : NULL;
	int err = refs ? db_files_get(db) : -ENOMEM;
	bool in_use = !err;

	*ret = db->overlay_pages != db->tip_pages;
	for (uint32_t i = 0; !err && !*ret && i < n; i++) {
		struct vwal_frame f;

		err = source_overlay(db, refs[i].frame, &f, pages);
		if (!err && f.pgno <= db->tip_pages)
			err = source_old_page(db, f.pgno, pages + db->page_size);
		*ret = f.pgno > db->tip_pages || memcmp(pages, pages + db->page_size, db->page_size) != 0;
	}
	if (in_use)
		db_files_put(db, 0);
	free(refs);
	free(pages);
	return err;
}

/*
 * A transaction counts page 1's change counter up; one that was rolled back does not, though its free pages may differ
 * from the file's (SQLite keeps no old image of those), and they are of no interest to anybody. With locking_mode EXCLUSIVE
 * SQLite counts only its first transaction; other nodes' connections would take the later states for the one that they know.
 * *ret_rollback: there is nothing to send.
 */
int db_count_change(struct db *db, bool *ret_rollback)
{
	uint8_t *old_page = malloc(db->page_size), *page = malloc(db->page_size);
	bool differs = false, held_over;
	uint32_t counter;
	int err = old_page && page ? db_files_get(db) : -ENOMEM;

	if (!err) {
		err = source_old_page(db, 1, old_page);
		db_files_put(db, 0);
	}
	pthread_mutex_lock(&db->mu);
	if (!err && page_set_get(&db->overlay, 1, page) != 0)
		memcpy(page, old_page, db->page_size);
	held_over = db->committed_in_hold;
	pthread_mutex_unlock(&db->mu);
	if (!err && (int32_t)(be32(page + SQLITE_COUNTER_OFFSET) - be32(old_page + SQLITE_COUNTER_OFFSET)) > 0)
		goto out;
	if (!err && held_over)
		err = overlay_differs(db, &differs);
	pthread_mutex_lock(&db->mu);
	if (!err) {
		*ret_rollback = !differs;
		counter = be32(old_page + SQLITE_COUNTER_OFFSET) + 1;
		put_be32(page + SQLITE_COUNTER_OFFSET, counter);
		put_be32(page + SQLITE_VALID_FOR_OFFSET, counter); /* the size beside it is SQLite's own, and right */
		if (!*ret_rollback)
			err = page_set_put(&db->overlay, 1, page);
		db->spoiled = true; /* the kernel has the pages as they were written */
		pthread_cond_signal(&db->g_cond);
	}
	pthread_mutex_unlock(&db->mu);
out:
	free(old_page);
	free(page);
	return err;
}

int db_adopt_ltx(struct db *db, struct changeset *cs,
		 int (*append)(void *ctx, uint32_t pgno, uint32_t commit, const void *page), ltx_source_fn read, void *read_ctx)
{
	const struct changeset_source source = {.old_page = source_old_page, .keep = source_keep, .ctx = db};
	int err = db_files_get(db);

	if (err)
		return err;
	err = changeset_adopt(cs, &source, append, read, read_ctx);
	db_files_put(db, 0);
	return err;
}

int db_build_ltx(struct db *db, struct changeset *cs)
{
	const struct changeset_source source = {cs->refs ? source_overlay : source_frame, source_old_page, source_keep, db};
	bool absent = db_is_absent(db);
	int err = check_page_size(db, cs);

	if (!err && !absent)
		err = db_files_get(db);
	if (err)
		return err;
	err = changeset_build(cs, &source, &db->ltx);
	if (!absent)
		db_files_put(db, 0);
	return err;
}
