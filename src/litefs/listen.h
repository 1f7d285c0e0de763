/*
 * listen: a TCP socket to be asked at, by an address as the options have it.
 *
 * "127.0.0.1:20300", "[::1]:20300"; port 0: the kernel's choice, for tests. No names: what one resolves to may change.
 * Threads: any. Errors: negative errno.
 */
#ifndef LITEFWD_LITEFS_LISTEN_H
#define LITEFWD_LITEFS_LISTEN_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

union listen_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* 0 or -EINVAL. */
int listen_parse(const char *text, union listen_address *ret);
/* Nobody outside this machine reaches it. */
bool listen_is_loopback(const union listen_address *address);

/* A descriptor that listens and does not block, and in ret_text the address that it has got. -EADDRINUSE, -EADDRNOTAVAIL, -EACCES, ... */
int listen_open(const union listen_address *address, char *ret_text, size_t size);
/* What to do about that error. */
const char *listen_advice(int err);

#endif
