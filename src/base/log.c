#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
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

static void put_line(enum log_level level, char *line, size_t len)
{
	ssize_t n;

	if (use_syslog) {
		line[len] = 0;
		syslog(level_syslog[level], "%s", line + strlen("litefwd: "));
		return;
	}
	line[len++] = '\n';
	do
		n = write(STDERR_FILENO, line, len);
	while (n < 0 && errno == EINTR); /* else dropped: there is nowhere left to say it */
}

void log_event(enum log_level level, const char *event, const char *fmt, ...)
{
	int saved_errno = errno; /* callers log first and look at errno afterwards */
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
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?'; /* one event is one line, even if a caller forgot log_clean() */
	put_line(level, line, len);
	errno = saved_errno;
}

bool log_allow(struct log_limit *limit, int64_t interval_ms)
{
	int64_t now = clock_now_ns() / NS_PER_MS;
	int64_t next = atomic_load(&limit->next_ms);

	if (now >= next && atomic_compare_exchange_strong(&limit->next_ms, &next, now + interval_ms))
		return true;
	atomic_fetch_add(&limit->suppressed, 1);
	return false;
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
