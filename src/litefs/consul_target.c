/*
 * consul_target.c: consul_target_parse() of consul.h.
 *
 *	url -> scheme "://" [user [":" password] "@"] host [":" port] [path]
 *	path + "/" + key -> segments, decoded and encoded again
 *
 * As LiteFS' consul.Leaser and Consul's client read them.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "litefs/consul.h"

#define DEFAULT_ADDRESS "127.0.0.1:8500"
#define KV "/v1/kv"
#define SECRET_MAX 384 /* of a token, and of "user:password" */

/* A variable's value, NULL where there is none: Consul's client takes an empty one for none. */
static const char *env(const char *name)
{
	const char *v = getenv(name);

	return v && *v ? v : NULL;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* s[0..len), percent-decoded where decode says so. 0 or -EINVAL: too long, bad escapes, control characters. */
static int copy(const char *s, size_t len, bool decode, char *ret, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)s[i];

		if (decode && c == '%') {
			if (i + 2 >= len || hex(s[i + 1]) < 0 || hex(s[i + 2]) < 0)
				return -EINVAL;
			c = (unsigned char)(hex(s[i + 1]) << 4 | hex(s[i + 2]));
			i += 2;
		}
		if (c < 0x20 || c == 0x7f || n + 1 >= size)
			return -EINVAL;
		ret[n++] = (char)c;
	}
	ret[n] = 0;
	return 0;
}

/* Appends the segments of path to ret, each after a "/", as Go's path.Join does; but ".." is -EINVAL. */
static int append_path(const char *path, char *ret, size_t size)
{
	char segment[512];

	while (*path) {
		size_t len = strcspn(path, "/"), used = strlen(ret);

		if (len >= sizeof segment || (len == 2 && !memcmp(path, "..", 2)))
			return -EINVAL;
		memcpy(segment, path, len);
		segment[len] = 0;
		path += len + (path[len] == '/');
		if (len == 0 || !strcmp(segment, "."))
			continue;
		if (used + 1 >= size)
			return -EINVAL;
		ret[used] = '/';
		if (url_escape(segment, ret + used + 1, size - used - 1))
			return -EINVAL;
	}
	return 0;
}

/* The file's text without blanks around it; 0 or -EINVAL. */
static int read_token_file(const char *name, char *ret, size_t size)
{
	FILE *file = fopen(name, "re");
	size_t n, start;

	if (!file)
		return -EINVAL;
	n = fread(ret, 1, size - 1, file);
	fclose(file);
	if (n == size - 1)
		return -EINVAL;
	ret[n] = 0;
	while (n && strchr(" \t\r\n", ret[n - 1]))
		ret[--n] = 0;
	start = strspn(ret, " \t\r\n");
	memmove(ret, ret + start, n - start + 1);
	return 0;
}

static int take_token(const char *password, struct consul_target *t, const char **ret_problem)
{
	const char *file = env("CONSUL_HTTP_TOKEN_FILE"), *variable = env("CONSUL_HTTP_TOKEN");
	char token[SECRET_MAX] = "", clean[SECRET_MAX];
	int err = 0;

	*ret_problem = "CONSUL_HTTP_TOKEN_FILE: cannot be read";
	if (file)
		err = read_token_file(file, token, sizeof token);
	if (!err && !token[0]) {
		*ret_problem = "the token is too long or holds control characters";
		if (password[0])
			variable = password;
		if (variable)
			err = copy(variable, strlen(variable), false, token, sizeof token);
	}
	if (!err)
		err = copy(token, strlen(token), false, clean, sizeof clean);
	if (!err && token[0])
		snprintf(t->token, sizeof t->token, "X-Consul-Token: %s", token);
	explicit_bzero(token, sizeof token);
	explicit_bzero(clean, sizeof clean);
	return err;
}

static int take_auth(struct consul_target *t)
{
	const char *auth = env("CONSUL_HTTP_AUTH");
	static const char prefix[] = "Authorization: Basic ";
	char text[SECRET_MAX];
	int n;

	if (!auth)
		return 0;
	/* "user" alone has an empty password. */
	n = snprintf(text, sizeof text, "%s%s", auth, strchr(auth, ':') ? "" : ":");
	if (n < 0 || (size_t)n >= sizeof text || sizeof prefix + ((size_t)n + 2) / 3 * 4 > sizeof t->auth)
		return -EINVAL;
	memcpy(t->auth, prefix, sizeof prefix);
	EVP_EncodeBlock((unsigned char *)t->auth + sizeof prefix - 1, (unsigned char *)text, n);
	explicit_bzero(text, sizeof text);
	return 0;
}

