/*
 * options: one table of options that feeds parser, --help and defaults (the man
 * page is compared with it by a test).
 *
 * Threads: before the first one. Errors: -EINVAL with a message on stderr that says what to do.
 */
#ifndef LITEFWD_PROG_OPTIONS_H
#define LITEFWD_PROG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct options {
	/* positional */
	char *litefs_dir; /* absolute, resolved */
	char *mountpoint; /* absolute */
	/* program */
	bool foreground; /* -f */
	bool debug; /* -d: implies -f */
	bool show_help, show_version;
	/* -o, DESIGN 10; owned strings, NULL: not given. Times in ms, sizes in bytes. */
	char *litefs_url;
	char *litefs_config;
	char *primary_url;
	int64_t halt_timeout_ms;
	int64_t commit_timeout_ms;
	int64_t halt_linger_ms; /* keep HALT (or LiteFS' WRITE) this long after a commit */
	int64_t halt_max_hold_ms; /* give it back after this, whatever happens ... */
	int64_t halt_pause_ms; /* ... and leave it to others for this long */
	int64_t read_max_hold_ms; /* 0: off */
	int64_t wait_ms;
	char *state_dir;
	char *spool_dir;
	int64_t spool_threshold; /* bytes */
	bool hide_primary;
	bool allow_other;
	bool ro;
	uid_t uid; /* (uid_t)-1: as the process */
	gid_t gid;
	mode_t umask; /* 022 by default */
	/* resolved by options_resolve() from the above and litefs.yml */
	char *lease_hostname;
	char *lease_url;
};

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_LITEFS = 3 };

/* Defaults. */
void options_init(struct options *opt);
void options_fini(struct options *opt);

/* argv as main's. 0 or -EINVAL (message printed). show_help/show_version may be set. */
int options_parse(struct options *opt, int argc, char **argv);

/* Reads litefs_config= and fills what was not given. 0 or negative errno (message printed). */
int options_resolve(struct options *opt);

/* The table as text for --help. */
void options_print_help(void);

/* Durations "250ms", "10s", "2m"; sizes "64M". 0 or -EINVAL. */
int options_parse_duration(const char *text, int64_t *ret_ms);
int options_parse_size(const char *text, int64_t *ret_bytes);

#endif
