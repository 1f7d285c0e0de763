/*
 * One commit, while the client waits in the write() of its commit frame:
 *
 *   build, check, keep old pages (I4)       changeset
 *   upstream_commit                         /tx
 *     COMMITTED  remote: window: guard given, LiteFS applies, guard taken, position checked again
 *                self: LiteFS has applied it under our locks
 *     REFUSED    the write fails, nothing has changed
 *     UNKNOWN    evidence is looked for until commit_timeout (decide); else the write fails and
 *                log, counter and status say `unknown`
 *
 * Success means: this node's LiteFS stands at exactly (TXID, checksum), and the upstream has said so.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "db/changeset.h"
#include "db/db_internal.h"
#include "format/ltx.h"

#define SETTLE_NS (300 * NS_PER_MS)
#define WIDEN_NS (15 * NS_PER_MS)
#define PROBE_EVERY_NS (500 * NS_PER_MS)
/* What was sent may still be under way in a buffer somewhere: absent this often before it counts. */
#define PROBES 3

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

static ptrdiff_t tx_read_at(void *ctx, void *buf, size_t len, uint64_t offset)
{
	struct db *db = ctx;

	return spool_read(&db->ltx, offset, buf, len);
}

int db_ltx_header(struct db *db, uint64_t txid, struct ltx_header *ret)
{
	struct role_state *role = calloc(1, sizeof *role);
	uint8_t buf[LTX_HEADER_SIZE];
	char path[4096 + 400];
	int fd, n;

	if (!role)
		return -ENOMEM;
	role_get(db->config->role, role);
	n = snprintf(path, sizeof path, "%s/dbs/%s/ltx/%016" PRIx64 "-%016" PRIx64 ".ltx", role->path, db->name, txid, txid);
	free(role);
	if (n < 0 || (size_t)n >= sizeof path)
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = (int)pread(fd, buf, sizeof buf, 0);
	close(fd);
	return n == (int)sizeof buf ? ltx_header_decode(buf, ret) : -EBADMSG;
}

int db_ltx_is_ours(struct db *db, uint64_t txid, int64_t timestamp_ms)
{
	struct ltx_header header;
	int err = db_ltx_header(db, txid, &header);

	if (err)
		return err;
	return header.node_id == db->config->node_id && header.timestamp_ms == timestamp_ms;
}

static int files_get(struct db *db)
{
	int err;

	pthread_mutex_lock(&db->mu);
	err = db_files_get_locked(db);
	pthread_mutex_unlock(&db->mu);
	return err;
}

