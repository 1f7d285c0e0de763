#include "litefs/gw_proto.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define LEASE_MAX_MS (INT64_C(3600) * 1000) /* nobody means more */

static const struct {
	const char *name;
	int status;
} codes[] = {
	[GW_OK] = {"ok", 200},
	[GW_BAD_REQUEST] = {"bad_request", 400},
	[GW_AUTH] = {"auth", 401},
	[GW_UNSUPPORTED] = {"unsupported", 404},
	[GW_NOT_HELD] = {"not_held", 409},
	[GW_REFUSED] = {"refused", 409},
	[GW_TOO_LARGE] = {"too_large", 413},
	[GW_BUSY] = {"busy", 423},
	[GW_LIMIT] = {"limit", 429},
	[GW_NOT_PRIMARY] = {"not_primary", 503},
	[GW_VERSION_UNKNOWN] = {"version", 505},
	[GW_UNKNOWN] = {"unknown", 500},
};

#define CODES (sizeof codes / sizeof codes[0])

int gw_code_status(enum gw_code code)
{
	return codes[code].status;
}

const char *gw_code_name(enum gw_code code)
{
	return codes[code].name;
}

enum gw_code gw_code_by_name(const char *name)
{
	for (size_t i = 0; i < CODES; i++)
		if (!strcmp(codes[i].name, name))
			return (enum gw_code)i;
	return GW_BAD_REQUEST;
}

/* ---- positions ---- */

int gw_parse_pos(const char *text, struct pos *ret)
{
	struct pos pos;

	if (strlen(text) != GW_POS_SIZE - 1 || text[16] != '-' || pos_parse_hex16(text, &pos.txid) ||
	    pos_parse_hex16(text + 17, &pos.checksum))
		return -EBADMSG;
	*ret = pos;
	return 0;
}

void gw_format_pos(struct pos pos, char ret[GW_POS_SIZE])
{
	snprintf(ret, GW_POS_SIZE, "%016" PRIx64 "-%016" PRIx64, pos.txid, pos.checksum);
}

/* ---- the server's half. Strings go through log_clean(): nothing is left in them that JSON would have to escape. ---- */

static size_t check_fits(int n)
{
	assert(n > 0 && n < GW_LINE_MAX);
	return (size_t)n;
}

size_t gw_put_info(const struct gw_info *info, char *ret)
{
	char cluster[sizeof info->cluster];

	return check_fits(snprintf(ret, GW_LINE_MAX,
				   "{\"litefwd\":%d,\"is_primary\":%s,\"cluster\":\"%s\",\"server\":\"%016" PRIx64
				   "\",\"nonce\":\"%s\"}\n",
				   GW_VERSION, info->is_primary ? "true" : "false",
				   log_clean(cluster, sizeof cluster, info->cluster), info->server, info->nonce));
}

size_t gw_put_grant(const struct gw_grant *grant, char *ret)
{
	char pos[GW_POS_SIZE];
	int n;

	assert(grant->tx_count <= GW_TX_MAX);
	gw_format_pos(grant->pos, pos);
	n = snprintf(ret, GW_LINE_MAX,
		     "{\"litefwd\":%d,\"pos\":\"%s\",\"lease_ms\":%" PRId64 ",\"waiting\":%" PRIu32 ",\"server\":\"%016" PRIx64
		     "\",\"tx\":[",
		     GW_VERSION, pos, grant->lease_ms, grant->waiting, grant->server);
	/* 64 numbers of at most 20 digits: far from the end. */
	for (unsigned i = 0; i < grant->tx_count; i++)
		n += snprintf(ret + n, GW_LINE_MAX - (size_t)n, "%s%" PRIu64, i ? "," : "", grant->tx_size[i]);
	n += snprintf(ret + n, GW_LINE_MAX - (size_t)n, "]}\n");
	return check_fits(n);
}

size_t gw_put_result(const struct gw_result *result, char *ret)
{
	char pos[GW_POS_SIZE];

	if (result->unknown)
		return check_fits(snprintf(ret, GW_LINE_MAX, "{\"litefwd\":%d,\"outcome\":\"unknown\"}\n", GW_VERSION));
	gw_format_pos(result->pos, pos);
	return check_fits(snprintf(ret, GW_LINE_MAX,
				   "{\"litefwd\":%d,\"outcome\":\"committed\",\"pos\":\"%s\",\"waiting\":%" PRIu32
				   ",\"yield\":%s}\n",
				   GW_VERSION, pos, result->waiting, result->yield ? "true" : "false"));
}

size_t gw_put_error(enum gw_code code, const char *text, char *ret)
{
	char clean[sizeof((struct gw_error *)NULL)->text];

	return check_fits(snprintf(ret, GW_LINE_MAX, "{\"litefwd\":%d,\"error\":\"%s\",\"text\":\"%s\"}\n", GW_VERSION,
				   gw_code_name(code), log_clean(clean, sizeof clean, text)));
}

/* ---- the client's half ---- */

/* The line, newline included; 0: there is none, or it is longer than any of ours. */
static size_t line_of(const char *body, size_t len)
{
	const char *end = memchr(body, '\n', len < GW_LINE_MAX ? len : GW_LINE_MAX);

	return end ? (size_t)(end - body) + 1 : 0;
}

