/*
 * names: which file of which database a flat name in a LiteFS directory means.
 *
 * LiteFS knows NAME, NAME-journal, NAME-wal, NAME-shm, NAME-pos, NAME-lock, and
 * ".primary" and ".lag"; no directories (LITEFS.md, "The node"). Pure; threads: any.
 */
#ifndef LITEFWD_FORMAT_NAMES_H
#define LITEFWD_FORMAT_NAMES_H

#include <stdbool.h>
#include <stddef.h>

enum file_kind {
	FILE_DATABASE,
	FILE_JOURNAL,
	FILE_WAL,
	FILE_SHM,
	FILE_POS, /* text: TXID and checksum */
	FILE_LOCK,
	FILE_NODE, /* ".primary", ".lag": of the node, not of a database */
	FILE_STATUS, /* ".litefwd": litefwd's own */
	FILE_SUPER, /* NAME-mjXXXXXX9XX: SQLite's super-journal, which LiteFS does not know */
};

/* Longest database name: the longest suffix must still fit NAME_MAX. */
#define NAME_DB_MAX (255 - 8)

/*
 * 0, *ret_kind and db_name (size NAME_DB_MAX + 1; "" for FILE_NODE and FILE_STATUS).
 * -EINVAL: empty, "." and "..", a slash or control byte, a further dot file, or
 * a suffix without a database before it ("-wal", "x-shm-wal");
 * -ENAMETOOLONG. Outputs unchanged on error.
 */
int name_parse(const char *name, enum file_kind *ret_kind, char *db_name);

/*
 * True if db_name may be sent to LiteFS as the name of a database: what
 * name_parse() takes for FILE_DATABASE, so "x-wal" and "../x" are not.
 */
bool name_is_database(const char *db_name);

#endif
