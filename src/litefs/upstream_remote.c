/*
 * The primary's LiteFS by its HALT lock; that of another node (remote) or of this one (own).
 *
 *   begin   (GET /info, once per role epoch: it must be the primary of our cluster)
 *           POST /halt, given up and asked again with the same id after a round trip and some tens of
 *           ms: a long-waiting one polls ever more slowly (LITEFS.md, 8)
 *   commit  POST /tx over the same connection, once, whole, before the lock's end
 *   end     DELETE /halt
 *
 * A lock whose end could not be told is kept in `stale` and told later. So is one for which a question was given up, again
 * and again: LiteFS notices late that nobody waits, or not at all (a large WAL's checkpoint comes between its locks and the
 * HALT), and what it grants after our DELETE would shut the primary's own programs out for its whole life.
 */
#include "litefs/upstream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "litefs/api.h"
#include "litefs/upload_rate.h"

#define STALE_MAX 16
#define UNHALT_TIMEOUT_MS 2000
/* So many questions are given up after one and a half round trips and 40 ms, as many after twice that, ... */
#define QUESTIONS 8
#define PATIENCE_MAX 4
#define INFO_TIMEOUT_MS 2000
/* A HALT that does not come: does LiteFS answer at all? */
#define LOOK_NS (2 * NS_PER_S)
#define TIDY_NS NS_PER_S
/* The last pause between two DELETEs of a lock that may be granted yet; LiteFS waits for its locks for 10 s at most. */
#define TIDY_LAST_NS (8 * NS_PER_S)
#define PAUSE_MAX_NS NS_PER_S
/* Per outage something like a line of each. */
#define LOG_MS 60000

/* A lock's whole life. LiteFS' is 30 s, but nothing here stands on that: it is what the first answer to a new id showed. */
#define LIFE_DEFAULT_NS (30 * NS_PER_S)
#define LIFE_LEAST_NS (3 * NS_PER_S)
/* Parts of it, and what they are of 30 s. LiteFS sweeps expired locks only every 5 s; we must be done well before the end. */
#define MARGIN(life) ((life) / 10) /* 3 s: nothing is trusted that close to the end */
#define OF_USE(life) ((life) / 3) /* 10 s: a lock with less time left is not worth having */
#define RENEW(life) ((life) * 4 / 15) /* 8 s: with less time left it is taken anew, while its transaction goes on */
#define SPARE(life) ((life) / 30) /* 1 s: beyond what sending takes */

enum doubt {
	DOUBT_NONE, /* asked for once, and had */
	DOUBT_LITTLE, /* had, and an earlier question for it given up: told again once. Kept of the last such lock only */
	DOUBT_MUCH, /* not had: told again and again */
};

struct stale_halt {
	uint64_t id;
	int slot;
	bool told; /* a DELETE was answered; it may be granted yet */
	enum doubt doubt; /* whether it may */
	int64_t pause_ns; /* until it is told again, ever longer */
	int64_t next_ns;
	int64_t until_ns; /* over by itself */
};

struct remote {
	struct upstream base;
	struct api *api; /* NULL until the primary's URL is known; for halt and tx */
	struct api *side; /* same URL: unhalt where api's connection may be broken or aborted */
	char url[512];
	uint64_t epoch; /* role epoch that `server_id` was verified in; 0: not verified */
	uint64_t server_id;
	bool held, insists;
	enum doubt doubt; /* about id */
	uint64_t id;
	int slot;
	int64_t life_ns; /* as the node last showed it */
	int64_t hold_until_ns; /* of what is held; 0 without */
	struct upload_rate rate;
	struct breaker *breaker; /* of url */
	uint64_t bad_epoch; /* role's, when it last failed */
	int64_t tidy_ns; /* not before */
	struct stale_halt stale[STALE_MAX];
	int stale_count;
	_Atomic(struct api *) in_call; /* for abort */
	atomic_bool aborted;
};

