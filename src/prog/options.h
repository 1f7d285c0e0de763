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

#include "base/settings.h"


enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_LITEFS = 3 };

/* Defaults. */
void options_init(struct settings *opt);
void options_fini(struct settings *opt);

/* argv as main's. 0 or -EINVAL (message printed). show_help/show_version may be set. */
int options_parse(struct settings *opt, int argc, char **argv);

/* Reads litefs_config= and fills what was not given. 0 or negative errno (message printed). */
int options_resolve(struct settings *opt);

/* The table as text for --help. */
void options_print_help(void);

/* Durations "250ms", "10s", "2m"; sizes "64M". 0 or -EINVAL. */
int options_parse_duration(const char *text, int64_t *ret_ms);
int options_parse_size(const char *text, int64_t *ret_bytes);

#endif
