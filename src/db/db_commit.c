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
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "db/db_commit.h"
#include "base/probe.h"
#include "db/db_internal.h"

#define SETTLE_NS (300 * NS_PER_MS)
#define AWAIT_SLICE_NS (500 * NS_PER_MS)

static ptrdiff_t tx_read_at(void *ctx, void *buf, size_t len, uint64_t offset)
{
	struct db *db = ctx;
	ptrdiff_t n = spool_read(&db->ltx, offset, buf, len);

	if (n > 0)
		atomic_store_explicit(&db->upload_sent, offset + (uint64_t)n, memory_order_relaxed);
	return n;
}

/*
 * LiteFS asks for its locks as soon as the primary streams the transaction, and again after 1, 2, 3 ..
 * ms: the guard had better be away by then.
 */
static void tx_sent(void *ctx)
{
	struct db *db = ctx;

	db_open_window(db, db->pending);
}

/* False, without memory: the map is emptied. LiteFS' pages are as good, if it stands at tip. */
static bool note_frames_locked(struct db *db, const struct changeset *cs)
{
	page_map_cut(&db->tip_frames, cs->new_pages);
	for (uint32_t frame = cs->first_frame; frame <= cs->last_frame; frame++) {
		struct vwal_frame f;

		if (vwal_frame(&db->wal, frame, &f, NULL) != 0 ||
		    (f.pgno <= cs->new_pages && page_map_put(&db->tip_frames, f.pgno, frame) != 0)) {
			page_map_clear(&db->tip_frames);
			return false;
		}
	}
	return true;
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
		db->switching = db->must_fold = true; /* (in a rollback mode nothing is unpublished) */
}

void db_commit_done_locked(struct db *db, const struct changeset *cs, uint32_t frame)
{
	if (cs->refs) {
		rollback_done_locked(db, cs);
	} else {
		if (!note_frames_locked(db, cs) && db->behind_count) {
			db->rebuild = true;
			db_poison_locked(db);
		}
		db->wal.committed = frame;
		if (!cs->adopted) /* its writer publishes it */
			db->index.change++;
	}
	db->tip = cs->after;
	db->up_pos = db->primary_pos = cs->after;
	db->tip_pages = cs->new_pages;
	db->commit_seq++;
	db->committed_ns = clock_now_ns();
	db->fold_in_vain = false;
	clock_gettime(CLOCK_REALTIME, &db->changed_at);
	if (db->up_state == UP_PUBLISH)
		return;
	if (db_writer_locked(db)) /* it may go on reading: what it has committed is no news to it */
		db_writer_locked(db)->read_seq = db->commit_seq;
	db->turn_commits++;
	db_note_turn_commit_locked(db);
	db->committed_in_hold = true;
	db->stats.pages_sent += cs->page_count;
	db->stats.bytes_sent += db->ltx.size;
}

/*
 * The window's end. A committed transaction is a success even if the view is lost meanwhile (LiteFS
 * restarted, or somebody else committed at once): then the clients begin anew when they have let go.
 */
static void finish(struct db *db, const struct changeset *cs, uint32_t frame, bool committed)
{
	struct pos pos = {0};
	int err = db_take_back_guard(db);
	bool ours;

	if (!err)
		err = db_local_pos(db, &pos);
	pthread_mutex_lock(&db->mu);
	ours = !err && (committed ? pos_equal(pos, cs->after) : db_pos_fits_locked(db, pos));
	if (!err)
		db->litefs_pos = pos;
	if (committed)
		db_commit_done_locked(db, cs, frame);
	if (committed && ours)
		db->behind_count = 0;
	db_close_window_locked(db, ours);
	pthread_mutex_unlock(&db->mu);
}

/*
 * LiteFS may still be busy with what it was sent, for it applies that without a lock and whoever has hung up, and two of the same TXID share
 * a temporary file there: keep the others away for as long as that may take. (Self has waited for it, and lost only a LiteFS that is gone.)
 */
static void settle(struct db *db, struct pos after)
{
	int64_t busy_ns = upstream_tx_ns(db->up, db->ltx.size) - upstream_tx_ns(db->up, 0);

	clock_sleep_ns(SETTLE_NS);
	if (upstream_kind(db->up) != UPSTREAM_SELF)
		db_await_pos(db, after, clock_now_ns() + busy_ns);
}