static void files_put(struct db *db, int err)
{
	pthread_mutex_lock(&db->mu);
	db_files_put_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

static bool is_absent(struct db *db)
{
	bool absent;

	pthread_mutex_lock(&db->mu);
	absent = db->absent;
	pthread_mutex_unlock(&db->mu);
	return absent;
}

/* Of a database that this commit creates: its files come when LiteFS has applied it. */
static int created_pos(struct db *db)
{
	int err;

	pthread_mutex_lock(&db->mu);
	db_token_enter_locked(db);
	pthread_mutex_unlock(&db->mu);
	err = db_appear(db, true);
	pthread_mutex_lock(&db->mu);
	db_token_leave_locked(db);
	pthread_mutex_unlock(&db->mu);
	return err;
}

/* LiteFS' position here; -ENOTCONN while it is gone, -ENOENT while it does not have the database. */
static int local_pos(struct db *db, struct pos *ret)
{
	int err;

	if (is_absent(db)) {
		err = created_pos(db);
		if (err)
			return err;
	}
	err = files_get(db);
	if (err)
		return err;
	err = lfs_files_pos(&db->files, ret);
	files_put(db, err);
	return err;
}

/* Where a commit goes, with the role as it is now; self stands for LiteFS' locks where there are files to lock. */
static int probe(struct db *db, bool replica, struct pos *ret)
{
	bool absent = is_absent(db);
	struct upstream *up = replica ? db->remote : absent ? db->own : db->self;
	int err = absent ? 0 : files_get(db);

	if (err)
		return err;
	err = upstream_probe(up, clock_now_ns() + NS_PER_S, ret);
	if (!absent)
		files_put(db, 0);
	return err;
}

static void open_window(struct db *db, struct pos after)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	if (db->window) {
		pthread_mutex_unlock(&db->mu);
		return;
	}
	db_token_enter_locked(db);
	db->window = db->files_ok;
	db->pending = after;
	if (db->guard_held) {
		db->guard_held = false;
		db->guard_epoch++;
		pthread_mutex_unlock(&db->mu);
		/* A LiteFS that knows it in a rollback mode waits for SHARED as well. */
		err = db->mode == DB_MODE_WAL ? guard_give_read0(&db->guard) : guard_give_readers(&db->guard);
		pthread_mutex_lock(&db->mu);
	}
	db_token_leave_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

/* LiteFS does not come: it may take this database for one in a rollback mode, which waits for SHARED. */
static void widen_window(struct db *db)
{
	int err = 0;

	pthread_mutex_lock(&db->mu);
	db_token_enter_locked(db);
	if (db->window && db->files_ok) {
		pthread_mutex_unlock(&db->mu);
		err = guard_give_readers(&db->guard);
		pthread_mutex_lock(&db->mu);
	}
	db_token_leave_locked(db);
	if (err)
		db_files_gone_locked(db, err);
	pthread_mutex_unlock(&db->mu);
}

/*
 * LiteFS asks for its locks as soon as the primary streams the transaction, and again after 1, 2, 3 ..
 * ms: the guard had better be away by then.
 */
static void tx_sent(void *ctx)
{
	struct db *db = ctx;

	open_window(db, db->pending);
}

/* Takes the guard back, as long as it takes LiteFS to finish what it is applying. 0, or LiteFS is gone. */
static int take_back_guard(struct db *db)
{
	int err = -EAGAIN;

	for (int64_t pause_ns = 50 * NS_PER_US; err == -EAGAIN;) {
		pthread_mutex_lock(&db->mu);
		db_token_enter_locked(db);
		if (!db->files_ok || !db->window) {
			err = -ENOTCONN;
		} else {
			pthread_mutex_unlock(&db->mu);
			err = guard_take_readers(&db->guard);
			pthread_mutex_lock(&db->mu);
			if (!err) {
				db->guard_held = true;
				db->guard_epoch++;
				db->guard_since_ns = db->idle_since_ns = clock_now_ns();
			}
		}
		db_token_leave_locked(db);
		if (db->stop && err == -EAGAIN)
			err = -ENOTCONN;
		pthread_mutex_unlock(&db->mu);
		if (err == -EAGAIN) {
			clock_sleep_ns(pause_ns);
			if (pause_ns < 2 * NS_PER_MS)
				pause_ns += pause_ns / 4;
		}
	}
	return err;
}

/* A position that is neither what was nor what we sent, under readers: nobody reads a torn snapshot (I7). */
static void close_window_locked(struct db *db, bool ours)
{
	if (!ours) {
		db->valid = false;
		db->rebuild = true;
		if (db_readers_locked(db) && !db->poison) {
			db->poison = true;
			db->stats.poisons++;
		}
	}
	db->window = false;
	pthread_cond_broadcast(&db->changed);
	pthread_cond_signal(&db->g_cond);
}

/* Until LiteFS here stands at `after`, or at something else, or until_ns. 1 there, 0 not yet, -ESTALE elsewhere. */
static int await_pos(struct db *db, struct pos after, int64_t until_ns)
{
	int64_t pause_ns = 40 * NS_PER_US;
	int64_t widen_ns = clock_now_ns() + WIDEN_NS;

	for (;;) {
		struct pos pos;
		int err = local_pos(db, &pos);

		if (!err && pos_equal(pos, after))
			return 1;
		if (!err && pos.txid >= after.txid)
			return -ESTALE;
		if (clock_now_ns() >= until_ns || db->stop)
			return 0;
		if (clock_now_ns() >= widen_ns) {
			widen_window(db);
			widen_ns = INT64_MAX;
		}
		clock_sleep_ns(pause_ns);
		if (pause_ns < NS_PER_MS)
			pause_ns += pause_ns / 4;
	}
}

enum verdict { VERDICT_COMMITTED, VERDICT_NOT_COMMITTED, VERDICT_UNKNOWN };

/*
 * Evidence, in order: the local LiteFS reached that TXID, and its LTX file is or is not ours;
 * fresh locks upstream, again and again, show the position before it. The window is open; upstream was ended.
 */
static enum verdict decide(struct db *db, const struct changeset *cs, int64_t until_ns)
{
	int64_t next_probe = clock_now_ns();
	int absent = 0;

	for (;;) {
		int there = await_pos(db, cs->after, clock_now_ns() + 20 * NS_PER_MS);
		int64_t now = clock_now_ns();
		struct pos pos;

		if (there) {
			int ours = db_ltx_is_ours(db, cs->after.txid, cs->timestamp_ms);

			/* The first transaction comes as a snapshot of LiteFS' own making. There is one such state, and it is ours. */
			if (cs->after.txid == 1 && ours != 1)
				return there == 1 ? VERDICT_COMMITTED : VERDICT_UNKNOWN;
			if (ours == 0)
				return VERDICT_NOT_COMMITTED;
			/* Replicated to here, or built upon: it is in the cluster's one history. */
			if (ours == 1 && (there == -ESTALE || upstream_kind(db->up) == UPSTREAM_REMOTE))
				return VERDICT_COMMITTED;
			if (ours == 1 && probe(db, false, &pos) == 0 && pos_equal(pos, cs->after))
				return VERDICT_COMMITTED; /* still, or again, the primary */
			if (there == -ESTALE && ours < 0)
				return VERDICT_UNKNOWN;
		}
		if (now >= until_ns || db->stop)
			return VERDICT_UNKNOWN;
		if (now >= next_probe) {
			struct role_state *role = calloc(1, sizeof *role);
			bool replica;

			if (!role)
				return VERDICT_UNKNOWN;
			role_get(db->config->role, role);
			replica = role->kind == ROLE_REPLICA;
			free(role);
			if (probe(db, replica, &pos) == 0 &&
			    (pos.txid < cs->after.txid ||
			     (pos.txid == cs->after.txid && pos.checksum != cs->after.checksum)) &&
			    ++absent >= PROBES)
				return VERDICT_NOT_COMMITTED;
			next_probe = clock_now_ns() + PROBE_EVERY_NS;
		}
	}
}

/* Without memory the map is emptied: LiteFS' pages are as good. */
static void note_frames_locked(struct db *db, const struct changeset *cs)
{
	page_map_cut(&db->tip_frames, cs->new_pages);
	for (uint32_t frame = cs->first_frame; frame <= cs->last_frame; frame++) {
		struct vwal_frame f;

		if (vwal_frame(&db->wal, frame, &f, NULL) != 0 ||
		    (f.pgno <= cs->new_pages && page_map_put(&db->tip_frames, f.pgno, frame) != 0)) {
			page_map_clear(&db->tip_frames);
			return;
		}
	}
}

/* The overlay is what LiteFS has now: there is but one state, and only its writer knows it yet. */
static void rollback_done_locked(struct db *db, const struct changeset *cs)
{
	db->base = db->tip = cs->after;
	db->base_pages = cs->new_pages;
	if (page_set_get(&db->overlay, 1, db->scratch) == 0)
		db_note_state_locked(db, db->scratch);
	page_set_reset(&db->overlay, db->page_size);
	db->writing = false;
	if (cs->to_wal)
		db->switching = db->must_fold = true;
}

static void commit_done_locked(struct db *db, const struct changeset *cs, uint32_t frame)
{
	if (cs->refs) {
		rollback_done_locked(db, cs);
	} else {
		note_frames_locked(db, cs);
		db->wal.committed = frame;
		db->index.change++;
	}
	db->tip = cs->after;
	db->up_pos = cs->after;
	db->tip_pages = cs->new_pages;
	db->commit_seq++;
	if (db_writer_locked(db)) /* it may go on reading: what it has committed is no news to it */
		db_writer_locked(db)->read_seq = db->commit_seq;
	clock_gettime(CLOCK_REALTIME, &db->changed_at);
	db->turn_commits++;
	db->committed_in_hold = true;
	db->stats.pages_sent += cs->page_count;
	db->stats.bytes_sent += db->ltx.size;
}

/*
 * The window's end. A committed transaction is a success even if the view is lost meanwhile (LiteFS
 * restarted, or somebody else committed at once): then the clients begin anew when they have let go.
 */
static int finish(struct db *db, const struct changeset *cs, uint32_t frame, bool committed)
{
	struct pos pos = {0};
	int err = take_back_guard(db);
	bool ours;

	if (!err)
		err = local_pos(db, &pos);
	pthread_mutex_lock(&db->mu);
	ours = !err && pos_equal(pos, committed ? cs->after : cs->before);
	if (committed)
		commit_done_locked(db, cs, frame);
	close_window_locked(db, ours);
	pthread_mutex_unlock(&db->mu);
	return committed ? 0 : -EIO;
}

static int undecided(struct db *db, const struct changeset *cs, uint32_t frame, int64_t until_ns)
{
	enum verdict verdict;

	log_warn("commit_outcome_open", "db=%s txid=%016" PRIx64 " checksum=%016" PRIx64, db->name, cs->after.txid,
		 cs->after.checksum);
	/* LiteFS may still be busy with what it was sent, and two of the same TXID share a temporary file there: keep others away. */
	clock_sleep_ns(SETTLE_NS);
	upstream_end(db->up);
	verdict = decide(db, cs, until_ns);
	pthread_mutex_lock(&db->mu);
	db->doomed = true;
	if (verdict == VERDICT_NOT_COMMITTED)
		db->stats.not_committed++;
	if (verdict == VERDICT_UNKNOWN) {
		db->stats.unknown++;
		db->have_unknown = true;
		db->unknown = cs->after;
		db->unknown_timestamp_ms = cs->timestamp_ms;
	}
	pthread_mutex_unlock(&db->mu);
	if (verdict == VERDICT_UNKNOWN)
		log_error("commit_unknown",
			  "db=%s txid=%016" PRIx64 " checksum=%016" PRIx64
			  " do=\"look for commit_verdict later; check before executing the transaction again\"",
			  db->name, cs->after.txid, cs->after.checksum);
	else
		log_warn("commit_decided", "db=%s txid=%016" PRIx64 " verdict=%s", db->name, cs->after.txid,
			 verdict == VERDICT_COMMITTED ? "committed" : "not_committed");
	return finish(db, cs, frame, verdict == VERDICT_COMMITTED);
}

/* 0: not known. */
static uint64_t primary_epoch(struct db *db)
{
	struct role_state *role = calloc(1, sizeof *role);
	uint64_t epoch;

	if (!role)
		return 0;
	role_get(db->config->role, role);
	epoch = role->kind == ROLE_UNKNOWN ? 0 : role->epoch;
	free(role);
	return epoch;
}

static int send_and_settle(struct db *db, struct changeset *cs, uint32_t frame)
{
	/* Half of commit_timeout for the answer, half to find out without one; a large one may take longer. */
	int64_t start = clock_now_ns(), sent, half_ns = db->config->settings->commit_timeout_ms * NS_PER_MS / 2;
	int64_t tx_ns = upstream_tx_ns(db->up, db->ltx.size), send_ns = half_ns > 2 * tx_ns ? half_ns : 2 * tx_ns;
	int64_t until = start + 2 * send_ns;
	bool remote = upstream_kind(db->up) != UPSTREAM_SELF, creates = is_absent(db);
	struct upstream_tx tx = {
		.before = cs->before, .after = cs->after, .size = db->ltx.size, .read_at = tx_read_at, .sent = tx_sent, .ctx = db};
	enum outcome outcome;
	uint64_t epoch = primary_epoch(db);
	int err = creates ? 0 : files_get(db), there;
	bool early;

	db->pending = cs->after; /* for tx_sent(); nobody looks at it outside the window */
	if (!err) {
		outcome = upstream_commit(db->up, &tx, start + send_ns);
		if (!creates)
			files_put(db, 0);
	} else {
		outcome = OUTCOME_REFUSED;
	}
	sent = clock_now_ns();
	if (outcome == OUTCOME_REFUSED) {
		pthread_mutex_lock(&db->mu);
		db->stats.refused++;
		db->doomed = true;
		early = db->window;
		pthread_mutex_unlock(&db->mu);
		return early ? finish(db, cs, frame, false) : -EIO;
	}
	if (outcome == OUTCOME_UNKNOWN) {
		open_window(db, cs->after);
		return undecided(db, cs, frame, until);
	}
	/* A first transaction comes as a snapshot, for which LiteFS takes its own locks; and on this node they are the guard. */
	if (creates) {
		upstream_end(db->up);
		pthread_mutex_lock(&db->mu);
		db->end_wanted = true;
		pthread_mutex_unlock(&db->mu);
	}
	if (remote) {
		open_window(db, cs->after);
		there = await_pos(db, cs->after, until);
		/*
		 * Others have written to it before it came here, as a snapshot that says nothing of us. It was applied by the
		 * node that is still the primary, so it is in that.
		 */
		if (there == -ESTALE && creates && epoch && primary_epoch(db) == epoch)
			there = 1;
		if (there != 1)
			return undecided(db, cs, frame, until);
		err = finish(db, cs, frame, true);
	} else {
		pthread_mutex_lock(&db->mu);
		commit_done_locked(db, cs, frame);
		pthread_mutex_unlock(&db->mu);
	}
	if (!err) {
		pthread_mutex_lock(&db->mu);
		if (remote)
			db->stats.commits_remote++;
		else
			db->stats.commits_self++;
		db->stats.send_ns += (uint64_t)(sent - start);
		db->stats.replicate_ns += (uint64_t)(clock_now_ns() - sent);
		pthread_mutex_unlock(&db->mu);
	}
	return err;
}

/* The overlay's pages. NULL: no memory. */
static struct page_ref *list_overlay(struct db *db, uint32_t *ret_count)
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

	if (!is_absent(db) || cs->before.txid == 0)
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

static int build(struct db *db, struct changeset *cs)
{
	const struct changeset_source source = {cs->refs ? source_overlay : source_frame, source_old_page, source_keep, db};
	bool absent = is_absent(db);
	int err = check_page_size(db, cs);

	if (!err && !absent)
		err = files_get(db);
	if (err)
		return err;
	err = changeset_build(cs, &source, &db->ltx);
	if (!absent)
		files_put(db, 0);
	return err;
}

static void nothing_to_commit_locked(struct db *db)
{
	page_set_reset(&db->overlay, db->page_size);
	db->writing = false;
	db->stats.commits_empty++;
}

/* From its writer's hold on it has committed before: is there anything new? */
static int overlay_differs(struct db *db, bool *ret)
{
	uint8_t *pages = malloc((size_t)db->page_size * 2);
	uint32_t n = 0;
	struct page_ref *refs = pages ? list_overlay(db, &n) : NULL;
	int err = refs ? files_get(db) : -ENOMEM;
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
		files_put(db, 0);
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
static int count_change(struct db *db, bool *ret_rollback)
{
	uint8_t *old_page = malloc(db->page_size), *page = malloc(db->page_size);
	bool differs = false, held_over;
	uint32_t counter;
	int err = old_page && page ? files_get(db) : -ENOMEM;

	if (!err) {
		err = source_old_page(db, 1, old_page);
		files_put(db, 0);
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

static int commit_refs(struct db *db, uint32_t frame, const struct page_ref *refs, uint32_t ref_count)
{
	int64_t start = clock_now_ns();
	struct changeset cs = {
		.db_name = db->name,
		.page_size = db->page_size,
		.first_frame = db->wal.committed + 1,
		.last_frame = frame,
		.old_pages = db->tip_pages,
		.before = db->tip,
		.node_id = db->config->node_id,
		.timestamp_ms = clock_wall_ms(),
	};
	int err;

	if (refs) {
		cs.refs = refs;
		cs.ref_count = ref_count;
		cs.new_pages = db->overlay_pages;
		cs.any_mode = true;
	}
	err = build(db, &cs);
	if (err) {
		log_warn("commit_not_built", "db=%s txid=%016" PRIx64 " error=\"%s\"", db->name, cs.before.txid + 1,
			 strerror(-err));
		return err == -ENOSPC || err == -ENOMEM ? err : -EIO;
	}
	pthread_mutex_lock(&db->mu);
	db->stats.prepare_ns += (uint64_t)(clock_now_ns() - start);
	if (cs.page_count == 0 && cs.new_pages == cs.old_pages) {
		/* The same bytes again (a sector filled up with the last frame; a rollback): nothing to tell anybody. */
		if (cs.refs) {
			nothing_to_commit_locked(db);
		} else {
			db->wal.committed = frame;
			db->index.change++;
			db->committed_in_hold = true;
			db->stats.commits_empty++;
		}
		pthread_mutex_unlock(&db->mu);
		return 0;
	}
	err = db_renew_for_locked(db, db->ltx.size);
	pthread_mutex_unlock(&db->mu);
	return err ? -EIO : send_and_settle(db, &cs, frame);
}

static int commit(struct db *db, uint32_t frame)
{
	struct page_ref *refs;
	bool rollback = false;
	uint32_t n;
	int err = 0;

	if (db->mode == DB_MODE_WAL)
		return commit_refs(db, frame, NULL, 0);
	if (db->tip_pages == 0)
		rollback = db->overlay_pages == 0; /* of what was to be a new database */
	else
		err = count_change(db, &rollback);
	if (err)
		return -EIO;
	if (rollback) {
		pthread_mutex_lock(&db->mu);
		nothing_to_commit_locked(db);
		pthread_mutex_unlock(&db->mu);
		return 0;
	}
	refs = list_overlay(db, &n);
	err = refs ? commit_refs(db, 0, refs, n) : -ENOMEM;
	free(refs);
	return err;
}

void db_commit(struct db *db)
{
	struct db_call *call = db->commit_call;
	uint32_t frame = db->commit_frame;
	bool doomed = db->doomed; /* since the frame came: in a renewal, or by a change of role */
	int err = -EIO;

	if (!doomed) {
		pthread_mutex_unlock(&db->mu);
		err = commit(db, frame);
		pthread_mutex_lock(&db->mu);
	}
	spool_reset(&db->ltx);
	db->commit_call = NULL;
	db->up_state = UP_HELD;
	db->up_idle_since_ns = clock_now_ns();
	if (db->mode == DB_MODE_ROLLBACK) {
		if (err) /* no hot journal is left behind */
			db_drop_transaction_locked(db);
		else
			db_finish_journal_locked(db, db->journal_end);
		/* A super-journal's end is not yet the end: where another database failed, this one is taken back now. */
		db->between = !vjournal_is_hot(&db->journal);
		if (!db_writer_locked(db) && vjournal_is_hot(&db->journal))
			vjournal_remove(&db->journal); /* the owner died in a call that ended a super-journal */
	} else if (!db_writer_locked(db) && db->committed_in_hold) {
		/* The client may have died in its write(): its locks are gone, and so is its wal-index header. */
		db->must_fold = true;
	}
	db->settling = true;
	pthread_cond_signal(&db->g_cond);
	call->done(call, err);
	pthread_mutex_unlock(&db->mu);
	upstream_settle(db->up);
	pthread_mutex_lock(&db->mu);
	db->settling = false;
}
