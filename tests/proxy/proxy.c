/*
 * proxy: a TCP proxy that delays and misbehaves on demand. For tests and benchmarks only.
 *
 *	proxy [--delay-ms N] [--control PATH] LISTEN_HOST:PORT TARGET_HOST:PORT
 *
 * IPv4. LISTEN port 0: the kernel chooses. Prints "listening PORT\n" once it accepts
 * connections and the control socket exists. Ends on SIGTERM or SIGINT; exit 0, 1 failed, 2 usage.
 *
 * Delay: every byte is passed on N/2 ms after it was read, in order, in each direction; so a
 * round trip grows by N ms. A new connection is accepted at once (the kernel does that), but
 * what the client sends is held back for N ms more, as if the handshake had crossed the network:
 * an HTTP request on a fresh connection costs 2 N, on a kept one N. FIN travels behind the
 * data. So does a reset, except that it takes the place of bytes that a fault holds back: those
 * stand for what the network had not delivered, and a sender that resets does not send them again.
 *
 * Control: PATH is a UNIX stream socket, one command per line. A command is in force when its
 * answer, "ok\n" or "error WHY\n", has been written. Faults add up until "pass".
 *
 *	pass                  no more faults: what is held is released, rules are forgotten; delay stays
 *	delay N               from now on
 *	drop-connections      reset all connections now; what was on the way is lost
 *	blackhole on|off      accept and swallow, also FIN and resets; what lost something stays dead after "off", until "pass" resets it
 *	refuse on|off         new connections are refused by the kernel (ECONNREFUSED)
 *	hold-after BYTES      pass only so many more bytes to the server on each connection, old and new
 *	release               ends hold-after, and what stall-body stalls
 *	hold-answer on|off    requests go through, answers wait
 *	lose-answer METHOD PREFIX COUNT         when the server's answer begins: discard it, reset the client
 *	reset-after-header METHOD PREFIX COUNT  pass the head and 100 bytes of the body (the LTX header), then reset both
 *	stall-body METHOD PREFIX COUNT          pass the head and 100 bytes of the body, stall until "release"
 *	counts                answers "counts KEY=N ...\n" before its "ok": how often each fault really took effect
 *
 * The last three hit the next COUNT requests whose method is METHOD and whose target begins with
 * PREFIX; the two about bodies only requests whose body is longer than 100 bytes. The first rule
 * that fits is used. A connection that is not HTTP/1, or has sent a chunked body, is not looked into any further.
 *
 * Counted: per connection for drop-connections, blackhole, hold-after; per answer for hold-answer; per request
 * for the rules; per SYN for refuse (needs CAP_NET_RAW, else "refuse=unknown"). Besides: connections
 * accepted, target-failed (could not connect to the target).
 *
 * One thread; at most 4 MiB wait per direction and connection, then the sender is no longer read.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS INT64_C(1000000)
#define PIPE_MAX ((size_t)4 << 20)
#define READ_MAX 65536
#define HEAD_MAX 8192
#define LINE_MAX_LEN 512
#define RULES_MAX 16
#define BODY_PASSED 100 /* an LTX header */
#define RESET_LAG_NS (10 * NS_PER_MS) /* so that the server reads what came before the reset */
#define NO_BARRIER UINT64_MAX

enum fault {
	F_DROP,
	F_BLACKHOLE,
	F_REFUSE,
	F_HOLD_AFTER,
	F_HOLD_ANSWER,
	F_LOSE_ANSWER,
	F_RESET_AFTER_HEADER,
	F_STALL_BODY,
	F_CONNECTIONS,
	F_TARGET_FAILED,
	F_N
};
static const char *const fault_names[F_N] = {
	"drop-connections",   "blackhole",  "refuse",	   "hold-after",    "hold-answer", "lose-answer",
	"reset-after-header", "stall-body", "connections", "target-failed",
};
static unsigned long counts[F_N];

/* Something in the epoll set. */
struct watch {
	int fd;
	uint32_t events; /* asked for; 0: not in the set */
	void (*ready)(struct watch *w);
	void *owner;
	bool dead; /* fd closed; freed after the batch of events it may still be in */
};

