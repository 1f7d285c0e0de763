/*
 * The upstream worker: begin, commit, end, one at a time.
 *
 * What is held is kept for a while after a commit (linger), for the next transaction of this
 * node costs one round trip less then; never longer than halt_max_hold, and followed by
 * halt_pause, for nobody else can write this database meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/probe.h"
#include "db/db_internal.h"
#include "format/ltx.h"

/* No primary: answer BUSY at once for this long instead of asking again and again. */
#define RETRY_NS (100 * NS_PER_MS)
#define QUOTA_MIN 4
/* A gateway that is not there, or cannot have this database, is asked again after so long. */
#define GATEWAY_RETRY_NS (3 * NS_PER_S)
#define REFRESH_WAIT_NS (2 * NS_PER_S)
#define REFRESH_REST 5 /* after one in vain, so many times as long as it held the lock */
/* Others wait for it: less than KEEP_NS, but more than SQLite sleeps after its first tries. */
#define GATEWAY_KEEP_NS (40 * NS_PER_MS)

static struct log_limit limit_begin;

/* mu is let go. */
static struct upstream *choose_locked(struct db *db)
{
	bool absent = db->absent;
	bool gateway = db->gateway && !absent && db->mode == DB_MODE_WAL && clock_now_ns() >= db->gateway_retry_ns;
	struct upstream *up = NULL;
	enum role_kind kind;

	pthread_mutex_unlock(&db->mu);
	kind = role_kind_now(db->config->role);
	pthread_mutex_lock(&db->mu);
	if (kind == ROLE_PRIMARY)
		up = absent ? db->own : db->self;
	else if (kind == ROLE_REPLICA)
		up = gateway ? db->gateway : db->remote;
	return up;
}

void db_note_peer(struct db *db, uint64_t txid)
{
	struct db_peer *slot = &db->peers[0];
	struct role_state *role;
	struct ltx_header header;
	uint64_t litefs_id = 0;

	if (db_ltx_header(db, txid, &header) != 0 || header.node_id == db->config->node_id)
		return;
	role = calloc(1, sizeof *role);
	if (role) {
		role_get(db->config->role, role);
		litefs_id = role->server_id;
	}
	free(role);
	if (header.node_id == litefs_id)
		return; /* a direct client of this node */
	pthread_mutex_lock(&db->mu);
	for (int i = 0; i < PEERS_MAX; i++) {
		if (db->peers[i].node_id == header.node_id) {
			slot = &db->peers[i];
			break;
		}
		if (db->peers[i].seen_ns < slot->seen_ns)
			slot = &db->peers[i];
	}
	*slot = (struct db_peer){header.node_id, clock_now_ns()};
	pthread_mutex_unlock(&db->mu);
}

int db_peers_locked(const struct db *db, int64_t now)
{
	int n = 0;

	for (int i = 0; i < PEERS_MAX; i++)
		n += db->peers[i].seen_ns && now - db->peers[i].seen_ns < PEER_RECENT_NS;
	return n;
}

/*
 * A commit takes less time on the primary than on a replica, and turns are measured in time: so that it does not
 * commit more than the others, its turn is over, too, after as many commits as they had in such a time meanwhile.
 */
static void set_quota_locked(struct db *db, struct pos pos)
{
	int64_t away_ns = db->hold_since_ns - db->turn_end_ns;
	uint64_t theirs = pos.txid - db->turn_end_txid;

	db->turn_commits = 0;
	db->turn_quota = UINT32_MAX;
	if (!db->up_is_self || !db->turn_end_ns || !db_peers_locked(db, db->hold_since_ns) || pos.txid <= db->turn_end_txid)
		return;
	if (away_ns < 3 * PEER_RECENT_NS && theirs < 100000)
		db->turn_quota = QUOTA_MIN + (uint32_t)(theirs * (uint64_t)db->hold_span_ns / (uint64_t)(away_ns + 1));
}

