#!/bin/sh
# Runs the tests of /guest/tests (`PROGRAM FOLDER TEST` on a line), each in a process of its own. A line for each result;
# before a failed one what the test printed.
text=/guest/text
while read -r program folder test; do
    mkdir -p "$folder" && cd "$folder" || exit 1
    read -r begin _ </proc/uptime
    timeout -s KILL 240 "$program" --exact "$test" >$text 2>&1 </dev/null
    status=$?
    read -r end _ </proc/uptime
    if [ $status = 0 ] && grep -q ' 1 passed' $text; then
        # In hundredths of a second; there is no `.` in what the shell can reckon with.
        echo "@@passed $(((${end%.*}${end#*.}) - (${begin%.*}${begin#*.}))) $program $test"
    else
        cat $text
        echo "@@failed $status $program $test"
    fi
done </guest/tests
