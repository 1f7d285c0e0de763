/*
 * options_internal: what options.c, options_file.c and options_litefs.c share. For nobody else.
 */
#ifndef LITEFWD_PROG_OPTIONS_INTERNAL_H
#define LITEFWD_PROG_OPTIONS_INTERNAL_H

#include "prog/options.h"
#include "prog/options_table.h"

/* Where an option stands. */
struct option_origin {
	const char *file; /* NULL: on the command line */
	unsigned line;
	bool sloppy; /* mount -s: what is unknown is nobody's fault */
};

/* "litefwd: ..." on stderr; options_complain_at() says where, too. */
void options_complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void options_complain_at(const struct option_origin *at, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One "name" or "name=value". 0 or -EINVAL (message printed); unchanged then. */
int options_apply(struct settings *opt, const char *text, const struct option_origin *at);

/* text: NULL for a flag. 0; -EINVAL; -ERANGE beyond the row's min and max; -ENOMEM. The field is unchanged on error. */
int options_set(struct settings *opt, const struct option *option, const char *text);

/* A copy, made absolute where it is a path. 0, -EINVAL, -ENOMEM or as getcwd() fails. */
int options_set_string(char **field, const char *text, bool path);

/* A bound as a user would write it: "15s", "64G". */
void options_format(const struct option *option, int64_t number, char *buf, size_t size);

/* Every line of a litefwd.conf. 0 or negative errno (message printed, but for -ENOENT). */
int options_apply_file(struct settings *opt, const char *path);

#endif