static struct remote *to_remote(const struct upstream *up)
{
	return (struct remote *)up;
}

static struct log_limit limit_unreachable, limit_refused;

static void forget_stale(struct remote *r, int i)
{
	halt_record_del(r->base.config.halts, r->stale[i].slot);
	memmove(r->stale + i, r->stale + i + 1, sizeof r->stale[0] * (size_t)(r->stale_count - i - 1));
	r->stale_count--;
}

static void note_stale(struct remote *r, struct stale_halt s)
{
	int64_t now = clock_now_ns();
	int victim = 0; /* the oldest has had the longest time to expire; better one that was told */

	for (int i = r->stale_count - 1; i >= 0; i--)
		if (r->stale[i].told && r->stale[i].doubt == DOUBT_LITTLE && s.doubt == DOUBT_LITTLE)
			forget_stale(r, i);
	if (r->stale_count == STALE_MAX) {
		for (int i = STALE_MAX - 1; i >= 0; i--)
			if (r->stale[i].told)
				victim = i;
		forget_stale(r, victim);
	}
	s.next_ns = now + TIDY_NS;
	s.until_ns = now + 40 * NS_PER_S;
	r->stale[r->stale_count++] = s;
}

/* Its DELETE was answered. True: it is told again, though nobody frees it any more if we are killed. */
static bool tell_again(struct remote *r, struct stale_halt *s)
{
	halt_record_del(r->base.config.halts, s->slot);
	s->slot = -1;
	if (s->doubt == DOUBT_NONE || (s->doubt == DOUBT_LITTLE && s->told) || s->pause_ns == TIDY_LAST_NS)
		return false;
	s->told = true;
	s->pause_ns = s->pause_ns ? 2 * s->pause_ns : TIDY_NS;
	s->next_ns = clock_now_ns() + s->pause_ns;
	return true;
}

static bool unhalt_stale(struct remote *r, const struct stale_halt *s)
{
	return api_unhalt(r->side, r->base.config.name, s->id, UNHALT_TIMEOUT_MS) == 0;
}

/* What was never told. False: the primary does not answer. asked: or there was nothing to ask it about; may be NULL. */
static bool flush_untold(struct remote *r, bool *asked)
{
	bool answers = true, asked_it = false;

	for (int i = 0; i < r->stale_count;) {
		struct stale_halt *s = &r->stale[i];
		bool over = clock_now_ns() >= s->until_ns || !r->side;

		if (!over && !s->told) {
			asked_it = true;
			/* One that does not answer costs a timeout each time. */
			answers = answers && unhalt_stale(r, s);
			over = answers && !tell_again(r, s);
			if (!answers)
				s->next_ns = clock_now_ns() + TIDY_NS;
		}
		if (over)
			forget_stale(r, i);
		else
			i++;
	}
	if (asked)
		*asked = asked_it;
	return answers;
}

/* Those that are due, at most so many. Nothing is made of the answer: a LiteFS that was restarted may not know the name. */
static void flush_told(struct remote *r, int max)
{
	for (int i = 0; i < r->stale_count && max > 0;) {
		struct stale_halt *s = &r->stale[i];

		if (!s->told || s->next_ns > clock_now_ns()) {
			i++;
			continue;
		}
		max = unhalt_stale(r, s) ? max - 1 : 0;
		if (tell_again(r, s))
			i++;
		else
			forget_stale(r, i);
	}
}

static void free_id(struct remote *r, struct api *api, uint64_t id, int slot, enum doubt doubt)
{
	struct stale_halt s = {.id = id, .slot = slot, .doubt = doubt};

	if (api_unhalt(api, r->base.config.name, id, UNHALT_TIMEOUT_MS) != 0 || tell_again(r, &s))
		note_stale(r, s);
}

