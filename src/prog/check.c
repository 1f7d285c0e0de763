#include "prog/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/log.h"
#include "base/random.h"
#include "prog/mount_check.h"
#include "prog/options.h"

#define INFO_TIMEOUT_MS 3000
#define SPOOL_LEAST (INT64_C(256) << 20)
#define KERNEL_MAJOR 5
#define KERNEL_MINOR 4

static enum check_level worst;

void check_say(enum check_level level, const char *subject, const char *fmt, ...)
{
	static const char *const names[] = {"OK", "WARN", "FAIL"};
	va_list ap;

	printf("%-5s %s: ", names[level], subject);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	if (level > worst)
		worst = level;
}

/* ---- this machine ---- */

/* What mount_check would complain about. */
static void fail_with(void *subject, const char *message)
{
	check_say(CHECK_FAIL, subject, "%s", message);
}

static void check_fuse(const struct settings *opt)
{
	static char subject[] = "fuse";

	mount_check_tell(fail_with, subject);
	if (mount_check_fuse(opt) == 0)
		check_say(CHECK_OK, subject, "/dev/fuse can be used%s", geteuid() ? " (by fusermount3)" : "");
	mount_check_tell(NULL, NULL);
}

static void check_kernel(void)
{
	struct utsname u;
	int major = 0, minor = 0;

	if (uname(&u) < 0 || sscanf(u.release, "%d.%d", &major, &minor) != 2)
		check_say(CHECK_WARN, "kernel", "its version cannot be told: litefwd needs Linux %d.%d", KERNEL_MAJOR, KERNEL_MINOR);
	else if (major < KERNEL_MAJOR || (major == KERNEL_MAJOR && minor < KERNEL_MINOR))
		check_say(CHECK_FAIL, "kernel", "%s: litefwd needs Linux %d.%d, whose FUSE can store into a file's cached pages", u.release,
			  KERNEL_MAJOR, KERNEL_MINOR);
	else
		check_say(CHECK_OK, "kernel", "Linux %s", u.release);
}

static void check_rights(const struct settings *opt)
{
	if (geteuid() == 0)
		check_say(CHECK_OK, "rights", "root");
	else if (access(opt->litefs_dir, R_OK | X_OK) < 0)
		check_say(CHECK_FAIL, "rights", "this user may not look into %s: run as LiteFS' user, or as root", opt->litefs_dir);
	else
		check_say(CHECK_WARN, "rights",
			  "not root: LiteFS lets only its own user, and root, lock and write; run litefwd as one of them");
}

static void check_state_dir(const struct settings *opt)
{
	int ret = mount_check_look_at_state_dir(opt->state_dir);

	if (ret == -EPERM)
		check_say(CHECK_FAIL, "state_dir", "%s: everybody may write to it: chmod 700 it, or choose another", opt->state_dir);
	else if (ret < 0)
		check_say(CHECK_FAIL, "state_dir", "%s: %s: choose another by -o state_dir=", opt->state_dir, strerror(-ret));
	else
		check_say(CHECK_OK, "state_dir", "%s%s", opt->state_dir, ret ? " (will be made)" : "");
}

static void check_spool_dir(const struct settings *opt, int64_t largest)
{
	int64_t need = largest > SPOOL_LEAST ? largest : SPOOL_LEAST, space;
	struct statvfs st;

	if (access(opt->spool_dir, W_OK | X_OK) < 0 || statvfs(opt->spool_dir, &st) < 0) {
		check_say(CHECK_FAIL, "spool_dir", "%s: %s: choose another by -o spool_dir=", opt->spool_dir, strerror(errno));
		return;
	}
	space = (int64_t)st.f_bavail * (int64_t)st.f_frsize;
	if (space < need)
		check_say(CHECK_WARN, "spool_dir",
			  "%s has %" PRId64 " MiB left: a transaction that rewrites the largest database needs %" PRId64
			  " MiB; choose another by -o spool_dir=", opt->spool_dir, space >> 20, need >> 20);
	else
		check_say(CHECK_OK, "spool_dir", "%s, %" PRId64 " MiB left", opt->spool_dir, space >> 20);
}

/* ---- LiteFS here ---- */

static bool check_litefs_dir(struct settings *opt)
{
	static char subject[] = "litefs_dir";
	int err;

	opt->wait_ms = 0;
	mount_check_tell(fail_with, subject);
	err = mount_check_litefs_dir(opt);
	mount_check_tell(NULL, NULL);
	if (!err)
		check_say(CHECK_OK, subject, "%s is LiteFS' mount, and it answers", opt->litefs_dir);
	return !err;
}

