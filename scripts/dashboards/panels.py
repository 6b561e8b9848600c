"""The dashboards: rows of panels, each with its title, unit, queries and meaning.

In queries, `[R]` stands for the interval of a rate. The generator adds the filters of the variables
`job` and `instance` to every metric, and on the page of one route the filter of `route`.
"""

from dataclasses import dataclass, field

from alerts import CERTIFICATE_ENDS


@dataclass
class Panel:
    title: str
    unit: str
    # Queries with their legends.
    queries: list[tuple[str, str]]
    description: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    # Values with a name, such as {0: "closed"}.
    names: dict[int, str] = field(default_factory=dict)
    # Whether 0 is the good value, and the highest the worst.
    bad_is_high: bool = False
    stacked: bool = False
    # The legends of queries, or True for all, whose values are 0 as long as all is well.
    quiet: bool | tuple[str, ...] = False


@dataclass
class Row:
    title: str
    panels: list[Panel]


@dataclass
class Dashboard:
    uid: str
    title: str
    description: str
    rows: list[Row]
    # Additional variables: (name, label, query or default value, kind).
    variables: list[tuple[str, str, str, str]] = field(default_factory=list)


def quantiles(metric: str, *labels: str, legend: str = "") -> list[tuple[str, str]]:
    """Returns the queries for the median and the 99th percentile of a histogram."""
    by = ", ".join(("le", *labels))
    return [
        (f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket[R])))", f"{legend} {name}".strip())
        for q, name in ((0.5, "p50"), (0.99, "p99"))
    ]


def phases(*labels: str, outcome: str = "ok", phase: str = ".+") -> str:
    """Returns the query for the 99th percentile of phases of upgrades."""
    by = ", ".join(("le", *labels))
    which = f'outcome="{outcome}", phase=~"{phase}"'
    series = f"usher_upgrade_phase_duration_seconds_bucket{{{which}}}"
    return f"histogram_quantile(0.99, sum by ({by}) (rate({series}[R])))"


BREAKER = {0: "closed", 1: "half open", 2: "open"}
YES_NO = {0: "no", 1: "yes"}

UPGRADED_SHARE = (
    'sum(rate(usher_upgrades_total{outcome="accepted"}[R])) / '
    'sum(rate(usher_upgrades_total{outcome=~"accepted|%SERVER%"}[R]))'
)
ADMITTED_SHARE = (
    'sum(rate(usher_upgrades_total{outcome="accepted"}[R]) or rate(usher_tickets_issued_total[R]))'
    ' / sum(rate(usher_upgrades_total{outcome=~"accepted|%SERVER%"}[R]) or '
    'rate(usher_tickets_issued_total[R]) or '
    'rate(usher_tickets_refused_total{outcome=~"%SERVER%"}[R]))'
)


def admission() -> Row:
    return Row("Can clients get in?", [
        Panel("Admitted, client faults apart", "percentunit", [(ADMITTED_SHARE, "admitted")],
              "The share of upgrades and requests for tickets that were accepted, of those that no "
              "fault of the client ended. The alert UsherAdmissionBudgetBurns counts the same.", kind="stat", width=4),
        Panel("Sessions open now", "short", [("sum(usher_sessions_active)", "sessions")],
              "Live sessions of all nodes.", kind="stat", width=4),
        Panel("Nodes that take clients", "short",
              [("sum(usher_ready)", "ready"), ("count(usher_ready)", "running")],
              "Nodes that are ready, beside all that answer. A node that starts or drains is not "
              "ready.", kind="stat",
              width=4),
        Panel("Upgrades by outcome", "reqps", [
            ('sum(rate(usher_upgrades_total{outcome="accepted"}[R]))', "accepted"),
            ('sum(rate(usher_upgrades_total{outcome=~"%CLIENT%"}[R]))', "refused, the client's "
            "fault"),
            ('sum(rate(usher_upgrades_total{outcome=~"%SERVER%"}[R]))', "refused, not the "
            "client's fault"),
        ], "Upgrades a second. The two kinds of refusals are in the next two panels.", width=12, stacked=True),
        Panel("Refusals that are not the client's fault", "reqps",
              [('sum by (outcome) (rate(usher_upgrades_total{outcome=~"%SERVER%"}[R]))', "{{outcome}}"),
               ('sum by (outcome) (rate(usher_tickets_refused_total{outcome=~"%SERVER%"}[R])) or '
                "sum(rate(usher_tickets_issued_total[R])) * 0", "no ticket: {{outcome}}")],
              "Faults of Usher, the store, an issuer, a verifier or an upstream. docs/errors.md "
              "has each outcome.",
              stacked=True, quiet=("no ticket: {{outcome}}",)),
        Panel("Refusals that are the client's fault", "reqps",
              [('sum by (outcome) (rate(usher_upgrades_total{outcome=~"%CLIENT%"}[R]))', "{{outcome}}")],
              "Wrong or old credentials, pages of other origins, rates. A jump is a broken "
              "release of the clients, a "
              "change at the issuer, or an attack.", stacked=True),
        Panel("Time until the 101", "s", quantiles("usher_upgrade_duration_seconds"),
              "From the complete request head to the 101 of accepted upgrades."),
        Panel("Time until a ticket", "s", quantiles("usher_ticket_issue_duration_seconds"),
              "From the head of a request for a ticket to the ticket. The check of the credential "
              "and the store are in it."),
    ])  # fmt: skip