static enum verdict undecided(struct db *db, const struct changeset *cs, uint32_t frame, int64_t until_ns)
{
	const struct db_unknown unknown = {
		.after = cs->after,
		.node_id = cs->node_id,
		.timestamp_ms = cs->timestamp_ms,
		.here = upstream_kind(db->up) == UPSTREAM_SELF || upstream_kind(db->up) == UPSTREAM_OWN,
	};
	enum verdict verdict;

	db_set_phase(db, PHASE_DECIDE);
	log_warn("commit_outcome_open", "db=%s txid=%016" PRIx64 " checksum=%016" PRIx64, db->name, cs->after.txid,
		 cs->after.checksum);
	settle(db, cs->after);
	upstream_end(db->up);
	verdict = db_decide(db, cs, until_ns);
	pthread_mutex_lock(&db->mu);
	db->doomed = true;
	db->tx_outcome = verdict == VERDICT_COMMITTED ? DB_TX_COMMITTED : verdict == VERDICT_UNKNOWN ? DB_TX_UNKNOWN : DB_TX_NOT_COMMITTED;
	if (verdict == VERDICT_NOT_COMMITTED)
		db->stats.not_committed++;
	if (verdict == VERDICT_UNKNOWN)
		db_note_unknown_locked(db, &unknown);
	pthread_mutex_unlock(&db->mu);
	if (verdict != VERDICT_UNKNOWN)
		log_warn("commit_decided", "db=%s txid=%016" PRIx64 " verdict=%s", db->name, cs->after.txid,
			 verdict == VERDICT_COMMITTED ? "committed" : "not_committed");
	finish(db, cs, frame, verdict == VERDICT_COMMITTED);
	return verdict;
}

/*
 * Acknowledged, and on its way here. Where there is another primary by now it may never come, and waiting longer for that is the
 * business of who looks for evidence. As db_await_pos().
 */
static int await_replica(struct db *db, struct pos after, int64_t until_ns)
{
	struct upstream_node sent_to, node;
	int there;

	upstream_node(db->up, &sent_to);
	do {
		there = db_await_pos(db, after, clock_now_ns() + AWAIT_SLICE_NS < until_ns ? clock_now_ns() + AWAIT_SLICE_NS : until_ns);
	} while (!there && clock_now_ns() < until_ns && !db_is_over(db) && (!db_primary_node(db, &node) || upstream_node_equal(&node, &sent_to)));
	return there;
}

enum verdict db_send(struct db *db, struct changeset *cs, uint32_t frame)
{
	/* Half of commit_timeout for the answer, half to find out without one; a large one may take longer. */
	int64_t start = clock_now_ns(), sent, half_ns = db->config->settings->commit_timeout_ms * NS_PER_MS / 2;
	int64_t tx_ns = upstream_tx_ns(db->up, db->ltx.size), send_ns = half_ns > 2 * tx_ns ? half_ns : 2 * tx_ns;
	int64_t until = start + 2 * send_ns;
	bool remote = upstream_kind(db->up) != UPSTREAM_SELF, creates = db_is_absent(db);
	struct upstream_tx tx = {
		.before = cs->before, .after = cs->after, .size = db->ltx.size, .read_at = tx_read_at, .sent = tx_sent, .ctx = db};
	/* A gateway takes its half, too, where a reader of its node is in the way: its answer is worth more than evidence. */
	int64_t answer_ns = upstream_kind(db->up) == UPSTREAM_GATEWAY ? send_ns + send_ns / 2 : send_ns;
	enum outcome outcome;
	uint64_t epoch = db_primary_epoch(db);
	int err = creates ? 0 : db_files_get(db), there;
	bool early;

