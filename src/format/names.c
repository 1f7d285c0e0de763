#include "format/names.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *suffix;
	enum file_kind kind;
} suffixes[] = {
	{"-journal", FILE_JOURNAL}, {"-wal", FILE_WAL},	  {"-shm", FILE_SHM},
	{"-pos", FILE_POS},	    {"-lock", FILE_LOCK},
};

int name_parse(const char *name, enum file_kind *ret_kind, char *db_name)
{
	size_t len = strlen(name);

	if (len == 0)
		return -EINVAL;
	if (len > 255)
		return -ENAMETOOLONG;
	for (size_t i = 0; i < len; i++)
		if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f)
			return -EINVAL;
	if (!strcmp(name, ".primary") || !strcmp(name, ".lag") || !strcmp(name, ".litefwd")) {
		*ret_kind = name[1] == 'l' && name[2] == 'i' ? FILE_STATUS : FILE_NODE;
		db_name[0] = 0;
		return 0;
	}
	if (name[0] == '.')
		return -EINVAL;
	for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		size_t n = strlen(suffixes[i].suffix);

		if (len > n && !strcmp(name + len - n, suffixes[i].suffix)) {
			memcpy(db_name, name, len - n);
			db_name[len - n] = 0;
			*ret_kind = suffixes[i].kind;
			return 0;
		}
	}
	if (len > NAME_DB_MAX)
		return -ENAMETOOLONG;
	memcpy(db_name, name, len + 1);
	*ret_kind = FILE_DATABASE;
	return 0;
}

bool name_is_database(const char *db_name)
{
	char buf[NAME_DB_MAX + 1];
	enum file_kind kind;

	return name_parse(db_name, &kind, buf) == 0 && kind == FILE_DATABASE;
}