static void set_hold_end_locked(struct db *db)
{
	int64_t max_ns = db->config->settings->halt_max_hold_ms * NS_PER_MS;

	db->rtt_ns = upstream_rtt_ns(db->up);
	/* At 50 ms round trip a hold of 100 ms would be one transaction. */
	db->hold_span_ns = db->rtt_ns * 10 > max_ns ? db->rtt_ns * 10 : max_ns;
	if (db->up == db->gateway) /* which says when others wait */
		db->hold_span_ns = 3600 * NS_PER_S;
	db->hold_end_ns = db->hold_since_ns + db->hold_span_ns;
}

static int64_t hold_end_locked(const struct db *db, int64_t now)
{
	if (db->up_is_self && db->sessions && !db_peers_locked(db, now))
		return db->hold_since_ns + HOLD_LONE_NS;
	return db->hold_end_ns;
}

bool db_hold_is_over_locked(const struct db *db, int64_t now)
{
	return now >= hold_end_locked(db, now);
}

/* The transactions that begin has brought; without them LiteFS here has to catch up first. */
static void publish_bundle_locked(struct db *db, const struct upstream_grant *grant)
{
	int err;

	if (!grant->tx_count || pos_equal(grant->pos, db->tip) || !db->guard_held || !db->valid || db->poison || db->must_fold ||
	    db->mode != DB_MODE_WAL || db->absent || db->behind_count + grant->tx_count > BEHIND_MAX)
		return;
	/*
	 * A writer that has lost upstream goes on until it is told so, and what it has written stands where these would: with
	 * what it writes next behind them, half of its transaction would be one.
	 */
	if (db_writer_locked(db))
		return;
	db->up_state = UP_PUBLISH;
	pthread_mutex_unlock(&db->mu);
	err = db_publish_bundle(db, grant);
	pthread_mutex_lock(&db->mu);
	if (err == -EBADMSG) {
		log_error("gateway_bundle_refused", "db=%s do=\"this database goes by LiteFS' HALT lock for some seconds\"", db->name);
		db->gateway_retry_ns = clock_now_ns() + GATEWAY_RETRY_NS;
	}
}

static int begin_upstream_locked(struct db *db, struct upstream *up, int64_t until, struct upstream_grant *ret)
{
	bool absent = db->absent; /* then there is nothing of LiteFS' to use */
	int err = absent ? 0 : db_files_get_locked(db);
	struct pos have;

	if (err)
		return -EHOSTUNREACH;
	db->up_rollback = db->mode == DB_MODE_ROLLBACK;
	db_token_enter_locked(db);
	guard_set_rollback(&db->guard, db->up_rollback);
	db_token_leave_locked(db);
	have = db->tip;
	pthread_mutex_unlock(&db->mu);
	err = upstream_begin(up, have, until, ret);
	pthread_mutex_lock(&db->mu);
	if (!absent)
		db_files_put_locked(db);
	if (err == -ENOTCONN) { /* where nobody reads, nobody else finds out: a session needs no READ */
		db_files_gone_locked(db, err);
		err = -EHOSTUNREACH;
	}
	/* Dropped, or never there: any such position is an empty database's, and ours. */
	if (!err && db->absent && db->valid && db_pos_is_empty(ret->pos))
		db->base = db->tip = ret->pos;
	return err;
}

/*
 * The primary, under its lock, stands before what a former one's gateway gave us: that was never replicated, and went with it.
 * No LiteFS will bring it; a view that waited for it would be valid for ever, and no begin would ever find its position here.
 */
static void lose_behind_locked(struct db *db, struct pos pos)
{
	static struct log_limit limit;

	if (log_allow(&limit, 1000))
		log_warn("history_lost",
			 "db=%s txid=%016" PRIx64 " shown=%016" PRIx64
			 " do=\"a failover of LiteFS dropped what the old primary had not replicated\"",
			 db->name, pos.txid, db->tip.txid);
	db->behind_count = 0;
	db->rebuild = true;
	db->stats.histories_lost++;
	db_poison_locked(db);
}

