#include "litefs/gw_proto.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* A grant with 64 sizes of 20 digits is the longest line. */
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
	for (size_t i = 1; i < CODES; i++)
		if (!strcmp(name, codes[i].name))
			return (enum gw_code)i;
	return GW_BAD_REQUEST;
}

/* ---- the server's half ---- */

/* Takes root. */
static size_t put(json_t *root, char *ret)
{
	size_t len = root ? json_dumpb(root, ret, GW_LINE_MAX - 1, JSON_COMPACT | JSON_ENSURE_ASCII) : 0;

	json_decref(root);
	if (!len || len > GW_LINE_MAX - 1) /* without memory, or too long: no answer that anybody takes for one */
		len = 0;
	ret[len++] = '\n';
	return len;
}

static json_t *hex_json(uint64_t v)
{
	return json_sprintf("%016" PRIx64, v);
}

static json_t *pos_json(struct pos pos)
{
	char text[34];

	gw_format_pos(pos, text);
	return json_string(text);
}

size_t gw_put_info(const struct gw_info *info, char *ret)
{
	return put(json_pack("{s:i, s:b, s:s, s:o, s:s}", "litefwd", GW_VERSION, "is_primary", info->is_primary, "cluster",
			     info->cluster, "server", hex_json(info->server), "nonce", info->nonce),
		   ret);
}

size_t gw_put_grant(const struct gw_grant *grant, char *ret)
{
	json_t *sizes = json_array();

	for (unsigned i = 0; i < grant->tx_count; i++)
		json_array_append_new(sizes, json_integer((json_int_t)grant->tx_size[i]));
	return put(json_pack("{s:i, s:o, s:I, s:I, s:o, s:o}", "litefwd", GW_VERSION, "pos", pos_json(grant->pos), "lease_ms",
			     (json_int_t)grant->lease_ms, "waiting", (json_int_t)grant->waiting, "server", hex_json(grant->server), "tx",
			     sizes),
		   ret);
}

size_t gw_put_result(const struct gw_result *result, char *ret)
{
	return put(json_pack("{s:i, s:s, s:o, s:I, s:b}", "litefwd", GW_VERSION, "outcome", result->unknown ? "unknown" : "committed",
			     "pos", pos_json(result->pos), "waiting", (json_int_t)result->waiting, "yield", result->yield),
		   ret);
}

size_t gw_put_error(enum gw_code code, const char *text, char *ret)
{
	return put(json_pack("{s:i, s:s, s:s}", "litefwd", GW_VERSION, "error", gw_code_name(code), "text", text), ret);
}

void gw_format_pos(struct pos pos, char ret[34])
{
	snprintf(ret, 34, "%016" PRIx64 "-%016" PRIx64, pos.txid, pos.checksum);
}

int gw_parse_pos(const char *text, struct pos *ret)
{
	char txid[17], checksum[17];
	struct pos pos;

	if (strlen(text) != 33 || text[16] != '-')
		return -EBADMSG;
	memcpy(txid, text, 16);
	memcpy(checksum, text + 17, 16);
	txid[16] = checksum[16] = 0;
	if (pos_parse_hex16(txid, &pos.txid) || pos_parse_hex16(checksum, &pos.checksum))
		return -EBADMSG;
	*ret = pos;
	return 0;
}

/* ---- the client's half ---- */

/* The line, without its newline; *ret_line: its length with it. NULL: not of this protocol. */
static json_t *load(const char *body, size_t len, size_t *ret_line)
{
	const char *end = memchr(body, '\n', len < GW_LINE_MAX ? len : GW_LINE_MAX);
	json_t *root;
	const json_t *version;

	if (!end)
		return NULL;
	root = json_loadb(body, (size_t)(end - body), JSON_REJECT_DUPLICATES, NULL);
	version = json_object_get(root, "litefwd"); /* NULL for what is no object */
	if (!json_is_integer(version) || json_integer_value(version) != GW_VERSION) {
		json_decref(root);
		return NULL;
	}
	if (ret_line)
		*ret_line = (size_t)(end - body) + 1;
	return root;
}

static int take_string(const json_t *root, const char *key, char *ret, size_t size)
{
	const json_t *v = json_object_get(root, key);

	/* (jansson refuses a NUL within.) */
	if (!json_is_string(v) || json_string_length(v) >= size)
		return -EBADMSG;
	memcpy(ret, json_string_value(v), json_string_length(v) + 1);
	return 0;
}

static int take_hex(const json_t *root, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(root, key);

	return json_is_string(v) && !pos_parse_hex16(json_string_value(v), ret) ? 0 : -EBADMSG;
}

