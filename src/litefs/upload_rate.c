#include "litefs/upload_rate.h"

#include "base/clock.h"

#define SAFETY 2
#define DOUBLES_EVERY_NS (15 * NS_PER_S)
#define FOREVER_S 1000000

static void add(struct upload_rate *rate, uint64_t size, int64_t ns, int64_t now_ns)
{
	rate->bytes = rate->bytes - rate->bytes / 4 + size;
	rate->ns = rate->ns - rate->ns / 4 + (ns > 0 ? ns : 1);
	rate->noted_ns = now_ns;
}

void upload_rate_note(struct upload_rate *rate, uint64_t size, int64_t elapsed_ns, int64_t rtt_ns, int64_t now_ns)
{
	if (size < UPLOAD_RATE_TELLING)
		return;
	add(rate, size, elapsed_ns - (rtt_ns < elapsed_ns / 2 ? rtt_ns : elapsed_ns / 2), now_ns);
}

void upload_rate_note_cut(struct upload_rate *rate, uint64_t size, int64_t elapsed_ns, int64_t now_ns)
{
	if (size < UPLOAD_RATE_TELLING || upload_rate_time_ns(upload_rate_get(rate, now_ns), size) >= elapsed_ns)
		return;
	add(rate, size, elapsed_ns, now_ns);
}

uint64_t upload_rate_get(const struct upload_rate *rate, int64_t now_ns)
{
	uint64_t believed;

	if (!rate->ns)
		return UPLOAD_RATE_DEFAULT;
	believed = (uint64_t)((double)rate->bytes / (double)rate->ns * NS_PER_S) / SAFETY;
	believed = believed ? believed : 1;
	for (int64_t t = now_ns - rate->noted_ns; t >= DOUBLES_EVERY_NS && believed < UPLOAD_RATE_DEFAULT; t -= DOUBLES_EVERY_NS) {
		believed *= 2;
		if (believed > UPLOAD_RATE_DEFAULT)
			believed = UPLOAD_RATE_DEFAULT;
	}
	return believed;
}

int64_t upload_rate_time_ns(uint64_t bytes_per_s, uint64_t size)
{
	uint64_t s = size / bytes_per_s, rest = size % bytes_per_s;

	if (s >= FOREVER_S)
		return FOREVER_S * NS_PER_S;
	return (int64_t)s * NS_PER_S + (int64_t)((double)rest / (double)bytes_per_s * NS_PER_S);
}

uint64_t upload_rate_bytes_in(uint64_t bytes_per_s, int64_t ns)
{
	return ns > 0 ? (uint64_t)((double)bytes_per_s * ((double)ns / NS_PER_S)) : 0;
}
