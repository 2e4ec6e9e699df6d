# After the power cut: everything that was there is there (names in /guest/there), everything can be read, and all goes on.
failed=0
fail() {
    echo "$*"
    failed=1
}
mkdir -p /var/lib/jdos /srv/tiny/bin
mount /dev/vdb /var/lib/jdos || fail "the disk can not be mounted"
cp /bin/busybox /srv/tiny/bin
jdos container reconcile >/dev/null || fail "reconcile fails"
while read -r name; do
    jdos container inspect "$name" >/dev/null || fail "$name is lost"
done </guest/there
for id in $(jdos container ps -a -q --no-trunc); do
    jdos container inspect "$id" >/dev/null || fail "$id can not be read"
done
[ -z "$(jdos container ps -q)" ] || fail "something runs: $(jdos container ps)"
name=$(head -n 1 /guest/there)
jdos container start "$name" >/dev/null || fail "$name does not start"
jdos container wait "$name" >/dev/null || fail "$name does not end"
[ "$(jdos container run --rm --layer /srv/tiny busybox echo new)" = new ] || fail "nothing new can be run"
jdos container rm -f $(jdos container ps -a -q --no-trunc) >/dev/null || fail "not everything can be removed"
for folder in containers names; do
    [ -z "$(ls -A /var/lib/jdos/$folder)" ] || fail "left in $folder: $(ls -A /var/lib/jdos/$folder)"
done
exit $failed
