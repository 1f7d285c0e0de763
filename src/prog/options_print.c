#include "prog/options_print.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "prog/options_internal.h"

/* Commands besides the mount: what they take, for --help and the shells. */
static const struct subcommand {
	const char *name, *arguments;
	const char *flags[4]; /* up to NULL */
	const char *help;
} subcommands[] = {
	{"status", "[--json] [--watch] [--timeout=TIME] MOUNTPOINT", {"--json", "--watch", "--timeout="},
	 "what the litefwd at MOUNTPOINT is doing"},
	{"check", "[-o OPTIONS] [LITEFS_DIR]", {"-o"}, "why litefwd would not work here"},
};

#define SUBCOMMANDS (sizeof subcommands / sizeof subcommands[0])

/* ---- --help ---- */

void options_print_help(void)
{
	printf("usage: litefwd [-f] [-d] [-o OPTIONS] LITEFS_DIR MOUNTPOINT\n"
	       "       litefwd [-f] [-d] -o litefs_config=FILE[,OPTIONS] MOUNTPOINT\n"
	       "       litefwd --help | --version\n");
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		printf("       litefwd %s %s\n", subcommands[i].name, subcommands[i].arguments);
	printf("\n"
	       "Shows the LiteFS directory LITEFS_DIR at MOUNTPOINT, writable by SQLite on every node:\n"
	       "each transaction is committed on the cluster's primary.\n\n"
	       "  -f  stay in the foreground, log on stderr\n"
	       "  -d  the same, and log more\n\n"
	       "OPTIONS, separated by commas (TIME: 250ms, 10s, 2m; SIZE: 65536, 64K, 16M):\n");
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];
		const char *value = option->value ? option->value : "";
		int width = printf("  %s%s%s", option->name, *value ? "=" : "", value);

		printf("%*s%s", width < 26 ? 26 - width : 1, "", option->help);
		if (option->initial)
			printf(" (default %s)", option->initial);
		putchar('\n');
	}
	printf("\nWhat mount(8) and fstab add (rw, noatime, _netdev, x-... and so on) is accepted.\n"
	       "Options are read from " OPTIONS_CONFIG ", too, if it exists.\n"
	       "Exit status: %d success, %d failed, %d usage, %d LiteFS is not there.\n",
	       EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_LITEFS);
}

/* ---- man pages ---- */

/* "from 0 to 15s"; nothing where there are no bounds. */
static void print_bounds(const struct option *option, const char *before, const char *after)
{
	char min[32], max[32];

	if (option->kind != OPT_DURATION && option->kind != OPT_SIZE)
		return;
	options_format(option, option->min, min, sizeof min);
	options_format(option, option->max, max, sizeof max);
	printf("%sfrom %s to %s%s", before, min, max, after);
}

static void print_item(const struct option *option)
{
	printf(".It Cm %s", option->name);
	if (option->value)
		printf(" Ns = Ns Ar %s", option->value);
	printf("\n%s", option->help);
	if (option->initial) {
		printf("\n.Pq default %s", option->initial);
		print_bounds(option, "; ", "");
	}
	putchar('\n');
}

static void print_man(void)
{
	for (size_t i = 0; i < options_count; i++) {
		print_item(&options_table[i]);
		if (options_table[i].more)
			printf(".Pp\n%s\n", options_table[i].more);
	}
}

static void print_man_conf(void)
{
	for (size_t i = 0; i < options_count; i++)
		if (strcmp(options_table[i].name, "config") != 0)
			print_item(&options_table[i]);
}

/* ---- README ---- */

static void print_markdown(void)
{
	puts("| Option | Default | Meaning |\n| --- | --- | --- |");
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];

		printf("| `%s%s%s` | %s%s| %s |\n", option->name, option->value ? "=" : "", option->value ? option->value : "",
		       option->initial ? option->initial : "", option->initial ? " " : "", option->help);
	}
}

/* ---- litefwd.conf ---- */

