#include "litefs/api_json.h"

#include <errno.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static json_t *load_object(const char *text, size_t len)
{
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);

	if (root && !json_is_object(root)) {
		json_decref(root);
		return NULL;
	}
	return root;
}

/* A string member; absent is "" where it may be. */
static int take_string(const json_t *object, const char *key, bool optional, char *ret, size_t size)
{
	const json_t *v = json_object_get(object, key);
	size_t len;

	if (!v && optional) {
		ret[0] = 0;
		return 0;
	}
	if (!json_is_string(v))
		return -EPROTO;
	len = json_string_length(v);
	if (len >= size || strlen(json_string_value(v)) != len)
		return -EPROTO;
	memcpy(ret, json_string_value(v), len + 1);
	return 0;
}

static int info_of(const json_t *root, struct api_info *info)
{
	const json_t *primary = json_object_get(root, "primary");
	const json_t *is_primary = json_object_get(root, "isPrimary");
	int err;

	if (!json_is_boolean(is_primary) || !json_is_object(primary))
		return -EPROTO;
	info->is_primary = json_is_true(is_primary);
	err = take_string(root, "clusterID", true, info->cluster_id, sizeof info->cluster_id);
	if (!err)
		err = take_string(root, "path", false, info->path, sizeof info->path);
	if (!err)
		err = take_string(primary, "hostname", false, info->primary_hostname, sizeof info->primary_hostname);
	return err;
}

int api_json_info(const char *text, size_t len, struct api_info *ret)
{
	json_t *root = load_object(text, len);
	struct api_info info = {.server_id = ret->server_id};
	int err = root ? info_of(root, &info) : -EPROTO;

	if (!err)
		*ret = info;
	json_decref(root);
	return err;
}

static int take_hex16(const json_t *object, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_string(v) || json_string_length(v) != 16 || pos_parse_hex16(json_string_value(v), ret))
		return -EPROTO;
	return 0;
}

static int halt_of(const json_t *root, uint64_t *id, struct pos *pos, int64_t *expires_ms)
{
	const json_t *vid = json_object_get(root, "id"), *vpos = json_object_get(root, "pos");
	const char *expires = json_string_value(json_object_get(root, "expires"));

	if (!json_is_integer(vid) || json_integer_value(vid) <= 0 || !json_is_object(vpos))
		return -EPROTO;
	*id = (uint64_t)json_integer_value(vid);
	if (take_hex16(vpos, "TXID", &pos->txid) || take_hex16(vpos, "PostApplyChecksum", &pos->checksum))
		return -EPROTO;
	if (!expires || api_json_time(expires, expires_ms))
		*expires_ms = 0;
	return 0;
}

int api_json_halt(const char *text, size_t len, uint64_t *ret_id, struct pos *ret_pos, int64_t *ret_expires_ms)
{
	json_t *root = load_object(text, len);
	struct pos pos = {0};
	uint64_t id = 0;
	int64_t expires_ms = 0;
	int err = root ? halt_of(root, &id, &pos, &expires_ms) : -EPROTO;

	if (!err) {
		*ret_id = id;
		*ret_pos = pos;
		*ret_expires_ms = expires_ms;
	}
	json_decref(root);
	return err;
}

static int take_lock(const json_t *locks, const char *key, enum api_lock *ret)
{
	static const char *const names[] = {[API_UNLOCKED] = "unlocked", [API_SHARED] = "shared", [API_EXCLUSIVE] = "exclusive"};
	const char *v = json_string_value(json_object_get(locks, key));

	for (int i = 0; v && i < 3; i++)
		if (!strcmp(v, names[i])) {
			*ret = (enum api_lock)i;
			return 0;
		}
	return -EPROTO;
}

int api_json_vars(const char *text, size_t len, const char *name, struct api_debug_db *ret)
{
	json_t *root = load_object(text, len);
	const json_t *dbs = json_object_get(json_object_get(root, "store"), "dbs");
	const json_t *db = json_object_get(dbs, name), *locks = json_object_get(db, "locks");
	struct api_debug_db d = {0};
	int err = 0;

	if (!json_is_object(dbs) || (db && !json_is_object(db)))
		err = -EPROTO;
	else if (!db)
		err = -ENOENT;
	else if (take_hex16(db, "txid", &d.pos.txid) || take_hex16(db, "checksum", &d.pos.checksum) ||
		 take_lock(locks, "shared", &d.shared) || take_lock(locks, "dms", &d.dms))
		err = -EPROTO;
	if (!err)
		*ret = d;
	json_decref(root);
	return err;
}

/* n digits at *p; moves it. */
static int take_digits(const char **p, int n, int *ret)
{
	int v = 0;

	for (int i = 0; i < n; i++, (*p)++) {
		if (**p < '0' || **p > '9')
			return -EPROTO;
		v = v * 10 + (**p - '0');
	}
	*ret = v;
	return 0;
}

static int take_char(const char **p, const char *one_of)
{
	if (!**p || !strchr(one_of, **p))
		return -EPROTO;
	(*p)++;
	return 0;
}

/* "Z" or "+hh:mm", as seconds to subtract. */
static int take_zone(const char **p, int *ret_s)
{
	int sign, h, m;

	if (**p == 'Z') {
		(*p)++;
		*ret_s = 0;
		return 0;
	}
	sign = **p == '-' ? -1 : 1;
	if (take_char(p, "+-") || take_digits(p, 2, &h) || take_char(p, ":") || take_digits(p, 2, &m) || h > 23 ||
	    m > 59)
		return -EPROTO;
	*ret_s = sign * (h * 3600 + m * 60);
	return 0;
}

int api_json_time(const char *text, int64_t *ret_ms)
{
	const char *p = text;
	struct tm tm = {0};
	int ms = 0, scale = 100, zone_s;

	if (take_digits(&p, 4, &tm.tm_year) || take_char(&p, "-") || take_digits(&p, 2, &tm.tm_mon) ||
	    take_char(&p, "-") || take_digits(&p, 2, &tm.tm_mday) || take_char(&p, "T") ||
	    take_digits(&p, 2, &tm.tm_hour) || take_char(&p, ":") || take_digits(&p, 2, &tm.tm_min) ||
	    take_char(&p, ":") || take_digits(&p, 2, &tm.tm_sec))
		return -EPROTO;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 ||
	    tm.tm_min > 59 || tm.tm_sec > 60 || tm.tm_year < 1970)
		return -EPROTO;
	if (*p == '.') {
		for (p++; *p >= '0' && *p <= '9'; p++, scale /= 10)
			ms += (*p - '0') * scale;
	}
	if (take_zone(&p, &zone_s) || *p)
		return -EPROTO;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	*ret_ms = ((int64_t)timegm(&tm) - zone_s) * 1000 + ms;
	return 0;
}
