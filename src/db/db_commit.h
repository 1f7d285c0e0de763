/*
 * db_commit: what the files of one commit share (db_commit.c, db_build.c, db_window.c, db_outcome.c), and nobody else.
 *
 * All of it is the upstream worker's, without mu unless the name says _locked, and blocks: on LiteFS' files and locks, on
 * upstream, on the spool. Errors: negative errno; an outcome is not one.
 */
#ifndef LITEFWD_DB_DB_COMMIT_H
#define LITEFWD_DB_DB_COMMIT_H

#include <stdbool.h>

#include "db/changeset.h"
#include "db/db.h"
#include "db/db_internal.h"

/* ---- db_build.c ---- */

/* The overlay's pages, malloc'ed. NULL: no memory. */
struct page_ref *db_list_overlay(struct db *db, uint32_t *ret_count);
int db_count_change(struct db *db, bool *ret_rollback);
/* cs to db->ltx, checked; keeps the old pages (I4). */
int db_build_ltx(struct db *db, struct changeset *cs);

/* changeset_adopt() over LiteFS' pages at tip; keeps the old pages (I4). */
int db_adopt_ltx(struct db *db, struct changeset *cs,
		 int (*append)(void *ctx, uint32_t pgno, uint32_t commit, const void *page), ltx_source_fn read, void *read_ctx);

/* ---- db_commit.c ---- */

/* db->ltx, which is cs, to upstream, and what becomes of it. */
enum verdict db_send(struct db *db, struct changeset *cs, uint32_t frame);
void db_commit_done_locked(struct db *db, const struct changeset *cs, uint32_t frame);

/* ---- db_window.c ---- */

int db_files_get(struct db *db);
void db_files_put(struct db *db, int err);
bool db_is_absent(struct db *db);
/* LiteFS' position here; -ENOTCONN while it is gone, -ENOENT while it does not have the database. */
int db_local_pos(struct db *db, struct pos *ret);
/* Idempotent. The guard is given: LiteFS may apply up to `after`. */
void db_open_window(struct db *db, struct pos after);
int db_take_back_guard(struct db *db);
void db_close_window_locked(struct db *db, bool ours);
/* Until LiteFS here stands at `after`, or at something else, or until_ns. 1 there, 0 not yet, -ESTALE elsewhere. */
int db_await_pos(struct db *db, struct pos after, int64_t until_ns);

/* ---- db_outcome.c ---- */

enum verdict db_decide(struct db *db, const struct changeset *cs, int64_t until_ns);
/* The primary, as role has it now. False: nobody knows. */
bool db_primary_node(struct db *db, struct upstream_node *ret);
/* Changes with the role and the primary; 0: not known. */
uint64_t db_primary_epoch(struct db *db);

#endif
