/*
 * role.c: see role.h.
 *
 * One thread, two connections: the event stream, and /info beside it.
 *
 *	/info fails -----------------------------> not alive, UNKNOWN; again after a back-off
 *	/info -> GET /events -> "init"           -> role from the event, the rest from /info
 *	                        "primaryChange"  -> the same
 *	                        every TICK_MS    -> /info as a cross-check
 *	                        breaks           -> /info decides, at once
 *
 * The role comes from the events, for they are in order; /info gives what they lack
 * (cluster ID, data directory) and corrects us if an event should ever be lost.
 *
 * LiteFS names a primary by hostname from before it connects to it until the
 * connection ends; without a primary it names none. So while a primary is down, each
 * attempt to connect (every second by default) names it for a moment: a name that comes after
 * none is believed when it is still there SETTLE_MS later. A static lease may have no
 * hostname at all: then "none" proves nothing, and a fixed URL is kept.
 *
 * With a Consul lease the URL of a hostname is asked of Consul: once for each name that
 * LiteFS tells, after the role itself has been published, and again at a tick while there
 * is no answer. LiteFS reads the same value before it names anybody, so the first answer
 * is nearly always the one. Another hostname in it than LiteFS' proves nothing of the one
 * that this node follows, and is no answer.
 */
#include "litefs/role.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/probe.h"
#include "litefs/api.h"
#include "litefs/consul.h"
#include "litefs/http.h"
#include "litefs/role_events.h"
#include "litefs/url.h"

#define INFO_TIMEOUT_MS 2000
#define TICK_MS 1000
#define SETTLE_MS 20
#define CONSUL_TIMEOUT_MS 1000
#define CONSUL_PAUSE_MIN_MS 500 /* between attempts for one name; doubles */
#define CONSUL_PAUSE_MAX_MS 8000
#define BACKOFF_MIN_MS 20
#define BACKOFF_MAX_MS 1000

struct role {
	struct role_config config;
	struct api *api; /* for /info */
	struct http *stream; /* for /events */
	struct consul *consul; /* NULL: no Consul lease, or not needed */
	pthread_t thread;
	atomic_bool stop;

	/* role's thread only */
	struct role_events events;
	struct role_state next; /* being put together */
	bool hostnames_seen; /* this cluster's nodes have hostnames: none means no primary */
	bool had_init; /* this stream gave its first event */
	int ticks; /* of this stream */
	int info_failures;
	struct consul_primary consul_said; /* "": nothing yet */
	char consul_asked[256]; /* the name that Consul was last asked about ... */
	bool consul_owes; /* ... without a good answer ... */
	int64_t consul_next_ns; /* ... and when again */
	int consul_pause_ms;

	/* mutex: L2, taken last; never held across the network or on_change */
	pthread_mutex_t mutex;
	pthread_cond_t changed; /* state, or stop */
	struct role_state state;
	_Atomic uint64_t epoch;
};

/* ---- publishing ---- */

static bool same(const struct role_state *a, const struct role_state *b)
{
	return a->kind == b->kind && a->local_alive == b->local_alive && a->server_id == b->server_id &&
	       !strcmp(a->primary_hostname, b->primary_hostname) && !strcmp(a->primary_url, b->primary_url) &&
	       !strcmp(a->gateway_url, b->gateway_url) &&
	       !strcmp(a->cluster_id, b->cluster_id) && !strcmp(a->path, b->path);
}

static void publish(struct role *role)
{
	struct role_state *next = &role->next;

	if (same(next, &role->state)) /* only this thread writes state */
		return;
	next->epoch = role->state.epoch + 1;
	pthread_mutex_lock(&role->mutex);
	role->state = *next;
	atomic_store(&role->epoch, next->epoch);
	pthread_cond_broadcast(&role->changed);
	pthread_mutex_unlock(&role->mutex);
	PROBE2(role, (int)next->kind, next->primary_hostname);
	if (role->config.on_change)
		role->config.on_change(role->config.ctx, next);
}

