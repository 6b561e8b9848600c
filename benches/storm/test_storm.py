"""Tests the invariants of the simulation. They do not depend on its speed, nor on figures that may be tuned."""

import unittest
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from random import Random

import simulate
import sizing
from clients import EAGER, EXPONENTIAL, FIXED, FULL_JITTER, HABITS
from draw import binomial, share, spread
from figures import Figures
from nodes import Nodes, Store
from storm import Scenario, Storm, per_second

SMALL = replace(Figures(), longest=120.0, connections=20_000, unauthenticated=500, backlog=300)
LOST = Scenario("lost", 20_000, 1.0, 4, 20_000)


def storm(habit=FULL_JITTER, figures=SMALL, scenario=LOST, **others):
    return Storm(figures, scenario, habit, **others)


class Draws(unittest.TestCase):
    def test_a_count_is_never_below_none_or_above_all(self):
        random = Random(1)
        for count, chance in ((0, 0.5), (1, 0.5), (10, 0.01), (1000, 0.3), (1_000_000, 0.999), (5, 1.0), (5, 0.0)):
            for _ in range(200):
                self.assertTrue(0 <= binomial(random, count, chance) <= count)

    def test_the_mean_is_what_the_chance_says(self):
        random = Random(2)
        for count, chance in ((20, 0.1), (400, 0.5), (10_000, 0.7)):
            mean = sum(binomial(random, count, chance) for _ in range(4000)) / 4000
            self.assertAlmostEqual(mean / (count * chance), 1.0, delta=0.05)

    def test_what_is_spread_adds_up_and_stays_in_its_bins(self):
        random = Random(3)
        for count, bins in ((0, 5), (7, 300), (100_000, 300), (5, 1)):
            drawn = list(spread(random, count, bins))
            self.assertEqual(sum(number for _, number in drawn), count)
            self.assertTrue(all(0 <= index < bins for index, _ in drawn))

    def test_places_are_shared_without_one_too_many_or_too_few(self):
        random = Random(4)
        for wanted, places in (([5, 0, 7], 4), ([1000, 1, 300], 900), ([3], 10), ([], 0), ([2, 2], 0)):
            given = share(random, wanted, places)
            self.assertEqual(sum(given), min(places, sum(wanted)))
            self.assertTrue(all(0 <= one <= most for one, most in zip(given, wanted)))


class Habits(unittest.TestCase):
    def test_full_jitter_doubles_its_window_up_to_the_cap(self):
        self.assertEqual([FULL_JITTER.longest(failures) for failures in range(7)], [1, 2, 4, 8, 16, 30, 30])
        self.assertEqual(FULL_JITTER.delay_bins(3, SMALL), (1, 80))

    def test_without_jitter_all_come_in_one_step(self):
        for habit in (EAGER, FIXED, EXPONENTIAL):
            self.assertTrue(all(habit.delay_bins(failures, SMALL)[1] == 1 for failures in range(9)))
        self.assertEqual([EXPONENTIAL.longest(failures) for failures in range(7)], [0, 1, 2, 4, 8, 16, 30])

    def test_failures_that_change_nothing_are_one(self):
        for habit in HABITS:
            for failures in range(40):
                self.assertEqual(habit.longest(habit.count(failures)), habit.longest(failures))


