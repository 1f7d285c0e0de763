#!/bin/sh
# Installs what package-lock.json names, and compiles better-sqlite3's SQLite: prebuilt ones are no part of the package,
# and neither they nor Node.js' headers are to be fetched where only the registry is reachable. So the headers that came with Node.js are used.
set -eu
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
[ ! -e "$prefix/include/node/node.h" ] || export npm_config_nodedir="$prefix"
export npm_config_build_from_source=true
# Half the time of its own -O3.
export CFLAGS="${CFLAGS--O1}" CXXFLAGS="${CXXFLAGS--O1}"
npm ci --no-audit --no-fund
