#!/usr/bin/env bash
# Builds the packages from the debug binary, checks their contents, and installs, upgrades and
# removes each under a systemd of its own. That last part needs root, overlayfs and cgroups; without
# them it is skipped, with a message.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

say() { printf 'test-packages: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
work=target/packages
venv=$work/test-venv
usher=${USHER_BIN:-target/debug/usher}
[ -x "$usher" ] || cargo build

list=tests/packages/requirements.txt
# The stamp has the checksum of the installed list. A changed list is installed again.
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$(sha256sum <"$list")" ]; then
    say "python packages into $venv"
    mkdir -p "$work"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$list"
    sha256sum <"$list" >"$venv/.installed"
fi

# 1. The packages. The second build has other times and another umask, the third another version.
first=$work/dist second=$work/again third=$work/next
strip --strip-all -o "$work/usher-stripped" "$usher"
DIST=$first packaging/build.sh "$work/usher-stripped"
(umask 077; touch packaging/systemd/* packaging/scripts/*; DIST=$second packaging/build.sh "$work/usher-stripped" >/dev/null)
diff -r "$first" "$second" || fail "two builds from the same binary differ"
version=$("$usher" -V | cut -d ' ' -f 2)
next=${version%.*}.$((${version##*.} + 1))
DIST=$third VERSION=$next WITHOUT_ARCHIVE=yes packaging/build.sh "$work/usher-stripped" >/dev/null
deb=$(echo "$first"/*.deb) rpm=$(echo "$first"/*.rpm)

# 2. What is in them.
stage=$work/stage
bash -n "$stage/usher.bash"
zsh -n "$stage/_usher"
fish --no-execute "$stage/usher.fish"
# clap_mangen writes pages that mandoc warns about, such as for an empty date.
faults=$(gzip -dc "$stage"/man/*.gz | mandoc -T lint -W error || true)
[ -z "$faults" ] || fail "manual pages: $faults"
[ "$(gzip -dc "$stage/man/usher-run.1.gz" | mandoc -T ascii | grep -c 'usher run --takeover')" = 1 ] ||
    fail "the page of usher run lacks its examples"
"$venv/bin/python" - "$stage/usher.cdx.json" <<'CHECK'
import json, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

text = open(sys.argv[1], encoding="utf-8").read()
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
assert fault is None, fault
names = {one["name"] for one in json.loads(text)["components"]}
assert {"rustls", "aws-lc-sys", "tokio"} <= names and "proptest" not in names, names
CHECK
# The template of `cargo binstall` in Cargo.toml names the archive and the program in it.
python3 - "$first" "$version" <<'CHECK'
import pathlib, re, sys, tarfile, tomllib

folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
install = tomllib.loads(pathlib.Path("Cargo.toml").read_text())["package"]["metadata"]["binstall"]
(archive,) = folder.glob("*.tar.gz")
target = re.fullmatch(rf"usher-{re.escape(version)}-(.+)\.tar\.gz", archive.name)[1]
values = {"version": version, "target": target, "bin": "usher", "binary-ext": "", "repo": "R"}
expand = lambda template: re.sub(r"\{ ([a-z-]+) \}", lambda match: values[match[1]], template)
assert expand(install["pkg-url"]).endswith("/" + archive.name), expand(install["pkg-url"])
program = tarfile.open(archive).getmember(expand(install["bin-dir"]))
assert program.mode & 0o111 and program.uid == 0, program
CHECK
lintian --fail-on error,warning --suppress-tags-from-file packaging/lintian-accepted "$deb" ||
    fail "lintian finds faults in $deb"
rpm --query --package --configfiles "$rpm" 2>/dev/null | grep -qx /etc/usher/usher.toml || fail "$rpm has no configuration"

# `usher --version` names the commit, from each place that may have it.
sources=$PWD/$work/sources commit=0123456789abcdef0123456789abcdef01234567
rm -rf "$sources" && mkdir "$sources"
script=$PWD/$work/build-script
rustc --edition 2024 -o "$script" build.rs
recorded() {
    (cd "$sources" && env CARGO_MANIFEST_DIR="$sources" PROFILE=release RUSTC=rustc "$@" "$script") |
        sed -n 's/^cargo::rustc-env=USHER_COMMIT=//p'
}
[ -z "$(recorded)" ] || fail "sources without a commit name $(recorded)"
echo "node: \$Format:%H\$" >"$sources/.git-archival.txt"
[ -z "$(recorded)" ] || fail "a file that git has not filled in names $(recorded)"
echo "node: $commit" >"$sources/.git-archival.txt"
[ "$(recorded)" = "$commit" ] || fail "the file of git archive is not read"
echo "{\"git\": {\"sha1\": \"${commit//0/f}\"}}" >"$sources/.cargo_vcs_info.json"
[ "$(recorded)" = "${commit//0/f}" ] || fail "the file of cargo package is not read"
[ "$(recorded USHER_COMMIT=abc)" = abc ] || fail "USHER_COMMIT is not read"
if [ -e .git ]; then
    [[ $(sources=$PWD && recorded) == "$(git rev-parse HEAD)"* ]] || fail "git is not asked"
    git archive HEAD .git-archival.txt | tar -xO | grep -qx "node: $(git rev-parse HEAD)" || fail "git archive writes no commit"
fi
rm -r "$sources"

# 3. The image, as far as it can be checked without an engine.
"$venv/bin/hadolint" packaging/Dockerfile
context=$work/context
rm -rf "$context" && mkdir "$context"
sed -n 's/^!//p' packaging/Dockerfile.dockerignore | while read -r path; do cp -r "$path" "$context/"; done
cargo metadata --manifest-path "$context/Cargo.toml" --locked --offline --no-deps --format-version 1 >/dev/null
rm -rf "$context"
# Debian 12 has glibc 2.36, and the image has these libraries.
needed=$(readelf --dynamic --wide "$stage/usher" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for library in $needed; do
    case "$library" in
        libc.so.6 | libm.so.6 | libgcc_s.so.1 | ld-linux-*) ;;
        *) fail "the image has no $library" ;;
    esac
done

# 4. The unit, also without systemd. 0 is the best score and 100 the worst.
systemd-analyze security --offline=true --threshold=20 --no-pager packaging/systemd/usher.service |
    grep 'Overall exposure' || fail "the unit has too many rights"

# 5. A systemd that runs them.
booted=
finish() {
    [ -z "$booted" ] || kill -KILL "$booted" 2>/dev/null || true
    wait 2>/dev/null || true
    # The kernel ends the processes of the namespace after its first one.
    for _ in $(seq 50); do
        find /sys/fs/cgroup -depth -type d -path "*/usher-packages-${booted:-none}*" -exec rmdir {} + 2>/dev/null && return
        sleep 0.1
    done
}
trap finish EXIT

under_systemd() {
    local kind=$1 old=$2 new=$3 folder=/tmp/usher-packages-$$ first_process
    [ "$(id -u)" = 0 ] || { say "skipped: to boot systemd for the $kind, run this as root"; return; }
    tests/packages/boot.sh "$folder" "$old" "$new" tests/packages/{installed,websocket}.py >"$work/boot.log" 2>&1 &
    booted=$!
    for _ in $(seq 300); do
        first_process=$(ps -o pid= --ppid "$booted" | tr -d ' ' || true)
        # Before the folder is there, the process has the files of this machine.
        if [ -n "$first_process" ] && nsenter --target "$first_process" --all --root --wd \
            sh -c 'test -d /packages && systemctl is-system-running' 2>/dev/null | grep -qE '^(running|degraded)$'; then
            nsenter --target "$first_process" --all --root --wd \
                python3 /packages/installed.py "$kind" "/packages/$(basename "$old")" "/packages/$(basename "$new")"
            finish
            booted=
            rmdir "$folder"
            return
        fi
        kill -0 "$booted" 2>/dev/null || break
        sleep 0.1
    done
    # A machine whose kernel does not allow it; a fault of the packages is found above.
    say "skipped: systemd does not boot here: $(cat "$work/boot.log")"
    finish
    booted=
}
under_systemd deb "$deb" "$(echo "$third"/*.deb)"
under_systemd rpm "$rpm" "$(echo "$third"/*.rpm)"
say "passed"
