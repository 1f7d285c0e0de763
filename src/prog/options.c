/*
 * Each option is one row of options_table: its name, what its value is, where it lands in
 * struct settings, its default as the user would write it, and its line of --help. Defaults
 * are parsed by the same code as values, so that a default cannot be what a user could not say.
 */
#include "prog/options.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "litefs/consul.h"
#include "litefs/litefs_config.h"
#include "litefs/role.h"
#include "litefs/url.h"

enum option_kind {
	OPT_STRING, /* char *, owned */
	OPT_PATH, /* char *, owned, made absolute: a daemon's working directory is "/" */
	OPT_URL, /* char *, owned, "http://..." */
	OPT_URL_TEMPLATE, /* the same, may hold {hostname} */
	OPT_ADDRESS, /* char *, owned, "192.0.2.1:PORT" */
	OPT_DURATION, /* int64_t, ms */
	OPT_SIZE, /* int64_t, bytes */
	OPT_FLAG, /* bool, no value */
	OPT_ID, /* uid_t or gid_t: both are 32 bits here */
	OPT_MODE, /* mode_t, octal */
};

struct option {
	const char *name;
	const char *value; /* what --help calls the value; NULL: a flag */
	enum option_kind kind;
	size_t offset;
	const char *initial; /* the default as text; NULL: none */
	bool late; /* the default yields to litefs.yml, so it is set by options_resolve() */
	int64_t max; /* of a duration, ms; 0: OPTION_DURATION_MAX_MS */
	const char *help;
};

#define OPTION_DURATION_MAX_MS (INT64_C(24) * 3600 * 1000)

/* LiteFS forgets a HALT after 30 s: a hold must end well before, or commits near its end are lost to the deadline. */
#define HOLD_MAX_MS (INT64_C(15) * 1000)

#define AT(field) offsetof(struct settings, field)

static const struct option options_table[] = {
	{"litefs_url", "URL", OPT_URL, AT(litefs_url), "http://localhost:20202", true, 0, "this node's LiteFS"},
	{"litefs_config", "FILE", OPT_PATH, AT(litefs_config), NULL, false, 0,
	 "LiteFS' litefs.yml: its URL and lease are read from it, options win"},
	{"primary_url", "TEMPLATE", OPT_URL_TEMPLATE, AT(primary_url), NULL, false, 0,
	 "where the primary's LiteFS is; {hostname} stands for its name"},
	{"gateway", "ADDR:PORT", OPT_ADDRESS, AT(gateway), NULL, false, 0,
	 "where other nodes' litefwd may come while this node is the primary"},
	{"gateway_url", "TEMPLATE", OPT_URL_TEMPLATE, AT(gateway_url), NULL, false, 0,
	 "where the primary's gateway is; {hostname} stands for its name"},
	{"gateway_secret", "FILE", OPT_PATH, AT(gateway_secret), NULL, false, 0,
	 "what gateways and those who ask them both know; 16 bytes or more"},
	{"metrics", "ADDR:PORT", OPT_ADDRESS, AT(metrics), NULL, false, 0, "where /metrics (for Prometheus) and /healthz answer"},
	{"halt_timeout", "TIME", OPT_DURATION, AT(halt_timeout_ms), "10s", false, 0,
	 "how long to wait for the right to write, then SQLITE_BUSY"},
	{"commit_timeout", "TIME", OPT_DURATION, AT(commit_timeout_ms), "30s", false, 0,
	 "how long to look for a lost commit's outcome, then unknown"},
	{"halt_linger", "TIME", OPT_DURATION, AT(halt_linger_ms), "10ms", false, HOLD_MAX_MS,
	 "how long to keep the lock after a commit, for the next one"},
	{"halt_max_hold", "TIME", OPT_DURATION, AT(halt_max_hold_ms), "100ms", false, HOLD_MAX_MS,
	 "how long to keep the lock over many transactions"},
	{"halt_pause", "TIME", OPT_DURATION, AT(halt_pause_ms), "20ms", false, 0,
	 "how long to leave the lock to others after that"},
	{"read_max_hold", "TIME", OPT_DURATION, AT(read_max_hold_ms), "off", false, 0,
	 "how long a read transaction may hold up replication, then EIO"},
	{"wait", "TIME", OPT_DURATION, AT(wait_ms), "30s", false, 0, "how long to wait for LiteFS at start"},
	{"state_dir", "DIR", OPT_PATH, AT(state_dir), "/run/litefwd", false, 0, "lock files and the ids of held locks"},
	{"spool_dir", "DIR", OPT_PATH, AT(spool_dir), "/var/tmp", false, 0, "where large transactions go"},
	{"spool_threshold", "SIZE", OPT_SIZE, AT(spool_threshold), "16M", false, 0,
	 "what is kept in memory before that"},
	{"hide_primary", NULL, OPT_FLAG, AT(hide_primary), NULL, false, 0, "hide the file .primary from applications"},
	{"allow_other", NULL, OPT_FLAG, AT(allow_other), NULL, false, 0, "let other users in"},
	{"uid", "N", OPT_ID, AT(uid), NULL, false, 0, "owner that the files show"},
	{"gid", "N", OPT_ID, AT(gid), NULL, false, 0, "group that the files show"},
	{"umask", "MODE", OPT_MODE, AT(umask), "022", false, 0, "bits to take from 0666 and 0777"},
	{"ro", NULL, OPT_FLAG, AT(ro), NULL, false, 0, "read only"},
};