struct chunk {
	struct chunk *next;
	int64_t due_ns;
	enum { DATA, FIN, RST } kind;
	size_t off, len;
	uint8_t data[];
};

/* One direction: pipe[i] is read from side i and written to side 1 - i. */
struct pipe {
	struct chunk *head, **tail;
	size_t bytes;
	int64_t last_due_ns; /* a shorter delay must not overtake */
	uint64_t in_total, out_total;
	bool read_ended, rst_queued, fin_passed, discard, want_out;
};

enum side { CLIENT, SERVER };

struct http {
	enum { HEAD, BODY, OPAQUE } state;
	char head[HEAD_MAX];
	size_t head_len;
	uint64_t body_left;
};

struct conn {
	struct conn *next;
	struct watch side[2];
	struct pipe pipe[2];
	int64_t accepted_ns;
	bool connecting, black, answer_held, dead;
	bool lose_answer; /* the answer under way */
	uint64_t barrier; /* pipe[CLIENT] may pass this offset only after "release" */
	enum fault barrier_fault;
	bool barrier_hit;
	uint64_t reset_at; /* an offset of pipe[CLIENT] */
	struct http http;
};

struct rule {
	enum fault fault;
	char method[16], prefix[256];
	unsigned long left;
};

struct control {
	struct watch watch;
	char line[LINE_MAX_LEN];
	size_t len;
	struct control *next;
};

static int epoll_fd;
static struct conn *conns;
static struct control *controls;
static struct watch listener = {.fd = -1}, control_listener = {.fd = -1}, timer, signals, syn_watch = {.fd = -1};
static struct sockaddr_in listen_addr, target_addr;
static int64_t delay_ns;
static bool blackhole, refuse, hold_answer, stopping;
static uint64_t hold_after = NO_BARRIER;
static struct rule rules[RULES_MAX];
static size_t rules_n;

