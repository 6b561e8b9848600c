#!/bin/sh
# After a removal. `purge` is Debian's second step: it deletes what Usher has written. Certificates
# in /etc/usher/tls are not Usher's, so they stay, and so does the user.
set -e

if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi
if [ "${1:-}" = purge ]; then
    rm -rf /var/lib/usher /var/log/usher /run/usher
    if [ -d /etc/usher/tls ]; then
        rmdir --ignore-fail-on-non-empty /etc/usher/tls
    fi
fi
