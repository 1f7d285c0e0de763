/* What a server may answer: the input goes out as it is, and the connection ends. Whatever it was, the client comes back. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "fuzz.h"
#include "litefs/http.h"

static struct http *http;
static int listener = -1;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint8_t answer[1 << 20]; /* mutex: the server may still be at it when the client has left */
static size_t answer_len;

/* One connection after the other; a client that hangs up early is as good as one that reads. */
static void *serve(void *arg)
{
	for (;;) {
		static uint8_t mine[sizeof answer];
		char request[2048];
		size_t len;
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			continue;
		pthread_mutex_lock(&mutex);
		len = answer_len;
		memcpy(mine, answer, len);
		pthread_mutex_unlock(&mutex);
		if (recv(fd, request, sizeof request, 0) > 0 && len)
			(void)!send(fd, mine, len, MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		while (recv(fd, request, sizeof request, 0) > 0)
			;
		close(fd);
	}
	return arg;
}

static void start(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	char url[64];
	pthread_t thread;

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	MUST(listener >= 0 && bind(listener, (struct sockaddr *)&addr, sizeof addr) == 0 && listen(listener, 16) == 0);
	MUST(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
	snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(addr.sin_port));
	MUST(pthread_create(&thread, NULL, serve, NULL) == 0 && pthread_detach(thread) == 0);
	MUST(http_global_init() == 0 && http_new(url, "Litefs-Id: 0000000000000001", &http) == 0);
}

static int on_data(void *ctx, const char *data, size_t len)
{
	size_t *total = ctx;

	(void)data;
	*total += len;
	return *total > 4096 ? -EPROTO : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_request req = {.method = HTTP_GET, .target = "/info", .max_answer = 4096};
	struct http_answer got;
	size_t total = 0;
	int err;

	if (!http)
		start();
	/* The first byte says how the client takes a body. */
	if (size && data[0] & 1)
		req.on_data = on_data, req.ctx = &total;
	pthread_mutex_lock(&mutex);
	answer_len = size ? size - 1 : 0;
	answer_len = answer_len < sizeof answer ? answer_len : sizeof answer;
	if (answer_len)
		memcpy(answer, data + 1, answer_len);
	pthread_mutex_unlock(&mutex);
	req.deadline_ns = clock_now_ns() + 20 * NS_PER_S; /* the server closes: no call may last so long */
	err = http_call(http, &req, &got);
	MUST(err == 0 || err == -EPROTO || err == -EIO);
	MUST(got.body && got.len <= 4096 && strlen(got.auth) < HTTP_AUTH_MAX && strlen(got.body) <= got.len);
	if (!err)
		MUST(got.status >= 100 && got.status <= 999);
	http_disconnect(http);
	return 0;
}
