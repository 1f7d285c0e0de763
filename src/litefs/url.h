/*
 * url: what litefwd does with URLs and addresses: accept a base, escape a value, parse where to listen.
 * Pure; threads: any.
 */
#ifndef LITEFWD_LITEFS_URL_H
#define LITEFWD_LITEFS_URL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* Longest base URL that is accepted, terminator included (role_state.primary_url). */
#define URL_MAX 512

/*
 * True for "http://HOST", "http://HOST:PORT", with at most one "/" behind it; HOST
 * is a name, an IPv4 address or an IPv6 address in brackets. No user, path or
 * query: what LiteFS itself would ignore is a mistake here. No https: LiteFS has none.
 */
bool url_is_base(const char *url);

/* src percent-encoded for a query value. 0 or -ENAMETOOLONG, ret unchanged. */
int url_escape(const char *src, char *ret, size_t size);

/* "192.0.2.1:PORT" or "[2001:db8::1]:PORT", no names: 0 or -EINVAL, *ret unchanged. */
int url_parse_address(const char *text, struct sockaddr_storage *ret);
/* Of such an address: nobody outside this machine reaches it. */
bool url_is_loopback(const struct sockaddr_storage *addr);

#endif