/* The primary's URL for the hostname in next, into next; false where none can be told. */
static bool resolve(struct role *role)
{
	const struct role_config *config = &role->config;
	struct role_state *next = &role->next;
	const char *source = config->primary_url;
	static struct log_limit limit;
	char clean[256];

	if (role->consul) {
		bool known = next->primary_hostname[0] &&
			     !strcmp(next->primary_hostname, role->consul_said.hostname);

		/* Not known: ask_consul() comes after this. */
		snprintf(next->primary_url, sizeof next->primary_url, "%s", known ? role->consul_said.url : "");
		return known;
	}
	/* Another hostname than litefs.yml's: LiteFS was restarted with another litefs.yml than the one we read. */
	if (!source && (!config->lease_hostname || !config->lease_hostname[0] || !next->primary_hostname[0] ||
			!strcmp(config->lease_hostname, next->primary_hostname)))
		source = config->lease_url;
	if (source && !role_expand_url(source, next->primary_hostname, next->primary_url, sizeof next->primary_url))
		return true;
	next->primary_url[0] = 0;
	if (next->primary_hostname[0] && log_allow(&limit, 60000))
		log_warn("primary_url_unknown",
			 "hostname=\"%s\" do=\"give primary_url=, or litefs_config= as LiteFS reads it now\"",
			 log_clean(clean, sizeof clean, next->primary_hostname));
	return false;
}

/* Sets kind, hostname and URL from what LiteFS says. */
static void set_role(struct role *role, bool is_primary, const char *hostname)
{
	struct role_state *next = &role->next;

	if (hostname[0])
		role->hostnames_seen = true;
	next->primary_hostname[0] = 0;
	next->primary_url[0] = 0;
	next->gateway_url[0] = 0;
	if (is_primary) {
		next->kind = ROLE_PRIMARY;
		return;
	}
	if (!hostname[0] && role->hostnames_seen) {
		next->kind = ROLE_UNKNOWN;
		return;
	}
	snprintf(next->primary_hostname, sizeof next->primary_hostname, "%s", hostname);
	next->kind = resolve(role) || hostname[0] ? ROLE_REPLICA : ROLE_UNKNOWN;
	if (next->kind == ROLE_REPLICA && role->config.gateway_url &&
	    role_expand_url(role->config.gateway_url, hostname, next->gateway_url, sizeof next->gateway_url))
		next->gateway_url[0] = 0;
}

static void note_consul(const struct role *role, int err, const struct consul_primary *said)
{
	static struct log_limit limit;
	char host[256], other[256];

	if (atomic_load(&role->stop) || !log_allow(&limit, 60000))
		return;
	log_warn("primary_url_unknown", "hostname=\"%s\" consul_hostname=\"%s\" err=%d text=\"%s\" do=\"%s\"",
		 log_clean(host, sizeof host, role->next.primary_hostname), log_clean(other, sizeof other, said->hostname),
		 -err, err ? consul_error(role->consul) : "",
		 err ? "is Consul there, as lease.consul of litefs.yml has it?" : "wait: a change of primary goes on");
}

/*
 * Blocks. The URL of the primary in next from Consul, where it is not known: told is true
 * if LiteFS has just named it, so that what was known may be old.
 */
static void ask_consul(struct role *role, bool told)
{
	struct role_state *next = &role->next;
	struct consul_primary said = {0};
	int err;

	if (!role->consul || next->kind != ROLE_REPLICA || !next->primary_hostname[0])
		return;
	if (told || strcmp(role->consul_asked, next->primary_hostname)) {
		role->consul_pause_ms = CONSUL_PAUSE_MIN_MS;
		snprintf(role->consul_asked, sizeof role->consul_asked, "%s", next->primary_hostname);
	} else if (!role->consul_owes || clock_now_ns() < role->consul_next_ns) {
		return;
	}
	err = consul_primary(role->consul, CONSUL_TIMEOUT_MS, &said);
	role->consul_next_ns = clock_now_ns() + role->consul_pause_ms * NS_PER_MS;
	role->consul_owes = err || strcmp(said.hostname, next->primary_hostname) != 0;
	if (!role->consul_owes) {
		role->consul_said = said;
		resolve(role);
		return;
	}
	/* Where Consul is away, an answer of before is the best there is: whoever is there is asked who it is. */
	if (role->consul_pause_ms < CONSUL_PAUSE_MAX_MS)
		role->consul_pause_ms *= 2;
	note_consul(role, err, &said);
}

