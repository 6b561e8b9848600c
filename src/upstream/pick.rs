//! Picks the next server. No I/O, no clock.

/// Returns every index of `busy` once: the least busy first, equals in turn.
pub fn least_busy_first(busy: &[usize], turn: usize) -> Vec<usize> {
    let count = busy.len();
    let mut order: Vec<usize> =
        (0..count).map(|step| (turn % count.max(1) + step) % count.max(1)).collect();
    order.sort_by_key(|&index| busy.get(index).copied().unwrap_or(usize::MAX));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_busy_server_comes_first() {
        assert_eq!(least_busy_first(&[5, 0, 3], 0), [1, 2, 0]);
    }

    #[test]
    fn equally_busy_servers_take_turns() {
        let firsts: Vec<_> = (0..4).map(|turn| least_busy_first(&[2, 2, 9], turn)[0]).collect();
        assert_eq!(firsts, [0, 1, 0, 0]);
        assert_eq!(least_busy_first(&[1, 1, 1], usize::MAX).len(), 3);
        assert!(least_busy_first(&[], 7).is_empty());
    }
}
