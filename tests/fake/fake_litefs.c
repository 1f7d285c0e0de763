/*
 * fake_litefs.c: see fake_litefs.h. One thread accepts, one serves each connection.
 * One mutex over everything but the sockets' reads and writes.
 */
#include "fake/fake_litefs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define MUST(x) \
	do { \
		if (!(x)) { \
			fprintf(stderr, "fake_litefs: %s:%d: %s: %s\n", __FILE__, __LINE__, #x, strerror(errno)); \
			abort(); \
		} \
	} while (0)

#define HEADER_MAX 8192
#define LTX_HEADER 100

struct db {
	struct db *next;
	char name[300];
	struct pos pos;
	uint64_t halt_id;
	int64_t halt_until_ns;
	int64_t halt_until_wall_ms;
	bool locked;
	unsigned expired;
	const char *shared, *dms;
};

struct step {
	struct step *next;
	struct fake_step s;
};

struct conn {
	struct conn *next;
	struct fake *fake;
	pthread_t thread;
	int fd;
	bool events; /* serves a stream */
	bool end_stream;
	char *out; /* queued for the stream */
	size_t out_len;
	int wake[2];
	bool done;
};

struct fake {
	uint64_t node_id;
	char url[64];
	int port_fd, listen_fd;
	struct sockaddr_in addr;
	pthread_t acceptor;
	int stop_pipe[2];

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool stop, up;
	bool is_primary;
	char hostname[300], cluster[100], path[4200];
	int ttl_ms, acquire_ms;
	struct db *dbs;
	struct conn *conns;
	struct step *script[FAKE_VERBS];
	unsigned granted, unhalted_tx, rate;
	unsigned counts[FAKE_VERBS], bodies[FAKE_VERBS], accepted, open, resets;
	char last[FAKE_VERBS][HEADER_MAX];
	uint8_t *last_tx;
	size_t last_tx_len;
	void (*applied)(void *ctx, const char *db, const uint8_t *ltx, size_t len);
	void *applied_ctx;
};

struct request {
	enum fake_verb verb;
	char head[HEADER_MAX];
	size_t head_len;
	char extra[HEADER_MAX]; /* bytes of the body that came with the header */
	size_t extra_len;
	unsigned long long length;
	char name[1024];
	char id[64];
	uint64_t litefs_id;
	uint8_t *body;
	unsigned long long body_len;
};

/* ---- sockets ---- */

static void note_reset(struct conn *c)
{
	pthread_mutex_lock(&c->fake->mutex);
	c->fake->resets++;
	pthread_mutex_unlock(&c->fake->mutex);
}

/* > 0 bytes, 0 end, -1 error. */
static ssize_t take(struct conn *c, void *buf, size_t len)
{
	ssize_t n;

	do
		n = recv(c->fd, buf, len, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == ECONNRESET)
		note_reset(c);
	return n;
}

static bool give(struct conn *c, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (errno == ECONNRESET || errno == EPIPE)
				note_reset(c);
			return false;
		}
		p += n;
		len -= (size_t)n;
	}
	return true;
}

/* Until the client closes (true) or the fake stops (then its socket was shut down). */
static void wait_for_close(struct conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

	while (poll(&p, 1, -1) < 0 && errno == EINTR)
		;
	if (p.revents & POLLERR) {
		int err = 0;
		socklen_t len = sizeof err;

		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err == ECONNRESET)
			note_reset(c);
	}
}

/* True when the client has closed. */
static bool client_gone(struct conn *c)
{
	struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void set_reset(int fd)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

/* ---- requests ---- */

static int hex_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void query_value(const char *target, const char *key, char *ret, size_t size)
{
	size_t n = 0, keylen = strlen(key);
	const char *p = strchr(target, '?');

	ret[0] = 0;
	if (!p)
		return;
	while (*p && *p != ' ') {
		p++;
		if (!strncmp(p, key, keylen) && p[keylen] == '=') {
			for (p += keylen + 1; *p && *p != '&' && *p != ' ' && n + 1 < size; p++) {
				if (*p == '%' && hex_of(p[1]) >= 0 && hex_of(p[2]) >= 0) {
					ret[n++] = (char)(hex_of(p[1]) * 16 + hex_of(p[2]));
					p += 2;
				} else {
					ret[n++] = *p == '+' ? ' ' : *p;
				}
			}
			ret[n] = 0;
			return;
		}
		while (*p && *p != '&' && *p != ' ')
			p++;
	}
}

static const char *find_header(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = strstr(head, "\r\n"); p; p = strstr(p, "\r\n")) {
		p += 2;
		if (!strncasecmp(p, name, n) && p[n] == ':') {
			for (p += n + 1; *p == ' '; p++)
				;
			return p;
		}
	}
	return NULL;
}

