"""Renders a table of medians and ratios."""

from statistics import median


def render(figures, metrics, peers):
    """`figures` has one figure for each round, by metric and row."""
    head = f"{'':<18}{'median':>9}{'least':>9}{'most':>9}{'/ best':>8}{'/ floor':>8}{'per s':>9}{'p50 ms':>8}{'p99 ms':>8}"
    lines = []
    for metric, rows in figures.items():
        best = min((name for name in peers if rows.get(name)), key=lambda name: median(values(rows[name])), default=None)
        lines += ["", f"{metrics[metric]}; best peer: {best or 'none'}", head]
        lines += [line(name, rounds, rows.get(best), rows.get("floor")) for name, rounds in rows.items() if rounds]
    return "\n".join(lines[1:])


def line(name, rounds, best, floor):
    mine = values(rounds)
    text = f"{name:<18}{median(mine):9.1f}{min(mine):9.1f}{max(mine):9.1f}{ratio(rounds, best)}{ratio(rounds, floor)}"
    if "per_second" in rounds[0]:
        told = {key: median(one[key] for one in rounds) for key in ("per_second", "p50_us", "p99_us")}
        text += f"{told['per_second']:9.0f}{told['p50_us'] / 1000:8.2f}{told['p99_us'] / 1000:8.2f}"
    return text


def ratio(rounds, others):
    """Returns the median of the ratios in each round: a slow machine slows both rows of a round."""
    if not others:
        return f"{'':>8}"
    return f"{median(mine / other for mine, other in zip(values(rounds), values(others))):8.2f}"


def values(rounds):
    return [one["value"] for one in rounds]
