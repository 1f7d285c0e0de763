#include "format/pos.h"

#include <errno.h>

int pos_parse_hex16(const char *text, uint64_t *ret)
{
	uint64_t v = 0;

	for (int i = 0; i < 16; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			v = v << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (uint64_t)(c - 'a' + 10);
		else
			return -EBADMSG;
	}
	*ret = v;
	return 0;
}

int pos_parse(const char *text, size_t len, struct pos *ret)
{
	struct pos p;
	int err;

	if (len != POS_TEXT_SIZE && len != POS_TEXT_SIZE - 1)
		return -EBADMSG;
	if (text[16] != '/' || (len == POS_TEXT_SIZE && text[33] != '\n'))
		return -EBADMSG;
	err = pos_parse_hex16(text, &p.txid);
	if (!err)
		err = pos_parse_hex16(text + 17, &p.checksum);
	if (!err)
		*ret = p;
	return err;
}