static void die(const char *what)
{
	fprintf(stderr, "proxy: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- epoll ---- */

static void watch_set(struct watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};
	int op = !w->events ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;

	if (events == w->events)
		return;
	if (epoll_ctl(epoll_fd, op, w->fd, &ev) < 0)
		die("epoll_ctl");
	w->events = events;
}

static void watch_close(struct watch *w)
{
	if (w->fd < 0)
		return;
	watch_set(w, 0);
	close(w->fd);
	w->fd = -1;
	w->dead = true;
}

/* ---- the two queues of a connection ---- */

static void pipe_put(struct pipe *p, int kind, const void *data, size_t len, int64_t due_ns)
{
	struct chunk *c = malloc(sizeof *c + len);

	if (!c)
		die("malloc");
	if (due_ns < p->last_due_ns)
		due_ns = p->last_due_ns;
	p->last_due_ns = due_ns;
	c->next = NULL;
	c->due_ns = due_ns;
	c->kind = kind;
	c->off = 0;
	c->len = len;
	if (len)
		memcpy(c->data, data, len);
	*p->tail = c;
	p->tail = &c->next;
	p->bytes += len;
	p->in_total += len;
}

static void pipe_pop(struct pipe *p)
{
	struct chunk *c = p->head;

	p->bytes -= c->len - c->off;
	p->head = c->next;
	if (!p->head)
		p->tail = &p->head;
	free(c);
}

static void pipe_clear(struct pipe *p)
{
	while (p->head)
		pipe_pop(p);
}

/* Drops what lies behind stream offset `keep`, and a FIN behind that. */
static void pipe_truncate(struct pipe *p, uint64_t keep)
{
	struct chunk **at = &p->head, *c;
	uint64_t offset = p->out_total;

	for (; (c = *at) && offset + (c->len - c->off) <= keep; at = &c->next)
		offset += c->len - c->off;
	if (c && offset < keep) {
		size_t fits = (size_t)(keep - offset);

		p->bytes -= c->len - c->off - fits;
		c->len = c->off + fits;
		at = &c->next;
	}
	while ((c = *at)) {
		*at = c->next;
		p->bytes -= c->len - c->off;
		free(c);
	}
	p->tail = at;
}

/* When something read now may be passed on. */
static int64_t due(const struct conn *c, enum side from)
{
	int64_t now = now_ns(), earliest = c->accepted_ns + delay_ns;

	return (from == CLIENT && now < earliest ? earliest : now) + delay_ns / 2;
}

static void conn_reset(struct conn *c)
{
	struct linger hard = {.l_onoff = 1, .l_linger = 0};

	for (int i = 0; i < 2; i++) {
		if (c->side[i].fd >= 0)
			setsockopt(c->side[i].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
		watch_close(&c->side[i]);
	}
	c->dead = true;
}

static void conn_close(struct conn *c)
{
	watch_close(&c->side[CLIENT]);
	watch_close(&c->side[SERVER]);
	c->dead = true;
}

/* Side `from` is gone the hard way. */
static void peer_reset(struct conn *c, enum side from)
{
	struct pipe *p = &c->pipe[from], *back = &c->pipe[1 - from];

	if (p->rst_queued)
		return;
	if (from == CLIENT)
		pipe_truncate(p, c->barrier < p->out_total ? p->out_total : c->barrier);
	else if (hold_answer)
		pipe_clear(p);
	p->read_ended = p->rst_queued = true;
	pipe_put(p, RST, NULL, 0, due(c, from));
	pipe_clear(back);
	back->discard = true;
}

/* ---- HTTP requests, as far as the rules need ---- */

static const char *header_value(const char *head, const char *name)
{
	size_t n = strlen(name);

	for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
		if (!strncasecmp(line + 2, name, n) && line[2 + n] == ':')
			return line + 3 + n;
	return NULL;
}

static struct rule *match(const char *method, const char *target, uint64_t body)
{
	for (size_t i = 0; i < rules_n; i++) {
		struct rule *r = &rules[i];

		if (!r->left || strcmp(r->method, method) || strncmp(r->prefix, target, strlen(r->prefix)))
			continue;
		if (r->fault != F_LOSE_ANSWER && body <= BODY_PASSED)
			continue;
		return r;
	}
	return NULL;
}

/* body_at: the stream offset of the body's first byte. */
static void request_seen(struct conn *c, uint64_t body_at)
{
	struct http *h = &c->http;
	char method[16], target[1024];
	const char *length, *encoding;
	uint64_t body;
	struct rule *r;

	c->lose_answer = false;
	if (sscanf(h->head, "%15s %1023s HTTP/1.", method, target) != 2 || !strstr(h->head, " HTTP/1.")) {
		h->state = OPAQUE;
		return;
	}
	length = header_value(h->head, "content-length");
	encoding = header_value(h->head, "transfer-encoding");
	body = encoding ? UINT64_MAX : length ? strtoull(length, NULL, 10) : 0;
	h->state = encoding ? OPAQUE : body ? BODY : HEAD;
	h->body_left = body;
	h->head_len = 0;
	r = match(method, target, body);
	if (!r)
		return;
	r->left--;
	if (r->fault == F_LOSE_ANSWER) {
		c->lose_answer = true;
	} else if (r->fault == F_RESET_AFTER_HEADER) {
		c->reset_at = body_at + BODY_PASSED;
	} else if (body_at + BODY_PASSED < c->barrier) {
		c->barrier = body_at + BODY_PASSED;
		c->barrier_fault = F_STALL_BODY;
		c->barrier_hit = false;
	}
}

static void http_feed(struct conn *c, const uint8_t *data, size_t len)
{
	struct http *h = &c->http;
	uint64_t offset = c->pipe[CLIENT].in_total;

	for (size_t i = 0; i < len && h->state != OPAQUE;) {
		if (h->state == BODY) {
			size_t n = h->body_left < len - i ? (size_t)h->body_left : len - i;

			i += n;
			h->body_left -= n;
			if (!h->body_left)
				h->state = HEAD;
			continue;
		}
		if (h->head_len == HEAD_MAX - 1) {
			h->state = OPAQUE;
			break;
		}
		h->head[h->head_len++] = (char)data[i++];
		if (h->head_len >= 4 && !memcmp(h->head + h->head_len - 4, "\r\n\r\n", 4)) {
			h->head[h->head_len] = 0;
			request_seen(c, offset + i);
		}
	}
}

/* ---- bytes in ---- */

static bool swallow(struct conn *c)
{
	if (blackhole && !c->black) {
		c->black = true;
		counts[F_BLACKHOLE]++;
		pipe_clear(&c->pipe[CLIENT]);
		pipe_clear(&c->pipe[SERVER]);
	}
	return c->black;
}

static void lose(struct conn *c)
{
	struct pipe *p = &c->pipe[SERVER];

	c->lose_answer = false;
	counts[F_LOSE_ANSWER]++;
	p->read_ended = p->rst_queued = true;
	pipe_put(p, RST, NULL, 0, due(c, SERVER));
}

static void data_read(struct conn *c, enum side from, const uint8_t *data, size_t len)
{
	struct pipe *p = &c->pipe[from];

	if (swallow(c) || p->discard)
		return;
	if (from == SERVER && c->lose_answer) {
		lose(c);
		return;
	}
	if (from == CLIENT)
		http_feed(c, data, len);
	pipe_put(p, DATA, data, len, due(c, from));
}

static void side_read(struct conn *c, enum side from)
{
	static uint8_t buf[READ_MAX];
	struct pipe *p = &c->pipe[from];
	ssize_t n = read(c->side[from].fd, buf, sizeof buf);

	if (n > 0) {
		data_read(c, from, buf, (size_t)n);
	} else if (n == 0) {
		p->read_ended = true;
		if (!swallow(c))
			pipe_put(p, FIN, NULL, 0, due(c, from));
	} else if (errno != EAGAIN && errno != EINTR) {
		p->read_ended = true;
		if (!swallow(c))
			peer_reset(c, from);
	}
	/* the other side must not hear of it */
	if (c->black && p->read_ended)
		watch_close(&c->side[from]);
	if (c->side[CLIENT].fd < 0 && c->side[SERVER].fd < 0)
		c->dead = true;
}

/* ---- bytes out ---- */

/* How much of pipe[CLIENT] may go on; 0: stopped by a fault, which is counted once. */
static uint64_t allowed_to_server(struct conn *c)
{
	struct pipe *p = &c->pipe[CLIENT];
	uint64_t stop = c->barrier < c->reset_at ? c->barrier : c->reset_at;

	if (p->out_total < stop)
		return stop - p->out_total;
	if (stop == c->barrier && !c->barrier_hit) {
		c->barrier_hit = true;
		counts[c->barrier_fault]++;
	}
	return 0;
}

static bool allowed_to_client(struct conn *c)
{
	if (hold_answer && !c->answer_held) {
		c->answer_held = true;
		counts[F_HOLD_ANSWER]++;
	}
	return !hold_answer;
}

/* The bytes before the reset have left; the reset follows a little later. */
static void reset_after_header(struct conn *c)
{
	struct pipe *p = &c->pipe[CLIENT];

	counts[F_RESET_AFTER_HEADER]++;
	c->reset_at = NO_BARRIER;
	pipe_clear(p);
	p->read_ended = p->rst_queued = true;
	p->last_due_ns = 0;
	pipe_put(p, RST, NULL, 0, now_ns() + RESET_LAG_NS);
}

/* One chunk or what the socket takes of it. True: go on. */
static bool pass_data(struct conn *c, enum side from, struct chunk *chunk)
{
	struct pipe *p = &c->pipe[from];
	uint64_t limit = from == CLIENT ? allowed_to_server(c) : allowed_to_client(c) ? UINT64_MAX : 0;
	size_t len = chunk->len - chunk->off;
	ssize_t n;

	if (limit == 0)
		return false;
	n = send(c->side[1 - from].fd, chunk->data + chunk->off, len < limit ? len : (size_t)limit, MSG_NOSIGNAL);
	if (n < 0) {
		p->want_out = errno == EAGAIN;
		if (errno != EAGAIN && errno != EINTR)
			peer_reset(c, 1 - from);
		return false;
	}
	chunk->off += (size_t)n;
	p->bytes -= (size_t)n;
	p->out_total += (uint64_t)n;
	if (chunk->off == chunk->len)
		pipe_pop(p);
	if (from == CLIENT && p->out_total == c->reset_at) {
		reset_after_header(c);
		return false;
	}
	return true;
}

static void pipe_flush(struct conn *c, enum side from, int64_t now)
{
	struct pipe *p = &c->pipe[from];
	struct chunk *chunk;

	p->want_out = false;
	if (p->head && swallow(c))
		return;
	while (!c->dead && (chunk = p->head) && chunk->due_ns <= now) {
		if (chunk->kind == RST) {
			conn_reset(c);
		} else if (c->connecting && from == CLIENT) {
			return;
		} else if (chunk->kind == DATA) {
			if (!pass_data(c, from, chunk))
				return;
		} else {
			if (from == SERVER && !allowed_to_client(c))
				return;
			shutdown(c->side[1 - from].fd, SHUT_WR);
			p->fin_passed = true;
			pipe_pop(p);
			if (c->pipe[1 - from].fin_passed)
				conn_close(c);
		}
	}
	if (!c->dead && from == SERVER && !p->head)
		c->answer_held = false;
}

static void conn_events(struct conn *c)
{
	for (int i = 0; i < 2; i++) {
		struct pipe *in = &c->pipe[i], *out = &c->pipe[1 - i];
		uint32_t events = 0;

		if (c->side[i].fd < 0)
			continue;
		if (!in->read_ended && in->bytes < PIPE_MAX && !(i == SERVER && c->connecting))
			events |= EPOLLIN;
		if (out->want_out || (i == SERVER && c->connecting))
			events |= EPOLLOUT;
		watch_set(&c->side[i], events);
	}
}

/* ---- connections ---- */

static void connect_done(struct conn *c, int err)
{
	c->connecting = false;
	if (!err)
		return;
	counts[F_TARGET_FAILED]++;
	c->pipe[SERVER].read_ended = c->pipe[SERVER].rst_queued = true;
	pipe_put(&c->pipe[SERVER], RST, NULL, 0, c->accepted_ns + delay_ns);
	pipe_clear(&c->pipe[CLIENT]);
	c->pipe[CLIENT].discard = true;
}

static int socket_error(int fd)
{
	int err = 0;
	socklen_t len = sizeof err;

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	return err;
}

static void side_ready(struct watch *w)
{
	struct conn *c = w->owner;
	enum side side = w == &c->side[SERVER] ? SERVER : CLIENT;

	if (c->dead)
		return;
	if (side == SERVER && c->connecting)
		connect_done(c, socket_error(w->fd));
	else if (!c->pipe[side].read_ended)
		side_read(c, side);
}

static int tcp_socket(void)
{
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static void conn_new(int fd)
{
	struct conn *c = calloc(1, sizeof *c);
	int one = 1;

	if (!c)
		die("calloc");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	counts[F_CONNECTIONS]++;
	for (int i = 0; i < 2; i++) {
		c->side[i] = (struct watch){.fd = -1, .ready = side_ready, .owner = c};
		c->pipe[i].tail = &c->pipe[i].head;
	}
	c->side[CLIENT].fd = fd;
	c->accepted_ns = now_ns();
	c->barrier = hold_after;
	c->barrier_fault = F_HOLD_AFTER;
	c->reset_at = NO_BARRIER;
	c->next = conns;
	conns = c;
	if (swallow(c))
		return;
	c->side[SERVER].fd = tcp_socket();
	c->connecting = true;
	if (connect(c->side[SERVER].fd, (struct sockaddr *)&target_addr, sizeof target_addr) == 0)
		connect_done(c, 0);
	else if (errno != EINPROGRESS)
		connect_done(c, errno);
}

static void listener_ready(struct watch *w)
{
	int fd;

	while ((fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0)
		conn_new(fd);
}

static void reap(void)
{
	struct conn **at = &conns;
	struct control **ctl = &controls;

	while (*at) {
		struct conn *c = *at;

		if (!c->dead) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		pipe_clear(&c->pipe[CLIENT]);
		pipe_clear(&c->pipe[SERVER]);
		free(c);
	}
	while (*ctl) {
		struct control *k = *ctl;

		if (k->watch.fd >= 0) {
			ctl = &k->next;
			continue;
		}
		*ctl = k->next;
		free(k);
	}
}

/* ---- refusing ---- */

static void listen_again(void)
{
	int one = 1, fd = tcp_socket();

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&listen_addr, sizeof listen_addr) < 0 || listen(fd, 128) < 0)
		die("listen");
	listener = (struct watch){.fd = fd, .ready = listener_ready};
	watch_set(&listener, EPOLLIN);
}

/* Bound and never listening: keeps the port ours while connections are refused. */
static void reserve_port(void)
{
	socklen_t len = sizeof listen_addr;
	int one = 1, fd = tcp_socket();

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&listen_addr, sizeof listen_addr) < 0)
		die("bind");
	if (getsockname(fd, (struct sockaddr *)&listen_addr, &len) < 0)
		die("getsockname");
}

