/*
 * api.c: see api.h. Each verb: target -> http_call() -> verdict over the answer.
 *
 * What is LiteFS' own answer: it carries a Litefs-Id (all but /debug/vars do). What
 * has none came from something else on that port, whatever it says.
 *
 * Why some errors of /tx prove that nothing was applied: LiteFS first receives the
 * file beside the database (the first nine texts below), only then renames it into its
 * transaction log and applies it. From the rename on, no text proves anything.
 */
#include "litefs/api.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "format/names.h"
#include "litefs/api_json.h"
#include "litefs/http.h"
#include "litefs/url.h"

#define JSON_MAX (1024 * 1024)
#define ERROR_MAX 4096
#define TARGET_MAX 900 /* "/halt?name=" and a name of NAME_DB_MAX bytes, each escaped, and "&lockID=" */

#define TTL_DEFAULT_MS 30000
#define TTL_MAX_MS 300000

struct api {
	struct http *http;
	uint64_t halt_serial; /* the connection of the last successful /halt; 0: none */
	int64_t rtt_ns;
	char error[512];
};

int api_global_init(void)
{
	return http_global_init();
}

void api_global_fini(void)
{
	http_global_fini();
}

int api_new(const char *base_url, uint64_t node_id, struct api **ret)
{
	char header[64];
	struct api *api = calloc(1, sizeof *api);
	int err;

	if (!api)
		return -ENOMEM;
	snprintf(header, sizeof header, "Litefs-Id: %016" PRIX64, node_id);
	err = http_new(base_url, header, &api->http);
	if (err) {
		free(api);
		return err;
	}
	*ret = api;
	return 0;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	http_free(api->http);
	free(api);
}

const char *api_url(const struct api *api)
{
	return http_url(api->http);
}

const char *api_error(const struct api *api)
{
	return api->error;
}

void api_abort(struct api *api)
{
	http_abort(api->http);
}

void api_clear_abort(struct api *api)
{
	http_clear_abort(api->http);
}

void api_disconnect(struct api *api)
{
	http_disconnect(api->http);
}

int64_t api_rtt_ns(const struct api *api)
{
	return api->rtt_ns;
}

/* ---- what the verbs share ---- */

static int fail(struct api *api, int err, const char *text)
{
	log_clean(api->error, sizeof api->error, text);
	return err;
}

/* "PATH?name=NAME&KEY=ID"; -EINVAL for what LiteFS must never be told. */
static int make_target(struct api *api, const char *path, const char *name, const char *key, uint64_t id, char *ret)
{
	char escaped[NAME_DB_MAX * 3 + 1];

	if (!name || !name_is_database(name))
		return fail(api, -EINVAL, "not a name of a database");
	if (id == 0 || id > INT64_MAX)
		return fail(api, -EINVAL, "not an id of a lock");
	if (url_escape(name, escaped, sizeof escaped))
		return fail(api, -EINVAL, "name too long");
	snprintf(ret, TARGET_MAX, "%s?name=%s&%s=%" PRIu64, path, escaped, key, id);
	return 0;
}

/* A call with an empty body; 0 only for LiteFS' own 200. */
static int call(struct api *api, const struct http_request *req, bool want_id, struct http_answer *answer)
{
	int err = http_call(api->http, req, answer);

	api->error[0] = 0;
	if (err)
		return fail(api, err, http_error(api->http));
	if (want_id && !answer->has_server_id)
		return fail(api, -EPROTO, "answer without a Litefs-Id");
	if (answer->status >= 400 && answer->len <= ERROR_MAX)
		return fail(api, -EREMOTEIO, answer->body);
	if (answer->status != 200)
		return fail(api, -EPROTO, "answer is neither 200 nor an error");
	return 0;
}

static int64_t deadline_of(int timeout_ms)
{
	return clock_now_ns() + (timeout_ms > 0 ? timeout_ms : 0) * NS_PER_MS;
}

/* ---- the verbs ---- */

int api_info(struct api *api, int timeout_ms, struct api_info *ret)
{
	struct http_request req = {.method = HTTP_GET,
				   .target = "/info",
				   .deadline_ns = deadline_of(timeout_ms),
				   .max_answer = JSON_MAX};
	struct http_answer answer;
	struct api_info info = {0};
	int err = call(api, &req, true, &answer);

	if (err)
		return err;
	err = api_json_info(answer.body, answer.len, &info);
	if (err)
		return fail(api, err, "/info is not LiteFS' JSON");
	http_note_rtt(&api->rtt_ns, &answer, false);
	info.server_id = answer.server_id;
	*ret = info;
	return 0;
}

/*
 * The lock's life from the answer's own two times, both by the server's clock. Date is
 * cut to whole seconds, so the answer may be a second younger than it says.
 * A short life is believed: the same id again gets the same, older lock.
 */
static int64_t ttl_of(int64_t expires_ms, int64_t date_ms)
{
	int64_t ttl = expires_ms - date_ms - 1000;

	if (expires_ms == 0 || date_ms == 0 || ttl > TTL_MAX_MS)
		return TTL_DEFAULT_MS;
	return ttl < 0 ? 0 : ttl;
}

