#!/usr/bin/env bash
# Boots systemd as the first process of its own namespaces, on a copy of this machine's files that
# is gone afterwards. It needs root, overlayfs and cgroups, and no container engine.
#
#   tests/packages/boot.sh FOLDER FILE...   # the FILEs are in /packages of the booted system
#
# It does not return. Its child is the first process there, to enter with nsenter as soon as
# /packages exists. Kill the script to end everything.
set -euo pipefail

if [ "${1:-}" != --inside ]; then
    folder=$1
    # A cgroup of its own, so that systemd does not create any beside the machine's.
    for place in /sys/fs/cgroup /sys/fs/cgroup/*/; do
        [ -w "$place/cgroup.procs" ] || continue
        mkdir -p "$place/usher-packages-$$" && echo $$ >"$place/usher-packages-$$/cgroup.procs" || true
    done 2>/dev/null
    mkdir -p "$folder"
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc --net \
        "$BASH" "$0" --inside "$@"
fi

folder=$2
shift 2
mount --make-rprivate /
mount -t tmpfs tmpfs "$folder"
mkdir "$folder"/{upper,work,root}
root=$folder/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
rm -rf "$root/packages"
mkdir -p "$root/packages" "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp"
cp "$@" "$root/packages/"

# Only what Usher's units need is started: no service of this machine, and nothing that changes the
# kernel. Debian's rule that keeps services from starting does not hold here.
units=$root/etc/systemd/system
rm -f "$root/usr/sbin/policy-rc.d"
mkdir -p "$units"
rm -f "$root/var/lib/man-db/auto-update"
for want in "$root"/usr/lib/systemd/system/*.wants/* "$units"/*.wants/*; do
    name=$(basename "$want")
    case "$name" in
        systemd-journald.* | systemd-journald-dev-log.* | '*' | *.target) ;;
        *) ln -sf /dev/null "$units/$name" ;;
    esac
done
ln -sf /dev/null "$units/systemd-journald-audit.socket"
printf '[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n' >"$units/packages.target"
: >"$root/etc/fstab"
rm -f "$root/etc/machine-id"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"

mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mkdir "$root"/sys/fs/cgroup/{systemd,unified}
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
fi
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    cp -a "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
ip link set lo up 2>/dev/null || python3 - <<'UP'
import fcntl, socket, struct
# SIOCSIFFLAGS with IFF_UP, where `ip` is missing.
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))
UP
cd "$root"
mkdir -p before
# A mount namespace inside a service needs the root of this one, which chroot would not change.
pivot_root . before
umount --lazy /before
# As at a boot of a machine: the credentials of a service are mounted for it.
mount --make-rshared /
exec env -i container=usher-packages PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /usr/lib/systemd/systemd --system --unit=packages.target --log-target=null --show-status=no