static int set_url(struct remote *r, const char *url)
{
	struct api *api = NULL, *side = NULL;
	int err;

	if (r->api && !strcmp(r->url, url))
		return 0;
	err = api_new(url, r->base.config.node_id, &api);
	if (!err)
		err = api_new(url, r->base.config.node_id, &side);
	if (err) {
		api_free(api);
		return err;
	}
	flush_untold(r, NULL);
	api_free(r->api);
	api_free(r->side);
	r->api = api;
	r->side = side;
	r->epoch = 0;
	r->breaker = breaker_get(r->base.config.breakers, "litefs", url, PAUSE_MAX_NS);
	r->rate = (struct upload_rate){0};
	/* Of an earlier primary: they expire there. */
	while (r->stale_count)
		forget_stale(r, 0);
	snprintf(r->url, sizeof r->url, "%s", url);
	return 0;
}

static bool is_own(const struct remote *r)
{
	return r->base.kind == UPSTREAM_OWN;
}

/* Where to, by the role that we play; "" nowhere. */
static const char *target_url(const struct remote *r, const struct role_state *role)
{
	if (is_own(r))
		return role->kind == ROLE_PRIMARY ? r->base.config.settings->litefs_url : "";
	return role->kind == ROLE_REPLICA ? role->primary_url : "";
}

/* Own: LiteFS waits for the HALT's end before it follows anyone, so after begin and around /tx is when to look. */
static bool still_the_target(const struct remote *r)
{
	return !is_own(r) || role_kind_now(r->base.config.role) == ROLE_PRIMARY;
}

/* A replica answers /halt and /tx too (LITEFS.md, 1): ask who it is before its HALT is trusted. */
static int verify_primary(struct remote *r, const struct role_state *role)
{
	struct api_info *info;
	int err;

	if (r->epoch == role->epoch)
		return 0;
	info = malloc(sizeof *info);
	if (!info)
		return -ENOMEM;
	err = api_info(r->api, INFO_TIMEOUT_MS, info);
	if (err) {
		if (log_allow(&limit_unreachable, LOG_MS))
			log_warn("primary_unreachable", "db=%s url=%s error=\"%s\" do=\"check the primary and %s\"",
				 r->base.config.name, r->url, api_error(r->api), is_own(r) ? "litefs_url=" : "primary_url=");
		err = err == -ECANCELED ? err : -EHOSTUNREACH;
	} else if (!info->is_primary || strcmp(info->cluster_id, role->cluster_id) != 0) {
		if (log_allow(&limit_refused, LOG_MS))
			log_warn("not_the_primary", "db=%s url=%s is_primary=%d do=\"check %s\"", r->base.config.name, r->url,
				 info->is_primary, is_own(r) ? "litefs_url=" : "primary_url= or lease.advertise-url");
		err = -EHOSTUNREACH;
	} else {
		r->server_id = info->server_id;
		r->epoch = role->epoch;
	}
	free(info);
	return err;
}

/*
 * The first answer to a new id is of a new lock: all of its life is left, up to a second that Date's rounding hides.
 * A later answer may show an older lock.
 */
static void note_life(struct remote *r, int64_t ttl_ms, bool first)
{
	int64_t life_ns = (ttl_ms + 999) / 1000 * NS_PER_S;

	if (first || life_ns > r->life_ns)
		r->life_ns = life_ns > LIFE_LEAST_NS ? life_ns : LIFE_LEAST_NS;
}

/*
 * One question. The same id is asked for again and again: a wait that was given up may still
 * have been granted, after any DELETE that raced with it, and would then stand for 30 s; asked for with the same
 * id, LiteFS answers with that very lock and what is left of its time.
 */
