/* The table of options: what is parsed, what is refused, where it lands. The messages are tested by test_cli.sh. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "prog/options.h"
#include "prog/options_table.h"

#define MAX_ARGS 16

/* Parses a NULL-terminated argv; opt must be given to options_fini() afterwards. */
static int parse(struct settings *opt, const char *first, ...)
{
	char *argv[MAX_ARGS + 1];
	int argc = 0;
	va_list ap;

	va_start(ap, first);
	for (const char *arg = first; arg; arg = va_arg(ap, const char *)) {
		assert_true(argc < MAX_ARGS);
		argv[argc++] = (char *)(uintptr_t)arg;
	}
	va_end(ap);
	argv[argc] = NULL;
	options_init(opt);
	return options_parse(opt, argc, argv, NULL);
}

#define PARSE_O(opt, list) parse(opt, "litefwd", "-o", list, "/l", "/m", NULL)

static void assert_refused(const char *list)
{
	struct settings opt;

	assert_int_equal(PARSE_O(&opt, list), -EINVAL);
	options_fini(&opt);
}

static void defaults__parsed__as_documented(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "litefwd", "/l", "/m", NULL), 0);
	assert_string_equal(opt.litefs_dir, "/l");
	assert_string_equal(opt.mountpoint, "/m");
	assert_null(opt.litefs_url); /* so that litefs.yml can give it */
	assert_null(opt.litefs_config);
	assert_null(opt.primary_url);
	assert_int_equal(opt.halt_timeout_ms, 10000);
	assert_int_equal(opt.commit_timeout_ms, 30000);
	assert_int_equal(opt.wait_ms, 30000);
	assert_int_equal(opt.read_max_hold_ms, 0);
	assert_true(opt.halt_linger_ms <= opt.halt_max_hold_ms);
	assert_string_equal(opt.state_dir, "/run/litefwd");
	assert_string_equal(opt.spool_dir, "/var/tmp");
	assert_int_equal(opt.spool_threshold, 16 << 20);
	assert_int_equal(opt.umask, 022);
	assert_true(opt.uid == (uid_t)-1 && opt.gid == (gid_t)-1);
	assert_false(opt.foreground || opt.debug || opt.hide_primary || opt.allow_other || opt.ro);
	options_fini(&opt);
}

static void options__all__land_in_their_fields(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(PARSE_O(&opt, "litefs_url=http://a:1,litefs_config=/c,primary_url=http://{hostname}:2,"
				       "gateway=[::1]:9,gateway_url=http://{hostname}:9,gateway_secret=/k,"
				       "halt_timeout=1s,commit_timeout=2s,halt_linger=3ms,halt_max_hold=4ms,"
				       "halt_pause=5ms,read_max_hold=6s,wait=7s,state_dir=/s,spool_dir=/t,spool_threshold=8K,"
				       "hide_primary,allow_other,uid=9,gid=10,umask=077,ro"), 0);
	assert_string_equal(opt.litefs_url, "http://a:1");
	assert_string_equal(opt.litefs_config, "/c");
	assert_string_equal(opt.primary_url, "http://{hostname}:2");
	assert_string_equal(opt.gateway, "[::1]:9");
	assert_string_equal(opt.gateway_url, "http://{hostname}:9");
	assert_string_equal(opt.gateway_secret, "/k");
	assert_int_equal(opt.halt_timeout_ms, 1000);
	assert_int_equal(opt.commit_timeout_ms, 2000);
	assert_int_equal(opt.halt_linger_ms, 3);
	assert_int_equal(opt.halt_max_hold_ms, 4);
	assert_int_equal(opt.halt_pause_ms, 5);
	assert_int_equal(opt.read_max_hold_ms, 6000);
	assert_int_equal(opt.wait_ms, 7000);
	assert_string_equal(opt.state_dir, "/s");
	assert_string_equal(opt.spool_dir, "/t");
	assert_int_equal(opt.spool_threshold, 8192);
	assert_true(opt.hide_primary && opt.allow_other && opt.ro);
	assert_int_equal(opt.uid, 9);
	assert_int_equal(opt.gid, 10);
	assert_int_equal(opt.umask, 077);
	options_fini(&opt);
}

