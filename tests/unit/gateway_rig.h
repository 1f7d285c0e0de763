/*
 * gateway_rig: a gateway over a scripted database, and clients with sockets of their own.
 * Every failure of the rig itself is an assertion.
 */
#ifndef LITEFWD_TESTS_UNIT_GATEWAY_RIG_H
#define LITEFWD_TESTS_UNIT_GATEWAY_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/settings.h"
#include "gateway/gateway_internal.h"

#define RIG_NAME "t.db"
#define RIG_CLUSTER "LFSC1"
#define RIG_NODE UINT64_C(0x1111222233334444)
#define SUM(n) (LTX_CHECKSUM_FLAG | (uint64_t)(n) * 0x1001) /* the checksum at TXID n */

/* In place of src/db: what it says and what it was asked. mutex is what db's own is in db. */
struct db {
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	int begin_result, commit_result; /* DB_PARKED: rig_release() answers */
	bool unknown, yield;
	struct pos pos;
	struct db_gw_call *begin_call, *commit_call; /* parked */
	uint64_t begin_id;
	unsigned begins, commits, ends, shortens, extends;
	uint64_t id, peer; /* the last */
	int64_t until_ns, grace_ms;
	uint8_t *got; /* the last commit's bytes */
	size_t got_len;
	char dir[64]; /* LTX files */
};

struct role {
	struct role_state state;
};

struct rig {
	struct db db;
	struct role role;
	struct settings settings;
	struct gateway_limits limits;
	struct gateway *gw;
	struct gw_secret secret; /* len 0: requests are not signed */
	char nonce[33], secret_path[80];
	uint64_t caller, counter;
	int port;
	int get_result;
	bool is_open; /* db_find knows it */
	unsigned gets, finds, puts;
};

struct rig *rig_new(void);
void rig_start(struct rig *rig); /* with rig's settings and limits */
void rig_start_with_secret(struct rig *rig);
void rig_free(struct rig *rig);

/* Waits until *counter is at least n; db's mutex is taken. */
void rig_wait(struct rig *rig, const unsigned *counter, unsigned n);
void rig_release_begin(struct rig *rig, int result);
void rig_release_commit(struct rig *rig, int result);
void rig_make_ltx(struct rig *rig, uint64_t txid, uint64_t pre_apply, uint32_t pages);

/* ---- client ---- */

struct answer {
	int status; /* 0: the connection was closed without one */
	char auth[GW_AUTH_VALUE_MAX];
	size_t len;
	char *body; /* owned by the caller: answer_fini() */
};

int rig_connect(struct rig *rig);
void rig_send(int fd, const void *data, size_t len);
/* Whole request; signed if rig->secret is set. ret_mac may be NULL. */
void rig_ask(struct rig *rig, int fd, const char *method, const char *target, const void *body, size_t len, char *ret_mac);
struct answer rig_answer(int fd);
struct answer rig_call(struct rig *rig, int fd, const char *method, const char *target, const void *body, size_t len);
/* The code in an answer's body, which is freed. */
enum gw_code rig_code(struct answer answer, int *ret_status);
bool rig_is_closed(int fd); /* the server has closed it, or does within seconds */
void answer_fini(struct answer *answer);

#endif
