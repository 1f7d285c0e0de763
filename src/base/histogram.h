/*
 * histogram: how long things take, counted in buckets. One writer's cost is two relaxed additions; a reader takes no lock, and what it
 * sees of a moment in which somebody writes may lack the last values.
 *
 * Bounds are fixed: 100 us doubled again and again, up to 52 s: from a commit on loopback to a LiteFS that waits for a reader.
 * Threads: any. Never blocks, never fails. A zeroed one is empty. Units: ns.
 */
#ifndef LITEFWD_BASE_HISTOGRAM_H
#define LITEFWD_BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define HISTOGRAM_BUCKETS 20 /* with an upper bound */

struct histogram {
	_Atomic uint64_t buckets[HISTOGRAM_BUCKETS + 1]; /* the last: beyond all bounds */
	_Atomic uint64_t sum_ns;
};

/* Upper bound of a bucket (inclusive), ns; i < HISTOGRAM_BUCKETS. */
int64_t histogram_bound_ns(unsigned i);
/* A negative one counts as 0. */
void histogram_add(struct histogram *histogram, int64_t ns);

/* A copy of it: buckets cumulative, as Prometheus has them, so that the last is the count. */
struct histogram_view {
	uint64_t up_to[HISTOGRAM_BUCKETS + 1];
	uint64_t sum_ns;
};
void histogram_get(const struct histogram *histogram, struct histogram_view *ret);

#endif
