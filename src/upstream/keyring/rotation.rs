//! Rotation on a schedule, and the keys in force while it happens.
//!
//! The key that becomes current was published as `next` since the rotation before. So every backend
//! that caches the set for its `max-age` knows it. The key that was current stays published until
//! the next rotation. Processes that share one `state_dir` read its index: one of them rotates,
//! under a lock, and the others follow.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::json;

use super::events::{KeyringRotated, KeyringRotationFailed};
use super::{Index, Keyring, KeyringError, KeyringFolder};
use crate::base::clock::{Now, UnixMillis};
use crate::config::{Context, ContextSigning};
use crate::telemetry::Event;
use crate::telemetry::Telemetry;

/// The time between two reads of the index.
pub const LOOK: Duration = Telemetry::UPKEEP;
/// The keys that sign now.
#[derive(Debug)]
pub struct SigningKeys(ArcSwap<Signing>);

#[derive(Debug)]
pub struct Signing {
    pub keyring: Keyring,
    /// The header of every signed context, with its dot.
    pub prefix: String,
    /// The public keys, as they are published.
    pub jwks: Bytes,
}

/// The rotation by schedule. A process has one.
#[derive(Debug, Default)]
pub struct Rotation {
    is_failing: bool,
}

impl SigningKeys {
    pub fn new(keyring: Keyring) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(Signing::of(keyring))))
    }

    pub fn load(&self) -> Guard<Arc<Signing>> {
        self.0.load()
    }
}

impl Signing {
    fn of(keyring: Keyring) -> Self {
        let header = json!({ "alg": keyring.algorithm(), "kid": keyring.key_id(), "typ": "JWT" });
        let prefix = format!("{}.", URL_SAFE_NO_PAD.encode(header.to_string()));
        Self { prefix, jwks: Bytes::from(keyring.jwks().to_string()), keyring }
    }
}

impl Rotation {
    /// Rotates keys that are due, and follows a rotation by another process. A failure changes
    /// nothing: the current key goes on signing, and the next call tries again.
    pub fn rotate_due_keys(
        &mut self,
        context: &Context,
        state_dir: &Path,
        keys: &SigningKeys,
        now: Now,
    ) {
        let Some(every) = context.rotate_every else { return };
        let outcome = rotate_due_keys(context, every, state_dir, keys, now);
        if let Err(error) = &outcome {
            KeyringRotationFailed { error, is_new: !self.is_failing }.emit();
        }
        self.is_failing = outcome.is_err();
    }
}

fn rotate_due_keys(
    context: &Context,
    every: Duration,
    state_dir: &Path,
    keys: &SigningKeys,
    now: Now,
) -> Result<(), KeyringError> {
    let ContextSigning::Generated { algorithm } = &context.signing else { return Ok(()) };
    let folder = KeyringFolder::of(state_dir);
    let (index, is_ours) = folder.rotate_if_due(every, now)?;
    if index.current.kid != keys.load().keyring.key_id() {
        keys.0.store(Arc::new(Signing::of(folder.load(&index, *algorithm)?)));
        let (current, next) = (&*index.current.kid, &*index.next.kid);
        let previous = index.previous.as_ref().map(|entry| &*entry.kid);
        KeyringRotated { previous, current, next, is_ours, at: index.rotated_at() }.emit();
    }
    Ok(())
}

impl KeyringFolder {
    /// Returns the index in force, and whether this call rotated it.
    fn rotate_if_due(&self, every: Duration, now: Now) -> Result<(Index, bool), KeyringError> {
        let index = self.index()?.ok_or_else(|| self.no_index())?;
        if !index.is_due(every, now.wall) {
            return Ok((index, false));
        }
        // Does not wait: a process that was stopped with the lock would hold up this one's signals
        // and probes.
        let Some(_lock) = self.try_lock()? else { return Ok((index, false)) };
        // Another process may have been quicker.
        let index = self.index()?.ok_or_else(|| self.no_index())?;
        if !index.is_due(every, now.wall) {
            return Ok((index, false));
        }
        Ok((self.rotate_locked(now)?, true))
    }
}

impl Index {
    /// Returns the time of the last rotation, which made the next key.
    pub fn rotated_at(&self) -> UnixMillis {
        UnixMillis::from_rfc3339(&self.next.created).unwrap_or_default()
    }

    fn is_due(&self, every: Duration, now: UnixMillis) -> bool {
        now >= self.rotated_at() + every
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Scratch, generated};
    use super::*;
    use crate::config::ContextAlgorithm;

    const EVERY: Duration = Duration::from_secs(3600);

    fn later(now: Now, by: Duration) -> Now {
        Now { wall: now.wall + by, mono: now.mono + by }
    }

