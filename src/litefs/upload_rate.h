/*
 * upload_rate: how fast transactions get to the primary, LiteFS' applying included, and
 * so what can be sent within a lock's life. A large one that is begun and not finished in
 * time is cut off at the lock's end, with an outcome that must be looked for.
 *
 * Believed is half of what the last large ones had (weighted by size, the latest most). Before the first: a careful
 * default. A low measure may have been a stall, and what it forbids cannot prove it wrong: so belief
 * doubles with every quarter of a minute without a new one, up to the default.
 *
 * Pure; threads: one at a time per object. A zeroed one knows nothing yet.
 */
#ifndef LITEFWD_LITEFS_UPLOAD_RATE_H
#define LITEFWD_LITEFS_UPLOAD_RATE_H

#include <stdint.h>

#define UPLOAD_RATE_DEFAULT (UINT64_C(4) << 20) /* bytes per second */
#define UPLOAD_RATE_TELLING (256u << 10) /* smaller ones show round trips, not a rate */

struct upload_rate {
	uint64_t bytes; /* sums, of which the older part fades */
	int64_t ns;
	int64_t noted_ns;
};

/* One that was applied: size bytes, elapsed_ns from its first byte to the answer, one round trip of which was waiting. */
void upload_rate_note(struct upload_rate *rate, uint64_t size, int64_t elapsed_ns, int64_t rtt_ns, int64_t now_ns);

/* One that was cut off, or got no answer: at least that slow. Says nothing where it was faster than what is believed. */
void upload_rate_note_cut(struct upload_rate *rate, uint64_t size, int64_t elapsed_ns, int64_t now_ns);

/* Bytes per second that are believed; never 0. */
uint64_t upload_rate_get(const struct upload_rate *rate, int64_t now_ns);

/* What size bytes take at `bytes_per_s`, and what goes into ns; both without overflow. */
int64_t upload_rate_time_ns(uint64_t bytes_per_s, uint64_t size);
uint64_t upload_rate_bytes_in(uint64_t bytes_per_s, int64_t ns);

#endif