static void options__given_twice__last_wins(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "litefwd", "-owait=1s,ro,state_dir=/a", "/l", "-o", "wait=2s,rw", "/m", "-o",
			       "state_dir=/b", NULL), 0);
	assert_int_equal(opt.wait_ms, 2000);
	assert_string_equal(opt.state_dir, "/b");
	assert_false(opt.ro);
	options_fini(&opt);
}

static void options__escaped_comma__part_of_the_value(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(PARSE_O(&opt, "state_dir=/a\\,b\\\\c,ro"), 0);
	assert_string_equal(opt.state_dir, "/a,b\\c");
	assert_true(opt.ro);
	options_fini(&opt);
}

static void options__empty_elements__skipped(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(PARSE_O(&opt, ",,ro,,"), 0);
	assert_true(opt.ro);
	options_fini(&opt);
}

static void options__of_mount_and_fstab__ignored(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(PARSE_O(&opt, "rw,noatime,nosuid,nodev,_netdev,noauto,nofail,x-systemd.after=a,comment=b,dev,"
				       "suid,exec,noexec,auto,user,user=joe,users,defaults,relatime,sync,async"), 0);
	assert_false(opt.ro);
	options_fini(&opt);
}

static void options__unknown__refused(void **state)
{
	(void)state;
	assert_refused("nonsense");
	assert_refused("wait");
	assert_refused("wait2=1s");
	assert_refused("ro,wai=1s");
	assert_refused("=1");
	assert_refused("noatimes");
	assert_refused("ro=");
}

static void urls__unusable__refused(void **state)
{
	(void)state;
	assert_refused("litefs_url=");
	assert_refused("litefs_url=localhost:20202");
	assert_refused("litefs_url=https://localhost:20202");
	assert_refused("litefs_url=http://{hostname}:20202");
	assert_refused("litefs_url=http://");
	assert_refused("primary_url=https://{hostname}");
	assert_refused("primary_url=");
}

static void durations__well_formed__in_ms(void **state)
{
	static const struct {
		const char *text;
		int64_t ms;
	} cases[] = {{"0", 0},	    {"off", 0},	      {"0s", 0},       {"1ms", 1},     {"250ms", 250},
		     {"10s", 10000}, {"2m", 120000}, {"1h", 3600000}, {"007s", 7000}};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int64_t ms = -1;

		assert_int_equal(options_parse_duration(cases[i].text, &ms), 0);
		assert_int_equal(ms, cases[i].ms);
	}
}

static void durations__malformed__refused_and_unchanged(void **state)
{
	static const char *const cases[] = {
		"",    "s",  "10", "1.5s", "-1s",  "+1s", " 1s", "1s ", "1 s", "1S", "1d", "ms", "1ms2",
		"9223372036854775808ms", "9223372036854775807s", "99999999999999999999999s",
	};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int64_t ms = -7;

		assert_int_equal(options_parse_duration(cases[i], &ms), -EINVAL);
		assert_int_equal(ms, -7);
	}
}

static void sizes__well_formed__in_bytes(void **state)
{
	static const struct {
		const char *text;
		int64_t bytes;
	} cases[] = {{"0", 0}, {"512", 512}, {"64K", 65536}, {"16M", 16777216}, {"3G", INT64_C(3221225472)},
		     {"9223372036854775807", INT64_MAX}};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int64_t bytes = -1;

		assert_int_equal(options_parse_size(cases[i].text, &bytes), 0);
		assert_true(bytes == cases[i].bytes);
	}
}

static void sizes__malformed__refused_and_unchanged(void **state)
{
	static const char *const cases[] = {"",	  "K",	  "-1",	 "1k",			"1MB",
					    "1T", "0x10", "1 M", "9223372036854775808", "9007199254740992M"};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int64_t bytes = -7;

		assert_int_equal(options_parse_size(cases[i], &bytes), -EINVAL);
		assert_int_equal(bytes, -7);
	}
}