class Storms(unittest.TestCase):
    def test_nobody_is_lost_or_doubled_in_any_step(self):
        # `step` counts all clients, and raises if one is missing. These runs take every path.
        seen = set()
        for habit in HABITS:
            for guarded in (True, False):
                for by_ticket in (True, False):
                    scenario = replace(LOST, store_away=(0.0, 3.0))
                    report = storm(habit, scenario=scenario, guarded=guarded, by_ticket=by_ticket).run()
                    seen |= {reason for reason, count in report.failed.items() if count}
        self.assertEqual(seen, {"refused", "unheard", "timeout", "store"})

    def test_a_client_that_is_lost_is_noticed(self):
        one = storm()
        one.nodes.finish = lambda *_: None
        with self.assertRaises(AssertionError):
            one.run()

    def test_arrivals_are_first_tries_and_what_failed_before(self):
        one = storm(by_ticket=False)
        report = one.run()
        self.assertEqual(report.back, LOST.clients)
        failed = report.failed
        # A SYN without an answer arrives again, unless the client's time is over: then it also counts as late.
        self.assertGreaterEqual(sum(report.arrivals), LOST.clients + failed["refused"] + failed["store"])
        self.assertLessEqual(sum(report.arrivals), LOST.clients + sum(failed.values()))

    def test_each_admission_by_ticket_is_two_handshakes_and_two_operations(self):
        for by_ticket, each in ((True, 2), (False, 1)):
            calm = storm(scenario=Scenario("calm", 1000, 30.0, 4, 0), by_ticket=by_ticket).run()
            self.assertEqual(sum(calm.handshakes), each * 1000)
            self.assertEqual(sum(calm.operations), 2000 if by_ticket else 0)
            self.assertFalse(calm.failed)

    def test_limits_are_kept_in_every_step(self):
        for habit in HABITS:
            one = storm(habit, figures=replace(SMALL, connections=9_000))
            while one.now < 300 and one.back < LOST.clients:
                one.step()
                nodes = one.nodes
                self.assertLessEqual(nodes.in_room, 500 * 4)
                self.assertLessEqual(nodes.sessions + nodes.in_room, 9_000 * 4)
                self.assertLessEqual(nodes.in_queue, 300 * SMALL.cores * 4)
                self.assertLessEqual(one.report.busy[-1], 1.0)
                self.assertLessEqual(one.store.used, one.store.per_step)
            self.assertEqual(one.nodes.sessions, LOST.sessions + one.back)

    def test_what_is_counted_inside_is_what_is_there(self):
        one = storm(EAGER)
        for _ in range(100):
            one.step()
            self.assertEqual(one.nodes.in_room, sum(cohort.count for cohort in one.nodes.room))
            self.assertEqual(one.nodes.in_queue, sum(cohort.count for batch in one.nodes.listening for cohort in batch))

    def test_above_the_ceiling_some_stay_outside(self):
        report = storm(figures=replace(SMALL, connections=7_500)).run()
        self.assertLessEqual(report.back, 4 * 7_500 - LOST.sessions)
        self.assertNotIn(100, report.back_after)

    def test_nobody_gets_in_while_the_store_is_away(self):
        one = storm(scenario=replace(LOST, store_away=(0.0, 5.0)))
        for _ in range(50):
            one.step()
        self.assertEqual(one.back, 0)
        self.assertEqual(one.run().back, LOST.clients)

    def test_the_same_seed_is_the_same_storm(self):
        first, second, other = (storm(seed=seed).run() for seed in (5, 5, 6))
        self.assertEqual((first.arrivals, first.failed), (second.arrivals, second.failed))
        self.assertNotEqual(first.arrivals, other.arrivals)

    def test_a_client_sends_no_syn_after_its_time_is_over(self):
        one = storm(figures=replace(SMALL, client_timeout=2.0))
        for _ in range(100):
            one.step()
            self.assertTrue(all(unheard <= 1 for keys in one.calendar.values() for _, _, unheard in keys))

    def test_closes_that_are_spread_meet_no_refusal(self):
        spread_out = storm(scenario=replace(LOST, over=60.0)).run()
        self.assertFalse(spread_out.failed)
        self.assertTrue(storm().run().failed)


class Doors(unittest.TestCase):
    def test_clients_who_have_left_still_cost_their_tls(self):
        figures = replace(SMALL, tls_timeout=0.1, rtt=0.1)
        nodes, store = Nodes(figures, 1, 0, Random(1)), Store(figures)
        store.begin(0)
        nodes.step(0, [((0, 1, 0), 100)], store, False)
        late = [nodes.step(now, [], store, False) for now in range(1, 5)]
        self.assertEqual(sum(count for one in late for _, _, count in one.failed), 100)
        self.assertAlmostEqual(sum(one.wasted for one in late), 100 * figures.upgrade_ms * figures.tls_share)
        self.assertEqual(nodes.in_room, 0)


class Tables(unittest.TestCase):
    def test_seconds_hold_all_steps(self):
        self.assertEqual(sum(per_second(list(range(25)), SMALL)), sum(range(25)))

    def test_enough_nodes_remain_when_a_region_and_a_node_are_down(self):
        for regions in (2, 3, 4):
            for clients in (1, 50_000, 1_000_000, 9_999_999):
                nodes = sizing.nodes_for(clients, 100_000, regions)
                self.assertGreaterEqual((nodes - nodes // regions - 1) * 100_000, clients)

    def test_a_table_goes_to_its_place_and_nowhere_else(self):
        page = "a\n<!-- simulate: x -->\n```text\nold\n```\nb\n<!-- simulate: y -->\n```text\nkept\n```\n"
        made = simulate.write([("x", "new\\1  \nlines")], page)
        self.assertEqual(made, page.replace("old", "new\\1\nlines"))

    def test_the_pages_have_the_figures_that_the_program_has(self):
        made = list(simulate.tables(simulate.parse(["--table", "figures", "sizing"]), Figures()))
        page = "\n".join(page.read_text() for page in simulate.PAGES)
        self.assertEqual(simulate.write(made, page), page, "simulate.py --clients 1000000 10000000 --write")
        for name, _ in made:
            self.assertIn(f"<!-- simulate: {name} -->", page)

    def test_the_command_prints_every_table(self):
        out = StringIO()
        with redirect_stdout(out):
            simulate.main(["--clients", "40000", "--longest", "5", "--table", "figures", "sizing", "storms", "course"])
        for name in ("figures", "sizing", "storms 40000", "course 40000"):
            self.assertIn(f"== {name}\n", out.getvalue())


if __name__ == "__main__":
    unittest.main()
