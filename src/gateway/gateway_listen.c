/* The address that the gateway listens at. */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#include "base/log.h"
#include "gateway/gateway_internal.h"
#include "litefs/listen.h"

int gw_listen(const char *address, bool has_secret, char *ret_text, size_t size)
{
	union listen_address a;
	char clean[80];
	int fd;

	log_clean(clean, sizeof clean, address);
	if (listen_parse(address, &a)) {
		log_error("gateway_address", "gateway=%s do=\"give an IP address and a port, as 127.0.0.1:20300 or [::1]:20300\"",
			  clean);
		return -EINVAL;
	}
	if (!has_secret && !listen_is_loopback(&a)) {
		log_error("gateway_secret_missing", "gateway=%s do=\"give the same gateway_secret=FILE to all nodes, or listen on "
			  "127.0.0.1: without a secret whoever reaches this address may write\"", clean);
		return -EPERM;
	}
	fd = listen_open(&a, ret_text, size);
	if (fd < 0)
		log_error("gateway_bind", "gateway=%s error=\"%s\" do=\"%s\"", clean, strerror(-fd),
			  listen_advice(fd));
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