static void numbers__malformed__refused(void **state)
{
	(void)state;
	assert_refused("uid=root");
	assert_refused("uid=-1");
	assert_refused("uid=4294967295");
	assert_refused("gid=1x");
	assert_refused("umask=08");
	assert_refused("umask=1000");
	assert_refused("umask=");
}

static void gateway__no_address__refused(void **state)
{
	static const char *const bad[] = {"gateway=", "gateway=:1", "gateway=1.2.3.4", "gateway=1.2.3.4:", "gateway=1.2.3.4:0",
					  "gateway=1.2.3.4:65536", "gateway=1.2.3.4:99999999999", "gateway=1.2.3.4:1x",
					  "gateway=host:1", "gateway=::1:1", "gateway=[::1:1", "gateway=[]:1", "gateway=1.2.3:1"};

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		assert_refused(bad[i]);
}

static void gateway__open_to_others__needs_a_secret(void **state)
{
	static const struct {
		const char *list;
		int err;
	} rows[] = {
		{"gateway=127.0.0.1:1", 0}, {"gateway=127.9.9.9:1", 0}, {"gateway=[::1]:1", 0}, {"gateway=0.0.0.0:1", -EINVAL},
		{"gateway=[::]:1", -EINVAL}, {"gateway=10.0.0.1:1", -EINVAL}, {"gateway=[2001:db8::1]:1", -EINVAL},
		{"gateway=[::ffff:127.0.0.1]:1", -EINVAL}, {"gateway=10.0.0.1:1,gateway_secret=/k", 0}, {"gateway_secret=/k", 0},
	};
	struct settings opt;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_int_equal(PARSE_O(&opt, rows[i].list), 0);
		assert_int_equal(options_resolve(&opt), rows[i].err);
		options_fini(&opt);
	}
}

static void bounds__beyond__refused(void **state)
{
	(void)state;
	assert_refused("halt_timeout=0");
	assert_refused("halt_timeout=9ms");
	assert_refused("commit_timeout=99ms");
	assert_refused("commit_timeout=off");
	assert_refused("spool_threshold=65G");
	assert_refused("wait=25h");
}

static void holds__longer_than_halt_lives__refused(void **state)
{
	(void)state;
	assert_refused("halt_max_hold=30s");
	assert_refused("halt_linger=16s");
	assert_refused("halt_timeout=25h");
}

static void paths__relative__made_absolute(void **state)
{
	char dir[] = "/tmp/test_options.XXXXXX", cwd[4096], expected[4200];
	struct settings opt;

	(void)state;
	assert_non_null(getcwd(cwd, sizeof cwd));
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_int_equal(parse(&opt, "litefwd", "-o", "state_dir=s", "l", "/m", NULL), 0);
	snprintf(expected, sizeof expected, "%s/l", dir);
	assert_string_equal(opt.litefs_dir, expected);
	assert_string_equal(opt.mountpoint, "/m");
	snprintf(expected, sizeof expected, "%s/s", dir);
	assert_string_equal(opt.state_dir, expected);
	options_fini(&opt);
	assert_int_equal(chdir(cwd), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void letters__given__set_flags(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "litefwd", "-f", "/l", "/m", NULL), 0);
	assert_true(opt.foreground);
	assert_false(opt.debug);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "/l", "/m", "-d", NULL), 0);
	assert_true(opt.foreground && opt.debug);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "--version", NULL), 0);
	assert_true(opt.show_version);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "-s", "/l", "/m", NULL), -EINVAL);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "--", "-l", "/m", NULL), 0);
	assert_non_null(strstr(opt.litefs_dir, "/-l"));
	options_fini(&opt);
}

static void mount_helper__letters_of_mount__understood(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "/sbin/mount.litefwd", "/l", "/m", "-s", "-n", "-v", "-r", "-t", "litefwd", "-o",
			       "nonsense,wait=1s", NULL), 0);
	assert_true(opt.ro);
	assert_false(opt.foreground);
	assert_int_equal(opt.wait_ms, 1000);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "/sbin/mount.litefwd", "/l", "/m", "-o", "nonsense", NULL), -EINVAL);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "mount.litefwd", "/l", "/m", "-fnv", NULL), 0);
	assert_true(opt.as_mount && opt.fake);
	assert_false(opt.foreground);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "mount.litefwd", "/l", "/m", "-fd", NULL), -EINVAL);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "mount.litefwd", "/l", "/m", "-t", NULL), -EINVAL);
	options_fini(&opt);
}

