#!/usr/bin/env bash
# Builds packaging/Dockerfile with podman, and runs the image.
#
#   scripts/test-image.sh            # a minute; the program is USHER_BIN or the debug binary
#   scripts/test-image.sh compile    # compiles it in the image: ten minutes of CPU time
#
# It uses no registry, because it makes the images of both `FROM` lines itself. The last one gets packages
# of Debian that the real one has too. In the first one, `cargo` copies the program; with `compile`, it
# is a Debian 12 with this machine's Rust. The Dockerfile is used as it is.
#
# Everything happens in namespaces with a /run and a store of their own: no image and no container of
# this machine is seen or changed. That needs root; elsewhere the test is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

say() { printf 'test-image: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
work=$PWD/target/image
scope=${1:-copy}
case "$scope" in copy | compile) ;; *) fail "usage: scripts/test-image.sh [compile]" ;; esac

# 1. Namespaces. Their end is the end of each process and mount in them.
if [ -z "${USHER_IMAGE_GROUP:-}" ]; then
    why=
    [ "$(id -u)" = 0 ] || why="run this as root"
    [ -n "$why" ] || unshare --mount --pid --fork --mount-proc --net true 2>/dev/null || why="the kernel must allow namespaces"
    if [ -n "$why" ]; then
        say "skipped: to build and run the image, $why"
        exit 0
    fi
    tools="podman runc"
    [ "$scope" = copy ] || tools="$tools mmdebstrap"
    for tool in $tools; do
        command -v "$tool" >/dev/null || fail "install $tool; scripts/setup-tests.sh installs what make test needs"
    done
    usher=${USHER_BIN:-target/debug/usher}
    [ "$scope" = compile ] || [ -x "$usher" ] || cargo build
    # The kernel ends the processes of the namespace after its first one.
    clean() {
        for _ in $(seq 50); do
            find /sys/fs/cgroup -depth -type d -path "*/usher-image-$$*" -exec rmdir {} + 2>/dev/null && return
            sleep 0.1
        done
    }
    trap clean EXIT
    USHER_IMAGE_GROUP=usher-image-$$ USHER_BIN=$usher \
        unshare --mount --pid --fork --kill-child --mount-proc "$BASH" "$0" "$@"
    exit
fi
servers=$(cat /etc/resolv.conf 2>/dev/null || true)
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
# Where systemd resolves names, this file is a link into /run.
if [ ! -e /etc/resolv.conf ]; then
    link=$(readlink --canonicalize-missing /etc/resolv.conf)
    mkdir -p "$(dirname "$link")"
    printf '%s\n' "$servers" >"$link"
fi
scratch=$work/scratch
rm -rf "$scratch"
mkdir -p "$work/packages" "$scratch"
# A compilation is too big for the memory: 4 GB, as opposed to 400 MB.
[ "$scope" = compile ] || mount -t tmpfs tmpfs "$scratch"
mkdir -p "$scratch/temporary" "$scratch/probe"/{lower,upper,work,all}

# Where an overlay is not possible, podman copies each layer.
driver=overlay
(cd "$scratch/probe" && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all && umount all) 2>/dev/null || driver=vfs
export TMPDIR=$scratch/temporary
export PODMAN="podman --root $scratch/store --storage-driver $driver --runtime runc --cgroup-manager cgroupfs --events-backend file"

# 2. The images of the `FROM` lines, under the names that the Dockerfile has for them.
of_base=(base-files ca-certificates libc6 libgcc-s1 libstdc++6 netbase tzdata)
download() { (cd "$work/packages" && apt-get -o APT::Sandbox::User=root download -qq "${of_base[@]}" busybox-static); }
if [ ! -e "$work/packages/.complete" ]; then
    say "packages of Debian into $work/packages, not installed: ${of_base[*]} busybox-static"
    download 2>/dev/null || { apt-get update -qq && download; }
    touch "$work/packages/.complete"
