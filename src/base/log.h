/*
 * log: one line per event, "level event key=value ...", on stderr or syslog.
 *
 * It knows nothing of databases or LiteFS; callers write the keys.
 * Threads: every function from any thread; a line is written whole. May block on stderr.
 * Errors: none; a log line that cannot be written is dropped. errno is kept.
 *
 * Values that come from outside (names, answers) go through log_clean() first,
 * so that they cannot forge keys; no value can forge a line.
 */
#ifndef LITEFWD_BASE_LOG_H
#define LITEFWD_BASE_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LV_ERROR, LOG_LV_WARN, LOG_LV_INFO, LOG_LV_DEBUG };

/* Before the first thread. to_syslog: daemon mode. Default: stderr, INFO. */
void log_init(bool to_syslog, enum log_level max_level);

/* event: a fixed identifier such as "commit_unknown"; fmt: "db=%s txid=%016llx do=\"...\"", may be "". */
void log_event(enum log_level level, const char *event, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_error(event, ...) log_event(LOG_LV_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_event(LOG_LV_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_event(LOG_LV_INFO, event, __VA_ARGS__)
#define log_debug(event, ...) log_event(LOG_LV_DEBUG, event, __VA_ARGS__)

/*
 * True at most once per interval_ms for this state (which starts zeroed and is
 * shared by all threads that log the event): for events that an outage repeats.
 */
struct log_limit {
	_Atomic int64_t next_ms;
	_Atomic uint64_t suppressed;
};
bool log_allow(struct log_limit *limit, int64_t interval_ms);

/* Copies at most size-1 bytes of src to dst, with quotes, backslashes and bytes outside printable ASCII as '?'. Returns dst. */
const char *log_clean(char *dst, size_t size, const char *src);

#endif
