#include "litefs/url.h"

#include <errno.h>
#include <string.h>

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* The host's end, or NULL where there is none. */
static const char *skip_host(const char *p)
{
	const char *start = p;

	if (*p == '[') {
		for (p++; is_alnum(*p) || *p == ':' || *p == '.' || *p == '%'; p++)
			;
		return *p == ']' && p > start + 2 ? p + 1 : NULL;
	}
	while (is_alnum(*p) || *p == '-' || *p == '.' || *p == '_')
		p++;
	return p > start ? p : NULL;
}

bool url_is_base(const char *url)
{
	const char *p;
	unsigned port = 0;

	if (strlen(url) >= URL_MAX || strncmp(url, "http://", 7) != 0)
		return false;
	p = skip_host(url + 7);
	if (!p)
		return false;
	if (*p == ':') {
		for (p++; is_digit(*p) && port <= 65535; p++)
			port = port * 10 + (unsigned)(*p - '0');
		if (port == 0 || port > 65535)
			return false;
	}
	return *p == 0 || (p[0] == '/' && p[1] == 0);
}

int url_escape(const char *src, char *ret, size_t size)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t need = 1, n = 0;

	for (const char *s = src; *s; s++)
		need += is_alnum(*s) || strchr("-._~", *s) ? 1 : 3;
	if (need > size)
		return -ENAMETOOLONG;
	for (const char *s = src; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (is_alnum(*s) || strchr("-._~", *s)) {
			ret[n++] = *s;
			continue;
		}
		ret[n++] = '%';
		ret[n++] = hex[c >> 4];
		ret[n++] = hex[c & 15];
	}
	ret[n] = 0;
	return 0;
}
