/*
 * gateway_internal: shared by gateway_*.c.
 *
 *   gateway_http.c      libmicrohttpd: connections, requests, suspend and resume
 *   gateway_head.c      one request until it is whole: parsed, its body kept
 *   gateway_request.c   from then on: authenticated, handed to db, answered
 *   gateway_answer.c    an answer: its line, its bundle, its signature
 *   gateway_session.c   who holds or waits for what, and on which connection
 *   gateway_worker.c    the thread that may block: opens databases, reads LTX files, looks after connections
 *   gateway_limits.c    how much one address may ask
 *   gateway_listen.c    the address
 *   gateway_start.c     with db itself
 *
 * A request that needs db is suspended first, whatever db says at once, so that there is one way to its answer:
 *
 *   http's thread              worker              db's worker
 *   head, body, run
 *     suspend  ------------->  db_get, begin
 *                              (parked) .........  done
 *                              bundle  <---------  (granted, the caller lacks transactions)
 *     finish   <-------------  resume  or  <-----  resume
 *
 * Locks: mutex -> db's -> queue_mutex or libmicrohttpd's own. done is called with db's held, so it takes the last two only.
 */
#ifndef LITEFWD_GATEWAY_GATEWAY_INTERNAL_H
#define LITEFWD_GATEWAY_GATEWAY_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/spool.h"
#include "format/names.h"
#include "gateway/gateway.h"
#include "litefs/gw_auth.h"
#include "litefs/gw_proto.h"

/* What the gateway asks of db: a test scripts it. */
struct gateway_db_ops {
	int (*begin)(struct db *db, uint64_t id, uint64_t peer, int64_t until_ns, struct db_gw_call *call);
	int (*commit)(struct db *db, uint64_t id, struct spool *ltx, struct db_gw_call *call);
	void (*end)(struct db *db, uint64_t id);
	void (*shorten)(struct db *db, uint64_t id, int64_t grace_ms);
	void (*extend)(struct db *db, uint64_t id);
	int (*ltx_open)(struct db *db, uint64_t txid);
};

struct gateway_limits {
	unsigned connections;
	unsigned connections_per_address;
	unsigned requests_per_second; /* and address */
	unsigned sessions;
	unsigned uploads; /* at once */
	uint64_t upload_bytes; /* of one */
	uint64_t upload_bytes_all;
	unsigned idle_s; /* a connection on which nothing comes or goes */
	int64_t stuck_ms; /* a connection on which no request becomes whole, or whose answer is not fetched */
	size_t head_bytes; /* request line and headers */
};

extern const struct gateway_limits gateway_limits_default;

#define GW_WAIT_MAX_MS 30000
#define GW_CLOSED_GRACE_MS 500
#define GW_BUCKETS 256

struct MHD_Connection;
struct MHD_Daemon;

/* A connection. mutex, but for addr. */
struct gw_conn {
	struct gateway *gw;
	struct gw_conn *prev, *next;
	int fd;
	uint8_t addr[16];
	int64_t deadline_ns; /* INT64_MAX: it is we who keep it waiting */
	int64_t closed_ns; /* when the peer was first seen to have closed it; 0: not */
};

/* A lock of another node's litefwd, held or waited for. mutex. */
struct gw_session {
	struct gw_session *next;
	char name[NAME_DB_MAX + 1];
	uint64_t id;
	struct db *db; /* NULL: being opened */
	struct gw_conn *conn; /* last used on; NULL: closed */
	bool held;
	bool beginning, committing; /* a request of its is under way */
	bool ended; /* no longer in the list, stays for those who use it */
	unsigned uses;
	int64_t used_ns;
};

enum gw_route { ROUTE_NONE, ROUTE_INFO, ROUTE_BEGIN, ROUTE_COMMIT, ROUTE_END };
enum gw_stage { STAGE_HEAD, STAGE_BODY, STAGE_WAIT, STAGE_ANSWER };

struct gw_request {
	struct gateway *gw;
	struct gw_conn *conn;
	struct MHD_Connection *mhd;
	struct gw_request *prev, *next; /* gw->waiting; mutex */
	struct gw_request *next_job; /* queue_mutex */
	char *target; /* as it came, for authentication */
	enum gw_route route;
	enum gw_stage stage;

	/* what it asks for */
	char name[NAME_DB_MAX + 1];
	uint64_t id, peer;
	struct pos pos;
	int64_t wait_ms;
	char cluster[64];

	/* the body of a /tx */
	struct spool spool;
	uint64_t size; /* announced */
	bool counted; /* in gw->uploads */
	int64_t extended_ns; /* when its body last lengthened the lease */
	struct gw_hash *hash;

	/* what it is refused for; GW_OK: nothing yet. Told only to those who are authentic. */
	enum gw_code code;
	char text[160];

