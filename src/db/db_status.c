/*
 * What db_status() says, and what is measured. From memory alone: one mutex, that is never held across LiteFS or the network.
 *
 * Names of fields are an interface (docs/monitoring.md): counters only grow, from 0 when litefwd was mounted; *_ns are sums.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/probe.h"
#include "db/db_internal.h"

const char *const db_path_names[DB_PATHS] = {"halt", "self", "own", "gateway", "served"};
const char *const db_tx_outcome_names[DB_TX_OUTCOMES] = {"committed", "refused", "not_committed", "unknown", "not_sent"};
const char *const db_begin_outcome_names[DB_BEGIN_OUTCOMES] = {"held", "busy", "away", "failed"};

static const char *const up_names[] = {"idle", "begin", "publish", "held", "commit", "end"};
static const char *const phase_names[] = {"none", "build", "send", "replicate", "decide"};
static const char *const park_names[] = {"read", "write", "commit", "again", "halt", "lock"};
#define PARK_KINDS (PARK_LOCK + 1)

_Static_assert((int)UPSTREAM_REMOTE == (int)DB_PATH_HALT && (int)UPSTREAM_SELF == (int)DB_PATH_SELF &&
		       (int)UPSTREAM_OWN == (int)DB_PATH_OWN && (int)UPSTREAM_GATEWAY == (int)DB_PATH_GATEWAY,
	       "enum db_path");

/* ---- measuring ---- */

void db_measure(struct histogram *histogram, int64_t ns)
{
	if (histogram)
		histogram_add(histogram, ns);
}

enum db_path db_path_of(const struct upstream *up)
{
	return (enum db_path)upstream_kind(up);
}

void db_set_phase(struct db *db, enum commit_phase phase)
{
	atomic_store_explicit(&db->phase, phase, memory_order_relaxed);
	PROBE2(commit_phase, db->name, (int)phase);
}

void db_note_tx_locked(struct db *db, bool served)
{
	enum db_path path = served ? DB_PATH_SERVED : db_path_of(db->up);

	PROBE4(commit_done, db->name, db->tip.txid, (int)path, (int)db->tx_outcome);
	if (db->tx_outcome == DB_TX_OUTCOMES)
		return;
	db->stats.tx[path][db->tx_outcome]++;
	db_measure(DB_HISTOGRAM(db, commit[path][db->tx_outcome]), clock_now_ns() - db->commit_since_ns);
}

void db_note_litefs_pos(struct db *db, struct pos pos)
{
	pthread_mutex_lock(&db->mu);
	db->litefs_pos = pos;
	pthread_mutex_unlock(&db->mu);
}

/* ---- durations ---- */

static void add_histogram(json_t *list, const struct histogram *histogram, json_t *labels)
{
	struct histogram_view view;
	json_t *up_to = json_array();

	histogram_get(histogram, &view);
	for (unsigned i = 0; i <= HISTOGRAM_BUCKETS; i++)
		json_array_append_new(up_to, json_integer((json_int_t)view.up_to[i]));
	json_array_append_new(list, json_pack("{s:o, s:o, s:I}", "labels", labels, "up_to", up_to, "sum_ns", (json_int_t)view.sum_ns));
}

json_t *db_metrics_json(const struct db_metrics *m)
{
	json_t *root = json_object(), *begin = json_array(), *hold = json_array(), *wait = json_array(), *commit = json_array(),
	       *phase = json_array(), *catch_up = json_array();

	for (int p = 0; p < DB_PATH_SERVED; p++) {
		for (int o = 0; o < DB_BEGIN_OUTCOMES; o++)
			add_histogram(begin, &m->begin[p][o],
				      json_pack("{s:s, s:s}", "upstream", db_path_names[p], "outcome", db_begin_outcome_names[o]));
		add_histogram(hold, &m->hold[p], json_pack("{s:s}", "upstream", db_path_names[p]));
	}
	for (int p = 0; p < DB_PATHS; p++)
		for (int o = 0; o < DB_TX_OUTCOMES; o++)
			add_histogram(commit, &m->commit[p][o],
				      json_pack("{s:s, s:s}", "upstream", db_path_names[p], "outcome", db_tx_outcome_names[o]));
	add_histogram(wait, &m->write_wait[0], json_pack("{s:s}", "outcome", "granted"));
	add_histogram(wait, &m->write_wait[1], json_pack("{s:s}", "outcome", "busy"));
	add_histogram(phase, &m->build, json_pack("{s:s}", "phase", "build"));
	add_histogram(phase, &m->send, json_pack("{s:s}", "phase", "send"));
	add_histogram(phase, &m->replicate, json_pack("{s:s}", "phase", "replicate"));
	add_histogram(catch_up, &m->catch_up, json_object());
	json_object_set_new(root, "begin", begin);
	json_object_set_new(root, "hold", hold);
	json_object_set_new(root, "write_wait", wait);
	json_object_set_new(root, "commit", commit);
	json_object_set_new(root, "commit_phase", phase);
	json_object_set_new(root, "catch_up", catch_up);
	return root;
}

