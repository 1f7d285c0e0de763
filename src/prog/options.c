/*
 * options.c: the command line. litefwd.conf is applied first, but which one it is stands on the command line: that is
 * read twice then, so that it wins.
 */
#include "prog/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prog/options_internal.h"

#define USAGE "litefwd [-f] [-o OPTIONS] LITEFS_DIR MOUNTPOINT"

/* LITEFS_DIR as fstab has it where litefs.yml says the directory. */
#define SOURCE_NONE "none"

/* ---- complaints ---- */

void options_complain(const char *fmt, ...)
{
	va_list ap;

	fputs("litefwd: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

void options_complain_at(const struct option_origin *at, const char *fmt, ...)
{
	va_list ap;

	fputs("litefwd: ", stderr);
	if (at->file)
		fprintf(stderr, "%s:%u: ", at->file, at->line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* ---- one option ---- */

static void complain_range(const struct option_origin *at, const struct option *option, const char *value)
{
	char min[32], max[32];

	options_format(option, option->min, min, sizeof min);
	options_format(option, option->max, max, sizeof max);
	options_complain_at(at, "%s=%s is out of bounds: from %s to %s", option->name, value, min, max);
}

static int apply_row(struct settings *opt, const struct option *option, const char *value, const struct option_origin *at)
{
	int ret;

	if (!value != !option->value) {
		if (value)
			options_complain_at(at, "option %s takes no value", option->name);
		else
			options_complain_at(at, "option %s needs a value: %s=%s", option->name, option->name, option->value);
		return -EINVAL;
	}
	ret = options_set(opt, option, value);
	if (ret == -ERANGE)
		complain_range(at, option, value);
	else if (ret == -ENOMEM)
		options_complain("out of memory");
	else if (ret)
		options_complain_at(at, "%s=%s: expected %s", option->name, value, option_expectation(option));
	return ret ? -EINVAL : 0;
}

/* What mount(8) understands of the options that it hands on. The later one wins there, too. */
static void apply_ignored(struct settings *opt, const char *text)
{
	if (!strcmp(text, "rw") || !strcmp(text, "defaults"))
		opt->ro = false;
	if (!strcmp(text, "exec") || !strcmp(text, "defaults"))
		opt->no_exec = false;
	/* The four let a user mount, and stand for noexec, nosuid and nodev (which are ours anyway). */
	if (!strcmp(text, "noexec") || !strcmp(text, "user") || !strcmp(text, "users") || !strcmp(text, "owner") ||
	    !strcmp(text, "group") || !strncmp(text, "user=", 5))
		opt->no_exec = true;
}

static void complain_unknown(const struct option_origin *at, const char *text, size_t name_len)
{
	const struct option *nearest = option_nearest(text, name_len);

	if (!strcmp(text, "remount"))
		options_complain_at(at, "a mount of litefwd cannot be remounted: umount it, and mount it with the other options");
	else if (nearest)
		options_complain_at(at, "unknown option \"%s\": is %s%s%s meant? litefwd --help lists them", text, nearest->name,
				    nearest->value ? "=" : "", nearest->value ? nearest->value : "");
	else
		options_complain_at(at, "unknown option \"%s\": litefwd --help lists them", text);
}

int options_apply(struct settings *opt, const char *text, const struct option_origin *at)
{
	size_t name_len = strcspn(text, "=");
	const struct option *option = option_find(text, name_len);

	if (option)
		return apply_row(opt, option, text[name_len] ? text + name_len + 1 : NULL, at);
	if (option_is_ignored(text)) {
		apply_ignored(opt, text);
		return 0;
	}
	if (at->sloppy)
		return 0;
	complain_unknown(at, text, name_len);
	return -EINVAL;
}

/* "a,b=c\,d": a backslash makes the next character an ordinary one, as in libfuse. */
static int apply_list(struct settings *opt, const char *list, const struct option_origin *at)
{
	char *buf = malloc(strlen(list) + 1);
	int ret = 0;

	if (!buf) {
		options_complain("out of memory");
		return -EINVAL;
	}
	while (*list && !ret) {
		size_t n = 0;

		for (; *list && *list != ','; list++) {
			if (*list == '\\' && list[1])
				list++;
			buf[n++] = *list;
		}
		if (*list)
			list++;
		buf[n] = 0;
		if (n)
			ret = options_apply(opt, buf, at);
	}
	free(buf);
	return ret;
}

/* ---- life ---- */

void options_init(struct settings *opt)
{
	memset(opt, 0, sizeof *opt);
	opt->uid = (uid_t)-1;
	opt->gid = (gid_t)-1;
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];

		if (option->initial && !option->late && options_set(opt, option, option->initial))
			abort(); /* a default that our own parser refuses, or no memory for a few bytes */
	}
}

void options_fini(struct settings *opt)
{
	free(opt->litefs_dir);
	free(opt->mountpoint);
	free(opt->source);
	free(opt->lease_hostname);
	free(opt->lease_url);
	free(opt->lease_consul_url);
	free(opt->lease_consul_key);
	for (size_t i = 0; i < options_count; i++) {
		switch (options_table[i].kind) {
		case OPT_FILE:
		case OPT_DIR:
		case OPT_URL:
		case OPT_URL_TEMPLATE:
		case OPT_ADDRESS:
			free(*(char **)((char *)opt + options_table[i].offset));
			break;
		default:
			break;
		}
	}
	memset(opt, 0, sizeof *opt);
}

/* ---- argv ---- */

/* mount(8) gives one letter at a time; mount.litefwd by hand may get "-nv". False: not one of its letters. */
static bool parse_mount_letters(struct settings *opt, const char *letters, bool *sloppy)
{
	if (!*letters || letters[strspn(letters, "sfnvrw")])
		return false;
	for (; *letters; letters++) {
		if (*letters == 's')
			*sloppy = true;
		else if (*letters == 'f')
			opt->fake = true;
		else if (*letters == 'r')
			opt->ro = true;
		/* n: no mtab; v: verbose; w: read-write */
	}
	return true;
}

/* The letters before the positionals: how many arguments more they take, or -EINVAL. */
static int parse_letter(struct settings *opt, const char *arg, const char *next, bool *sloppy)
{
	if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) {
		opt->show_help = true;
	} else if (!strcmp(arg, "-V") || !strcmp(arg, "--version")) {
		opt->show_version = true;
	} else if (opt->as_mount && (!strcmp(arg, "-t") || !strcmp(arg, "-N"))) {
		if (next)
			return 1; /* the type is ours, and mount(8) has entered the namespace */
		options_complain("%s needs a value", arg);
		return -EINVAL;
	} else if (opt->as_mount && parse_mount_letters(opt, arg + 1, sloppy)) {
		;
	} else if (!opt->as_mount && !strcmp(arg, "-f")) {
		opt->foreground = true;
	} else if (!opt->as_mount && !strcmp(arg, "-d")) {
		opt->debug = opt->foreground = true;
	} else {
		options_complain("unknown option \"%s\": litefwd --help lists them", arg);
		return -EINVAL;
	}
	return 0;
}

/* positional[0..count) as they were given. */
static int take_positionals(struct settings *opt, char **positional, size_t count)
{
	const char *dir = count == 2 ? positional[0] : SOURCE_NONE, *mountpoint = positional[count - 1];
	int ret;

	if (!strcmp(dir, SOURCE_NONE)) {
		if (!opt->litefs_config) {
			options_complain("LITEFS_DIR \"" SOURCE_NONE "\" needs litefs_config=FILE, which says the directory: " USAGE);
			return -EINVAL;
		}
		ret = options_set_string(&opt->source, SOURCE_NONE, false);
	} else {
		ret = options_set_string(&opt->litefs_dir, dir, true);
		if (!ret)
			ret = options_set_string(&opt->source, opt->litefs_dir, false);
	}
	if (ret) {
		options_complain("\"%s\" is no directory: %s", dir, strerror(-ret));
		return -EINVAL;
	}
	ret = options_set_string(&opt->mountpoint, mountpoint, true);
	if (ret) {
		options_complain("\"%s\" is no directory: %s", mountpoint, strerror(-ret));
		return -EINVAL;
	}
	return 0;
}

static int parse_argv(struct settings *opt, int argc, char **argv)
{
	struct option_origin at = {0};
	bool letters = true;
	char *positional[2];
	size_t count = 0;

	for (int i = 1; i < argc; i++) {
		char *arg = argv[i];
		int ret;

		if (letters && !strcmp(arg, "--")) {
			letters = false;
		} else if (letters && !strncmp(arg, "-o", 2)) {
			const char *list = arg[2] ? arg + 2 : argv[++i];

			if (!list) {
				options_complain("-o needs options, as in -o litefs_config=/etc/litefs.yml");
				return -EINVAL;
			}
			ret = apply_list(opt, list, &at);
			if (ret)
				return ret;
		} else if (letters && arg[0] == '-' && arg[1]) {
			ret = parse_letter(opt, arg, argv[i + 1], &at.sloppy);
			if (ret < 0)
				return ret;
			i += ret;
			/* Whoever asks for help has an incomplete command line. */
			if (opt->show_help || opt->show_version)
				return 0;
		} else if (count == 2) {
			options_complain("too many arguments, from \"%s\" on: " USAGE, arg);
			return -EINVAL;
		} else {
			positional[count++] = arg;
		}
	}
	if (count == 2 || (count == 1 && opt->litefs_config))
		return take_positionals(opt, positional, count);
	options_complain("%s missing: " USAGE "; LITEFS_DIR may be left out with litefs_config=FILE",
			 count ? "MOUNTPOINT is" : "LITEFS_DIR and MOUNTPOINT are");
	return -EINVAL;
}

static bool is_mount_helper(int argc, char **argv)
{
	const char *name = argc > 0 ? argv[0] : "litefwd", *slash = strrchr(name, '/');

	return !strcmp(slash ? slash + 1 : name, "mount.litefwd");
}

/* The first reading: which litefwd.conf? *ret_path: owned; NULL: none was named. */
static int find_config(struct settings *opt, int argc, char **argv, char **ret_path)
{
	struct settings probe;
	int ret;

	options_init(&probe);
	probe.as_mount = opt->as_mount;
	/* Whether LITEFS_DIR may be left out is not known yet: what is said of the arguments is said the second time. */
	probe.litefs_config = strdup("");
	ret = probe.litefs_config ? parse_argv(&probe, argc, argv) : -ENOMEM;
	opt->show_help = probe.show_help;
	opt->show_version = probe.show_version;
	*ret_path = probe.config;
	probe.config = NULL;
	options_fini(&probe);
	return ret;
}

int options_parse(struct settings *opt, int argc, char **argv, const char *default_config)
{
	char *named = NULL;
	const char *path;
	int ret;

	opt->as_mount = is_mount_helper(argc, argv);
	ret = find_config(opt, argc, argv, &named);
	if (ret || opt->show_help || opt->show_version)
		goto out;
	path = named ? named : default_config;
	ret = path ? options_apply_file(opt, path) : 0;
	if (ret == -ENOENT && !named)
		ret = 0;
	else if (ret == -ENOENT)
		options_complain("config=%s: %s", named, strerror(ENOENT));
	if (!ret)
		ret = parse_argv(opt, argc, argv);
out:
	free(named);
	return ret;
}
