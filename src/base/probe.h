/*
 * probe: static tracepoints (USDT) at the edges of what a database does: docs/tracing.md lists them with their arguments.
 *
 * Where sys/sdt.h is (Debian: systemtap-sdt-dev) each is one nop in the code and a note in the ELF file; else nothing at all. Arguments
 * must cost nothing to compute and have no effects: they are not evaluated where there is no header. Threads: any.
 *
 *   PROBE2(commit_send, db->name, size)       bpftrace: usdt:/usr/sbin/litefwd:litefwd:commit_send { printf("%s", str(arg0)); }
 */
#ifndef LITEFWD_BASE_PROBE_H
#define LITEFWD_BASE_PROBE_H

#ifdef HAVE_SYS_SDT_H
#include <sys/sdt.h>
#define PROBE1(name, a) DTRACE_PROBE1(litefwd, name, a)
#define PROBE2(name, a, b) DTRACE_PROBE2(litefwd, name, a, b)
#define PROBE3(name, a, b, c) DTRACE_PROBE3(litefwd, name, a, b, c)
#define PROBE4(name, a, b, c, d) DTRACE_PROBE4(litefwd, name, a, b, c, d)
#else
#define PROBE1(name, a) ((void)sizeof(a))
#define PROBE2(name, a, b) ((void)sizeof(a), (void)sizeof(b))
#define PROBE3(name, a, b, c) ((void)sizeof(a), (void)sizeof(b), (void)sizeof(c))
#define PROBE4(name, a, b, c, d) ((void)sizeof(a), (void)sizeof(b), (void)sizeof(c), (void)sizeof(d))
#endif

#endif
