/* `litefwd status` for people. What it shows is what the JSON says; nothing is judged here but how to write it. */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "prog/status.h"

static const char *text_of(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

static int64_t number_of(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static bool is_set(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

static const char *bytes_text(char *ret, size_t size, int64_t bytes)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
		value /= 1024;
	snprintf(ret, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return ret;
}

static const char *duration_text(char *ret, size_t size, int64_t s)
{
	if (s >= 86400)
		snprintf(ret, size, "%" PRId64 "d%02" PRId64 "h", s / 86400, s % 86400 / 3600);
	else if (s >= 3600)
		snprintf(ret, size, "%" PRId64 "h%02" PRId64 "m", s / 3600, s % 3600 / 60);
	else if (s >= 60)
		snprintf(ret, size, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
	else
		snprintf(ret, size, "%" PRId64 "s", s);
	return ret;
}

static void print_health(const json_t *status, FILE *out)
{
	const json_t *health = json_object_get(status, "health"), *reason;
	size_t i;

	fprintf(out, "%s: %s\n", text_of(status, "mountpoint"), text_of(health, "state"));
	json_array_foreach(json_object_get(health, "reasons"), i, reason) {
		const char *db = text_of(reason, "db");

		fprintf(out, "  ! %s%s%s: %s\n", text_of(reason, "reason"), *db ? " " : "", db, text_of(reason, "text"));
	}
}

static void print_node(const json_t *status, FILE *out)
{
	const char *role = text_of(status, "role");
	char buf[32];

	fprintf(out, "  litefwd %s, mounted for %s, pid %" PRId64 "%s\n", text_of(status, "version"),
		duration_text(buf, sizeof buf, number_of(status, "uptime_s")), number_of(status, "pid"),
		is_set(status, "read_only") ? ", read only" : "");
	fprintf(out, "  LiteFS  %s at %s (%s)\n", is_set(status, "litefs_alive") ? "answers" : "does not answer", text_of(status, "litefs_url"),
		text_of(status, "litefs_dir"));
	fprintf(out, "  role    %s", role);
	if (!strcmp(role, "replica"))
		fprintf(out, " of %s at %s", text_of(status, "primary_hostname"),
			*text_of(status, "primary_url") ? text_of(status, "primary_url") : "an address that cannot be told");
	if (!strcmp(role, "replica") && *text_of(status, "primary_gateway_url"))
		fprintf(out, ", gateway %s", text_of(status, "primary_gateway_url"));
	fputc('\n', out);
}

static void print_servers(const json_t *status, FILE *out)
{
	const json_t *server, *gateway = json_object_get(status, "gateway");
	size_t i;

	json_array_foreach(json_object_get(status, "servers"), i, server) {
		fprintf(out, "  asks    %s %s: ", text_of(server, "what"), text_of(server, "url"));
		if (!strcmp(text_of(server, "state"), "closed"))
			fputs("answers\n", out);
		else
			fprintf(out, "did not answer %.1f s ago, away for %.1f s\n", (double)number_of(server, "failed_ago_ms") / 1000,
				(double)number_of(server, "away_ms") / 1000);
	}
	if (json_is_object(gateway))
		fprintf(out, "  gateway %s: %" PRId64 " hold, %" PRId64 " wait\n", text_of(gateway, "address"), number_of(gateway, "held"),
			number_of(gateway, "waiting"));
}

/* The TXID of a position without its zeros, as people compare them. */
static void print_txid(const json_t *db, const char *key, FILE *out)
{
	const char *text = text_of(db, key);

	if (!*text) {
		fputs("?", out);
		return;
	}
	while (text[0] == '0' && text[1] != '/')
		text++;
	fprintf(out, "%.*s", (int)strcspn(text, "/"), text);
}

static void print_progress(const json_t *db, FILE *out)
{
	const json_t *commit = json_object_get(db, "commit");
	int64_t sent = number_of(commit, "sent_bytes"), of = number_of(commit, "of_bytes"), lag = number_of(db, "lag_transactions");
	char a[32], b[32];

	if (json_is_object(commit)) {
		fprintf(out, "    commit    %s for %.1f s", text_of(commit, "phase"), (double)number_of(commit, "for_ms") / 1000);
		if (of)
			fprintf(out, ", %s of %s (%" PRId64 " %%)", bytes_text(a, sizeof a, sent), bytes_text(b, sizeof b, of), sent * 100 / of);
		fputc('\n', out);
	}
	if (lag || is_set(db, "catching_up") || number_of(db, "behind_transactions"))
		fprintf(out, "    catch-up  LiteFS here lacks %" PRId64 " transactions of the primary%s\n",
			lag ? lag : number_of(db, "behind_transactions"), is_set(db, "catching_up") ? ", readers are held back for it" : "");
}

static void print_transactions(const json_t *db, FILE *out)
{
	json_t *all = json_object_get(db, "transactions"), *one;
	int64_t refused = 0, not_committed = 0, unknown = 0, not_sent = 0;
	const char *path;
	bool any = false;

	fputs("    committed", out);
	json_object_foreach(all, path, one) {
		int64_t n = number_of(one, "committed");

		refused += number_of(one, "refused");
		not_committed += number_of(one, "not_committed");
		unknown += number_of(one, "unknown");
		not_sent += number_of(one, "not_sent");
		if (n)
			fprintf(out, "%s %" PRId64 " by %s", any ? "," : "", n, path);
		any |= n > 0;
	}
	fprintf(out, "%s\n", any ? "" : " none");
	if (refused || not_committed || unknown || not_sent)
		fprintf(out,
			"    failed    %" PRId64 " refused, %" PRId64 " not committed, %" PRId64 " not sent, %" PRId64 " unknown (verdicts: %" PRId64
			" committed, %" PRId64 " not, %" PRId64 " cannot tell)\n",
			refused, not_committed, not_sent, unknown, number_of(db, "verdicts_committed"), number_of(db, "verdicts_not_committed"),
			number_of(db, "verdicts_none"));
}

static void print_database(const char *name, const json_t *db, FILE *out)
{
	const json_t *waiting = json_object_get(db, "waiting"), *spool = json_object_get(db, "spool"), *unknown;
	char a[32], b[32];
	size_t i;

	fprintf(out, "\n  %s: %s%s, %s, at ", name, text_of(db, "mode"), is_set(db, "absent") ? ", not in LiteFS yet" : "",
		bytes_text(a, sizeof a, number_of(db, "pages") * number_of(db, "page_size")));
	print_txid(db, "tip", out);
	fputs(" (LiteFS here ", out);
	print_txid(db, "litefs", out);
	fputs(", primary last seen at ", out);
	print_txid(db, "primary", out);
	fprintf(out, ")\n    upstream  %s", text_of(db, "upstream"));
	if (*text_of(db, "upstream_kind"))
		fprintf(out, " by %s at %s", text_of(db, "upstream_kind"), text_of(db, "upstream_url"));
	if (number_of(db, "upstream_held_ms"))
		fprintf(out, " for %.1f s", (double)number_of(db, "upstream_held_ms") / 1000);
	fputc('\n', out);
	print_progress(db, out);
	print_transactions(db, out);
	json_array_foreach(json_object_get(db, "unknowns"), i, unknown)
		fprintf(out, "    unknown   %s: its verdict is to come\n", json_string_value(unknown));
	fprintf(out, "    readers   %" PRId64 ", the oldest for %.1f s\n", number_of(db, "readers"), (double)number_of(db, "longest_read_ms") / 1000);
	fprintf(out, "    waiting   %" PRId64 " to read, %" PRId64 " to write, %" PRId64 " for COMMIT, %" PRId64 " other nodes\n",
		number_of(waiting, "read"), number_of(waiting, "write"), number_of(waiting, "commit"), number_of(waiting, "sessions"));
	fprintf(out, "    busy      %" PRId64 " write, %" PRId64 " away, %" PRId64 " read, %" PRId64 " gate\n", number_of(db, "busy_write"),
		number_of(db, "busy_away"), number_of(db, "busy_read"), number_of(db, "busy_gate"));
	fprintf(out, "    spool     %s in memory, %s in files\n", bytes_text(a, sizeof a, number_of(spool, "memory_bytes")),
		bytes_text(b, sizeof b, number_of(spool, "file_bytes")));
	fprintf(out, "    view      %" PRId64 " resets, %" PRId64 " folds, %" PRId64 " checkpoints%s; guard %s\n", number_of(db, "resets"),
		number_of(db, "folds"), number_of(db, "checkpoints"), is_set(db, "checkpoint_wanted") ? " (one is wanted)" : "",
		is_set(db, "guard_held") ? "held" : "not held");
}

void status_print(const json_t *status, FILE *out)
{
	json_t *databases = json_object_get(status, "databases"), *db;
	const char *name;

	print_health(status, out);
	print_node(status, out);
	print_servers(status, out);
	if (!json_object_size(databases))
		fputs("\n  no database is open here yet\n", out);
	json_object_foreach(databases, name, db)
		print_database(name, db, out);
}
