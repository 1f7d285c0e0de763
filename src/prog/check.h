/*
 * check: `litefwd check [-o OPTIONS] LITEFS_DIR`: why would litefwd not work here? To be asked before mounting, and beside a mount.
 *
 * One line for each thing that was looked at: OK, WARN (it will work, but) or FAIL (it will not), with what to do. It changes nothing: no lock
 * is taken, no directory made, nothing is asked of LiteFS but what it is. Blocks on LiteFS and the network, some seconds each.
 *
 * Exit codes as of status: 0 all OK, 1 warnings, 2 failures, 3 usage.
 */
#ifndef LITEFWD_PROG_CHECK_H
#define LITEFWD_PROG_CHECK_H

#include "base/settings.h"
#include "litefs/api.h"

enum check_level { CHECK_OK, CHECK_WARN, CHECK_FAIL };

/* argv[1] is "check". An exit code. */
int command_check(int argc, char **argv);

/* ---- shared by check_*.c ---- */

/* Prints a line; the worst level counts. */
void check_say(enum check_level level, const char *subject, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* check_primary.c: lease, primary, its gateway, clocks. info: what the local LiteFS says. */
void check_primary(const struct settings *opt, const struct api_info *info);
/* check_databases.c: those in LITEFS_DIR; *ret_largest: bytes. */
void check_databases(const char *litefs_dir, bool is_primary, int64_t *ret_largest);

#endif
