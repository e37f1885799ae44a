#!/bin/sh
# Runs inside the machine of `cargo xtask vm`: what containers do on a kernel with cgroup v2 only.
# One line for each promise; the exit code is the number of those broken.

export NARU_HOST=unix:///run/naru/naru.sock
failed=0
passed=0

# check NAME WANTED FOUND
check() {
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        echo "FAILED  $1: wanted '$2', found '$3'"
    fi
}

wait_for() {
    tries=0
    while [ $tries -lt 100 ]; do
        if eval "$1"; then
            return 0
        fi
        tries=$((tries + 1))
        sleep 0.1
    done
    return 1
}

naru daemon >/run/daemon.log 2>&1 &
daemon=$!
if ! wait_for 'naru version >/dev/null 2>&1'; then
    echo "FAILED  the daemon does not answer"
    cat /run/daemon.log
    exit 1
fi

naru load -i /test/image.tar >/run/load.log 2>&1
check "an image is loaded" 0 $?
run="naru run --rm --network none busybox"

$run true
check "a container runs" 0 $?
$run sh -c 'exit 7'
check "its exit code comes back" 7 $?

limited="naru run --rm --network none -m 64m --cpus 0.5 --pids-limit 20 --cpu-shares 512 --cpuset-cpus 1 busybox"
check "memory limit" 67108864 "$($limited cat /sys/fs/cgroup/memory.max)"
check "swap limit" 67108864 "$($limited cat /sys/fs/cgroup/memory.swap.max)"
check "CPU limit" "50000 100000" "$($limited cat /sys/fs/cgroup/cpu.max)"
check "CPU weight" 20 "$($limited cat /sys/fs/cgroup/cpu.weight)"
check "processes limit" 20 "$($limited cat /sys/fs/cgroup/pids.max)"
check "CPU set" 1 "$($limited cat /sys/fs/cgroup/cpuset.cpus.effective)"
check "the container's cgroup is its root" "0::/" "$($run cat /proc/self/cgroup)"
check "its cgroup is read-only" 1 "$($run sh -c 'mkdir /sys/fs/cgroup/own 2>/dev/null; echo $?')"
check "unless it is to be writable" 0 \
    "$(naru run --rm --network none --security-opt writable-cgroups=true busybox sh -c 'mkdir /sys/fs/cgroup/own; echo $?')"
check "an impossible limit is refused" 125 \
    "$(naru run --rm --network none --cpuset-cpus 4000 busybox true >/dev/null 2>&1; echo $?)"

# 10:237 is loop-control, which needs no capability: a node of it may be made and not be opened.
check "a forbidden device" "made refused" "$($run sh -c \
    'mknod /tmp/loop c 10 237 && echo -n "made "; head -c 0 /tmp/loop 2>/dev/null && echo opened || echo refused')"
check "an allowed device" 4 "$($run sh -c 'head -c 4 /dev/zero | wc -c' | tr -d ' ')"
check "a device given" opened "$(naru run --rm --network none --device /dev/loop-control busybox sh -c \
    'head -c 0 /dev/loop-control && echo opened')"
check "a device in a privileged container" opened "$(naru run --rm --network none --privileged busybox sh -c \
    'mknod /tmp/loop c 10 237 && head -c 0 /tmp/loop && echo opened')"

cgroup_of() {
    find /sys/fs/cgroup -type d -name "$(naru inspect -f '{{.Id}}' "$1")"
}

naru run -d --name paused --network none busybox sh -c 'while :; do :; done' >/dev/null
naru pause paused >/dev/null
folder=$(cgroup_of paused)
check "a pause freezes the cgroup" "frozen 1" "$(grep frozen "$folder/cgroup.events")"
before=$(grep usage_usec "$folder/cpu.stat")
sleep 0.5
check "and nothing runs" "$before" "$(grep usage_usec "$folder/cpu.stat")"
naru unpause paused >/dev/null
check "unpause thaws it" "frozen 0" "$(grep frozen "$folder/cgroup.events")"
naru kill paused >/dev/null
check "kill ends it" 137 "$(naru wait paused)"
naru rm paused >/dev/null
check "its cgroup is gone" gone "$([ -d "$folder" ] && echo there || echo gone)"