static int take_pos(const json_t *root, struct pos *ret)
{
	const json_t *v = json_object_get(root, "pos");

	return json_is_string(v) ? gw_parse_pos(json_string_value(v), ret) : -EBADMSG;
}

static int take_number(const json_t *v, int64_t max, int64_t *ret)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > max)
		return -EBADMSG;
	*ret = json_integer_value(v);
	return 0;
}

static int take_waiting(const json_t *root, uint32_t *ret)
{
	int64_t n;
	int err = take_number(json_object_get(root, "waiting"), UINT32_MAX, &n);

	if (!err)
		*ret = (uint32_t)n;
	return err;
}

int gw_get_info(const char *body, size_t len, struct gw_info *ret)
{
	json_t *root = load(body, len, NULL);
	const json_t *primary = json_object_get(root, "is_primary");
	struct gw_info info = {0};
	int err = json_is_boolean(primary) ? 0 : -EBADMSG;

	info.is_primary = json_is_true(primary);
	if (!err)
		err = take_string(root, "cluster", info.cluster, sizeof info.cluster);
	if (!err)
		err = take_hex(root, "server", &info.server);
	if (!err)
		err = take_string(root, "nonce", info.nonce, sizeof info.nonce);
	if (!err && (strlen(info.nonce) != 32 || strspn(info.nonce, "0123456789abcdef") != 32))
		err = -EBADMSG;
	if (!err)
		*ret = info;
	json_decref(root);
	return err;
}

static int take_sizes(const json_t *root, size_t len, struct gw_grant *grant)
{
	const json_t *sizes = json_object_get(root, "tx");
	int64_t n, sum = 0;

	if (!json_is_array(sizes) || json_array_size(sizes) > GW_TX_MAX)
		return -EBADMSG;
	for (grant->tx_count = 0; grant->tx_count < json_array_size(sizes); grant->tx_count++) {
		if (take_number(json_array_get(sizes, grant->tx_count), (int64_t)GW_BUNDLE_MAX, &n) || n == 0)
			return -EBADMSG;
		grant->tx_size[grant->tx_count] = (uint64_t)n;
		sum += n;
	}
	return sum <= (int64_t)GW_BUNDLE_MAX && (size_t)sum == len ? 0 : -EBADMSG;
}

int gw_get_grant(const char *body, size_t len, struct gw_grant *ret, size_t *ret_bundle)
{
	size_t line = 0;
	json_t *root = load(body, len, &line);
	struct gw_grant grant = {0};
	int err = take_pos(root, &grant.pos);

	if (!err)
		err = take_number(json_object_get(root, "lease_ms"), 3600 * 1000, &grant.lease_ms);
	if (!err)
		err = take_waiting(root, &grant.waiting);
	if (!err)
		err = take_hex(root, "server", &grant.server);
	if (!err)
		err = take_sizes(root, len - line, &grant);
	if (!err) {
		*ret = grant;
		*ret_bundle = line;
	}
	json_decref(root);
	return err;
}

int gw_get_result(const char *body, size_t len, struct gw_result *ret)
{
	size_t line = 0;
	json_t *root = load(body, len, &line);
	const json_t *yield = json_object_get(root, "yield");
	struct gw_result result = {0};
	char outcome[16];
	int err = take_string(root, "outcome", outcome, sizeof outcome);

	if (!err && strcmp(outcome, "unknown") != 0 && strcmp(outcome, "committed") != 0)
		err = -EBADMSG;
	if (!err)
		err = take_pos(root, &result.pos);
	if (!err)
		err = take_waiting(root, &result.waiting);
	if (!err && (!json_is_boolean(yield) || line != len))
		err = -EBADMSG;
	if (!err) {
		result.unknown = outcome[0] == 'u';
		result.yield = json_is_true(yield);
		*ret = result;
	}
	json_decref(root);
	return err;
}

int gw_get_error(const char *body, size_t len, struct gw_error *ret)
{
	size_t line = 0;
	json_t *root = load(body, len, &line);
	const json_t *text = json_object_get(root, "text");
	struct gw_error error = {0};
	char code[32];
	int err = take_string(root, "error", code, sizeof code);

	if (!err && line != len)
		err = -EBADMSG;
	if (!err) {
		error.code = gw_code_by_name(code);
		snprintf(error.text, sizeof error.text, "%s", json_is_string(text) ? json_string_value(text) : "");
		*ret = error;
	}
	json_decref(root);
	return err;
}
