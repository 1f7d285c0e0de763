#include "base/histogram.h"

#define FIRST_BOUND_NS INT64_C(100000)

int64_t histogram_bound_ns(unsigned i)
{
	return FIRST_BOUND_NS << i;
}

void histogram_add(struct histogram *h, int64_t ns)
{
	unsigned i = 0;

	if (ns < 0)
		ns = 0;
	while (i < HISTOGRAM_BUCKETS && ns > histogram_bound_ns(i))
		i++;
	atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_ns, (uint64_t)ns, memory_order_relaxed);
}

void histogram_get(const struct histogram *h, struct histogram_view *ret)
{
	uint64_t sum = 0;

	ret->sum_ns = atomic_load_explicit(&h->sum_ns, memory_order_relaxed);
	for (unsigned i = 0; i <= HISTOGRAM_BUCKETS; i++) {
		sum += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
		ret->up_to[i] = sum;
	}
}
