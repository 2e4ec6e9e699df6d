# Makes containers on the disk that outlives this guest, until its power is cut; says what is done.
mkdir -p /var/lib/jdos /srv/tiny/bin
mount /dev/vdb /var/lib/jdos || exit 1
cp /bin/busybox /srv/tiny/bin
number=0
while :; do
    number=$((number + 1))
    jdos container create --name kept$number --layer /srv/tiny busybox true >/dev/null && echo "there is kept$number."
    jdos container run -d --name ran$number -p $((8000 + number)):80 --layer /srv/tiny busybox sleep 1000 >/dev/null &&
        echo "there is ran$number."
    jdos container create --name gone$number --layer /srv/tiny busybox true >/dev/null &&
        jdos container rm gone$number >/dev/null
done