static void note_begin_locked(struct db *db, const struct upstream *up, int err, int64_t start_ns)
{
	int64_t took_ns = clock_now_ns() - start_ns;
	enum db_begin_outcome outcome = !err ? DB_BEGIN_HELD : err == -EAGAIN ? DB_BEGIN_BUSY : err == -EHOSTUNREACH ? DB_BEGIN_AWAY : DB_BEGIN_FAILED;

	db->stats.begins++;
	PROBE4(begin_done, db->name, up ? (int)db_path_of(up) : -1, err, took_ns);
	if (up)
		db_measure(DB_HISTOGRAM(db, begin[db_path_of(up)][outcome]), took_ns);
}

/*
 * A session is also a reader (hold() in db_session.c). Under WRITE LiteFS stays at pos; if that is not ours, or the guard is
 * not to be had at once, it is G's business. Not behind a token: what G takes meanwhile it makes valid itself, perhaps by beginning anew.
 */
static void take_guard_along_locked(struct db *db, struct pos pos)
{
	if (!db->sessions || db->guard_held || db->token || db->poison || db->rebuild || db->mode != DB_MODE_WAL || !pos_equal(pos, db->tip))
		return;
	if (db->absent || db_files_get_locked(db) != 0)
		return;
	if (db_take_guard_locked(db) == 0 && db->guard_held && !db->poison && !db->rebuild && db_pos_fits_locked(db, pos)) {
		db->valid = true;
		db->behind_lost_ns = 0;
		db->litefs_pos = pos;
	}
	db_files_put_locked(db);
	pthread_cond_signal(&db->g_cond); /* who gives it back */
}

static void begin_locked(struct db *db)
{
	int64_t start = clock_now_ns();
	int64_t until = start + db->config->settings->halt_timeout_ms * NS_PER_MS;
	struct upstream_grant grant = {0};
	struct upstream *up;
	struct pos pos;
	int err = -EHOSTUNREACH;

	db->want_begin = false;
	if (start - db->turn_end_ns > 2 * LONG_PAUSE_NS) /* others have had their time */
		db->long_pause_ns = start;
	db->up_state = UP_BEGIN;
	db->doomed = db->end_wanted = false;
	db->up = up = choose_locked(db);
	PROBE2(begin_start, db->name, up ? (int)db_path_of(up) : -1);
	if (up)
		err = begin_upstream_locked(db, up, until, &grant);
	if (err == -ENOTSUP && up == db->gateway) {
		db->gateway_retry_ns = clock_now_ns() + GATEWAY_RETRY_NS;
		db->up = up = db->remote;
		err = begin_upstream_locked(db, up, until, &grant);
	}
	if (!err)
		publish_bundle_locked(db, &grant);
	if (!err && up == db->self)
		take_guard_along_locked(db, grant.pos);
	pos = grant.pos;
	note_begin_locked(db, up, err, start);
	if (err) {
		db->up_state = UP_IDLE;
		db->stats.begin_failed++;
		db->begin_retry_ns = err == -EHOSTUNREACH ? clock_now_ns() + RETRY_NS : 0;
		db->away = err == -EHOSTUNREACH;
		if (db->away)
			db->away_ns = clock_now_ns();
		if (err == -EUCLEAN)
			db->need_ckpt = true;
		else if (err != -EAGAIN && err != -ECANCELED && log_allow(&limit_begin, 60000))
			log_warn("begin_failed", "db=%s error=%d do=\"writes get BUSY until a primary answers\"", db->name, -err);
		db->want_begin = false;
		db_answer_writes_locked(db, -EAGAIN);
		if (up != db->self)
			db_refuse_sessions_locked(db, -EHOSTUNREACH); /* no longer the primary */
		pthread_cond_signal(&db->g_cond);
		return;
	}
	db->away = false;
	db->away_ns = 0;
	db->primary_pos = pos;
	db->want_begin = false; /* who asked meanwhile is answered below; another begin would be for nobody */
	db->up_state = UP_HELD;
	db->up_is_self = upstream_kind(up) == UPSTREAM_SELF;
	db->up_pos = pos;
	db->hold_since_ns = db->up_idle_since_ns = clock_now_ns();
	db->keep_until_ns = db->hold_since_ns + (up == db->gateway ? GATEWAY_KEEP_NS : KEEP_NS);
	db->turn_over = false;
	set_hold_end_locked(db);
	set_quota_locked(db, pos);
	if (db->behind_count && pos.txid < db->tip.txid)
		lose_behind_locked(db, pos);
	db->stats.begin_ns += (uint64_t)(db->hold_since_ns - start);
	if (up != db->self)
		db_refuse_sessions_locked(db, -EHOSTUNREACH); /* no longer the primary */
	/* It has come, or gone, meanwhile: not the upstream for it. */
	if (up == db->gateway ? db->absent || db->mode != DB_MODE_WAL : up != db->remote && (up == db->own) != db->absent) {
		db->end_wanted = true;
		db_answer_writes_locked(db, -EAGAIN);
		return;
	}
	if (pos_equal(pos, db->tip)) {
		db_answer_writes_locked(db, 0);
		db_answer_reads_locked(db);
		return;
	}
	/* LiteFS is behind, or the clients are: they let go of their snapshot and come again. */
	db->catching = true;
	db_answer_writes_locked(db, -EAGAIN);
	pthread_cond_signal(&db->g_cond);
}

