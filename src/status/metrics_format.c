#include "status/metrics_internal.h"

#include <inttypes.h>

void metrics_head(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP litefwd_%s %s\n# TYPE litefwd_%s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and newline are escaped. */
static void put_value(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '\n')
			fputs("\\n", out);
		else if (*value == '"' || *value == '\\')
			fprintf(out, "\\%c", *value);
		else
			fputc(*value, out);
	}
}

void metrics_label(FILE *out, const char *key, const char *value, bool first)
{
	fprintf(out, "%c%s=\"", first ? '{' : ',', key);
	put_value(out, value);
	fputc('"', out);
}

/* Up to two labels; a key that is NULL: none. */
void metrics_sample_start(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2)
{
	fprintf(out, "litefwd_%s", name);
	if (key)
		metrics_label(out, key, value, true);
	if (key2)
		metrics_label(out, key2, value2, !key);
	fputs(key || key2 ? "} " : " ", out);
}

void metrics_sample(FILE *out, const char *name, const char *key, const char *value, const char *key2, const char *value2, int64_t number)
{
	metrics_sample_start(out, name, key, value, key2, value2);
	fprintf(out, "%" PRId64 "\n", number);
}

/* unit: how many of it are a second; whole thousandths of the last digit. No locale: a comma would end the sample. */
void metrics_seconds(FILE *out, int64_t n, int64_t unit)
{
	int digits = unit == 1000000000 ? 9 : unit == 1000000 ? 6 : 3;

	fprintf(out, "%" PRId64 ".%0*" PRId64 "\n", n / unit, digits, n % unit);
}
