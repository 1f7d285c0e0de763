/*
 * fake_consul: a scripted Consul on loopback, for one answer at a time.
 * Threads: any. Failures to run at all abort the test program.
 */
#ifndef LITEFWD_TESTS_FAKE_CONSUL_H
#define LITEFWD_TESTS_FAKE_CONSUL_H

#include <stddef.h>

struct fake_consul;

struct fake_consul *fake_consul_start(void);
void fake_consul_stop(struct fake_consul *fake);

const char *fake_consul_url(const struct fake_consul *fake); /* "http://127.0.0.1:PORT" */

/* What every request is answered from now on: status line's rest ("200 OK") and body. NULL: nothing at all, for ever. */
void fake_consul_answer(struct fake_consul *fake, const char *status, const char *body, size_t len);
/* Bytes as they are, then the connection is closed. */
void fake_consul_answer_raw(struct fake_consul *fake, const char *bytes, size_t len);
/* What LiteFS writes. */
void fake_consul_primary(struct fake_consul *fake, const char *hostname, const char *url);

unsigned fake_consul_requests(struct fake_consul *fake);
/* The last request's head, whole. */
void fake_consul_last(struct fake_consul *fake, char *ret, size_t size);

#endif
