/*
 * This node is the primary: LiteFS' own locks, and /tx to the local LiteFS.
 *
 *   begin   SHARED and NAME-wal, then WRITE; LiteFS' WAL must be empty (else the LTX would drop its frames)
 *           on a database in a rollback mode RESERVED and PENDING, and no journal may be hot; see guard.h
 *   commit  READ0..READ4 exclusive, POST /tx, then: is this node still the primary?
 *   settle  READs back
 *   end     WRITE back (with an empty WAL LiteFS does nothing then)
 *
 * The order of giving back is READs, WRITE, SHARED: LiteFS' snapshots take WRITE and then the READs.
 */
#include "litefs/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "format/ltx.h"
#include "litefs/api.h"

#define TX_TIMEOUT_NS (20 * NS_PER_S)
/* LiteFS writes the file, then the pages, then asks for checksums: slow disks do this much. */
#define TX_RATE_MIN (INT64_C(4) << 20)
#define INFO_TIMEOUT_MS 2000
#define TIDY_NS (100 * NS_PER_MS)

struct self {
	struct upstream base;
	struct api *api;
	struct api_info info; /* scratch */
	bool held;
	int64_t tidy_ns; /* when to try again to give back WRITE; INT64_MAX: nothing is left */
	atomic_bool aborted;
};

static struct self *to_self(const struct upstream *up)
{
	return (struct self *)up;
}

static bool is_primary(const struct self *s)
{
	return role_kind_now(s->base.config.role) == ROLE_PRIMARY;
}

/* That WRITE is still held (guard.h) may be the end of LiteFS, which db finds out, or of its disk's space: tidy tries again. */
static void release(struct self *s)
{
	struct upstream_config *c = &s->base.config;
	struct pos pos;
	int err;

	c->guard_enter(c->ctx);
	err = guard_give_writer(c->guard);
	/* Nobody waits now: the next begin finds it in the kernel's cache. */
	lfs_files_pos(c->guard->files, &pos);
	s->tidy_ns = err && c->guard->writer ? clock_now_ns() + TIDY_NS : INT64_MAX;
	c->guard_leave(c->ctx);
}

/*
 * WRITE, as soon as it is free at first; then about as often as LiteFS looks on behalf of a waiting
 * HALT (some 7 ms), for there is no queue, and who looks more often than the others starves them.
 */
static int take_writer(struct self *s, int64_t until_ns)
{
	struct upstream_config *c = &s->base.config;
	int64_t pause_ns = 100 * NS_PER_US;

	for (;;) {
		int err;

		c->guard_enter(c->ctx);
		err = guard_take_writer(c->guard);
		c->guard_leave(c->ctx);
		if (err != -EAGAIN)
			return err;
		if (atomic_load(&s->aborted))
			return -ECANCELED;
		if (clock_now_ns() >= until_ns)
			return -EAGAIN;
		clock_sleep_ns(pause_ns);
		if (pause_ns < 8 * NS_PER_MS)
			pause_ns += pause_ns / 2;
	}
}

/* As the kernel says it of a mount that is no more; what else LiteFS refuses is an answer. */
static int begin_error(int err)
{
	switch (err) {
	case -EAGAIN:
	case -ECANCELED:
	case -EUCLEAN:
		return err;
	case -ENOTCONN:
	case -ECONNABORTED:
		return -ENOTCONN;
	default:
		return -EHOSTUNREACH;
	}
}

static int self_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct self *s = to_self(up);
	bool unsettled = false;
	int err;

	(void)have;
	atomic_store(&s->aborted, false);
	if (!is_primary(s))
		return -EHOSTUNREACH;
	err = take_writer(s, until_ns);
	if (err)
		return begin_error(err);
	err = guard_unsettled(up->config.guard, &unsettled);
	if (!err && unsettled)
		err = -EUCLEAN;
	if (!err)
		err = lfs_files_pos(up->config.guard->files, &ret->pos);
	/* LiteFS waits for this lock before it follows anyone; and what it says itself is earlier than what role has heard. */
	if (!err && (!is_primary(s) || lfs_files_is_primary(up->config.guard->files) != 1))
		err = -EHOSTUNREACH;
	if (err) {
		release(s);
		return begin_error(err);
	}
	s->held = true;
	return 0;
}

