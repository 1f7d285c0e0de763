/* metrics_internal: Prometheus' text format, and the parts of the page, for metrics_*.c. Names without "litefwd_". */
#ifndef LITEFWD_STATUS_METRICS_INTERNAL_H
#define LITEFWD_STATUS_METRICS_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

/* HELP and TYPE: once, before a name's samples. */
void metrics_head(FILE *out, const char *name, const char *type, const char *help);
/* One label, escaped; first: begins the list. */
void metrics_label(FILE *out, const char *key, const char *value, bool first);
/* A sample with up to two labels (a key that is NULL: none), up to its value; and whole. */
void metrics_sample_start(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2);
void metrics_sample(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2, int64_t number);
/* A value and the line's end: n of what `unit` are a second (1000, 1000000, 1000000000). */
void metrics_seconds(FILE *out, int64_t n, int64_t unit);

/* metrics_db.c, metrics_durations.c */
void metrics_put_transactions(FILE *out, const json_t *status);
void metrics_put_upstream_state(FILE *out, const json_t *status);
void metrics_put_databases(FILE *out, const json_t *status);
void metrics_put_histograms(FILE *out, const json_t *status);

#endif