static enum fake_verb verb_of(const char *head)
{
	static const struct {
		const char *start;
		enum fake_verb verb;
	} verbs[] = {
		{"GET /info ", FAKE_INFO},	{"POST /halt?", FAKE_HALT},   {"DELETE /halt?", FAKE_UNHALT},
		{"POST /tx?", FAKE_TX},		{"GET /events ", FAKE_EVENTS}, {"GET /debug/vars ", FAKE_VARS},
	};

	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (!strncmp(head, verbs[i].start, strlen(verbs[i].start)))
			return verbs[i].verb;
	return FAKE_OTHER;
}

/* Reads one header block. False: the connection has ended. */
static bool read_head(struct conn *c, struct request *r)
{
	const char *end, *v;

	memset(r, 0, sizeof *r);
	for (;;) {
		ssize_t n = take(c, r->head + r->head_len, sizeof r->head - 1 - r->head_len);

		if (n <= 0)
			return false;
		r->head_len += (size_t)n;
		r->head[r->head_len] = 0;
		end = strstr(r->head, "\r\n\r\n");
		if (end)
			break;
		if (r->head_len == sizeof r->head - 1)
			return false;
	}
	r->extra_len = r->head_len - (size_t)(end + 4 - r->head);
	memcpy(r->extra, end + 4, r->extra_len);
	r->head_len = (size_t)(end + 4 - r->head);
	r->head[r->head_len] = 0;
	r->verb = verb_of(r->head);
	query_value(r->head, "name", r->name, sizeof r->name);
	query_value(r->head, r->verb == FAKE_TX ? "lockID" : "id", r->id, sizeof r->id);
	v = find_header(r->head, "Content-Length");
	r->length = v ? strtoull(v, NULL, 10) : 0;
	v = find_header(r->head, "Litefs-Id");
	r->litefs_id = v ? strtoull(v, NULL, 16) : 0;
	return true;
}

static unsigned ask(struct fake *f, const unsigned *value)
{
	unsigned v;

	pthread_mutex_lock(&f->mutex);
	v = *value;
	pthread_mutex_unlock(&f->mutex);
	return v;
}

/* Reads the body up to `upto` bytes. */
static bool read_body(struct conn *c, struct request *r, unsigned long long upto)
{
	unsigned rate;

	if (upto > r->length)
		upto = r->length;
	if (!r->body) {
		r->body = malloc(r->length + 1);
		MUST(r->body);
		r->body_len = r->extra_len < r->length ? r->extra_len : r->length;
		memcpy(r->body, r->extra, r->body_len);
	}
	rate = r->verb == FAKE_TX ? ask(c->fake, &c->fake->rate) : 0;
	while (r->body_len < upto) {
		size_t want = upto - r->body_len;
		ssize_t n;

		if (rate) {
			want = want < rate / 100 + 1 ? want : rate / 100 + 1;
			clock_sleep_ns(10 * NS_PER_MS);
		}
		n = take(c, r->body + r->body_len, want);

		if (n <= 0)
			return false;
		r->body_len += (unsigned long long)n;
	}
	return true;
}

static void note_body(struct conn *c, struct request *r)
{
	struct fake *f = c->fake;

	pthread_mutex_lock(&f->mutex);
	f->bodies[r->verb]++;
	if (r->verb == FAKE_TX) {
		free(f->last_tx);
		f->last_tx = malloc(r->body_len + 1);
		MUST(f->last_tx);
		memcpy(f->last_tx, r->body, r->body_len);
		f->last_tx_len = r->body_len;
	}
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
}

static bool read_all(struct conn *c, struct request *r)
{
	if (!read_body(c, r, r->length))
		return false;
	note_body(c, r);
	return true;
}

/* ---- answers ---- */

/* The node's own clock, whatever the program's is made to show (clock_wall_ms()). */
static int64_t wall_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / NS_PER_MS;
}