#define OPTIONS (sizeof options_table / sizeof options_table[0])

_Static_assert(sizeof(uid_t) == sizeof(uint32_t) && sizeof(gid_t) == sizeof(uint32_t), "OPT_ID");

/* What mount(8), fstab and systemd hand over and what means nothing to us. A trailing '*' stands for any rest. */
static const char *const ignored_options[] = {
	"rw",	    "defaults", "noatime", "atime",   "relatime",      "norelatime", "strictatime", "nostrictatime",
	"lazytime", "nolazytime", "diratime", "nodiratime", "suid",   "nosuid",     "dev",	   "nodev",
	"exec",	    "noexec",	"sync",	   "async",   "dirsync",       "auto",	     "noauto",	    "user",
	"user=*",   "nouser",	"users",   "owner",   "group",	       "nofail",     "_netdev",	    "silent",
	"loud",	    "x-*",	"X-*",	   "comment=*", "nosymfollow",
};

static void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static void complain(const char *fmt, ...)
{
	va_list ap;

	fputs("litefwd: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* Digits and a unit of a table. 0 or -EINVAL. */
struct unit {
	const char *name;
	int64_t factor;
};

static int parse_scaled(const char *text, const struct unit *units, int64_t *ret)
{
	int64_t value = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *p - '0', &value))
			return -EINVAL;
	for (; units->name; units++) {
		if (strcmp(p, units->name) != 0)
			continue;
		if (__builtin_mul_overflow(value, units->factor, &value))
			return -EINVAL;
		*ret = value;
		return 0;
	}
	return -EINVAL;
}

int options_parse_duration(const char *text, int64_t *ret_ms)
{
	static const struct unit units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {NULL, 0}};

	if (!strcmp(text, "0") || !strcmp(text, "off")) {
		*ret_ms = 0;
		return 0;
	}
	return parse_scaled(text, units, ret_ms);
}