def sessions() -> Row:
    return Row("Which sessions end, and why?", [
        Panel("Sessions by route", "short",
              [("sum by (route) (usher_sessions_active)", "{{route}}")],
              "Live sessions. The alert UsherSessionsFall compares with five minutes ago, without "
              "nodes that drain.",
              stacked=True),
        Panel("Ended sessions by reason", "cps",
              [("sum by (reason) (rate(usher_session_closes_total[R]))", "{{reason}}")],
              "client_gone: networks; draining: a node stops; upstream_gone: a backend stops; "
              "reauth_timeout: clients that "
              "do not renew. docs/errors.md has each reason.", stacked=True),
        Panel("Ended sessions by close code", "cps",
              [("sum by (code) (rate(usher_session_closes_total[R]))", "{{code}}")],
              "The close code that the client sent or got; none is a connection that broke.",
              stacked=True),
        Panel("How long sessions lasted", "s", quantiles("usher_session_duration_seconds"),
              "Of the sessions that ended in the interval."),
        Panel("Renewals inside the stream", "cps",
              [("sum by (outcome) (rate(usher_reauth_total[R]))", "{{outcome}}")],
              "asked without renewed means clients that do not answer: their sessions end with "
              "reauth_timeout."),
        Panel("Sessions ended by revocations", "cps", [
            ("sum(rate(usher_revoked_sessions_total[R]))", "by an order"),
            ("sum(rate(usher_revoked_certificate_sessions_total[R]))", "by a CRL"),
        ], "Live sessions that an order to revoke ended, or a reload with a CRL that has their "
           "client certificate.", quiet=("by a CRL",)),
        Panel("From an order to the end of a session", "s",
              quantiles("usher_revocation_close_duration_seconds"),
              "From an order to revoke, on the node of the session, to its end: at most a second "
              "where a peer does not answer the close frame."),
        Panel("Verdicts about renewals", "s", quantiles("usher_reauth_duration_seconds"),
              "From a client's new credential in the stream to the verdict about it."),
    ])  # fmt: skip


def capacity() -> Row:
    return Row("Connections against the capacity", [
        Panel("New connections a second", "cps", [
            ("sum(rate(usher_connections_total[R]))", "connections"),
            ("count(usher_build_info) * $admissions", "capacity"),
        ], "Accepted connections, beside the admissions a second that the nodes carry: the "
           "variable admissions is for one "
           "node, see docs/scaling.md."),
        Panel("Open connections", "short", [
            ("sum(usher_connections_open)", "open"),
            ("sum(usher_unauthenticated_open)", "without a credential"),
        ], "A session is a connection. Without a credential: in the handshake, in plain HTTP, on "
           "public routes.",
              width=8),
        Panel("Places that are taken", "percentunit", [
            ("max by (instance) (usher_connections_open / usher_connections_limit)",
             "{{instance}}"),
            ("max by (instance) (usher_unauthenticated_open / usher_unauthenticated_limit)",
             "{{instance}} without a credential"),
        ], "Of limits.connections and limits.unauthenticated. Keep room for the sessions of a "
           "lost node."),
        Panel("Limits reached", "cps", [("sum by (limit) (rate(usher_limits_hit_total[R])) > 0 or "
                                         "sum(rate(usher_limits_hit_total[R]))", "{{limit}}")],
              "connections: add nodes; unauthenticated: a storm or an attack; "
              "unauthenticated_per_address: often a "
              "balancer that hides addresses. Without a name: all together."),
        Panel("TLS handshakes", "cps",
              [("sum by (outcome) (rate(usher_tls_handshakes_total[R]))", "{{outcome}}")],
              "timeout and gone rise when clients leave before they are served."),
        Panel("Time of a TLS handshake", "s", quantiles("usher_tls_handshake_duration_seconds"),
              "Milliseconds; seconds in a storm."),
        Panel("Connections by protocol", "cps",
              [("sum by (protocol) (rate(usher_connection_protocols_total[R]))", "{{protocol}}")],
              "Agreed on in the handshake of TLS. Plain connections are http1."),
        Panel("Upgrades by protocol", "reqps",
              [("sum by (protocol) (rate(usher_upgrades_received_total[R]))", "{{protocol}}")],
              "Upgrades that arrived, refused ones too. http2 begins with the first clients that "
              "open a WebSocket in a stream."),
        Panel("HTTP/2: open streams", "short", [("sum(usher_streams_open)", "streams")],
              "Requests and sessions on HTTP/2 connections.", quiet=True),
        Panel("HTTP/2: faults", "cps", [
            ("sum by (reason) (rate(usher_protocol_failures_total[R]))", "connection: {{reason}}"),
            ("sum(rate(usher_malformed_streams_total[R]))", "malformed streams"),
        ], "Connections and streams that ended by a fault of the client. flood is an attack. "
           "Clients that exceed a bound are in the panel of limits: http2_streams, http2_resets, "
           "http2_control_frames.", quiet=True),
        Panel("Connections lost before Usher read them", "cps", [
            ("sum(rate(usher_accept_failures_total[R]))", "no descriptors or memory"),
            ("sum(rate(usher_unauthenticated_displaced_total[R]))", "displaced by newcomers"),
            ("sum(rate(usher_connection_panics_total[R]))", "panics"),
        ], "All 0 in good times. Raise LimitNOFILE when descriptors run out.", quiet=True),
        Panel("Descriptors that are taken", "percentunit", [
            ("max by (instance) (process_open_fds / process_max_fds)", "{{instance}}"),
        ], "A session has two. Without one to spare no connection is accepted."),
        Panel("Memory", "decbytes",
              [("max by (instance) (process_resident_memory_bytes)", "{{instance}}")],
              "Of the process, in RAM."),
        Panel("CPU", "short",
              [("sum by (instance) (rate(process_cpu_seconds_total[R]))", "{{instance}}")],
              "Cores that the process uses."),
    ])  # fmt: skip


