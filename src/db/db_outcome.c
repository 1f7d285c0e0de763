/*
 * What became of a transaction that was sent and not acknowledged: evidence (ARCHITECTURE.md, "Outcome of a commit").
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "db/db_commit.h"
#include "db/db_internal.h"
#include "format/ltx.h"

#define PROBE_EVERY_NS (500 * NS_PER_MS)
/* What was sent may still be under way in a buffer somewhere: absent this often before it counts. */
#define PROBES 3

int db_ltx_path(struct db *db, uint64_t txid, char *ret, size_t size)
{
	struct role_state *role = calloc(1, sizeof *role);
	int n;

	if (!role)
		return -ENOMEM;
	role_get(db->config->role, role);
	n = snprintf(ret, size, "%s/dbs/%s/ltx/%016" PRIx64 "-%016" PRIx64 ".ltx", role->path, db->name, txid, txid);
	free(role);
	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int db_ltx_header(struct db *db, uint64_t txid, struct ltx_header *ret)
{
	uint8_t buf[LTX_HEADER_SIZE];
	char path[4096 + 400];
	int fd, n = db_ltx_path(db, txid, path, sizeof path);

	if (n)
		return n;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = (int)pread(fd, buf, sizeof buf, 0);
	close(fd);
	return n == (int)sizeof buf ? ltx_header_decode(buf, ret) : -EBADMSG;
}

int db_ltx_is_of(struct db *db, uint64_t txid, uint64_t node_id, int64_t timestamp_ms)
{
	struct ltx_header header;
	int err = db_ltx_header(db, txid, &header);

	if (err)
		return err;
	return header.node_id == node_id && header.timestamp_ms == timestamp_ms;
}

/* Where a commit goes, with the role as it is now; self stands for LiteFS' locks where there are files to lock. */
static int probe(struct db *db, bool replica, struct pos *ret)
{
	bool absent = db_is_absent(db);
	struct upstream *up = replica ? db->remote : absent ? db->own : db->self;
	int err = absent ? 0 : db_files_get(db);

	if (err)
		return err;
	err = upstream_probe(up, clock_now_ns() + NS_PER_S, ret);
	if (!absent)
		db_files_put(db, 0);
	return err;
}

/* 0: not known. */
uint64_t db_primary_epoch(struct db *db)
{
	struct role_state *role = calloc(1, sizeof *role);
	uint64_t epoch;

	if (!role)
		return 0;
	role_get(db->config->role, role);
	epoch = role->kind == ROLE_UNKNOWN ? 0 : role->epoch;
	free(role);
	return epoch;
}

/*
 * Evidence, in order: the local LiteFS reached that TXID, and its LTX file is or is not ours;
 * fresh locks upstream, again and again, show the position before it. The window is open; upstream was ended.
 */
enum verdict db_decide(struct db *db, const struct changeset *cs, int64_t until_ns)
{
	int64_t next_probe = clock_now_ns();
	int absent = 0;

	for (;;) {
		int there = db_await_pos(db, cs->after, clock_now_ns() + 20 * NS_PER_MS);
		int64_t now = clock_now_ns();
		struct pos pos;

		if (there) {
			int ours = db_ltx_is_of(db, cs->after.txid, cs->node_id, cs->timestamp_ms);

			/* The first transaction comes as a snapshot of LiteFS' own making. There is one such state, and it is ours. */
			if (cs->after.txid == 1 && ours != 1)
				return there == 1 ? VERDICT_COMMITTED : VERDICT_UNKNOWN;
			if (ours == 0)
				return VERDICT_NOT_COMMITTED;
			/* Replicated to here, or built upon: it is in the cluster's one history. */
			if (ours == 1 && (there == -ESTALE || upstream_kind(db->up) == UPSTREAM_REMOTE ||
					  upstream_kind(db->up) == UPSTREAM_GATEWAY))
				return VERDICT_COMMITTED;
			if (ours == 1 && probe(db, false, &pos) == 0 && pos_equal(pos, cs->after))
				return VERDICT_COMMITTED; /* still, or again, the primary */
			if (there == -ESTALE && ours < 0)
				return VERDICT_UNKNOWN;
		}
		if (now >= until_ns || db->stop)
			return VERDICT_UNKNOWN;
		if (now >= next_probe) {
			struct role_state *role = calloc(1, sizeof *role);
			bool replica;

			if (!role)
				return VERDICT_UNKNOWN;
			role_get(db->config->role, role);
			replica = role->kind == ROLE_REPLICA;
			free(role);
			if (probe(db, replica, &pos) == 0 &&
			    (pos.txid < cs->after.txid ||
			     (pos.txid == cs->after.txid && pos.checksum != cs->after.checksum)) &&
			    ++absent >= PROBES)
				return VERDICT_NOT_COMMITTED;
			next_probe = clock_now_ns() + PROBE_EVERY_NS;
		}
	}
}