static int halt_once(struct remote *r, uint64_t id, unsigned question, int64_t until_ns, struct pos *ret_pos)
{
	int64_t left_ms = (until_ns - clock_now_ns()) / NS_PER_MS;
	/* The round trip may have become longer than it was: ever more patiently. */
	unsigned patience = question / QUESTIONS < PATIENCE_MAX ? question / QUESTIONS : PATIENCE_MAX;
	int64_t slice_ms = (api_rtt_ns(r->api) * 3 / 2 / NS_PER_MS + 40) << patience;
	int64_t sent_ns = 0;
	struct api_halt halt;
	int err;

	if (left_ms <= 0)
		return -EAGAIN;
	if (slice_ms > left_ms)
		slice_ms = left_ms;
	err = api_halt(r->api, r->base.config.name, id, (int)slice_ms, &halt, &sent_ns);
	if (err == -ETIMEDOUT || err == -ECANCELED)
		return err;
	if (err) {
		r->epoch = 0;
		if (log_allow(&limit_unreachable, LOG_MS))
			log_warn("halt_failed", "db=%s url=%s error=\"%s\"", r->base.config.name, r->url, api_error(r->api));
		return err == -ENOTCONN || err == -EINVAL ? err : -EHOSTUNREACH;
	}
	if (halt.server_id != r->server_id || !still_the_target(r)) {
		r->epoch = 0;
		return -EHOSTUNREACH;
	}
	note_life(r, halt.ttl_ms, question == 0);
	r->hold_until_ns = sent_ns + halt.ttl_ms * NS_PER_MS - MARGIN(r->life_ns);
	if (r->hold_until_ns < clock_now_ns() + OF_USE(r->life_ns))
		return -ESTALE; /* granted long ago, to a question that was given up */
	*ret_pos = halt.pos;
	return 0;
}

static uint64_t new_id(struct remote *r)
{
	uint64_t id = random_u64() >> 1;

	id = id ? id : 1;
	r->slot = halt_record_add(r->base.config.halts, r->url, r->base.config.name, id);
	return id;
}

/* A /halt that waits for a lock is as silent as one that nobody reads: the node is asked beside it. */
static bool is_there(struct remote *r)
{
	struct api_info *info = malloc(sizeof *info);
	bool there = true; /* without memory nothing is found out */

	if (info) {
		api_clear_abort(r->side);
		atomic_store(&r->in_call, r->side);
		there = atomic_load(&r->aborted) || api_info(r->side, INFO_TIMEOUT_MS, info) == 0 || atomic_load(&r->aborted);
		if (there && !atomic_load(&r->aborted))
			flush_told(r, STALE_MAX); /* perhaps one of them is what we wait for */
		atomic_store(&r->in_call, r->api);
		api_clear_abort(r->side);
	}
	free(info);
	if (!there && log_allow(&limit_unreachable, LOG_MS))
		log_warn("primary_unreachable", "db=%s url=%s error=\"%s\" do=\"check the primary\"", r->base.config.name, r->url,
			 api_error(r->side));
	return there;
}

/* Nothing is held afterwards, unless the primary cannot be told: then it is told later. */
static int halt(struct remote *r, int64_t until_ns, struct pos *ret_pos)
{
	uint64_t id = new_id(r);
	int64_t now = clock_now_ns(), look_ns = now + (until_ns - now < 2 * LOOK_NS ? (until_ns - now) / 2 : LOOK_NS);
	bool sent = false, silent = false;
	unsigned question = 0;
	int err;

	for (;;) {
		err = halt_once(r, id, question++, until_ns, ret_pos);
		sent = sent || (err != -ENOTCONN && err != -EINVAL);
		if (err == -ESTALE) {
			free_id(r, r->api, id, r->slot, DOUBT_LITTLE);
			clock_sleep_ns(10 * NS_PER_MS);
			id = new_id(r);
			question = 0;
			continue;
		}
		if (err != -ETIMEDOUT)
			break;
		if (atomic_load(&r->aborted)) {
			err = -ECANCELED;
			break;
		}
		if (clock_now_ns() >= look_ns) {
			silent = !is_there(r);
			if (silent) {
				r->epoch = 0;
				err = -EHOSTUNREACH;
				break;
			}
			look_ns = clock_now_ns() + LOOK_NS;
		}
		if (clock_now_ns() >= until_ns) {
			err = -EAGAIN;
			break;
		}
	}
	if (!err) {
		r->held = true;
		r->doubt = question > 1 ? DOUBT_LITTLE : DOUBT_NONE;
		r->id = id;
		return 0;
	}
	r->hold_until_ns = 0;
	if (!sent) {
		halt_record_del(r->base.config.halts, r->slot);
		return -EHOSTUNREACH;
	}
	if (silent) {
		/* It would cost two more timeouts to find that out again. */
		note_stale(r, (struct stale_halt){.id = id, .slot = r->slot, .doubt = DOUBT_MUCH});
		return err;
	}
	/* Twice at once, for LiteFS mostly notices at once. */
	api_unhalt(r->side, r->base.config.name, id, UNHALT_TIMEOUT_MS);
	clock_sleep_ns(50 * NS_PER_MS);
	free_id(r, r->side, id, r->slot, DOUBT_MUCH);
	return err == -ENOTCONN || err == -EINVAL ? -EHOSTUNREACH : err;
}