static void print_conf(void)
{
	puts("# litefwd.conf: options for every litefwd of this machine; those on the command line and in fstab win.\n"
	     "# See litefwd.conf(5). What is commented out here is the default, or an example where there is none.\n");
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];

		if (!strcmp(option->name, "config"))
			continue;
		printf("# %s", option->help);
		print_bounds(option, " (", ")");
		printf("\n#%s", option->name);
		if (option->value)
			printf(" = %s", option->initial ? option->initial : option->value);
		fputs("\n\n", stdout);
	}
}

/* ---- completion ---- */

/* The names of the options for which take() says yes, each with what is put before and after it. */
static void print_names(bool (*take)(const struct option *), const char *before, const char *after)
{
	for (size_t i = 0; i < options_count; i++)
		if (take(&options_table[i]))
			printf("%s%s%s%s", before, options_table[i].name, options_table[i].value ? "=" : "", after);
}

static bool is_any(const struct option *option)
{
	(void)option;
	return true;
}

static bool is_file(const struct option *option)
{
	return option->kind == OPT_FILE;
}

static bool is_dir(const struct option *option)
{
	return option->kind == OPT_DIR;
}

/* "status check", or the flags of one of them. */
static void print_subcommands(void)
{
	for (size_t i = 0; i < SUBCOMMANDS; i++)
		printf("%s%s", i ? " " : "", subcommands[i].name);
}

static void print_flags(const struct subcommand *command)
{
	for (const char *const *flag = command->flags; *flag; flag++)
		printf("%s ", *flag);
}

/*
 * bash cuts words at "=" and ":", but not at ",": of "-o wait=1s,ha" the word to be completed is "1s,ha". So the option is found
 * in the line itself, and what is offered begins with what bash takes for the word.
 */
static void print_bash(void)
{
	fputs("# bash completion of litefwd. Made by `litefwd options --bash`.\n\n"
	      "_litefwd() {\n"
	      "\tlocal line=${COMP_LINE:0:COMP_POINT} word=${COMP_WORDS[COMP_CWORD]} list option rest before i in_o= joined= flags\n"
	      "\tlist=${line##*[[:space:]]}\n"
	      "\t[[ $word == [=:] ]] && word=\n"
	      "\tline=${line%\"$list\"}\n"
	      "\tline=${line%\"${line##*[![:space:]]}\"}\n"
	      "\tcase ${line##*[[:space:]]} in -o) in_o=1 ;; esac\n"
	      "\tcase $list in -o?*) in_o=1 list=${list#-o} ;; esac\n"
	      "\tcase $word in -o?*) joined=-o word=${word#-o} ;; esac\n"
	      "\tCOMPREPLY=()\n"
	      "\tif [[ -z $in_o ]]; then\n"
	      "\t\tflags='-f -d -o -h -V --help --version'\n"
	      "\t\t[[ $COMP_CWORD -gt 1 ]] && case ${COMP_WORDS[1]} in\n",
	      stdout);
	for (size_t i = 0; i < SUBCOMMANDS; i++) {
		printf("\t\t%s) flags='", subcommands[i].name);
		print_flags(&subcommands[i]);
		printf("--help' ;;\n");
	}
	fputs("\t\tesac\n"
	      "\t\tif [[ $list == -* ]]; then\n"
	      "\t\t\tCOMPREPLY=($(compgen -W \"$flags\" -- \"$list\"))\n"
	      "\t\t\treturn\n"
	      "\t\tfi\n"
	      "\t\tmapfile -t COMPREPLY < <(compgen -d -- \"$word\")\n"
	      "\t\tcompopt -o filenames 2>/dev/null\n"
	      "\t\t[[ $COMP_CWORD -eq 1 ]] && COMPREPLY+=($(compgen -W '",
	      stdout);
	print_subcommands();
	fputs("' -- \"$word\"))\n"
	      "\t\treturn\n"
	      "\tfi\n"
	      "\toption=${list##*,}\n"
	      "\trest=${word##*,}\n"
	      "\tbefore=$joined${word%\"$rest\"}\n"
	      "\tcase $option in\n",
	      stdout);
	print_names(is_file, "\t", "*) mapfile -t COMPREPLY < <(compgen -f -- \"$rest\"); compopt -o filenames 2>/dev/null ;;\n");
	print_names(is_dir, "\t", "*) mapfile -t COMPREPLY < <(compgen -d -- \"$rest\"); compopt -o filenames 2>/dev/null ;;\n");
	fputs("\t*=*) return ;;\n"
	      "\t*)\n"
	      "\t\tCOMPREPLY=($(compgen -W '",
	      stdout);
	print_names(is_any, " ", "");
	fputs("' -- \"$rest\"))\n"
	      "\t\tcompopt -o nospace 2>/dev/null\n"
	      "\t\t;;\n"
	      "\tesac\n"
	      "\tfor i in \"${!COMPREPLY[@]}\"; do COMPREPLY[i]=$before${COMPREPLY[i]}; done\n"
	      "}\n\n"
	      "complete -F _litefwd litefwd mount.litefwd\n",
	      stdout);
}

