#include "litefs/upstream.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "litefs/upload_rate.h"

int upstream_new(const struct upstream_config *config, enum upstream_kind kind, struct upstream **ret)
{
	switch (kind) {
	case UPSTREAM_SELF:
		return upstream_self_new(config, ret);
	case UPSTREAM_GATEWAY:
		return upstream_gateway_new(config, ret);
	case UPSTREAM_REMOTE:
	case UPSTREAM_OWN:
		break;
	}
	return upstream_remote_new(config, kind, ret);
}

void upstream_free(struct upstream *up)
{
	if (!up)
		return;
	up->ops->end(up);
	up->ops->free(up);
}

enum upstream_kind upstream_kind(const struct upstream *up)
{
	return up->kind;
}

int upstream_begin(struct upstream *up, struct pos have, int64_t until_ns, struct upstream_grant *ret)
{
	*ret = (struct upstream_grant){0};
	return up->ops->begin(up, have, until_ns, ret);
}

int upstream_renew(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct upstream_grant grant;
	int err;

	if (up->ops->renew)
		return up->ops->renew(up, until_ns, ret_pos);
	up->ops->end(up);
	err = upstream_begin(up, (struct pos){0}, until_ns, &grant);
	if (!err)
		*ret_pos = grant.pos;
	return err;
}

bool upstream_yield(const struct upstream *up)
{
	return up->ops->yield && up->ops->yield(up);
}

enum outcome upstream_commit(struct upstream *up, const struct upstream_tx *tx, int64_t until_ns)
{
	return up->ops->commit(up, tx, until_ns);
}

void upstream_settle(struct upstream *up)
{
	if (up->ops->settle)
		up->ops->settle(up);
}

void upstream_end(struct upstream *up)
{
	up->ops->end(up);
}

int64_t upstream_tidy_at(const struct upstream *up)
{
	return up->ops->tidy_at ? up->ops->tidy_at(up) : INT64_MAX;
}

void upstream_tidy(struct upstream *up)
{
	if (up->ops->tidy)
		up->ops->tidy(up);
}

int64_t upstream_hold_until(const struct upstream *up)
{
	return up->ops->hold_until ? up->ops->hold_until(up) : INT64_MAX;
}

int64_t upstream_renew_at(const struct upstream *up)
{
	return up->ops->renew_at ? up->ops->renew_at(up) : INT64_MAX;
}

int64_t upstream_tx_ns(const struct upstream *up, uint64_t size)
{
	return up->ops->tx_ns ? up->ops->tx_ns(up, size) : NS_PER_S + upload_rate_time_ns(UPLOAD_RATE_DEFAULT, size);
}

uint64_t upstream_max_tx_bytes(const struct upstream *up)
{
	return up->ops->max_tx_bytes ? up->ops->max_tx_bytes(up) : UINT64_MAX;
}

void upstream_node_of(const struct role_state *role, struct upstream_node *ret)
{
	snprintf(ret->hostname, sizeof ret->hostname, "%s", role ? role->primary_hostname : "");
	snprintf(ret->url, sizeof ret->url, "%s", role ? role->primary_url : "");
}

void upstream_note_node(struct upstream *up, const struct role_state *role)
{
	upstream_node_of(role, &up->node);
}

void upstream_node(const struct upstream *up, struct upstream_node *ret)
{
	*ret = up->node;
}

bool upstream_node_equal(const struct upstream_node *a, const struct upstream_node *b)
{
	return !strcmp(a->hostname, b->hostname) && !strcmp(a->url, b->url);
}

int upstream_probe(struct upstream *up, int64_t until_ns, struct pos *ret_pos)
{
	struct upstream_grant grant;
	int err = upstream_begin(up, (struct pos){0}, until_ns, &grant);

	if (err)
		return err;
	*ret_pos = grant.pos;
	up->ops->end(up);
	return 0;
}

void upstream_abort(struct upstream *up)
{
	up->ops->abort(up);
}

int64_t upstream_rtt_ns(const struct upstream *up)
{
	return up->ops->rtt_ns(up);
}

ptrdiff_t upstream_body_read(void *ctx, void *buf, size_t len)
{
	struct upstream_body *body = ctx;
	ptrdiff_t n = body->tx->read_at(body->tx->ctx, buf, len, body->offset);

	if (n > 0)
		body->offset += (uint64_t)n;
	return n;
}

void upstream_body_sent(void *ctx)
{
	struct upstream_body *body = ctx;

	if (body->tx->sent)
		body->tx->sent(body->tx->ctx);
}