int options_parse_size(const char *text, int64_t *ret_bytes)
{
	static const struct unit units[] = {{"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {NULL, 0}};

	return parse_scaled(text, units, ret_bytes);
}

/* Decimal or octal, the whole text, at most max. */
static int parse_number(const char *text, int base, uint32_t max, uint32_t *ret)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	value = strtoul(text, &end, base);
	if (errno || *end || value > max)
		return -EINVAL;
	*ret = (uint32_t)value;
	return 0;
}

static int check_url(const char *text, bool template)
{
	char expanded[512];

	if (template)
		return role_expand_url(text, "h", expanded, sizeof expanded);
	if (strchr(text, '{'))
		return -EINVAL;
	return role_expand_url(text, NULL, expanded, sizeof expanded);
}

static int absolute(const char *path, char **ret)
{
	char cwd[PATH_MAX];
	char *joined;

	if (!*path)
		return -EINVAL;
	if (*path == '/') {
		joined = strdup(path);
	} else {
		if (!getcwd(cwd, sizeof cwd))
			return -errno;
		if (asprintf(&joined, "%s/%s", cwd, path) < 0)
			joined = NULL;
	}
	if (!joined)
		return -ENOMEM;
	*ret = joined;
	return 0;
}

static int set_string(char **field, const char *text, bool path)
{
	char *copy = NULL;
	int ret = 0;

	if (path)
		ret = absolute(text, &copy);
	else if (!(copy = strdup(text)))
		ret = -ENOMEM;
	if (ret)
		return ret;
	free(*field);
	*field = copy;
	return 0;
}

/* What kind of value the option wanted, for the complaint. */
static const char *expectation(const struct option *option)
{
	switch (option->kind) {
	case OPT_URL:
		return "a URL such as http://localhost:20202 (LiteFS speaks no https)";
	case OPT_URL_TEMPLATE:
		return "a URL such as http://{hostname}:20202 (LiteFS speaks no https)";
	case OPT_ADDRESS:
		return "an address and a port such as 192.0.2.1:20203 or [2001:db8::1]:20203";
	case OPT_DURATION:
		return "a time such as 250ms, 10s or 2m";
	case OPT_SIZE:
		return "a size such as 65536, 64K or 16M";
	case OPT_ID:
		return "a number";
	case OPT_MODE:
		return "an octal mode such as 022";
	case OPT_STRING:
	case OPT_PATH:
	case OPT_FLAG:
		break;
	}
	return "a value";
}

/* text: NULL for a flag. 0 or negative errno; the field is unchanged on error. */
static int set_option(struct settings *opt, const struct option *option, const char *text)
{
	char *field = (char *)opt + option->offset;
	struct sockaddr_storage addr;
	int64_t number;
	uint32_t id;
	int ret;

	switch (option->kind) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_STRING:
		return *text ? set_string((char **)field, text, false) : -EINVAL;
	case OPT_PATH:
		return set_string((char **)field, text, true);
	case OPT_URL:
	case OPT_URL_TEMPLATE:
		ret = check_url(text, option->kind == OPT_URL_TEMPLATE);
		return ret ? ret : set_string((char **)field, text, false);
	case OPT_ADDRESS:
		ret = url_parse_address(text, &addr);
		return ret ? ret : set_string((char **)field, text, false);
	case OPT_DURATION:
		ret = options_parse_duration(text, &number);
		if (ret)
			return ret;
		if (number > (option->max ? option->max : OPTION_DURATION_MAX_MS))
			return -ERANGE;
		*(int64_t *)field = number;
		return 0;
	case OPT_SIZE:
		return options_parse_size(text, (int64_t *)field);
	case OPT_ID:
		/* -1 means "as the process" and is nobody's id. */
		ret = parse_number(text, 10, UINT32_MAX - 1, &id);
		if (!ret)
			*(uint32_t *)field = id;
		return ret;
	case OPT_MODE:
		ret = parse_number(text, 8, 0777, &id);
		if (!ret)
			*(mode_t *)field = id;
		return ret;
	}
	return -EINVAL;
}

static bool is_ignored(const char *text)
{
	for (size_t i = 0; i < sizeof ignored_options / sizeof ignored_options[0]; i++) {
		const char *known = ignored_options[i];
		size_t len = strlen(known);

		if (known[len - 1] == '*' ? !strncmp(text, known, len - 1) : !strcmp(text, known))
			return true;
	}
	return false;
}

/* One "name" or "name=value". Errors are complained about. */
static int apply(struct settings *opt, const char *text, bool sloppy)
{
	size_t name_len = strcspn(text, "=");
	const char *value = text[name_len] ? text + name_len + 1 : NULL;

	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *option = &options_table[i];
		int ret;

		if (strlen(option->name) != name_len || strncmp(option->name, text, name_len) != 0)
			continue;
		if (!value != !option->value) {
			if (value)
				complain("option %s takes no value", option->name);
			else
				complain("option %s needs a value: %s=%s", option->name, option->name, option->value);
			return -EINVAL;
		}
		ret = set_option(opt, option, value);
		if (ret == -ERANGE)
			complain("%s=%s is more than can be honoured: at most %lldms", option->name, value,
				 (long long)(option->max ? option->max : OPTION_DURATION_MAX_MS));
		else if (ret == -ENOMEM)
			complain("out of memory");
		else if (ret)
			complain("%s=%s: expected %s", option->name, value, expectation(option));
		return ret ? -EINVAL : 0;
	}
	if (is_ignored(text)) {
		/* The later one wins, as with mount(8). */
		if (!strcmp(text, "rw") || !strcmp(text, "defaults"))
			opt->ro = false;
		return 0;
	}
	if (sloppy)
		return 0;
	complain("unknown option \"%s\": litefwd --help lists them", text);
	return -EINVAL;
}