static void mount_helper__options_about_programs__last_wins(void **state)
{
	static const struct {
		const char *list;
		bool no_exec;
	} rows[] = {{"rw", false},	  {"noexec", true},	  {"user", true},	{"user=joe", true},    {"users", true},
		    {"owner", true},	  {"group", true},	  {"users,exec", false}, {"noexec,defaults", false}, {"exec,noexec", true},
		    {"nouser", false}};
	struct settings opt;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		assert_int_equal(PARSE_O(&opt, rows[i].list), 0);
		assert_true(opt.no_exec == rows[i].no_exec);
		options_fini(&opt);
	}
	assert_refused("remount");
}

/* ---- LITEFS_DIR left out ---- */

static void litefs_dir__left_out_or_none__litefs_config_says_it(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "litefwd", "-o", "litefs_config=/c", "/m", NULL), 0);
	assert_null(opt.litefs_dir);
	assert_string_equal(opt.source, "none");
	assert_string_equal(opt.mountpoint, "/m");
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "none", "/m", "-o", "litefs_config=/c", NULL), 0);
	assert_null(opt.litefs_dir);
	assert_string_equal(opt.source, "none");
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "/l", "/m", "-o", "litefs_config=/c", NULL), 0);
	assert_string_equal(opt.litefs_dir, "/l");
	assert_string_equal(opt.source, "/l");
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "/m", NULL), -EINVAL);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "none", "/m", NULL), -EINVAL);
	options_fini(&opt);
	assert_int_equal(parse(&opt, "litefwd", "-o", "litefs_config=/c", NULL), -EINVAL);
	options_fini(&opt);
}

/* ---- litefs.yml ---- */

