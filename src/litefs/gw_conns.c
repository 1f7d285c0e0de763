#include "litefs/gw_conns.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"

/* Of all gateways: a cluster has one at a time. */
#define KEPT_MAX 8

struct gw_conns {
	pthread_mutex_t mutex;
	struct gw_conn *kept; /* the last used first */
};

int gw_conns_new(struct gw_conns **ret)
{
	struct gw_conns *c = calloc(1, sizeof *c);

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->mutex, NULL);
	*ret = c;
	return 0;
}

static void free_conn(struct gw_conn *conn)
{
	if (!conn)
		return;
	http_free(conn->http);
	free(conn);
}

void gw_conns_free(struct gw_conns *c)
{
	if (!c)
		return;
	while (c->kept) {
		struct gw_conn *next = c->kept->next;

		free_conn(c->kept);
		c->kept = next;
	}
	pthread_mutex_destroy(&c->mutex);
	free(c);
}

static struct gw_conn *take_kept(struct gw_conns *c, const char *url)
{
	struct gw_conn *conn = NULL;

	pthread_mutex_lock(&c->mutex);
	for (struct gw_conn **p = &c->kept; *p; p = &(*p)->next) {
		if (strcmp((*p)->url, url) != 0)
			continue;
		conn = *p;
		*p = conn->next;
		break;
	}
	pthread_mutex_unlock(&c->mutex);
	return conn;
}

struct gw_conn *gw_conns_take(struct gw_conns *c, const char *url, uint64_t node_id)
{
	struct gw_conn *conn = c ? take_kept(c, url) : NULL;
	char id_header[64];

	if (conn || strlen(url) >= URL_MAX)
		return conn;
	conn = calloc(1, sizeof *conn);
	if (!conn)
		return NULL;
	snprintf(id_header, sizeof id_header, "Litefs-Id: %016" PRIX64, node_id);
	if (http_new(url, id_header, &conn->http)) {
		free(conn);
		return NULL;
	}
	conn->caller = random_u64();
	strcpy(conn->url, url);
	return conn;
}

/* The oldest of too many. */
static struct gw_conn *cut(struct gw_conns *c)
{
	struct gw_conn **p = &c->kept, *over;

	for (unsigned i = 0; *p && i < KEPT_MAX; i++)
		p = &(*p)->next;
	over = *p;
	*p = NULL;
	return over;
}

void gw_conns_give(struct gw_conns *c, struct gw_conn *conn)
{
	struct gw_conn *over = conn;

	if (!conn)
		return;
	if (c) {
		pthread_mutex_lock(&c->mutex);
		conn->next = c->kept;
		c->kept = conn;
		over = cut(c);
		pthread_mutex_unlock(&c->mutex);
	}
	free_conn(over);
}
