#include "db/seen_states.h"

#include <string.h>

bool seen_states_add(struct seen_states *seen, const uint8_t *page1, struct pos pos)
{
	const uint8_t *bytes = page1 + SEEN_STATE_OFFSET;
	uint32_t n = seen->count < SEEN_STATES_MAX ? seen->count : SEEN_STATES_MAX;

	for (uint32_t i = 0; i < n; i++)
		if (!memcmp(seen->states[i].bytes, bytes, SEEN_STATE_SIZE)) {
			/* The same content by another TXID is no other state: a transaction that was taken back. */
			bool other = seen->states[i].pos.checksum != pos.checksum;

			seen->states[i].pos = pos;
			return other;
		}
	memcpy(seen->states[seen->count % SEEN_STATES_MAX].bytes, bytes, SEEN_STATE_SIZE);
	seen->states[seen->count % SEEN_STATES_MAX].pos = pos;
	seen->count++;
	return false;
}
