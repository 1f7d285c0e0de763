/* What there is of each database: a table, and two that have more labels. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "status/metrics_internal.h"

enum kind {
	NUMBER, /* an integer */
	MODE, /* 1: WAL */
	MS, /* an integer of ms, shown in seconds */
	COUNT, /* how many elements a list has */
	TXID, /* of a position as text; null: no sample */
};

/* One sample a database; path: where in its object, with '.' between keys. label: key=value of its own, or NULL. */
struct db_row {
	const char *name, *type, *help; /* help NULL: goes on with the last one's name */
	enum kind kind;
	const char *path;
	const char *key, *value;
};

#define GOES_ON NULL

static const struct db_row db_rows[] = {
	{"transactions_empty_total", "counter", "Commits that changed nothing and were sent nowhere.", NUMBER, "commits_empty", NULL, NULL},
	{"unknown_open", "gauge", "Commits that failed with their outcome unknown, and have no verdict yet.", COUNT, "unknowns", NULL, NULL},
	{"verdicts_total", "counter", "Verdicts found for commits whose outcome was unknown.", NUMBER, "verdicts_committed", "verdict", "committed"},
	{"verdicts_total", "counter", GOES_ON, NUMBER, "verdicts_not_committed", "verdict", "not_committed"},
	{"verdicts_total", "counter", GOES_ON, NUMBER, "verdicts_none", "verdict", "cannot_tell"},
	{"busy_total", "counter", "SQLITE_BUSY answers, by what they were about.", NUMBER, "busy_write", "reason", "write"},
	{"busy_total", "counter", GOES_ON, NUMBER, "busy_away", "reason", "away"},
	{"busy_total", "counter", GOES_ON, NUMBER, "busy_read", "reason", "read"},
	{"busy_total", "counter", GOES_ON, NUMBER, "busy_gate", "reason", "gate"},
	{"faults_total", "counter", "What went wrong and was got over.", NUMBER, "begin_failed", "fault", "begin_failed"},
	{"faults_total", "counter", GOES_ON, NUMBER, "catchups_failed", "fault", "catch_up_failed"},
	{"faults_total", "counter", GOES_ON, NUMBER, "gates_failed", "fault", "gate_failed"},
	{"faults_total", "counter", GOES_ON, NUMBER, "poisons", "fault", "poisoned"},
	{"faults_total", "counter", GOES_ON, NUMBER, "histories_lost", "fault", "history_lost"},
	{"begins_total", "counter", "Times that the right to write was asked for upstream.", NUMBER, "begins", NULL, NULL},
	{"renewals_total", "counter", "Locks taken anew under a transaction.", NUMBER, "renewals", NULL, NULL},
	{"view_events_total", "counter", "The view of the database began anew, or let LiteFS in.", NUMBER, "resets", "event", "reset"},
	{"view_events_total", "counter", GOES_ON, NUMBER, "folds", "event", "fold"},
	{"view_events_total", "counter", GOES_ON, NUMBER, "checkpoints", "event", "checkpoint"},
	{"view_events_total", "counter", GOES_ON, NUMBER, "catchups", "event", "catch_up"},
	{"view_events_total", "counter", GOES_ON, NUMBER, "refreshes", "event", "refresh"},
	{"view_events_total", "counter", GOES_ON, NUMBER, "lends", "event", "lend"},
	{"guard_taken_total", "counter", "Times that LiteFS' read locks were taken for this node's readers.", NUMBER, "guard_taken", NULL, NULL},
	{"guard_waits_total", "counter", "Reads that waited for LiteFS' locks.", NUMBER, "guard_waits", NULL, NULL},
	{"sent_pages_total", "counter", "Pages in the transactions that were committed.", NUMBER, "pages_sent", NULL, NULL},
	{"sent_bytes_total", "counter", "Bytes of the transactions that were committed, as LTX files.", NUMBER, "bytes_sent", NULL, NULL},
	{"received_transactions_total", "counter", "Transactions of others that came with the right to write, by a gateway.", NUMBER,
	 "bundle_transactions", NULL, NULL},
	{"position_txid", "gauge", "TXID that clients here see, LiteFS here has, and the primary was last seen to have.", TXID, "tip", "at", "clients"},
	{"position_txid", "gauge", GOES_ON, TXID, "litefs", "at", "litefs"},
	{"position_txid", "gauge", GOES_ON, TXID, "primary", "at", "primary"},
	{"lag_transactions", "gauge", "Transactions that the primary was last seen to have and LiteFS here has not.", NUMBER, "lag_transactions", NULL,
	 NULL},
	{"behind_transactions", "gauge", "Transactions that clients here see already and LiteFS here has yet to apply.", NUMBER,
	 "behind_transactions", NULL, NULL},
	{"waiting", "gauge", "Calls that wait here now, by what for; sessions: other nodes' at this gateway.", NUMBER, "waiting.read", "for", "read"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.write", "for", "write"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.commit", "for", "commit"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.again", "for", "again"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.halt", "for", "halt"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.lock", "for", "lock"},
	{"waiting", "gauge", GOES_ON, NUMBER, "waiting.sessions", "for", "sessions"},
	{"spool_bytes", "gauge", "Virtual WAL, undo, journal and transactions that are being sent.", NUMBER, "spool.memory_bytes", "where", "memory"},
	{"spool_bytes", "gauge", GOES_ON, NUMBER, "spool.file_bytes", "where", "file"},
	{"upload_size_bytes", "gauge", "Size of the transaction that is being sent; 0: none is.", NUMBER, "commit.of_bytes", NULL, NULL},
	{"upload_sent_bytes", "gauge", "How much of it HTTP has taken.", NUMBER, "commit.sent_bytes", NULL, NULL},
	{"commit_in_progress_seconds", "gauge", "How long the commit in progress has taken; 0: none is.", MS, "commit.for_ms", NULL, NULL},
	{"readers", "gauge", "Read transactions that are open.", NUMBER, "readers", NULL, NULL},
	{"longest_read_seconds", "gauge", "Age of the oldest of them.", MS, "longest_read_ms", NULL, NULL},
	{"guard_held_seconds", "gauge", "How long LiteFS' read locks have been held; 0: they are not.", MS, "guard_held_ms", NULL, NULL},
	{"upstream_held_seconds", "gauge", "How long the right to write has been held; 0: it is not.", MS, "upstream_held_ms", NULL, NULL},
	{"wal_mode", "gauge", "1: WAL; 0: a rollback journal.", MODE, "mode", NULL, NULL},
	{"database_pages", "gauge", "Size of the database in pages.", NUMBER, "pages", NULL, NULL},
	{"page_size_bytes", "gauge", "Its page size.", NUMBER, "page_size", NULL, NULL},
};

static const json_t *find(const json_t *object, const char *path)
{
	char key[64];

	while (*path) {
		size_t len = strcspn(path, ".");

		if (len >= sizeof key)
			return NULL;
		memcpy(key, path, len);
		key[len] = 0;
		object = json_object_get(object, key);
		path += len + (path[len] == '.');
	}
	return object;
}

static void db_sample(FILE *out, const struct db_row *row, const char *db, const json_t *object)
{
	const json_t *value = find(object, row->path);
	const char *text;

	switch (row->kind) {
	case NUMBER:
		metrics_sample(out, row->name, "db", db, row->key, row->value, json_integer_value(value));
		return;
	case MODE:
		text = json_string_value(value);
		metrics_sample(out, row->name, "db", db, row->key, row->value, text && !strcmp(text, "wal"));
		return;
	case COUNT:
		metrics_sample(out, row->name, "db", db, row->key, row->value, (int64_t)json_array_size(value));
		return;
	case TXID:
		text = json_string_value(value);
		if (text)
			metrics_sample(out, row->name, "db", db, row->key, row->value, (int64_t)strtoull(text, NULL, 16));
		return;
	case MS:
		metrics_sample_start(out, row->name, "db", db, row->key, row->value);
		metrics_seconds(out, json_integer_value(value), 1000);
		return;
	}
}

void metrics_put_databases(FILE *out, const json_t *status)
{
	json_t *databases = json_object_get(status, "databases"), *db;
	const char *name;

	for (size_t i = 0; i < sizeof db_rows / sizeof db_rows[0]; i++) {
		const struct db_row *row = &db_rows[i];

		if (row->help)
			metrics_head(out, row->name, row->type, row->help);
		json_object_foreach(databases, name, db)
			db_sample(out, row, name, db);
	}
}

/* transactions: {"gateway": {"committed": 7}} */
void metrics_put_transactions(FILE *out, const json_t *status)
{
	const char *name, *path, *outcome;
	json_t *db, *one, *count;

	metrics_head(out, "transactions_total", "counter",
	     "Transactions, by where they were sent (served: another node's, committed here) and what became of them.");
	json_object_foreach(json_object_get(status, "databases"), name, db)
		json_object_foreach(json_object_get(db, "transactions"), path, one)
			json_object_foreach(one, outcome, count) {
				fputs("litefwd_transactions_total", out);
				metrics_label(out, "db", name, true);
				metrics_label(out, "upstream", path, false);
				metrics_label(out, "outcome", outcome, false);
				fprintf(out, "} %" PRId64 "\n", (int64_t)json_integer_value(count));
			}
}

void metrics_put_upstream_state(FILE *out, const json_t *status)
{
	static const char *const states[] = {"idle", "begin", "publish", "held", "commit", "end"};
	const char *name, *state;
	json_t *db;

	metrics_head(out, "upstream_state", "gauge", "1 for the state that the right to write is in.");
	json_object_foreach(json_object_get(status, "databases"), name, db) {
		state = json_string_value(json_object_get(db, "upstream"));
		for (size_t i = 0; state && i < sizeof states / sizeof states[0]; i++)
			metrics_sample(out, "upstream_state", "db", name, "state", states[i], !strcmp(state, states[i]));
	}
}
