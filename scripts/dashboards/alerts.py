"""The recording rules and the alerts, each with its runbook.

A page wakes someone up; a ticket waits for the day. Thresholds that depend on the size of a fleet
stand at the top.
"""

from dataclasses import dataclass

# The share of upgrades that Usher may fail in 30 days, client faults apart.
ERROR_BUDGET = 0.001
# Fewer failures than this in the long window are no reason to page.
LEAST_FAILURES = 5
# A fall or a storm of fewer sessions or clients than this is ordinary.
LEAST_SESSIONS = 50
LEAST_RATE = 5
# Longer than `[drain] delay` and `window` together.
LONGEST_DRAIN = "10m"
# Longer than a renewal should wait, and shorter than the life of a certificate.
CERTIFICATE_DAYS = 7
# A fetched OCSP answer is replaced at half of its life. Most live for a week.
STAPLE_HOURS = 6
# Wrong admin tokens in ten minutes: more than a person mistypes.
MOST_WRONG_TOKENS = 20


@dataclass
class Recording:
    name: str
    query: str
    # Whether it has no value as long as all is well.
    is_quiet: bool = False


@dataclass
class Alert:
    name: str
    query: str
    wait: str
    severity: str
    runbook: str
    # The title of the panel that shows it, in `usher-overview` if no other dashboard is named.
    panel: str
    summary: str
    description: str


# Admission is an upgrade or the ticket for it. A client that gets no ticket never asks for an upgrade.
FAILED = (
    'sum by (job) (rate(usher_upgrades_total{{outcome=~"%SERVER%"}}[{0}]) or '
    'rate(usher_tickets_refused_total{{outcome=~"%SERVER%"}}[{0}])) or '
    "sum by (job) (rate(usher_upgrades_total[{0}]) or rate(usher_tickets_issued_total[{0}])) * 0"
)
COUNTED = (
    'sum by (job) (rate(usher_upgrades_total{{outcome=~"accepted|%SERVER%"}}[{0}]) or '
    "rate(usher_tickets_issued_total[{0}]) or "
    'rate(usher_tickets_refused_total{{outcome=~"%SERVER%"}}[{0}]))'
)

RECORDINGS = [
    Recording(f"job:usher_admission_failures:ratio_rate{window}",
              f"({FAILED.format(window)}) / ({COUNTED.format(window)} > 0)")
    for window in ("5m", "30m", "1h", "6h", "3d")
] + [
    Recording("job:usher_admission_failures:rate1h", FAILED.format("1h")),
    Recording("job:usher_client_refusals:rate5m",
              'sum by (job) (rate(usher_upgrades_total{outcome=~"%CLIENT%"}[5m])) or '
              "sum by (job) (rate(usher_upgrades_total[5m])) * 0"),
    # For each accepted client, so that more clients alone are no jump. Without any there is no value.
    Recording("job:usher_client_refusals:per_accepted5m",
              "job:usher_client_refusals:rate5m / clamp_min("
              'sum by (job) (rate(usher_upgrades_total{outcome="accepted"}[5m])) or '
              "job:usher_client_refusals:rate5m * 0, 0.01) "
              "and sum by (job) (rate(usher_upgrades_total[5m])) > 0"),
    Recording("job:usher_connections:rate1m", "sum by (job) (rate(usher_connections_total[1m]))"),
    # A node that starts is not ready either.
    Recording("instance:usher_draining:ready",
              "usher_ready == 0 and on (job, instance) time() - usher_start_time_seconds > 60",
              is_quiet=True),
]  # fmt: skip


def burn(long: str, short: str, factor: float) -> str:
    limit = f"{factor * ERROR_BUDGET:g}"
    ratio = "job:usher_admission_failures:ratio_rate"
    return (
        f"{ratio}{long} > {limit} and {ratio}{short} > {limit} "
        f"and job:usher_admission_failures:rate1h * 3600 >= {LEAST_FAILURES}"
    )


def grew(query: str, window: str) -> str:
    """Returns a query for a counter that grew, even if its series begins inside the window."""
    name, _, by = query.partition(" by ")
    return (
        f"sum by ({by}) (increase({name}[{window}])) > 0 or "
        f"sum by ({by}) ({name} unless {name} offset {window}) > 0"
    )


NO_BACKEND_OUTCOMES = "upstream_unavailable|upstream_timeout|upstream_protocol"


def sum_of(outcomes: str) -> str:
    """Returns the query for the upgrades of a route with one of these outcomes, a second."""
    return f'sum by (job, route) (rate(usher_upgrades_total{{outcome=~"{outcomes}"}}[2m]))'


