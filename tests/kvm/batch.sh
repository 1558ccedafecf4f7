#!/bin/bash
# batch.sh SECONDS PROGRAM...: runs each in an empty directory of its own with its copy, and writes for each a line
# "@@ NAME STATUS SIZE" and its standard output.  The same natively and in a sandbox, of which there is one for all.
# SECONDS: how long each may take.
seconds=$1
shift
top=$(mktemp -d)
for program; do
    name=${program##*/}
    mkdir "$top/$name"
    cp "$program" "$top/$name/"
    cd "$top/$name" || exit 125
    HOME=$PWD timeout -s KILL "$seconds" "./$name" </dev/null 2>/dev/null | cat >"$top/out"
    statuses=("${PIPESTATUS[@]}")
    status=${statuses[0]}
    [ "${statuses[1]}" = 0 ] || echo "cat ended with status ${statuses[1]}" >>"$top/out"
    cd "$top"
    echo "@@ $name $status $(stat -c %s "$top/out")"
    cat "$top/out"
    rm -rf "${top:?}/$name"
done
