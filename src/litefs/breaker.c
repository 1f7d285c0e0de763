#include "litefs/breaker.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "litefs/url.h"

/* A cluster has some nodes, and each may have been the primary. */
#define BREAKERS_MAX 64
#define PAUSE_MIN_NS (100 * NS_PER_MS)
/* One lost connection is nothing to speak of. */
#define SAY_AFTER 3

struct breaker {
	struct breakers *table;
	const char *what;
	char url[URL_MAX];
	int64_t pause_max_ns;
	enum { CLOSED, OPEN, PROBING } state;
	uint64_t epoch; /* of the last failure */
	unsigned failures; /* in a row */
	int64_t since_ns, pause_ns, until_ns;
	bool said;
	uint64_t opened, denied, probes;
};

struct breakers {
	pthread_mutex_t mutex;
	struct breaker *list[BREAKERS_MAX];
	unsigned count;
};

int breakers_new(struct breakers **ret)
{
	struct breakers *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->mutex, NULL);
	*ret = t;
	return 0;
}

void breakers_free(struct breakers *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < t->count; i++)
		free(t->list[i]);
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

struct breaker *breaker_get(struct breakers *t, const char *what, const char *url, int64_t pause_max_ns)
{
	struct breaker *b = NULL;

	if (!t || strlen(url) >= URL_MAX)
		return NULL;
	pthread_mutex_lock(&t->mutex);
	for (unsigned i = 0; i < t->count && !b; i++)
		if (!strcmp(t->list[i]->url, url) && !strcmp(t->list[i]->what, what))
			b = t->list[i];
	if (!b && t->count < BREAKERS_MAX) {
		b = calloc(1, sizeof *b);
		if (b) {
			*b = (struct breaker){.table = t, .what = what, .pause_max_ns = pause_max_ns};
			strcpy(b->url, url);
			t->list[t->count++] = b;
		}
	}
	pthread_mutex_unlock(&t->mutex);
	return b;
}

enum breaker_entry breaker_enter(struct breaker *b, uint64_t epoch)
{
	enum breaker_entry entry = BREAKER_ALLOWED;

	if (!b)
		return BREAKER_ALLOWED;
	pthread_mutex_lock(&b->table->mutex);
	if (b->state == OPEN && (clock_now_ns() >= b->until_ns || epoch != b->epoch)) {
		b->state = PROBING;
		b->probes++;
		entry = BREAKER_PROBE;
	} else if (b->state != CLOSED) {
		b->denied++;
		entry = BREAKER_DENIED;
	}
	pthread_mutex_unlock(&b->table->mutex);
	return entry;
}

void breaker_good(struct breaker *b)
{
	int64_t away_ms = 0;
	unsigned failures = 0;

	if (!b)
		return;
	pthread_mutex_lock(&b->table->mutex);
	if (b->state != CLOSED) {
		away_ms = (clock_now_ns() - b->since_ns) / NS_PER_MS;
		failures = b->said ? b->failures : 0;
		b->state = CLOSED;
		b->failures = 0;
		b->said = false;
	}
	pthread_mutex_unlock(&b->table->mutex);
	if (failures)
		log_info("server_back", "what=%s url=%s after_ms=%" PRId64 " failures=%u", b->what, b->url, away_ms, failures);
}

void breaker_bad(struct breaker *b, uint64_t epoch, const char *error)
{
	bool say;

	if (!b)
		return;
	pthread_mutex_lock(&b->table->mutex);
	if (b->state == CLOSED) {
		b->since_ns = clock_now_ns();
		b->pause_ns = PAUSE_MIN_NS / 2;
		b->opened++;
	}
	b->state = OPEN;
	b->epoch = epoch;
	b->pause_ns = b->pause_ns * 2 < b->pause_max_ns ? b->pause_ns * 2 : b->pause_max_ns;
	b->until_ns = clock_now_ns() + b->pause_ns;
	b->failures++;
	say = b->failures >= SAY_AFTER && !b->said;
	b->said |= say;
	pthread_mutex_unlock(&b->table->mutex);
	if (say)
		log_warn("server_away", "what=%s url=%s error=\"%s\" do=\"%s; it is asked again now and then\"", b->what, b->url, error,
			 strcmp(b->what, "gateway") ? "writes get BUSY until it answers" : "LiteFS' HALT is used meanwhile");
}

void breaker_untold(struct breaker *b)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->table->mutex);
	if (b->state == PROBING)
		b->state = OPEN; /* whose pause is over */
	pthread_mutex_unlock(&b->table->mutex);
}

json_t *breakers_status(struct breakers *t)
{
	static const char *const states[] = {"closed", "open", "probing"};
	json_t *list = json_array();
	int64_t now = clock_now_ns();

	if (!t || !list)
		return list;
	pthread_mutex_lock(&t->mutex);
	for (unsigned i = 0; i < t->count; i++) {
		const struct breaker *b = t->list[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o}", "url", b->url, "what", b->what, "state",
						      states[b->state], "failures", (json_int_t)b->failures, "opened",
						      (json_int_t)b->opened, "denied", (json_int_t)b->denied, "probes",
						      (json_int_t)b->probes, "away_ms",
						      b->state == CLOSED ? (json_int_t)0 : (json_int_t)((now - b->since_ns) / NS_PER_MS), "failed_ago_ms",
						      b->state == CLOSED ? json_null()
									 : json_integer((now - (b->until_ns - b->pause_ns)) / NS_PER_MS)));
	}
	pthread_mutex_unlock(&t->mutex);
	return list;
}