static void put_date(char *buf, size_t size)
{
	time_t t = time(NULL);
	struct tm tm;

	gmtime_r(&t, &tm);
	strftime(buf, size, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
}

static void put_id(const struct fake *f, const struct fake_step *s, char *buf, size_t size)
{
	uint64_t id = f->node_id;

	buf[0] = 0;
	if (s->id == FAKE_ID_NONE)
		return;
	if (s->id == FAKE_ID_WRONG)
		id ^= 1;
	snprintf(buf, size, "Litefs-Id: %016" PRIX64 "\r\n", id);
	if (s->id == FAKE_ID_TWICE)
		snprintf(buf + strlen(buf), size - strlen(buf), "Litefs-Id: %016" PRIX64 "\r\n", id ^ 2);
}

/* False: the connection is to be closed. */
static bool answer(struct conn *c, const struct fake_step *s, int status, const char *body, size_t len)
{
	char head[2048], date[64] = "", id[128];
	size_t times = s->repeat ? s->repeat : 1;
	long long claim = s->content_length ? s->content_length : (long long)(len * times);

	if (!s->no_date)
		put_date(date, sizeof date);
	put_id(c->fake, s, id, sizeof id);
	snprintf(head, sizeof head, "HTTP/1.1 %d X\r\n%s%s%s%s%sContent-Length: %lld\r\n\r\n", status, id, date,
		 s->header ? s->header : "", s->header ? "\r\n" : "", s->close_after ? "Connection: close\r\n" : "", claim);
	/* One write where it can be, as Go's server does. */
	if (times == 1 && len < 1024) {
		char all[4096];
		size_t n = strlen(head);

		memcpy(all, head, n);
		if (len)
			memcpy(all + n, body, len);
		return give(c, all, n + len) && !s->close_after;
	}
	if (!give(c, head, strlen(head)))
		return false;
	while (times--)
		if (!give(c, body, len))
			return false;
	return !s->close_after;
}

static bool answer_text(struct conn *c, const struct fake_step *s, int status, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static bool answer_text(struct conn *c, const struct fake_step *s, int status, const char *fmt, ...)
{
	char buf[8192];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, sizeof buf, fmt, ap);
	va_end(ap);
	return answer(c, s, status, buf, (size_t)n);
}

/* ---- honest answers; each drops the connection's answer when s says so ---- */

static struct db *find_db(struct fake *f, const char *name, bool create)
{
	struct db *d;

	for (d = f->dbs; d; d = d->next)
		if (!strcmp(d->name, name))
			return d;
	if (!create)
		return NULL;
	d = calloc(1, sizeof *d);
	MUST(d);
	snprintf(d->name, sizeof d->name, "%s", name);
	d->shared = d->dms = "unlocked";
	d->next = f->dbs;
	f->dbs = d;
	return d;
}

static void expire(struct db *d)
{
	if (d->halt_id && clock_now_ns() >= d->halt_until_ns) {
		d->halt_id = 0;
		d->expired++;
	}
}

static void rfc3339(int64_t ms, char *buf, size_t size)
{
	time_t t = (time_t)(ms / 1000);
	struct tm tm;
	char day[32];

	gmtime_r(&t, &tm);
	strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, size, "%s.%03d000000Z", day, (int)(ms % 1000));
}

static bool lose(const struct fake_step *s)
{
	return s->does == FAKE_LOSE_ANSWER;
}

static bool do_info(struct conn *c, const struct fake_step *s)
{
	struct fake *f = c->fake;
	char hostname[300], cluster[100], path[4200];
	bool primary;

	pthread_mutex_lock(&f->mutex);
	primary = f->is_primary;
	memcpy(hostname, f->hostname, sizeof hostname);
	memcpy(cluster, f->cluster, sizeof cluster);
	memcpy(path, f->path, sizeof path);
	pthread_mutex_unlock(&f->mutex);
	return answer_text(c, s, 200,
			   "{\n  %s%s%s\"isPrimary\": %s,\n  \"candidate\": true,\n  \"path\": \"%s\",\n"
			   "  \"primary\": {\n    \"hostname\": \"%s\"\n  }\n}\n",
			   cluster[0] ? "\"clusterID\": \"" : "", cluster, cluster[0] ? "\",\n  " : "",
			   primary ? "true" : "false", path, hostname);
}

static bool do_halt(struct conn *c, const struct fake_step *s, struct request *r)
{
	struct fake *f = c->fake;
	uint64_t id = strtoull(r->id, NULL, 10);
	int64_t until;
	struct pos pos;
	char expires[64];
	struct db *d;

	if (id == 0)
		return answer_text(c, s, 400, "invalid id: \"%s\"\n", r->id);
	if (r->litefs_id == f->node_id)
		return answer_text(c, s, 400, "cannot remotely halt self\n");
	pthread_mutex_lock(&f->mutex);
	d = find_db(f, r->name, true);
	until = clock_now_ns() + f->acquire_ms * NS_PER_MS;
	for (;;) {
		expire(d);
		if (!d->locked && (!d->halt_id || d->halt_id == id))
			break;
		if (f->stop || !f->up || clock_now_ns() >= until || client_gone(c)) {
			pthread_mutex_unlock(&f->mutex);
			return answer_text(c, s, 500, "acquire halt lock: context deadline exceeded\n");
		}
		clock_cond_wait_until(&f->changed, &f->mutex, clock_now_ns() + 2 * NS_PER_MS);
	}
	if (!d->halt_id) {
		d->halt_id = id;
		f->granted++;
		d->halt_until_ns = clock_now_ns() + f->ttl_ms * NS_PER_MS;
		d->halt_until_wall_ms = wall_ms() + f->ttl_ms;
	}
	pos = d->pos;
	rfc3339(d->halt_until_wall_ms, expires, sizeof expires);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	if (lose(s))
		return false;
	return answer_text(c, s, 200,
			   "{\"id\":%" PRIu64 ",\"pos\":{\"TXID\":\"%016" PRIx64 "\",\"PostApplyChecksum\":\"%016" PRIx64
			   "\"},\"expires\":\"%s\"}\n",
			   id, pos.txid, pos.checksum, expires);
}