/* ---- state ---- */

static json_t *pos_json(struct pos pos)
{
	return json_sprintf("%016llx/%016llx", (unsigned long long)pos.txid, (unsigned long long)pos.checksum);
}

/* null: not seen yet. */
static json_t *seen_pos_json(struct pos pos)
{
	return pos.txid ? pos_json(pos) : json_null();
}

static json_t *unknowns_json(const struct db *db)
{
	json_t *list = json_array();

	for (unsigned i = 0; list && i < db->unknown_count; i++)
		json_array_append_new(list, pos_json(db->unknowns[i].after));
	return list;
}

/* {"gateway": {"committed": 7, ...}, ...} */
static json_t *transactions_json(const struct db *db)
{
	json_t *all = json_object();

	for (int p = 0; p < DB_PATHS; p++) {
		json_t *one = json_object();

		for (int o = 0; o < DB_TX_OUTCOMES; o++)
			json_object_set_new(one, db_tx_outcome_names[o], json_integer((json_int_t)db->stats.tx[p][o]));
		json_object_set_new(all, db_path_names[p], one);
	}
	return all;
}

/* Calls that wait here, by what for. */
static json_t *waiting_json(const struct db *db)
{
	unsigned counts[PARK_KINDS] = {0};
	json_t *all = json_object();

	for (const struct db_call *call = db->parked; call; call = call->next)
		if (call->kind >= 0 && call->kind < PARK_KINDS)
			counts[call->kind]++;
	counts[PARK_COMMIT] += db->commit_call != NULL;
	for (int kind = 0; kind < PARK_KINDS; kind++)
		json_object_set_new(all, park_names[kind], json_integer(counts[kind]));
	json_object_set_new(all, "sessions", json_integer(db_count_waiting_locked(db)));
	return all;
}

static void add_spool(const struct spool *spool, uint64_t *memory, uint64_t *file)
{
	*(spool->fd >= 0 ? file : memory) += spool->size;
}

/* The LTX file of a commit is its worker's: its size alone is known. */
static json_t *spool_json(const struct db *db)
{
	uint64_t memory = 0, file = 0, ltx = atomic_load_explicit(&db->upload_size, memory_order_relaxed);

	add_spool(&db->wal.bytes, &memory, &file);
	add_spool(&db->undo.pages, &memory, &file);
	add_spool(&db->overlay.pages, &memory, &file);
	add_spool(&db->journal.bytes, &memory, &file);
	*(ltx > (uint64_t)db->config->settings->spool_threshold ? &file : &memory) += db->up_state == UP_COMMIT ? ltx : 0;
	return json_pack("{s:I, s:I}", "memory_bytes", (json_int_t)memory, "file_bytes", (json_int_t)file);
}

/* A commit in progress; null: none. */
static json_t *commit_json(const struct db *db)
{
	enum commit_phase phase = atomic_load_explicit(&db->phase, memory_order_relaxed);
	bool sent = phase >= PHASE_SEND;

	if (db->up_state != UP_COMMIT || phase == PHASE_NONE)
		return json_null();
	return json_pack("{s:s, s:I, s:I, s:I}", "phase", phase_names[phase], "for_ms",
			 (json_int_t)((clock_now_ns() - db->commit_since_ns) / NS_PER_MS), "sent_bytes",
			 (json_int_t)(sent ? atomic_load_explicit(&db->upload_sent, memory_order_relaxed) : 0), "of_bytes",
			 (json_int_t)(sent ? atomic_load_explicit(&db->upload_size, memory_order_relaxed) : 0));
}

/* Transactions that the primary was seen to have and LiteFS here was not. */
static uint64_t lag_locked(const struct db *db)
{
	if (!db->litefs_pos.txid || db->primary_pos.txid <= db->litefs_pos.txid)
		return 0;
	return db->primary_pos.txid - db->litefs_pos.txid;
}

static int64_t longest_read_ms_locked(const struct db *db)
{
	uint32_t slots = db->mode == DB_MODE_WAL ? SLOTS_READ : SLOT_BIT(SLOT_SHARED);
	int64_t now = clock_now_ns(), since = now;

	for (const struct lock_owner *o = db->locks.owners; o; o = o->next)
		if (((o->shared | o->exclusive) & slots) && o->read_ns && o->read_ns < since)
			since = o->read_ns;
	return (now - since) / NS_PER_MS;
}