static int begin_by_breaker(struct remote *r, const struct role_state *role, int64_t until_ns, struct upstream_grant *ret)
{
	enum breaker_entry entry = r->insists ? BREAKER_ALLOWED : breaker_enter(r->breaker, role->epoch);
	int err;

	if (entry == BREAKER_DENIED)
		return -EHOSTUNREACH;
	if (entry == BREAKER_PROBE)
		r->epoch = 0;
	err = verify_primary(r, role);
	if (!err && entry == BREAKER_PROBE) /* the others need not wait for our lock */
		breaker_good(r->breaker);
	/* What could not be told before had all of the time, and was not answered: that is no lock that others have. */
	if (!err && r->stale_count && !flush_untold(r, NULL) && clock_now_ns() >= until_ns) {
		r->epoch = 0;
		err = -EHOSTUNREACH;
	}
	if (!err)
		err = halt(r, until_ns, &ret->pos);
	if (!err || err == -EAGAIN)
		breaker_good(r->breaker);
	else if (err == -EHOSTUNREACH)
		breaker_bad(r->breaker, r->bad_epoch = role->epoch, api_error(r->api));
	else
		breaker_untold(r->breaker);
	return err;
}

static int remote_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	struct remote *r = to_remote(up);
	struct role_state *role = malloc(sizeof *role);
	const char *url;
	int err;

	(void)have;
	if (!role)
		return -ENOMEM;
	atomic_store(&r->aborted, false);
	role_get(up->config.role, role);
	upstream_note_node(up, is_own(r) ? NULL : role);
	url = target_url(r, role);
	err = url[0] ? set_url(r, url) : -EHOSTUNREACH;
	if (!err) {
		api_clear_abort(r->api);
		atomic_store(&r->in_call, r->api);
		if (atomic_load(&r->aborted))
			err = -ECANCELED;
		if (!err)
			err = begin_by_breaker(r, role, until_ns, ret);
		atomic_store(&r->in_call, NULL);
	}
	free(role);
	return err;
}

/* A transaction goes on under it, and is lost if it is not had: whatever others have found. */
static int remote_renew(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct remote *r = to_remote(up);
	struct upstream_grant grant = {0};
	int err;

	upstream_end(up);
	r->insists = true;
	err = remote_begin(up, (struct pos){0}, until_ns, &grant);
	r->insists = false;
	if (!err)
		*ret_pos = grant.pos;
	return err;
}

static int64_t tx_ns(const struct remote *r, uint64_t bytes_per_s, uint64_t size)
{
	return SPARE(r->life_ns) + 4 * (r->api ? api_rtt_ns(r->api) : 0) + upload_rate_time_ns(bytes_per_s, size);
}

