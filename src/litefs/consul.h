/*
 * consul: who is primary and at which URL, as LiteFS' Consul lease has it.
 *
 * With `lease.type: consul` the primary keeps {"hostname","advertise-url"} in one key
 * of Consul's KV store, where this asks for it: GET /v1/kv/KEY?raw. Where to ask, and
 * with which credentials, is what LiteFS makes of the same litefs.yml and the same
 * environment: CONSUL_HTTP_ADDR where there is no lease.consul.url; the password of the
 * URL, else CONSUL_HTTP_TOKEN, and CONSUL_HTTP_TOKEN_FILE before both;
 * CONSUL_HTTP_AUTH; CONSUL_NAMESPACE; the URL's path comes before lease.consul.key.
 * Plain HTTP only. It refuses to know sessions and locks: that the key is there means
 * that somebody has the lease, for LiteFS has Consul delete it with its session.
 *
 * Ownership: copies what it is given. Threads: one at a time per object;
 * consul_abort() from any. consul_primary() blocks on the network for its timeout at most.
 */
#ifndef LITEFWD_LITEFS_CONSUL_H
#define LITEFWD_LITEFS_CONSUL_H

#include "litefs/url.h"

struct consul;

/* Where to ask. The credentials are secrets: not for any log. */
struct consul_target {
	char base[URL_MAX]; /* "http://HOST:PORT" */
	char path[1024]; /* "/v1/kv/...?raw" */
	char token[576]; /* a whole header line; "" where there is none */
	char auth[576]; /* likewise */
};

/*
 * url, key: lease.consul.url and .key of litefs.yml; NULL: not there. 0 or -EINVAL, with
 * *ret_problem a static text that says what is wrong and holds nothing of the input.
 */
int consul_target_parse(const char *url, const char *key, struct consul_target *ret, const char **ret_problem);

int consul_new(const struct consul_target *target, struct consul **ret); /* 0, -EINVAL or -ENOMEM; asks nothing */
void consul_free(struct consul *consul); /* NULL is harmless */

struct consul_primary {
	char hostname[256];
	char url[URL_MAX]; /* url_is_base() */
};

/*
 * 0; -ENOENT nobody has the lease; -EPROTO an answer that is not what LiteFS writes
 * there; -EACCES Consul wants (other) credentials; else an error of http_call(). *ret is unchanged on error.
 */
int consul_primary(struct consul *consul, int timeout_ms, struct consul_primary *ret);

/* Text of the last error, cleaned for the log. Valid until the next call. */
const char *consul_error(const struct consul *consul);

/* Makes a call in progress, and all later ones, fail with -ECANCELED. */
void consul_abort(struct consul *consul);

/* The value of that key, decoded: 0 or -EPROTO, *ret unchanged. */
int consul_decode(const char *text, size_t len, struct consul_primary *ret);

#endif
