/* Histograms, of all databases together. */
#include <inttypes.h>
#include <string.h>

#include "base/histogram.h"
#include "status/metrics_internal.h"

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
		metrics_label(out, key, json_string_value(value), first);
		first = false;
	}
	if (le)
		metrics_label(out, "le", le, first);
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
	metrics_seconds(out, json_integer_value(json_object_get(one, "sum_ns")), 1000000000);
	put_labels(out, name, "_count", labels, NULL);
	fprintf(out, "%" PRId64 "\n", count);
}

void metrics_put_histograms(FILE *out, const json_t *status)
{
	const json_t *durations = json_object_get(status, "durations"), *one;
	size_t i;

	for (size_t h = 0; durations && h < sizeof histograms / sizeof histograms[0]; h++) {
		metrics_head(out, histograms[h].name, "histogram", histograms[h].help);
		json_array_foreach(json_object_get(durations, histograms[h].key), i, one)
			if (is_wanted(one))
				put_histogram(out, histograms[h].name, one);
	}
}
