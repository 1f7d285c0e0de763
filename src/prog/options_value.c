/*
 * options_value.c: values, from what users write to what struct settings holds.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "litefs/role.h"
#include "litefs/url.h"
#include "prog/options_internal.h"

_Static_assert(sizeof(uid_t) == sizeof(uint32_t) && sizeof(gid_t) == sizeof(uint32_t), "OPT_ID");

/* Digits and a unit of a table. 0 or -EINVAL. */
struct unit {
	const char *name;
	int64_t factor;
};

static int parse_scaled(const char *text, const struct unit *units, int64_t *ret)
{
	int64_t value = 0;
	const char *p = text;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *p - '0', &value))
			return -EINVAL;
	for (; units->name; units++) {
		if (strcmp(p, units->name) != 0)
			continue;
		if (__builtin_mul_overflow(value, units->factor, &value))
			return -EINVAL;
		*ret = value;
		return 0;
	}
	return -EINVAL;
}

int options_parse_duration(const char *text, int64_t *ret_ms)
{
	static const struct unit units[] = {{"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 3600 * 1000}, {NULL, 0}};

	if (!strcmp(text, "0") || !strcmp(text, "off")) {
		*ret_ms = 0;
		return 0;
	}
	return parse_scaled(text, units, ret_ms);
}

int options_parse_size(const char *text, int64_t *ret_bytes)
{
	static const struct unit units[] = {{"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {NULL, 0}};

	return parse_scaled(text, units, ret_bytes);
}

/* Decimal or octal, the whole text, at most max. */
static int parse_number(const char *text, int base, uint32_t max, uint32_t *ret)
{
	unsigned long value;
	char *end;

	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	value = strtoul(text, &end, base);
	if (errno || *end || value > max)
		return -EINVAL;
	*ret = (uint32_t)value;
	return 0;
}

static int check_url(const char *text, bool template)
{
	char expanded[512];

	if (template)
		return role_expand_url(text, "h", expanded, sizeof expanded);
	if (strchr(text, '{'))
		return -EINVAL;
	return role_expand_url(text, NULL, expanded, sizeof expanded);
}

static int absolute(const char *path, char **ret)
{
	char cwd[PATH_MAX];
	char *joined;

	if (!*path)
		return -EINVAL;
	if (*path == '/') {
		joined = strdup(path);
	} else {
		if (!getcwd(cwd, sizeof cwd))
			return -errno;
		if (asprintf(&joined, "%s/%s", cwd, path) < 0)
			joined = NULL;
	}
	if (!joined)
		return -ENOMEM;
	*ret = joined;
	return 0;
}

int options_set_string(char **field, const char *text, bool path)
{
	char *copy = NULL;
	int ret = 0;

	if (path)
		ret = absolute(text, &copy);
	else if (!(copy = strdup(text)))
		ret = -ENOMEM;
	if (ret)
		return ret;
	free(*field);
	*field = copy;
	return 0;
}

int options_set(struct settings *opt, const struct option *option, const char *text)
{
	char *field = (char *)opt + option->offset;
	struct sockaddr_storage addr;
	int64_t number;
	uint32_t id;
	int ret;

	switch (option->kind) {
	case OPT_FLAG:
		*(bool *)field = true;
		return 0;
	case OPT_FILE:
	case OPT_DIR:
		return options_set_string((char **)field, text, true);
	case OPT_URL:
	case OPT_URL_TEMPLATE:
		ret = check_url(text, option->kind == OPT_URL_TEMPLATE);
		return ret ? ret : options_set_string((char **)field, text, false);
	case OPT_ADDRESS:
		ret = url_parse_address(text, &addr);
		return ret ? ret : options_set_string((char **)field, text, false);
	case OPT_DURATION:
	case OPT_SIZE:
		ret = option->kind == OPT_DURATION ? options_parse_duration(text, &number) : options_parse_size(text, &number);
		if (ret)
			return ret;
		if (number < option->min || number > option->max)
			return -ERANGE;
		*(int64_t *)field = number;
		return 0;
	case OPT_ID:
		/* -1 means "as the process" and is nobody's id. */
		ret = parse_number(text, 10, UINT32_MAX - 1, &id);
		if (!ret)
			*(uint32_t *)field = id;
		return ret;
	case OPT_MODE:
		ret = parse_number(text, 8, 0777, &id);
		if (!ret)
			*(mode_t *)field = id;
		return ret;
	}
	return -EINVAL;
}

void options_format(const struct option *option, int64_t number, char *buf, size_t size)
{
	static const struct {
		const char *name;
		int64_t factor;
	} times[] = {{"h", 3600 * 1000}, {"m", 60 * 1000}, {"s", 1000}, {"ms", 1}}, sizes[] = {{"G", 1 << 30}, {"M", 1 << 20},
											    {"K", 1 << 10}, {"", 1}};
	size_t i = 0;

	if (number == 0) {
		snprintf(buf, size, "0");
	} else if (option->kind == OPT_DURATION) {
		while (i < 3 && number % times[i].factor)
			i++;
		snprintf(buf, size, "%lld%s", (long long)(number / times[i].factor), times[i].name);
	} else {
		while (i < 3 && number % sizes[i].factor)
			i++;
		snprintf(buf, size, "%lld%s", (long long)(number / sizes[i].factor), sizes[i].name);
	}
}
