/*
 * clock: monotonic time in nanoseconds, and deadlines made of it.
 * Threads: any. Never blocks, never fails. Wall time is only for LTX timestamps.
 */
#ifndef LITEFWD_BASE_CLOCK_H
#define LITEFWD_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_US INT64_C(1000)
#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

/* CLOCK_MONOTONIC, ns. */
int64_t clock_now_ns(void);

/* CLOCK_REALTIME, ms since 1970. */
int64_t clock_wall_ms(void);

/* Sleeps; interrupted sleeps are continued. */
void clock_sleep_ns(int64_t ns);

/* A condition variable that clock_cond_wait_until() can wait on (CLOCK_MONOTONIC). */
int clock_cond_init(pthread_cond_t *cond);

/* 0 when signalled (or spuriously), -ETIMEDOUT once until_ns has passed. until_ns < 0: no limit. */
int clock_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, int64_t until_ns);

#endif
