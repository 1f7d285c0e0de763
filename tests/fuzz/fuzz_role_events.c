/* The events stream: cut up by byte 0 or given whole, it says the same, to the same byte. */
#include <errno.h>
#include <stdbool.h>

#include "fuzz.h"
#include "litefs/role_events.h"

struct seen {
	unsigned events;
	struct role_event last;
};

static int on_event(void *ctx, const struct role_event *event)
{
	struct seen *seen = ctx;

	MUST(strnlen(event->hostname, sizeof event->hostname) < sizeof event->hostname);
	seen->events++;
	seen->last = *event;
	return 0;
}

static int feed(const char *data, size_t size, size_t piece, struct seen *seen)
{
	struct role_events events = {0};
	int err = 0;

	while (!err && size) {
		size_t n = piece < size ? piece : size;

		err = role_events_feed(&events, data, n, on_event, seen);
		data += n;
		size -= n;
	}
	role_events_fini(&events);
	return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct seen whole = {0}, cut = {0};
	struct role_event event;
	char *text;
	int err;

	if (!size)
		return 0;
	text = fuzz_text(data + 1, size - 1);
	err = feed(text, size - 1, SIZE_MAX, &whole);
	MUST(err == 0 || err == -EPROTO);
	MUST(feed(text, size - 1, 1 + data[0], &cut) == err);
	MUST(whole.events == cut.events && whole.last.kind == cut.last.kind && whole.last.is_primary == cut.last.is_primary &&
	     !strcmp(whole.last.hostname, cut.last.hostname));
	err = role_event_parse(text, size - 1, &event);
	MUST(err == 0 || err == -EPROTO);
	free(text);
	return 0;
}
