/* How much one address may ask. The queue of a database has a bound of its own, in db. */
#include <string.h>

#include "base/clock.h"
#include "gateway/gateway_internal.h"

/* A node keeps a connection per database; several nodes may come from one address. */
const struct gateway_limits gateway_limits_default = {
	.connections = 512,
	.connections_per_address = 128,
	.requests_per_second = 5000,
	.sessions = 1024,
	.uploads = 16,
	.upload_bytes = UINT64_C(4) << 30,
	.upload_bytes_all = UINT64_C(8) << 30,
	.idle_s = 60,
	.stuck_ms = 120000,
	.head_bytes = 32768,
};

/*
 * A bucket that holds one second's worth. Buckets are found by a hash: two addresses that share one take it from each
 * other full, so that nobody is refused for somebody else's requests.
 */
bool gw_limits_allow(struct gateway *gw, const uint8_t addr[16])
{
	int64_t now = clock_now_ns(), each = NS_PER_S / gw->limits.requests_per_second;
	unsigned hash = 0;
	struct gw_bucket *b;

	for (int i = 0; i < 16; i++)
		hash = hash * 31 + addr[i];
	b = &gw->buckets[hash % GW_BUCKETS];
	if (memcmp(b->addr, addr, sizeof b->addr) != 0) {
		memcpy(b->addr, addr, sizeof b->addr);
		b->full_ns = 0;
	}
	if (b->full_ns < now)
		b->full_ns = now;
	if (b->full_ns - now > NS_PER_S - each)
		return false;
	b->full_ns += each;
	return true;
}