/* Direct readers are waited for; nobody new gets in while the bytes are asked for again and again. */
static int take_exclusive(struct self *s, int64_t until_ns)
{
	struct upstream_config *c = &s->base.config;
	int64_t pause_ns = 50 * NS_PER_US;

	for (;;) {
		int err;

		c->guard_enter(c->ctx);
		err = guard_take_exclusive(c->guard);
		c->guard_leave(c->ctx);
		if (err != -EAGAIN)
			return err;
		if (clock_now_ns() >= until_ns || atomic_load(&s->aborted))
			return -EAGAIN;
		clock_sleep_ns(pause_ns);
		if (pause_ns < NS_PER_MS)
			pause_ns += pause_ns / 2;
	}
}

static bool is_still_primary(struct self *s, const struct upstream_tx *tx)
{
	/* After a drop there is no file to tell it by. */
	if (tx->after.checksum == LTX_CHECKSUM_FLAG)
		return api_info(s->api, INFO_TIMEOUT_MS, &s->info) == 0 && s->info.is_primary;
	return lfs_files_is_primary(s->base.config.guard->files) == 1;
}

static enum outcome send_tx(struct self *s, const struct upstream_tx *tx)
{
	struct upstream_body body = {.tx = tx};
	struct api_tx call = {
		.name = s->base.config.name,
		.lock_id = 1, /* never read by LiteFS */
		.size = tx->size,
		.read = upstream_body_read,
		.ctx = &body,
		.deadline_ns = clock_now_ns() + TX_TIMEOUT_NS + (int64_t)(tx->size / TX_RATE_MIN) * NS_PER_S,
	};
	enum api_tx_result result;

	/* /tx opens no connection: it must not be the one to be sent twice. */
	s->base.unanswered = false;
	result = api_tx(s->api, &call);
	if (result == API_TX_NOT_SENT) {
		if (api_info(s->api, INFO_TIMEOUT_MS, &s->info) != 0)
			return OUTCOME_REFUSED;
		body.offset = 0;
		result = api_tx(s->api, &call);
	}
	if (result == API_TX_AMBIGUOUS) {
		s->base.unanswered = body.offset >= tx->size && clock_now_ns() >= call.deadline_ns;
		return OUTCOME_UNKNOWN;
	}
	if (result != API_TX_APPLIED) {
		log_warn("commit_refused", "db=%s upstream=self error=\"%s\"", s->base.config.name, api_error(s->api));
		return OUTCOME_REFUSED;
	}
	/* A node that has just been demoted takes /tx and loses it (LITEFS.md, 1). */
	if (!is_still_primary(s, tx)) {
		log_warn("demoted_in_commit", "db=%s", s->base.config.name);
		return OUTCOME_UNKNOWN;
	}
	return OUTCOME_COMMITTED;
}

static enum outcome self_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	struct self *s = to_self(up);

	if (take_exclusive(s, until_ns) != 0)
		return OUTCOME_REFUSED;
	/* That tx->before is LiteFS' position is checked by LiteFS, before it applies, with every lock ours. */
	return send_tx(s, tx);
}

static void self_settle(struct upstream *up)
{
	struct upstream_config *c = &up->config;

	c->guard_enter(c->ctx);
	guard_give_exclusive(c->guard);
	c->guard_leave(c->ctx);
}

static void self_end(struct upstream *up)
{
	struct self *s = to_self(up);

	if (!s->held)
		return;
	s->held = false;
	release(s);
}

static int64_t self_tidy_at(const struct upstream *up)
{
	return ((const struct self *)up)->tidy_ns;
}

static void self_tidy(struct upstream *up)
{
	release(to_self(up));
}

static int64_t self_hold_until(const struct upstream *up)
{
	(void)up;
	return INT64_MAX;
}

static int64_t self_rtt_ns(const struct upstream *up)
{
	(void)up;
	return 0;
}

static void self_abort(struct upstream *up)
{
	atomic_store(&to_self(up)->aborted, true);
}

static void self_free(struct upstream *up)
{
	struct self *s = to_self(up);

	api_free(s->api);
	free(s);
}

int upstream_self_new(const struct upstream_config *config, struct upstream **ret)
{
	static const struct upstream_ops ops = {
		.begin = self_begin,
		.commit = self_commit,
		.settle = self_settle,
		.end = self_end,
		.tidy_at = self_tidy_at,
		.tidy = self_tidy,
		.hold_until = self_hold_until,
		.rtt_ns = self_rtt_ns,
		.abort = self_abort,
		.free = self_free,
	};
	struct self *s = calloc(1, sizeof *s);
	int err;

	if (!s)
		return -ENOMEM;
	s->base = (struct upstream){.ops = &ops, .kind = UPSTREAM_SELF, .config = *config};
	s->tidy_ns = INT64_MAX;
	err = api_new(config->settings->litefs_url, config->node_id, &s->api);
	if (err) {
		free(s);
		return err;
	}
	*ret = &s->base;
	return 0;
}