/* A host with nothing before and behind it, as a base URL. */
static int take_address(const char *address, size_t len, struct consul_target *t)
{
	if (len >= sizeof t->base - sizeof "http://")
		return -EINVAL;
	snprintf(t->base, sizeof t->base, "http://%.*s", (int)len, address);
	return url_is_base(t->base) && !strchr(t->base + 7, '/') ? 0 : -EINVAL;
}

/* Without a host Consul's client has an address of its own. */
static int take_default_address(struct consul_target *t, const char **ret_problem)
{
	const char *address = env("CONSUL_HTTP_ADDR"), *ssl = env("CONSUL_HTTP_SSL");

	*ret_problem = "CONSUL_HTTP_SSL: https is not supported towards Consul: give primary_url=, or an http:// agent";
	if (ssl && strchr("1tT", *ssl))
		return -EINVAL;
	*ret_problem = "CONSUL_HTTP_ADDR: must be HOST:PORT, or http://HOST:PORT, and not https: give primary_url=";
	if (!address)
		address = DEFAULT_ADDRESS;
	if (!strncmp(address, "http://", 7))
		address += 7;
	return take_address(address, strlen(address), t);
}

static int take_url(const char *url, struct consul_target *t, char *prefix, size_t size, char *password,
		    size_t password_size, const char **ret_problem)
{
	size_t len = strcspn(url, "?#"), authority_len;
	const char *authority, *at = NULL, *colon;

	*ret_problem = "lease.consul.url: https is not supported towards Consul: give primary_url=, or an http:// agent";
	if (!strncasecmp(url, "https:", 6))
		return -EINVAL;
	*ret_problem = "lease.consul.url: must be http://HOST:PORT, with or without a path";
	if (strncasecmp(url, "http://", 7) != 0)
		return -EINVAL;
	authority = url + 7;
	authority_len = strcspn(authority, "/?#");
	for (size_t i = 0; i < authority_len; i++)
		if (authority[i] == '@')
			at = authority + i;
	if (copy(authority + authority_len, len - 7 - authority_len, true, prefix, size))
		return -EINVAL;
	if (at) {
		colon = memchr(authority, ':', (size_t)(at - authority));
		if (colon && copy(colon + 1, (size_t)(at - colon) - 1, true, password, password_size))
			return -EINVAL;
		authority_len -= (size_t)(at - authority) + 1;
		authority = at + 1;
	}
	return authority_len ? take_address(authority, authority_len, t) : take_default_address(t, ret_problem);
}

int consul_target_parse(const char *url, const char *key, struct consul_target *ret, const char **ret_problem)
{
	struct consul_target t = {.path = KV};
	char prefix[512] = "", password[SECRET_MAX] = "", namespace[256];
	const char *ns = env("CONSUL_NAMESPACE");
	size_t used;
	int err;

	if (url && *url)
		err = take_url(url, &t, prefix, sizeof prefix, password, sizeof password, ret_problem);
	else
		err = take_default_address(&t, ret_problem);
	if (!err)
		err = take_token(password, &t, ret_problem);
	explicit_bzero(password, sizeof password);
	if (!err) {
		*ret_problem = "CONSUL_HTTP_AUTH: too long";
		err = take_auth(&t);
	}
	if (!err) {
		*ret_problem = "lease.consul.key: must be a key, without \"..\" and not longer than a few hundred bytes";
		err = key && *key ? append_path(prefix, t.path, sizeof t.path - 300) : -EINVAL;
	}
	if (!err)
		err = append_path(key, t.path, sizeof t.path - 300);
	used = strlen(t.path);
	if (!err && used == strlen(KV))
		err = -EINVAL;
	if (!err) {
		*ret_problem = "CONSUL_NAMESPACE: too long";
		err = ns ? url_escape(ns, namespace, sizeof namespace) : 0;
	}
	if (!err) {
		snprintf(t.path + used, sizeof t.path - used, "?raw%s%s", ns ? "&ns=" : "", ns ? namespace : "");
		*ret = t;
	}
	explicit_bzero(&t, sizeof t);
	return err;
}