def messages() -> Row:
    return Row("Messages and round trips", [
        Panel("Messages", "cps",
              [("sum by (direction) (rate(usher_relay_messages_total[R]))", "{{direction}}")],
              "WebSocket messages relayed, those of live sessions too."),
        Panel("Bytes", "Bps",
              [("sum by (direction) (rate(usher_relay_bytes_total[R]))", "{{direction}}")],
              "Bytes relayed, with the frame headers."),
        Panel("Bytes of a message", "bytes", [
            ("sum by (direction) (rate(usher_relay_bytes_total[R])) / "
             "sum by (direction) (rate(usher_relay_messages_total[R]))", "{{direction}}"),
        ], "The mean size, with the frame headers."),
        Panel("Round trip to the clients", "s", quantiles("usher_ping_round_trip_seconds"),
              "From a ping of Usher to the pong. Only clients that are silent for keepalive.ping "
              "are asked. A rise at all nodes is the network; at one node its CPU."),
        Panel("Phases of an upgrade", "s",
              [(phases("phase"), "{{phase}} p99")],
              "Of phases that succeeded. dial and answer are the round trips to the backend: they "
              "rise when it is slow. authenticate has the store, the issuers and the verifiers."),
        Panel("Authentication by method", "s",
              [(phases("method", phase="authenticate"), "{{method}} p99")],
              "ticket and message wait for the store, session for a verifier. A token waits for "
              "nothing."),
        Panel("Dial and answer by route", "s",
              [(phases("route", "phase", phase="dial|answer"), "{{route}} {{phase}} p99")],
              "The route with the slow backend."),
        Panel("Phases that did not succeed", "cps",
              [('sum by (route, phase, outcome) '
                '(rate(usher_upgrade_phase_duration_seconds_count{outcome!="ok"}[R]))',
                "{{route}} {{phase}} {{outcome}}")],
              "Each try of a server counts. refused is the client's fault, failed is not."),
        Panel("Phases that failed: time", "s",
              [(phases("route", "phase", outcome="failed"), "{{route}} {{phase}} p99")],
              "About 0 where a server refuses, the timeout where it hangs."),
        Panel("Wait for a first message", "s", quantiles("usher_first_message_wait_seconds"),
              "From an early 101 to the first message: about a round trip to the client."),
        Panel("Plain HTTP", "s", quantiles("usher_http_request_duration_seconds"),
              "Duration of forwarded plain requests."),
    ])  # fmt: skip