int api_halt(struct api *api, const char *name, uint64_t id, int timeout_ms, struct api_halt *ret, int64_t *sent_ns)
{
	char target[TARGET_MAX];
	struct http_request req = {.method = HTTP_POST, .target = target, .max_answer = JSON_MAX};
	struct http_answer answer;
	struct api_halt halt;
	int64_t expires_ms, before;
	int err;

	api->halt_serial = 0;
	err = make_target(api, "/halt", name, "id", id, target);
	if (err)
		return err;
	before = clock_now_ns();
	req.deadline_ns = deadline_of(timeout_ms);
	err = call(api, &req, true, &answer);
	if (err)
		return err;
	err = api_json_halt(answer.body, answer.len, &halt.id, &halt.pos, &expires_ms);
	if (err)
		return fail(api, err, "/halt is not LiteFS' JSON");
	if (halt.id != id)
		return fail(api, -EPROTO, "/halt answered another id");
	http_note_rtt(&api->rtt_ns, &answer, true);
	halt.ttl_ms = ttl_of(expires_ms, answer.date_ms);
	halt.server_id = answer.server_id;
	api->halt_serial = http_serial(api->http);
	*ret = halt;
	if (sent_ns)
		*sent_ns = before;
	return 0;
}

int api_unhalt(struct api *api, const char *name, uint64_t id, int timeout_ms)
{
	char target[TARGET_MAX];
	struct http_request req = {.method = HTTP_DELETE, .target = target, .max_answer = JSON_MAX};
	struct http_answer answer;
	int err = make_target(api, "/halt", name, "id", id, target);

	if (err)
		return err;
	req.deadline_ns = deadline_of(timeout_ms);
	err = call(api, &req, true, &answer);
	if (!err)
		http_note_rtt(&api->rtt_ns, &answer, false);
	return err;
}

/* True if this error of /tx was given before LiteFS began to apply. */
static bool proves_refusal(const struct http_answer *answer)
{
	static const struct {
		int status;
		const char *text;
	} refusals[] = {
		{500, "write ltx file: non-sequential header minimum txid "},
		{500, "write ltx file: pre-apply checksum mismatch: "},
		{500, "write ltx file: read ltx header: "},
		{500, "write ltx file: decode ltx header: "},
		{500, "write ltx file: cannot create temp ltx file: "},
		{500, "write ltx file: write ltx file: "},
		{500, "write ltx file: fsync ltx file: "},
		{500, "write ltx file: seek for validation: "},
		{500, "write ltx file: ltx validation error: "},
		{404, "database not found: "},
		{400, "cannot remotely halt self"},
	};

	for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++)
		if (answer->status == refusals[i].status &&
		    !strncmp(answer->body, refusals[i].text, strlen(refusals[i].text)))
			return true;
	return false;
}

static enum api_tx_result tx_verdict(struct api *api, const struct api_tx *tx, const struct http_answer *answer)
{
	if (!answer->has_server_id || (tx->server_id && tx->server_id != answer->server_id)) {
		fail(api, -EPROTO, "answer with another Litefs-Id than /halt's, or none");
		return API_TX_AMBIGUOUS;
	}
	if (answer->status == 200 && answer->len == 0 && answer->body_sent)
		return API_TX_APPLIED;
	fail(api, -EREMOTEIO, answer->len ? answer->body : "answer is not LiteFS'");
	return answer->len <= ERROR_MAX && proves_refusal(answer) ? API_TX_REFUSED : API_TX_AMBIGUOUS;
}

enum api_tx_result api_tx(struct api *api, const struct api_tx *tx)
{
	char target[TARGET_MAX];
	struct http_request req = {
		.method = HTTP_POST,
		.target = target,
		.deadline_ns = tx->deadline_ns,
		.max_answer = ERROR_MAX,
		.size = tx->size,
		.read = tx->read,
		.sent = tx->sent,
		.ctx = tx->ctx,
		.no_open = true,
	};
	struct http_answer answer;
	int err = make_target(api, "/tx", tx->name, "lockID", tx->lock_id, target);

	if (err)
		return API_TX_NOT_SENT;
	if (tx->size == 0 || tx->size > INT64_MAX || !tx->read) {
		fail(api, -EINVAL, "no transaction");
		return API_TX_NOT_SENT;
	}
	if (tx->require_halt_connection) {
		if (!api->halt_serial) {
			fail(api, -ENOTCONN, "no connection of a HALT");
			return API_TX_NOT_SENT;
		}
		req.serial = api->halt_serial;
	}
	api->error[0] = 0;
	err = http_call(api->http, &req, &answer);
	if (err) {
		fail(api, err, http_error(api->http));
		return answer.started ? API_TX_AMBIGUOUS : API_TX_NOT_SENT;
	}
	return tx_verdict(api, tx, &answer);
}

int api_debug_db(struct api *api, const char *name, int timeout_ms, struct api_debug_db *ret)
{
	struct http_request req = {.method = HTTP_GET,
				   .target = "/debug/vars",
				   .deadline_ns = deadline_of(timeout_ms),
				   .max_answer = JSON_MAX};
	struct http_answer answer;
	int err;

	if (!name || !name_is_database(name))
		return fail(api, -EINVAL, "not a name of a database");
	err = call(api, &req, false, &answer);
	if (err)
		return err;
	err = api_json_vars(answer.body, answer.len, name, ret);
	return err ? fail(api, err, err == -ENOENT ? "no such database" : "/debug/vars is not LiteFS' JSON") : 0;
}