/* SPARE once more for what Date hides of the life and what the answer to /halt took. */
static uint64_t max_tx_bytes(const struct remote *r, uint64_t bytes_per_s)
{
	int64_t usable_ns = r->life_ns - MARGIN(r->life_ns) - SPARE(r->life_ns) - tx_ns(r, bytes_per_s, 0);

	return upload_rate_bytes_in(bytes_per_s, usable_ns);
}

/* True: enough time is left. */
static bool check_time(struct remote *r, uint64_t size)
{
	int64_t now = clock_now_ns(), left_ns = r->hold_until_ns - now;
	uint64_t rate = upload_rate_get(&r->rate, now), limit = max_tx_bytes(r, rate);

	if (left_ns >= tx_ns(r, rate, size))
		return true;
	log_warn("commit_refused",
		 "db=%s reason=halt_time size=%" PRIu64 " limit_bytes=%" PRIu64 " rate_bytes_per_s=%" PRIu64 " left_ms=%" PRId64
		 " need_ms=%" PRId64 " do=\"%s\"",
		 r->base.config.name, size, limit, rate, left_ns / NS_PER_MS, tx_ns(r, rate, size) / NS_PER_MS,
		 size > limit ? "make the transaction smaller than limit_bytes, or run it on the primary"
			      : "make the time from its first write to its COMMIT shorter");
	return false;
}

static void note_rate(struct remote *r, enum api_tx_result result, uint64_t size, int64_t start_ns)
{
	int64_t now = clock_now_ns();

	if (result == API_TX_APPLIED)
		upload_rate_note(&r->rate, size, now - start_ns, api_rtt_ns(r->api), now);
	else if (result == API_TX_AMBIGUOUS)
		upload_rate_note_cut(&r->rate, size, now - start_ns, now);
}

/*
 * Own: a node that has just been demoted takes /tx and loses it (LITEFS.md, 1). On a replica db looks whether the
 * transaction comes back; here there is nothing to come, so LiteFS is asked.
 */
static bool still_the_primary(struct remote *r)
{
	struct api_info *info;
	bool yes;

	if (!is_own(r))
		return true;
	info = malloc(sizeof *info);
	yes = info && api_info(r->api, INFO_TIMEOUT_MS, info) == 0 && info->is_primary && info->server_id == r->server_id &&
	      still_the_target(r);
	free(info);
	if (!yes)
		log_warn("demoted_in_commit", "db=%s", r->base.config.name);
	return yes;
}

static enum outcome remote_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	struct remote *r = to_remote(up);
	struct upstream_body body = {.tx = tx};
	struct api_tx call = {
		.name = up->config.name,
		.lock_id = r->id,
		.server_id = r->server_id,
		.size = tx->size,
		.read = upstream_body_read,
		.sent = upstream_body_sent,
		.ctx = &body,
		.require_halt_connection = true,
		.deadline_ns = r->hold_until_ns < until_ns ? r->hold_until_ns : until_ns,
	};
	int64_t start = clock_now_ns();
	enum api_tx_result result;
	bool lost = false;

	up->unanswered = false;
	if (!r->held || !still_the_target(r) || !check_time(r, tx->size))
		return OUTCOME_REFUSED;
	atomic_store(&r->in_call, r->api);
	result = api_tx(r->api, &call);
	if (result == API_TX_APPLIED)
		lost = !still_the_primary(r);
	atomic_store(&r->in_call, NULL);
	up->unanswered = result == API_TX_AMBIGUOUS && body.offset >= tx->size && clock_now_ns() >= call.deadline_ns;
	note_rate(r, result, tx->size, start);
	if (result == API_TX_APPLIED && !lost)
		return OUTCOME_COMMITTED;
	r->epoch = 0; /* ask who it is before the next one */
	if (lost)
		return OUTCOME_UNKNOWN;
	log_warn("commit_not_acknowledged", "db=%s url=%s result=%s error=\"%s\"", up->config.name, r->url,
		 result == API_TX_AMBIGUOUS ? "ambiguous" : "refused", api_error(r->api));
	return result == API_TX_AMBIGUOUS ? OUTCOME_UNKNOWN : OUTCOME_REFUSED;
}

