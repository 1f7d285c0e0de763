#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <syslog.h>
#include <unistd.h>

#include "base/clock.h"

static bool use_syslog;
static enum log_level level_max = LOG_LV_INFO;

static const char *const level_names[] = {"error", "warn", "info", "debug"};
static const int level_syslog[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

void log_init(bool to_syslog, enum log_level max_level)
{
	use_syslog = to_syslog;
	level_max = max_level;
	if (to_syslog)
		openlog("litefwd", LOG_PID, LOG_DAEMON);
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
	char line[2048];
	va_list ap;
	int head, body;
	size_t len;

	if (level > level_max)
		return;
	head = snprintf(line, sizeof line, "litefwd: %s %s ", level_names[level], event);
	if (head < 0 || (size_t)head >= sizeof line - 2)
		return;
	va_start(ap, fmt);
	body = vsnprintf(line + head, sizeof line - (size_t)head - 1, fmt, ap);
	va_end(ap);
	if (body < 0)
		return;
	len = strlen(line);
	while (len > 0 && line[len - 1] == ' ')
		len--;
	if (use_syslog) {
		line[len] = 0;
		syslog(level_syslog[level], "%s", line + strlen("litefwd: "));
		return;
	}
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nowhere left to say it */
}

bool log_allow(struct log_limit *limit, int64_t interval_ms)
{
	int64_t now = clock_now_ns() / NS_PER_MS;
	int64_t next = limit->next_ms;

	if (now < next || !__atomic_compare_exchange_n((int64_t *)&limit->next_ms, &next, now + interval_ms, 0,
						       __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
		limit->suppressed++;
		return false;
	}
	return true;
}

const char *log_clean(char *dst, size_t size, const char *src)
{
	size_t n = 0;

	for (; n + 1 < size && src[n]; n++)
		dst[n] = src[n] >= 0x20 && src[n] < 0x7f && src[n] != '"' && src[n] != '\\' ? src[n] : '?';
	if (size)
		dst[n] = 0;
	return dst;
}
