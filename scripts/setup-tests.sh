#!/usr/bin/env bash
# Installs what the end-to-end tests need and do not find: a browser, Python and Node, and pinned packages for both.
# Installs nothing that is there already, so a second run takes no time and needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup-tests: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# 1. Debian packages, only for the commands that are missing.
packages=()
have chromium || have chromium-browser || have google-chrome || packages+=(chromium)
have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3 python3-venv)
have node || packages+=(nodejs)
have npm || packages+=(npm)
# Debian keeps it where not every PATH looks.
have redis-server || packages+=(redis-server)
have redis-sentinel || packages+=(redis-sentinel)
have redis-cli || packages+=(redis-tools)
have mosquitto || [ -x /usr/sbin/mosquitto ] || packages+=(mosquitto)

if [ "${#packages[@]}" -gt 0 ]; then
    if ! have apt-get; then
        say "please install by hand: ${packages[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
        if [ -n "${CI:-}" ]; then as_root=(sudo --non-interactive); fi
    fi
    say "installing ${packages[*]}"
    ${as_root[@]+"${as_root[@]}"} apt-get update -qq </dev/null
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null
fi

# The stamp holds the checksum of the list that was installed: another list is installed again.
fresh() { [ -f "$2" ] && [ "$(cat "$2")" = "$(sha256sum <"$1")" ]; }
stamp() { sha256sum <"$1" >"$2"; }

# 2. Python packages, in an environment of their own.
requirements=tests/e2e/clients/python/requirements.txt
venv=target/e2e-tools/venv
if [ -f "$requirements" ] && ! fresh "$requirements" "$venv/.installed"; then
    say "python packages into $venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$requirements"
    stamp "$requirements" "$venv/.installed"
fi

# 3. Node packages, exactly as locked.
for lock in tests/e2e/clients/*/package-lock.json tests/e2e/browser/package-lock.json; do
    [ -f "$lock" ] || continue
    folder=$(dirname "$lock")
    if ! fresh "$lock" "$folder/node_modules/.installed"; then
        say "node packages into $folder/node_modules"
        npm ci --prefix "$folder" --no-audit --no-fund --loglevel=error </dev/null
        mkdir -p "$folder/node_modules"
        stamp "$lock" "$folder/node_modules/.installed"
    fi
done

# 4. What the tests themselves want on top.
if [ -f tests/e2e/install.sh ]; then
    bash tests/e2e/install.sh </dev/null
fi
