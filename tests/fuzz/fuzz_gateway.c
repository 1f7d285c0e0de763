/*
 * The gateway's requests, over a socket, with a secret (byte 0: 1) or without: the input, to its end. However wrong it is,
 * the gateway answers or hangs up; and then still answers /info.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "fuzz.h"
#include "gateway/gateway_internal.h"

struct role {
	int nothing;
};

/* In place of src/litefs/role.c and src/db, of which the gateway asks this. */
void role_get(struct role *role, struct role_state *ret)
{
	(void)role;
	*ret = (struct role_state){.kind = ROLE_PRIMARY, .local_alive = true, .cluster_id = "LFSC1", .server_id = 1};
}

struct db {
	unsigned calls;
};

static struct db the_db;

static int begin(struct db *db, uint64_t id, uint64_t peer, int64_t until_ns, struct db_gw_call *call)
{
	(void)id, (void)peer, (void)until_ns;
	call->pos = (struct pos){7, UINT64_C(1) << 63};
	return ++db->calls % 5 ? 0 : -EAGAIN;
}

static int commit(struct db *db, uint64_t id, struct spool *ltx, struct db_gw_call *call)
{
	(void)id, (void)ltx;
	call->pos = (struct pos){8, UINT64_C(1) << 63};
	return ++db->calls % 2 ? 0 : -EBADMSG;
}

static void end(struct db *db, uint64_t id)
{
	(void)id;
	db->calls++;
}

static void shorten(struct db *db, uint64_t id, int64_t grace_ms)
{
	(void)id, (void)grace_ms;
	db->calls++;
}

static int ltx_open(struct db *db, uint64_t txid)
{
	(void)db, (void)txid;
	return -ENOENT;
}

static const struct gateway_db_ops ops = {begin, commit, end, shorten, end, ltx_open};

static int get_db(void *ctx, const char *name, struct db **ret)
{
	(void)ctx;
	MUST(name_is_database(name));
	*ret = &the_db;
	return strcmp(name, "a.db") ? -ENOENT : 0;
}

static struct gateway *gateways[2];
static int last_errno;
static int ports[2];

static void start(int with_secret)
{
	static struct settings settings[2];
	static char secret[300];
	struct gateway_config config = {.settings = &settings[with_secret], .node_id = 9, .db_get = get_db};
	struct settings *s = &settings[with_secret];
	struct gateway_limits limits = gateway_limits_default;
	const char *dir = getenv("TMPDIR");
	int fd;

	s->gateway = "127.0.0.1:0";
	s->spool_dir = "/tmp";
	s->spool_threshold = 1 << 20;
	if (with_secret) {
		snprintf(secret, sizeof secret, "%s/fuzz_gateway.XXXXXX", dir && strlen(dir) < 200 ? dir : "/tmp");
		fd = mkstemp(secret);
		MUST(fd >= 0 && write(fd, "sixteen bytes or more", 21) == 21);
		close(fd);
		s->gateway_secret = secret;
	}
	/* Half requests are kept for a moment after they were closed, and here come hundreds a second. */
	limits.connections = limits.connections_per_address = limits.requests_per_second = 50000;
	MUST(gateway_start_with(&config, &ops, &limits, &gateways[with_secret]) == 0);
	if (with_secret)
		unlink(secret);
	ports[with_secret] = atoi(strrchr(gateway_address(gateways[with_secret]), ':') + 1);
}

static void stop_all(void)
{
	for (int i = 0; i < 2; i++)
		gateway_stop(gateways[i]);
}

/*
 * What comes back, up to cap bytes: its length. patient: until the gateway hangs up; else what comes at once, for a request that is
 * not whole is waited for, and its connection is as good as one that was closed.
 */
static size_t talk(int port, const uint8_t *data, size_t size, char *ret, size_t cap, bool patient)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t total = 0;
	char buf[4096];
	ssize_t n = 0;

	MUST(fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0);
	while (size && (n = send(fd, data, size, MSG_NOSIGNAL)) > 0) {
		data += n;
		size -= (size_t)n;
	}
	while (poll(&p, 1, patient ? 30000 : total ? 0 : 3) == 1 && (n = recv(fd, buf, sizeof buf, 0)) > 0) {
		for (ssize_t i = 0; i < n; i++, total++)
			if (total < cap)
				ret[total] = buf[i];
	}
	last_errno = n < 0 ? errno : 0;
	close(fd);
	return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char info[] = "GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
	int which = size ? data[0] & 1 : 0;
	char buf[256];
	size_t len = 0;

	if (!gateways[0]) {
		char hash[65];

		signal(SIGPIPE, SIG_IGN);
		gw_hash_once("", 0, hash); /* so that OpenSSL ends after the gateways' threads */
		start(0);
		start(1);
		atexit(stop_all);
	}
	talk(ports[which], size ? data + 1 : data, size ? size - 1 : 0, buf, sizeof buf, false);
	/* With a thousand connections a second the kernel comes to use a port again whose last connection is not over: a reset. */
	for (int i = 0; !len && i < 3; i++)
		len = talk(ports[which], (const uint8_t *)info, sizeof info - 1, buf, sizeof buf, true);
	if (len < 12 || memcmp(buf, "HTTP/1.1 200", 12) != 0) {
		fprintf(stderr, "/info: %zu bytes, errno %d, %.*s\n", len, last_errno, (int)(len < sizeof buf ? len : sizeof buf), buf);
		MUST(!"answered");
	}
	return 0;
}