    fn kids(keys: &SigningKeys) -> Vec<String> {
        let jwks: serde_json::Value = serde_json::from_slice(&keys.load().jwks).unwrap();
        jwks["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["kid"].as_str().unwrap().to_owned())
            .collect()
    }

    fn signer(keys: &SigningKeys) -> String {
        keys.load().keyring.key_id().to_owned()
    }

    /// Returns one of several processes over a folder.
    fn process(scratch: &Scratch, now: Now) -> (Context, Arc<SigningKeys>, Rotation) {
        let context = Context { rotate_every: Some(EVERY), ..generated(ContextAlgorithm::EdDSA) };
        let keys = SigningKeys::new(Keyring::open(&context, &scratch.0, now).unwrap());
        (context, keys, Rotation::default())
    }

    #[test]
    fn whoever_kept_a_published_set_knows_the_key_that_signs_until_the_rotation_after_next() {
        let scratch = Scratch::new("schedule");
        let start = Now::read();
        let mut nodes: Vec<_> = (0..3).map(|_| process(&scratch, start)).collect();
        // Sets that backends fetched, and until when they may keep them.
        let mut kept: Vec<(Now, Vec<String>)> = Vec::new();
        let mut signers = Vec::new();
        let mut now = start;
        for step in 0..600_usize {
            now = later(now, Duration::from_secs(37));
            // Each process tends in its own time, and some are late.
            let (context, keys, rotation) = &mut nodes[step % 3];
            rotation.rotate_due_keys(context, &scratch.0, keys, now);
            kept.retain(|(fetched, _)| now.wall.since(fetched.wall) < Context::KEY_SET_MAX_AGE);
            for (_, keys, _) in &nodes {
                let kid = signer(keys);
                assert!(
                    kept.iter().all(|(_, set)| set.contains(&kid)),
                    "step {step}: {kid} is not in {kept:?}"
                );
                kept.push((now, kids(keys)));
                if signers.last() != Some(&kid) && !signers.contains(&kid) {
                    signers.push(kid);
                }
            }
        }
        let rotations = 600 * 37 / 3600;
        assert!(
            (rotations - 1..=rotations + 1).contains(&(signers.len() - 1)),
            "{} of {rotations}",
            signers.len() - 1
        );
    }

    #[test]
    fn of_eight_processes_that_find_it_due_one_rotates_and_all_follow() {
        let scratch = Scratch::new("eight");
        let start = Now::read();
        let mut nodes: Vec<_> = (0..8).map(|_| process(&scratch, start)).collect();
        let before = KeyringFolder::of(&scratch.0).index().unwrap().unwrap();
        let due = later(start, EVERY);
        std::thread::scope(|scope| {
            for (context, keys, rotation) in &mut nodes {
                let path = &scratch.0;
                scope.spawn(move || rotation.rotate_due_keys(context, path, keys, due));
            }
        });
        // A process that came while another one held the lock follows at its next call.
        for (context, keys, rotation) in &mut nodes {
            rotation.rotate_due_keys(context, &scratch.0, keys, due);
        }
        let after = KeyringFolder::of(&scratch.0).index().unwrap().unwrap();
        assert_eq!(
            (after.current.kid, after.previous.unwrap().kid),
            (before.next.kid, before.current.kid.clone())
        );
        assert!(
            nodes.iter().all(|(_, keys, _)| signer(keys) == after_signer(&scratch)),
            "all sign with the same"
        );
        assert!(nodes.iter().all(|(_, keys, _)| kids(keys).contains(&before.current.kid)));
    }

    fn after_signer(scratch: &Scratch) -> String {
        KeyringFolder::of(&scratch.0).index().unwrap().unwrap().current.kid
    }

    #[test]
    fn a_restart_and_a_rotation_by_hand_keep_the_schedule() {
        let scratch = Scratch::new("restart");
        let start = Now::read();
        let (context, keys, mut rotation) = process(&scratch, start);
        let first = signer(&keys);
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY / 2));
        assert_eq!(signer(&keys), first, "it is not due");
        KeyringFolder::of(&scratch.0).rotate(later(start, EVERY / 2)).unwrap();
        // Another process after a restart. The time counts from the rotation, not from the start.
        let (context, keys, mut rotation) = process(&scratch, later(start, EVERY / 2));
        let second = signer(&keys);
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY));
        assert_eq!(signer(&keys), second);
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY * 3 / 2));
        assert_ne!(signer(&keys), second);
    }

    #[test]
    fn a_process_that_hangs_with_the_lock_holds_up_nobody() {
        let scratch = Scratch::new("hangs");
        let start = Now::read();
        let (context, keys, mut rotation) = process(&scratch, start);
        let first = signer(&keys);
        let lock = KeyringFolder::of(&scratch.0).lock().unwrap();
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY));
        assert!(signer(&keys) == first && !rotation.is_failing);
        drop(lock);
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY));
        assert_ne!(signer(&keys), first);
    }

    #[test]
    fn where_it_fails_the_key_goes_on_signing_and_it_is_tried_again() {
        let scratch = Scratch::new("failing");
        let start = Now::read();
        let (context, keys, mut rotation) = process(&scratch, start);
        let first = signer(&keys);
        let index = scratch.0.join("keys/keyring.json");
        let good = std::fs::read(&index).unwrap();
        std::fs::write(&index, "{").unwrap();
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY));
        assert!(rotation.is_failing && signer(&keys) == first);
        assert!(keys.load().keyring.sign(b"x").is_some());
        std::fs::write(&index, good).unwrap();
        rotation.rotate_due_keys(&context, &scratch.0, &keys, later(start, EVERY));
        assert!(!rotation.is_failing && signer(&keys) != first);
    }
}
