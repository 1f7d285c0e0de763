#!/bin/sh
# Compares what is documented with what the program says. TAP.
set -u

top=${top_srcdir:-$(dirname "$0")/..}
litefwd=${LITEFWD:-./litefwd}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

ok() { # NAME STATUS
	n=$((n + 1))
	if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; fi
}

# Two lists that must be the same and not empty.
same() { # NAME LEFT RIGHT
	if [ -s "$2" ] && diff -u "$2" "$3" >"$dir/diff"; then
		ok "$1" 0
	else
		ok "$1" 1
		sed 's/^/# /' "$dir/diff"
	fi
}

"$litefwd" --help >"$dir/help.txt"

# What is made of the table of options is what the program prints now.
status=0
LITEFWD=$litefwd "$top/scripts/update-generated" --check >"$dir/generated" || status=1
sed 's/^/# /' "$dir/generated"
ok options__generated_files__current "$status"

# Every option of --help is in each of them once: the table cannot lose a row on its way.
awk '/^OPTIONS/ { on = 1; next } on && /^$/ { exit } on { sub(/=.*/, "", $1); print $1 }' "$dir/help.txt" | sort >"$dir/help"
awk '/begin options$/ { on = 1 } /end options$/ { on = 0 } on && /^\.It Cm / { print $3 }' "$top/man/litefwd.8" | sort >"$dir/man"
same options__man_page__those_of_help "$dir/help" "$dir/man"

# README has the most important ones, as docs/options.md has them all.
awk '/^\| Option / { on = 1; next } on && !/^\|/ { exit } on && !/^\| *-/' "$top/README.md" >"$dir/readme"
grep -Fxf "$top/docs/options.md" "$dir/readme" >"$dir/readme-right"
same options__readme__some_of_them "$dir/readme" "$dir/readme-right"

# Every flag of the synopsis is in both.
status=0
for flag in f d; do
	grep -q "^  -$flag  " "$dir/help.txt" && grep -q "^\.It Fl $flag\$" "$top/man/litefwd.8" || status=1
done
ok flags__man_page__same_as_help "$status"

# Exit codes: the numbers that --help names are those of the man page.
sed -n 's/^Exit status: //p' "$dir/help.txt" | tr ',' '\n' | sed 's/^ *\([0-9]\).*/\1/' | sort >"$dir/codes-help"
awk '/^\.Sh EXIT STATUS/ { on = 1; next } /^\.Sh / { on = 0 } on && /^\.It / { print $2 }' "$top/man/litefwd.8" | sort >"$dir/codes-man"
same exit_codes__man_page__same_as_help "$dir/codes-help" "$dir/codes-man"

# The rows of MANNERS: their text, and the errnos that they name, are what @row(TEXT, ERRNOS) says of their tests.
awk '
	/begin manners$/ { on = 1; next }
	/^\.\\" end manners/ { on = 0 }
	on && /^\.It / { row = substr($0, 5); print row "|" }
	on && /^\.Er / { print row "|" $2 }
' "$top/man/litefwd.8" | sort -u >"$dir/manners-man"
sed -n 's/^@row("\([^"]*\)"\(, "\([A-Z ]*\)"\)*)$/\1|\3/p' "$top/tests/cluster/test_manners.py" |
	awk -F '|' '{ print $1 "|"; n = split($2, errnos, " "); for (i = 1; i <= n; i++) print $1 "|" errnos[i] }' |
	sort -u >"$dir/manners-tests"
same manners__man_page__rows_and_errnos_as_tested "$dir/manners-man" "$dir/manners-tests"

# README's two commands, the first lines of its first two sh blocks, are files that can be run.
awk '/^```sh/ { block++; getline; print $1 }' "$top/README.md" | head -n 2 >"$dir/commands"
printf 'scripts/demo\nscripts/test\n' >"$dir/commands-expected"
same readme__first_two_commands__are_demo_and_test "$dir/commands" "$dir/commands-expected"
status=0
while read -r command; do
	[ -x "$top/$command" ] || status=1
done <"$dir/commands"
ok readme__first_two_commands__are_executable "$status"

# Of each line for fstab that the documents give systemd makes a unit that starts after LiteFS.
fstab_lines() {
	grep -hE '^(none|/litefs) /data litefwd .* 0 0$' "$top/README.md" "$top"/docs/*.md "$top/man/litefwd.conf.5"
	# In the man page a backslash joins two lines.
	sed -n '/^none \/data litefwd.*\\$/{N;s/\\\n//p;}' "$top/man/litefwd.8"
}
status=0
generator=/usr/lib/systemd/system-generators/systemd-fstab-generator
fstab_lines >"$dir/fstab"
[ "$(wc -l <"$dir/fstab")" -ge 4 ] || status=1
while read -r line; do
	echo "$line" >"$dir/one"
	rm -rf "$dir/units"
	mkdir "$dir/units" "$dir/units/1" "$dir/units/2" "$dir/units/3"
	SYSTEMD_FSTAB=$dir/one "$generator" "$dir/units/1" "$dir/units/2" "$dir/units/3" >"$dir/log" 2>&1
	for wanted in "What=${line%% *}" Where=/data Type=litefwd Requires=litefs.service After=litefs.service; do
		grep -qx "$wanted" "$dir/units/1/data.mount" && continue
		echo "# $line: no $wanted"
		status=1
	done
done <"$dir/fstab"
ok fstab__lines_in_the_documents__units_after_litefs "$status"

# Every relative link and every path in backquotes that names one of our directories exists.
status=0
for doc in README.md HACKING.md SECURITY.md; do
	grep -o '](\([A-Za-z][A-Za-z0-9_./-]*\))' "$top/$doc" | sed 's/^](//; s/)$//' | grep -v '^http' >"$dir/links"
	grep -o '`\(src\|tests\|scripts\|man\|packaging\)/[A-Za-z0-9_./-]*`' "$top/$doc" | tr -d '`' >>"$dir/links"
	while read -r path; do
		[ -e "$top/$path" ] && continue
		echo "# $doc: $path does not exist"
		status=1
	done <"$dir/links"
done
ok docs__paths__exist "$status"

# Every test that SECURITY.md names is one.
status=0
grep -o '`[a-z0-9_]*__[a-z0-9_]*`' "$top/SECURITY.md" | tr -d '`' | sort -u >"$dir/names"
[ "$(wc -l <"$dir/names")" -gt 30 ] || status=1
while read -r name; do
	grep -qrw --include='*.c' --include='*.py' "$name" "$top/tests/unit" "$top/tests/cluster" && continue
	echo "# SECURITY.md: $name is no test"
	status=1
done <"$dir/names"
grep -o '`fuzz_[a-z_]*`' "$top/SECURITY.md" | tr -d '`' | sort -u >"$dir/names"
while read -r name; do
	[ -e "$top/tests/fuzz/$name.c" ] && continue
	echo "# SECURITY.md: tests/fuzz/$name.c does not exist"
	status=1
done <"$dir/names"
ok security__tests_that_it_names__exist "$status"

echo "1..$n"
