#include "litefs/url.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
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

int url_parse_address(const char *text, struct sockaddr_storage *ret)
{
	const char *colon = strrchr(text, ':');
	struct sockaddr_storage addr = {0};
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&addr;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&addr;
	size_t len = colon ? (size_t)(colon - text) : 0;
	char host[INET6_ADDRSTRLEN + 2];
	unsigned port = 0;

	if (!colon || len >= sizeof host || !is_digit(colon[1]))
		return -EINVAL;
	for (const char *p = colon + 1; *p; p++) {
		if (!is_digit(*p) || port > 65535)
			return -EINVAL;
		port = port * 10 + (unsigned)(*p - '0');
	}
	if (port == 0 || port > 65535)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = 0;
	if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = 0;
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		if (inet_pton(AF_INET6, host + 1, &v6->sin6_addr) != 1)
			return -EINVAL;
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
			return -EINVAL;
	}
	*ret = addr;
	return 0;
}

bool url_is_loopback(const struct sockaddr_storage *addr)
{
	if (addr->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)addr)->sin6_addr);
	return ntohl(((const struct sockaddr_in *)addr)->sin_addr.s_addr) >> 24 == 127;
}
