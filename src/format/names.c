#include "format/names.h"

#include <errno.h>
#include <string.h>

#define NAME_MAX_LEN 255
#define SUPER_SUFFIX_LEN 12

static const struct {
	const char *suffix;
	enum file_kind kind;
} suffixes[] = {
	{"-journal", FILE_JOURNAL}, {"-wal", FILE_WAL},	  {"-shm", FILE_SHM},
	{"-pos", FILE_POS},	    {"-lock", FILE_LOCK},
};

static const struct {
	const char *name;
	enum file_kind kind;
} dot_files[] = {
	{".primary", FILE_NODE},
	{".lag", FILE_NODE},
	{".litefwd", FILE_STATUS},
};

/* "-mj%06X9%02X", as SQLite makes it from two random numbers. */
static bool ends_as_super_journal(const char *name, size_t len)
{
	const char *p = name + len - SUPER_SUFFIX_LEN;

	if (len < SUPER_SUFFIX_LEN || memcmp(p, "-mj", 3) != 0 || p[9] != '9')
		return false;
	return strspn(p + 3, "0123456789ABCDEF") == SUPER_SUFFIX_LEN - 3;
}

/* Length of name without its suffix, and the kind that the suffix means. */
static size_t split(const char *name, size_t len, enum file_kind *ret_kind)
{
	for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		size_t n = strlen(suffixes[i].suffix);

		if (len >= n && !memcmp(name + len - n, suffixes[i].suffix, n)) {
			*ret_kind = suffixes[i].kind;
			return len - n;
		}
	}
	if (ends_as_super_journal(name, len)) {
		*ret_kind = FILE_SUPER;
		return len - SUPER_SUFFIX_LEN;
	}
	*ret_kind = FILE_DATABASE;
	return len;
}

static int parse_dot_file(const char *name, enum file_kind *ret_kind, char *db_name)
{
	for (size_t i = 0; i < sizeof dot_files / sizeof dot_files[0]; i++)
		if (!strcmp(name, dot_files[i].name)) {
			*ret_kind = dot_files[i].kind;
			db_name[0] = 0;
			return 0;
		}
	return -EINVAL;
}

int name_parse(const char *name, enum file_kind *ret_kind, char *db_name)
{
	enum file_kind kind, inner;
	size_t len = strlen(name), db_len;

	if (len == 0)
		return -EINVAL;
	if (len > NAME_MAX_LEN)
		return -ENAMETOOLONG;
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return -EINVAL;
	if (name[0] == '.')
		return parse_dot_file(name, ret_kind, db_name);
	db_len = split(name, len, &kind);
	if (db_len > NAME_DB_MAX)
		return -ENAMETOOLONG;
	/* "-wal", and "x-shm-wal": LiteFS would take them for files of "" and of "x-shm", which are no databases */
	split(name, db_len, &inner);
	if (db_len == 0 || inner != FILE_DATABASE)
		return -EINVAL;
	memcpy(db_name, name, db_len);
	db_name[db_len] = 0;
	*ret_kind = kind;
	return 0;
}

bool name_is_database(const char *db_name)
{
	char buf[NAME_DB_MAX + 1];
	enum file_kind kind;

	return name_parse(db_name, &kind, buf) == 0 && kind == FILE_DATABASE;
}
