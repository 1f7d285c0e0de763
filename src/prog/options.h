/*
 * options: from argv, litefwd.conf and litefs.yml to struct settings, by the one table of options_table.h.
 *
 *	default < litefs.yml (what it says of LiteFS) < litefwd.conf < command line; within each the last one wins
 *
 * Threads: before the first one. Errors: -EINVAL with a message on stderr that says what to do.
 */
#ifndef LITEFWD_PROG_OPTIONS_H
#define LITEFWD_PROG_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/settings.h"
#include "litefs/role.h"

/* Where litefwd.conf is by default: sysconfdir is the build's. */
#ifdef SYSCONFDIR
#define OPTIONS_CONFIG SYSCONFDIR "/litefwd.conf"
#endif

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_NO_LITEFS = 3 };

/* Defaults. */
void options_init(struct settings *opt);
void options_fini(struct settings *opt);

/*
 * argv as main's, to settings fresh from options_init(). default_config: the litefwd.conf that is read where config= does not
 * say another and the file exists (OPTIONS_CONFIG); NULL: none. 0; -EINVAL, or -ENOENT and the like for a config= that
 * cannot be read (message printed). show_help/show_version may be set.
 */
int options_parse(struct settings *opt, int argc, char **argv, const char *default_config);

/* Reads litefs_config= and fills what was not given, litefs_dir too. 0 or negative errno (message printed). */
int options_resolve(struct settings *opt);

/* How role is asked, of resolved settings, which it borrows; callbacks are the caller's to add. */
struct role_config options_role_config(const struct settings *opt, uint64_t node_id);

/* Durations "250ms", "10s", "2m"; sizes "64M". 0 or -EINVAL. */
int options_parse_duration(const char *text, int64_t *ret_ms);
int options_parse_size(const char *text, int64_t *ret_bytes);

#endif
