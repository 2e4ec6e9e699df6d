#!/bin/sh
# run-tests PROGRAM FOLDER: each test of a test program in a process of its own, one line with its result.
program=$1
mkdir -p "$2" /guest/out && cd "$2" || exit 1
name=${program##*/}
name=${name%-*}
if ! "$program" --list --format terse >/guest/out/list 2>/guest/out/error; then
    cat /guest/out/error
    echo "@@failed $name (cannot list its tests)"
    exit 1
fi
failed=0
sed -n 's/: test$//p' /guest/out/list >/guest/out/names
while read -r test; do
    timeout -s KILL 240 "$program" --exact "$test" >/guest/out/text 2>&1 </dev/null
    status=$?
    if [ $status = 0 ]; then
        grep -q ' 1 passed' /guest/out/text && echo "@@passed $name $test"
    else
        cat /guest/out/text
        echo "@@failed $name $test ($status)"
        failed=1
    fi
done </guest/out/names
exit $failed
