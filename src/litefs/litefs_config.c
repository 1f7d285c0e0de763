/*
 * litefs_config.c: see litefs_config.h.
 *
 *	file -> environment expanded as LiteFS does it (over the whole text, before YAML)
 *	     -> libyaml document -> the few values we want
 *
 * LiteFS expands with Go's os.Expand: $NAME, ${...}, one special character ($1, $$);
 * "${}" and an unclosed "${" vanish, any other "$" stays. Within ${...} it knows
 * NAME == 'x', NAME == "x", NAME == OTHER and the same with "!=", which give true or false.
 */
#include "litefs/litefs_config.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <yaml.h>

#define CONFIG_MAX (1024 * 1024) /* of the file, and of its expansion */
#define DEFAULT_FUSE_DIR "/litefs"
#define DEFAULT_DATA_DIR "/var/lib/litefs"
#define DEFAULT_PORT 20202
#define MERGE_DEPTH 8
#define MERGES_MAX 10000

/* ---- bytes ---- */

struct text {
	char *data; /* a 0 follows data[len - 1] */
	size_t len, cap;
};

static int text_put(struct text *t, const char *s, size_t len)
{
	size_t cap = t->cap ? t->cap : 4096;
	char *p;

	if (len > CONFIG_MAX - t->len)
		return -EFBIG;
	while (cap < t->len + len + 1)
		cap *= 2;
	if (cap != t->cap) {
		p = realloc(t->data, cap);
		if (!p)
			return -ENOMEM;
		t->data = p;
		t->cap = cap;
	}
	memcpy(t->data + t->len, s, len);
	t->len += len;
	t->data[t->len] = 0;
	return 0;
}

static int read_file(const char *path, struct text *t)
{
	char buf[8192];
	ssize_t n;
	int err = text_put(t, "", 0), fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err = -errno;
	while (!err) {
		n = read(fd, buf, sizeof buf);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			err = n < 0 ? -errno : 0;
			break;
		}
		err = text_put(t, buf, (size_t)n);
	}
	if (fd >= 0)
		close(fd);
	return err;
}

/* ---- expansion ---- */

