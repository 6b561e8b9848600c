#!/bin/sh
# After an installation and after an upgrade. Debian calls it with `configure` and the version
# before, rpm with the number of installed versions.
set -e

case "${1:-}" in
    configure) before=${2:-} ;;
    1) before= ;;
    [2-9]*) before=another ;;
    *) exit 0 ;;
esac

systemd-sysusers usher.conf
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create usher.conf || true
fi

# Replaces the running process by one of the new version. That one takes the sockets over, so
# clients are not refused, and sessions close as `[drain] window` says. If it cannot start, the old
# process goes on.
replace() {
    old=$(systemctl show --property=MainPID --value usher.service)
    systemctl kill --kill-who=main --signal=SIGUSR2 usher.service
    tries=0
    while [ "$(systemctl show --property=MainPID --value usher.service)" = "$old" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            echo "usher: the old process still runs; see: journalctl -u usher" >&2
            return 0
        fi
        sleep 0.1
    done
    systemctl is-active --quiet usher.service || echo "usher: not running; see: journalctl -u usher" >&2
}

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    if [ -n "$before" ] && systemctl is-active --quiet usher.service; then
        replace
    fi
fi

if [ -z "$before" ]; then
    cat <<'NEXT'
Usher is installed, and not started. Next:
  1. edit /etc/usher/usher.toml, and put secrets into /etc/usher/environment
  2. put a certificate and its key into /etc/usher/tls, or make a pair for a trial:
       usher cert --cert /etc/usher/tls/cert.pem --key /etc/usher/tls/key.pem
       chown root:usher /etc/usher/tls/*.pem && chmod 640 /etc/usher/tls/*.pem
  3. sh -c 'set -a; . /etc/usher/environment; usher check'
  4. systemctl enable --now usher
NEXT
fi