static bool do_unhalt(struct conn *c, const struct fake_step *s, struct request *r)
{
	struct fake *f = c->fake;
	uint64_t id = strtoull(r->id, NULL, 10);
	struct db *d;

	pthread_mutex_lock(&f->mutex);
	d = find_db(f, r->name, false);
	if (d)
		expire(d);
	if (d && d->halt_id == id) {
		d->halt_id = 0;
		pthread_cond_broadcast(&f->changed);
	}
	pthread_mutex_unlock(&f->mutex);
	if (!d || lose(s)) /* without d LiteFS' handler panics: the connection ends */
		return false;
	return answer(c, s, 200, "", 0);
}

static uint64_t be64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static void queue_event(struct fake *f, const char *data, size_t len)
{
	for (struct conn *c = f->conns; c; c = c->next) {
		char *p;

		if (!c->events || c->done)
			continue;
		p = realloc(c->out, c->out_len + len);
		MUST(p);
		memcpy(p + c->out_len, data, len);
		c->out = p;
		c->out_len += len;
		MUST(write(c->wake[1], "w", 1) == 1);
	}
}

static void set_pos(struct fake *f, struct db *d, struct pos pos)
{
	char line[600];
	int n;

	d->pos = pos;
	n = snprintf(line, sizeof line,
		     "{\"type\":\"tx\",\"db\":\"%s\",\"data\":{\"txID\":\"%016" PRIx64 "\",\"postApplyChecksum\":\"%016" PRIx64
		     "\",\"pageSize\":4096,\"commit\":2,\"timestamp\":\"2024-01-01T00:00:00Z\"}}\n",
		     d->name, pos.txid, pos.checksum);
	queue_event(f, line, (size_t)n);
	pthread_cond_broadcast(&f->changed);
}

static bool refuse(struct conn *c, const struct fake_step *s, struct request *r, int status, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/*
 * An error before the body was read, as Go's server sends it: up to 256 KiB of the body are read
 * first; where there is more, the answer is the connection's last one, and its end is taken gently.
 */
static bool refuse(struct conn *c, const struct fake_step *s, struct request *r, int status, const char *fmt, ...)
{
	struct fake_step last = *s;
	char text[1024], drop[4096];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (!read_body(c, r, 256 * 1024))
		return false;
	last.close_after = r->length > 256 * 1024 || s->close_after;
	if (answer(c, &last, status, text, (size_t)n))
		return true;
	shutdown(c->fd, SHUT_WR);
	while (take(c, drop, sizeof drop) > 0)
		;
	return false;
}

static bool is_halted(struct fake *f, struct db *d, struct request *r)
{
	bool yes;

	pthread_mutex_lock(&f->mutex);
	expire(d);
	yes = d->halt_id && d->halt_id == strtoull(r->id, NULL, 10);
	pthread_mutex_unlock(&f->mutex);
	return yes;
}

static bool do_tx(struct conn *c, const struct fake_step *s, struct request *r)
{
	bool halted;
	struct fake *f = c->fake;
	uint64_t min, pre;
	struct pos pos;
	struct db *d;

	if (r->litefs_id == f->node_id)
		return refuse(c, s, r, 400, "cannot remotely halt self\n");
	pthread_mutex_lock(&f->mutex);
	d = find_db(f, r->name, false);
	pos = d ? d->pos : (struct pos){0};
	pthread_mutex_unlock(&f->mutex);
	if (!d)
		return refuse(c, s, r, 404, "database not found: \"%s\"\n", r->name);
	if (r->length < LTX_HEADER || !read_body(c, r, LTX_HEADER))
		return refuse(c, s, r, 500, "write ltx file: read ltx header: n=%llu unexpected EOF\n", r->body_len);
	if (memcmp(r->body, "LTX1", 4))
		return refuse(c, s, r, 500, "write ltx file: decode ltx header: invalid LTX file\n");
	min = be64(r->body + 16);
	pre = be64(r->body + 40);
	/* The position as it was when the header came, as LiteFS compares it. */
	pthread_mutex_lock(&f->mutex);
	pos = d->pos;
	pthread_mutex_unlock(&f->mutex);
	if (min != 1 && min != pos.txid + 1)
		return refuse(c, s, r, 500,
			      "write ltx file: non-sequential header minimum txid %016" PRIx64 ", expecting %016" PRIx64 "\n",
			      min, pos.txid + 1);
	if (min != 1 && pre != pos.checksum)
		return refuse(c, s, r, 500,
			      "write ltx file: pre-apply checksum mismatch: %016" PRIx64 ", expecting %016" PRIx64 "\n", pre,
			      pos.checksum);
	halted = is_halted(f, d, r);
	if (!read_all(c, r))
		return false;
	if (r->length < LTX_HEADER + 4 + 16)
		return refuse(c, s, r, 500, "write ltx file: ltx validation error: unexpected EOF\n");
	if (f->applied)
		f->applied(f->applied_ctx, d->name, r->body, r->body_len);
	halted = is_halted(f, d, r) && halted;
	pthread_mutex_lock(&f->mutex);
	f->unhalted_tx += !halted;
	set_pos(f, d, (struct pos){.txid = be64(r->body + 24), .checksum = be64(r->body + r->body_len - 16)});
	pthread_mutex_unlock(&f->mutex);
	if (lose(s))
		return false;
	return answer(c, s, 200, "", 0);
}

static bool do_vars(struct conn *c, const struct fake_step *s)
{
	struct fake_step plain = *s;
	struct fake *f = c->fake;
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);
	bool keep;

	MUST(out);
	pthread_mutex_lock(&f->mutex);
	fprintf(out, "{\n\"cmdline\": [\"litefs\",\"mount\"],\n\"store\": {\"isPrimary\":%s,\"candidate\":true,\"dbs\":{",
		f->is_primary ? "true" : "false");
	for (struct db *d = f->dbs; d; d = d->next)
		fprintf(out,
			"\"%s\":{\"name\":\"%s\",\"txid\":\"%016" PRIx64 "\",\"checksum\":\"%016" PRIx64
			"\",\"locks\":{\"pending\":\"unlocked\",\"shared\":\"%s\",\"dms\":\"%s\"}}%s",
			d->name, d->name, d->pos.txid, d->pos.checksum, d->shared, d->dms, d->next ? "," : "");
	fprintf(out, "}}\n}\n");
	pthread_mutex_unlock(&f->mutex);
	fclose(out);
	if (plain.id == FAKE_ID_OWN)
		plain.id = FAKE_ID_NONE; /* LiteFS' own says none here */
	keep = answer(c, &plain, 200, text, len);
	free(text);
	return keep;
}