static bool is_word(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

#define UNSET_MAX 32

/* Variables that were written as they stand, not compared, and are not in the environment: where, in the expanded text. */
struct unset {
	struct {
		char name[64];
		size_t line; /* from 0 */
	} rows[UNSET_MAX];
	size_t count;
	size_t line, len; /* lines that end before len */
};

static void unset_add(struct unset *u, const struct text *t, const char *name, size_t len)
{
	if (u->count == UNSET_MAX || len == 0 || len >= sizeof u->rows[0].name || (name[0] >= '0' && name[0] <= '9'))
		return;
	for (size_t i = 0; i < len; i++)
		if (!is_word(name[i]))
			return;
	for (; u->len < t->len; u->len++)
		u->line += t->data[u->len] == '\n';
	memcpy(u->rows[u->count].name, name, len);
	u->rows[u->count].name[len] = 0;
	u->rows[u->count++].line = u->line;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

/* What Go's strings.TrimSpace() takes away besides ASCII's, each as UTF-8. */
static const char *const wide_blanks[] = {
	"\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82",
	"\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
	"\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
	"\xe3\x80\x80",
};

/* How many bytes of blank s[0..len) begins with, or ends with. */
static size_t blank_at(const char *s, size_t len, bool end)
{
	if (len && (is_blank(s[end ? len - 1 : 0]) || s[end ? len - 1 : 0] == '\v'))
		return 1;
	for (size_t i = 0; i < sizeof wide_blanks / sizeof wide_blanks[0]; i++) {
		size_t n = strlen(wide_blanks[i]);

		if (n <= len && !memcmp(end ? s + len - n : s, wide_blanks[i], n))
			return n;
	}
	return 0;
}

static bool is_special(char c)
{
	return c && (strchr("*#$@!?-", c) || (c >= '0' && c <= '9'));
}

/* The value of the variable named by s[0..len); NULL where there is none. */
static const char *find_env(const char *s, size_t len)
{
	static __thread char hostname[HOST_NAME_MAX + 1];
	char name[256];
	const char *v;

	if (len == 0 || len >= sizeof name)
		return NULL;
	memcpy(name, s, len);
	name[len] = 0;
	v = getenv(name);
	if (v && *v)
		return v;
	/* LiteFS sets this one for itself where it is not there: a shell has it, but a service does not. */
	if (!strcmp(name, "HOSTNAME") && gethostname(hostname, sizeof hostname - 1) == 0)
		return hostname;
	return v;
}

static const char *env(const char *s, size_t len)
{
	const char *v = find_env(s, len);

	return v ? v : "";
}

/*
 * s[0..len) as "NAME op VALUE": true, and *ret is its truth. VALUE is quoted, either
 * way, and taken as it stands to the last quote, or it is a word: another variable.
 */
static bool evaluate(const char *s, size_t len, bool *ret)
{
	size_t word = 0, op, at, value_len;
	const char *left, *right;
	bool equal;

	while (word < len && is_word(s[word]))
		word++;
	for (op = word; op < len && is_blank(s[op]); op++)
		;
	if (word == 0 || op + 2 > len || (s[op] != '=' && s[op] != '!') || s[op + 1] != '=')
		return false;
	for (at = op + 2; at < len && is_blank(s[at]); at++)
		;
	left = env(s, word);
	if (len - at >= 2 && (s[at] == '\'' || s[at] == '"') && s[len - 1] == s[at]) {
		if (memchr(s + at, '\n', len - at))
			return false;
		right = s + at + 1;
		value_len = len - at - 2;
	} else {
		for (size_t i = at; i < len; i++)
			if (!is_word(s[i]))
				return false;
		if (at == len)
			return false;
		right = env(s + at, len - at);
		value_len = strlen(right);
	}
	equal = strlen(left) == value_len && !memcmp(left, right, value_len);
	*ret = equal == (s[op] == '=');
	return true;
}

static int put_variable(struct text *t, const char *s, size_t len, struct unset *unset)
{
	const char *v;
	bool truth;
	size_t n;

	while ((n = blank_at(s, len, false)))
		s += n, len -= n;
	while ((n = blank_at(s, len, true)))
		len -= n;
	if (evaluate(s, len, &truth))
		v = truth ? "true" : "false";
	else
		v = find_env(s, len);
	if (!v) {
		unset_add(unset, t, s, len);
		return 0;
	}
	return text_put(t, v, strlen(v));
}

/* One "$" at s (s[0] == '$', n bytes left): its expansion into t; returns the bytes eaten, or a negative errno. */
static ptrdiff_t expand_one(struct text *t, const char *s, size_t n, struct unset *unset)
{
	const char *end;
	size_t len = 1;
	int err;

	if (n < 2) {
		err = text_put(t, "$", 1);
		return err ? err : 1;
	}
	if (s[1] == '{') {
		end = memchr(s + 2, '}', n - 2);
		if (!end || end == s + 2)
			return end ? 3 : 2; /* LiteFS eats what it cannot read */
		err = put_variable(t, s + 2, (size_t)(end - s) - 2, unset);
		return err ? err : end - s + 1;
	}
	if (is_special(s[1])) {
		err = put_variable(t, s + 1, 1, unset);
		return err ? err : 2;
	}
	while (len < n && is_word(s[len]))
		len++;
	err = len == 1 ? text_put(t, "$", 1) : put_variable(t, s + 1, len - 1, unset);
	return err ? err : (ptrdiff_t)len;
}

static int expand(const struct text *in, struct text *out, struct unset *unset)
{
	const char *p = in->data, *end = in->data + in->len;
	int err = text_put(out, "", 0);

	while (!err && p < end) {
		const char *dollar = memchr(p, '$', (size_t)(end - p));
		ptrdiff_t eaten;

		err = text_put(out, p, (size_t)((dollar ? dollar : end) - p));
		if (err || !dollar)
			break;
		eaten = expand_one(out, dollar, (size_t)(end - dollar), unset);
		if (eaten < 0)
			return (int)eaten;
		p = dollar + eaten;
	}
	return err;
}

/* ---- YAML ---- */

struct loader {
	yaml_document_t *doc;
	struct litefs_config *config; /* being filled */
	const struct unset *unset;
	unsigned merges; /* followed so far: lists of lists of them could have no end */
};

static int bad(struct loader *l, const yaml_node_t *node, const char *what)
{
	size_t line = node ? node->start_mark.line + 1 : 0;

	snprintf(l->config->message, sizeof l->config->message, "line %zu: %s", line, what);
	return -EBADMSG;
}

static bool is_null(const yaml_node_t *node)
{
	const char *v;

	if (!node)
		return true;
	if (node->type != YAML_SCALAR_NODE || node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
		return false;
	/* libyaml has "str" for what has no tag; another one makes a value even of nothing. */
	if (strcmp((const char *)node->tag, YAML_STR_TAG) != 0 && strcmp((const char *)node->tag, YAML_NULL_TAG) != 0)
		return false;
	v = (const char *)node->data.scalar.value;
	return !strcmp(v, "") || !strcmp(v, "~") || !strcmp(v, "null") || !strcmp(v, "Null") || !strcmp(v, "NULL");
}

static bool key_is(const yaml_node_t *node, const char *key)
{
	return node && node->type == YAML_SCALAR_NODE && node->data.scalar.length == strlen(key) &&
	       !memcmp(node->data.scalar.value, key, strlen(key));
}

static int get(struct loader *l, const yaml_node_t *map, const char *key, int depth, yaml_node_t **ret);

/* The same in what a "<<" names: one mapping, or a list of them of which the first wins. */
static int get_merged(struct loader *l, const yaml_node_t *merged, const char *key, int depth, yaml_node_t **ret)
{
	int err = 0;

	if (merged->type == YAML_MAPPING_NODE)
		return get(l, merged, key, depth, ret);
	if (merged->type != YAML_SEQUENCE_NODE)
		return 0;
	for (yaml_node_item_t *item = merged->data.sequence.items.start; item < merged->data.sequence.items.top; item++) {
		yaml_node_t *map = yaml_document_get_node(l->doc, *item);

		if (!err && !*ret && map && map->type == YAML_MAPPING_NODE)
			err = get(l, map, key, depth, ret);
	}
	return err;
}

/* The value of key in a mapping, NULL when absent; what a "<<" merges in comes second. */
static int get(struct loader *l, const yaml_node_t *map, const char *key, int depth, yaml_node_t **ret)
{
	yaml_node_t *found = NULL, *merged = NULL;

	for (yaml_node_pair_t *pair = map->data.mapping.pairs.start; pair < map->data.mapping.pairs.top; pair++) {
		yaml_node_t *k = yaml_document_get_node(l->doc, pair->key);

		if (key_is(k, "<<"))
			merged = yaml_document_get_node(l->doc, pair->value);
		if (!key_is(k, key))
			continue;
		if (found)
			return bad(l, k, "the same key twice: remove one");
		found = yaml_document_get_node(l->doc, pair->value);
	}
	*ret = found;
	if (!found && merged && depth < MERGE_DEPTH && l->merges++ < MERGES_MAX)
		return get_merged(l, merged, key, depth + 1, ret);
	return 0;
}

/* A section of map, NULL when absent or null. */
static int section(struct loader *l, const yaml_node_t *map, const char *name, yaml_node_t **ret)
{
	int err = map ? get(l, map, name, 0, ret) : 0;

	if (err || !map || is_null(*ret)) {
		*ret = NULL;
		return err;
	}
	return (*ret)->type == YAML_MAPPING_NODE ? 0 : bad(l, *ret, "must be a section of \"key: value\" lines");
}

/* A value that we take stands in the lines of node: was a variable of them not set? By lines, for libyaml counts characters. */
static void note_unset(struct loader *l, const yaml_node_t *node)
{
	for (size_t i = 0; i < l->unset->count && !l->config->unset[0]; i++)
		if (l->unset->rows[i].line >= node->start_mark.line && l->unset->rows[i].line <= node->end_mark.line)
			snprintf(l->config->unset, sizeof l->config->unset, "%s", l->unset->rows[i].name);
}

/* The value of key in a section as an owned string; NULL when either is absent or null. */
static int take(struct loader *l, const yaml_node_t *map, const char *key, char **ret)
{
	yaml_node_t *node;
	int err;

	*ret = NULL;
	if (!map)
		return 0;
	err = get(l, map, key, 0, &node);
	if (err)
		return err;
	if (is_null(node)) {
		if (node)
			note_unset(l, node);
		return 0;
	}
	if (node->type != YAML_SCALAR_NODE)
		return bad(l, node, "must be a single value");
	if (strlen((const char *)node->data.scalar.value) != node->data.scalar.length)
		return bad(l, node, "must not contain a zero byte");
	note_unset(l, node);
	*ret = strdup((const char *)node->data.scalar.value);
	return *ret ? 0 : -ENOMEM;
}

static const char *const bool_words[2][12] = {
	{"false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF", NULL},
	{"true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", NULL},
};

/* *ret is unchanged where key is absent or null. */
static int take_bool(struct loader *l, const yaml_node_t *map, const char *key, bool *ret)
{
	yaml_node_t *node = NULL;
	int err = map ? get(l, map, key, 0, &node) : 0;

	if (err || is_null(node))
		return err;
	for (int value = 0; node->type == YAML_SCALAR_NODE && value < 2; value++)
		for (const char *const *word = bool_words[value]; *word; word++)
			if (key_is(node, *word)) {
				*ret = value;
				return 0;
			}
	return bad(l, node, "must be true or false");
}

/* ---- http.addr ---- */

/* "PORT" to its number; 0 where it is none. */
static unsigned port_of(const char *s)
{
	unsigned port = 0;

	for (; *s >= '0' && *s <= '9' && port <= 65535; s++)
		port = port * 10 + (unsigned)(*s - '0');
	return *s || port > 65535 ? 0 : port;
}

/* What LiteFS listens on, as a URL that reaches it; NULL: message set, or out of memory. */
static int local_url_of(struct loader *l, const char *addr, char **ret)
{
	const char *colon = addr ? strrchr(addr, ':') : NULL;
	char host[256] = "localhost";
	unsigned port = DEFAULT_PORT;

	if (addr) {
		port = colon ? port_of(colon + 1) : 0;
		if (port == 0)
			return bad(l, NULL, "http.addr: no port to be read from it: give litefs_url=");
		if ((size_t)(colon - addr) >= sizeof host)
			return bad(l, NULL, "http.addr: too long");
		if (colon > addr)
			snprintf(host, sizeof host, "%.*s", (int)(colon - addr), addr);
		/* Every address of the node, so also this one. */
		if (!strcmp(host, "0.0.0.0") || !strcmp(host, "[::]"))
			snprintf(host, sizeof host, "localhost");
	}
	if (asprintf(ret, "http://%s:%u", host, port) < 0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* ---- all of it ---- */

static int take_all(struct loader *l, const yaml_node_t *root)
{
	struct litefs_config *c = l->config;
	char *addr = NULL;
	const struct {
		const char *section, *subsection, *key;
		char **ret;
	} values[] = {
		{"fuse", NULL, "dir", &c->fuse_dir},
		{"data", NULL, "dir", &c->data_dir},
		{"lease", NULL, "type", &c->lease_type},
		{"lease", NULL, "hostname", &c->lease_hostname},
		{"lease", NULL, "advertise-url", &c->lease_advertise_url},
		{"lease", "consul", "url", &c->lease_consul_url},
		{"lease", "consul", "key", &c->lease_consul_key},
		{"http", NULL, "addr", &addr},
	};
	yaml_node_t *lease = NULL;
	int err = 0;

	if (!root)
		return bad(l, root, "the file is empty");
	if (root->type != YAML_MAPPING_NODE)
		return bad(l, root, "is no litefs.yml: it must be a mapping");
	for (size_t i = 0; !err && i < sizeof values / sizeof values[0]; i++) {
		yaml_node_t *map = NULL;

		err = section(l, root, values[i].section, &map);
		if (!err && values[i].subsection)
			err = section(l, map, values[i].subsection, &map);
		if (!err)
			err = take(l, map, values[i].key, values[i].ret);
	}
	if (!err)
		err = section(l, root, "lease", &lease);
	c->lease_candidate = true;
	if (!err)
		err = take_bool(l, lease, "candidate", &c->lease_candidate);
	if (!err)
		err = local_url_of(l, addr, &c->local_url);
	if (!err && !c->fuse_dir && !(c->fuse_dir = strdup(DEFAULT_FUSE_DIR)))
		err = -ENOMEM;
	if (!err && !c->data_dir && !(c->data_dir = strdup(DEFAULT_DATA_DIR)))
		err = -ENOMEM;
	free(addr);
	return err;
}

static int parse(const struct text *text, const struct unset *unset, struct litefs_config *config)
{
	yaml_parser_t parser;
	yaml_document_t doc;
	struct loader l = {.doc = &doc, .config = config, .unset = unset};
	int err;

	if (!yaml_parser_initialize(&parser))
		return -ENOMEM;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text->data, text->len);
	if (!yaml_parser_load(&parser, &doc)) {
		err = parser.error == YAML_MEMORY_ERROR ? -ENOMEM : -EBADMSG;
		snprintf(config->message, sizeof config->message, "line %zu: not YAML: %s%s%s", parser.problem_mark.line + 1,
			 parser.context ? parser.context : "", parser.context ? ", " : "", parser.problem ? parser.problem : "unreadable");
	} else {
		err = take_all(&l, yaml_document_get_root_node(&doc));
		yaml_document_delete(&doc);
	}
	yaml_parser_delete(&parser);
	return err;
}

int litefs_config_load(const char *path, bool expand_env, struct litefs_config *ret)
{
	struct text raw = {0}, text = {0};
	struct litefs_config config = {0};
	struct unset unset = {0};
	int err = read_file(path, &raw);

	if (!err)
		err = expand_env ? expand(&raw, &text, &unset) : text_put(&text, raw.data, raw.len);
	if (err == -EFBIG) {
		snprintf(config.message, sizeof config.message, "longer than %d bytes: is no litefs.yml", CONFIG_MAX);
		err = -EBADMSG;
	}
	if (!err)
		err = parse(&text, &unset, &config);
	free(raw.data);
	free(text.data);
	if (err) {
		memcpy(ret->message, config.message, sizeof ret->message);
		litefs_config_fini(&config);
		return err;
	}
	*ret = config;
	return 0;
}

void litefs_config_fini(struct litefs_config *config)
{
	free(config->fuse_dir);
	free(config->data_dir);
	free(config->local_url);
	free(config->lease_type);
	free(config->lease_hostname);
	free(config->lease_advertise_url);
	free(config->lease_consul_url);
	free(config->lease_consul_key);
	memset(config, 0, sizeof *config);
}