static void set_dead(struct role *role)
{
	role->next.kind = ROLE_UNKNOWN;
	role->next.local_alive = false;
	role->next.primary_hostname[0] = 0;
	role->next.primary_url[0] = 0;
	role->next.gateway_url[0] = 0;
}

/* Asks /info; with_role false takes only what the events do not tell. */
static int ask_info(struct role *role, bool with_role)
{
	struct role_state *next = &role->next;
	struct api_info info;
	int err = api_info(role->api, INFO_TIMEOUT_MS, &info);

	if (err) {
		role->info_failures++;
		return err;
	}
	role->info_failures = 0;
	next->local_alive = true;
	next->server_id = info.server_id;
	snprintf(next->cluster_id, sizeof next->cluster_id, "%s", info.cluster_id);
	snprintf(next->path, sizeof next->path, "%s", info.path);
	if (with_role)
		set_role(role, info.is_primary, info.primary_hostname);
	else if (info.primary_hostname[0])
		role->hostnames_seen = true;
	return 0;
}

/* Ends early on role_stop(). */
static void pause_ms(struct role *role, int ms)
{
	int64_t until = clock_now_ns() + ms * NS_PER_MS;

	pthread_mutex_lock(&role->mutex);
	while (!atomic_load(&role->stop) &&
	       clock_cond_wait_until(&role->changed, &role->mutex, until) != -ETIMEDOUT)
		;
	pthread_mutex_unlock(&role->mutex);
}

/* ---- the stream ---- */

static int on_event(void *ctx, const struct role_event *event)
{
	struct role *role = ctx;

	if (event->kind == ROLE_EVENT_TX && role->config.on_tx)
		role->config.on_tx(role->config.ctx, event->db, event->pos);
	if (event->kind == ROLE_EVENT_OTHER || event->kind == ROLE_EVENT_TX)
		return 0;
	role->had_init = true;
	role->next.local_alive = true;
	set_role(role, event->is_primary, event->hostname);
	if (role->state.local_alive && role->state.kind == ROLE_UNKNOWN && role->next.kind == ROLE_REPLICA) {
		pause_ms(role, SETTLE_MS);
		if (ask_info(role, true))
			set_role(role, false, "");
		ask_consul(role, true);
	} else {
		/* The role is news already; what /info adds may take longer. */
		if (role->state.local_alive)
			publish(role);
		ask_consul(role, true);
		if (role->consul && role->state.local_alive)
			publish(role);
		ask_info(role, false);
	}
	publish(role);
	return 0;
}

static int on_data(void *ctx, const char *data, size_t len)
{
	struct role *role = ctx;

	return role_events_feed(&role->events, data, len, on_event, role);
}

static int on_tick(void *ctx)
{
	struct role *role = ctx;

	role->ticks++;
	if (!role->had_init)
		return role->ticks >= 2 ? -EIO : 0;
	if (ask_info(role, true) == 0) {
		ask_consul(role, false);
		publish(role);
	}
	return role->info_failures >= 2 ? -EIO : 0;
}

static void follow(struct role *role)
{
	struct http_request req = {
		.method = HTTP_GET,
		.target = "/events",
		.deadline_ns = -1,
		.max_answer = 4096,
		.on_data = on_data,
		.on_tick = on_tick,
		.tick_ms = TICK_MS,
		.ctx = role,
	};
	struct http_answer answer;

	role->had_init = false;
	role->ticks = 0;
	role->info_failures = 0;
	http_call(role->stream, &req, &answer);
	http_disconnect(role->stream);
	role_events_fini(&role->events);
}

/* ---- the thread ---- */

static void note_outage(struct role *role, int err)
{
	static struct log_limit limit;

	if (atomic_load(&role->stop) || !log_allow(&limit, 60000))
		return;
	log_warn("litefs_away", "url=\"%s\" err=%d text=\"%s\" do=\"is LiteFS running there?\"",
		 role->config.litefs_url, -err, api_error(role->api));
}