static void add_numbers(const struct db_stats *s, json_t *o)
{
#define NUMBER(field) json_object_set_new(o, #field, json_integer((json_int_t)s->field))
	NUMBER(commits_remote);
	NUMBER(commits_self);
	NUMBER(commits_gateway);
	NUMBER(commits_empty);
	NUMBER(gateway_commits);
	NUMBER(bundles);
	NUMBER(bundle_transactions);
	NUMBER(refreshes);
	NUMBER(lends);
	NUMBER(refused);
	NUMBER(not_committed);
	NUMBER(unknown);
	NUMBER(verdicts_committed);
	NUMBER(verdicts_not_committed);
	NUMBER(verdicts_none);
	NUMBER(begins);
	NUMBER(begin_failed);
	NUMBER(renewals);
	NUMBER(catchups);
	NUMBER(catchups_failed);
	NUMBER(busy_write);
	NUMBER(busy_away);
	NUMBER(busy_read);
	NUMBER(busy_gate);
	NUMBER(resets);
	NUMBER(folds);
	NUMBER(mends);
	NUMBER(gates);
	NUMBER(gates_failed);
	NUMBER(poisons);
	NUMBER(checkpoints);
	NUMBER(guard_taken);
	NUMBER(guard_waits);
	NUMBER(window_reads);
	NUMBER(pages_sent);
	NUMBER(bytes_sent);
	NUMBER(begin_ns);
	NUMBER(prepare_ns);
	NUMBER(send_ns);
	NUMBER(replicate_ns);
	NUMBER(histories_lost);
#undef NUMBER
}

json_t *db_status(struct db *db)
{
	int64_t now = clock_now_ns();
	json_t *o;

	pthread_mutex_lock(&db->mu);
	o = json_pack("{s:s, s:b, s:o, s:o, s:i, s:i, s:i, s:s, s:b, s:b, s:b, s:b, s:i}", "mode",
		      db->mode == DB_MODE_WAL ? "wal" : "rollback", "absent", db->absent, "base", pos_json(db->base), "tip", pos_json(db->tip),
		      "page_size", (int)db->page_size, "wal_frames", (int)db->wal.committed, "undo_pages",
		      (int)db->undo.count, "upstream", up_names[db->up_state], "guard_held", db->guard_held, "poisoned",
		      db->poison, "litefs_gone", !db->files_ok && !db->absent, "primary_away", db->away, "readers", (int)db_readers_locked(db));
	if (o) {
		bool up = db->up && db->up_state != UP_IDLE, held = up && db->up_state != UP_BEGIN;

		add_numbers(&db->stats, o);
		json_object_set_new(o, "unknowns", unknowns_json(db));
		json_object_set_new(o, "pages", json_integer(db_database_pages_locked(db)));
		json_object_set_new(o, "upstream_kind", up ? json_string(db_path_names[db_path_of(db->up)]) : json_null());
		json_object_set_new(o, "upstream_held_ms", json_integer(held ? (now - db->hold_since_ns) / NS_PER_MS : 0));
		json_object_set_new(o, "round_trip_us", json_integer(db->rtt_ns / NS_PER_US));
		json_object_set_new(o, "away_ago_ms", db->away && db->away_ns ? json_integer((now - db->away_ns) / NS_PER_MS) : json_null());
		json_object_set_new(o, "litefs", seen_pos_json(db->litefs_pos));
		json_object_set_new(o, "primary", seen_pos_json(db->primary_pos));
		json_object_set_new(o, "lag_transactions", json_integer((json_int_t)lag_locked(db)));
		json_object_set_new(o, "behind_transactions", json_integer(db->behind_count));
		json_object_set_new(o, "catching_up", json_boolean(db->catching));
		json_object_set_new(o, "checkpoint_wanted", json_boolean(db->need_ckpt));
		json_object_set_new(o, "fold_wanted", json_boolean(db->must_fold));
		json_object_set_new(o, "guard_held_ms", json_integer(db->guard_held ? (now - db->guard_since_ns) / NS_PER_MS : 0));
		json_object_set_new(o, "longest_read_ms", json_integer(longest_read_ms_locked(db)));
		json_object_set_new(o, "transactions", transactions_json(db));
		json_object_set_new(o, "waiting", waiting_json(db));
		json_object_set_new(o, "spool", spool_json(db));
		json_object_set_new(o, "commit", commit_json(db));
	}
	pthread_mutex_unlock(&db->mu);
	return o;
}
