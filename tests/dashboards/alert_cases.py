"""Cases for promtool: for each alert, series with which it fires and others with which it does not.

`values` are in promtool's notation: `0+6x60` begins at 0 and grows by 6 in each minute, 60 times.
"""

from dataclasses import dataclass

NODE = 'job="usher", instance="a:9901"'


@dataclass
class Case:
    alert: str
    name: str
    fires: bool
    series: dict[str, str]
    at: str
    # The time between two samples, to keep days short. `values` follow it.
    step: str = "1m"


def series(name: str, labels: str = "", node: str = NODE) -> str:
    return f"{name}{{{', '.join(filter(None, (node, labels)))}}}"


def upgrades(outcome: str, values: str, route: str = "/ws") -> dict[str, str]:
    labels = f'route="{route}", method="ticket", outcome="{outcome}"'
    return {series("usher_upgrades_total", labels): values}


def issued(values: str) -> dict[str, str]:
    return {series("usher_tickets_issued_total", 'route="/ws"'): values}


def no_ticket(outcome: str, values: str) -> dict[str, str]:
    return {series("usher_tickets_refused_total", f'outcome="{outcome}"'): values}


def store(outcome: str, values: str, region: str = "") -> dict[str, str]:
    labels = f'operation="put", outcome="{outcome}"' + (f', region="{region}"' if region else "")
    return {series("usher_store_operations_total", labels): values}


def breaker(values: str, region: str = "") -> dict[str, str]:
    labels = LANE + (f', region="{region}"' if region else "")
    return {series("usher_store_breaker_state", labels): values}


def fetches(outcome: str, values: str) -> dict[str, str]:
    return {series("usher_issuer_key_fetches_total", f'issuer="main", outcome="{outcome}"'): values}


def limit(name: str, values: str) -> dict[str, str]:
    return {series("usher_limits_hit_total", f'limit="{name}"'): values}


def connections(values: str) -> dict[str, str]:
    return {series("usher_connections_total"): values, series("usher_ready"): "1x400"}


def logins(outcome: str, values: str) -> dict[str, str]:
    return {series("usher_admin_logins_total", f'outcome="{outcome}"'): values}


def sessions(values: str, node: str = NODE) -> dict[str, str]:
    return {series("usher_sessions_active", 'route="/ws"', node): values}


def ready(values: str, node: str = NODE) -> dict[str, str]:
    return {
        series("usher_ready", node=node): values,
        series("usher_start_time_seconds", node=node): "-3600x200",
    }


def closes(reason: str, values: str) -> dict[str, str]:
    return {series("usher_session_closes_total", f'code="1001", reason="{reason}"'): values}


def certificate(values: str) -> dict[str, str]:
    labels = 'purpose="listener", file="cert.pem"'
    return {series("usher_certificate_expiry_timestamp_seconds", labels): values}


def ordered(values: str) -> dict[str, str]:
    return {series("usher_acme_certificate_expiry_timestamp_seconds"): values}


def orders(outcome: str, values: str) -> dict[str, str]:
    return {series("usher_acme_orders_total", f'outcome="{outcome}"'): values}


def staple(values: str) -> dict[str, str]:
    return {series("usher_ocsp_staple_expiry_timestamp_seconds", 'file="cert.pem"'): values}


def mismatch(values: str) -> dict[str, str]:
    return {
        series(
            "usher_shadow_mismatches_total", 'route="/ws", method="ticket", mismatch="would_refuse"'
        ): values
    }


INFO = {series("usher_build_info", 'version="0.1.0"'): "1x10 _x50"}
OLD_INFO = {series("usher_build_info", 'version="0.1.0"'): "1x10 _x300"}
BUSY = upgrades("accepted", "0+600x200")
OTHER_NODE = 'job="usher", instance="b:9901"'
LANE, STREAM = 'lane="tickets"', "usher_revocation_stream_reading"

