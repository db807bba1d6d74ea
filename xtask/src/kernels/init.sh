#!/bin/busybox sh
# First program of a test machine: mounts, loads modules, runs the tests, powers off.
export PATH=/bin HOME=/tmp RUST_BACKTRACE=1
/bin/busybox --install -s /bin 2>/dev/null
mkdir -p /proc /sys /dev /tmp /run/netns /var/run
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t bpf none /sys/fs/bpf
mount -t tracefs none /sys/kernel/tracing 2>/dev/null
/bin/ip link set lo up
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done </modules/list
echo "kernel $(uname -r)"

failed=0
for program in /tests/*; do
    echo "== $program"
    "$program" --include-ignored --test-threads=1 --show-output </dev/null 2>&1 || failed=$((failed + 1))
done
echo "END_MARK $failed"
poweroff -f