/* Nesting is bounded by jansson, and by GW_LINE_MAX. */
static json_t *load(const char *line, size_t len)
{
	json_t *root = len ? json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
	const json_t *version = json_object_get(root, "litefwd");

	if (json_is_integer(version) && json_integer_value(version) == GW_VERSION)
		return root;
	json_decref(root);
	return NULL;
}

static int take_int(const json_t *object, const char *key, int64_t min, int64_t max, int64_t *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
		return -EBADMSG;
	*ret = json_integer_value(v);
	return 0;
}

static int take_u32(const json_t *object, const char *key, uint32_t *ret)
{
	int64_t v;
	int err = take_int(object, key, 0, UINT32_MAX, &v);

	if (!err)
		*ret = (uint32_t)v;
	return err;
}

static int take_bool(const json_t *object, const char *key, bool *ret)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_boolean(v))
		return -EBADMSG;
	*ret = json_is_true(v);
	return 0;
}

static int take_string(const json_t *object, const char *key, char *ret, size_t size)
{
	const json_t *v = json_object_get(object, key);

	if (!json_is_string(v) || json_string_length(v) >= size || strlen(json_string_value(v)) != json_string_length(v))
		return -EBADMSG;
	memcpy(ret, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

static int take_hex16(const json_t *object, const char *key, uint64_t *ret)
{
	char text[17];
	int err = take_string(object, key, text, sizeof text);

	return err || strlen(text) != 16 ? -EBADMSG : pos_parse_hex16(text, ret);
}

static int take_pos(const json_t *object, const char *key, struct pos *ret)
{
	char text[GW_POS_SIZE];
	int err = take_string(object, key, text, sizeof text);

	return err ? err : gw_parse_pos(text, ret);
}

static int take_nonce(const json_t *object, const char *key, char ret[33])
{
	char text[33];
	int err = take_string(object, key, text, sizeof text);

	if (err || strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32)
		return -EBADMSG;
	memcpy(ret, text, sizeof text);
	return 0;
}

/* Sizes of what follows the line: in order, none empty, together exactly `left` bytes. */
static int take_sizes(const json_t *object, const char *key, size_t left, struct gw_grant *grant)
{
	const json_t *array = json_object_get(object, key);
	size_t n = json_array_size(array);

	if (!json_is_array(array) || n > GW_TX_MAX || left > GW_BUNDLE_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		const json_t *v = json_array_get(array, i);

		if (!json_is_integer(v) || json_integer_value(v) <= 0 || (uint64_t)json_integer_value(v) > left)
			return -EBADMSG;
		grant->tx_size[i] = (uint64_t)json_integer_value(v);
		left -= (size_t)grant->tx_size[i];
	}
	grant->tx_count = (unsigned)n;
	return left ? -EBADMSG : 0;
}

int gw_get_info(const char *body, size_t len, struct gw_info *ret)
{
	size_t line = line_of(body, len);
	json_t *root = line == len ? load(body, line) : NULL;
	struct gw_info info = {0};
	int err = root ? 0 : -EBADMSG;

	if (!err && (take_bool(root, "is_primary", &info.is_primary) ||
		     take_string(root, "cluster", info.cluster, sizeof info.cluster) ||
		     take_hex16(root, "server", &info.server) || take_nonce(root, "nonce", info.nonce)))
		err = -EBADMSG;
	if (!err)
		*ret = info;
	json_decref(root);
	return err;
}

int gw_get_grant(const char *body, size_t len, struct gw_grant *ret, size_t *ret_bundle)
{
	size_t line = line_of(body, len);
	json_t *root = load(body, line);
	struct gw_grant grant = {0};
	int err = root ? 0 : -EBADMSG;

	if (!err && (take_pos(root, "pos", &grant.pos) || take_int(root, "lease_ms", 1, LEASE_MAX_MS, &grant.lease_ms) ||
		     take_u32(root, "waiting", &grant.waiting) || take_hex16(root, "server", &grant.server) ||
		     take_sizes(root, "tx", len - line, &grant)))
		err = -EBADMSG;
	if (!err) {
		*ret = grant;
		*ret_bundle = line;
	}
	json_decref(root);
	return err;
}

int gw_get_result(const char *body, size_t len, struct gw_result *ret)
{
	size_t line = line_of(body, len);
	json_t *root = line == len ? load(body, line) : NULL;
	struct gw_result result = {0};
	char outcome[16];
	int err = root ? take_string(root, "outcome", outcome, sizeof outcome) : -EBADMSG;

	if (!err && !strcmp(outcome, "unknown"))
		result.unknown = true;
	else if (!err && (strcmp(outcome, "committed") != 0 || take_pos(root, "pos", &result.pos) ||
			  take_u32(root, "waiting", &result.waiting) || take_bool(root, "yield", &result.yield)))
		err = -EBADMSG;
	if (!err)
		*ret = result;
	json_decref(root);
	return err;
}

int gw_get_error(const char *body, size_t len, struct gw_error *ret)
{
	size_t line = line_of(body, len);
	json_t *root = line == len ? load(body, line) : NULL;
	struct gw_error error = {0};
	char code[32];
	int err = root ? 0 : -EBADMSG;

	if (!err &&
	    (take_string(root, "error", code, sizeof code) || take_string(root, "text", error.text, sizeof error.text)))
		err = -EBADMSG;
	if (!err) {
		error.code = gw_code_by_name(code);
		if (error.code == GW_OK)
			err = -EBADMSG;
	}
	if (!err)
		*ret = error;
	json_decref(root);
	return err;
}