/* Of LiteFS' own lock, for which there is no queue: when may this node ask for it again? */
static void rest_locked(struct db *db, bool self, int64_t now, int64_t held)
{
	const struct settings *s = db->config->settings;
	bool used_up, long_pause;
	int64_t pause_ns;
	int peers;

	used_up = held >= db->hold_span_ns || db->turn_commits >= db->turn_quota;
	/* A hold that was used up is followed by the full pause, a short one by a short one; alone, a quarter will do. */
	pause_ns = s->halt_pause_ms * NS_PER_MS;
	if (held < s->halt_max_hold_ms * NS_PER_MS)
		pause_ns = held * s->halt_pause_ms / (s->halt_max_hold_ms ? s->halt_max_hold_ms : 1);
	peers = db_peers_locked(db, now);
	if (!peers)
		pause_ns /= 4;
	long_pause = used_up && ++db->turns % LONG_PAUSE_EVERY == 0;
	if (long_pause || now - db->long_pause_ns > LONG_PAUSE_PERIOD_NS) {
		pause_ns = pause_ns < LONG_PAUSE_NS ? LONG_PAUSE_NS : pause_ns;
		db->long_pause_ns = now;
		db->long_gap = self;
		db->want_gap |= db->long_gap;
	}
	db->pause_until_ns = now + pause_ns;
	db->turn_end_ns = now;
	db->turn_end_txid = db->tip.txid;
	if (self && used_up) {
		/*
		 * LiteFS' waiters get in only when neither our readers nor our writers are there, and this
		 * node is quickest to come back: leave each of the others the time that it had itself.
		 */
		int64_t theirs = peers * db->hold_span_ns * 4 / 5;

		db->yielding = peers > 0;
		if (db->pause_until_ns < now + theirs)
			db->pause_until_ns = now + theirs;
		db->want_gap = true;
	}
}