static char *write_config(const char *text)
{
	char *path = strdup("/tmp/test_options.XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	return path;
}

/* Parses with litefs_config= and more options, resolves; opt must be given to options_fini(). */
static int resolve(struct settings *opt, const char *config, const char *more)
{
	char *path = write_config(config), *list = NULL;
	int ret;

	assert_true(asprintf(&list, "litefs_config=%s%s%s", path, *more ? "," : "", more) > 0);
	assert_int_equal(PARSE_O(opt, list), 0);
	ret = options_resolve(opt);
	unlink(path);
	free(path);
	free(list);
	return ret;
}

static const char static_config[] = "fuse:\n  dir: /l\n"
				    "http:\n  addr: \":30303\"\n"
				    "lease:\n  type: static\n  hostname: db1\n"
				    "  advertise-url: http://db1:30303\n  candidate: true\n";

static void resolve__litefs_dir_left_out__fuse_dir(void **state)
{
	static const char static_lease[] = "lease: {type: static}\n";
	char *path = write_config(static_config), *list = NULL;
	struct settings opt;

	(void)state;
	assert_true(asprintf(&list, "litefs_config=%s", path) > 0);
	assert_int_equal(parse(&opt, "litefwd", "-o", list, "/m", NULL), 0);
	assert_int_equal(options_resolve(&opt), 0);
	assert_string_equal(opt.litefs_dir, "/l");
	options_fini(&opt);
	unlink(path);
	free(path);
	free(list);
	/* LiteFS has a default. */
	path = write_config(static_lease);
	assert_true(asprintf(&list, "litefs_config=%s", path) > 0);
	assert_int_equal(parse(&opt, "litefwd", "-o", list, "none", "/m", NULL), 0);
	assert_int_equal(options_resolve(&opt), 0);
	assert_string_equal(opt.litefs_dir, "/litefs");
	options_fini(&opt);
	unlink(path);
	free(path);
	free(list);
}

static void resolve__static_replica_without_url__refused(void **state)
{
	static const char config[] = "lease: {type: static, candidate: false}\n";
	struct settings opt;

	(void)state;
	assert_int_equal(resolve(&opt, config, ""), -EINVAL);
	options_fini(&opt);
	assert_int_equal(resolve(&opt, config, "primary_url=http://{hostname}:1"), 0);
	options_fini(&opt);
	assert_int_equal(resolve(&opt, "lease: {type: static}\n", ""), 0); /* it is the primary itself */
	options_fini(&opt);
}

static void resolve__fuse_dir_relative__refused_unless_given(void **state)
{
	char *path = write_config("fuse: {dir: l}\nlease: {type: static}\n"), *list = NULL;
	struct settings opt;

	(void)state;
	assert_true(asprintf(&list, "litefs_config=%s", path) > 0);
	assert_int_equal(parse(&opt, "litefwd", "-o", list, "/m", NULL), 0);
	assert_int_equal(options_resolve(&opt), -EINVAL);
	options_fini(&opt);
	assert_int_equal(PARSE_O(&opt, list), 0);
	assert_int_equal(options_resolve(&opt), 0);
	assert_string_equal(opt.litefs_dir, "/l");
	options_fini(&opt);
	unlink(path);
	free(path);
	free(list);
}

static void resolve__environment__expanded_unless_told(void **state)
{
	static const char config[] = "lease: {type: static, hostname: $LFT_NAME}\n";
	struct settings opt;

	(void)state;
	setenv("LFT_NAME", "db7", 1);
	assert_int_equal(resolve(&opt, config, ""), 0);
	assert_string_equal(opt.lease_hostname, "db7");
	options_fini(&opt);
	assert_int_equal(resolve(&opt, config, "no_expand_env"), 0);
	assert_string_equal(opt.lease_hostname, "$LFT_NAME");
	options_fini(&opt);
}

/* ---- names ---- */

static void names__misspelt__nearest(void **state)
{
	static const struct {
		const char *text, *nearest;
	} rows[] = {
		{"hault_timeout", "halt_timeout"}, {"halt_timout", "halt_timeout"}, {"allowother", "allow_other"},
		{"litefs-config", "litefs_config"}, {"linger", "halt_linger"}, {"primary", "primary_url"}, {"umaks", "umask"},
		{"nonsense", NULL}, {"x", NULL}, {"", NULL}, {"r", NULL},
		{"0123456789012345678901234567890123456789012345678901234567890123456789", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct option *option = option_nearest(rows[i].text, strlen(rows[i].text));

		if (rows[i].nearest) {
			assert_non_null(option);
			assert_string_equal(option->name, rows[i].nearest);
		} else {
			assert_null(option);
		}
	}
}

/* ---- litefwd.conf ---- */

/* As litefwd -o list /l /m with text in its litefwd.conf; opt must be given to options_fini(). */
static int parse_with_conf(struct settings *opt, const char *text, const char *list)
{
	char *path = write_config(text);
	char *argv[] = {(char[]){"litefwd"}, (char[]){"/l"}, (char[]){"/m"}, (char[]){"-o"}, strdup(list), NULL};
	int ret;

	options_init(opt);
	ret = options_parse(opt, 5, argv, path);
	unlink(path);
	free(path);
	free(argv[4]);
	return ret;
}

static void conf__its_options__applied_and_the_command_line_wins(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse_with_conf(&opt, "# a comment, 1 = 2\n\n  halt_timeout = 2s  \nallow_other\r\n\tro\n"
					       "state_dir=/a b,c\nwait=3s\nwait=4s\n#wait=5s\nspool_dir=/x", "halt_timeout=7s,rw"), 0);
	assert_int_equal(opt.halt_timeout_ms, 7000);
	assert_true(opt.allow_other);
	assert_false(opt.ro);
	assert_string_equal(opt.state_dir, "/a b,c");
	assert_int_equal(opt.wait_ms, 4000);
	assert_string_equal(opt.spool_dir, "/x");
	options_fini(&opt);
	/* What it says of litefs.yml is as good. */
	assert_int_equal(parse_with_conf(&opt, "litefs_config = /c\n", "ro"), 0);
	assert_string_equal(opt.litefs_config, "/c");
	options_fini(&opt);
}

static void conf__named__instead_of_the_default(void **state)
{
	char *path = write_config("wait = 9s\n"), *list = NULL;
	struct settings opt;

	(void)state;
	assert_true(asprintf(&list, "config=%s", path) > 0);
	assert_int_equal(parse_with_conf(&opt, "wait = 1s\nhalt_timeout = 1s\n", list), 0);
	assert_int_equal(opt.wait_ms, 9000);
	assert_int_equal(opt.halt_timeout_ms, 10000);
	options_fini(&opt);
	assert_int_equal(parse_with_conf(&opt, "nonsense\n", "config=/dev/null"), 0);
	options_fini(&opt);
	unlink(path);
	free(path);
	free(list);
}

static void conf__no_litefwd_conf__refused(void **state)
{
	static const char *const texts[] = {"nonsense\n", "ro = 1\n", "wait\n", "wait = 10\n", "halt_max_hold = 1m\n", "config = /x\n",
					    "allow_other,ro\n", "allow other\n", "= 1\n", "[/data]\n", "\"wait\" = 1s\n"};
	struct settings opt;

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		assert_int_equal(parse_with_conf(&opt, texts[i], "rw"), -EINVAL);
		options_fini(&opt);
	}
}

