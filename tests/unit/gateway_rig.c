#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "format/ltx.h"
#include "gateway_rig.h"

#define LONG_NS (20 * NS_PER_S) /* a bound that no passing test reaches */

/* In place of src/litefs/role.c: the gateway asks nothing else of it. */
void role_get(struct role *role, struct role_state *ret)
{
	*ret = role->state;
}

/* ---- the database ---- */

static int fake_begin(struct db *db, uint64_t id, uint64_t peer, int64_t until_ns, struct db_gw_call *call)
{
	int ret;

	pthread_mutex_lock(&db->mutex);
	db->begins++;
	db->id = id;
	db->peer = peer;
	db->until_ns = until_ns;
	call->pos = db->pos;
	call->waiting = 3;
	ret = db->begin_result;
	if (ret == DB_PARKED) {
		db->begin_call = call;
		db->begin_id = id;
	}
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mutex);
	return ret;
}

static int fake_commit(struct db *db, uint64_t id, struct spool *ltx, struct db_gw_call *call)
{
	int ret;

	pthread_mutex_lock(&db->mutex);
	db->commits++;
	db->id = id;
	free(db->got);
	db->got_len = ltx->size;
	db->got = malloc(db->got_len + 1);
	assert_int_equal(spool_read(ltx, 0, db->got, db->got_len), db->got_len);
	call->pos = (struct pos){db->pos.txid + 1, SUM(db->pos.txid + 1)};
	call->unknown = db->unknown;
	call->yield = db->yield;
	ret = db->commit_result;
	if (ret == DB_PARKED)
		db->commit_call = call;
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mutex);
	return ret;
}

static void fake_end(struct db *db, uint64_t id)
{
	struct db_gw_call *call;

	pthread_mutex_lock(&db->mutex);
	db->ends++;
	db->id = id;
	call = db->begin_id == id ? db->begin_call : NULL;
	if (call) {
		db->begin_call = NULL;
		call->call.done(&call->call, -ECANCELED);
	}
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mutex);
}

static void fake_shorten(struct db *db, uint64_t id, int64_t grace_ms)
{
	pthread_mutex_lock(&db->mutex);
	db->shortens++;
	db->id = id;
	db->grace_ms = grace_ms;
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mutex);
}

static void ltx_path(const struct db *db, uint64_t txid, char ret[120])
{
	snprintf(ret, 120, "%s/%016llx.ltx", db->dir, (unsigned long long)txid);
}