naru run -d --name killed --network none busybox sh -c 'sleep 1000 & sleep 1000' >/dev/null
naru pause killed >/dev/null
naru rm -f killed >/dev/null
check "a paused container can be removed by force" 0 $?

naru run --name full --network none -m 16m --memory-swap 16m busybox sh -c 'head -c 64m /dev/zero | tail'
check "out of memory is 137" 137 $?
check "and is told" true "$(naru inspect -f '{{.State.OOMKilled}}' full)"
naru rm full >/dev/null

naru run -d --name survivor --network none busybox sleep 1000 >/dev/null
kill -9 $daemon
naru daemon >>/run/daemon.log 2>&1 &
daemon=$!
wait_for 'naru version >/dev/null 2>&1'
check "a container outlives the daemon" true "$(naru inspect -f '{{.State.Running}}' survivor)"
naru rm -f survivor >/dev/null

kill $daemon
wait $daemon

# Ids can be remapped on file systems that allow it, as ext4 does and, on this kernel, none without a device.
truncate -s 64M /run/disk
mkdir -p /run/disk-root
check "a disk is made" "" "$({ mke2fs -F /run/disk >/dev/null && mount -t ext4 -o loop /run/disk /run/disk-root; } 2>&1)"
naru daemon --data-root /run/disk-root/naru --userns-remap default >>/run/daemon.log 2>&1 &
daemon=$!
wait_for 'naru version >/dev/null 2>&1'
naru load -i /test/image.tar >/run/load.log 2>&1
check "ids are remapped" "0 100000 65536" "$($run cat /proc/self/uid_map | awk '{print $1, $2, $3}')"
check "the image belongs to the mapped root" "0 0" "$($run stat -c '%u %g' /bin/busybox | tail -1)"
check "and so does what is written" "7" "$($run sh -c 'echo x >/f; chown 7 /f; stat -c %u /f; echo y >/dev/stdout' | head -1)"
check "its cgroup is its own root" "0::/" "$($run cat /proc/self/cgroup)"
own='mkdir /sys/fs/cgroup/own; made=$?; echo 1 >/sys/fs/cgroup/pids.max; echo $made $? $(cat /sys/fs/cgroup/pids.max)'
check "its own where asked for, but not its limits" "0 1 100" \
    "$(naru run --rm --network none --security-opt writable-cgroups=true --pids-limit 100 busybox sh -c "$own" 2>/dev/null)"
check "a device of the host is there" "a ed" "$(naru run --rm --network none --device /dev/loop-control busybox stat -c '%t %T' /dev/loop-control)"
check "and limited" 20 "$(naru run --rm --network none --pids-limit 20 busybox cat /sys/fs/cgroup/pids.max)"
naru run -d --name mapped --network none busybox sleep 1000 >/dev/null
check "an exec enters it" "0 100000" "$(naru exec mapped sh -c 'id -u; cat /proc/self/uid_map' | awk 'NR == 1 {printf "%s ", $1} NR == 2 {print $2}')"
naru rm -f mapped >/dev/null
kill $daemon
wait $daemon
umount /run/disk-root
check "no cgroup is left" "" "$(find /sys/fs/cgroup -mindepth 2 -type d -path '*naru*' | head -3)"

if [ $failed != 0 ]; then
    echo "--- processes and cgroups left"
    ps
    find /sys/fs/cgroup/naru -name cgroup.procs -exec sh -c 'echo $0: $(cat $0)' {} \;
    echo "--- the daemon's log"
    tail -40 /run/daemon.log
fi
echo "test result: $([ $failed = 0 ] && echo ok || echo FAILED). $passed passed; $failed failed"
exit $failed