def dependencies() -> Row:
    return Row("Stores, issuers, verifiers and upstreams", [
        Panel("Store: breaker", "none",
              [("max by (instance, lane, region) (usher_store_breaker_state)",
                "{{instance}} {{lane}} {{region}}")],
              "open: Redis is not asked, and tickets are refused with 503.", kind="state-timeline",
              names=BREAKER, bad_is_high=True, quiet=True),
        Panel("Store: failed operations", "ops",
              [('sum by (outcome) (rate(usher_store_operations_total{outcome!="ok"}[R])) or '
                'sum(rate(usher_store_operations_total[R])) * 0', "{{outcome}}")],
              "By fault. docs/store-faults.md has each one.", quiet=True),
        Panel("Issuers: keys", "short", [("min by (issuer) (usher_issuer_keys)", "{{issuer}}")],
              "Keys that the poorest node holds. At 0 all tokens of the issuer are refused."),
        Panel("Issuers: age of the keys", "s",
              [("time() - min by (issuer) (usher_issuer_keys_fetched_timestamp_seconds)",
                                               "{{issuer}}")],
              "Since the last good fetch of the node that is latest. Usher keeps the last good "
              "keys for as long as a fault "
              "lasts."),
        Panel("Verifiers: breaker", "none",
              [("max by (instance, verifier) (usher_verifier_breaker_state)",
                                             "{{instance}} {{verifier}}")],
              "open: its clients are refused with 503.", kind="state-timeline",
              names=BREAKER, bad_is_high=True, quiet=True),
        Panel("Verifiers: time of an answer", "s",
              [("histogram_quantile(0.99, sum by (le, verifier) "
                "(rate(usher_verifier_question_duration_seconds_bucket[R])))", "{{verifier}} p99")],
              "The wait for a free place included."),
        Panel("Verifiers: answers", "cps", [
            ("sum by (verifier, outcome) (rate(usher_verifier_questions_total[R])) > 0",
             "{{verifier}} {{outcome}}"),
        ], "good and bad are answers; every other outcome is a fault (docs/verifiers.md)."),
        Panel("Verifiers: answers from the cache", "cps", [
            ("sum by (verifier, outcome) (rate(usher_verifier_cache_total[R]))",
             "{{verifier}} {{outcome}}"),
        ], "miss is a new question, joined waited for one in progress."),
        Panel("Verifiers: questions in flight", "short", [
            ("sum by (verifier) (usher_verifier_in_flight)", "{{verifier}}"),
        ], "At most verifier.concurrency on each node.", quiet=True),
        Panel("Verifiers: live sessions asked about again", "cps", [
            ("sum by (verifier, outcome) (rate(usher_revalidations_total[R]))",
             "{{verifier}} {{outcome}}"),
        ], "revoked ended a session; away_too_long ended it because the verifier was away."),
        Panel("Upstreams: servers by state", "short",
              [("sum by (upstream, state) (usher_upstream_servers)", "{{upstream}} {{state}}")],
              "An ejected server gets no clients. The last servers of an upstream are not ejected.",
              stacked=True),
        Panel("Upstreams: ejections and returns", "cps", [
            ("sum by (upstream) (rate(usher_upstream_ejections_total[R]))", "{{upstream}} ejected"),
            ("sum by (upstream) (rate(usher_upstream_ejections_withheld_total[R]))",
             "{{upstream}} kept, although it failed"),
            ("sum by (upstream) (rate(usher_upstream_failed_trials_total[R]))",
             "{{upstream}} failed its trial"),
            ("sum by (upstream) (rate(usher_upstream_returns_total[R]))", "{{upstream}} returned"),
        ], "A server that comes and goes does both again and again.", quiet=True),
        Panel("Upstreams: names", "cps", [
            ("sum by (upstream) (rate(usher_upstream_addresses_changed_total[R]))",
             "{{upstream}} has other addresses"),
            ("sum by (upstream) (rate(usher_upstream_resolve_failures_total[R]))",
             "{{upstream}} was not resolved"),
        ], "Lookups of the names of servers. While one fails, the old addresses are in use.", quiet=True),
        Panel("Upstreams: failed tries", "cps",
              [("sum by (upstream) (rate(usher_upstream_dial_failures_total[R]))", "{{upstream}}")],
              "Tries of a server that failed; the client may have got another one."),
        Panel("Upstreams: health checks that fail", "cps",
              [('sum by (upstream) (rate(usher_upstream_health_checks_total{outcome="failed"}[R]))', "{{upstream}}")],
              "Only for upstreams with health."),
    ])  # fmt: skip


