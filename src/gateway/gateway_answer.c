/* Answers: a line of JSON, for a granted begin the transactions that the caller lacks, and the signature over both. */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/ltx.h"
#include "gateway/gateway_internal.h"

static void count(struct gateway *gw, enum gw_code code)
{
	pthread_mutex_lock(&gw->mutex);
	gw->answers[code]++;
	pthread_mutex_unlock(&gw->mutex);
}

/* No memory: no body, and the connection is closed. */
static void put(struct gw_request *r, enum gw_code code, int status, const char *line, size_t len)
{
	char hex[65];

	r->status = status;
	r->auth[0] = 0;
	free(r->body);
	r->len = len + r->bundle_len;
	r->body = malloc(r->len);
	if (!r->body)
		return;
	memcpy(r->body, line, len);
	if (r->bundle_len)
		memcpy(r->body + len, r->bundle, r->bundle_len);
	count(r->gw, code);
	if (!r->mac[0])
		return;
	gw_hash_once(r->body, r->len, hex);
	if (gw_auth_answer(r->gw->secret, r->mac, status, hex, r->auth)) {
		free(r->body);
		r->body = NULL;
	}
}

static void drop_bundle(struct gw_request *r)
{
	free(r->bundle);
	r->bundle = NULL;
	r->bundle_len = 0;
	r->tx_count = 0;
}

void gw_answer_line(struct gw_request *r, enum gw_code code, int status, const char *line, size_t len)
{
	drop_bundle(r);
	put(r, code, status, line, len);
}

void gw_answer_error(struct gw_request *r, enum gw_code code, const char *text)
{
	char line[GW_LINE_MAX];
	size_t len = gw_put_error(code, text, line);
	int status = code == GW_BAD_REQUEST && r->route == ROUTE_NONE ? 404 : gw_code_status(code);

	gw_answer_line(r, code, status, line, len);
}

void gw_answer_grant(struct gw_request *r)
{
	struct gw_grant grant = {.pos = r->call.pos, .lease_ms = GW_LEASE_MS, .waiting = r->call.waiting,
				 .server = r->gw->config.node_id, .tx_count = r->tx_count};
	char line[GW_LINE_MAX];
	size_t len;

	memcpy(grant.tx_size, r->tx_size, sizeof grant.tx_size[0] * r->tx_count);
	len = gw_put_grant(&grant, line);
	put(r, GW_OK, 200, line, len);
}

/* ---- the bundle ---- */

/* Appends the file to the bundle if it continues *at, which moves. */
static int add_file(struct gw_request *r, int fd, struct pos *at)
{
	struct ltx_header header;
	struct stat st;
	size_t done = 0, size;
	uint64_t post;
	uint8_t *p;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size < LTX_HEADER_SIZE + LTX_TRAILER_SIZE || (uint64_t)st.st_size > GW_BUNDLE_MAX - r->bundle_len)
		return -EFBIG;
	size = (size_t)st.st_size;
	p = realloc(r->bundle, r->bundle_len + size);
	if (!p)
		return -ENOMEM;
	r->bundle = (char *)p;
	p += r->bundle_len;
	while (done < size) {
		ssize_t n = pread(fd, p + done, size - done, (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		done += (size_t)n;
	}
	if (ltx_header_decode(p, &header) || header.min_txid != at->txid + 1 || header.max_txid != at->txid + 1 ||
	    header.pre_apply != at->checksum)
		return -EBADMSG;
	memcpy(&post, p + size - LTX_TRAILER_SIZE, sizeof post);
	*at = (struct pos){at->txid + 1, be64toh(post)};
	r->tx_size[r->tx_count++] = size;
	r->bundle_len += size;
	return 0;
}

/* All or nothing: whoever lacks one of them can use none that follow, and its own LiteFS brings them anyway. */
void gw_answer_bundle(struct gw_request *r)
{
	struct pos at = r->pos, to = r->call.pos;
	int err = 0;

	while (!err && at.txid < to.txid) {
		int fd = r->gw->ops.ltx_open(r->session->db, at.txid + 1);

		err = fd < 0 ? fd : add_file(r, fd, &at);
		if (fd >= 0)
			close(fd);
	}
	if (err || !pos_equal(at, to))
		drop_bundle(r);
	gw_answer_grant(r);
}
