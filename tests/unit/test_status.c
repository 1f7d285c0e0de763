/* Health, Prometheus' text and the page for people, of statuses that are written here; and histograms. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/histogram.h"
#include "db/db_metrics.h"
#include "prog/status.h"
#include "status/health.h"
#include "status/metrics_text.h"

static json_t *load(const char *text)
{
	json_error_t error;
	json_t *json = json_loads(text, 0, &error);

	if (!json)
		fail_msg("%s: %s", error.text, text);
	return json;
}

/* A node where all is well, with `node` instead of some members and `db` as those of the one database. */
static json_t *status_with(const char *node, const char *db)
{
	json_t *status = load("{\"version\": \"1.2\", \"role\": \"replica\", \"litefs_alive\": true, \"primary_url\": \"http://p:1\","
			      " \"primary_gateway_url\": \"http://p:2\", \"started_at\": 1700000000, \"servers\": [], \"databases\": {}}");
	json_t *more = load(node), *database = load(db);

	json_object_update(status, more);
	json_object_set_new(json_object_get(status, "databases"), "app.db", database);
	json_decref(more);
	return status;
}

/* ---- health ---- */

static void assert_health(const char *node, const char *db, const char *summary)
{
	json_t *status = status_with(node, db), *health = health_judge(status);
	char text[200];

	health_summary(health, text, sizeof text);
	if (strcmp(text, summary) != 0)
		fail_msg("%s %s: \"%s\", not \"%s\"", node, db, text, summary);
	assert_int_equal(health_is_well(health), !*summary);
	assert_string_equal(json_string_value(json_object_get(health, "state")), *summary ? "degraded" : "well");
	json_decref(status);
	json_decref(health);
}