def expiry() -> Row:
    return Row("Expiry, configuration and migration", [
        Panel("Certificates: time left", "dtdurations",
              [(f"{CERTIFICATE_ENDS} - time()".replace("(job, ", "("), "{{purpose}} {{file}}")],
              "Until the first certificate in the file expires, on the poorest node. [acme] is the "
              "one that Usher orders itself."),
        Panel("OCSP answers: time left", "dtdurations",
              [("min by (file) (usher_ocsp_staple_expiry_timestamp_seconds) - time()", "{{file}}")],
              "Until the answer that handshakes carry expires, on the poorest node."),
        Panel("OCSP answers: fetches", "cps",
              [("sum by (outcome) (rate(usher_ocsp_fetches_total[R]))", "{{outcome}}")],
              "Only with ocsp = \"fetch\". While fetches fail, the last answer stays until it "
              "expires.", quiet=True),
        Panel("ACME: orders", "cps", [
            ("sum by (outcome) (rate(usher_acme_orders_total[R]))", "{{outcome}}"),
            ("sum by (challenge) (rate(usher_acme_challenges_total[R]))",
             "answered {{challenge}}"),
        ], "Orders of certificates. Without one that is issued, the certificate in force stays. "
           "An order without an answered challenge: the authority does not reach this node.",
              quiet=True),
        Panel("ACME: next renewal", "dateTimeFromNow", [
            ("max by (instance) (usher_acme_renewal_timestamp_seconds) * 1000", "{{instance}}"),
        ], "A time in the past: orders fail. 1970 without [acme].", kind="stat", quiet=True),
        Panel("Configuration is current", "none",
              [("min by (instance) (usher_config_is_current)", "{{instance}}")],
              "no: the last reload was refused, and the node works with the configuration before "
              "it.",
              kind="state-timeline", names=YES_NO),
        Panel("Configuration read", "dateTimeFromNow",
              [("max by (instance) (usher_config_loaded_timestamp_seconds) * 1000",
                "{{instance}}")],
              "When the configuration in force was read.", kind="stat"),
        Panel("Process started", "dateTimeFromNow",
              [("max by (instance) (usher_start_time_seconds) * 1000", "{{instance}}")],
              "A start that was not ordered is a crash.", kind="stat"),
        Panel("Context keys: rotations", "cps",
              [("sum by (outcome) (rate(usher_context_key_rotations_total[R]))", "{{outcome}}")],
              "Scheduled rotations of the keys that sign the context. failed needs a look at the "
              "log.", quiet=True),
        Panel("Upgrades by a legacy method", "reqps",
              [("sum by (route, method) (rate(usher_legacy_upgrades_total[R]))",
                "{{route}} {{method}}")],
              "Clients that must move before the sunset. The names of the latest are in `usher "
              "status`."),
        Panel("Shadow: mismatches", "cps",
              [("sum by (route, method, mismatch) (rate(usher_shadow_mismatches_total[R]))",
                "{{route}} {{method}} {{mismatch}}")],
              "would_refuse: the new method would shut this client out."),
        Panel("Lines of the log that were lost", "cps", [
            ("sum(rate(usher_audit_lines_dropped_total[R]))", "audit"),
            ("sum(rate(usher_log_lines_dropped_total[R]))", "log"),
        ], "A disk that is slow or full.", quiet=True),
        Panel("Log files opened again", "cps",
              [("sum by (log, outcome) (rate(usher_log_reopens_total[R]))", "{{log}} {{outcome}}")],
              "After SIGUSR1 or a reload. failed: lines still go to the file that was renamed.",
              quiet=True),
        Panel("Test identities are accepted", "none",
              [("max by (instance) (usher_bypass_allowed)", "{{instance}}")],
              "yes is for test systems alone.", kind="state-timeline", names=YES_NO,
              bad_is_high=True),
        Panel("Versions", "short", [("count by (version) (usher_build_info)", "{{version}}")],
              "Nodes by version: two during a rollout."),
    ])  # fmt: skip


def operation() -> Row:
    return Row("Operators and traces", [
        Panel("Logins with the admin token", "cps",
              [("sum by (outcome) (rate(usher_admin_logins_total[R]))", "{{outcome}}")],
              "accepted and wrong_token: logins to the admin page. wrong_bearer: other requests "
              "with a wrong token, such as a script after a change of the token. Many of them, or "
              "rate_limited: a guess. The log has each address as admin_login."),
        Panel("Logins that are in force", "short",
              [("sum by (instance) (usher_admin_logins_open)", "{{instance}}")],
              "Browsers that are logged in to the admin page. Another token ends them all."),
        Panel("Trace spans", "cps", [
            ("sum(rate(usher_trace_spans_exported_total[R]))", "exported"),
            ("sum by (reason) (rate(usher_trace_spans_dropped_total[R]))", "dropped: {{reason}}"),
        ], "Nothing else is lost with a span. queue_full and gave_up: the receiver is away or too "
           "slow; refused: it does not accept them.", quiet=("dropped: {{reason}}",)),
        Panel("Requests to the receiver of traces", "cps",
              [("sum by (outcome) (rate(usher_trace_exports_total[R]))", "{{outcome}}")],
              "ok, or the fault. No request waits for the receiver."),
    ])  # fmt: skip


OVERVIEW = Dashboard(
    "usher-overview", "Usher: overview",
    "Can clients get in, which sessions end, and what is at fault: from the top in the order of "
    "an incident.",
    [admission(), sessions(), capacity(), messages(), dependencies(), expiry(), operation()],
    [("admissions", "Admissions a second of a node", "2000", "constant")],
)  # fmt: skip