static int fake_ltx_open(struct db *db, uint64_t txid)
{
	char path[120];
	int fd;

	ltx_path(db, txid, path);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void fake_extend(struct db *db, uint64_t id)
{
	pthread_mutex_lock(&db->mutex);
	db->extends++;
	db->id = id;
	pthread_cond_broadcast(&db->changed);
	pthread_mutex_unlock(&db->mutex);
}

static const struct gateway_db_ops fake_ops = {fake_begin, fake_commit, fake_end, fake_shorten, fake_extend, fake_ltx_open};

static int get_db(void *ctx, const char *name, struct db **ret)
{
	struct rig *rig = ctx;

	__atomic_add_fetch(&rig->gets, 1, __ATOMIC_SEQ_CST);
	if (rig->get_result)
		return rig->get_result;
	if (strcmp(name, RIG_NAME) != 0)
		return -ENOENT;
	*ret = &rig->db;
	return 0;
}

/* Open already, or only known to who may block. */
static int find_db(void *ctx, const char *name, struct db **ret)
{
	struct rig *rig = ctx;

	if (!rig->is_open || strcmp(name, RIG_NAME) != 0)
		return -EAGAIN;
	__atomic_add_fetch(&rig->finds, 1, __ATOMIC_SEQ_CST);
	*ret = &rig->db;
	return 0;
}

static void put_db(void *ctx, struct db *db)
{
	struct rig *rig = ctx;

	assert_ptr_equal(db, &rig->db);
	__atomic_add_fetch(&rig->puts, 1, __ATOMIC_SEQ_CST);
}

void rig_wait(struct rig *rig, const unsigned *counter, unsigned n)
{
	int64_t until_ns = clock_now_ns() + LONG_NS;

	pthread_mutex_lock(&rig->db.mutex);
	while (*counter < n)
		assert_int_equal(clock_cond_wait_until(&rig->db.changed, &rig->db.mutex, until_ns), 0);
	pthread_mutex_unlock(&rig->db.mutex);
}

static void release(struct rig *rig, struct db_gw_call **which, int result)
{
	struct db_gw_call *call;

	pthread_mutex_lock(&rig->db.mutex);
	call = *which;
	*which = NULL;
	assert_non_null(call);
	call->call.done(&call->call, result);
	pthread_mutex_unlock(&rig->db.mutex);
}

void rig_release_begin(struct rig *rig, int result)
{
	release(rig, &rig->db.begin_call, result);
}

void rig_release_commit(struct rig *rig, int result)
{
	release(rig, &rig->db.commit_call, result);
}

static int to_fd(void *ctx, const void *data, size_t len)
{
	return write(*(int *)ctx, data, len) == (ssize_t)len ? 0 : -EIO;
}

/* One that leads from pre_apply to SUM(txid). */
void rig_make_ltx(struct rig *rig, uint64_t txid, uint64_t pre_apply, uint32_t pages)
{
	struct ltx_header header = {.page_size = 4096, .commit = pages, .min_txid = txid, .max_txid = txid, .pre_apply = pre_apply};
	struct ltx_trailer trailer;
	struct ltx_encoder enc;
	uint8_t page[4096] = {7};
	char path[120];
	int fd;

	ltx_path(&rig->db, txid, path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ltx_encoder_init(&enc, &header, to_fd, &fd), 0);
	for (uint32_t i = 1; i <= pages; i++)
		assert_int_equal(ltx_encoder_page(&enc, i, page), 0);
	assert_int_equal(ltx_encoder_finish(&enc, SUM(txid), &trailer), 0);
	ltx_encoder_fini(&enc);
	close(fd);
}

/* ---- life ---- */

struct rig *rig_new(void)
{
	struct rig *rig = calloc(1, sizeof *rig);

	signal(SIGPIPE, SIG_IGN);
	pthread_mutex_init(&rig->db.mutex, NULL);
	clock_cond_init(&rig->db.changed);
	strcpy(rig->db.dir, "/tmp/test-gateway-XXXXXX");
	assert_non_null(mkdtemp(rig->db.dir));
	rig->db.pos = (struct pos){10, SUM(10)};
	rig->role.state.kind = ROLE_PRIMARY;
	strcpy(rig->role.state.cluster_id, RIG_CLUSTER);
	rig->settings = (struct settings){.gateway = (char *)"127.0.0.1:0", .spool_dir = rig->db.dir, .spool_threshold = 4096};
	rig->limits = gateway_limits_default;
	return rig;
}

void rig_start(struct rig *rig)
{
	struct gateway_config config = {
		.settings = &rig->settings, .role = &rig->role, .node_id = RIG_NODE, .db_get = get_db, .db_find = find_db,
		.db_put = put_db, .ctx = rig};

	assert_int_equal(gateway_start_with(&config, &fake_ops, &rig->limits, &rig->gw), 0);
	rig->port = atoi(strrchr(gateway_address(rig->gw), ':') + 1);
}

void rig_start_with_secret(struct rig *rig)
{
	static const char key[] = "correct horse battery staple\n";
	struct gw_info info;
	struct answer a;
	int fd;

	snprintf(rig->secret_path, sizeof rig->secret_path, "%s/secret", rig->db.dir);
	fd = open(rig->secret_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, key, sizeof key - 1), sizeof key - 1);
	close(fd);
	rig->settings.gateway_secret = rig->secret_path;
	rig_start(rig);
	fd = rig_connect(rig);
	a = rig_call(rig, fd, "GET", "/info", NULL, 0);
	assert_int_equal(gw_get_info(a.body, a.len, &info), 0);
	answer_fini(&a);
	close(fd);
	memcpy(rig->nonce, info.nonce, sizeof rig->nonce);
	assert_int_equal(gw_secret_read(rig->secret_path, &rig->secret), 0);
	rig->caller = 77;
}

