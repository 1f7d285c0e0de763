#!/bin/sh
# The script that adds up results must not lose a failure. TAP.
set -u

count=$(cd "$(dirname "$0")/.." && pwd)/scripts/count-results
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
n=0

# result FILE RESULT NAME: as automake's TAP driver writes it.
result() {
	echo ":test-result: $2" >>"$1.trs"
	echo "$2: tests/unit/$1 1 - $3" >>"$1.log"
}

# expect NAME STATUS LAST_LINE ARGUMENT...
expect() {
	name=$1 status=$2 line=$3
	shift 3
	n=$((n + 1))
	sh "$count" "$@" >out 2>&1
	got=$?
	if [ "$got" = "$status" ] && [ "$(tail -n 1 out)" = "$line" ]; then
		echo "ok $n - $name"
	else
		echo "not ok $n - $name"
		sed 's/^/# /' out
	fi
}

result good PASS a
result good PASS b
result bad PASS a
result bad FAIL b
result bad ERROR "exited with status 1"
result skipping PASS a
result skipping SKIP "b # SKIP no root"
: >empty.trs
echo 'skipping: b' >declared

echo "1..8"
expect results__all_passed__success 0 "2 passed, 0 failed" good.trs
expect results__one_failed__failure 1 "3 passed, 2 failed" good.trs bad.trs
expect results__skip_not_declared__failure 1 "1 passed, 1 failed" skipping.trs
expect results__skip_declared__success 0 "1 passed, 0 failed" --skips declared skipping.trs
expect results__program_without_results__failure 1 "2 passed, 1 failed" good.trs empty.trs
expect results__program_missing__failure 1 "2 passed, 1 failed" good.trs none.trs
expect results__none_at_all__failure 1 "0 passed, 0 failed"
sh "$count" bad.trs >out 2>&1
n=$((n + 1))
if grep -q '^FAIL bad: b$' out; then echo "ok $n - results__failed__named"; else echo "not ok $n - results__failed__named"; fi