static void remote_end(struct upstream *up)
{
	struct remote *r = to_remote(up);

	if (!r->held)
		return;
	r->held = false;
	r->hold_until_ns = 0;
	/* An aborted connection says nothing any more. */
	free_id(r, atomic_load(&r->aborted) ? r->side : r->api, r->id, r->slot, r->doubt);
}

static void remote_tidy(struct upstream *up)
{
	struct remote *r = to_remote(up);
	bool answers, asked;

	if (!r->stale_count)
		return;
	if (breaker_enter(r->breaker, r->bad_epoch) == BREAKER_DENIED) {
		r->tidy_ns = clock_now_ns() + TIDY_NS;
		return;
	}
	answers = flush_untold(r, &asked);
	if (answers)
		flush_told(r, 1); /* somebody may want to begin */
	if (!asked)
		breaker_untold(r->breaker);
	else if (answers)
		breaker_good(r->breaker);
	else
		breaker_bad(r->breaker, r->bad_epoch, api_error(r->side));
}

static int64_t remote_tidy_at(const struct upstream *up)
{
	const struct remote *r = (const struct remote *)up;
	int64_t at = INT64_MAX;

	for (int i = 0; i < r->stale_count; i++)
		at = r->stale[i].next_ns < at ? r->stale[i].next_ns : at;
	return at > r->tidy_ns ? at : r->tidy_ns;
}

static int64_t remote_hold_until(const struct upstream *up)
{
	return to_remote(up)->hold_until_ns;
}

static int64_t remote_renew_at(const struct upstream *up)
{
	const struct remote *r = to_remote(up);

	return r->hold_until_ns - RENEW(r->life_ns);
}

static int64_t remote_tx_ns(const struct upstream *up, uint64_t size)
{
	const struct remote *r = to_remote(up);

	return tx_ns(r, upload_rate_get(&r->rate, clock_now_ns()), size);
}

static uint64_t remote_max_tx_bytes(const struct upstream *up)
{
	const struct remote *r = to_remote(up);

	return max_tx_bytes(r, upload_rate_get(&r->rate, clock_now_ns()));
}

static int64_t remote_rtt_ns(const struct upstream *up)
{
	const struct remote *r = to_remote(up);

	return r->api ? api_rtt_ns(r->api) : 0;
}

static void remote_abort(struct upstream *up)
{
	struct remote *r = to_remote(up);
	struct api *api;

	atomic_store(&r->aborted, true);
	api = atomic_load(&r->in_call);
	if (api)
		api_abort(api);
}

static void remote_free(struct upstream *up)
{
	struct remote *r = to_remote(up);

	remote_tidy(up); /* else the record of halts keeps them for the next start */
	api_free(r->api);
	api_free(r->side);
	free(r);
}

int upstream_remote_new(const struct upstream_config *config, enum upstream_kind kind, struct upstream **ret)
{
	static const struct upstream_ops ops = {
		.begin = remote_begin,
		.commit = remote_commit,
		.end = remote_end,
		.renew = remote_renew,
		.tidy_at = remote_tidy_at,
		.tidy = remote_tidy,
		.hold_until = remote_hold_until,
		.renew_at = remote_renew_at,
		.tx_ns = remote_tx_ns,
		.max_tx_bytes = remote_max_tx_bytes,
		.rtt_ns = remote_rtt_ns,
		.abort = remote_abort,
		.free = remote_free,
	};
	struct remote *r = calloc(1, sizeof *r);

	if (!r)
		return -ENOMEM;
	r->base = (struct upstream){.ops = &ops, .kind = kind, .config = *config};
	r->life_ns = LIFE_DEFAULT_NS;
	r->slot = -1;
	*ret = &r->base;
	return 0;
}
