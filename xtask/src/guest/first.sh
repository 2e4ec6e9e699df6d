#!/bin/sh
# The first program of the guest: reaches the disk and makes it the root.
b=/bin/busybox
while read -r module; do $b insmod "/modules/$module"; done </modules/order
$b mount -t devtmpfs dev /dev
tries=0
until [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { echo "no disk /dev/vda"; $b poweroff -f; }
    $b usleep 20000
done
$b mount -t ext4 -o noatime /dev/vda /root || $b poweroff -f
$b umount /dev
exec $b switch_root /root /sbin/init
