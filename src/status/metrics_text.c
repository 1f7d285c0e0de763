#include "status/metrics_text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "status/health.h"
#include "status/metrics_internal.h"

static void put_health(FILE *out, const json_t *status)
{
	const json_t *health = json_object_get(status, "health"), *reason;
	unsigned counts[HEALTH_REASONS] = {0};
	size_t i;

	json_array_foreach(json_object_get(health, "reasons"), i, reason)
		for (int r = 0; r < HEALTH_REASONS; r++)
			counts[r] += !strcmp(json_string_value(json_object_get(reason, "reason")), health_reason_name((enum health_reason)r));
	metrics_head(out, "healthy", "gauge", "1: well; 0: degraded, as /healthz says.");
	metrics_sample(out, "healthy", NULL, NULL, NULL, NULL, health_is_well(health));
	metrics_head(out, "health_reasons", "gauge", "What it is degraded for: in how many databases, or 1 for the node.");
	for (int r = 0; r < HEALTH_REASONS; r++)
		metrics_sample(out, "health_reasons", "reason", health_reason_name((enum health_reason)r), NULL, NULL, counts[r]);
}

static void put_node(FILE *out, const json_t *status)
{
	static const char *const roles[] = {"primary", "replica", "unknown"};
	const char *version = json_string_value(json_object_get(status, "version")), *role = json_string_value(json_object_get(status, "role"));

	metrics_head(out, "build_info", "gauge", "1, and the version of litefwd.");
	metrics_sample(out, "build_info", "version", version ? version : "", NULL, NULL, 1);
	metrics_head(out, "start_time_seconds", "gauge", "When it was mounted, in seconds since 1970.");
	metrics_sample(out, "start_time_seconds", NULL, NULL, NULL, NULL, json_integer_value(json_object_get(status, "started_at")));
	put_health(out, status);
	metrics_head(out, "litefs_up", "gauge", "1: LiteFS on this node answers.");
	metrics_sample(out, "litefs_up", NULL, NULL, NULL, NULL, json_is_true(json_object_get(status, "litefs_alive")));
	metrics_head(out, "role", "gauge", "1 for the role of this node; unknown: LiteFS is not connected to a primary.");
	for (size_t i = 0; i < 3; i++)
		metrics_sample(out, "role", "role", roles[i], NULL, NULL, role && !strcmp(role, roles[i]));
	metrics_head(out, "databases", "gauge", "Databases that are open here.");
	metrics_sample(out, "databases", NULL, NULL, NULL, NULL, (int64_t)json_object_size(json_object_get(status, "databases")));
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
		metrics_head(out, rows[r].name, rows[r].type, rows[r].help);
		json_array_foreach(json_object_get(status, "servers"), i, server) {
			const char *what = json_string_value(json_object_get(server, "what")), *url = json_string_value(json_object_get(server, "url"));
			const char *state = json_string_value(json_object_get(server, "state"));

			if (what && url && state)
				metrics_sample(out, rows[r].name, "what", what, "url", url,
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
	metrics_head(out, "gateway_sessions", "gauge", "Other nodes that have, or wait for, the right to write here.");
	metrics_sample(out, "gateway_sessions", "state", "held", NULL, NULL, json_integer_value(json_object_get(gateway, "held")));
	metrics_sample(out, "gateway_sessions", "state", "waiting", NULL, NULL, json_integer_value(json_object_get(gateway, "waiting")));
	metrics_head(out, "gateway_answers_total", "counter", "Answers of this gateway.");
	json_object_foreach(json_object_get(gateway, "answers"), code, count)
		metrics_sample(out, "gateway_answers_total", "code", code, NULL, NULL, json_integer_value(count));
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
	metrics_put_transactions(out, status);
	metrics_put_upstream_state(out, status);
	metrics_put_databases(out, status);
	metrics_put_histograms(out, status);
	failed = ferror(out);
	failed |= fclose(out) != 0;
	if (failed) {
		free(text);
		return NULL;
	}
	return text;
}