CASES = [
    Case("UsherDown", "a node that was there", True, {**INFO, series("up"): "1x10 0x50"}, "14m"),
    Case("UsherDown", "two hours later", True, {**INFO, series("up"): "1x10 0x150"}, "120m"),
    Case("UsherDown", "three days later", True, {**OLD_INFO, series("up"): "1x10 0x300"}, "4320m", "30m"),
    Case("UsherDown", "it came back", False, {**INFO, series("up"): "1x10 0x60 1x60"}, "100m"),
    Case("UsherDown", "it was removed from the targets", False,
         {**INFO, series("up"): "1x10 0x20 _x60"}, "60m"),
    Case("UsherDown", "a target that never was an Usher", False, {series("up"): "0x50"}, "14m"),
    Case("UsherDown", "a missed scrape", False, {**INFO, series("up"): "1x10 0 1x50"}, "14m"),

    Case("UsherAdmissionBudgetBurnsFast", "2 % fail", True,
         {**BUSY, **upgrades("store_unavailable", "0+12x200")}, "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "1 % fails", False,
         {**BUSY, **upgrades("store_unavailable", "0+6x200")}, "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "clients fail by themselves", False,
         {**BUSY, **upgrades("invalid_token", "0+600x200")}, "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "over for ten minutes", False,
         {**BUSY, **upgrades("store_unavailable", "0+12x60 720x60")}, "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "two failures in an idle hour", False,
         {**upgrades("accepted", "0+0.1x200"), **upgrades("store_unavailable", "0+0.03x200")}, "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "nobody gets in", True,
         upgrades("upstream_unavailable", "0+6x200"), "70m"),

    Case("UsherAdmissionBudgetBurnsFast", "all requests for tickets fail", True,
         no_ticket("store_unavailable", "0+6x200"), "70m"),
    Case("UsherAdmissionBudgetBurnsFast", "the good old upgrades hide no tickets", True,
         {**BUSY, **issued("0+600x20 12000x180"), **no_ticket("store_unavailable", "0x20 0+600x180")}, "30m"),
    Case("UsherAdmissionBudgetBurnsFast", "no ticket for twelve hours", True,
         {**issued("0x800"), **no_ticket("store_unavailable", "0+60x800")}, "720m", "2m"),
    Case("UsherAdmissionBudgetBurnsFast", "tickets are issued again", False,
         {**issued("0x30 0+600x170"), **no_ticket("store_unavailable", "0+600x30 18000x170")}, "40m"),
    Case("UsherAdmissionBudgetBurnsFast", "wrong requests for tickets", False,
         {**issued("0+60x200"), **no_ticket("rate_limited", "0+600x200")}, "70m"),

    Case("UsherTicketsFail", "the store is full", True,
         {**issued("0+60x20 1200x180"), **no_ticket("store_unavailable", "0x20 0+60x180")}, "25m"),
    Case("UsherTicketsFail", "the store is full for three hours", True,
         {**issued("0+60x20 1200x180"), **no_ticket("store_unavailable", "0x20 0+60x180")}, "195m"),
    Case("UsherTicketsFail", "no ticket was ever issued", True, no_ticket("issuer_keys_unavailable", "0+60x60"), "10m"),
    Case("UsherTicketsFail", "it is over", False,
         {**issued("0x20 0+60x60"), **no_ticket("store_unavailable", "0+60x20 1200x60")}, "25m"),
    Case("UsherTicketsFail", "one in twenty fails", False,
         {**issued("0+95x60"), **no_ticket("store_unavailable", "0+5x60")}, "20m"),
    Case("UsherTicketsFail", "clients are too fast", False,
         {**issued("0+60x60"), **no_ticket("rate_limited", "0+60x60")}, "20m"),

    Case("UsherAdmissionBudgetBurns", "1 % fails for hours", True,
         {**upgrades("accepted", "0+3000x120"), **upgrades("verifier_unavailable", "0+30x120")}, "400m", "5m"),
    Case("UsherAdmissionBudgetBurns", "0.3 % fail", False,
         {**upgrades("accepted", "0+3000x120"), **upgrades("verifier_unavailable", "0+9x120")}, "400m", "5m"),

    Case("UsherAdmissionBudgetBurnsSlowly", "0.2 % fail for days", True,
         {**upgrades("accepted", "0+18000x150"), **upgrades("internal", "0+36x150")}, "4410m", "30m"),
    Case("UsherAdmissionBudgetBurnsSlowly", "0.05 % fail", False,
         {**upgrades("accepted", "0+18000x150"), **upgrades("internal", "0+9x150")}, "4410m", "30m"),

    Case("UsherSessionsFall", "half of them end", True, sessions("1000x20 500x20"), "23m"),
    Case("UsherSessionsFall", "a tenth ends", False, sessions("1000x20 900x20"), "23m"),
    Case("UsherSessionsFall", "few sessions", False, sessions("20x20 5x20"), "23m"),
    Case("UsherSessionsFall", "they fell long ago", False, sessions("1000x20 500x20"), "35m"),
    Case("UsherSessionsFall", "they come back at once", False, sessions("1000x20 500 1000x20"), "23m"),
    Case("UsherSessionsFall", "one of three nodes drains, and its clients stay away", False,
         {**sessions("2000x60", OTHER_NODE), **sessions("1000x20 0x3 stale"), **ready("1x60", OTHER_NODE),
          **ready("1x19 0x4 stale")}, "23m"),
    Case("UsherSessionsFall", "the node that drained is gone", False,
         {**sessions("2000x60", OTHER_NODE), **sessions("1000x20 0x3 stale"), **ready("1x60", OTHER_NODE),
          **ready("1x19 0x4 stale")}, "26m"),
    Case("UsherSessionsFall", "one node drains, and the others lose sessions, too", True,
         {**sessions("2000x20 1000x60", OTHER_NODE), **sessions("1000x20 0x3 stale"),
          **ready("1x60", OTHER_NODE), **ready("1x19 0x4 stale")}, "23m"),
    Case("UsherSessionsFall", "a node dies", True,
         {**sessions("2000x60", OTHER_NODE), **sessions("1000x20 stale"), **ready("1x60", OTHER_NODE),
          **ready("1x20 stale")}, "23m"),
    Case("UsherSessionsFall", "a node dies and starts again", True,
         {**sessions("2000x60", OTHER_NODE), **sessions("1000x20 0x40"), **ready("1x60", OTHER_NODE),
          series("usher_ready"): "1x19 0 1x40", series("usher_start_time_seconds"): "-3600x19 1190x41"}, "23m"),
    Case("UsherSessionsFall", "a share of them is ordered to leave", False,
         {**sessions("1000x20 500x20"), **closes("draining", "_x20 500x20")}, "23m"),
    Case("UsherSessionsFall", "a second share of them is ordered to leave", False,
         {**sessions("1000x20 500x20"), **closes("draining", "400x20 900x20")}, "23m"),
    Case("UsherSessionsFall", "a backend ends half of them", True,
         {**sessions("1000x20 500x20"), **closes("upstream_gone", "0x20 500x20")}, "23m"),

    Case("UsherRefusalsJump", "ten times as many", True,
         upgrades("invalid_token", "0+60x60 3600+1200x20"), "136m", "2m"),
    Case("UsherRefusalsJump", "ten times as many, three hours later", True,
         {**upgrades("accepted", "0+60x600"), **upgrades("invalid_token", "0+6x200 1200+600x100")}, "580m", "2m"),
    Case("UsherRefusalsJump", "a hundred times as many, eleven hours later", True,
         {**upgrades("accepted", "0+1200x800"), **upgrades("invalid_token", "0+6x420 2520+600x360")}, "1500m", "2m"),
    Case("UsherRefusalsJump", "a jump that is over", False,
         {**upgrades("accepted", "0+60x600"), **upgrades("invalid_token", "0+6x200 1200+600x20 13200+6x200")},
         "480m", "2m"),
    Case("UsherRefusalsJump", "nobody gets in any more", True,
         {**upgrades("accepted", "0+600x200 120000x100"), **upgrades("invalid_token", "0+6x200 1200+600x100")},
         "430m", "2m"),
    Case("UsherRefusalsJump", "always as many", False, upgrades("invalid_token", "0+1200x90"), "136m", "2m"),
    Case("UsherRefusalsJump", "the first refusals of all", True,
         {**BUSY, **upgrades("invalid_token", "_x60 0+1200x20")}, "136m", "2m"),
    Case("UsherRefusalsJump", "ten times a few", False,
         upgrades("invalid_token", "0+2x60 120+20x20"), "136m", "2m"),
    Case("UsherRefusalsJump", "ten times as many clients of both kinds", False,
         {**upgrades("accepted", "0+600x60 36000+6000x20"), **upgrades("invalid_token", "0+60x60 3600+600x20")},
         "136m", "2m"),
    Case("UsherRefusalsJump", "the morning after a night without clients", False,
         {**upgrades("accepted", "0+600x60 36000x240 36000+600x30"),
          **upgrades("invalid_token", "0+300x60 18000x240 18000+300x30")}, "630m", "2m"),
    Case("UsherRefusalsJump", "the store is away", False,
         upgrades("store_unavailable", "0+60x60 3600+1200x20"), "136m", "2m"),

    Case("UsherReconnectStorm", "a hundred times as many", True, connections("0+60x60 3600+6000x20"), "65m"),
    Case("UsherReconnectStorm", "the places are full", True, limit("unauthenticated", "0x20 0+60x20"), "25m"),
    Case("UsherReconnectStorm", "twice as many", False, connections("0+600x60 36000+1200x20"), "65m"),
    Case("UsherReconnectStorm", "one address is stopped", False,
         limit("unauthenticated_per_address", "0x20 0+60x20"), "25m"),

    Case("UsherConnectionsFull", "full", True, limit("connections", "0x20 0+60x20"), "25m"),
    Case("UsherConnectionsFull", "full an hour ago", False, limit("connections", "0x20 0+60x10 "
    "600x90"), "90m"),

    Case("UsherConnectionsNearlyFull", "90 %", True,
         {series("usher_connections_open"): "18000x30", series("usher_connections_limit"): "20000x30"}, "15m"),
    Case("UsherConnectionsNearlyFull", "80 %", False,
         {series("usher_connections_open"): "16000x30", series("usher_connections_limit"): "20000x30"}, "15m"),

    Case("UsherStoreAway", "open", True, breaker("0x5 2 1 2 2 1 2x10"), "9m"),
    Case("UsherStoreAway", "open for three hours", True, breaker("0x5 2x190"), "185m"),
    Case("UsherStoreAway", "another region's is open", True,
         {**breaker("0x30", "eu"), **breaker("0x5 2x20", "us")}, "9m"),
    Case("UsherStoreAway", "open for a moment", False, breaker("0x5 2 0x10"), "9m"),
    Case("UsherStoreAway", "closed again", False, breaker("0x5 2x10 0x10", "us"), "19m"),

    Case("UsherStoreFails", "5 % fail", True, {**store("ok", "0+95x60"), **store("out_of_memory", "0+5x60")}, "20m"),
    Case("UsherStoreFails", "5 % fail for three hours", True,
         {**store("ok", "0+95x200"), **store("out_of_memory", "0+5x200")}, "190m"),
    Case("UsherStoreFails", "5 % fail in a small region", True,
         {**store("ok", "0+9500x60", "eu"), **store("ok", "0+95x60", "us"), **store("timeout", "0+5x60", "us")}, "20m"),
    Case("UsherStoreFails", "1 % fails", False, {**store("ok", "0+99x60"), **store("timeout", "0+1x60")}, "20m"),
    Case("UsherStoreFails", "5 % failed", False,
         {**store("ok", "0+95x60"), **store("out_of_memory", "0+5x20 100x40")}, "30m"),

    Case("UsherRevocationsNotRead", "not read", True,
         {series(STREAM): "1x5 0x20", **breaker("0x30")}, "10m"),
    Case("UsherRevocationsNotRead", "no shared store", False, {series(STREAM): "0x30"}, "10m"),
    Case("UsherRevocationsNotRead", "read", False,
         {series(STREAM): "1x30", **breaker("0x30")}, "10m"),

    Case("UsherIssuerHasNoKeys", "none", True, {series("usher_issuer_keys", 'issuer="main"'): "0x30"}, "5m"),
    Case("UsherIssuerHasNoKeys", "two", False, {series("usher_issuer_keys", 'issuer="main"'): "2x30"}, "5m"),

    Case("UsherIssuerAway", "all fetches fail", True,
         {**fetches("ok", "0+1x30 30x60"), **fetches("unreachable", "0x30 0+1x60")}, "70m"),
    Case("UsherIssuerAway", "one fetch fails", False,
         {**fetches("ok", "0+1x100"), **fetches("timeout", "0x30 1x60")}, "40m"),

    Case("UsherVerifierAway", "open", True,
         {series("usher_verifier_breaker_state", 'verifier="login"'): "0x5 2x20"}, "9m"),
    Case("UsherVerifierAway", "closed", False,
         {series("usher_verifier_breaker_state", 'verifier="login"'): "0x30"}, "9m"),

    Case("UsherUpstreamFails", "a third fails", True,
         {**upgrades("accepted", "0+60x60"), **upgrades("upstream_timeout", "0+30x60")}, "10m"),
    Case("UsherUpstreamFails", "another route fails", True,
         {**upgrades("accepted", "0+6000x60"), **upgrades("upstream_unavailable", "0+30x60", "/other")}, "10m"),
    Case("UsherUpstreamFails", "one of a few fails", False,
         {**upgrades("accepted", "0+1x60"), **upgrades("upstream_timeout", "0+1x60")}, "10m"),
    Case("UsherUpstreamFails", "the backend refuses by itself", False,
         {**upgrades("accepted", "0+60x60"), **upgrades("upstream_declined", "0+30x60")}, "10m"),

    Case("UsherServersEjected", "one is", True,
         {series("usher_upstream_servers", 'upstream="chat", state="ejected"'): "0x5 1x20"}, "12m"),
    Case("UsherServersEjected", "one was for a minute", False,
         {series("usher_upstream_servers", 'upstream="chat", state="ejected"'): "0x5 1 0x20"}, "12m"),

    Case("UsherCertificateExpiresSoon", "in six days", True, certificate(f"{6 * 86400}x20"), "10m"),
    Case("UsherCertificateExpiresSoon", "in eight days", False, certificate(f"{8 * 86400}x20"), "10m"),
    Case("UsherCertificateExpires", "has expired", True, certificate("300x20"), "15m"),
    Case("UsherCertificateExpires", "in six days", False, certificate(f"{6 * 86400}x20"), "10m"),

    Case("UsherCertificateExpiresSoon", "the ordered one, in six days", True, ordered(f"{6 * 86400}x20"), "10m"),
    Case("UsherCertificateExpiresSoon", "none is ordered", False, ordered("0x20"), "10m"),
    Case("UsherCertificateExpires", "the ordered one has expired", True, ordered("300x20"), "15m"),
    Case("UsherAcmeOrdersFail", "the authority refuses", True,
         {**orders("refused", "0x5 1x30 2x30"), **orders("issued", "0x90")}, "30m"),
    Case("UsherAcmeOrdersFail", "the first failure of all", True, orders("validation", "_x5 1x40"), "30m"),
    Case("UsherAcmeOrdersFail", "one is issued", False,
         {**orders("unreachable", "0x5 1x60"), **orders("issued", "0x10 1x60")}, "40m"),
    Case("UsherAcmeOrdersFail", "another node has ordered", False, orders("lock_lost", "0x5 1x60"), "40m"),
    Case("UsherStapleExpiresSoon", "in five hours", True, staple(f"{5 * 3600}x20"), "10m"),
    Case("UsherStapleExpiresSoon", "in seven hours", False, staple(f"{7 * 3600}x20"), "10m"),

    Case("UsherDrainStuck", "for a quarter of an hour", True,
         {series("usher_ready"): "1x10 0x30", series("usher_start_time_seconds"): "0x60"}, "25m"),
    Case("UsherDrainStuck", "for three hours", True, ready("1x10 0x190"), "190m"),
    Case("UsherDrainStuck", "it ended", False, ready("1x10 0x15 _x40"), "40m"),
    Case("UsherDrainStuck", "for five minutes", False,
         {series("usher_ready"): "1x10 0x5 _x30", series("usher_start_time_seconds"): "0x15 _x30"}, "25m"),
    Case("UsherDrainStuck", "it serves", False,
         {series("usher_ready"): "1x60", series("usher_start_time_seconds"): "0x60"}, "25m"),

    Case("UsherShadowMismatch", "one, the first of all", True, mismatch("_x10 1x10"), "12m"),
    Case("UsherShadowMismatch", "one more", True, mismatch("3x20 4x10"), "25m"),
    Case("UsherShadowMismatch", "none since long ago", False, mismatch("3x90"), "80m"),

    Case("UsherConfigurationRefused", "refused", True, {series("usher_config_is_current"): "1x5 0x30"}, "15m"),
    Case("UsherConfigurationRefused", "current", False, {series("usher_config_is_current"): "1x40"}, "15m"),

    Case("UsherAuditLinesLost", "lost", True, {series("usher_audit_lines_dropped_total"): "0x5 7x30"}, "10m"),
    Case("UsherAuditLinesLost", "none", False, {series("usher_audit_lines_dropped_total"): "0x40"}, "10m"),

    Case("UsherAdminTokenRefused", "an old token", True, logins("wrong_bearer", "0+4x20"), "15m"),
    Case("UsherAdminTokenRefused", "a guess", True, logins("wrong_token", "0+1x20") | logins("rate_limited", "0+5x20"), "15m"),
    Case("UsherAdminTokenRefused", "good logins, and mistakes", False,
         logins("accepted", "0+30x20") | logins("wrong_token", "0+1x20"), "15m"),

    Case("UsherAcceptsTestIdentities", "allowed", True, {series("usher_bypass_allowed"): "1x10"}, "5m"),
    Case("UsherAcceptsTestIdentities", "not allowed", False, {series("usher_bypass_allowed"): "0x10"}, "5m"),
]  # fmt: skip


