#!/bin/sh
# Process 1 of the guest: mounts, modules, commands, power off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mount -t devtmpfs -o nosuid dev /dev
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts -o nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount --make-rshared /
ln -s /proc/self/fd /dev/fd
while read -r module; do insmod "/guest/modules/$module" || echo "cannot load $module"; done </guest/modules/order
ip link set lo up
hostname guest
. /guest/settings

if [ "$interactive" = 1 ]; then
    echo "A guest with pure cgroup v2, kernel $(uname -r). exit powers it off; Ctrl-A X pulls the plug." >/dev/ttyS1
    cd /root && setsid -c sh -i </dev/ttyS1 >/dev/ttyS1 2>&1
else
    exec </dev/null >/dev/ttyS1 2>&1
    stty -F /dev/ttyS1 -opost
    for command in /guest/commands/*; do
        (cd /root && exec sh "$command")
        echo "$mark $?"
    done
    echo "$mark end"
fi
sync
poweroff -f
