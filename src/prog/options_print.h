/*
 * options_print: the table of options as text, for --help and for the files that repeat it (`litefwd options FORMAT`,
 * which scripts/update-generated calls).
 *
 * It refuses to know how values are parsed. Threads: before the first one. Errors: of stdout, which the caller looks at.
 */
#ifndef LITEFWD_PROG_OPTIONS_PRINT_H
#define LITEFWD_PROG_OPTIONS_PRINT_H

/* litefwd --help. */
void options_print_help(void);

/*
 * One of: --man (items of litefwd.8), --man-conf (items of litefwd.conf.5), --markdown (README's table), --conf (a litefwd.conf with every
 * option as a comment), --bash, --zsh (completion). 0; -EINVAL for another one, nothing printed then.
 */
int options_print(const char *format);

#endif
