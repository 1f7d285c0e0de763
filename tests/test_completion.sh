#!/bin/sh
# What the shells offer for a command line that is being typed: the real completion files in the real shells. TAP.
set -u

top=$(cd "${top_srcdir:-$(dirname "$0")/..}" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

ok() { # NAME STATUS
	n=$((n + 1))
	if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; sed 's/^/# /' "$dir/got"; fi
}

# What bash makes of LINE (the cursor at its end), a line of output for each offer. bash cuts words at blanks, "=" and ":".
bash_offers() { # LINE
	(cd "$dir/home" && bash --norc --noprofile -c '
		source "$1"
		COMP_LINE=$2 COMP_POINT=${#2}
		text=$2
		COMP_WORDS=()
		while [[ -n $text ]]; do
			case $text in
			[[:space:]]*) text=${text#?}; [[ -n $text ]] || COMP_WORDS+=("") ;;
			[=:]*) piece=${text%%[!=:]*}; COMP_WORDS+=("$piece"); text=${text#"$piece"} ;;
			*) piece=${text%%[[:space:]=:]*}; COMP_WORDS+=("$piece"); text=${text#"$piece"} ;;
			esac
		done
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		complete -p litefwd mount.litefwd >/dev/null || exit 1
		_litefwd
		printf "%s\n" "${COMPREPLY[@]}"
	' bash "$top/completions/litefwd" "$1") >"$dir/got" 2>&1
}

offers() { # NAME LINE EXPECTED...
	name=$1
	bash_offers "$2"
	shift 2
	printf '%s\n' "$@" | sort >"$dir/expected"
	sort -o "$dir/got" "$dir/got"
	cmp -s "$dir/expected" "$dir/got"
	ok "$name" $?
}

mkdir "$dir/home" "$dir/home/data" "$dir/home/state"
: >"$dir/home/litefs.yml"

echo "1..17"
offers bash__first_option__by_its_beginning "litefwd -o halt_t" "halt_timeout="
offers bash__option_joined_to_its_letter__by_its_beginning "litefwd -ohalt_t" "-ohalt_timeout="
offers bash__later_option__after_the_earlier_ones "litefwd -f -o wait=1s,spool_t" "1s,spool_threshold="
offers bash__flag__without_equals "litefwd -o allow" "allow_other"
offers bash__several__all_of_them "litefwd -o gateway" "gateway=" "gateway_url=" "gateway_secret="
offers bash__file_wanted__files "litefwd -o allow_other,litefs_config=lit" "litefs.yml"
offers bash__file_wanted_nothing_typed__files "litefwd -o litefs_config=" "data" "litefs.yml" "state"
offers bash__directory_wanted__directories "mount.litefwd -o state_dir=" "data" "state"
offers bash__time_wanted__nothing "litefwd -o wait=" ""
offers bash__positional__directories "litefwd -o ro da" "data"
offers bash__letter__flags "litefwd --v" "--version"
offers bash__first_word__commands_and_directories "litefwd " "check" "data" "state" "status"
offers bash__first_word__command_by_its_beginning "litefwd ch" "check"
offers bash__flags_of_a_command__its_own "litefwd status --" "--help" "--json" "--timeout=" "--watch"
offers bash__options_of_check__those_of_the_mount "litefwd check -o halt_t" "halt_timeout="

# zsh: its _arguments and _values are given what they take; every option is among it.
zsh -f -c '
	_values() { print -rl -- "$@" }
	_arguments() { [[ $# -gt 5 ]] && _litefwd_options }
	source "$1"
' zsh "$top/completions/_litefwd" 2>&1 | sed -n 's/^\([a-z_]*\)\[.*/\1/p' | sort >"$dir/got"
sed -n 's/^#\{0,1\}\([a-z_]*\)\( = .*\)\{0,1\}$/\1/p' "$top/docs/litefwd.conf" | { cat; echo config; } | grep . | sort >"$dir/expected"
cmp -s "$dir/expected" "$dir/got" && [ -s "$dir/got" ]
ok zsh__options__all_of_them $?

# And in a command, what it takes.
zsh -f -c '
	words=(litefwd status --j) CURRENT=3
	_arguments() { print -rl -- "$@" }
	run() { source "$1" }
	run "$1"
' zsh "$top/completions/_litefwd" >"$dir/got" 2>&1
printf '%s\n' --help --json --watch --timeout=:TIME: '1:directory:_files -/' >"$dir/expected"
cmp -s "$dir/expected" "$dir/got"
ok zsh__flags_of_a_command__its_own $?