ROUTE = Dashboard(
    "usher-route", "Usher: one route",
    "The clients of one route. For one user, see the text at the top: metrics have no users.",
    [
        Row("The clients of the route", [
            Panel("Upgraded, client faults apart", "percentunit", [(UPGRADED_SHARE, "upgraded")],
                  "The share of upgrades that were accepted, of those that no fault of the client "
                  "ended.", kind="stat", width=4),
            Panel("Sessions open now", "short",
                  [("sum(usher_sessions_active)", "sessions")], "Live sessions of the route.",
                  kind="stat", width=4),
            Panel("Upgrades by method", "reqps",
                  [("sum by (method) (rate(usher_upgrades_total[R]))", "{{method}}")],
                  "Every upgrade, accepted or not. none has no credential.", width=8, stacked=True),
            Panel("Upgrades by outcome", "reqps",
                  [("sum by (outcome) (rate(usher_upgrades_total[R]))", "{{outcome}}")],
                  "accepted, or the label of the refusal.", width=8, stacked=True),
            Panel("Refusals by method", "reqps",
                  [('sum by (method, outcome) (rate(usher_upgrades_total{outcome!="accepted"}[R]))', "{{method}} {{outcome}}")],
                  "One method that fails alone points at the clients, or at the verifier of that "
                  "method.", stacked=True),
            Panel("Time until the 101", "s", quantiles("usher_upgrade_duration_seconds"),
                  "From the complete request head to the 101."),
            Panel("Its phases", "s",
                  [(phases("phase", "method"), "{{phase}} {{method}} p99")],
                  "Of phases that succeeded. authenticate by method; dial and answer are the backend's."),
            Panel("Wait for a first message", "s", quantiles("usher_first_message_wait_seconds"),
                  "From an early 101 to the first message: about a round trip to the client."),
        ]),
        Row("Its sessions", [
            Panel("Sessions", "short",
                  [("sum by (instance) (usher_sessions_active)", "{{instance}}")],
                  "Live sessions of each node.", stacked=True),
            Panel("How long sessions lasted", "s", quantiles("usher_session_duration_seconds"),
                  "Of the sessions that ended in the interval."),
            Panel("Renewals inside the stream", "cps",
                  [("sum by (outcome) (rate(usher_reauth_total[R]))", "{{outcome}}")],
                  "asked without renewed means clients that do not answer."),
            Panel("Messages", "cps",
                  [("sum by (direction) (rate(usher_relay_messages_total[R]))", "{{direction}}")],
                  "WebSocket messages relayed."),
            Panel("Bytes", "Bps",
                  [("sum by (direction) (rate(usher_relay_bytes_total[R]))", "{{direction}}")],
                  "Bytes relayed, with the frame headers."),
            Panel("Round trip to its clients", "s", quantiles("usher_ping_round_trip_seconds"),
                  "From a ping of Usher to the pong, of clients that are silent."),
            Panel("Messages of a session", "cps", [
                ("sum(rate(usher_relay_messages_total[R])) / sum(usher_sessions_active)", "messages")],
                "A second, the mean of the live sessions."),
        ]),
        Row("Its tickets and plain requests", [
            Panel("Tickets", "cps", [
                ("sum(rate(usher_tickets_issued_total[R]))", "issued"),
                ("sum(rate(usher_tickets_redeemed_total[R]))", "redeemed"),
            ], "A ticket for any route is issued under the route none."),
            Panel("Tickets that were not redeemed", "cps",
                  [("sum by (fault) (rate(usher_tickets_redeem_refused_total[R]))", "{{fault}}")],
                  "expired: clients are slow between fetch and upgrade; used: they send one "
                  "twice; unknown: a store that "
                  "started empty."),
            Panel("Plain requests refused", "reqps", [
                ("sum by (outcome) (rate(usher_http_requests_rejected_total[R]))", "{{outcome}}"),
            ], "By Usher, before a backend was asked.", stacked=True),
            Panel("Plain requests by status", "reqps",
                  [("sum by (status) (rate(usher_http_requests_total[R]))",
                    "{{status}}")], "Plain HTTP of the route.",
                  stacked=True),
        ]),
    ],
    [("route", "Route", "label_values(usher_sessions_active{job=~\"$job\"}, route)", "query")],
)  # fmt: skip


