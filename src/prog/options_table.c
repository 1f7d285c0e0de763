#include "prog/options_table.h"

#include <string.h>

#include "base/settings.h"

#define AT(field) .offset = offsetof(struct settings, field)

#define SECONDS INT64_C(1000)
#define HOURS (3600 * SECONDS)
#define DAY (24 * HOURS)

/* LiteFS forgets a HALT after 30 s: a hold must end well before, or commits near its end are lost to the deadline. */
#define HOLD_MAX (15 * SECONDS)

/* Defaults are parsed by the same code as values, so that a default cannot be what a user could not say. */
const struct option options_table[] = {
	{.name = "config", .value = "FILE", .kind = OPT_FILE, AT(config),
	 .help = "options from a litefwd.conf; those given here win",
	 .more = "The file is described in\n.Xr litefwd.conf 5 .\nWithout this option the one that is compiled in is read, if it exists;\n"
		 ".Pa /dev/null\nmakes\n.Nm\nread none."},
	{.name = "litefs_url", .value = "URL", .kind = OPT_URL, AT(litefs_url), .initial = "http://localhost:20202", .late = true,
	 .help = "this node's LiteFS",
	 .more = "Its HTTP port, which is\n.Cm http.addr\nin\n.Pa litefs.yml ."},
	{.name = "litefs_config", .value = "FILE", .kind = OPT_FILE, AT(litefs_config),
	 .help = "LiteFS' litefs.yml: its URL and lease are read from it, options win",
	 .more = "Its directory, too, so that\n.Ar litefs_dir\nmay be left out.\nSee\n.Sx litefs.yml ."},
	{.name = "no_expand_env", .kind = OPT_FLAG, AT(no_expand_env),
	 .help = "leave $VAR in litefs.yml as it is, as litefs mount -no-expand-env does"},
	{.name = "primary_url", .value = "TEMPLATE", .kind = OPT_URL_TEMPLATE, AT(primary_url),
	 .help = "where the primary's LiteFS is; {hostname} stands for its name",
	 .more = "The name is the one that LiteFS shows in\n.Pa .primary .\nSee\n.Sx Where the primary is ."},
	{.name = "gateway", .value = "ADDR:PORT", .kind = OPT_ADDRESS, AT(gateway),
	 .help = "where other nodes' litefwd may come while this node is the primary",
	 .more = "An address that is not a loopback one needs\n.Cm gateway_secret ."},
	{.name = "gateway_url", .value = "TEMPLATE", .kind = OPT_URL_TEMPLATE, AT(gateway_url),
	 .help = "where the primary's gateway is; {hostname} stands for its name",
	 .more = "The same on all nodes.\nWhere it does not answer, LiteFS' HALT lock is taken as without a gateway."},
	{.name = "gateway_secret", .value = "FILE", .kind = OPT_FILE, AT(gateway_secret),
	 .help = "what gateways and those who ask them both know; 16 bytes or more",
	 .more = "At most 256 bytes; a newline at the end does not count.\nThe file must be this user's and readable by nobody else,\n"
		 "and the same on every node."},
	{.name = "metrics", .value = "ADDR:PORT", .kind = OPT_ADDRESS, AT(metrics),
	 .help = "where /metrics (for Prometheus) and /healthz answer",
	 .more = "Without a password: whoever reaches the address may read them."},
	{.name = "halt_timeout", .value = "TIME", .kind = OPT_DURATION, AT(halt_timeout_ms), .initial = "10s", .min = 10, .max = DAY,
	 .help = "how long to wait for the right to write, then SQLITE_BUSY",
	 .more = "While the primary is away only the first writer waits that long; the others are told at once."},
	{.name = "commit_timeout", .value = "TIME", .kind = OPT_DURATION, AT(commit_timeout_ms), .initial = "30s", .min = 100,
	 .max = DAY, .help = "how long to look for a lost commit's outcome, then unknown",
	 .more = "With a Consul lease a new primary takes up to two of LiteFS'\n.Cm lease.consul.ttl\nto be found: choose more."},
	{.name = "halt_linger", .value = "TIME", .kind = OPT_DURATION, AT(halt_linger_ms), .initial = "10ms", .max = HOLD_MAX,
	 .help = "how long to keep the lock after a commit, for the next one"},
	{.name = "halt_max_hold", .value = "TIME", .kind = OPT_DURATION, AT(halt_max_hold_ms), .initial = "100ms", .max = HOLD_MAX,
	 .help = "how long to keep the lock over many transactions",
	 .more = "It is not taken from a transaction that has begun."},
	{.name = "halt_pause", .value = "TIME", .kind = OPT_DURATION, AT(halt_pause_ms), .initial = "20ms", .max = DAY,
	 .help = "how long to leave the lock to others after that"},
	{.name = "read_max_hold", .value = "TIME", .kind = OPT_DURATION, AT(read_max_hold_ms), .initial = "off", .max = DAY,
	 .help = "how long a read transaction may hold up replication, then EIO",
	 .more = "A read transaction that stays open keeps its node's LiteFS from applying what others commit, and, without a gateway,\n"
		 "other nodes from writing while this node is the primary.\nAfter 5 s the log names the process."},
	{.name = "wait", .value = "TIME", .kind = OPT_DURATION, AT(wait_ms), .initial = "30s", .max = DAY,
	 .help = "how long to wait for LiteFS at start",
	 .more = "For its mount, and then for its HTTP to answer."},
	{.name = "state_dir", .value = "DIR", .kind = OPT_DIR, AT(state_dir), .initial = "/run/litefwd",
	 .help = "lock files and the ids of held locks",
	 .more = "Made if it does not exist.\nUsers other than root need one of their own, on a file system that a restart clears."},
	{.name = "spool_dir", .value = "DIR", .kind = OPT_DIR, AT(spool_dir), .initial = "/var/tmp",
	 .help = "where large transactions go",
	 .more = "In files that have no name, so that nothing stays behind."},
	{.name = "spool_threshold", .value = "SIZE", .kind = OPT_SIZE, AT(spool_threshold), .initial = "16M",
	 .max = INT64_C(64) << 30, .help = "what is kept in memory before that",
	 .more = "See\n.Sx Memory ."},
	{.name = "hide_primary", .kind = OPT_FLAG, AT(hide_primary), .help = "hide the file .primary from applications",
	 .more = "For libraries that know LiteFS and would send writes to the primary by themselves."},
	{.name = "allow_other", .kind = OPT_FLAG, AT(allow_other), .help = "let other users in",
	 .more = "Users other than root may say so only where\n.Pa /etc/fuse.conf\nhas the line\n.Li user_allow_other ."},
	{.name = "uid", .value = "N", .kind = OPT_ID, AT(uid), .help = "owner that the files show",
	 .more = "As a number; without it, the user that runs\n.Nm ."},
	{.name = "gid", .value = "N", .kind = OPT_ID, AT(gid), .help = "group that the files show",
	 .more = "As a number; without it, the group that runs\n.Nm ."},
	{.name = "umask", .value = "MODE", .kind = OPT_MODE, AT(umask), .initial = "022",
	 .help = "bits to take from 0666 and 0777",
	 .more = "Which are the modes of files and of the directory.\nWith\n.Cm allow_other\nit decides who may write."},
	{.name = "ro", .kind = OPT_FLAG, AT(ro), .help = "read only"},
};

