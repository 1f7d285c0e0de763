/*
 * metrics: an HTTP server for those who watch: /metrics in Prometheus' text format, /healthz (200 "well", or 503 and why).
 *
 * One thread of its own (libmicrohttpd), which asks for status and for nothing else: it waits neither for LiteFS nor for the network, and
 * who does not fetch an answer keeps nobody. There is no password: the address decides who may look (loopback, or a network that
 * is told so; it is logged). What can be seen: names of databases, URLs of the primary, numbers.
 *
 * Ownership: borrows ctx until metrics_stop(). Threads: metrics_start and metrics_stop from main's, with signals blocked; status is
 * called from the server's. Errors of metrics_start: negative errno, logged with what to do.
 */
#ifndef LITEFWD_PROG_METRICS_H
#define LITEFWD_PROG_METRICS_H

#include <jansson.h>

struct metrics;

/* status: as fs_status_json() with durations: a new reference, or NULL. */
int metrics_start(const char *address, json_t *(*status)(void *ctx), void *ctx, struct metrics **ret);
void metrics_stop(struct metrics *metrics); /* NULL is harmless */

/* As it is bound. */
const char *metrics_address(const struct metrics *metrics);

#endif
