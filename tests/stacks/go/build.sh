#!/bin/sh
# build.sh FIND_GO NAME: compiles ./NAME to ./bin/NAME by the Go that FIND_GO finds, from the modules that go.sum names.
set -eu
go=$(sh "$1")
GOTOOLCHAIN=local GOFLAGS=-mod=readonly CGO_CFLAGS="${CGO_CFLAGS--O1 -g0}" nice -n 5 "$go" build -o "bin/$2" "./$2"