/* "a,b=c\,d": a backslash makes the next character an ordinary one, as in libfuse. */
static int apply_list(struct settings *opt, const char *list, bool sloppy)
{
	char *buf = malloc(strlen(list) + 1);
	int ret = 0;

	if (!buf) {
		complain("out of memory");
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
			ret = apply(opt, buf, sloppy);
	}
	free(buf);
	return ret;
}

void options_init(struct settings *opt)
{
	memset(opt, 0, sizeof *opt);
	opt->uid = (uid_t)-1;
	opt->gid = (gid_t)-1;
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *option = &options_table[i];

		if (option->initial && !option->late && set_option(opt, option, option->initial))
			abort(); /* a default that our own parser refuses, or no memory for a few bytes */
	}
}

void options_fini(struct settings *opt)
{
	free(opt->litefs_dir);
	free(opt->mountpoint);
	free(opt->lease_hostname);
	free(opt->lease_url);
	free(opt->lease_consul_url);
	free(opt->lease_consul_key);
	for (size_t i = 0; i < OPTIONS; i++) {
		switch (options_table[i].kind) {
		case OPT_STRING:
		case OPT_PATH:
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

/* The letters before the positionals. as_mount: argv comes from mount(8), whose -f means "fake". */
static int parse_letter(struct settings *opt, const char *arg, const char *next, bool as_mount, bool *sloppy)
{
	if (!strcmp(arg, "-h") || !strcmp(arg, "--help")) {
		opt->show_help = true;
	} else if (!strcmp(arg, "-V") || !strcmp(arg, "--version")) {
		opt->show_version = true;
	} else if (as_mount && !strcmp(arg, "-s")) {
		*sloppy = true;
	} else if (as_mount && (!strcmp(arg, "-n") || !strcmp(arg, "-v") || !strcmp(arg, "-w"))) {
		; /* no mtab, verbose, read-write */
	} else if (as_mount && !strcmp(arg, "-r")) {
		opt->ro = true;
	} else if (as_mount && (!strcmp(arg, "-t") || !strcmp(arg, "-N"))) {
		return next ? 1 : -EINVAL;
	} else if (!as_mount && !strcmp(arg, "-f")) {
		opt->foreground = true;
	} else if (!as_mount && !strcmp(arg, "-d")) {
		opt->debug = opt->foreground = true;
	} else {
		complain("unknown option \"%s\": litefwd --help lists them", arg);
		return -EINVAL;
	}
	return 0;
}

static int parse_argv(struct settings *opt, int argc, char **argv, bool as_mount)
{
	bool sloppy = false, letters = true;
	char **positional[] = {&opt->litefs_dir, &opt->mountpoint};
	size_t positionals = 0;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		int ret;

		if (letters && !strcmp(arg, "--")) {
			letters = false;
		} else if (letters && !strncmp(arg, "-o", 2)) {
			const char *list = arg[2] ? arg + 2 : argv[++i];

			if (!list) {
				complain("-o needs options, as in -o %s=%s", options_table[0].name,
					 options_table[0].initial);
				return -EINVAL;
			}
			ret = apply_list(opt, list, sloppy);
			if (ret)
				return ret;
		} else if (letters && arg[0] == '-' && arg[1]) {
			ret = parse_letter(opt, arg, argv[i + 1], as_mount, &sloppy);
			if (ret < 0)
				return ret;
			i += ret;
			/* Whoever asks for help has an incomplete command line. */
			if (opt->show_help || opt->show_version)
				return 0;
		} else if (positionals == 2) {
			complain("too many arguments, from \"%s\" on: litefwd [-f] [-o OPTIONS] LITEFS_DIR MOUNTPOINT",
				 arg);
			return -EINVAL;
		} else {
			ret = set_string(positional[positionals], arg, true);
			if (ret) {
				complain("\"%s\" is no directory: %s", arg, strerror(-ret));
				return -EINVAL;
			}
			positionals++;
		}
	}
	if (positionals < 2) {
		complain("%s missing: litefwd [-f] [-o OPTIONS] LITEFS_DIR MOUNTPOINT",
			 positionals ? "MOUNTPOINT is" : "LITEFS_DIR and MOUNTPOINT are");
		return -EINVAL;
	}
	return 0;
}

int options_parse(struct settings *opt, int argc, char **argv)
{
	const char *name = argc > 0 ? argv[0] : "litefwd";
	const char *slash = strrchr(name, '/');

	return parse_argv(opt, argc, argv, !strcmp(slash ? slash + 1 : name, "mount.litefwd"));
}

/* Moves *from to *to where *to was not given. */
static void fill(char **to, char **from)
{
	if (*to)
		return;
	*to = *from;
	*from = NULL;
}

/* Not the URL itself in the complaint: it may hold a password. */
static int check_consul(const struct settings *opt, const struct litefs_config *config)
{
	struct consul_target target;
	const char *problem;
	int ret = consul_target_parse(config->lease_consul_url, config->lease_consul_key, &target, &problem);

	if (ret)
		complain("%s: %s", opt->litefs_config, problem);
	explicit_bzero(&target, sizeof target);
	return ret;
}

static int resolve_config(struct settings *opt)
{
	struct litefs_config config = {0};
	int ret = litefs_config_load(opt->litefs_config, &config);

	if (ret == -EBADMSG)
		complain("%s: %s", opt->litefs_config, config.message);
	else if (ret)
		complain("litefs_config=%s: %s", opt->litefs_config, strerror(-ret));
	if (ret)
		goto out;
	fill(&opt->litefs_url, &config.local_url);
	if (config.lease_type && !strcmp(config.lease_type, "static")) {
		fill(&opt->lease_hostname, &config.lease_hostname);
		fill(&opt->lease_url, &config.lease_advertise_url);
	} else if (opt->primary_url) {
		; /* it wins, and Consul is never asked */
	} else if (config.lease_type && !strcmp(config.lease_type, "consul")) {
		ret = check_consul(opt, &config);
		fill(&opt->lease_consul_url, &config.lease_consul_url);
		fill(&opt->lease_consul_key, &config.lease_consul_key);
	} else {
		complain("%s: the lease is neither \"static\" nor \"consul\" but \"%s\": "
			 "say where the primary is with -o primary_url=http://{hostname}:20202",
			 opt->litefs_config, config.lease_type ? config.lease_type : "");
		ret = -EINVAL;
	}
out:
	litefs_config_fini(&config);
	return ret;
}

/* Whoever reaches a gateway can write every database. */
static int check_gateway(const struct settings *opt)
{
	struct sockaddr_storage addr;

	if (!opt->gateway || opt->gateway_secret || (url_parse_address(opt->gateway, &addr) == 0 && url_is_loopback(&addr)))
		return 0;
	complain("gateway=%s lets anybody who reaches that address write: give gateway_secret=FILE, the same on every node "
		 "(openssl rand -hex 32 >FILE; chmod 600 FILE), or an address such as 127.0.0.1:20203", opt->gateway);
	return -EINVAL;
}

int options_resolve(struct settings *opt)
{
	if (check_gateway(opt))
		return -EINVAL;
	if (opt->litefs_config) {
		int ret = resolve_config(opt);

		if (ret)
			return ret;
	}
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *option = &options_table[i];
		char **field = (char **)((char *)opt + option->offset);

		if (option->late && !*field && set_option(opt, option, option->initial)) {
			complain("out of memory");
			return -ENOMEM;
		}
	}
	return 0;
}

void options_print_help(void)
{
	printf("usage: litefwd [-f] [-d] [-o OPTIONS] LITEFS_DIR MOUNTPOINT\n"
	       "       litefwd --help | --version\n\n"
	       "Shows the LiteFS directory LITEFS_DIR at MOUNTPOINT, writable by SQLite on every node:\n"
	       "each transaction is committed on the cluster's primary.\n\n"
	       "  -f  stay in the foreground, log on stderr\n"
	       "  -d  the same, and log more\n\n"
	       "OPTIONS, separated by commas (TIME: 250ms, 10s, 2m; SIZE: 65536, 64K, 16M):\n");
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option *option = &options_table[i];
		const char *value = option->value ? option->value : "";
		int width = printf("  %s%s%s", option->name, *value ? "=" : "", value);

		printf("%*s%s", width < 26 ? 26 - width : 1, "", option->help);
		if (option->initial)
			printf(" (default %s)", option->initial);
		putchar('\n');
	}
	printf("\nWhat mount(8) and fstab add (rw, noatime, _netdev, x-... and so on) is accepted and ignored.\n"
	       "Exit status: %d success, %d failed, %d usage, %d LiteFS is not there.\n",
	       EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_LITEFS);
}