const size_t options_count = sizeof options_table / sizeof options_table[0];

/* A trailing '*' stands for any rest. exec, noexec, user and their like mean something: see options.c. */
static const char *const ignored_options[] = {
	"rw",	    "defaults", "noatime", "atime",   "relatime",      "norelatime", "strictatime", "nostrictatime",
	"lazytime", "nolazytime", "diratime", "nodiratime", "suid",   "nosuid",     "dev",	   "nodev",
	"exec",	    "noexec",	"sync",	   "async",   "dirsync",       "auto",	     "noauto",	    "user",
	"user=*",   "nouser",	"users",   "owner",   "group",	       "nofail",     "_netdev",	    "silent",
	"loud",	    "x-*",	"X-*",	   "comment=*", "nosymfollow", "nousers",    "noowner",	    "nogroup",
	"mand",	    "nomand",	"uhelper=*", "helper=*",
};

const struct option *option_find(const char *name, size_t len)
{
	for (size_t i = 0; i < options_count; i++)
		if (strlen(options_table[i].name) == len && !strncmp(options_table[i].name, name, len))
			return &options_table[i];
	return NULL;
}

#define NAME_MAX_LEN 40

/* Insertions, deletions and replacements that make b of a; large where either is longer than any name. */
static size_t edits(const char *a, size_t a_len, const char *b)
{
	size_t row[NAME_MAX_LEN + 1], b_len = strlen(b);

	if (a_len > NAME_MAX_LEN || b_len > NAME_MAX_LEN)
		return NAME_MAX_LEN;
	for (size_t j = 0; j <= b_len; j++)
		row[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[b_len];
}

const struct option *option_nearest(const char *name, size_t len)
{
	/* Half of it wrong is another word. */
	size_t least = len / 2 < 4 ? len / 2 : 4;
	const struct option *found = NULL;

	for (size_t i = 0; i < options_count; i++) {
		size_t n = edits(name, len, options_table[i].name);

		if (n < least || (n == least && !found && n)) {
			least = n;
			found = &options_table[i];
		}
	}
	/* "linger" is part of one name. */
	for (size_t i = 0; !found && len >= 4 && i < options_count; i++)
		if (memmem(options_table[i].name, strlen(options_table[i].name), name, len))
			found = &options_table[i];
	return found;
}

bool option_is_ignored(const char *text)
{
	for (size_t i = 0; i < sizeof ignored_options / sizeof ignored_options[0]; i++) {
		const char *known = ignored_options[i];
		size_t len = strlen(known);

		if (known[len - 1] == '*' ? !strncmp(text, known, len - 1) : !strcmp(text, known))
			return true;
	}
	return false;
}

const char *option_expectation(const struct option *option)
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
	case OPT_FILE:
		return "the path of a file";
	case OPT_DIR:
		return "the path of a directory";
	case OPT_FLAG:
		break;
	}
	return "nothing";
}
