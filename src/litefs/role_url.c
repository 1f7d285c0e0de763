/*
 * role_url.c: role_expand_url() of role.h.
 *
 * A hostname comes over the network: it must be one (letters, digits, ".", "-", "_",
 * ":" within an IPv6 address), or it could turn a template into another URL.
 */
#include <errno.h>
#include <string.h>

#include "litefs/role.h"
#include "litefs/url.h"

#define PLACEHOLDER "{hostname}"

static bool is_hostname(const char *s)
{
	static const char chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";

	return *s && strspn(s, chars) == strlen(s);
}

/* Appends len bytes; 0 or -ENAMETOOLONG. */
static int put(char *buf, size_t size, size_t *used, const char *s, size_t len)
{
	if (len >= size - *used)
		return -ENAMETOOLONG;
	memcpy(buf + *used, s, len);
	*used += len;
	buf[*used] = 0;
	return 0;
}

int role_expand_url(const char *tmpl, const char *hostname, char *ret, unsigned long size)
{
	char buf[URL_MAX] = "";
	size_t used = 0;
	int err = 0;

	while (!err && *tmpl) {
		const char *at = strstr(tmpl, PLACEHOLDER);
		size_t len = at ? (size_t)(at - tmpl) : strlen(tmpl);

		err = put(buf, sizeof buf, &used, tmpl, len);
		tmpl += len;
		if (err || !at)
			continue;
		if (!hostname || !*hostname)
			return -ENOENT;
		if (!is_hostname(hostname))
			return -EINVAL;
		err = put(buf, sizeof buf, &used, hostname, strlen(hostname));
		tmpl += strlen(PLACEHOLDER);
	}
	if (err)
		return err;
	if (!url_is_base(buf))
		return -EINVAL;
	if (used + 1 > size)
		return -ENAMETOOLONG;
	memcpy(ret, buf, used + 1);
	return 0;
}