static void health__each_trouble__named_with_its_database(void **state)
{
	static const struct {
		const char *node, *db, *summary;
	} rows[] = {
		{"{}", "{}", ""},
		{"{\"litefs_alive\": false, \"role\": \"unknown\"}", "{}", "litefs_gone"},
		{"{\"role\": \"unknown\"}", "{}", "no_primary"},
		{"{\"primary_url\": \"\"}", "{}", "no_primary_url"},
		{"{\"role\": \"primary\", \"primary_url\": \"\"}", "{}", ""},
		{"{}", "{\"litefs_gone\": true}", "litefs_gone (app.db)"},
		{"{}", "{\"primary_away\": true, \"away_ago_ms\": 5}", "primary_away (app.db)"},
		{"{}", "{\"primary_away\": true, \"away_ago_ms\": null}", ""},
		{"{}", "{\"unknowns\": [\"1/2\"]}", "unknown_open (app.db)"},
		{"{}", "{\"unknowns\": []}", ""},
		{"{}", "{\"commit\": {\"phase\": \"decide\"}}", "undecided (app.db)"},
		{"{}", "{\"commit\": {\"phase\": \"send\"}}", ""},
		{"{}", "{\"poisoned\": true}", "poisoned (app.db)"},
		{"{}", "{\"longest_read_ms\": 60001}", "long_reader (app.db)"},
		{"{}", "{\"longest_read_ms\": 60000}", ""},
		{"{\"role\": \"unknown\"}", "{\"poisoned\": true, \"unknowns\": [1]}", "no_primary, unknown_open (app.db), poisoned (app.db)"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		assert_health(rows[i].node, rows[i].db, rows[i].summary);
}

/* One that nobody has asked for a while, and a former primary's, say nothing of today. */
static void health__servers__those_of_now_and_lately(void **state)
{
	static const struct {
		const char *url, *what, *server_state, *ago, *summary;
	} rows[] = {
		{"http://p:1", "litefs", "open", "10", "primary_away"},   {"http://p:1", "litefs", "probing", "29999", "primary_away"},
		{"http://p:1", "litefs", "closed", "null", ""},		  {"http://p:1", "litefs", "open", "30000", ""},
		{"http://former:1", "litefs", "open", "10", ""},	  {"http://p:2", "gateway", "open", "10", "gateway_away"},
		{"http://p:2", "litefs", "open", "10", ""},
	};
	char node[300];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		snprintf(node, sizeof node, "{\"servers\": [{\"url\": \"%s\", \"what\": \"%s\", \"state\": \"%s\", \"failed_ago_ms\": %s}]}",
			 rows[i].url, rows[i].what, rows[i].server_state, rows[i].ago);
		assert_health(node, "{}", rows[i].summary);
	}
	assert_health("{\"role\": \"primary\", \"servers\": [{\"url\": \"http://p:1\", \"what\": \"litefs\", \"state\": \"open\","
		      " \"failed_ago_ms\": 1}]}", "{}", "");
}

static void health__summary_too_long__cut_between_reasons(void **state)
{
	json_t *status = status_with("{\"role\": \"unknown\"}", "{\"poisoned\": true}"), *health = health_judge(status);
	char text[20];

	(void)state;
	health_summary(health, text, sizeof text);
	assert_true(strlen(text) < sizeof text);
	assert_int_equal(strncmp(text, "no_primary", 10), 0);
	json_decref(status);
	json_decref(health);
}

/* ---- histograms ---- */

static void histogram__values__in_their_buckets_cumulative(void **state)
{
	static struct histogram h;
	struct histogram_view v;

	(void)state;
	histogram_add(&h, -5);
	histogram_add(&h, 0);
	histogram_add(&h, histogram_bound_ns(0)); /* bounds are inclusive */
	histogram_add(&h, histogram_bound_ns(0) + 1);
	histogram_add(&h, histogram_bound_ns(HISTOGRAM_BUCKETS - 1));
	histogram_add(&h, histogram_bound_ns(HISTOGRAM_BUCKETS - 1) + 1);
	histogram_get(&h, &v);
	assert_int_equal(v.up_to[0], 3);
	assert_int_equal(v.up_to[1], 4);
	assert_int_equal(v.up_to[HISTOGRAM_BUCKETS - 2], 4);
	assert_int_equal(v.up_to[HISTOGRAM_BUCKETS - 1], 5);
	assert_int_equal(v.up_to[HISTOGRAM_BUCKETS], 6);
	assert_int_equal(v.sum_ns, 2 * histogram_bound_ns(0) + 1 + 2 * histogram_bound_ns(HISTOGRAM_BUCKETS - 1) + 1);
	for (unsigned i = 1; i < HISTOGRAM_BUCKETS; i++)
		assert_int_equal(histogram_bound_ns(i), 2 * histogram_bound_ns(i - 1));
}

/* ---- Prometheus' text ---- */

static char *text_of(json_t *status)
{
	size_t len = 0;
	char *text = metrics_text(status, &len);

	assert_non_null(text);
	assert_int_equal(strlen(text), len);
	json_decref(status);
	return text;
}

static void assert_line(const char *text, const char *line)
{
	const char *at = text;
	size_t len = strlen(line);

	while ((at = strstr(at, line)) != NULL) {
		if ((at == text || at[-1] == '\n') && at[len] == '\n')
			return;
		at++;
	}
	fail_msg("no line \"%s\" in:\n%s", line, text);
}

static void metrics__a_database__its_numbers_in_base_units(void **state)
{
	char *text = text_of(status_with(
		"{\"health\": {\"state\": \"degraded\", \"reasons\": [{\"reason\": \"poisoned\"}, {\"reason\": \"poisoned\"}]},"
		" \"servers\": [{\"url\": \"http://p:1\", \"what\": \"litefs\", \"state\": \"open\", \"opened\": 3, \"denied\": 4, \"probes\": 5}],"
		" \"gateway\": {\"held\": 1, \"waiting\": 2, \"answers\": {\"ok\": 9}}}",
		"{\"mode\": \"wal\", \"tip\": \"00000000000000ff/1\", \"litefs\": null, \"primary\": \"0000000000000100/2\", \"lag_transactions\": 1,"
		" \"longest_read_ms\": 1234, \"unknowns\": [1, 2], \"busy_away\": 6, \"upstream\": \"held\", \"spool\": {\"file_bytes\": 77},"
		" \"transactions\": {\"gateway\": {\"committed\": 8}}, \"commit\": {\"sent_bytes\": 5, \"of_bytes\": 10, \"for_ms\": 20}}"));

	(void)state;
	assert_line(text, "litefwd_build_info{version=\"1.2\"} 1");
	assert_line(text, "litefwd_start_time_seconds 1700000000");
	assert_line(text, "litefwd_healthy 0");
	assert_line(text, "litefwd_health_reasons{reason=\"poisoned\"} 2");
	assert_line(text, "litefwd_health_reasons{reason=\"no_primary\"} 0");
	assert_line(text, "litefwd_litefs_up 1");
	assert_line(text, "litefwd_role{role=\"replica\"} 1");
	assert_line(text, "litefwd_role{role=\"primary\"} 0");
	assert_line(text, "litefwd_databases 1");
	assert_line(text, "litefwd_server_up{what=\"litefs\",url=\"http://p:1\"} 0");
	assert_line(text, "litefwd_server_outages_total{what=\"litefs\",url=\"http://p:1\"} 3");
	assert_line(text, "litefwd_gateway_sessions{state=\"waiting\"} 2");
	assert_line(text, "litefwd_gateway_answers_total{code=\"ok\"} 9");
	assert_line(text, "litefwd_transactions_total{db=\"app.db\",upstream=\"gateway\",outcome=\"committed\"} 8");
	assert_line(text, "litefwd_upstream_state{db=\"app.db\",state=\"held\"} 1");
	assert_line(text, "litefwd_upstream_state{db=\"app.db\",state=\"idle\"} 0");
	assert_line(text, "litefwd_position_txid{db=\"app.db\",at=\"clients\"} 255");
	assert_line(text, "litefwd_position_txid{db=\"app.db\",at=\"primary\"} 256");
	assert_null(strstr(text, ",at=\"litefs\"")); /* not seen: no sample, rather than a wrong one */
	assert_line(text, "litefwd_lag_transactions{db=\"app.db\"} 1");
	assert_line(text, "litefwd_longest_read_seconds{db=\"app.db\"} 1.234");
	assert_line(text, "litefwd_unknown_open{db=\"app.db\"} 2");
	assert_line(text, "litefwd_busy_total{db=\"app.db\",reason=\"away\"} 6");
	assert_line(text, "litefwd_spool_bytes{db=\"app.db\",where=\"file\"} 77");
	assert_line(text, "litefwd_upload_sent_bytes{db=\"app.db\"} 5");
	assert_line(text, "litefwd_upload_size_bytes{db=\"app.db\"} 10");
	assert_line(text, "litefwd_commit_in_progress_seconds{db=\"app.db\"} 0.020");
	assert_line(text, "litefwd_wal_mode{db=\"app.db\"} 1");
	free(text);
}

static void metrics__name_of_a_database__escaped(void **state)
{
	json_t *status = status_with("{}", "{}");
	char *text;

	(void)state;
	json_object_set_new(json_object_get(status, "databases"), "a\"b\\c {} \xc3\xa9.db", json_pack("{s:i}", "readers", 3));
	json_object_set_new(json_object_get(status, "databases"), "line\nend", json_pack("{s:i}", "readers", 4));
	text = text_of(status);
	assert_line(text, "litefwd_readers{db=\"a\\\"b\\\\c {} \xc3\xa9.db\"} 3");
	assert_line(text, "litefwd_readers{db=\"line\\nend\"} 4");
	free(text);
}

static void metrics__durations__as_histograms(void **state)
{
	static struct db_metrics metrics;
	json_t *status = status_with("{}", "{}");
	char *text;

	(void)state;
	histogram_add(&metrics.commit[DB_PATH_GATEWAY][DB_TX_COMMITTED], 150000);
	histogram_add(&metrics.commit[DB_PATH_GATEWAY][DB_TX_COMMITTED], INT64_C(3000000000));
	histogram_add(&metrics.begin[DB_PATH_HALT][DB_BEGIN_AWAY], INT64_C(100000000000));
	json_object_set_new(status, "durations", db_metrics_json(&metrics));
	text = text_of(status);
	assert_line(text, "# TYPE litefwd_commit_duration_seconds histogram");
	assert_line(text, "litefwd_commit_duration_seconds_bucket{upstream=\"gateway\",outcome=\"committed\",le=\"0.0001\"} 0");
	assert_line(text, "litefwd_commit_duration_seconds_bucket{upstream=\"gateway\",outcome=\"committed\",le=\"0.0002\"} 1");
	assert_line(text, "litefwd_commit_duration_seconds_bucket{upstream=\"gateway\",outcome=\"committed\",le=\"3.2768\"} 2");
	assert_line(text, "litefwd_commit_duration_seconds_bucket{upstream=\"gateway\",outcome=\"committed\",le=\"+Inf\"} 2");
	assert_line(text, "litefwd_commit_duration_seconds_sum{upstream=\"gateway\",outcome=\"committed\"} 3.000150000");
	assert_line(text, "litefwd_commit_duration_seconds_count{upstream=\"gateway\",outcome=\"committed\"} 2");
	assert_line(text, "litefwd_begin_duration_seconds_bucket{upstream=\"halt\",outcome=\"away\",le=\"52.4288\"} 0");
	assert_line(text, "litefwd_begin_duration_seconds_bucket{upstream=\"halt\",outcome=\"away\",le=\"+Inf\"} 1");
	assert_line(text, "litefwd_catch_up_duration_seconds_count 0");
	/* Good outcomes are there from the beginning, others when they have been. */
	assert_line(text, "litefwd_commit_duration_seconds_count{upstream=\"self\",outcome=\"committed\"} 0");
	assert_null(strstr(text, "outcome=\"refused\""));
	free(text);
}

/* Each name has its head once, and before its samples: Prometheus takes no page where it has not. */
static void metrics__each_sample__below_its_own_head(void **state)
{
	static struct db_metrics metrics;
	json_t *status = status_with("{\"gateway\": {}, \"servers\": [{\"url\": \"u\", \"what\": \"w\", \"state\": \"closed\"}]}", "{}");
	char *text, *save = NULL, head[100] = "", seen[20000] = " ";

	(void)state;
	json_object_set_new(json_object_get(status, "databases"), "other.db", json_object());
	json_object_set_new(status, "durations", db_metrics_json(&metrics));
	text = text_of(status);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char name[100], key[110];

		if (!strncmp(line, "# TYPE ", 7)) {
			assert_int_equal(sscanf(line + 7, "%99s", name), 1);
			assert_string_equal(name, head); /* HELP came just before */
		} else if (!strncmp(line, "# HELP ", 7)) {
			assert_int_equal(sscanf(line + 7, "%99s", head), 1);
			snprintf(key, sizeof key, " %s ", head);
			if (strstr(seen, key))
				fail_msg("%s has two heads", head);
			assert_true(strlen(seen) + strlen(key) < sizeof seen);
			strcat(seen, key + 1);
		} else if (strncmp(line, head, strlen(head)) != 0) {
			fail_msg("below the head of %s: %s", head, line);
		}
	}
	free(text);
}

