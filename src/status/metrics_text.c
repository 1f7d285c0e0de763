#include "status/metrics_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/histogram.h"
#include "status/health.h"

/* ---- the format ---- */

static void head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP litefwd_%s %s\n# TYPE litefwd_%s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void put_value(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", out);
		else if (*value == '"' || *value == '\\')
			fprintf(out, "\\%c", *value);
		else
			fputc(*value, out);
	}
}

static void put_label(FILE *out, const char *key, const char *value, bool first)
{
	fprintf(out, "%c%s=\"", first ? '{' : ',', key);
	put_value(out, value);
	fputc('"', out);
}

/* Up to two labels; a key that is NULL: none. */
static void sample_start(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2)
{
	fprintf(out, "litefwd_%s", name);
	if (key)
		put_label(out, key, value, true);
	if (key2)
		put_label(out, key2, value2, !key);
	fputs(key || key2 ? "} " : " ", out);
}

static void sample(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2, int64_t number)
{
	sample_start(out, name, key, value, key2, value2);
	fprintf(out, "%" PRId64 "\n", number);
}

/* unit: how many of it are a second; whole thousandths of the last digit. No locale: a comma would end the sample. */
static void put_seconds(FILE *out, int64_t n, int64_t unit)
{
	int digits = unit == 1000000000 ? 9 : unit == 1000000 ? 6 : 3;

	fprintf(out, "%" PRId64 ".%0*" PRId64 "\n", n / unit, digits, n % unit);
}

/* ---- rows ---- */

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
		sample(out, row->name, "db", db, row->key, row->value, json_integer_value(value));
		return;
	case MODE:
		text = json_string_value(value);
		sample(out, row->name, "db", db, row->key, row->value, text && !strcmp(text, "wal"));
		return;
	case COUNT:
		sample(out, row->name, "db", db, row->key, row->value, (int64_t)json_array_size(value));
		return;
	case TXID:
		text = json_string_value(value);
		if (text)
			sample(out, row->name, "db", db, row->key, row->value, (int64_t)strtoull(text, NULL, 16));
		return;
	case MS:
		sample_start(out, row->name, "db", db, row->key, row->value);
		put_seconds(out, json_integer_value(value), 1000);
		return;
	}
}

static void put_databases(FILE *out, const json_t *status)
{
	json_t *databases = json_object_get(status, "databases"), *db;
	const char *name;

	for (size_t i = 0; i < sizeof db_rows / sizeof db_rows[0]; i++) {
		const struct db_row *row = &db_rows[i];

		if (row->help)
			head(out, row->name, row->type, row->help);
		json_object_foreach(databases, name, db)
			db_sample(out, row, name, db);
	}
}

/* transactions: {"gateway": {"committed": 7}} */
static void put_transactions(FILE *out, const json_t *status)
{
	const char *name, *path, *outcome;
	json_t *db, *one, *count;

	head(out, "transactions_total", "counter",
	     "Transactions, by where they were sent (served: another node's, committed here) and what became of them.");
	json_object_foreach(json_object_get(status, "databases"), name, db)
		json_object_foreach(json_object_get(db, "transactions"), path, one)
			json_object_foreach(one, outcome, count) {
				fputs("litefwd_transactions_total", out);
				put_label(out, "db", name, true);
				put_label(out, "upstream", path, false);
				put_label(out, "outcome", outcome, false);
				fprintf(out, "} %" PRId64 "\n", (int64_t)json_integer_value(count));
			}
}

static void put_upstream_state(FILE *out, const json_t *status)
{
	static const char *const states[] = {"idle", "begin", "publish", "held", "commit", "end"};
	const char *name, *state;
	json_t *db;

	head(out, "upstream_state", "gauge", "1 for the state that the right to write is in.");
	json_object_foreach(json_object_get(status, "databases"), name, db) {
		state = json_string_value(json_object_get(db, "upstream"));
		for (size_t i = 0; state && i < sizeof states / sizeof states[0]; i++)
			sample(out, "upstream_state", "db", name, "state", states[i], !strcmp(state, states[i]));
	}
}

