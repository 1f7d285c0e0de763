/* Names in the mount, and positions as text. A name that is taken has no slash, and its database's name is that of a database. */
#include <errno.h>

#include "format/names.h"
#include "format/pos.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_text(data, size), db_name[NAME_DB_MAX + 1] = "untouched";
	enum file_kind kind;
	struct pos pos;
	uint64_t v;
	int err = name_parse(text, &kind, db_name);

	MUST(err == 0 || err == -EINVAL || err == -ENAMETOOLONG);
	if (err) {
		MUST(!strcmp(db_name, "untouched") && !name_is_database(text));
	} else {
		MUST(*text && strcmp(text, ".") && strcmp(text, "..") && !strchr(text, '/'));
		for (const char *p = text; *p; p++)
			MUST((unsigned char)*p >= 0x20 && *p != 0x7f);
		if (kind == FILE_NODE || kind == FILE_STATUS)
			MUST(!db_name[0] && text[0] == '.');
		else
			MUST(name_is_database(db_name) && !strncmp(text, db_name, strlen(db_name)));
		MUST(name_is_database(text) == (kind == FILE_DATABASE));
	}
	if (pos_parse((const char *)data, size, &pos) == 0)
		MUST(size == POS_TEXT_SIZE || size == POS_TEXT_SIZE - 1);
	if (size >= 16)
		pos_parse_hex16(text, &v);
	free(text);
	return 0;
}