static void metrics__nothing_known__still_a_page(void **state)
{
	char *text = text_of(json_object());

	(void)state;
	assert_line(text, "litefwd_build_info{version=\"\"} 1");
	assert_line(text, "litefwd_healthy 0");
	free(text);
}

/* ---- the page for people ---- */

static char *page_of(json_t *status)
{
	size_t len = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &len);

	json_object_set_new(status, "health", health_judge(status));
	status_print(status, out);
	fclose(out);
	json_decref(status);
	return text;
}

static void page__troubles_and_progress__shown(void **state)
{
	char *text = page_of(status_with("{\"mountpoint\": \"/data\", \"uptime_s\": 3700, \"primary_hostname\": \"p\"}",
					 "{\"mode\": \"wal\", \"pages\": 300, \"page_size\": 4096, \"tip\": \"00000000000000a1/1\", \"litefs\": null,"
					 " \"commit\": {\"phase\": \"send\", \"for_ms\": 1500, \"sent_bytes\": 3145728, \"of_bytes\": 12582912},"
					 " \"lag_transactions\": 7, \"unknowns\": [\"00000000000000a0/9\"], \"upstream\": \"commit\","
					 " \"upstream_kind\": \"halt\", \"upstream_url\": \"http://p:1\","
					 " \"transactions\": {\"halt\": {\"committed\": 5, \"unknown\": 1}}}"));

	(void)state;
	assert_non_null(strstr(text, "/data: degraded\n  ! unknown_open app.db: "));
	assert_non_null(strstr(text, "mounted for 1h01m"));
	assert_non_null(strstr(text, "replica of p at http://p:1, gateway http://p:2"));
	assert_non_null(strstr(text, "app.db: wal, 1.2 MiB, at a1 (LiteFS here ?,"));
	assert_non_null(strstr(text, "send for 1.5 s, 3.0 MiB of 12.0 MiB (25 %)"));
	assert_non_null(strstr(text, "lacks 7 transactions"));
	assert_non_null(strstr(text, "commit by halt at http://p:1"));
	assert_non_null(strstr(text, "committed 5 by halt\n"));
	assert_non_null(strstr(text, "unknown   00000000000000a0/9"));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(health__each_trouble__named_with_its_database),
		cmocka_unit_test(health__servers__those_of_now_and_lately),
		cmocka_unit_test(health__summary_too_long__cut_between_reasons),
		cmocka_unit_test(histogram__values__in_their_buckets_cumulative),
		cmocka_unit_test(metrics__a_database__its_numbers_in_base_units),
		cmocka_unit_test(metrics__name_of_a_database__escaped),
		cmocka_unit_test(metrics__durations__as_histograms),
		cmocka_unit_test(metrics__each_sample__below_its_own_head),
		cmocka_unit_test(metrics__nothing_known__still_a_page),
		cmocka_unit_test(page__troubles_and_progress__shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
