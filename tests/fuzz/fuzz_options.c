/*
 * The command line, an argument a line, the same as a litefwd.conf, and the parsers of its values: durations, sizes, URLs, addresses, templates.
 * A URL that is accepted stays one, and a hostname that is put into a template never makes another URL of it than one to that host.
 */
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "litefs/role.h"
#include "litefs/url.h"
#include "prog/options.h"

#define ARGS 32

static void values(char *text)
{
	struct sockaddr_storage addr;
	char url[URL_MAX], escaped[1024];
	int64_t n;

	if (options_parse_duration(text, &n) == 0)
		MUST(n >= 0);
	if (options_parse_size(text, &n) == 0)
		MUST(n >= 0);
	if (url_is_base(text))
		MUST(!strncmp(text, "http://", 7) && strlen(text) < URL_MAX && !strpbrk(text, " \r\n@?#"));
	if (url_escape(text, escaped, sizeof escaped) == 0)
		MUST(!strpbrk(escaped, " \r\n&=?#/") && strlen(escaped) >= strlen(text));
	if (url_parse_address(text, &addr) == 0)
		url_is_loopback(&addr);
	if (role_expand_url("http://{hostname}:20202", text, url, sizeof url) == 0)
		MUST(url_is_base(url) && !strncmp(url + 7, text, strlen(text)));
	if (role_expand_url(text, "h", url, sizeof url) == 0)
		MUST(url_is_base(url));
}

static void check(const struct settings *opt)
{
	MUST((opt->litefs_dir ? opt->litefs_dir[0] == '/' : opt->litefs_config != NULL) && opt->mountpoint &&
	     opt->mountpoint[0] == '/' && opt->source && opt->halt_max_hold_ms >= 0 && opt->halt_max_hold_ms <= 15000 &&
	     opt->halt_timeout_ms > 0 && !(opt->umask & ~0777u));
}

/* A litefwd.conf names no other one, and cannot make a command line incomplete. */
static void config(const uint8_t *data, size_t size)
{
	char name[] = "litefwd", dir[] = "/l", point[] = "/m", path[64], *argv[] = {name, dir, point, NULL};
	int fd = memfd_create("litefwd.conf", MFD_CLOEXEC);
	struct settings opt;

	MUST(fd >= 0 && pwrite(fd, data, size, 0) == (ssize_t)size && fchmod(fd, 0600) == 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	options_init(&opt);
	if (options_parse(&opt, 3, argv, path) == 0) {
		check(&opt);
		MUST(!opt.config && opt.litefs_dir);
	}
	options_fini(&opt);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), *save = NULL, *argv[ARGS + 1] = {"litefwd"};
	static FILE *nowhere, *real;
	struct settings opt;
	bool accepted;
	int argc = 1;

	values(text);
	for (char *arg = strtok_r(text, "\n", &save); arg && argc < ARGS; arg = strtok_r(NULL, "\n", &save))
		argv[argc++] = arg;
	/* What it complains about; sanitizers do not write to stderr's FILE. */
	if (!nowhere) {
		nowhere = fopen("/dev/null", "w");
		real = stderr;
	}
	MUST(nowhere);
	options_init(&opt);
	stderr = nowhere;
	accepted = options_parse(&opt, argc, argv, NULL) == 0 && !opt.show_help && !opt.show_version;
	config(data, size);
	stderr = real;
	if (accepted)
		check(&opt);
	options_fini(&opt);
	free(text);
	return 0;
}
