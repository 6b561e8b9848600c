//! The second oracle: compares the clients at the upstream with the clients that were let in.
//!
//! A test records each admission. At the end, the oracle compares the record with the visits at the
//! upstream.

use std::collections::HashMap;

use super::echo::Visit;

#[derive(Default)]
pub struct DoorBook {
    /// The users that may connect, and how often: once for each ticket or use of a token.
    admitted: HashMap<String, usize>,
}

impl DoorBook {
    /// Allows one more connection of this user.
    pub fn admit(&mut self, user: &str) {
        *self.admitted.entry(user.to_owned()).or_default() += 1;
    }

    /// Returns the complaints about these visits. The user is in the unsigned header `x-user-id` of
    /// the route.
    pub fn verdict(&self, visits: &[Visit]) -> Vec<String> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut complaints = Vec::new();
        for visit in visits {
            match (visit.all("x-user-id").as_slice(), visit.all("x-user-context").as_slice()) {
                ([user], [_]) => *seen.entry((*user).to_owned()).or_default() += 1,
                (users, contexts) => complaints.push(format!(
                    "{} users and {} contexts in one visit",
                    users.len(),
                    contexts.len()
                )),
            }
            if visit.target.contains("ticket") || !visit.all("authorization").is_empty() {
                complaints.push("a credential reached the upstream".to_owned());
            }
        }
        for (user, count) in seen {
            let right = self.admitted.get(&user).copied().unwrap_or(0);
            if count > right {
                complaints.push(format!("{user} came {count} times and had a right to {right}"));
            }
        }
        complaints
    }
}

#[test]
fn the_door_book_notices_who_had_no_right() {
    let visit = |headers: &[(&str, &str)], target: &str| Visit {
        target: target.to_owned(),
        headers: headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let ada = [("x-user-id", "ada"), ("x-user-context", "a.b.c")];
    let mut book = DoorBook::default();
    book.admit("ada");
    assert!(book.verdict(&[visit(&ada, "/ws")]).is_empty());
    assert!(
        !book.verdict(&[visit(&ada, "/ws"), visit(&ada, "/ws")]).is_empty(),
        "two visits on one ticket"
    );
    assert!(!book.verdict(&[visit(&[], "/ws")]).is_empty(), "a visit without a user");
    assert!(!book.verdict(&[visit(&ada, "/ws?ticket=x")]).is_empty(), "a ticket in the target");
    assert!(
        !book.verdict(&[visit(&[ada[0], ada[0], ada[1]], "/ws")]).is_empty(),
        "two users in one visit"
    );
}