FLEET = Dashboard(
    "usher-fleet", "Usher: fleet and Redis",
    "The nodes beside each other, the store that they share, and the way of an order to revoke.",
    [
        Row("Nodes", [
            Panel("Nodes that share the store", "short",
                  [("min(usher_fleet_nodes)", "as the poorest node sees it"),
                                                        ("count(usher_build_info)", "scraped")],
                  "Fewer than scraped: a node does not reach Redis, or uses another one.",
                  kind="stat"),
            Panel("Ready", "none", [("min by (instance) (usher_ready)", "{{instance}}")],
                  "no while a node starts or drains.", kind="state-timeline", names=YES_NO),
            Panel("Sessions by node", "short",
                  [("sum by (instance) (usher_sessions_active)", "{{instance}}")],
                  "After a rollout the last node has the fewest: `usher drain --percent` spreads "
                  "them.", stacked=True),
            Panel("New connections by node", "cps",
                  [("sum by (instance) (rate(usher_connections_total[R]))", "{{instance}}")],
                  "Unequal: the balancer."),
            Panel("Refusals that are not the client's fault, by node", "reqps",
                  [('sum by (instance) (rate(usher_upgrades_total{outcome=~"%SERVER%"}[R]))', "{{instance}}")],
                  "One node alone: that machine. All: what they share."),
            Panel("Takeovers", "cps",
                  [("sum by (outcome) (rate(usher_takeovers_total[R]))", "{{outcome}}")],
                  "A new process on the machine that took over from the running one.", quiet=True),
        ]),
        Row("Redis", [
            Panel("Breaker", "none",
                  [("max by (instance, lane, region) (usher_store_breaker_state)",
                    "{{instance}} {{lane}} {{region}}")],
                  "open: Redis is not asked. One node alone: its network.", kind="state-timeline",
                  names=BREAKER, bad_is_high=True, quiet=True),
            Panel("Operations", "ops",
                  [("sum by (operation) (rate(usher_store_operations_total[R]))", "{{operation}}")],
                  "put issues a ticket, take redeems one, place counts a session of a user, beat "
                  "is housekeeping.", stacked=True),
            Panel("Failed operations", "ops",
                  [('sum by (operation, outcome) (rate(usher_store_operations_total{outcome!="ok"}[R])) or '
                    'sum(rate(usher_store_operations_total[R])) * 0', "{{operation}} {{outcome}}")],
                  "By fault: timeout, unreachable, read_only, auth and others "
                  "(docs/store-faults.md).", quiet=True),
            Panel("Time of an operation", "s",
                  [("histogram_quantile(0.99, sum by (le, operation) "
                    "(rate(usher_store_operation_duration_seconds_bucket[R])))", "{{operation}} "
                    "p99")],
                  "A millisecond on a near Redis. store.timeout ends it at 250 ms."),
            Panel("Connections made", "cps",
                  [("sum by (lane, outcome) (rate(usher_store_connections_total[R]))",
                                              "{{lane}} {{outcome}}")],
                  "Almost none in good times.", quiet=True),
            Panel("Tickets in memory", "short", [("sum(usher_tickets_held)", "held")],
                  "Of nodes whose store is memory; 0 where it is Redis.", quiet=True),
        ]),
        Row("Tickets", [
            Panel("Tickets", "cps", [
                ("sum(rate(usher_tickets_issued_total[R]))", "issued"),
                ("sum(rate(usher_tickets_redeemed_total[R]))", "redeemed"),
                ("sum(rate(usher_tickets_expired_total[R]))", "expired, never redeemed"),
                ("sum(rate(usher_tickets_lost_total[R]))", "redeemed for a client that left"),
            ], "issued less redeemed are clients that fetched one and did not connect.",
                quiet=("redeemed for a client that left",)),
            Panel("Tickets refused", "cps",
                  [("sum by (outcome) (rate(usher_tickets_refused_total[R]))", "{{outcome}}")],
                  "Requests for a ticket that got none."),
            Panel("Tickets that were not redeemed", "cps",
                  [("sum by (fault) (rate(usher_tickets_redeem_refused_total[R]))", "{{fault}}")],
                  "expired, used, unknown and others (docs/logs.md)."),
            Panel("Tickets validated", "cps", [
                ("sum by (outcome) (rate(usher_tickets_validated_total[R]))", "{{outcome}}"),
            ], "Clients that asked whether a ticket is good."),
        ]),
        Row("In front and beside", [
            Panel("PROXY headers", "cps", [
                ("sum by (outcome) (rate(usher_proxy_headers_total[R]))", "{{outcome}}"),
            ], "On listeners that require one. not_listed: a balancer that is not in proxy_peers."),
            Panel("Test identities", "cps", [
                ("sum by (route, outcome) (rate(usher_bypass_used_total[R]))",
                 "{{route}} {{outcome}}"),
            ], "Any on a production system is an incident."),
            Panel("Reloads", "cps", [("sum by (outcome) (rate(usher_reloads_total[R]))", "{{outcome}}")],
                  "Configurations read while running.", quiet=True),
            Panel("Lines summarised", "cps", [
                ("sum by (log) (rate(usher_lines_summarised_total[R]))", "{{log}}"),
            ], "Lines about refusals of one address that were summed up instead of written."),
            Panel("Context keys moved", "dateTimeFromNow", [
                ("max by (instance) (usher_context_keys_rotated_timestamp_seconds) * 1000",
                 "{{instance}}"),
            ], "When the schedule last moved the keys that sign the context; 1970 without a schedule.",
                  kind="stat", quiet=True),
        ]),
        Row("Revocations", [
            Panel("Reads the orders of other nodes", "none",
                  [("min by (instance) (usher_revocation_stream_reading)", "{{instance}}")],
                  "no: a user that was revoked at another node can still be in here.", kind="state-timeline", names=YES_NO),
            Panel("Until an order of another node is in force", "s", quantiles("usher_revocation_stream_delay_seconds"),
                  "By the clocks of both nodes."),
            Panel("Revocations in force", "short",
                  [("max by (instance) (usher_revocations_held)", "{{instance}}")],
                  "The same on all nodes. The limit is revocation.max_entries."),
            Panel("Orders", "cps",
                  [("sum by (kind) (rate(usher_revocations_total[R]))", "{{kind}}")],
                  "Orders applied, each once on every node."),
            Panel("Entries read", "cps",
                  [("sum by (outcome) (rate(usher_revocation_stream_entries_total[R]))",
                    "{{outcome}}")],
                  "full: the deny list has no room; unreadable: another version or another writer."),
            Panel("Gaps and repairs", "cps", [
                ("sum(rate(usher_revocation_stream_gaps_total[R]))", "gaps"),
                ("sum(rate(usher_revocation_stream_restored_total[R]))", "orders written again"),
            ], "After Redis lost data.", quiet=True),
        ]),
    ],
)  # fmt: skip


