#include "litefs/role_events.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int take_role(const json_t *data, struct role_event *event)
{
	const json_t *is_primary = json_object_get(data, "isPrimary");
	const json_t *hostname = json_object_get(data, "hostname");
	size_t len;

	if (!json_is_boolean(is_primary) || (hostname && !json_is_string(hostname)))
		return -EPROTO;
	event->is_primary = json_is_true(is_primary);
	if (!hostname)
		return 0;
	len = json_string_length(hostname);
	if (len >= sizeof event->hostname || strlen(json_string_value(hostname)) != len)
		return -EPROTO;
	memcpy(event->hostname, json_string_value(hostname), len + 1);
	return 0;
}

/* {"type":"tx","db":"app.db","data":{"txID":"0000000000000002","postApplyChecksum":"89fe...", ...}} */
static bool take_tx(const json_t *root, struct role_event *event)
{
	const json_t *data = json_object_get(root, "data");
	const char *db = json_string_value(json_object_get(root, "db"));
	const char *txid = json_string_value(json_object_get(data, "txID"));
	const char *checksum = json_string_value(json_object_get(data, "postApplyChecksum"));
	char text[POS_TEXT_SIZE + 1];

	if (!db || !txid || !checksum || !name_is_database(db) ||
	    snprintf(text, sizeof text, "%s/%s\n", txid, checksum) != POS_TEXT_SIZE || pos_parse(text, POS_TEXT_SIZE, &event->pos))
		return false;
	strcpy(event->db, db);
	return true;
}

int role_event_parse(const char *line, size_t len, struct role_event *ret)
{
	json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
	const char *type = json_string_value(json_object_get(root, "type"));
	struct role_event event = {.kind = ROLE_EVENT_OTHER};
	int err = 0;

	if (!type) {
		err = -EPROTO;
	} else if (!strcmp(type, "init") || !strcmp(type, "primaryChange")) {
		event.kind = type[0] == 'i' ? ROLE_EVENT_INIT : ROLE_EVENT_PRIMARY_CHANGE;
		err = take_role(json_object_get(root, "data"), &event);
	} else if (!strcmp(type, "tx") && take_tx(root, &event)) {
		event.kind = ROLE_EVENT_TX;
	}
	if (!err)
		*ret = event;
	json_decref(root);
	return err;
}

static int append(struct role_events *events, const char *data, size_t len)
{
	size_t cap = events->cap ? events->cap : 1024;
	char *p;

	if (len > ROLE_EVENT_MAX - events->len)
		return -EPROTO;
	while (cap < events->len + len)
		cap *= 2;
	if (cap != events->cap) {
		p = realloc(events->line, cap);
		if (!p)
			return -ENOMEM;
		events->line = p;
		events->cap = cap;
	}
	memcpy(events->line + events->len, data, len);
	events->len += len;
	return 0;
}

int role_events_feed(struct role_events *events, const char *data, size_t len,
		     int (*on_event)(void *ctx, const struct role_event *event), void *ctx)
{
	int err = 0;

	while (!err && len) {
		const char *end = memchr(data, '\n', len);
		size_t part = end ? (size_t)(end - data) : len;
		struct role_event event;

		if (part)
			err = append(events, data, part);
		if (err || !end)
			break;
		data += part + 1;
		len -= part + 1;
		if (events->len) {
			err = role_event_parse(events->line, events->len, &event);
			events->len = 0;
			if (!err)
				err = on_event(ctx, &event);
		}
	}
	return err;
}

void role_events_fini(struct role_events *events)
{
	free(events->line);
	memset(events, 0, sizeof *events);
}