static void *run(void *arg)
{
	struct role *role = arg;
	int backoff = BACKOFF_MIN_MS, err;
	bool broke = false; /* a stream has just ended */

	for (;;) {
		err = ask_info(role, true);
		if (atomic_load(&role->stop))
			return NULL;
		if (err) {
			set_dead(role);
			note_outage(role, err);
		}
		publish(role);
		ask_consul(role, false);
		publish(role);
		if (err || broke) {
			pause_ms(role, backoff);
			backoff = backoff * 2 < BACKOFF_MAX_MS ? backoff * 2 : BACKOFF_MAX_MS;
		}
		broke = false;
		if (err)
			continue;
		follow(role);
		broke = true;
		if (role->ticks > 0 && role->had_init) /* it lasted */
			backoff = BACKOFF_MIN_MS;
	}
}

/* ---- life ---- */

/* A template that no hostname could make usable. */
static bool source_is_usable(const char *source)
{
	char url[URL_MAX];

	return !source || role_expand_url(source, "h", url, sizeof url) == 0;
}

static void release(struct role *role)
{
	api_free(role->api);
	http_free(role->stream);
	consul_free(role->consul);
	role_events_fini(&role->events);
	pthread_cond_destroy(&role->changed);
	pthread_mutex_destroy(&role->mutex);
	free(role);
}

static int consul_open(const struct role_config *config, struct consul **ret)
{
	struct consul_target target;
	const char *problem;
	int err;

	if (!config->consul_key || config->primary_url)
		return 0;
	err = consul_target_parse(config->consul_url, config->consul_key, &target, &problem);
	if (!err)
		err = consul_new(&target, ret);
	explicit_bzero(&target, sizeof target);
	return err;
}

int role_start(const struct role_config *config, struct role **ret)
{
	char header[64];
	struct role *role;
	int err;

	if (!url_is_base(config->litefs_url) || !source_is_usable(config->primary_url) ||
	    !source_is_usable(config->gateway_url) ||
	    (!config->primary_url && !source_is_usable(config->lease_url)))
		return -EINVAL;
	role = calloc(1, sizeof *role);
	if (!role)
		return -ENOMEM;
	role->config = *config;
	role->hostnames_seen = !config->primary_url &&
			       (config->consul_key || (config->lease_hostname && config->lease_hostname[0]));
	atomic_init(&role->stop, false);
	atomic_init(&role->epoch, 0);
	pthread_mutex_init(&role->mutex, NULL);
	if (clock_cond_init(&role->changed)) {
		pthread_mutex_destroy(&role->mutex);
		free(role);
		return -ENOMEM;
	}
	snprintf(header, sizeof header, "Litefs-Id: %016" PRIX64, config->node_id);
	err = api_new(config->litefs_url, config->node_id, &role->api);
	if (!err)
		err = http_new(config->litefs_url, header, &role->stream);
	if (!err)
		err = consul_open(config, &role->consul);
	if (!err)
		err = pthread_create(&role->thread, NULL, run, role) ? -ENOMEM : 0;
	if (err) {
		release(role);
		return err;
	}
	*ret = role;
	return 0;
}

void role_stop(struct role *role)
{
	if (!role)
		return;
	pthread_mutex_lock(&role->mutex);
	atomic_store(&role->stop, true);
	pthread_cond_broadcast(&role->changed);
	pthread_mutex_unlock(&role->mutex);
	http_abort(role->stream);
	api_abort(role->api);
	if (role->consul)
		consul_abort(role->consul);
	pthread_join(role->thread, NULL);
	release(role);
}

void role_get(struct role *role, struct role_state *ret)
{
	pthread_mutex_lock(&role->mutex);
	*ret = role->state;
	pthread_mutex_unlock(&role->mutex);
}

uint64_t role_epoch(const struct role *role)
{
	return atomic_load_explicit(&((struct role *)(uintptr_t)role)->epoch, memory_order_acquire);
}

int role_wait_local(struct role *role, int64_t deadline_ns)
{
	int err = 0;

	pthread_mutex_lock(&role->mutex);
	while (!role->state.local_alive && err != -ETIMEDOUT)
		err = clock_cond_wait_until(&role->changed, &role->mutex, deadline_ns);
	err = role->state.local_alive ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&role->mutex);
	return err;
}
