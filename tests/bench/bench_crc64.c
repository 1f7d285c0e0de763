/* Bytes per second of both ways to a CRC-64, over pages of 4 KiB and of 64 KiB. One line each, key=value. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "format/crc64.h"

typedef uint64_t (*crc_fn)(uint64_t crc, const void *data, size_t len);

static void measure(const char *name, crc_fn fn, const uint8_t *buf, size_t len)
{
	double best = 0;
	uint64_t crc = 0;

	for (int run = 0; run < 5; run++) {
		int64_t start = clock_now_ns(), spent;
		uint64_t bytes = 0;

		do {
			for (int i = 0; i < 64; i++)
				crc = fn(crc, buf, len);
			bytes += 64 * len;
			spent = clock_now_ns() - start;
		} while (spent < 100 * NS_PER_MS);
		if ((double)bytes / (double)spent > best)
			best = (double)bytes / (double)spent;
	}
	printf("crc64 way=%s page=%zu gb_per_s=%.2f crc=%016llx\n", name, len, best, (unsigned long long)crc);
}

int main(void)
{
	static uint8_t buf[65536];

	for (size_t i = 0; i < sizeof buf; i++)
		buf[i] = (uint8_t)(i * 2654435761u >> 24);
	for (size_t len = 4096; len <= sizeof buf; len *= 16) {
		measure("tables", crc64_iso_tables, buf, len);
		if (crc64_has_clmul())
			measure("clmul", crc64_iso_clmul, buf, len);
		measure("chosen", crc64_iso, buf, len);
	}
	return 0;
}
