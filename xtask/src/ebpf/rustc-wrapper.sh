#!/bin/sh
# Runs the compiler; crates of Phalanx get symbol names that do not depend on their folder.
rustc=$1
shift
case ${CARGO_PKG_NAME:-} in
phalanx-*)
    for argument; do
        shift
        case $argument in
        metadata=*) argument=metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION ;;
        esac
        set -- "$@" "$argument"
    done
    ;;
esac
exec "$rustc" "$@"