static void syn_ready(struct watch *w)
{
	char buf[128];

	while (refuse && recv(w->fd, buf, sizeof buf, MSG_DONTWAIT | MSG_TRUNC) > 0)
		counts[F_REFUSE]++;
}

/* The kernel refuses without telling us, but shows the SYN to a raw socket. */
static void count_syns(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), /* X: length of the IP header */
		BPF_STMT(BPF_LD | BPF_H | BPF_IND, 2), /* destination port */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohs(listen_addr.sin_port), 0, 4),
		BPF_STMT(BPF_LD | BPF_B | BPF_IND, 13), /* TCP flags */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12), /* SYN, ACK */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 64),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	char buf[128];
	struct sock_fprog prog = {.len = sizeof code / sizeof code[0], .filter = code};
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);

	if (fd < 0)
		return;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog) < 0)
		die("SO_ATTACH_FILTER");
	while (recv(fd, buf, sizeof buf, MSG_DONTWAIT | MSG_TRUNC) > 0)
		; /* came before the filter */
	syn_watch = (struct watch){.fd = fd, .ready = syn_ready};
	watch_set(&syn_watch, EPOLLIN);
}

static void set_refuse(bool on)
{
	if (on == refuse)
		return;
	if (on) {
		/* those whom the kernel has accepted already are ours */
		listener_ready(&listener);
		watch_close(&listener);
		refuse = true;
		count_syns();
	} else {
		syn_ready(&syn_watch);
		watch_close(&syn_watch);
		refuse = false;
		listen_again();
	}
}

