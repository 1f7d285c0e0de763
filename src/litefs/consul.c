#include "litefs/consul.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "litefs/http.h"

#define ANSWER_MAX 4096 /* a hostname and a URL */

struct consul {
	struct http *http;
	struct consul_target target;
	char error[512];
};

int consul_new(const struct consul_target *target, struct consul **ret)
{
	struct consul *consul = calloc(1, sizeof *consul);
	int err;

	if (!consul)
		return -ENOMEM;
	consul->target = *target;
	/* A header's name alone has libcurl send none. */
	err = http_new(target->base, target->token[0] ? target->token : "X-Consul-Token:", &consul->http);
	if (err) {
		free(consul);
		return err;
	}
	*ret = consul;
	return 0;
}

void consul_free(struct consul *consul)
{
	if (!consul)
		return;
	http_free(consul->http);
	explicit_bzero(consul, sizeof *consul);
	free(consul);
}

static int take(const json_t *root, const char *key, char *ret, size_t size)
{
	const json_t *v = json_object_get(root, key);
	size_t len = json_string_length(v);

	if (!json_is_string(v) || len == 0 || len >= size || strlen(json_string_value(v)) != len)
		return -EPROTO;
	memcpy(ret, json_string_value(v), len + 1);
	return 0;
}

int consul_decode(const char *text, size_t len, struct consul_primary *ret)
{
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
	struct consul_primary primary = {0};
	int err = json_is_object(root) ? take(root, "hostname", primary.hostname, sizeof primary.hostname) : -EPROTO;

	if (!err)
		err = take(root, "advertise-url", primary.url, sizeof primary.url);
	if (!err && !url_is_base(primary.url))
		err = -EPROTO;
	if (!err)
		*ret = primary;
	json_decref(root);
	return err;
}

static int fail(struct consul *consul, int err, const char *text)
{
	log_clean(consul->error, sizeof consul->error, text);
	return err;
}

int consul_primary(struct consul *consul, int timeout_ms, struct consul_primary *ret)
{
	struct http_request req = {
		.method = HTTP_GET,
		.target = consul->target.path,
		.header = consul->target.auth[0] ? consul->target.auth : NULL,
		.deadline_ns = clock_now_ns() + timeout_ms * NS_PER_MS,
		.max_answer = ANSWER_MAX,
	};
	struct http_answer answer;
	int err = http_call(consul->http, &req, &answer);

	if (err)
		return fail(consul, err, http_error(consul->http));
	if (answer.status == 404 || (answer.status == 200 && answer.len == 0)) /* LiteFS' own reading of an empty value */
		return fail(consul, -ENOENT, "nobody has the lease");
	if (answer.status == 401 || answer.status == 403)
		return fail(consul, -EACCES, "Consul wants a token that may read the key: CONSUL_HTTP_TOKEN, as for LiteFS");
	if (answer.status != 200)
		return fail(consul, -EPROTO, answer.body);
	err = consul_decode(answer.body, answer.len, ret);
	return err ? fail(consul, err, "the key's value is not what LiteFS writes there, or not an http:// URL") : 0;
}

const char *consul_error(const struct consul *consul)
{
	return consul->error;
}

void consul_abort(struct consul *consul)
{
	http_abort(consul->http);
}