/* ---- durations ---- */

static const struct {
	const char *key, *name, *help;
} histograms[] = {
	{"begin", "begin_duration_seconds", "Until upstream gave the right to write, or did not."},
	{"hold", "upstream_hold_seconds", "How long the right to write was held."},
	{"write_wait", "write_wait_seconds", "How long a client's request for the right to write waited here."},
	{"commit", "commit_duration_seconds", "From a COMMIT's last write to its answer."},
	{"commit_phase", "commit_phase_duration_seconds", "Parts of commits that succeeded."},
	{"catch_up", "catch_up_duration_seconds", "How long readers were held back for LiteFS to catch up with the primary."},
};

static void put_labels(FILE *out, const char *name, const char *suffix, const json_t *labels, const char *le)
{
	const char *key;
	json_t *value;
	bool first = true;

	fprintf(out, "litefwd_%s%s", name, suffix);
	json_object_foreach((json_t *)labels, key, value) {
		put_label(out, key, json_string_value(value), first);
		first = false;
	}
	if (le)
		put_label(out, "le", le, first);
	fputs(first && !le ? " " : "} ", out);
}

/* Outcomes that have never been are left out but for the good one: they would be most of the page. */
static bool is_wanted(const json_t *one)
{
	const char *outcome = json_string_value(json_object_get(json_object_get(one, "labels"), "outcome"));

	return !outcome || !strcmp(outcome, "held") || !strcmp(outcome, "granted") || !strcmp(outcome, "committed") ||
	       json_integer_value(json_array_get(json_object_get(one, "up_to"), HISTOGRAM_BUCKETS));
}

static void put_histogram(FILE *out, const char *name, const json_t *one)
{
	const json_t *labels = json_object_get(one, "labels"), *up_to = json_object_get(one, "up_to");
	int64_t count = json_integer_value(json_array_get(up_to, HISTOGRAM_BUCKETS));

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		char le[32];

		snprintf(le, sizeof le, "%" PRId64 ".%04" PRId64, histogram_bound_ns(i) / 1000000000, histogram_bound_ns(i) / 100000 % 10000);
		put_labels(out, name, "_bucket", labels, le);
		fprintf(out, "%" PRId64 "\n", (int64_t)json_integer_value(json_array_get(up_to, i)));
	}
	put_labels(out, name, "_bucket", labels, "+Inf");
	fprintf(out, "%" PRId64 "\n", count);
	put_labels(out, name, "_sum", labels, NULL);
	put_seconds(out, json_integer_value(json_object_get(one, "sum_ns")), 1000000000);
	put_labels(out, name, "_count", labels, NULL);
	fprintf(out, "%" PRId64 "\n", count);
}

static void put_histograms(FILE *out, const json_t *status)
{
	const json_t *durations = json_object_get(status, "durations"), *one;
	size_t i;

	for (size_t h = 0; durations && h < sizeof histograms / sizeof histograms[0]; h++) {
		head(out, histograms[h].name, "histogram", histograms[h].help);
		json_array_foreach(json_object_get(durations, histograms[h].key), i, one)
			if (is_wanted(one))
				put_histogram(out, histograms[h].name, one);
	}
}

/* ---- the node ---- */

static void put_health(FILE *out, const json_t *status)
{
	const json_t *health = json_object_get(status, "health"), *reason;
	unsigned counts[HEALTH_REASONS] = {0};
	size_t i;

	json_array_foreach(json_object_get(health, "reasons"), i, reason)
		for (int r = 0; r < HEALTH_REASONS; r++)
			counts[r] += !strcmp(json_string_value(json_object_get(reason, "reason")), health_reason_name((enum health_reason)r));
	head(out, "healthy", "gauge", "1: well; 0: degraded, as /healthz says.");
	sample(out, "healthy", NULL, NULL, NULL, NULL, health_is_well(health));
	head(out, "health_reasons", "gauge", "What it is degraded for: in how many databases, or 1 for the node.");
	for (int r = 0; r < HEALTH_REASONS; r++)
		sample(out, "health_reasons", "reason", health_reason_name((enum health_reason)r), NULL, NULL, counts[r]);
}

