"""Computes the number of nodes for a number of clients, with one node and with one region down."""

from math import ceil

REDIS_SHARE = 0.5


def table(figures, regions):
    held = per_node(figures)
    rate = figures.handshakes_per_second(held)
    upgrades_after = figures.unauthenticated / figures.handshakes_per_second(held, by_ticket=False)
    tls_after = upgrades_after * figures.tls_share
    lines = [
        f"{'a node holds':<38}{held:>12,}  the least of the next three",
        f"{'  by limits.connections':<38}{figures.connections:>12,}",
        f"{'  by memory, two thirds of it':<38}{by_memory(figures):>12,}  {figures.session_kib + figures.kernel_kib:g} KiB each",
        f"{'  by messages, half of its usable CPU':<38}{by_messages(figures):>12,}  {figures.echoes:g} echoes a second each",
        f"{'it admits a second, by ticket':<38}{rate:>12,.0f}  while it holds that many",
        f"{'  by header or first message':<38}{figures.handshakes_per_second(held, by_ticket=False):>12,.0f}",
        f"{'TLS of a full waiting room done, s':<38}{tls_after:>12.1f}  must stay below tls_timeout, {figures.tls_timeout:g}",
        f"{'  its upgrades done, s':<38}{upgrades_after:>12.1f}  must stay below the clients' timeout, {figures.client_timeout:g}",
        f"{'one Redis admits a second':<38}{by_redis(figures):>12,.0f}  two operations each, half of what was measured",
        "",
        f"{'clients':>12}{'nodes':>8}{'one down':>10}{'region down':>13}{'GiB a node':>12}"
        f"{'region back, s':>16}{'tickets/s then':>16}{'Redis then':>12}",
    ]
    for clients in (50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000):
        lines.append(fleet_line(clients, held, figures, regions))
    return "\n".join(lines)


def fleet_line(clients, held, figures, regions):
    least = ceil(clients / held)
    all_regions = nodes_for(clients, held, regions)
    left = all_regions * (regions - 1) // regions
    each = clients / left
    rate = left * figures.handshakes_per_second(each)
    return (
        f"{clients:>12,}{least:>8}{least + 1:>10}{all_regions:>13}{figures.memory_gib(each):>12.2f}"
        f"{clients / regions / rate:>16.1f}{rate:>16,.0f}{ceil(rate / by_redis(figures)):>12}"
    )


def nodes_for(clients, held, regions):
    """Returns the nodes of all regions. With one region and one more node down, all clients still have room."""
    return regions * (ceil(clients / held / (regions - 1)) + 1)


def per_node(figures):
    return min(figures.connections, by_memory(figures), by_messages(figures))


def by_memory(figures):
    return int(figures.node_gib * 1024**2 * 2 / 3 / (figures.session_kib + figures.kernel_kib))


def by_messages(figures):
    return int(figures.cores * figures.usable / 2 * 1e6 / (figures.echoes * figures.echo_us)) if figures.echoes else figures.connections


def by_redis(figures):
    return figures.redis_operations * REDIS_SHARE / 2
