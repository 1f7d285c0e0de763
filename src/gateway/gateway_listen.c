/* The address that the gateway listens at. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "gateway/gateway_internal.h"

#define BACKLOG 128

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* "127.0.0.1:20300", "[::1]:20300"; port 0: the kernel's choice. No names: what one resolves to may change. */
static int parse(const char *text, union address *ret, socklen_t *ret_len)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	char host[64], *end;
	unsigned long port;

	memset(ret, 0, sizeof *ret);
	if (!colon || len == 0 || len >= sizeof host || colon[1] < '0' || colon[1] > '9')
		return -EINVAL;
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > 65535)
		return -EINVAL;
	memcpy(host, text, len);
	host[len] = 0;
	if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = 0;
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = htons((uint16_t)port);
		*ret_len = sizeof ret->v6;
		return inet_pton(AF_INET6, host + 1, &ret->v6.sin6_addr) == 1 ? 0 : -EINVAL;
	}
	ret->v4.sin_family = AF_INET;
	ret->v4.sin_port = htons((uint16_t)port);
	*ret_len = sizeof ret->v4;
	return inet_pton(AF_INET, host, &ret->v4.sin_addr) == 1 ? 0 : -EINVAL;
}

static bool is_loopback(const union address *a)
{
	const uint8_t *b = a->v6.sin6_addr.s6_addr;

	if (a->any.sa_family == AF_INET)
		return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&a->v6.sin6_addr) && b[12] == 127);
}

static void to_text(const union address *a, char *ret, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (a->any.sa_family == AF_INET) {
		inet_ntop(AF_INET, &a->v4.sin_addr, host, sizeof host);
		snprintf(ret, size, "%s:%u", host, ntohs(a->v4.sin_port));
	} else {
		inet_ntop(AF_INET6, &a->v6.sin6_addr, host, sizeof host);
		snprintf(ret, size, "[%s]:%u", host, ntohs(a->v6.sin6_port));
	}
}

static int bind_and_listen(const union address *a, socklen_t len)
{
	int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, err;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, &a->any, len) < 0 || listen(fd, BACKLOG) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

int gw_listen(const char *address, bool has_secret, char *ret_text, size_t size)
{
	union address a;
	socklen_t len = 0;
	char clean[80];
	int fd;

	log_clean(clean, sizeof clean, address);
	if (parse(address, &a, &len)) {
		log_error("gateway_address", "gateway=%s do=\"give an IP address and a port, as 127.0.0.1:20300 or [::1]:20300\"",
			  clean);
		return -EINVAL;
	}
	if (!has_secret && !is_loopback(&a)) {
		log_error("gateway_secret_missing", "gateway=%s do=\"give the same gateway_secret=FILE to all nodes, or listen on "
			  "127.0.0.1: without a secret whoever reaches this address may write\"", clean);
		return -EPERM;
	}
	fd = bind_and_listen(&a, len);
	if (fd < 0) {
		log_error("gateway_bind", "gateway=%s error=\"%s\" do=\"%s\"", clean, strerror(-fd),
			  fd == -EADDRINUSE ? "another program has this port: stop it, or choose another port" :
					      "check that this is an address of this machine");
		return fd;
	}
	len = sizeof a;
	getsockname(fd, &a.any, &len);
	to_text(&a, ret_text, size);
	return fd;
}

void gw_address_key(const struct sockaddr *addr, uint8_t ret[16])
{
	memset(ret, 0, 16);
	if (addr && addr->sa_family == AF_INET) {
		ret[10] = ret[11] = 0xff;
		memcpy(ret + 12, &((const struct sockaddr_in *)(const void *)addr)->sin_addr, 4);
	} else if (addr && addr->sa_family == AF_INET6) {
		const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr;

		memcpy(ret, v6, IN6_IS_ADDR_V4MAPPED(v6) ? 16 : 8);
	}
}