static void conf__missing__default_may_be(void **state)
{
	char name[] = "litefwd", l[] = "/l", m[] = "/m", o[] = "-oconfig=/nonexistent/litefwd.conf", *argv[] = {name, l, m, o, NULL};
	struct settings opt;

	(void)state;
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 3, argv, "/nonexistent/litefwd.conf"), 0);
	options_fini(&opt);
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 4, argv, NULL), -ENOENT);
	options_fini(&opt);
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 3, argv, "/"), -EISDIR);
	options_fini(&opt);
}

static void conf__others_may_write__refused(void **state)
{
	char name[] = "litefwd", l[] = "/l", m[] = "/m", *argv[] = {name, l, m, NULL}, *path = write_config("ro\n");
	struct settings opt;

	(void)state;
	assert_int_equal(chmod(path, 0646), 0);
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 3, argv, path), -EPERM);
	options_fini(&opt);
	assert_int_equal(chmod(path, 0644), 0);
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 3, argv, path), 0);
	assert_true(opt.ro);
	options_fini(&opt);
	/* Only root can give a file away. */
	if (geteuid() == 0) {
		assert_int_equal(chown(path, 65534, 65534), 0);
		options_init(&opt);
		assert_int_equal(options_parse(&opt, 3, argv, path), -EPERM);
		options_fini(&opt);
	}
	unlink(path);
	free(path);
}

static void conf__help_asked__not_read(void **state)
{
	char name[] = "litefwd", help[] = "--help", *argv[] = {name, help, NULL};
	struct settings opt;

	(void)state;
	options_init(&opt);
	assert_int_equal(options_parse(&opt, 2, argv, "/"), 0);
	assert_true(opt.show_help);
	options_fini(&opt);
}

static void resolve__no_config__default_url(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(parse(&opt, "litefwd", "/l", "/m", NULL), 0);
	assert_int_equal(options_resolve(&opt), 0);
	assert_string_equal(opt.litefs_url, "http://localhost:20202");
	assert_null(opt.lease_url);
	options_fini(&opt);
}

static void resolve__static_lease__fills_url_and_lease(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(resolve(&opt, static_config, ""), 0);
	assert_string_equal(opt.litefs_url, "http://localhost:30303");
	assert_string_equal(opt.lease_hostname, "db1");
	assert_string_equal(opt.lease_url, "http://db1:30303");
	options_fini(&opt);
}

static void resolve__option_given__wins_over_config(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(resolve(&opt, static_config, "litefs_url=http://other:1"), 0);
	assert_string_equal(opt.litefs_url, "http://other:1");
	options_fini(&opt);
}

#define CONSUL(consul) \
	"fuse:\n  dir: /l\nlease:\n  type: consul\n  hostname: db1\n  advertise-url: http://db1:20202\n" consul