def test_files(rules: str) -> dict[str, dict]:
    """Returns the inputs of `promtool test rules`, one for each time between two samples.

    Every case is a job of its own, so that one run of the rules serves them all.
    """
    files = {}
    for number, case in enumerate(CASES):
        job = f'job="case{number}"'
        ask = f'count(ALERTS{{alertname="{case.alert}", alertstate="firing", {job}}})'
        samples = [{"labels": "{}", "value": 1}] if case.fires else []
        all_ = {
            "name": case.step,
            "interval": case.step,
            "input_series": [],
            "promql_expr_test": [],
        }
        # Without an order, promtool takes the groups by chance.
        empty = {
            "rule_files": [rules],
            "evaluation_interval": case.step,
            "group_eval_order": ["usher-recordings", "usher-alerts"],
            "tests": [all_],
        }
        test = files.setdefault(case.step, empty)["tests"][0]
        test["input_series"] += [
            {"series": name.replace('job="usher"', job), "values": values}
            for name, values in case.series.items()
        ]
        test["promql_expr_test"].append({"expr": ask, "eval_time": case.at, "exp_samples": samples})
    return files


def name_of(failure: str) -> str:
    """Returns the output of promtool with the names of the cases."""
    for number, case in reversed([*enumerate(CASES)]):
        failure = failure.replace(f"case{number}\\", f"{case.name}\\")
    return failure