static bool give_chunk(struct conn *c, const char *data, size_t len)
{
	char head[32];

	snprintf(head, sizeof head, "%zx\r\n", len);
	return give(c, head, strlen(head)) && give(c, data, len) && give(c, "\r\n", 2);
}

static int role_event(struct fake *f, const char *type, char *buf, size_t size)
{
	const char *hostname = f->is_primary ? "" : f->hostname; /* LiteFS names only another node here */

	return snprintf(buf, size, "{\"type\":\"%s\",\"data\":{\"isPrimary\":%s%s%s%s}}\n", type,
			f->is_primary ? "true" : "false", hostname[0] ? ",\"hostname\":\"" : "", hostname,
			hostname[0] ? "\"" : "");
}

static bool do_events(struct conn *c, const struct fake_step *s)
{
	struct fake *f = c->fake;
	char head[512], id[128], line[600];
	bool end = false, ok;
	int n;

	put_id(f, s, id, sizeof id);
	snprintf(head, sizeof head,
		 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%sTransfer-Encoding: chunked\r\n\r\n", id);
	ok = give(c, head, strlen(head));
	pthread_mutex_lock(&f->mutex);
	n = role_event(f, "init", line, sizeof line);
	c->out_len = 0;
	c->events = true;
	pthread_mutex_unlock(&f->mutex);
	ok = ok && give_chunk(c, line, (size_t)n);
	while (ok && !end) {
		struct pollfd p[2] = {{.fd = c->wake[0], .events = POLLIN}, {.fd = c->fd, .events = POLLRDHUP}};
		char drop[64], *out;
		size_t len;

		while (poll(p, 2, -1) < 0 && errno == EINTR)
			;
		if (p[1].revents) {
			wait_for_close(c);
			break;
		}
		if (p[0].revents)
			MUST(read(c->wake[0], drop, sizeof drop) > 0);
		pthread_mutex_lock(&f->mutex);
		out = c->out;
		len = c->out_len;
		c->out = NULL;
		c->out_len = 0;
		end = c->end_stream;
		pthread_mutex_unlock(&f->mutex);
		if (len)
			ok = give_chunk(c, out, len);
		free(out);
	}
	if (ok && end)
		give(c, "0\r\n\r\n", 5);
	return false;
}

static bool do_honestly(struct conn *c, const struct fake_step *s, struct request *r)
{
	if (s->delay_ms)
		clock_sleep_ns(s->delay_ms * NS_PER_MS);
	if (r->verb == FAKE_TX)
		return do_tx(c, s, r);
	if (!read_all(c, r))
		return false;
	switch (r->verb) {
	case FAKE_INFO:
		return do_info(c, s);
	case FAKE_HALT:
		return do_halt(c, s, r);
	case FAKE_UNHALT:
		return do_unhalt(c, s, r);
	case FAKE_EVENTS:
		return do_events(c, s);
	case FAKE_VARS:
		return do_vars(c, s);
	default:
		return answer_text(c, s, 404, "404 page not found\n");
	}
}

/* ---- a scripted step ---- */

static bool step_answer(struct conn *c, const struct fake_step *s)
{
	const char *body = s->body ? s->body : "";
	size_t len = s->body_len ? s->body_len : strlen(body);

	if (s->delay_ms)
		clock_sleep_ns(s->delay_ms * NS_PER_MS);
	if (s->does == FAKE_RAW)
		return give(c, body, len) && !s->close_after;
	return answer(c, s, s->status ? s->status : 200, body, len);
}

static bool do_step(struct conn *c, const struct fake_step *s, struct request *r)
{
	switch (s->does) {
	case FAKE_HONEST:
	case FAKE_LOSE_ANSWER:
		return do_honestly(c, s, r);
	case FAKE_CLOSE_BEFORE:
		return false;
	case FAKE_CLOSE_AFTER_HEADER:
		read_body(c, r, LTX_HEADER);
		return false;
	case FAKE_CLOSE_AFTER_BODY:
		read_all(c, r);
		return false;
	case FAKE_STALL_BODY:
		wait_for_close(c);
		return false;
	case FAKE_STALL:
		if (read_all(c, r))
			wait_for_close(c);
		return false;
	case FAKE_ANSWER_EARLY:
		return step_answer(c, s) && !r->length;
	default:
		return read_all(c, r) && step_answer(c, s);
	}
}

static struct step *next_step(struct fake *f, struct request *r)
{
	struct step *step;

	pthread_mutex_lock(&f->mutex);
	f->counts[r->verb]++;
	memcpy(f->last[r->verb], r->head, r->head_len + 1);
	step = f->script[r->verb];
	if (step)
		f->script[r->verb] = step->next;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	return step;
}

static void free_step(struct step *step)
{
	if (!step)
		return;
	free((char *)(uintptr_t)step->s.body);
	free((char *)(uintptr_t)step->s.header);
	free(step);
}

static void *serve(void *arg)
{
	static const struct fake_step honest = {.does = FAKE_HONEST};
	struct conn *c = arg;
	struct fake *f = c->fake;
	struct request *r = malloc(sizeof *r);
	bool keep = true;

	MUST(r);
	while (keep && read_head(c, r)) {
		struct step *step = next_step(f, r);

		keep = do_step(c, step ? &step->s : &honest, r);
		free_step(step);
		free(r->body);
	}
	free(r);
	pthread_mutex_lock(&f->mutex);
	c->done = true;
	close(c->fd);
	c->fd = -1;
	f->open--;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	return NULL;
}

/* ---- accepting ---- */

static void adopt(struct fake *f, int fd)
{
	struct conn *c = calloc(1, sizeof *c);
	int on = 1;

	MUST(c);
	c->fake = f;
	c->fd = fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	MUST(pipe(c->wake) == 0);
	pthread_mutex_lock(&f->mutex);
	f->accepted++;
	if (!f->up || f->stop) {
		pthread_mutex_unlock(&f->mutex);
		set_reset(fd);
		close(fd);
		close(c->wake[0]);
		close(c->wake[1]);
		free(c);
		return;
	}
	f->open++;
	c->next = f->conns;
	f->conns = c;
	MUST(pthread_create(&c->thread, NULL, serve, c) == 0);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
}

static void *accept_all(void *arg)
{
	struct fake *f = arg;

	for (;;) {
		struct pollfd p[2] = {{.fd = f->stop_pipe[0], .events = POLLIN}, {.fd = f->listen_fd, .events = POLLIN}};
		int fd;

		while (poll(p, 2, -1) < 0 && errno == EINTR)
			;
		if (p[0].revents)
			return NULL;
		fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			adopt(f, fd);
	}
}

static int bound_socket(const struct fake *f)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	MUST(fd >= 0);
	MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0);
	MUST(bind(fd, (const struct sockaddr *)&f->addr, sizeof f->addr) == 0);
	return fd;
}

