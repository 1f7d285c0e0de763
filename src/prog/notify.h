/*
 * notify: what litefwd says to the service manager that started it (systemd, sd_notify(3)): that it is ready, how it is,
 * that it is alive, that it stops.
 *
 * Without NOTIFY_SOCKET in the environment there is nobody to tell: notify_new() gives NULL, which every function takes.
 * It refuses to know what "alive" is: that is asked of the caller, by a thread of its own.
 *
 * The protocol is one datagram of lines "KEY=value" for each message, promised to be stable, and made here: libsystemd would
 * be one more library in a process that mounts, for one sendto().
 *
 *   STATUS, EXTEND_TIMEOUT_USEC --notify_starting--> ... READY=1 --first "alive"--> WATCHDOG=1, STATUS ... STOPPING=1
 *
 * WATCHDOG=1 is sent a few times in each WATCHDOG_USEC, and only after alive() has said yes. READY=1 too.
 *
 * Threads: notify_new, notify_starting and notify_watch before or in main's thread; notify_poke from any,
 * notify_stopping from signal handlers too: neither blocks. Ownership: config is copied, its ctx borrowed until notify_free().
 * Errors: negative errno of notify_watch; a message that cannot be sent is logged, and lost.
 */
#ifndef LITEFWD_PROG_NOTIFY_H
#define LITEFWD_PROG_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NOTIFY_TEXT_MAX 512

struct notify;

struct notify_config {
	/* The work is done. Else false by until_ns (clock_now_ns()), or never: then nothing more is sent. why: what does not answer. */
	bool (*alive)(void *ctx, int64_t until_ns, char *why, size_t size);
	/* One line for people. Must not block. */
	void (*status)(void *ctx, char *line, size_t size);
	void *ctx;
};

/* From the environment, which it is taken out of. NULL: nobody asked, or what they asked is unusable (logged). */
struct notify *notify_new(void);

/* What is waited for, and for how long it may take until notify_watch(). */
void notify_starting(struct notify *notify, const char *what, int64_t timeout_ms);

/* From now on a thread tells READY=1 once it is true, and all the rest. At most once. */
int notify_watch(struct notify *notify, const struct notify_config *config);

/* The status may have changed. */
void notify_poke(struct notify *notify);

/* STOPPING=1 follows, at once. Async-signal-safe. */
void notify_stopping(struct notify *notify);

/* Says STOPPING=1 if nobody did, and joins the thread: config is asked nothing more. Idempotent. */
void notify_unwatch(struct notify *notify);

/* notify_unwatch() first, where it was not called. */
void notify_free(struct notify *notify);

#endif
