"""The input of the simulation: every figure about a node, a Redis and a client, in one table.

A figure is `measured` (on a machine with two cores, see README.md), `default` (from config/reference.toml), `estimate`,
or `chosen` for the fleet of the example. Each is an option of `simulate.py`. The ratios matter more than the values:
measure your own node, and use your own figures.
"""

from dataclasses import dataclass, field, fields


def figure(value, source, meaning):
    return field(default=value, metadata={"source": source, "meaning": meaning})


@dataclass(frozen=True)
class Figures:
    # One node.
    cores: int = figure(2, "chosen", "cores of a node; those of the machine that was measured")
    usable: float = figure(0.7, "chosen", "share of them to plan with; the rest is the kernel's network work and reserve")
    upgrade_ms: float = figure(0.35, "measured", "CPU of a full TLS handshake, token check, context, dial, first echo")
    ticket_ms: float = figure(0.2, "measured", "CPU of a TLS handshake, token check and an issued ticket, without a dial")
    refusal_ms: float = figure(0.02, "measured", "CPU of a connection that is accepted and closed unread")
    tls_share: float = figure(0.5, "estimate", "share of that CPU for TLS, which comes first")
    echo_us: float = figure(13.5, "measured", "CPU of a 128 byte message and its echo")
    echoes: float = figure(0.2, "chosen", "messages with an echo that a client sends in a second")
    session_kib: float = figure(5.5, "measured", "memory of Usher for an idle authenticated TLS session")
    kernel_kib: float = figure(9.6, "measured", "memory of the kernel for its two sockets, with nothing in their buffers")
    node_gib: float = figure(4.0, "chosen", "memory of a node")
    # The limits of Usher and the kernel.
    connections: int = figure(125_000, "chosen", "limits.connections of a node (the default is 20,000)")
    unauthenticated: int = figure(10_000, "default", "limits.unauthenticated of a node")
    tls_timeout: float = figure(5.0, "default", "limits.tls_timeout, seconds")
    handshake_timeout: float = figure(15.0, "default", "limits.handshake_timeout, seconds")
    backlog: int = figure(4096, "default", "listen queue of each core; net.core.somaxconn must allow it")
    # Redis.
    redis: int = figure(1, "chosen", "Redis servers that share the tickets")
    redis_operations: int = figure(364_000, "measured", "operations in a second that one Redis takes, 64 in flight")
    # Clients and their network.
    rtt: float = figure(0.1, "estimate", "round trip between client and node, seconds")
    round_trips: int = figure(4, "estimate", "round trips from SYN to 101")
    client_timeout: float = figure(10.0, "chosen", "how long a client waits for one connection, seconds")
    notice: float = figure(1.0, "estimate", "seconds within which clients notice a lost node")
    session_length: float = figure(900.0, "chosen", "seconds a session lasts when all is well")
    # The simulation.
    step: float = figure(0.1, "chosen", "seconds of one step")
    longest: float = figure(600.0, "chosen", "seconds after which the simulation gives up")

    def steps(self, seconds):
        return max(1, round(seconds / self.step))

    def handshake_cores(self, sessions):
        """Returns the cores of one node that are left for handshakes, after the messages of its sessions."""
        return max(0.0, self.cores * self.usable - sessions * self.echoes * self.echo_us / 1e6)

    def handshakes_per_second(self, sessions, by_ticket=True):
        return self.handshake_cores(sessions) * 1000 / (self.upgrade_ms + (self.ticket_ms if by_ticket else 0.0))

    def memory_gib(self, sessions):
        return sessions * (self.session_kib + self.kernel_kib) / 1024**2


def add_options(parser):
    group = parser.add_argument_group("figures")
    for one in fields(Figures):
        meta = one.metadata
        help_text = f"{meta['meaning']} ({meta['source']}; {one.default:g})"
        group.add_argument("--" + one.name.replace("_", "-"), type=type(one.default), default=one.default, metavar="N", help=help_text)


def given(options):
    return {one.name: getattr(options, one.name) for one in fields(Figures)}


def from_options(options):
    return Figures(**given(options))


def table(figures):
    lines = [f"{'figure':<18}{'value':>10}  {'source':<10}meaning"]
    for one in fields(Figures):
        lines.append(f"{one.name:<18}{getattr(figures, one.name):>10,}  {one.metadata['source']:<10}{one.metadata['meaning']}")
    return "\n".join(lines)