static void start_listening(struct fake *f)
{
	f->listen_fd = bound_socket(f);
	MUST(listen(f->listen_fd, 64) == 0);
	MUST(pipe(f->stop_pipe) == 0);
	MUST(pthread_create(&f->acceptor, NULL, accept_all, f) == 0);
}

static void stop_listening(struct fake *f)
{
	MUST(write(f->stop_pipe[1], "s", 1) == 1);
	pthread_join(f->acceptor, NULL);
	close(f->listen_fd);
	close(f->stop_pipe[0]);
	close(f->stop_pipe[1]);
}

/* Ends and joins every connection's thread. */
static void drop_connections(struct fake *f)
{
	struct conn *c;

	pthread_mutex_lock(&f->mutex);
	for (c = f->conns; c; c = c->next)
		if (!c->done) {
			set_reset(c->fd);
			shutdown(c->fd, SHUT_RD); /* wakes its thread, which then closes with a reset */
		}
	pthread_cond_broadcast(&f->changed);
	while (f->conns) {
		c = f->conns;
		f->conns = c->next;
		pthread_mutex_unlock(&f->mutex);
		pthread_join(c->thread, NULL);
		close(c->wake[0]);
		close(c->wake[1]);
		free(c->out);
		free(c);
		pthread_mutex_lock(&f->mutex);
	}
	pthread_mutex_unlock(&f->mutex);
}

