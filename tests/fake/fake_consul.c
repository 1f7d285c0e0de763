#include "fake/fake_consul.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CLIENTS_MAX 16

struct fake_consul {
	int listener, stop_fd;
	char url[64];
	pthread_t thread;
	struct {
		int fd; /* -1: free */
		size_t len;
		char head[8192];
	} clients[CLIENTS_MAX];

	pthread_mutex_t mutex;
	char *answer; /* NULL: none */
	size_t answer_len;
	bool raw;
	unsigned requests;
	char last[8192];
};

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* One request is there, whole. False: the connection is to be closed. */
static bool reply(struct fake_consul *fake, int fd, const char *head)
{
	bool keep;
	size_t done = 0;

	pthread_mutex_lock(&fake->mutex);
	fake->requests++;
	snprintf(fake->last, sizeof fake->last, "%s", head);
	keep = !fake->raw;
	while (fake->answer && done < fake->answer_len) {
		ssize_t n = send(fd, fake->answer + done, fake->answer_len - done, MSG_NOSIGNAL);

		if (n <= 0) {
			keep = false;
			break;
		}
		done += (size_t)n;
	}
	pthread_mutex_unlock(&fake->mutex);
	return keep;
}

static void serve(struct fake_consul *fake, size_t i)
{
	char *head = fake->clients[i].head;
	size_t room = sizeof fake->clients[i].head - 1 - fake->clients[i].len;
	ssize_t n = room ? read(fake->clients[i].fd, head + fake->clients[i].len, room) : 0;
	bool keep = n > 0;

	if (keep) {
		fake->clients[i].len += (size_t)n;
		head[fake->clients[i].len] = 0;
		if (strstr(head, "\r\n\r\n")) {
			keep = reply(fake, fake->clients[i].fd, head);
			fake->clients[i].len = 0;
		}
	}
	if (!keep) {
		close(fake->clients[i].fd);
		fake->clients[i].fd = -1;
	}
}

static void *run(void *arg)
{
	struct fake_consul *fake = arg;

	for (;;) {
		struct pollfd p[CLIENTS_MAX + 2] = {{.fd = fake->stop_fd, .events = POLLIN},
						    {.fd = fake->listener, .events = POLLIN}};

		for (size_t i = 0; i < CLIENTS_MAX; i++)
			p[i + 2] = (struct pollfd){.fd = fake->clients[i].fd, .events = POLLIN};
		must(poll(p, CLIENTS_MAX + 2, -1) >= 0);
		if (p[0].revents)
			return NULL;
		for (size_t i = 0; i < CLIENTS_MAX; i++)
			if (fake->clients[i].fd >= 0 && p[i + 2].revents)
				serve(fake, i);
		for (size_t i = 0; p[1].revents && i < CLIENTS_MAX; i++) {
			if (fake->clients[i].fd >= 0)
				continue;
			fake->clients[i].fd = accept(fake->listener, NULL, NULL);
			fake->clients[i].len = 0;
			break;
		}
	}
}

struct fake_consul *fake_consul_start(void)
{
	struct fake_consul *fake = calloc(1, sizeof *fake);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	must(fake != NULL);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		fake->clients[i].fd = -1;
	pthread_mutex_init(&fake->mutex, NULL);
	fake->stop_fd = eventfd(0, EFD_CLOEXEC);
	fake->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	must(fake->stop_fd >= 0 && fake->listener >= 0);
	must(bind(fake->listener, (struct sockaddr *)&addr, len) == 0 && listen(fake->listener, 8) == 0);
	must(getsockname(fake->listener, (struct sockaddr *)&addr, &len) == 0);
	snprintf(fake->url, sizeof fake->url, "http://127.0.0.1:%d", ntohs(addr.sin_port));
	fake_consul_answer(fake, "404 Not Found", "", 0);
	must(pthread_create(&fake->thread, NULL, run, fake) == 0);
	return fake;
}

void fake_consul_stop(struct fake_consul *fake)
{
	uint64_t one = 1;

	if (!fake)
		return;
	must(write(fake->stop_fd, &one, sizeof one) == sizeof one);
	pthread_join(fake->thread, NULL);
	for (size_t i = 0; i < CLIENTS_MAX; i++)
		if (fake->clients[i].fd >= 0)
			close(fake->clients[i].fd);
	close(fake->listener);
	close(fake->stop_fd);
	pthread_mutex_destroy(&fake->mutex);
	free(fake->answer);
	free(fake);
}

const char *fake_consul_url(const struct fake_consul *fake)
{
	return fake->url;
}

static void set(struct fake_consul *fake, char *answer, size_t len, bool raw)
{
	pthread_mutex_lock(&fake->mutex);
	free(fake->answer);
	fake->answer = answer;
	fake->answer_len = len;
	fake->raw = raw;
	pthread_mutex_unlock(&fake->mutex);
}

void fake_consul_answer(struct fake_consul *fake, const char *status, const char *body, size_t len)
{
	char *answer = NULL;
	int n;

	if (!status) {
		set(fake, NULL, 0, false);
		return;
	}
	n = asprintf(&answer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n", status, len);
	must(n > 0 && (answer = realloc(answer, (size_t)n + len + 1)) != NULL);
	memcpy(answer + n, body, len);
	set(fake, answer, (size_t)n + len, false);
}

void fake_consul_answer_raw(struct fake_consul *fake, const char *bytes, size_t len)
{
	char *answer = malloc(len + 1);

	must(answer != NULL);
	memcpy(answer, bytes, len);
	set(fake, answer, len, true);
}

void fake_consul_primary(struct fake_consul *fake, const char *hostname, const char *url)
{
	char *body;

	must(asprintf(&body, "{\"hostname\":\"%s\",\"advertise-url\":\"%s\"}", hostname, url) > 0);
	fake_consul_answer(fake, "200 OK", body, strlen(body));
	free(body);
}

unsigned fake_consul_requests(struct fake_consul *fake)
{
	unsigned n;

	pthread_mutex_lock(&fake->mutex);
	n = fake->requests;
	pthread_mutex_unlock(&fake->mutex);
	return n;
}

void fake_consul_last(struct fake_consul *fake, char *ret, size_t size)
{
	pthread_mutex_lock(&fake->mutex);
	snprintf(ret, size, "%s", fake->last);
	pthread_mutex_unlock(&fake->mutex);
}