static void end_locked(struct db *db)
{
	struct upstream *up = db->up;
	int64_t now, held;

	db->up_state = UP_END;
	db_end_holder_locked(db);
	pthread_mutex_unlock(&db->mu);
	upstream_end(up);
	pthread_mutex_lock(&db->mu);
	now = clock_now_ns();
	held = now - db->hold_since_ns;
	db_measure(DB_HISTOGRAM(db, hold[db_path_of(up)]), held);
	PROBE3(upstream_end, db->name, (int)db_path_of(up), held);
	db->up_state = UP_IDLE;
	db->doomed = db->end_wanted = db->catching = db->yielding = false;
	db->pause_until_ns = now;
	if (upstream_kind(up) == UPSTREAM_GATEWAY) /* it has a queue */
		db->turn_over = false;
	else
		rest_locked(db, upstream_kind(up) == UPSTREAM_SELF, now, held);
	db_answer_writes_locked(db, 0); /* who still waits wants the next one */
	pthread_cond_signal(&db->g_cond);
}

/*
 * The lock's time is running out under a transaction: a new one, if nothing happened in between. A commit that arrives
 * meanwhile waits for us, and finds doomed.
 */
static void renew_locked(struct db *db)
{
	struct pos pos = {0};
	int err;

	bool absent = db->absent;

	if (!absent && db_files_get_locked(db) != 0) {
		db->doomed = true;
		return;
	}
	db->renewing = true;
	pthread_mutex_unlock(&db->mu);
	err = upstream_renew(db->up, clock_now_ns() + db->config->settings->halt_timeout_ms * NS_PER_MS, &pos);
	pthread_mutex_lock(&db->mu);
	db->renewing = false;
	if (!absent)
		db_files_put_locked(db);
	if (err || !pos_equal(pos, db->tip)) {
		log_warn("transaction_doomed", "db=%s error=%d do=\"make write transactions shorter than the HALT's 30 s\"",
			 db->name, -err);
		db->doomed = true;
		return;
	}
	db->stats.renewals++;
	db->hold_since_ns = clock_now_ns();
	set_hold_end_locked(db);
	db_answer_writes_locked(db, 0); /* that transaction may have ended meanwhile */
}

int db_renew_for_locked(struct db *db, uint64_t size)
{
	if (clock_now_ns() + upstream_tx_ns(db->up, size) <= upstream_hold_until(db->up) || size > upstream_max_tx_bytes(db->up))
		return 0; /* upstream_commit() says what is too large */
	renew_locked(db);
	return db->doomed ? -ESTALE : 0;
}

/* For the sake of replication alone: a reader keeps the guard, and what it holds up comes by the gateway instead. */
static void refresh_locked(struct db *db)
{
	int64_t now = clock_now_ns();
	struct upstream_grant grant = {0};

	db->want_refresh = false;
	if (!db->guard_held || !db->valid || db_writer_locked(db))
		return;
	db->up = choose_locked(db);
	if (!db->up || db->up != db->gateway)
		return;
	db->up_state = UP_BEGIN;
	db->doomed = db->end_wanted = false;
	if (begin_upstream_locked(db, db->up, now + REFRESH_WAIT_NS, &grant) != 0) {
		db->up_state = UP_IDLE;
		db_answer_writes_locked(db, 0);
		return;
	}
	db->up_is_self = false;
	db->up_pos = grant.pos;
	db->hold_since_ns = clock_now_ns();
	set_hold_end_locked(db);
	publish_bundle_locked(db, &grant);
	if (pos_equal(grant.pos, db->tip) && db->behind_count && db->guard_held && db->valid) {
		db->up_state = UP_PUBLISH;
		pthread_mutex_unlock(&db->mu);
		db_let_litefs_catch_up(db);
		pthread_mutex_lock(&db->mu);
		db->stats.refreshes++;
	}
	end_locked(db);
	now = clock_now_ns();
	/* LiteFS does not come (it may be stopped, or wait for a reader of another database): nobody else could write meanwhile. */
	db->refresh_retry_ns = db->behind_count ? now + REFRESH_REST * (now - db->hold_since_ns) : 0;
}

