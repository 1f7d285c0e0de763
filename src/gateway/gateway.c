/* The gateway's life. */
#include "gateway/gateway.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/random.h"
#include "gateway/gateway_internal.h"

/* For the last answers to leave: a peer that does not fetch its own must not keep us. */
#define LEAVE_NS NS_PER_S

static void gateway_free(struct gateway *gw)
{
	gw_worker_stop(gw);
	if (gw->daemon)
		gw_http_stop(gw);
	pthread_mutex_lock(&gw->mutex);
	gw_session_end_all_locked(gw);
	pthread_mutex_unlock(&gw->mutex);
	gw_callers_free(gw->callers);
	pthread_cond_destroy(&gw->idle);
	pthread_cond_destroy(&gw->queue_cond);
	pthread_mutex_destroy(&gw->mutex);
	pthread_mutex_destroy(&gw->queue_mutex);
	gw_secret_free(gw->secret);
	free(gw);
}

static int start(struct gateway *gw)
{
	const struct settings *s = gw->config.settings;
	int err, fd;

	gw->secret = gw_secret_new();
	err = gw->secret ? 0 : -ENOMEM;
	if (!err && s->gw_secret)
		*gw->secret = *s->gw_secret;
	else if (!err)
		err = gw_secret_read(s->gateway_secret, gw->secret);
	if (!err)
		err = gw_callers_new(&gw->callers);
	if (err)
		return err;
	fd = gw_listen(s->gateway, gw->secret->len > 0, gw->address, sizeof gw->address);
	if (fd < 0)
		return fd;
	err = gw_worker_start(gw);
	if (!err)
		err = gw_http_start(gw, fd);
	if (err)
		close(fd);
	return err;
}

int gateway_start_with(const struct gateway_config *config, const struct gateway_db_ops *ops,
		       const struct gateway_limits *limits, struct gateway **ret)
{
	struct gateway *gw = calloc(1, sizeof *gw);
	int err;

	if (!gw)
		return -ENOMEM;
	gw->config = *config;
	gw->ops = *ops;
	gw->limits = *limits;
	gw->queue_end = &gw->queue;
	snprintf(gw->nonce, sizeof gw->nonce, "%016" PRIx64 "%016" PRIx64, random_u64(), random_u64());
	pthread_mutex_init(&gw->mutex, NULL);
	pthread_mutex_init(&gw->queue_mutex, NULL);
	clock_cond_init(&gw->idle);
	clock_cond_init(&gw->queue_cond);
	err = start(gw);
	if (err) {
		gateway_free(gw);
		return err;
	}
	log_info("gateway_listening", "gateway=%s secret=%d", gw->address, gw->secret->len > 0);
	*ret = gw;
	return 0;
}

void gateway_stop(struct gateway *gw)
{
	int64_t until_ns;

	if (!gw)
		return;
	gw_http_quiesce(gw);
	pthread_mutex_lock(&gw->mutex);
	gw->stopping = true;
	gw_session_end_all_locked(gw);
	/* What is in db is db's until it has answered; a commit in progress ends as commits do. */
	while (gw->waiting_count)
		clock_cond_wait_until(&gw->idle, &gw->mutex, -1);
	until_ns = clock_now_ns() + LEAVE_NS;
	while (gw->open_count && clock_cond_wait_until(&gw->idle, &gw->mutex, until_ns) != -ETIMEDOUT)
		;
	pthread_mutex_unlock(&gw->mutex);
	log_info("gateway_stopped", "gateway=%s", gw->address);
	gateway_free(gw);
}

const char *gateway_address(const struct gateway *gw)
{
	return gw->address;
}

json_t *gateway_status(struct gateway *gw)
{
	json_t *ret = json_object(), *answers = json_object();
	unsigned held = 0;

	pthread_mutex_lock(&gw->mutex);
	for (const struct gw_session *s = gw->sessions; s; s = s->next)
		held += s->held;
	json_object_set_new(ret, "address", json_string(gw->address));
	json_object_set_new(ret, "authenticates", json_boolean(gw->secret->len > 0));
	json_object_set_new(ret, "held", json_integer(held));
	json_object_set_new(ret, "waiting", json_integer(gw->waiting_count));
	for (int code = GW_OK; code <= GW_UNKNOWN; code++)
		json_object_set_new(answers, gw_code_name((enum gw_code)code), json_integer((json_int_t)gw->answers[code]));
	pthread_mutex_unlock(&gw->mutex);
	json_object_set_new(ret, "answers", answers);
	return ret;
}