void rig_free(struct rig *rig)
{
	char command[100];

	gateway_stop(rig->gw);
	snprintf(command, sizeof command, "rm -r %s", rig->db.dir);
	assert_int_equal(system(command), 0);
	free(rig->db.got);
	pthread_mutex_destroy(&rig->db.mutex);
	pthread_cond_destroy(&rig->db.changed);
	free(rig);
}

/* ---- client ---- */

int rig_connect(struct rig *rig)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)rig->port)};
	struct timeval bound = {.tv_sec = 20};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

/* The server may close before it has read everything. */
void rig_send(int fd, const void *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data = (const char *)data + n;
		len -= (size_t)n;
	}
}

void rig_ask(struct rig *rig, int fd, const char *method, const char *target, const void *body, size_t len, char *ret_mac)
{
	char head[2000], auth[GW_AUTH_VALUE_MAX] = "", mac[GW_MAC_HEX], hex[65];
	size_t n;
	char *all;

	if (rig->secret.len) {
		gw_hash_once(body, len, hex);
		assert_int_equal(gw_auth_request(&rig->secret, method, target, hex, rig->nonce, rig->caller, ++rig->counter, auth,
						 ret_mac ? ret_mac : mac), 0);
	}
	n = (size_t)snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: h\r\n%s%s%sContent-Length: %zu\r\n\r\n", method, target,
			     auth[0] ? GW_AUTH_HEADER ": " : "", auth, auth[0] ? "\r\n" : "", len);
	all = malloc(n + len);
	memcpy(all, head, n);
	if (len)
		memcpy(all + n, body, len);
	rig_send(fd, all, n + len);
	free(all);
}

struct answer rig_answer(int fd)
{
	struct answer a = {0};
	char head[4096], *end, *p;
	size_t have = 0;
	ssize_t n;

	do {
		n = recv(fd, head + have, 1, 0);
		if (n < 0)
			assert_int_not_equal(errno, EAGAIN);
		if (n <= 0 || have == sizeof head - 2)
			return a;
		have++;
		head[have] = 0;
	} while (!(end = strstr(head, "\r\n\r\n")));
	assert_int_equal(sscanf(head, "HTTP/1.1 %d", &a.status), 1);
	p = strcasestr(head, "\r\nContent-Length:");
	assert_non_null(p);
	a.len = (size_t)atoi(p + 17);
	p = strcasestr(head, "\r\n" GW_AUTH_HEADER ": ");
	if (p)
		snprintf(a.auth, sizeof a.auth, "%.*s", (int)strcspn(p + 16, "\r"), p + 16);
	a.body = calloc(1, a.len + 1);
	for (have = 0; have < a.len; have += (size_t)n) {
		n = recv(fd, a.body + have, a.len - have, 0);
		assert_true(n > 0);
	}
	return a;
}

struct answer rig_call(struct rig *rig, int fd, const char *method, const char *target, const void *body, size_t len)
{
	rig_ask(rig, fd, method, target, body, len, NULL);
	return rig_answer(fd);
}

enum gw_code rig_code(struct answer a, int *ret_status)
{
	struct gw_error error = {GW_OK, ""};

	if (a.status != 200)
		assert_int_equal(gw_get_error(a.body, a.len, &error), 0);
	*ret_status = a.status;
	free(a.body);
	return error.code;
}

bool rig_is_closed(int fd)
{
	char c;
	ssize_t n;

	while ((n = recv(fd, &c, 1, 0)) > 0)
		;
	return n == 0 || errno == ECONNRESET || errno == EPIPE;
}

void answer_fini(struct answer *a)
{
	free(a->body);
	a->body = NULL;
}