static void put_node(FILE *out, const json_t *status)
{
	static const char *const roles[] = {"primary", "replica", "unknown"};
	const char *version = json_string_value(json_object_get(status, "version")), *role = json_string_value(json_object_get(status, "role"));

	head(out, "build_info", "gauge", "1, and the version of litefwd.");
	sample(out, "build_info", "version", version ? version : "", NULL, NULL, 1);
	head(out, "start_time_seconds", "gauge", "When it was mounted, in seconds since 1970.");
	sample(out, "start_time_seconds", NULL, NULL, NULL, NULL, json_integer_value(json_object_get(status, "started_at")));
	put_health(out, status);
	head(out, "litefs_up", "gauge", "1: LiteFS on this node answers.");
	sample(out, "litefs_up", NULL, NULL, NULL, NULL, json_is_true(json_object_get(status, "litefs_alive")));
	head(out, "role", "gauge", "1 for the role of this node; unknown: LiteFS is not connected to a primary.");
	for (size_t i = 0; i < 3; i++)
		sample(out, "role", "role", roles[i], NULL, NULL, role && !strcmp(role, roles[i]));
	head(out, "databases", "gauge", "Databases that are open here.");
	sample(out, "databases", NULL, NULL, NULL, NULL, (int64_t)json_object_size(json_object_get(status, "databases")));
}

static void put_servers(FILE *out, const json_t *status)
{
	static const struct {
		const char *name, *type, *help, *key;
	} rows[] = {
		{"server_up", "gauge", "1: it answered when it was last asked.", NULL},
		{"server_outages_total", "counter", "Times that it ceased to answer.", "opened"},
		{"server_denied_total", "counter", "Questions not asked because it did not answer a moment ago.", "denied"},
		{"server_probes_total", "counter", "Questions asked to find out whether it is back.", "probes"},
	};
	const json_t *server;
	size_t i;

	for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
		head(out, rows[r].name, rows[r].type, rows[r].help);
		json_array_foreach(json_object_get(status, "servers"), i, server) {
			const char *what = json_string_value(json_object_get(server, "what")), *url = json_string_value(json_object_get(server, "url"));
			const char *state = json_string_value(json_object_get(server, "state"));

			if (what && url && state)
				sample(out, rows[r].name, "what", what, "url", url,
				       rows[r].key ? json_integer_value(json_object_get(server, rows[r].key)) : !strcmp(state, "closed"));
		}
	}
}

static void put_gateway(FILE *out, const json_t *status)
{
	json_t *gateway = json_object_get(status, "gateway"), *count;
	const char *code;

	if (!json_is_object(gateway))
		return;
	head(out, "gateway_sessions", "gauge", "Other nodes that have, or wait for, the right to write here.");
	sample(out, "gateway_sessions", "state", "held", NULL, NULL, json_integer_value(json_object_get(gateway, "held")));
	sample(out, "gateway_sessions", "state", "waiting", NULL, NULL, json_integer_value(json_object_get(gateway, "waiting")));
	head(out, "gateway_answers_total", "counter", "Answers of this gateway.");
	json_object_foreach(json_object_get(gateway, "answers"), code, count)
		sample(out, "gateway_answers_total", "code", code, NULL, NULL, json_integer_value(count));
}

char *metrics_text(const json_t *status, size_t *ret_len)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, ret_len);
	bool failed;

	if (!out)
		return NULL;
	put_node(out, status);
	put_servers(out, status);
	put_gateway(out, status);
	put_transactions(out, status);
	put_upstream_state(out, status);
	put_databases(out, status);
	put_histograms(out, status);
	failed = ferror(out);
	failed |= fclose(out) != 0;
	if (failed) {
		free(text);
		return NULL;
	}
	return text;
}
