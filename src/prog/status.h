/*
 * status: `litefwd status MOUNTPOINT [--json] [--watch] [--timeout=TIME]`: the mount's virtual file, for people and for monitors.
 *
 * It asks the mount and nobody else. The asking is done by a child, which is killed when the mount does not answer in time: a litefwd that is
 * stopped would hold whoever looks into its mount for ever.
 *
 * Exit codes are those of a monitoring plugin: 0 well, 1 degraded (warning), 2 not mounted or no answer (critical), 3 usage, or
 * it cannot be told (unknown). With --watch: of the last look, at SIGINT or SIGTERM.
 */
#ifndef LITEFWD_PROG_STATUS_H
#define LITEFWD_PROG_STATUS_H

#include <stdio.h>

#include <jansson.h>

enum { STATUS_WELL = 0, STATUS_DEGRADED = 1, STATUS_NOT_MOUNTED = 2, STATUS_UNKNOWN = 3 };

/* argv[1] is "status". An exit code. */
int command_status(int argc, char **argv);

/* The page for people; for tests. */
void status_print(const json_t *status, FILE *out);

#endif