NO_BACKEND = sum_of(NO_BACKEND_OUTCOMES)
NO_TICKET = 'rate(usher_tickets_refused_total{outcome=~"%SERVER%"}[2m])'


def unordered(query: str) -> str:
    """Returns the sum over the nodes that did not drain within five minutes."""
    drained = "last_over_time(instance:usher_draining:ready[5m])"
    return f"sum by (job) (({query}) unless on (job, instance) {drained})"


SESSIONS_NOW = unordered("usher_sessions_active")
SESSIONS_BEFORE = unordered("usher_sessions_active offset 5m")
# `usher drain --percent` ends sessions of a node that stays.
ORDERED_ENDS = 'usher_session_closes_total{reason="draining"}'
ORDERED_ENDS = unordered(f"clamp_min({ORDERED_ENDS} - {ORDERED_ENDS} offset 5m, 0) or {ORDERED_ENDS}")

# The certificate that Usher orders itself has no file.
ORDERED = "usher_acme_certificate_expiry_timestamp_seconds > 0"
ORDERED = f'label_replace(label_replace({ORDERED}, "purpose", "acme", "", ""), "file", "[acme]", "", "")'
CERTIFICATE_ENDS = (
    f"min by (job, purpose, file) (usher_certificate_expiry_timestamp_seconds or {ORDERED})"
)
FAILED_ORDERS = 'usher_acme_orders_total{outcome!~"issued|lock_lost"} by job'

