/*
 * metrics_text: status (fs_status_json(), with durations) in Prometheus' text format, version 0.0.4. docs/monitoring.md lists the metrics.
 *
 * Each is one row of a table: its name, type and help, and where in status its samples are. Seconds and bytes, as Prometheus wants them;
 * counters end in _total. Labels' values are escaped: a database's name may hold anything that is UTF-8.
 * Pure; threads: any. Errors: NULL, no memory. What is missing in status is left out.
 */
#ifndef LITEFWD_STATUS_METRICS_TEXT_H
#define LITEFWD_STATUS_METRICS_TEXT_H

#include <stddef.h>

#include <jansson.h>

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* malloc'ed, and terminated by a 0 that *ret_len does not count. */
char *metrics_text(const json_t *status, size_t *ret_len);

#endif