	db->pending = cs->after; /* for tx_sent(); nobody looks at it outside the window */
	atomic_store_explicit(&db->upload_sent, 0, memory_order_relaxed);
	atomic_store_explicit(&db->upload_size, db->ltx.size, memory_order_relaxed);
	db_set_phase(db, PHASE_SEND);
	PROBE3(commit_send, db->name, cs->after.txid, db->ltx.size);
	if (!err) {
		outcome = upstream_commit(db->up, &tx, start + answer_ns);
		if (!creates)
			db_files_put(db, 0);
	} else {
		outcome = OUTCOME_REFUSED;
	}
	sent = clock_now_ns();
	if (outcome == OUTCOME_REFUSED) {
		pthread_mutex_lock(&db->mu);
		db->tx_outcome = DB_TX_REFUSED;
		db->stats.refused++;
		db->doomed = true;
		early = db->window;
		pthread_mutex_unlock(&db->mu);
		if (early)
			finish(db, cs, frame, false);
		return VERDICT_NOT_COMMITTED;
	}
	if (outcome == OUTCOME_UNKNOWN) {
		db_open_window(db, cs->after);
		return undecided(db, cs, frame, until);
	}
	/* A first transaction comes as a snapshot, for which LiteFS takes its own locks; and on this node they are the guard. */
	if (creates) {
		upstream_end(db->up);
		pthread_mutex_lock(&db->mu);
		db->end_wanted = true;
		pthread_mutex_unlock(&db->mu);
	}
	db_set_phase(db, PHASE_REPLICATE);
	PROBE2(commit_sent, db->name, cs->after.txid);
	if (remote) {
		db_open_window(db, cs->after);
		there = await_replica(db, cs->after, until);
		/*
		 * Others have written to it before it came here, as a snapshot that says nothing of us. It was applied by the
		 * node that is still the primary, so it is in that.
		 */
		if (there == -ESTALE && creates && epoch && db_primary_epoch(db) == epoch)
			there = 1;
		/* By another primary, perhaps: equal statements of two nodes can give equal checksums. */
		if (there == 1 && !creates && (!epoch || db_primary_epoch(db) != epoch) &&
		    db_ltx_is_of(db, cs->after.txid, cs->node_id, cs->timestamp_ms) == 0)
			there = -ESTALE;
		if (there != 1)
			return undecided(db, cs, frame, until);
		finish(db, cs, frame, true);
	} else {
		pthread_mutex_lock(&db->mu);
		db_commit_done_locked(db, cs, frame);
		db->litefs_pos = cs->after;
		pthread_mutex_unlock(&db->mu);
	}
	pthread_mutex_lock(&db->mu);
	db->tx_outcome = DB_TX_COMMITTED;
	db_measure(DB_HISTOGRAM(db, send), sent - start);
	db_measure(DB_HISTOGRAM(db, replicate), clock_now_ns() - sent);
	if (upstream_kind(db->up) == UPSTREAM_GATEWAY)
		db->stats.commits_gateway++;
	else if (remote)
		db->stats.commits_remote++;
	else if (!cs->adopted)
		db->stats.commits_self++;
	db->stats.send_ns += (uint64_t)(sent - start);
	db->stats.replicate_ns += (uint64_t)(clock_now_ns() - sent);
	db_report_unknowns_locked(db, cs->after, false); /* this TXID was taken by this one, then */
	pthread_mutex_unlock(&db->mu);
	return VERDICT_COMMITTED;
}

static void nothing_to_commit_locked(struct db *db)
{
	page_set_reset(&db->overlay, db->page_size);
	db->writing = false;
	db->tx_outcome = DB_TX_OUTCOMES;
	db->stats.commits_empty++;
}

static enum verdict commit_refs(struct db *db, uint32_t frame, const struct page_ref *refs, uint32_t ref_count, int *ret_reason)
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
		.timestamp_ms = db_timestamp_ms(db, db->tip),
	};
	int err;

	if (refs) {
		cs.refs = refs;
		cs.ref_count = ref_count;
		cs.new_pages = db->overlay_pages;
		cs.any_mode = true;
	}
	err = db_build_ltx(db, &cs);
	if (err) {
		log_warn("commit_not_built", "db=%s txid=%016" PRIx64 " error=\"%s\"", db->name, cs.before.txid + 1,
			 strerror(-err));
		*ret_reason = err == -ENOSPC || err == -ENOMEM ? err : -EIO;
		return VERDICT_NOT_COMMITTED;
	}
	pthread_mutex_lock(&db->mu);
	db->stats.prepare_ns += (uint64_t)(clock_now_ns() - start);
	db_measure(DB_HISTOGRAM(db, build), clock_now_ns() - start);
	if (cs.page_count == 0 && cs.new_pages == cs.old_pages) {
		/* The same bytes again (a sector filled up with the last frame; a rollback): nothing to tell anybody. */
		if (cs.refs) {
			nothing_to_commit_locked(db);
		} else {
			db->wal.committed = frame;
			db->index.change++;
			db->committed_in_hold = true;
			db->tx_outcome = DB_TX_OUTCOMES;
			db->stats.commits_empty++;
		}
		pthread_mutex_unlock(&db->mu);
		return VERDICT_COMMITTED;
	}
	err = db_renew_for_locked(db, db->ltx.size);
	pthread_mutex_unlock(&db->mu);
	return err ? VERDICT_NOT_COMMITTED : db_send(db, &cs, frame);
}

