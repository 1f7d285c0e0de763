/*
 * What became of a transaction that was sent and not acknowledged: evidence (ARCHITECTURE.md, "Outcome of a commit").
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "db/db_commit.h"
#include "base/probe.h"
#include "db/db_internal.h"
#include "format/ltx.h"

#define PROBE_EVERY_NS (500 * NS_PER_MS)
/* What was sent may still be under way in a buffer somewhere: absent this often before it counts. */
#define PROBES 3

int db_ltx_open(struct db *db, uint64_t txid)
{
	struct role_state *role = calloc(1, sizeof *role);
	char path[4096 + 400];
	int fd, n;

	if (!role)
		return -ENOMEM;
	role_get(db->config->role, role);
	n = snprintf(path, sizeof path, "%s/dbs/%s/ltx/%016" PRIx64 "-%016" PRIx64 ".ltx", role->path, db->name, txid, txid);
	free(role);
	if (n < 0 || (size_t)n >= sizeof path)
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int db_ltx_header(struct db *db, uint64_t txid, struct ltx_header *ret)
{
	uint8_t buf[LTX_HEADER_SIZE];
	int n, fd = db_ltx_open(db, txid);

	if (fd < 0)
		return fd;
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
static int probe(struct db *db, bool replica, struct pos *ret, struct upstream_node *ret_node)
{
	bool absent = db_is_absent(db);
	struct upstream *up = replica ? db->remote : absent ? db->own : db->self;
	int err = absent ? 0 : db_files_get(db);

	if (err)
		return err;
	err = upstream_probe(up, clock_now_ns() + NS_PER_S, ret);
	upstream_node(up, ret_node);
	if (!absent)
		db_files_put(db, 0);
	return err;
}

/* One more look at the primary, which may be another one by now. */
static void look(struct db *db, const struct changeset *cs, const struct upstream_node *sent_to, int *absent, int *absent_elsewhere)
{
	struct upstream_node node;
	struct pos pos;

	if (probe(db, role_kind_now(db->config->role) == ROLE_REPLICA, &pos, &node) != 0)
		return;
	if (!upstream_node_equal(&node, sent_to))
		*absent_elsewhere += pos.txid < cs->after.txid; /* else LiteFS here will pass it, too */
	else if (pos.txid < cs->after.txid || (pos.txid == cs->after.txid && pos.checksum != cs->after.checksum))
		++*absent;
}

bool db_primary_node(struct db *db, struct upstream_node *ret)
{
	struct role_state *role = calloc(1, sizeof *role);
	bool known;

	if (!role)
		return false;
	role_get(db->config->role, role);
	known = role->kind == ROLE_PRIMARY || (role->kind == ROLE_REPLICA && role->primary_url[0]);
	*ret = (struct upstream_node){0};
	if (role->kind == ROLE_REPLICA)
		upstream_node_of(role, ret);
	free(role);
	return known;
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

int64_t db_timestamp_ms(struct db *db, struct pos before)
{
	int64_t now = clock_wall_ms();

	if (before.txid + 1 == db->sent.txid && now <= db->sent_timestamp_ms)
		now = db->sent_timestamp_ms + 1;
	db->sent.txid = before.txid + 1;
	db->sent_timestamp_ms = now;
	return now;
}

/* ---- unknowns: their verdicts ---- */

static void log_verdict(struct db *db, const struct db_unknown *u, const char *verdict)
{
	log_warn(u->drop ? "drop_verdict" : "commit_verdict", "db=%s txid=%016" PRIx64 " checksum=%016" PRIx64 " verdict=%s", db->name,
		 u->after.txid, u->after.checksum, verdict);
}

static void forget_unknown_locked(struct db *db, unsigned i)
{
	memmove(db->unknowns + i, db->unknowns + i + 1, (--db->unknown_count - i) * sizeof *db->unknowns);
}

void db_note_unknown_locked(struct db *db, const struct db_unknown *u)
{
	db->stats.unknown++;
	PROBE2(unknown, db->name, u->after.txid);
	log_error(u->drop ? "drop_unknown" : "commit_unknown", "db=%s txid=%016" PRIx64 " checksum=%016" PRIx64 " do=\"%s\"", db->name,
		  u->after.txid, u->after.checksum,
		  u->drop ? "look whether the database is still there"
			  : "look for commit_verdict later; check before executing the transaction again");
	if (db->unknown_count == UNKNOWNS_MAX) { /* the newest are those that somebody asks for */
		log_verdict(db, &db->unknowns[0], "not_followed");
		db->stats.verdicts_none++;
		forget_unknown_locked(db, 0);
	}
	db->unknowns[db->unknown_count++] = *u;
}

/* As LiteFS says by the database's mode, earlier than role hears of it. */
static bool is_primarys(struct db *db)
{
	bool yes;

	if (db_files_get(db) != 0)
		return false;
	yes = lfs_files_is_primary(&db->files) == 1;
	db_files_put(db, 0);
	return yes;
}

/*
 * 1 it was committed, 0 not, -EAGAIN the time has not come, else it cannot be told. LiteFS has passed its TXID (or has no such
 * database). What was sent to this node's own LiteFS is in the cluster's history if this is the primary, or if that has built upon it.
 */
static int find_verdict(struct db *db, const struct db_unknown *u, struct pos pos, bool absent)
{
	int ours = db_ltx_is_of(db, u->after.txid, u->node_id, u->timestamp_ms);
	enum role_kind kind;

	if (absent)
		return u->drop && ours == 1 ? 1 : -EAGAIN;
	if (ours == 1 && u->here) {
		kind = role_kind_now(db->config->role);
		if (kind == ROLE_UNKNOWN || (kind == ROLE_REPLICA && pos.txid == u->after.txid))
			return -EAGAIN;
		if (kind == ROLE_PRIMARY && !is_primarys(db))
			return -EAGAIN;
	}
	return ours;
}

void db_report_unknowns_locked(struct db *db, struct pos pos, bool absent)
{
	for (unsigned i = 0; i < db->unknown_count;) {
		struct db_unknown u = db->unknowns[i];
		int verdict;

		if (!absent && pos.txid < u.after.txid) {
			i++;
			continue;
		}
		pthread_mutex_unlock(&db->mu);
		verdict = find_verdict(db, &u, pos, absent);
		pthread_mutex_lock(&db->mu);
		if (i >= db->unknown_count || !pos_equal(db->unknowns[i].after, u.after) ||
		    db->unknowns[i].timestamp_ms != u.timestamp_ms) { /* the other worker has changed the list */
			i = 0;
			continue;
		}
		if (verdict == -EAGAIN) {
			i++;
			continue;
		}
		forget_unknown_locked(db, i);
		PROBE3(verdict, db->name, u.after.txid, verdict);
		if (verdict == 1)
			db->stats.verdicts_committed++;
		else if (verdict == 0)
			db->stats.verdicts_not_committed++;
		else
			db->stats.verdicts_none++;
		log_verdict(db, &u, verdict == 1 ? "committed" : verdict == 0 ? "not_committed" : "cannot_tell");
	}
}

void db_give_up_unknowns_locked(struct db *db)
{
	struct pos pos = {0};

	if (!db->unknown_count)
		return;
	if (db->absent)
		db_report_unknowns_locked(db, pos, true);
	else if (db_look_at_pos_locked(db, &pos) == 0)
		db_report_unknowns_locked(db, pos, false);
	while (db->unknown_count) {
		log_verdict(db, &db->unknowns[0], "not_found_before_the_end");
		db->stats.verdicts_none++;
		forget_unknown_locked(db, 0);
	}
}

/*
 * Evidence, in order: the local LiteFS reached that TXID, and its LTX file is or is not ours;
 * fresh locks upstream, again and again, show the position before it. The window is open; upstream was ended.
 *
 * A primary that has not got it proves something only if it is the one that it was sent to. After a failover the other one may have it, and
 * may become the primary again before it has followed anybody: until somebody's transaction has taken that TXID nobody knows, and
 * waiting for it here would keep this node's writers waiting, too. Nor does it prove anything where nobody has answered at all.
 */
enum verdict db_decide(struct db *db, const struct changeset *cs, int64_t until_ns)
{
	int64_t next_probe = clock_now_ns();
	struct upstream_node sent_to, node;
	int absent = 0, absent_elsewhere = 0;

	upstream_node(db->up, &sent_to);

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
			if (ours == 1 && probe(db, false, &pos, &node) == 0 && pos_equal(pos, cs->after))
				return VERDICT_COMMITTED; /* still, or again, the primary */
			if (there == -ESTALE && ours < 0)
				return VERDICT_UNKNOWN;
		}
		if (now >= until_ns || db_is_over(db))
			return VERDICT_UNKNOWN;
		if (now >= next_probe) {
			look(db, cs, &sent_to, &absent, &absent_elsewhere);
			if (absent >= PROBES && !upstream_is_unanswered(db->up))
				return VERDICT_NOT_COMMITTED;
			if (absent_elsewhere >= PROBES)
				return VERDICT_UNKNOWN;
			next_probe = clock_now_ns() + PROBE_EVERY_NS;
		}
	}
}