	/* in db */
	struct db_gw_call call;
	struct gw_session *session; /* a use */
	bool renewal;
	bool granted;
	bool left; /* no longer in gw->waiting */
	int result;

	/* answer */
	char mac[GW_MAC_HEX]; /* of the authentic request; "" */
	int status;
	char *body;
	size_t len;
	uint64_t tx_size[GW_TX_MAX];
	unsigned tx_count;
	char *bundle;
	size_t bundle_len;
	char auth[GW_AUTH_VALUE_MAX];
};

struct gw_bucket {
	uint8_t addr[16];
	int64_t full_ns; /* when it would be full again */
};

struct gateway {
	struct gateway_config config;
	struct gateway_db_ops ops;
	struct gateway_limits limits;
	struct gw_secret *secret; /* our own */
	struct gw_callers *callers;
	char nonce[33];
	char address[80];
	struct MHD_Daemon *daemon;
	struct gw_bucket buckets[GW_BUCKETS]; /* http's thread */

	pthread_mutex_t mutex;
	pthread_cond_t idle; /* waiting_count or open_count has become 0 */
	bool stopping;
	struct gw_conn *conns;
	struct gw_session *sessions;
	unsigned session_count;
	struct gw_request *waiting; /* suspended */
	unsigned waiting_count;
	unsigned open_count; /* dispatched, and not answered to the last byte */
	unsigned uploads;
	uint64_t upload_bytes;
	uint64_t answers[GW_UNKNOWN + 1];

	pthread_t worker;
	bool worker_started;
	pthread_mutex_t queue_mutex;
	pthread_cond_t queue_cond;
	struct gw_request *queue, **queue_end;
	bool worker_stop;
};

/* gateway.c */
int gateway_start_with(const struct gateway_config *config, const struct gateway_db_ops *ops,
		       const struct gateway_limits *limits, struct gateway **ret);

/* gateway_listen.c: a socket that listens, and its address as text; logs. */
int gw_listen(const char *address, bool has_secret, char *ret_text, size_t size);
/* IPv4 as mapped; IPv6 without its lower half, which is its owner's to choose. */
void gw_address_key(const struct sockaddr *addr, uint8_t ret[16]);

/* gateway_limits.c */
bool gw_limits_allow(struct gateway *gw, const uint8_t addr[16]);

/* gateway_http.c */
int gw_http_start(struct gateway *gw, int listen_fd);
void gw_http_quiesce(struct gateway *gw);
void gw_http_stop(struct gateway *gw);
const char *gw_http_query(struct gw_request *request, const char *key); /* NULL: not given, or with a NUL in it */
const char *gw_http_header(struct gw_request *request, const char *key);
void gw_http_suspend(struct gw_request *request);
void gw_http_resume(struct gw_request *request); /* any thread; request may be gone when it returns */

/* gateway_head.c and gateway_request.c: http's thread, in this order */
/* true: there is an answer already, whatever the body. */
bool gw_request_head(struct gw_request *request, const char *method, const char *path);
void gw_request_body(struct gw_request *request, const char *data, size_t len);
/* true: there is an answer; false: suspended. */
bool gw_request_run(struct gw_request *request);
void gw_request_finish(struct gw_request *request);
void gw_request_free(struct gw_request *request, bool delivered);
/* The first reason counts. Told when the body has come: only then is it known who asks. */
void gw_request_refuse(struct gw_request *request, enum gw_code code, const char *text);
/* db's begin, by whoever has the database. mutex held. */
void gw_request_begin_locked(struct gw_request *request);

/* gateway_answer.c */
void gw_answer_error(struct gw_request *request, enum gw_code code, const char *text);
void gw_answer_line(struct gw_request *request, enum gw_code code, int status, const char *line, size_t len);
void gw_answer_grant(struct gw_request *request);
/* The transactions that the caller lacks, or none. Blocks on a local disk. */
void gw_answer_bundle(struct gw_request *request);

/* gateway_session.c: mutex held */
struct gw_session *gw_session_find_locked(struct gateway *gw, const char *name, uint64_t id);
struct gw_session *gw_session_new_locked(struct gateway *gw, const char *name, uint64_t id);
void gw_session_put_locked(struct gateway *gw, struct gw_session *session);
void gw_session_end_locked(struct gateway *gw, struct gw_session *session);
void gw_session_end_all_locked(struct gateway *gw);
void gw_session_conn_closed_locked(struct gateway *gw, struct gw_conn *conn);
void gw_session_sweep_locked(struct gateway *gw, int64_t now_ns); /* leases that are over long since */

/* gateway_worker.c */
int gw_worker_start(struct gateway *gw);
void gw_worker_stop(struct gateway *gw);
void gw_worker_add(struct gw_request *request);

#endif