struct fake *fake_start(uint64_t node_id)
{
	struct fake *f = calloc(1, sizeof *f);
	socklen_t len = sizeof f->addr;

	MUST(f);
	f->node_id = node_id;
	f->up = f->is_primary = true;
	f->ttl_ms = 30000;
	f->acquire_ms = 10000;
	snprintf(f->hostname, sizeof f->hostname, "fake");
	snprintf(f->cluster, sizeof f->cluster, "LFSCFAKE");
	snprintf(f->path, sizeof f->path, "/fake/data");
	pthread_mutex_init(&f->mutex, NULL);
	MUST(clock_cond_init(&f->changed) == 0);
	f->addr.sin_family = AF_INET;
	f->addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	/* Bound and never listening: the port stays ours while we are down, and whoever connects then is refused. */
	f->port_fd = bound_socket(f);
	MUST(getsockname(f->port_fd, (struct sockaddr *)&f->addr, &len) == 0);
	start_listening(f);
	snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u", ntohs(f->addr.sin_port));
	return f;
}

void fake_stop(struct fake *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->mutex);
	f->stop = true;
	pthread_mutex_unlock(&f->mutex);
	if (f->up)
		stop_listening(f);
	drop_connections(f);
	close(f->port_fd);
	for (int v = 0; v < FAKE_VERBS; v++)
		while (f->script[v]) {
			struct step *step = f->script[v];

			f->script[v] = step->next;
			free_step(step);
		}
	while (f->dbs) {
		struct db *d = f->dbs;

		f->dbs = d->next;
		free(d);
	}
	free(f->last_tx);
	pthread_cond_destroy(&f->changed);
	pthread_mutex_destroy(&f->mutex);
	free(f);
}

void fake_set_up(struct fake *f, bool up)
{
	bool was;

	pthread_mutex_lock(&f->mutex);
	was = f->up;
	f->up = up;
	if (up && !was)
		for (struct db *d = f->dbs; d; d = d->next)
			d->halt_id = 0;
	pthread_mutex_unlock(&f->mutex);
	if (was && !up) {
		stop_listening(f);
		drop_connections(f);
	} else if (!was && up) {
		start_listening(f);
	}
}

/* ---- what tests set and ask ---- */

const char *fake_url(const struct fake *f)
{
	return f->url;
}

uint64_t fake_node_id(const struct fake *f)
{
	return f->node_id;
}

void fake_script(struct fake *f, enum fake_verb verb, const struct fake_step *s)
{
	struct step *step = calloc(1, sizeof *step), **at;

	MUST(step);
	step->s = *s;
	if (s->body) {
		size_t len = s->body_len ? s->body_len : strlen(s->body);
		char *copy = malloc(len + 1);

		MUST(copy);
		memcpy(copy, s->body, len);
		copy[len] = 0;
		step->s.body = copy;
		step->s.body_len = len;
	}
	if (s->header) {
		step->s.header = strdup(s->header);
		MUST(step->s.header);
	}
	pthread_mutex_lock(&f->mutex);
	for (at = &f->script[verb]; *at; at = &(*at)->next)
		;
	*at = step;
	pthread_mutex_unlock(&f->mutex);
}

void fake_set_role(struct fake *f, bool is_primary, const char *hostname)
{
	char line[600];
	int n;

	pthread_mutex_lock(&f->mutex);
	f->is_primary = is_primary;
	snprintf(f->hostname, sizeof f->hostname, "%s", hostname);
	n = role_event(f, "primaryChange", line, sizeof line);
	queue_event(f, line, (size_t)n);
	pthread_mutex_unlock(&f->mutex);
}

void fake_set_cluster(struct fake *f, const char *cluster_id, const char *path)
{
	pthread_mutex_lock(&f->mutex);
	snprintf(f->cluster, sizeof f->cluster, "%s", cluster_id);
	snprintf(f->path, sizeof f->path, "%s", path);
	pthread_mutex_unlock(&f->mutex);
}

void fake_set_ttl(struct fake *f, int ttl_ms, int acquire_timeout_ms)
{
	pthread_mutex_lock(&f->mutex);
	f->ttl_ms = ttl_ms;
	f->acquire_ms = acquire_timeout_ms;
	pthread_mutex_unlock(&f->mutex);
}

void fake_send_event(struct fake *f, const char *bytes, size_t len)
{
	pthread_mutex_lock(&f->mutex);
	queue_event(f, bytes, len);
	pthread_mutex_unlock(&f->mutex);
}

