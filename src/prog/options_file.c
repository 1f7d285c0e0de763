/*
 * options_file.c: litefwd.conf.
 *
 *	# a comment
 *	NAME = VALUE		blanks around the "=" and at the ends do not count
 *	FLAG
 *
 * Nothing is quoted: a value goes to the end of its line. What the file says is as good as the command line, so whoever
 * can write to it can have litefwd do anything: a file that is neither root's nor ours, or that everybody may write to, is refused.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prog/options_internal.h"

#define BLANKS " \t\r\n"
#define LINES_MAX 10000 /* more is no litefwd.conf */

/* In place: s without blanks at its ends. */
static char *trim(char *s)
{
	size_t len;

	s += strspn(s, BLANKS);
	for (len = strlen(s); len && strchr(BLANKS, s[len - 1]); len--)
		;
	s[len] = 0;
	return s;
}

static int apply_line(struct settings *opt, char *line, const struct option_origin *at)
{
	char *text = trim(line), *equals, *name, *joined;
	int ret;

	if (!*text || *text == '#')
		return 0;
	equals = strchr(text, '=');
	if (equals)
		*equals = 0;
	name = trim(text);
	if (!strcmp(name, "config")) {
		options_complain_at(at, "config= is for the command line: one file does not read another");
		return -EINVAL;
	}
	/* Usually a list of mount options in one line. */
	if (strchr(name, ',') || strpbrk(name, BLANKS)) {
		options_complain_at(at, "\"%s\": one option a line, as in \"halt_timeout = 10s\"", name);
		return -EINVAL;
	}
	if (asprintf(&joined, "%s%s%s", name, equals ? "=" : "", equals ? trim(equals + 1) : "") < 0) {
		options_complain("out of memory");
		return -EINVAL;
	}
	ret = options_apply(opt, joined, at);
	free(joined);
	return ret;
}

static int check_file(FILE *file, const char *path)
{
	struct stat st;

	if (fstat(fileno(file), &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	if (!S_ISREG(st.st_mode))
		return 0; /* /dev/null */
	if (st.st_mode & S_IWOTH)
		options_complain("%s: everybody may write to it: chmod o-w the file, and look at what it says", path);
	else if (st.st_uid != 0 && st.st_uid != geteuid())
		options_complain("%s: it is another user's: chown the file, and look at what it says", path);
	else
		return 0;
	return -EPERM;
}

int options_apply_file(struct settings *opt, const char *path)
{
	struct option_origin at = {.file = path};
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	ssize_t len;
	int ret;

	if (!file && errno == ENOENT)
		return -ENOENT;
	ret = file ? check_file(file, path) : -errno;
	if (ret && ret != -EPERM)
		options_complain("config=%s: %s", path, strerror(-ret));
	while (!ret && (len = getline(&line, &size, file)) > 0) {
		at.line++;
		if (strlen(line) != (size_t)len || at.line > LINES_MAX) {
			options_complain_at(&at, "this is no litefwd.conf");
			ret = -EINVAL;
		} else {
			ret = apply_line(opt, line, &at);
		}
	}
	if (!ret && ferror(file)) {
		ret = -EIO;
		options_complain("config=%s: %s", path, strerror(EIO));
	}
	free(line);
	if (file)
		fclose(file);
	return ret;
}