fi
unpack() {
    local name
    for name in "${@:2}"; do dpkg-deb --extract "$work"/packages/"$name"_*.deb "$1"; done
}
import() { tar -C "$1" --numeric-owner -cf - . | $PODMAN import --quiet "${@:3}" - "$2" >/dev/null; }
default() { sed -n "s/^ARG $1=//p" packaging/Dockerfile; }
rust=$(default RUST_IMAGE) base=$(default BASE_IMAGE)

final=$scratch/final home=home/nonroot
mkdir -p "$final"/{etc/ssl/certs,tmp} "$final/$home"
unpack "$final" "${of_base[@]}"
cat "$final"/usr/share/ca-certificates/mozilla/*.crt >"$final/etc/ssl/certs/ca-certificates.crt"
printf '%s\n' root:x:0:0:root:/:/sbin/nologin "nonroot:x:65532:65532:nonroot:/$home:/sbin/nologin" >"$final/etc/passwd"
printf '%s\n' root:x:0: nonroot:x:65532: >"$final/etc/group"
chown 65532:65532 "$final/$home"
import "$final" "$base" --change USER=65532 --change WORKDIR="/$home" \
    --change ENV=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

first=$scratch/first
if [ "$scope" = copy ]; then
    cp -a "$final" "$first"
    unpack "$first" busybox-static
    for applet in sh mkdir cp rm test; do ln -s busybox "$first/bin/$applet"; done
    strip --strip-all -o "$first/usher" "$USHER_BIN"
    printf '#!/bin/sh\n' >"$first/usr/bin/apt-get"
    cat >"$first/usr/bin/cargo" <<'CARGO'
#!/bin/sh
set -e
test "$*" = "build --release --locked"
for file in Cargo.toml Cargo.lock build.rs src/main.rs config/usher.toml; do test -f "$file"; done
test ! -e target
mkdir -p target/release
cp /usher target/release/usher
CARGO
    chmod 755 "$first/usr/bin/apt-get" "$first/usr/bin/cargo"
else
    say "a Debian 12 with this machine's Rust into $first"
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,gcc,libc6-dev bookworm "$first"
    mkdir "$first/usr/local/rust"
    cp -aL "$(rustc --print sysroot)"/{bin,lib} "$first/usr/local/rust/"
    ln -s ../rust/bin/{cargo,rustc} "$first/usr/local/bin/"
    # Where a proxy reads the traffic of this machine, its authority is among these.
    cp /etc/ssl/certs/ca-certificates.crt "$first/etc/ssl/certs/ca-certificates.crt"
fi
import "$first" "$rust" --change ENV=CARGO_HOME=/usr/local/cargo
rm -rf "$final" "$first"

# 3. The image. From sources of another age, the layers must be the same.
# A release names both images by digest.
by_digest() { $PODMAN image inspect --format "${1%:*}@{{.Digest}}" "$1"; }
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)
build() {
    $PODMAN build --quiet --layers=false --pull=never --isolation chroot --format docker --timestamp 0 \
        --file packaging/Dockerfile --build-arg USHER_COMMIT="$commit" --tag "$@" . >"$work/build.log" 2>&1 ||
        fail "the build failed: $(tail -n 30 "$work/build.log")"
}
build usher:first
if [ "$scope" = copy ]; then
    touch README.md Cargo.toml
    build usher:second --build-arg RUST_IMAGE="$(by_digest "$rust")" --build-arg BASE_IMAGE="$(by_digest "$base")"
    # podman writes the name of the build's container beside the layers, which differs.
    [ "$($PODMAN image inspect --format '{{.RootFS.Layers}} {{.Created}}' usher:first usher:second | sort -u | wc -l)" = 1 ] ||
        fail "two builds from the same program differ"
else
    program=$($PODMAN create --no-healthcheck usher:first)
    $PODMAN cp "$program:/usr/local/bin/usher" "$work/usher"
    say "compiled $work/usher"
fi

# 4. What it has, and how it runs. Its only network is a loopback of its own.
unshare --net python3 tests/image/run.py "$base" "$commit" "$USHER_IMAGE_GROUP"
$PODMAN image inspect --format 'test-image: {{.Size}} bytes, with the images under it' usher:first
[ "$scope" = copy ] || rm -rf "$scratch"
say "passed"