void fake_break_events(struct fake *f)
{
	pthread_mutex_lock(&f->mutex);
	for (struct conn *c = f->conns; c; c = c->next)
		if (c->events && !c->done) {
			c->end_stream = true;
			MUST(write(c->wake[1], "e", 1) == 1);
		}
	pthread_mutex_unlock(&f->mutex);
}

void fake_set_pos(struct fake *f, const char *db, struct pos pos)
{
	pthread_mutex_lock(&f->mutex);
	set_pos(f, find_db(f, db, true), pos);
	pthread_mutex_unlock(&f->mutex);
}

bool fake_get_pos(struct fake *f, const char *db, struct pos *ret)
{
	struct db *d;

	pthread_mutex_lock(&f->mutex);
	d = find_db(f, db, false);
	if (d)
		*ret = d->pos;
	pthread_mutex_unlock(&f->mutex);
	return d != NULL;
}

uint64_t fake_halted_by(struct fake *f, const char *db)
{
	uint64_t id = 0;
	struct db *d;

	pthread_mutex_lock(&f->mutex);
	d = find_db(f, db, false);
	if (d) {
		expire(d);
		id = d->halt_id;
	}
	pthread_mutex_unlock(&f->mutex);
	return id;
}

void fake_expire_halt(struct fake *f, const char *db)
{
	pthread_mutex_lock(&f->mutex);
	find_db(f, db, true)->halt_id = 0;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
}

unsigned fake_granted(struct fake *f)
{
	return ask(f, &f->granted);
}

unsigned fake_expired(struct fake *f)
{
	unsigned n = 0;

	pthread_mutex_lock(&f->mutex);
	for (struct db *d = f->dbs; d; d = d->next) {
		expire(d);
		n += d->expired;
	}
	pthread_mutex_unlock(&f->mutex);
	return n;
}

unsigned fake_unhalted_tx(struct fake *f)
{
	return ask(f, &f->unhalted_tx);
}

void fake_set_locks(struct fake *f, const char *db, const char *shared, const char *dms)
{
	struct db *d;

	pthread_mutex_lock(&f->mutex);
	d = find_db(f, db, true);
	d->shared = shared;
	d->dms = dms;
	pthread_mutex_unlock(&f->mutex);
}

void fake_set_rate(struct fake *f, unsigned bytes_per_s)
{
	pthread_mutex_lock(&f->mutex);
	f->rate = bytes_per_s;
	pthread_mutex_unlock(&f->mutex);
}

void fake_lock(struct fake *f, const char *db, bool locked)
{
	pthread_mutex_lock(&f->mutex);
	find_db(f, db, true)->locked = locked;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
}

void fake_on_tx(struct fake *f, void (*applied)(void *ctx, const char *db, const uint8_t *ltx, size_t len), void *ctx)
{
	pthread_mutex_lock(&f->mutex);
	f->applied = applied;
	f->applied_ctx = ctx;
	pthread_mutex_unlock(&f->mutex);
}

unsigned fake_count(struct fake *f, enum fake_verb verb)
{
	return ask(f, &f->counts[verb]);
}

unsigned fake_bodies(struct fake *f, enum fake_verb verb)
{
	return ask(f, &f->bodies[verb]);
}

unsigned fake_connections(struct fake *f)
{
	return ask(f, &f->accepted);
}

unsigned fake_open(struct fake *f)
{
	return ask(f, &f->open);
}

unsigned fake_resets(struct fake *f)
{
	return ask(f, &f->resets);
}

static bool wait_for(struct fake *f, const unsigned *value, unsigned n, bool exactly)
{
	int64_t until = clock_now_ns() + 10 * NS_PER_S;
	bool ok;

	pthread_mutex_lock(&f->mutex);
	while (!(ok = exactly ? *value == n : *value >= n) &&
	       clock_cond_wait_until(&f->changed, &f->mutex, until) != -ETIMEDOUT)
		;
	pthread_mutex_unlock(&f->mutex);
	return ok;
}

bool fake_wait_count(struct fake *f, enum fake_verb verb, unsigned n)
{
	return wait_for(f, &f->counts[verb], n, false);
}

bool fake_wait_open(struct fake *f, unsigned n)
{
	return wait_for(f, &f->open, n, true);
}

void fake_last_request(struct fake *f, enum fake_verb verb, char *ret, size_t size)
{
	pthread_mutex_lock(&f->mutex);
	snprintf(ret, size, "%s", f->last[verb]);
	pthread_mutex_unlock(&f->mutex);
}

uint8_t *fake_last_tx(struct fake *f, size_t *ret_len)
{
	uint8_t *copy = NULL;

	pthread_mutex_lock(&f->mutex);
	if (f->last_tx) {
		copy = malloc(f->last_tx_len + 1);
		MUST(copy);
		memcpy(copy, f->last_tx, f->last_tx_len);
		*ret_len = f->last_tx_len;
	}
	pthread_mutex_unlock(&f->mutex);
	return copy;
}
