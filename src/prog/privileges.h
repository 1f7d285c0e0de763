/*
 * privileges: what root does not need to serve a mount, it gives away; and descriptors as many as it may have.
 *
 * Kept: CAP_SYS_ADMIN (mount, unmount), CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (LiteFS' directories, state_dir and spool_dir may be
 * anybody's), CAP_SYS_PTRACE (/proc/TID/status where /proc is mounted with hidepid), CAP_NET_BIND_SERVICE where there is a gateway or metrics=.
 * This is no wall: who has these can become root. It keeps a mistake from being worse than it has to be (modules, devices, clocks,
 * networks, other users' ids), and no program that is run from here gains anything (no_new_privs).
 *
 * A plain user keeps all that it has, no_new_privs included: it has no capabilities, and unmounts by fusermount3, which is setuid.
 *
 * Threads: before the first one, for it is of a thread and its children. Errors: logged; litefwd goes on.
 */
#ifndef LITEFWD_PROG_PRIVILEGES_H
#define LITEFWD_PROG_PRIVILEGES_H

#include <stdbool.h>

void privileges_drop(bool with_listener);

/* Each client's file and each connection is one. */
void privileges_raise_files(void);

#endif
