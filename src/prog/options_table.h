/*
 * options_table: the one list of options. The parser, --help, litefwd.8, litefwd.conf.5, README's table, the example of a
 * litefwd.conf and the shells' completion are all made of it (options_print.h), and tests/test_docs.sh compares them.
 *
 * A new option is one row in options_table.c and its field in struct settings; then `make update-generated`.
 */
#ifndef LITEFWD_PROG_OPTIONS_TABLE_H
#define LITEFWD_PROG_OPTIONS_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
	OPT_FILE, /* char *, owned, made absolute: a daemon's working directory is "/" */
	OPT_DIR, /* the same */
	OPT_URL, /* char *, owned, "http://..." */
	OPT_URL_TEMPLATE, /* the same, may hold {hostname} */
	OPT_ADDRESS, /* char *, owned, "192.0.2.1:PORT" */
	OPT_DURATION, /* int64_t, ms */
	OPT_SIZE, /* int64_t, bytes */
	OPT_FLAG, /* bool, no value */
	OPT_ID, /* uid_t or gid_t: both are 32 bits here */
	OPT_MODE, /* mode_t, octal */
};

struct option {
	const char *name;
	const char *value; /* what --help calls the value; NULL: a flag */
	enum option_kind kind;
	size_t offset; /* of its field in struct settings */
	const char *initial; /* the default as a user would write it; NULL: none */
	bool late; /* the default yields to litefs.yml, so it is set by options_resolve() */
	int64_t min, max; /* of a duration (ms) or a size (bytes), both included */
	const char *help; /* one line */
	const char *more; /* for litefwd.8, in mdoc(7), after that line; NULL: nothing */
};

extern const struct option options_table[];
extern const size_t options_count;

/* The row of that name (len bytes); NULL: none. */
const struct option *option_find(const char *name, size_t len);

/* The row whose name is nearest to a misspelt one; NULL where none is near. */
const struct option *option_nearest(const char *name, size_t len);

/* What mount(8), fstab(5) and systemd add to the options and what means nothing to us. */
bool option_is_ignored(const char *text);

/* What a value of that kind looks like, for a complaint: "a time such as ...". */
const char *option_expectation(const struct option *option);

#endif