ALERTS = [
    Alert(
        "UsherDown",
        "up == 0 and on (job, instance) count_over_time(usher_build_info[7d]) > 0",
        "2m", "page", "down", "Nodes that take clients",
        "{{ $labels.instance }} does not answer",
        "Prometheus could not read the metrics of a node for two minutes that it had read within "
        "the last week. Remove a node that is gone for good from the targets.",
    ),
    Alert(
        "UsherAdmissionBudgetBurnsFast", burn("1h", "5m", 14.4),
        "2m", "page", "admission", "Admitted, client faults apart",
        "{{ $value | humanizePercentage }} of the admissions of {{ $labels.job }} fail",
        "Upgrades or requests for tickets fail for reasons that are not the client's, so fast that the budget of a month "
        "(0.1 %) lasts two days.",
    ),
    Alert(
        "UsherAdmissionBudgetBurns", burn("6h", "30m", 6),
        "15m", "page", "admission", "Admitted, client faults apart",
        "{{ $value | humanizePercentage }} of the admissions of {{ $labels.job }} fail, for hours",
        "Upgrades or requests for tickets fail for reasons that are not the client's, so fast that the budget of a month "
        "(0.1 %) lasts five days.",
    ),
    Alert(
        "UsherAdmissionBudgetBurnsSlowly", burn("3d", "6h", 1),
        "1h", "ticket", "admission", "Admitted, client faults apart",
        "{{ $value | humanizePercentage }} of the admissions of {{ $labels.job }} fail, for days",
        "Upgrades or requests for tickets fail for reasons that are not the client's, so often that the budget of a month "
        "(0.1 %) will be used up.",
    ),
    Alert(
        "UsherSessionsFall",
        f"{SESSIONS_NOW} + ({ORDERED_ENDS} or {SESSIONS_NOW} * 0) < 0.8 * {SESSIONS_BEFORE} "
        f"and {SESSIONS_BEFORE} > {LEAST_SESSIONS}",
        "1m", "page", "sessions-fall", "Sessions by route",
        "{{ $labels.job }} lost a fifth of its sessions in five minutes",
        "No drain ended them, and as many have not come back.",
    ),
    Alert(
        "UsherRefusalsJump",
        "job:usher_client_refusals:rate5m > 1 and job:usher_client_refusals:per_accepted5m > 4 * "
        "quantile_over_time(0.5, job:usher_client_refusals:per_accepted5m[7d] offset 10m)",
        "5m", "page", "refusals-jump", "Refusals that are the client's fault",
        "{{ $labels.job }} refuses {{ $value | humanize }} clients a second by their own fault",
        "For each accepted client more than four times the median of the last week: a release of "
        "the clients, a change at the issuer or an attack.",
    ),
    Alert(
        "UsherReconnectStorm",
        "job:usher_connections:rate1m > 5 * avg_over_time(job:usher_connections:rate1m[1h] offset "
        "10m) "
        f"and job:usher_connections:rate1m > {LEAST_RATE} * sum by (job) (usher_ready) or "
        'sum by (job) (rate(usher_limits_hit_total{limit="unauthenticated"}[1m])) > 0',
        "1m", "page", "storm", "New connections a second",
        "Clients storm {{ $labels.job }}",
        "Connections arrive at five times the rate of the last hour, or the places for clients "
        "without a credential are full.",
    ),
    Alert(
        "UsherConnectionsFull",
        'sum by (job, instance) (rate(usher_limits_hit_total{limit="connections"}[2m])) > 0',
        "1m", "page", "storm", "Limits reached",
        "{{ $labels.instance }} has no place for more connections",
        "limits.connections is reached: the node closes new connections unread. Such refusals do "
        "not end by themselves.",
    ),
    Alert(
        "UsherConnectionsNearlyFull",
        "max by (job, instance) (usher_connections_open / usher_connections_limit) > 0.85",
        "10m", "ticket", "storm", "Places that are taken",
        "{{ $labels.instance }} has {{ $value | humanizePercentage }} of its connections",
        "There is little room for the sessions of a node that fails.",
    ),
    Alert(
        "UsherStoreAway", "max by (job, instance, lane, region) (usher_store_breaker_state) > 0",
        "1m", "page", "store", "Store: breaker",
        "{{ $labels.instance }} does not reach Redis ({{ $labels.lane }}"
        "{{ with $labels.region }}, region {{ . }}{{ end }})",
        "The circuit breaker is open: tickets are refused with 503, and orders to revoke stay on "
        "one node.",
    ),
    Alert(
        "UsherStoreFails",
        'sum by (job, region, outcome) (rate(usher_store_operations_total{outcome!="ok"}[5m])) '
        "/ on (job, region) group_left () "
        "sum by (job, region) (rate(usher_store_operations_total[5m])) > 0.02",
        "5m", "ticket", "store", "Store: failed operations",
        "{{ $value | humanizePercentage }} of the operations of {{ $labels.job }} on Redis "
        "{{ with $labels.region }}in {{ . }} {{ end }}fail: {{ $labels.outcome }}",
        "Redis answers, and not always well. Full memory (out_of_memory) fails only what is new.",
    ),
    Alert(
        "UsherTicketsFail",
        f"sum by (job, outcome) ({NO_TICKET}) / on (job) group_left () "
        f"sum by (job) (rate(usher_tickets_issued_total[2m]) or {NO_TICKET}) > 0.1 "
        f"and sum by (job, outcome) ({NO_TICKET}) * 120 >= {LEAST_FAILURES}",
        "1m", "page", "store", "Refusals that are not the client's fault",
        "{{ $value | humanizePercentage }} of the good clients of {{ $labels.job }} get no ticket: "
        "{{ $labels.outcome }}",
        "Clients that log in by ticket are outside. store_unavailable: Redis is away, or refuses "
        "what is new.",
    ),
    Alert(
        "UsherRevocationsNotRead",
        "usher_revocation_stream_reading == 0 and on (job, instance) usher_store_breaker_state",
        "2m", "page", "store", "usher-fleet: Reads the orders of other nodes",
        "{{ $labels.instance }} does not read the revocations of other nodes",
        "A user that is revoked at another node is still let in here.",
    ),
    Alert(
        "UsherIssuerHasNoKeys", "max by (job, instance, issuer) (usher_issuer_keys) == 0",
        "1m", "page", "issuer", "Issuers: keys",
        "{{ $labels.instance }} has no keys of the issuer {{ $labels.issuer }}",
        "All of its tokens are refused with 503 ISSUER_KEYS_UNAVAILABLE.",
    ),
    Alert(
        "UsherIssuerAway",
        'sum by (job, instance, issuer) (increase(usher_issuer_key_fetches_total{outcome!="ok"}[30m])) > 0 '
        'unless sum by (job, instance, issuer) (increase(usher_issuer_key_fetches_total{outcome="ok"}[30m])) > 0',
        "5m", "ticket", "issuer", "Issuers: age of the keys",
        "{{ $labels.instance }} cannot fetch the keys of {{ $labels.issuer }}",
        "No fetch succeeded for 30 minutes. The last good keys still work; a new key of the "
        "issuer does not.",
    ),
    Alert(
        "UsherVerifierAway", "max by (job, instance, verifier) (usher_verifier_breaker_state) > 0",
        "1m", "page", "verifier", "Verifiers: breaker",
        "{{ $labels.instance }} does not reach the verifier {{ $labels.verifier }}",
        "The circuit breaker is open: clients whose credential the verifier judges are refused "
        "with 503.",
    ),
    Alert(
        "UsherUpstreamFails",
        f"{NO_BACKEND} / {sum_of('accepted|' + NO_BACKEND_OUTCOMES)} > 0.1 "
        f"and {NO_BACKEND} * 120 >= {LEAST_FAILURES}",
        "1m", "page", "upstream", "Upstreams: failed tries",
        "{{ $value | humanizePercentage }} of the good clients of {{ $labels.route }} find no "
        "backend",
        "All servers of the upstream that Usher tried refused, hung or answered nonsense.",
    ),
    Alert(
        "UsherServersEjected",
        'max by (job, upstream) (usher_upstream_servers{state="ejected"}) > 0',
        "5m", "ticket", "upstream", "Upstreams: servers by state",
        "{{ $value }} servers of {{ $labels.upstream }} get no clients",
        "They failed, and the others carry their load.",
    ),
    Alert(
        "UsherCertificateExpiresSoon",
        f"{CERTIFICATE_ENDS} - time() < {CERTIFICATE_DAYS} * 86400",
        "5m", "ticket", "certificates", "Certificates: time left",
        "{{ $labels.file }} ({{ $labels.purpose }}) expires in {{ $value | humanizeDuration }}",
        "Its renewal did not happen, or Usher did not read the new file.",
    ),
    Alert(
        "UsherCertificateExpires",
        f"{CERTIFICATE_ENDS} - time() < 86400",
        "5m", "page", "certificates", "Certificates: time left",
        "{{ $labels.file }} ({{ $labels.purpose }}) expires in {{ $value | humanizeDuration }}",
        "A negative time: it has expired. Clients refuse a listener's expired certificate.",
    ),
    Alert(
        "UsherAcmeOrdersFail",
        f"({grew(FAILED_ORDERS, '6h')}) "
        'unless sum by (job) (increase(usher_acme_orders_total{outcome="issued"}[6h])) > 0',
        "15m", "ticket", "certificates", "ACME: orders",
        "{{ $labels.job }} gets no certificate from its authority",
        "{{ $value | humanize }} orders failed in six hours, and none succeeded. The certificate in force stays.",
    ),
    Alert(
        "UsherStapleExpiresSoon",
        f"min by (job, file) (usher_ocsp_staple_expiry_timestamp_seconds) - time() < {STAPLE_HOURS} * 3600",
        "5m", "ticket", "certificates", "OCSP answers: time left",
        "The OCSP answer for {{ $labels.file }} expires in {{ $value | humanizeDuration }}",
        "Its renewal did not happen. Handshakes are without an answer then: clients refuse a certificate that "
        "requires one.",
    ),
    Alert(
        "UsherDrainStuck",
        "instance:usher_draining:ready == 0",
        LONGEST_DRAIN, "ticket", "drain", "usher-fleet: Ready",
        "{{ $labels.instance }} has been draining for ten minutes",
        "The node takes no clients, and its process has not ended.",
    ),
    Alert(
        "UsherShadowMismatch", grew("usher_shadow_mismatches_total by job, route, method, mismatch", "15m"),
        "0m", "ticket", "shadow", "Shadow: mismatches",
        "{{ $labels.route }}: the shadow {{ $labels.method }} {{ $labels.mismatch }}",
        "A shadow judged {{ $value | humanize }} clients in another way than the method that "
        "decides.",
    ),
    Alert(
        "UsherConfigurationRefused", "min by (job, instance) (usher_config_is_current) == 0",
        "5m", "ticket", "configuration", "Configuration is current",
        "{{ $labels.instance }} refused its configuration file",
        "The node works with the configuration before it. A restart would fail.",
    ),
    Alert(
        "UsherAuditLinesLost", grew("usher_audit_lines_dropped_total by job, instance", "15m"),
        "0m", "page", "audit", "Lines of the log that were lost",
        "{{ $labels.instance }} lost lines of its audit log",
        "The disk is full or too slow: {{ $value | humanize }} lines are lost.",
    ),
    Alert(
        "UsherAdminTokenRefused",
        'sum by (job, instance) (increase(usher_admin_logins_total{outcome!="accepted"}[10m])) '
        f"> {MOST_WRONG_TOKENS}",
        "0m", "ticket", "admin-token", "Logins with the admin token",
        '{{ $labels.instance }} refused {{ $value | printf "%.0f" }} wrong admin tokens',
        "In ten minutes. A script has an old token, or a stranger guesses. None was let in by it.",
    ),
    Alert(
        "UsherAcceptsTestIdentities", "max by (job, instance) (usher_bypass_allowed) == 1",
        "0m", "page", "bypass", "Test identities are accepted",
        "{{ $labels.instance }} accepts test identities",
        "The process was started with --allow-bypass: its secret impersonates any user. Silence "
        "this on test systems.",
    ),
]  # fmt: skip
