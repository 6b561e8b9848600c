#!/usr/bin/env bash
# Installs the missing programs that the end-to-end tests need: browsers, Java, Go, Python and Node,
# and pinned packages of npm and PyPI. First prints each with its purpose. If nothing is missing, it
# needs no network. If Debian packages are missing, it asks at a terminal, and never if CI is set.
# `setup-tests.sh coverage` does the same for the programs that only `scripts/coverage.sh` needs.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup-tests: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }

# The missing packages, and the purpose of each.
packages=()
plan=()
need() { packages+=("$1"); plan+=("$(printf 'Debian   %-36s %s' "$1" "$2")"); }

# 1. Debian packages, only for the commands that are missing.
need_for_tests() {
    have chromium || have chromium-browser || have google-chrome || need chromium "a browser for the page of the demo and for credentials of pages"
    have firefox-esr || have firefox || need firefox-esr "a second browser"
    # WebKitGTK takes the place of Safari. It has no headless mode, so it needs a virtual display.
    have WebKitWebDriver || need webkit2gtk-driver "a third browser, in place of Safari"
    have Xvfb || need xvfb "the display of the third browser"
    if ! have python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        need python3 "clients, the public WebSocket suite"
        need python3-venv "a separate environment for their packages"
    fi
    have node || need nodejs "clients, and servers of other protocols"
    have npm || need npm "their packages"
    # The compiler is needed because the client is run from its source.
    have javac || need default-jdk-headless "a client in Java"
    have go || need golang-go "a verifier of the signed header"
    [ -d /usr/share/gocode/src/github.com/gorilla/websocket ] || need golang-github-gorilla-websocket-dev "a client in Go"
    have openssl || need openssl "certificates, and checks of those of Usher"
    # The path of Debian is not in every PATH.
    have nginx || [ -x /usr/sbin/nginx ] || need nginx "a server that hangs behind Usher, or reads the PROXY protocol"
    have haproxy || [ -x /usr/sbin/haproxy ] || need haproxy "a balancer that speaks the PROXY protocol"
    have dnsmasq || [ -x /usr/sbin/dnsmasq ] || need dnsmasq-base "a DNS server whose names change"
    have pebble || need pebble "an authority that issues certificates over ACME"
    have mosquitto || [ -x /usr/sbin/mosquitto ] || need mosquitto "a broker of MQTT"
    [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || have rabbitmq-server || need rabbitmq-server "a broker of STOMP and MQTT"
    { have prometheus && have promtool; } || need prometheus "the queries of the dashboards and alerts"
    have curl || need curl "a client of HTTP/2"
    have logrotate || [ -x /usr/sbin/logrotate ] || need logrotate "moves log files under a running Usher"
    have h2load || need nghttp2-client "load over HTTP/2"
    have rpm || need rpm "the .rpm that is installed and removed again"
    have lintian || need lintian "faults in the .deb"
    have podman || need podman "the image, built and run"
    have runc || [ -x /usr/sbin/runc ] || need runc "its containers"
    have mandoc || need mandoc "faults in the manual pages"
    have zsh || need zsh "its completions"
    have fish || need fish "its completions"
    have systemd-socket-activate || need systemd "sockets that a service manager passes"
    have redis-server || need redis-server "the store that several nodes share"
    have redis-sentinel || need redis-sentinel "its failover"
    have redis-cli || need redis-tools "its faults"
}

# Only the LLVM tools of the version of rustc read its counts reliably.
need_for_coverage() {
    local major
    major=$(rustc --version --verbose | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    have "llvm-cov-$major" || need "llvm-$major" "reads the counts of covered lines"
}

scope=${1:-tests}
case "$scope" in
    tests) need_for_tests ;;
    coverage) need_for_coverage ;;
    *) say "usage: scripts/setup-tests.sh [coverage]" >&2; exit 2 ;;
esac

# The stamp has the checksum of the installed list. A changed list is installed again.
fresh() { [ -f "$2" ] && [ "$(cat "$2")" = "$(sha256sum <"$1")" ]; }
stamp() { sha256sum <"$1" >"$2"; }

# 2. Python packages, in an environment of their own.
requirements=tests/e2e/clients/python/requirements.txt
venv=target/e2e-tools/venv
needs_venv=
if [ "$scope" = tests ] && [ -f "$requirements" ] && ! fresh "$requirements" "$venv/.installed"; then
    needs_venv=yes
    plan+=("PyPI     $venv, as $requirements lists it")
fi

# 3. Node packages, exactly as locked.
locks=()
for lock in tests/e2e/clients/*/package-lock.json tests/e2e/browser/package-lock.json clients/js/package-lock.json examples/socketio/package-lock.json; do
    [ "$scope" = tests ] && [ -f "$lock" ] || continue
    if ! fresh "$lock" "$(dirname "$lock")/node_modules/.installed"; then
        locks+=("$lock")
        plan+=("npm      $(dirname "$lock")/node_modules, as locked")
    fi
done

if [ "${#plan[@]}" -gt 0 ]; then
    say "the tests use programs of other projects. These are missing:"
    printf '  %s\n' "${plan[@]}"
fi

if [ "${#packages[@]}" -gt 0 ]; then
    if ! have apt-get; then
        say "apt-get not found: install the equivalents of these packages by hand: ${packages[*]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo)
        if [ -n "${CI:-}" ]; then as_root=(sudo --non-interactive); fi
    fi
    if [ -t 0 ] && [ -z "${CI:-}" ]; then
        read -r -p "setup-tests: ${as_root[*]}${as_root:+ }apt-get installs the Debian packages for the whole system. Go on? [Y/n] " answer
        case "$answer" in [nN]*) say "nothing was installed"; exit 1 ;; esac
    fi
    ${as_root[@]+"${as_root[@]}"} apt-get update -qq </dev/null
    # Debian starts each server that it installs, and RabbitMQ on every address of the machine. The
    # tests start their own on loopback. This file keeps the others from starting during the
    # installation.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '${as_root[@]+"${as_root[@]}"} rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | ${as_root[@]+"${as_root[@]}"} tee "$policy" >/dev/null
        ${as_root[@]+"${as_root[@]}"} chmod 755 "$policy"
    fi
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null
fi

if [ -n "$needs_venv" ]; then
    say "python packages into $venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-input -r "$requirements"
    stamp "$requirements" "$venv/.installed"
fi

for lock in ${locks[@]+"${locks[@]}"}; do
    folder=$(dirname "$lock")
    say "node packages into $folder/node_modules"
    npm ci --prefix "$folder" --no-audit --no-fund --loglevel=error </dev/null
    mkdir -p "$folder/node_modules"
    stamp "$lock" "$folder/node_modules/.installed"
done