/* *ret_reason is of NOT_COMMITTED, and -EIO unless something better is known. */
static enum verdict commit(struct db *db, uint32_t frame, int *ret_reason)
{
	enum verdict verdict = VERDICT_NOT_COMMITTED;
	struct page_ref *refs;
	bool rollback = false;
	uint32_t n;
	int err = 0;

	if (db->mode == DB_MODE_WAL)
		return commit_refs(db, frame, NULL, 0, ret_reason);
	if (db->tip_pages == 0)
		rollback = db->overlay_pages == 0; /* of what was to be a new database */
	else
		err = db_count_change(db, &rollback);
	if (err) {
		*ret_reason = err == -ENOMEM ? err : -EIO;
		return VERDICT_NOT_COMMITTED;
	}
	if (rollback) {
		pthread_mutex_lock(&db->mu);
		nothing_to_commit_locked(db);
		pthread_mutex_unlock(&db->mu);
		return VERDICT_COMMITTED;
	}
	refs = db_list_overlay(db, &n);
	*ret_reason = refs ? -EIO : -ENOMEM;
	if (refs)
		verdict = commit_refs(db, 0, refs, n, ret_reason);
	free(refs);
	return verdict;
}

bool db_committed_by(struct db *db, pid_t tgid)
{
	const struct lock_owner *writer;
	bool yes;

	pthread_mutex_lock(&db->mu);
	writer = db_writer_locked(db);
	yes = db->mode == DB_MODE_WAL && db->committed_in_hold && writer && writer->tgid == tgid;
	pthread_mutex_unlock(&db->mu);
	return yes;
}

void db_commit(struct db *db)
{
	struct db_call *call = db->commit_call;
	struct db_session *session = db->commit_session;
	uint32_t frame = db->commit_frame;
	pid_t tgid = db->mode == DB_MODE_WAL && db_writer_locked(db) ? db_writer_locked(db)->tgid : 0;
	bool doomed = db->doomed; /* since the frame came: in a renewal, or by a change of role */
	enum verdict verdict = VERDICT_NOT_COMMITTED;
	int err = -EIO;

	db->commit_since_ns = clock_now_ns();
	db->tx_outcome = DB_TX_NOT_SENT;
	atomic_store_explicit(&db->upload_size, 0, memory_order_relaxed);
	db_set_phase(db, PHASE_BUILD);
	if (!doomed) {
		pthread_mutex_unlock(&db->mu);
		verdict = session ? db_commit_foreign(db, &err) : commit(db, frame, &err);
		/* SQLite has no word for "unknown": an I/O error is what makes a program look again. Everybody else gets the verdict. */
		if (verdict != VERDICT_NOT_COMMITTED)
			err = verdict == VERDICT_COMMITTED ? 0 : -EIO;
		if (err && tgid > 0 && db->config->notify->commit_failed)
			db->config->notify->commit_failed(db->notify_ctx, tgid); /* while its locks tell what belongs together */
		pthread_mutex_lock(&db->mu);
	}
	db_note_tx_locked(db, session != NULL);
	db_set_phase(db, PHASE_NONE);
	spool_reset(&db->ltx);
	db->commit_call = NULL;
	db->commit_session = NULL;
	db->turn_over = upstream_yield(db->up);
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
	} else if (!session && !db_writer_locked(db) && db->committed_in_hold) {
		/* The client may have died in its write(): its locks are gone, and so is its wal-index header. */
		db_must_publish_locked(db);
	}
	db->settling = true;
	pthread_cond_signal(&db->g_cond);
	if (session)
		db_end_session_commit_locked(db, session, verdict);
	call->done(call, err);
	if (session)
		db_end_session_locked(db, session);
	pthread_mutex_unlock(&db->mu);
	upstream_settle(db->up);
	pthread_mutex_lock(&db->mu);
	db->settling = false;
}