static void resolve__consul_lease__where_to_ask(void **state)
{
	static const char config[] = CONSUL("  consul: {url: 'http://:tok@c:8500', key: litefs/primary}\n");
	struct settings opt;

	(void)state;
	assert_int_equal(resolve(&opt, config, ""), 0);
	assert_string_equal(opt.lease_consul_url, "http://:tok@c:8500");
	assert_string_equal(opt.lease_consul_key, "litefs/primary");
	assert_null(opt.lease_url); /* this node's own, not the primary's */
	options_fini(&opt);
	assert_int_equal(resolve(&opt, config, "primary_url=http://{hostname}:20202"), 0);
	assert_null(opt.lease_url);
	assert_null(opt.lease_consul_key);
	options_fini(&opt);
}

static void resolve__consul_that_cannot_be_asked__needs_primary_url(void **state)
{
	static const char *const configs[] = {
		CONSUL(""), CONSUL("  consul: {url: 'http://c:8500'}\n"), CONSUL("  consul: {url: 'https://c:8501', key: k}\n"),
		"lease:\n  type: other\n", "{}\n"};
	struct settings opt;

	(void)state;
	for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
		assert_int_equal(resolve(&opt, configs[i], ""), -EINVAL);
		options_fini(&opt);
		assert_int_equal(resolve(&opt, configs[i], "primary_url=http://{hostname}:20202"), 0);
		options_fini(&opt);
	}
}

static void resolve__broken_config__refused(void **state)
{
	struct settings opt;

	(void)state;
	assert_int_equal(resolve(&opt, "lease: [\n", ""), -EBADMSG);
	options_fini(&opt);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults__parsed__as_documented),
		cmocka_unit_test(options__all__land_in_their_fields),
		cmocka_unit_test(options__given_twice__last_wins),
		cmocka_unit_test(options__escaped_comma__part_of_the_value),
		cmocka_unit_test(options__empty_elements__skipped),
		cmocka_unit_test(options__of_mount_and_fstab__ignored),
		cmocka_unit_test(options__unknown__refused),
		cmocka_unit_test(urls__unusable__refused),
		cmocka_unit_test(durations__well_formed__in_ms),
		cmocka_unit_test(durations__malformed__refused_and_unchanged),
		cmocka_unit_test(sizes__well_formed__in_bytes),
		cmocka_unit_test(sizes__malformed__refused_and_unchanged),
		cmocka_unit_test(numbers__malformed__refused),
		cmocka_unit_test(gateway__no_address__refused),
		cmocka_unit_test(gateway__open_to_others__needs_a_secret),
		cmocka_unit_test(bounds__beyond__refused),
		cmocka_unit_test(holds__longer_than_halt_lives__refused),
		cmocka_unit_test(paths__relative__made_absolute),
		cmocka_unit_test(letters__given__set_flags),
		cmocka_unit_test(mount_helper__letters_of_mount__understood),
		cmocka_unit_test(mount_helper__options_about_programs__last_wins),
		cmocka_unit_test(litefs_dir__left_out_or_none__litefs_config_says_it),
		cmocka_unit_test(names__misspelt__nearest),
		cmocka_unit_test(conf__its_options__applied_and_the_command_line_wins),
		cmocka_unit_test(conf__named__instead_of_the_default),
		cmocka_unit_test(conf__no_litefwd_conf__refused),
		cmocka_unit_test(conf__missing__default_may_be),
		cmocka_unit_test(conf__others_may_write__refused),
		cmocka_unit_test(conf__help_asked__not_read),
		cmocka_unit_test(resolve__no_config__default_url),
		cmocka_unit_test(resolve__static_lease__fills_url_and_lease),
		cmocka_unit_test(resolve__option_given__wins_over_config),
		cmocka_unit_test(resolve__consul_lease__where_to_ask),
		cmocka_unit_test(resolve__consul_that_cannot_be_asked__needs_primary_url),
		cmocka_unit_test(resolve__broken_config__refused),
		cmocka_unit_test(resolve__litefs_dir_left_out__fuse_dir),
		cmocka_unit_test(resolve__static_replica_without_url__refused),
		cmocka_unit_test(resolve__fuse_dir_relative__refused_unless_given),
		cmocka_unit_test(resolve__environment__expanded_unless_told),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