/* ".primary" is there exactly on a replica that is connected to a primary. */
static void compare_with_dir(const struct settings *opt, const struct api_info *info)
{
	char path[4096 + 16];
	bool there;

	snprintf(path, sizeof path, "%s/.primary", opt->litefs_dir);
	there = access(path, F_OK) == 0;
	if (info->is_primary && there)
		check_say(CHECK_FAIL, "litefs_url", "%s is the primary, %s is a replica's: that is another node's LiteFS; give this node's by -o litefs_url=",
			  opt->litefs_url, opt->litefs_dir);
}

static bool check_litefs_http(const struct settings *opt, struct api_info *info)
{
	struct api *api = NULL;
	int err = api_new(opt->litefs_url, random_u64(), &api);

	if (!err)
		err = api_info(api, INFO_TIMEOUT_MS, info);
	if (err)
		check_say(CHECK_FAIL, "litefs_url", "%s does not answer as LiteFS (%s): say where it is by -o litefs_url= or litefs_config=", opt->litefs_url,
			  api && *api_error(api) ? api_error(api) : strerror(-err));
	api_free(api);
	if (err)
		return false;
	check_say(CHECK_OK, "litefs_url", "%s answers: %s of cluster %s", opt->litefs_url, info->is_primary ? "primary" : "replica",
		  *info->cluster_id ? info->cluster_id : "(none)");
	compare_with_dir(opt, info);
	if (!*info->path)
		check_say(CHECK_WARN, "litefs_version", "it does not say where its data is: v0.5.14 does, and is what litefwd is tested with");
	else
		check_say(CHECK_OK, "litefs_version", "its API is as v0.5.14's, which does not tell its version");
	if (*info->path && access(info->path, R_OK | X_OK) < 0)
		check_say(CHECK_WARN, "data_dir", "%s: %s: without its LTX files the outcome of a commit whose answer is lost stays unknown", info->path,
			  strerror(errno));
	else if (*info->path)
		check_say(CHECK_OK, "data_dir", "%s", info->path);
	return true;
}

/* ---- the command line ---- */

static const char usage[] = "usage: litefwd check [-o OPTIONS] [LITEFS_DIR]\n"
			    "\n"
			    "Looks whether litefwd can work on LITEFS_DIR here, with these options of the mount, and says what to do where not.\n"
			    "It mounts nothing and changes nothing. LITEFS_DIR may be left out where litefs_config= says it.\n"
			    "\n"
			    "Exit status: 0 all is well, 1 warnings, 2 it will not work, 3 usage.\n";

static int run(struct settings *opt)
{
	static const int codes[] = {0, 1, 2};
	struct api_info info = {0};
	int64_t largest = 0;
	bool dir, http;

	check_kernel();
	check_fuse(opt);
	dir = check_litefs_dir(opt);
	http = check_litefs_http(opt, &info);
	if (http)
		check_primary(opt, &info);
	if (dir)
		check_rights(opt);
	if (dir)
		check_databases(opt->litefs_dir, http && info.is_primary, &largest);
	check_state_dir(opt);
	check_spool_dir(opt, largest);
	return fflush(stdout) || ferror(stdout) ? 2 : codes[worst];
}

int command_check(int argc, char **argv)
{
	/* The mount's own parser wants a MOUNTPOINT, too. */
	char program[] = "litefwd", o[] = "-o", none[] = "none", nowhere[] = "/";
	char *list[32] = {program};
	struct settings opt;
	int n = 1, code = 3;
	bool bad = false;
	char *dir = NULL;

	for (int i = 2; i < argc && n < 28; i++) {
		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			fputs(usage, stdout);
			return fflush(stdout) ? 3 : 0;
		}
		if (!strcmp(argv[i], "-o") && i + 1 < argc) {
			list[n++] = o;
			list[n++] = argv[++i];
		} else if (!strncmp(argv[i], "-o", 2) && argv[i][2]) {
			list[n++] = argv[i];
		} else if (argv[i][0] != '-' && !dir) {
			dir = argv[i];
		} else {
			bad = true;
		}
	}
	if (bad) {
		fputs(usage, stderr);
		return 3;
	}
	list[n++] = dir ? dir : none; /* which is litefs.yml's */
	list[n++] = nowhere;
	log_init(false, LOG_LV_ERROR);
	options_init(&opt);
	if (options_parse(&opt, n, list, OPTIONS_CONFIG) == 0 && options_resolve(&opt) == 0 && api_global_init() == 0) {
		code = run(&opt);
		api_global_fini();
	}
	options_fini(&opt);
	return code;
}