/* ---- control ---- */

static void release(void)
{
	hold_after = NO_BARRIER;
	for (struct conn *c = conns; c; c = c->next)
		c->barrier = NO_BARRIER;
}

static void set_hold_after(uint64_t bytes)
{
	hold_after = bytes;
	for (struct conn *c = conns; c; c = c->next) {
		uint64_t barrier = c->pipe[CLIENT].in_total + bytes;

		if (c->barrier_fault == F_HOLD_AFTER || barrier < c->barrier) {
			c->barrier = barrier;
			c->barrier_fault = F_HOLD_AFTER;
			c->barrier_hit = false;
		}
	}
}

static void drop_connections(void)
{
	for (struct conn *c = conns; c; c = c->next)
		if (!c->dead) {
			counts[F_DROP]++;
			conn_reset(c);
		}
}

static void pass(void)
{
	release();
	set_refuse(false);
	blackhole = hold_answer = false;
	rules_n = 0;
	for (struct conn *c = conns; c; c = c->next) {
		c->lose_answer = false;
		c->reset_at = NO_BARRIER;
		if (c->black)
			conn_reset(c); /* both sides may know now */
	}
}

static void answer(struct control *k, const char *text)
{
	/* a reader that does not read its few answers is a broken test */
	if (send(k->watch.fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
		fprintf(stderr, "proxy: control answer lost\n");
}

static void answer_counts(struct control *k)
{
	char text[1024] = "counts";
	size_t len = strlen(text);

	if (refuse)
		syn_ready(&syn_watch);
	for (int i = 0; i < F_N; i++) {
		if (i == F_REFUSE && refuse && syn_watch.fd < 0)
			len += (size_t)snprintf(text + len, sizeof text - len, " %s=unknown", fault_names[i]);
		else
			len += (size_t)snprintf(text + len, sizeof text - len, " %s=%lu", fault_names[i], counts[i]);
	}
	strcat(text, "\n");
	answer(k, text);
}

static bool parse_number(const char *word, uint64_t max, uint64_t *ret)
{
	char *end;
	unsigned long long v;

	if (*word < '0' || *word > '9')
		return false;
	errno = 0;
	v = strtoull(word, &end, 10);
	if (errno || *end || v > max)
		return false;
	*ret = v;
	return true;
}

static const char *add_rule(char **words, int n)
{
	struct rule r = {0};
	uint64_t count;

	for (r.fault = F_LOSE_ANSWER; strcmp(fault_names[r.fault], words[0]); r.fault++)
		;
	if (n != 4 || !parse_number(words[3], ULONG_MAX, &count) || strlen(words[1]) >= sizeof r.method ||
	    strlen(words[2]) >= sizeof r.prefix)
		return "want METHOD PREFIX COUNT";
	if (rules_n == RULES_MAX)
		return "too many rules";
	strcpy(r.method, words[1]);
	strcpy(r.prefix, words[2]);
	r.left = count;
	rules[rules_n++] = r;
	return NULL;
}

static const char *set_switch(char **words, int n)
{
	bool on;

	if (n != 2 || (strcmp(words[1], "on") && strcmp(words[1], "off")))
		return "want on or off";
	on = !strcmp(words[1], "on");
	if (!strcmp(words[0], "blackhole"))
		blackhole = on;
	else if (!strcmp(words[0], "refuse"))
		set_refuse(on);
	else
		hold_answer = on;
	return NULL;
}

static const char *set_number(char **words, int n)
{
	bool is_delay = !strcmp(words[0], "delay");
	uint64_t v;

	if (n != 2 || !parse_number(words[1], is_delay ? 3600000 : INT64_MAX, &v))
		return "want a number";
	if (is_delay)
		delay_ns = (int64_t)v * NS_PER_MS;
	else
		set_hold_after(v);
	return NULL;
}

static bool one_of(const char *word, const char *a, const char *b, const char *c)
{
	return !strcmp(word, a) || !strcmp(word, b) || (c && !strcmp(word, c));
}

/* NULL: done. */
static const char *command(struct control *k, char *line)
{
	char *words[5], *rest = NULL;
	int n = 0;

	for (char *w = strtok_r(line, " \t\r", &rest); w && n < 5; w = strtok_r(NULL, " \t\r", &rest))
		words[n++] = w;
	if (n == 0)
		return "empty";
	if (one_of(words[0], "delay", "hold-after", NULL))
		return set_number(words, n);
	if (one_of(words[0], "blackhole", "refuse", "hold-answer"))
		return set_switch(words, n);
	if (one_of(words[0], "lose-answer", "reset-after-header", "stall-body"))
		return add_rule(words, n);
	if (n != 1)
		return "no such command";
	if (!strcmp(words[0], "pass"))
		pass();
	else if (!strcmp(words[0], "release"))
		release();
	else if (!strcmp(words[0], "drop-connections"))
		drop_connections();
	else if (!strcmp(words[0], "counts"))
		answer_counts(k);
	else
		return "no such command";
	return NULL;
}

static void control_ready(struct watch *w)
{
	struct control *k = w->owner;
	ssize_t n = recv(w->fd, k->line + k->len, sizeof k->line - k->len, 0);
	char *end;

	if (n <= 0) {
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			watch_close(w);
		return;
	}
	k->len += (size_t)n;
	while ((end = memchr(k->line, '\n', k->len))) {
		size_t used = (size_t)(end + 1 - k->line);
		const char *why;
		char text[100];

		*end = 0;
		why = command(k, k->line);
		snprintf(text, sizeof text, why ? "error %s\n" : "ok\n", why);
		answer(k, text);
		memmove(k->line, k->line + used, k->len - used);
		k->len -= used;
	}
	if (k->len == sizeof k->line)
		watch_close(w);
}

static void control_listener_ready(struct watch *w)
{
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct control *k;

	if (fd < 0)
		return;
	k = calloc(1, sizeof *k);
	if (!k)
		die("calloc");
	k->watch = (struct watch){.fd = fd, .ready = control_ready, .owner = k};
	k->next = controls;
	controls = k;
	watch_set(&k->watch, EPOLLIN);
}

static void control_listen(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof addr.sun_path) {
		errno = ENAMETOOLONG;
		die(path);
	}
	strcpy(addr.sun_path, path);
	unlink(path);
	umask(077);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 16) < 0)
		die(path);
	control_listener = (struct watch){.fd = fd, .ready = control_listener_ready};
	watch_set(&control_listener, EPOLLIN);
}