/* Within '...' of a _values specification: its own brackets and colons are written with a backslash. */
static void print_zsh_text(const char *text)
{
	for (; *text; text++) {
		if (*text == '\'')
			fputs("'\\''", stdout);
		else if (strchr("[]:\\", *text))
			printf("\\%c", *text);
		else
			putchar(*text);
	}
}

static void print_zsh(void)
{
	fputs("#compdef litefwd mount.litefwd\n"
	      "# zsh completion of litefwd. Made by `litefwd options --zsh`.\n\n"
	      "_litefwd_options() {\n"
	      "\t_values -s , option",
	      stdout);
	for (size_t i = 0; i < options_count; i++) {
		const struct option *option = &options_table[i];

		printf(" \\\n\t\t'%s[", option->name);
		print_zsh_text(option->help);
		putchar(']');
		if (option->value) {
			putchar(':');
			print_zsh_text(option->value);
			printf(":%s", is_file(option) ? "_files" : is_dir(option) ? "_files -/" : "");
		}
		putchar('\'');
	}
	fputs("\n}\n\n"
	      "_litefwd_first() {\n"
	      "\t_alternative 'directories:LiteFS directory:_files -/' 'commands:command:((",
	      stdout);
	for (size_t i = 0; i < SUBCOMMANDS; i++) {
		printf("%s%s\\:\"", i ? " " : "", subcommands[i].name);
		print_zsh_text(subcommands[i].help);
		putchar('"');
	}
	fputs("))'\n}\n\n"
	      "if (( CURRENT > 2 )); then\n"
	      "\tcase $words[2] in\n",
	      stdout);
	for (size_t i = 0; i < SUBCOMMANDS; i++) {
		const struct subcommand *command = &subcommands[i];

		printf("\t%s)\n\t\tshift words\n\t\t(( CURRENT-- ))\n\t\t_arguments --help", command->name);
		for (const char *const *flag = command->flags; *flag; flag++)
			printf(" '%s%s'", *flag, !strcmp(*flag, "-o") ? "+[options]:options:_litefwd_options" :
				(*flag)[strlen(*flag) - 1] == '=' ? ":TIME:" : "");
		printf(" '1:directory:_files -/'\n\t\treturn\n\t\t;;\n");
	}
	fputs("\tesac\n"
	      "fi\n\n"
	      "_arguments -s \\\n"
	      "\t'(-h --help)'{-h,--help}'[print a summary of the options]' \\\n"
	      "\t'(-V --version)'{-V,--version}'[print the version]' \\\n"
	      "\t'-f[stay in the foreground]' \\\n"
	      "\t'-d[stay in the foreground and log more]' \\\n"
	      "\t'*-o+[options]:options:_litefwd_options' \\\n"
	      "\t'1: :_litefwd_first' \\\n"
	      "\t'2:mountpoint:_files -/'\n",
	      stdout);
}

int options_print(const char *format)
{
	static const struct {
		const char *name;
		void (*print)(void);
	} formats[] = {
		{"--man", print_man}, {"--man-conf", print_man_conf}, {"--markdown", print_markdown},
		{"--conf", print_conf}, {"--bash", print_bash}, {"--zsh", print_zsh},
	};

	for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
		if (!strcmp(format, formats[i].name)) {
			formats[i].print();
			return 0;
		}
	return -EINVAL;
}