/* Here, for upstream's worker alone opens windows. */
static void lend_locked(struct db *db)
{
	db->want_lend = false;
	if (!db->guard_held || !db->valid || !db->files_ok || db->mode != DB_MODE_WAL || !db_readers_locked(db) ||
	    !db_role_moves(db))
		return;
	db->up_state = UP_PUBLISH;
	pthread_mutex_unlock(&db->mu);
	db_lend_guard(db);
	pthread_mutex_lock(&db->mu);
	db->up_state = UP_IDLE;
	db_answer_writes_locked(db, 0);
	pthread_cond_signal(&db->g_cond);
}

/* Returns when to look again. */
static int64_t held_locked(struct db *db)
{
	const struct settings *s = db->config->settings;
	int64_t now = clock_now_ns();
	int64_t hold_end = hold_end_locked(db, now);
	int64_t linger_end = db->up_idle_since_ns + s->halt_linger_ms * NS_PER_MS;

	if (db->keep_until_ns) /* nobody has come for it yet */
		linger_end = hold_end = db->keep_until_ns;
	if (db->between && db_writer_locked(db) && !db->locks.exclusive[SLOT_HALT] && (db->end_wanted || now >= linger_end || now >= hold_end)) {
		/* locking_mode EXCLUSIVE: others get their turn, and the next transaction begins anew (db_journal_write). */
		end_locked(db);
		return 0;
	}
	if ((db_writer_locked(db) || (db->locks.exclusive[SLOT_HALT] && !db->end_wanted)) && !db->doomed) {
		if (now > upstream_renew_at(db->up)) {
			renew_locked(db);
			return 0;
		}
		return now + 50 * NS_PER_MS;
	}
	if (db->doomed || db->end_wanted || now >= linger_end || now >= hold_end || !(db->files_ok || db->absent)) {
		if (!db->catching || db->doomed || db->end_wanted) {
			end_locked(db);
			return 0;
		}
		return now + 10 * NS_PER_MS;
	}
	return linger_end < hold_end ? linger_end : hold_end;
}

/* 0: look again. Else when. */
static int64_t tidy_locked(struct db *db)
{
	struct upstream *const ups[] = {db->remote, db->own, db->self};
	int64_t now = clock_now_ns(), next = INT64_MAX;

	for (size_t i = 0; i < sizeof ups / sizeof ups[0]; i++) {
		int64_t at = upstream_tidy_at(ups[i]);

		if (at <= now) {
			pthread_mutex_unlock(&db->mu);
			upstream_tidy(ups[i]);
			pthread_mutex_lock(&db->mu);
			return 0;
		}
		next = at < next ? at : next;
	}
	return next < now + 3600 * NS_PER_S ? next : now + 3600 * NS_PER_S;
}

void *db_upstream_main(void *arg)
{
	struct db *db = arg;

	pthread_mutex_lock(&db->mu);
	while (!db->stop || db->up_state == UP_COMMIT) {
		int64_t now = clock_now_ns(), next = now + 3600 * NS_PER_S;

		switch (db->up_state) {
		case UP_IDLE:
			if (db->drop_call) {
				db_drop(db);
				continue;
			}
			if (db->want_begin && now >= db->pause_until_ns) {
				begin_locked(db);
				continue;
			}
			if (db->want_lend) {
				lend_locked(db);
				continue;
			}
			if (db->want_refresh) {
				refresh_locked(db);
				continue;
			}
			next = tidy_locked(db);
			if (!next)
				continue;
			if (db->want_begin && next > db->pause_until_ns)
				next = db->pause_until_ns;
			break;
		case UP_HELD:
			next = held_locked(db);
			if (!next)
				continue;
			break;
		case UP_COMMIT:
			db_commit(db);
			continue;
		case UP_BEGIN:
		case UP_PUBLISH:
		case UP_END:
			break; /* passed through inside the calls above */
		}
		if (db->stop)
			break;
		db_upstream_rest_locked(db, next);
	}
	if (db->up_state == UP_HELD)
		end_locked(db);
	pthread_mutex_unlock(&db->mu);
	return NULL;
}