/* ---- the loop ---- */

static void timer_ready(struct watch *w)
{
	uint64_t n;

	if (read(w->fd, &n, sizeof n) < 0 && errno != EAGAIN)
		die("timer");
}

static void signals_ready(struct watch *w)
{
	(void)w;
	stopping = true;
}

/* For the next chunk that only waits for its time. */
static void timer_arm(int64_t now)
{
	struct itimerspec at = {0};
	int64_t next = INT64_MAX;

	for (struct conn *c = conns; c; c = c->next)
		for (int i = 0; i < 2; i++) {
			struct chunk *chunk = c->pipe[i].head;

			if (!c->dead && chunk && chunk->due_ns > now && chunk->due_ns < next)
				next = chunk->due_ns;
		}
	if (next != INT64_MAX) {
		at.it_value.tv_sec = (time_t)(next / 1000000000);
		at.it_value.tv_nsec = (long)(next % 1000000000);
	}
	timerfd_settime(timer.fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void run(void)
{
	while (!stopping) {
		struct epoll_event events[64];
		int64_t now;
		int n = epoll_wait(epoll_fd, events, 64, -1);

		if (n < 0 && errno != EINTR)
			die("epoll_wait");
		for (int i = 0; i < n; i++) {
			struct watch *w = events[i].data.ptr;

			if (!w->dead)
				w->ready(w);
		}
		now = now_ns();
		for (struct conn *c = conns; c; c = c->next) {
			pipe_flush(c, CLIENT, now);
			pipe_flush(c, SERVER, now);
			if (!c->dead)
				conn_events(c);
		}
		reap();
		timer_arm(now);
	}
}

static struct sockaddr_in resolve(const char *text)
{
	const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
	const char *colon = strrchr(text, ':');
	struct addrinfo *found;
	struct sockaddr_in addr;
	char host[256];

	if (!colon || colon == text || (size_t)(colon - text) >= sizeof host) {
		fprintf(stderr, "proxy: want HOST:PORT, not '%s'\n", text);
		exit(2);
	}
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	if (getaddrinfo(host, colon + 1, &hints, &found)) {
		fprintf(stderr, "proxy: cannot resolve '%s'\n", text);
		exit(2);
	}
	memcpy(&addr, found->ai_addr, sizeof addr);
	freeaddrinfo(found);
	return addr;
}

static void usage(void)
{
	fprintf(stderr, "usage: proxy [--delay-ms N] [--control PATH] LISTEN_HOST:PORT TARGET_HOST:PORT\n");
	exit(2);
}

static void signals_open(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signals = (struct watch){.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .ready = signals_ready};
	if (signals.fd < 0)
		die("signalfd");
	watch_set(&signals, EPOLLIN);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"delay-ms", required_argument, NULL, 'd'},
		{"control", required_argument, NULL, 'c'},
		{0},
	};
	const char *control_path = NULL;
	uint64_t v;
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (opt == 'd' && parse_number(optarg, 3600000, &v))
			delay_ns = (int64_t)v * NS_PER_MS;
		else if (opt == 'c')
			control_path = optarg;
		else
			usage();
	}
	if (argc - optind != 2)
		usage();
	listen_addr = resolve(argv[optind]);
	target_addr = resolve(argv[optind + 1]);
	prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	timer = (struct watch){.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), .ready = timer_ready};
	if (epoll_fd < 0 || timer.fd < 0)
		die("epoll");
	watch_set(&timer, EPOLLIN);
	signals_open();
	reserve_port();
	listen_again();
	if (control_path)
		control_listen(control_path);
	printf("listening %d\n", ntohs(listen_addr.sin_port));
	fflush(stdout);
	run();
	if (control_path)
		unlink(control_path);
	return 0;
}