MIGRATION = Dashboard(
    "usher-migration", "Usher: migration",
    "The figures of the walk in docs/migration.md: each step goes on when its figure has stood.",
    [
        Row("Where are the clients?", [
            Panel("Upgrades by method", "reqps",
                  [('sum by (route, method) (rate(usher_upgrades_total{outcome="accepted"}[R]))', "{{route}} {{method}}")],
                  "Accepted upgrades.", stacked=True),
            Panel("Legacy share", "percentunit",
                  [('sum by (route) (rate(usher_legacy_upgrades_total[R])) / '
                    'sum by (route) (rate(usher_upgrades_total{outcome="accepted"}[R]))', "{{route}}")],
                  "Of the accepted upgrades of a route, those by a legacy method."),
            Panel("Upgrades by a legacy method", "reqps",
                  [("sum by (route, method) (rate(usher_legacy_upgrades_total[R]))",
                    "{{route}} {{method}}")],
                  "The names of the latest are in `usher status`.", stacked=True),
        ]),
        Row("Rollout", [
            Panel("Standing", "reqps",
                  [("sum by (route, standing) (rate(usher_rollout_upgrades_total[R]))",
                                         "{{route}} {{standing}}")],
                  "followed: in a share, by the new method; lagging: in a share, by the old one; "
                  "outside: in no share.",
                  stacked=True),
            Panel("Share of the clients that followed", "percentunit",
                  [('sum by (route) (rate(usher_rollout_upgrades_total{standing="followed"}[R])) / '
                    "sum by (route) (rate(usher_rollout_upgrades_total[R]))", "{{route}}")],
                  "Reaches the share that the configuration names."),
            Panel("Refused for a legacy method", "reqps",
                  [('sum by (route) (rate(usher_upgrades_total{outcome="legacy_method"}[R])) or '
                    "sum(rate(usher_upgrades_total[R])) * 0", "{{route}}")],
                  "Clients that enforce shuts out.", quiet=True),
        ]),
        Row("Shadow", [
            Panel("Verdicts", "cps",
                  [("sum by (route, method, verdict) (rate(usher_shadow_verdicts_total[R]))",
                                       "{{route}} {{method}} {{verdict}}")],
                  "absent: clients that are not updated yet; skipped: more checks than "
                  "limits.shadow_checks.", stacked=True),
            Panel("Mismatches", "cps",
                  [("sum by (route, method, mismatch) (rate(usher_shadow_mismatches_total[R]))",
                                         "{{route}} {{method}} {{mismatch}}")],
                  "The log has each one as shadow_mismatch. Go on when none is left."),
            Panel("Mismatches among the verdicts", "percentunit",
                  [('sum by (route, method) (rate(usher_shadow_mismatches_total[R])) / '
                    'sum by (route, method) (rate(usher_shadow_verdicts_total{verdict!~"absent|skipped"}[R]))',
                    "{{route}} {{method}}")],
                  "Of the clients that sent the new credential."),
        ]),
    ],
)  # fmt: skip

DASHBOARDS = [OVERVIEW, ROUTE, FLEET, MIGRATION]

ONE_USER = """### One user

Metrics never have users. For one user, ask the nodes:

    usher sessions --all --user ada       # where the user is connected
    usher explain URL --token-file FILE   # why a client is let in or refused
    jq -c 'select(.user == "ada")' audit.jsonl

The `request_id` of an answer finds its lines in the log and the audit log (docs/logs.md)."""
