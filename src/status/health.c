#include "status/health.h"

#include <stdio.h>
#include <string.h>

static const struct {
	const char *name, *text;
} reasons[HEALTH_REASONS] = {
	[HEALTH_LITEFS_GONE] = {"litefs_gone", "LiteFS on this node does not answer: reads and writes fail until it is back"},
	[HEALTH_NO_PRIMARY] = {"no_primary", "LiteFS knows no primary: writes get BUSY until there is one"},
	[HEALTH_NO_PRIMARY_URL] = {"no_primary_url", "where the primary is cannot be told: give primary_url= or litefs_config="},
	[HEALTH_PRIMARY_AWAY] = {"primary_away", "the primary did not answer: writes get BUSY until it does"},
	[HEALTH_GATEWAY_AWAY] = {"gateway_away", "the primary's gateway did not answer: LiteFS' HALT lock is used meanwhile"},
	[HEALTH_UNKNOWN_OPEN] = {"unknown_open", "a commit has failed with its outcome unknown: wait for commit_verdict in the log"},
	[HEALTH_UNDECIDED] = {"undecided", "a commit's answer was lost: its outcome is being looked for"},
	[HEALTH_POISONED] = {"poisoned", "readers get errors until they have ended their transactions"},
	[HEALTH_LONG_READER] = {"long_reader", "a read transaction holds up replication: end it, or set read_max_hold="},
};

const char *health_reason_name(enum health_reason reason)
{
	return reasons[reason].name;
}

static void add(json_t *list, enum health_reason reason, const char *db)
{
	json_array_append_new(list, json_pack("{s:s, s:s?, s:s}", "reason", reasons[reason].name, "db", db, "text", reasons[reason].text));
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* null, or not there: long ago. */
static bool is_recent(const json_t *ago_ms)
{
	return json_is_integer(ago_ms) && json_integer_value(ago_ms) < HEALTH_RECENT_MS;
}

/* Those that this node would ask now: a former primary's stays as it was left. */
static void judge_servers(const json_t *status, json_t *list)
{
	const json_t *server;
	size_t i;

	json_array_foreach(json_object_get(status, "servers"), i, server) {
		bool gateway = !strcmp(text_of(server, "what"), "gateway");
		const char *url = text_of(server, "url");

		if (!strcmp(text_of(server, "state"), "closed") || !is_recent(json_object_get(server, "failed_ago_ms")) || !*url)
			continue;
		if (!strcmp(url, text_of(status, gateway ? "primary_gateway_url" : "primary_url")))
			add(list, gateway ? HEALTH_GATEWAY_AWAY : HEALTH_PRIMARY_AWAY, NULL);
	}
}

static void judge_node(const json_t *status, json_t *list)
{
	const char *role = text_of(status, "role");

	if (json_is_false(json_object_get(status, "litefs_alive")))
		add(list, HEALTH_LITEFS_GONE, NULL);
	else if (!strcmp(role, "unknown"))
		add(list, HEALTH_NO_PRIMARY, NULL);
	else if (!strcmp(role, "replica") && !*text_of(status, "primary_url"))
		add(list, HEALTH_NO_PRIMARY_URL, NULL);
	if (!strcmp(role, "replica"))
		judge_servers(status, list);
}

static void judge_database(const char *name, const json_t *db, json_t *list)
{
	if (json_is_true(json_object_get(db, "litefs_gone")))
		add(list, HEALTH_LITEFS_GONE, name);
	if (json_is_true(json_object_get(db, "primary_away")) && is_recent(json_object_get(db, "away_ago_ms")))
		add(list, HEALTH_PRIMARY_AWAY, name);
	if (json_array_size(json_object_get(db, "unknowns")))
		add(list, HEALTH_UNKNOWN_OPEN, name);
	if (!strcmp(text_of(json_object_get(db, "commit"), "phase"), "decide"))
		add(list, HEALTH_UNDECIDED, name);
	if (json_is_true(json_object_get(db, "poisoned")))
		add(list, HEALTH_POISONED, name);
	if (json_integer_value(json_object_get(db, "longest_read_ms")) > HEALTH_LONG_READ_MS)
		add(list, HEALTH_LONG_READER, name);
}

json_t *health_judge(const json_t *status)
{
	json_t *list = json_array(), *db;
	const char *name;

	if (!list)
		return NULL;
	judge_node(status, list);
	json_object_foreach(json_object_get(status, "databases"), name, db)
		judge_database(name, db, list);
	return json_pack("{s:s, s:o}", "state", json_array_size(list) ? "degraded" : "well", "reasons", list);
}

bool health_is_well(const json_t *health)
{
	return !strcmp(text_of(health, "state"), "well");
}

void health_summary(const json_t *health, char *ret, size_t size)
{
	const json_t *reason;
	size_t i, len = 0;

	*ret = 0;
	json_array_foreach(json_object_get(health, "reasons"), i, reason) {
		const char *db = text_of(reason, "db");
		int n = snprintf(ret + len, size - len, "%s%s%s%s%s", i ? ", " : "", text_of(reason, "reason"), *db ? " (" : "", db,
				 *db ? ")" : "");

		if (n < 0 || (size_t)n >= size - len)
			return;
		len += (size_t)n;
	}
}
