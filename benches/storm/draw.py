"""Random counts: draws how many of many clients do something, without a loop over the clients.

Only `Random.random` and `Random.normalvariate` are used, so that a seed gives the same run on every Python.
"""

from math import sqrt


def binomial(random, count, chance):
    """Draws from a binomial distribution. Exact for a small mean, by the normal distribution for a large one."""
    if count <= 0 or chance <= 0.0:
        return 0
    if chance >= 1.0:
        return count
    if chance > 0.5:
        return count - binomial(random, count, 1.0 - chance)
    mean = count * chance
    if mean > 30.0:
        drawn = round(random.normalvariate(mean, sqrt(mean * (1.0 - chance))))
        return min(max(drawn, 0), count)
    left = random.random()
    odds = chance / (1.0 - chance)
    likelihood = (1.0 - chance) ** count
    drawn = 0
    while left > likelihood and drawn < count:
        left -= likelihood
        drawn += 1
        likelihood *= odds * (count - drawn + 1) / drawn
    return drawn


def spread(random, count, bins):
    """Distributes `count` over `bins` at random. Yields pairs of bin and number, without empty bins."""
    for index in range(bins):
        if count <= 0:
            return
        here = binomial(random, count, 1.0 / (bins - index))
        if here:
            yield index, here
            count -= here


def share(random, wanted, places):
    """Distributes `places` among groups. Each client has the same chance. Returns a number for each group."""
    given = []
    total = sum(wanted)
    for count in wanted:
        if total <= 0:
            given.append(0)
            continue
        most = min(count, places)
        # At least the places that the later groups cannot take.
        least = max(0, places - (total - count))
        here = min(max(binomial(random, count, places / total), least), most) if places < total else count
        given.append(here)
        places -= here
        total -= count
    return given
