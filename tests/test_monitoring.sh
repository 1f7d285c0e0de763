#!/bin/sh
# Alert rules, dashboard, tracepoints and their documentation, compared with each other and checked by promtool. TAP.
set -u

top=${top_srcdir:-$(dirname "$0")/..}
litefwd=${LITEFWD:-./litefwd}
python=${PYTHON3:-python3}
rules=$top/packaging/prometheus/litefwd.rules.yml
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
n=0

ok() { # NAME STATUS
	n=$((n + 1))
	if [ "$2" = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; sed 's/^/# /' "$dir/out"; fi
}

monitoring() {
	"$python" -B "$top/tests/monitoring/monitoring.py" "$@"
}

# Lines of LEFT that are not in RIGHT; LEFT must have some.
within() { # NAME LEFT RIGHT
	sort -u "$2" >"$dir/left"
	sort -u "$3" >"$dir/right"
	comm -23 "$dir/left" "$dir/right" >"$dir/out"
	[ -s "$2" ] && [ ! -s "$dir/out" ]
	ok "$1" $?
}

echo "1..10"

promtool check rules "$rules" >"$dir/out" 2>&1
ok rules__promtool__accepts_them $?

promtool test rules "$top/tests/monitoring/litefwd.rules.test.yml" >"$dir/out" 2>&1
ok rules__their_unit_tests__pass $?

monitoring alerts >"$dir/alerts"
grep -o 'Litefwd[A-Za-z]*' "$top/tests/monitoring/litefwd.rules.test.yml" >"$dir/tested"
within rules__each_alert__has_a_unit_test "$dir/alerts" "$dir/tested"
grep -o '`Litefwd[A-Za-z]*`' "$top/docs/monitoring.md" | tr -d '`' >"$dir/documented"
within rules__each_alert__documented "$dir/alerts" "$dir/documented"
within docs__each_alert__is_one "$dir/documented" "$dir/alerts"

monitoring metrics-of docs >"$dir/docs"
monitoring metrics-of rules >"$dir/rules"
within rules__each_metric__documented "$dir/rules" "$dir/docs"
monitoring metrics-of dashboard >"$dir/dashboard"
within dashboard__each_metric__documented "$dir/dashboard" "$dir/docs"

monitoring dashboard-rules >"$dir/dashboard.yml" 2>"$dir/out" && promtool check rules "$dir/dashboard.yml" >"$dir/out" 2>&1
ok dashboard__each_expression__promtool_parses_it $?

# Each reason for being degraded is one that the code has, and the other way round.
sed -n 's/^\t\[HEALTH_[A-Z_]*\] = {"\([a-z_]*\)".*/\1/p' "$top/src/status/health.c" | sort >"$dir/left"
awk '/^\| reason / { on = 1; next } on && !/^\|/ { on = 0 } on && /^\| `/ { gsub(/`/, "", $2); print $2 }' "$top/docs/monitoring.md" | sort >"$dir/right"
[ -s "$dir/left" ] && diff "$dir/left" "$dir/right" >"$dir/out"
ok docs__reasons_for_being_degraded__as_in_the_code $?

# The tracepoints in the program are those of docs/tracing.md; without sys/sdt.h there are none.
readelf -n "$litefwd" 2>"$dir/out" | awk '/Provider: litefwd$/ { on = 1; next } on && /Name:/ { print $2; on = 0 }' | sort -u >"$dir/probes"
if echo '#include <sys/sdt.h>' | ${CC:-cc} -E -xc - >/dev/null 2>&1; then
	sed -n 's/^| `\([a-z_]*\)` |.*/\1/p' "$top/docs/tracing.md" | sort >"$dir/right"
else
	: >"$dir/right"
fi
diff "$dir/probes" "$dir/right" >"$dir/out"
ok tracing__notes_in_the_program__are_the_documented_probes $?
