/*
 * gw_auth: who may ask a gateway, and who answers (ARCHITECTURE.md, "The gateway's protocol").
 *
 * HMAC-SHA256 (OpenSSL's) with a secret that is never sent. One header line each way:
 *
 *   Litefwd-Auth: v1 CALLER COUNTER MAC       request
 *     CALLER 16 hex digits, random per connection object; COUNTER decimal, grows with each request of a caller
 *     MAC    64 hex digits, over METHOD LF TARGET LF sha256(body) in hex LF NONCE LF CALLER LF COUNTER
 *     NONCE  the server's, random at its start, told by /info (which needs no authentication): a request that was
 *            recorded is worthless after a restart, and before by its counter
 *   Litefwd-Auth: v1 MAC                      answer
 *     MAC    over the request's MAC LF STATUS LF sha256(body) in hex
 *
 * TARGET as it stands in the request line, undecoded. Only requests that were found authentic get an authentic answer: one to a
 * request that somebody else made with the same MAC could be passed off as the answer to the real one. So "auth" (401) never is.
 *
 * Threads: any; the table of callers (server) is locked inside. No network. Errors: -EACCES not authentic, -EBADMSG malformed,
 * -ENOMEM; of gw_secret_read(), which logs them: -EINVAL no file, empty, not 16 to 256 bytes; -EPERM another user's, or group or others may
 * read or write it; what open(2) and read(2) say. Without a secret (len 0) everything is authentic and values are "".
 */
#ifndef LITEFWD_LITEFS_GW_AUTH_H
#define LITEFWD_LITEFS_GW_AUTH_H

#include <stddef.h>
#include <stdint.h>

#define GW_AUTH_HEADER "Litefwd-Auth"
#define GW_AUTH_VALUE_MAX 160
#define GW_MAC_HEX 65

struct gw_secret {
	uint8_t key[256];
	size_t len; /* 0: no authentication */
};

/*
 * An empty one in memory of its own, which is in no core dump and, where the system lets it be, not swapped out. NULL: no memory.
 * Free overwrites it; NULL is harmless.
 */
struct gw_secret *gw_secret_new(void);
void gw_secret_free(struct gw_secret *secret);

/* The file's bytes but for trailing white space. path NULL: len 0. */
int gw_secret_read(const char *path, struct gw_secret *ret);

/* A body's hash, fed in pieces. NULL-safe free. */
struct gw_hash;
int gw_hash_new(struct gw_hash **ret);
void gw_hash_add(struct gw_hash *hash, const void *data, size_t len);
void gw_hash_end(struct gw_hash *hash, char ret_hex[65]);
void gw_hash_free(struct gw_hash *hash);
void gw_hash_once(const void *data, size_t len, char ret_hex[65]);

/* ---- client ---- */

/* The value of a request's header, and its MAC for gw_auth_check_answer(). */
int gw_auth_request(const struct gw_secret *secret, const char *method, const char *target, const char body_hex[65],
		    const char *nonce, uint64_t caller, uint64_t counter, char ret_value[GW_AUTH_VALUE_MAX],
		    char ret_mac[GW_MAC_HEX]);
int gw_auth_check_answer(const struct gw_secret *secret, const char *mac, int status, const char body_hex[65],
			 const char *value);

/* ---- server ---- */

/* Callers that were seen, and their counters: at most 4096, the longest unseen is forgotten. */
struct gw_callers;
int gw_callers_new(struct gw_callers **ret);
void gw_callers_free(struct gw_callers *callers);

/* value NULL: no header. Notes the counter. ret_mac is for gw_auth_answer(); "" after an error. */
int gw_auth_check_request(const struct gw_secret *secret, struct gw_callers *callers, const char *method, const char *target,
			  const char body_hex[65], const char *nonce, const char *value, char ret_mac[GW_MAC_HEX]);
int gw_auth_answer(const struct gw_secret *secret, const char *mac, int status, const char body_hex[65],
		   char ret_value[GW_AUTH_VALUE_MAX]);

#endif
