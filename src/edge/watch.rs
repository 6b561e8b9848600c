//! Watches the configuration and the files that it names, and orders a reload once a change is
//! complete.
//!
//! A file that was replaced as a whole (by a rename, or a symlink that leads elsewhere) is loaded
//! at once. A file that was written in place is loaded when it has not changed for [`QUIET`] and no
//! program has it open for writing. The first half of a file may be a valid configuration that
//! allows what the second half forbids.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::events::ConfigUnfinished;
use crate::base::clock::Now;
use crate::config::written::Fingerprints;
use crate::edge::events::ReloadCause;
use crate::edge::reload::Orders;
use crate::edge::{Current, Edge};
use crate::telemetry::Event;

/// The time between two checks of the files.
const LOOK: Duration = Duration::from_millis(250);
/// The time for which a file that was written in place must not change.
pub const QUIET: Duration = Duration::from_secs(5);
/// A change that is not whole after this long is logged, once.
const LATE: Duration = Duration::from_secs(60);

/// The files of the configuration over time.
pub struct Watcher {
    source: PathBuf,
    edge: Arc<Edge>,
    /// The contents that are in force, or were refused.
    known: Fingerprints,
    files: BTreeMap<PathBuf, File>,
    writers: Writers,
    /// When the pending change was first seen, and whether it was logged.
    pending_since: Option<(Instant, bool)>,
}

/// One file over time.
#[derive(Debug)]
struct File {
    /// The file when its content became known. `None`: it did not exist.
    at_rest: Option<Stamp>,
    last: Option<Stamp>,
    changed_at: Instant,
    arrival: Arrival,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Whole,
    InPlace,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    /// The path after all symlinks are resolved.
    target: PathBuf,
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watcher {
    pub fn new(source: PathBuf, edge: Arc<Edge>) -> Self {
        let mut watcher = Self {
            source,
            known: Fingerprints::new(),
            files: BTreeMap::new(),
            writers: Writers::default(),
            pending_since: None,
            edge: Arc::clone(&edge),
        };
        watcher.begin(edge);
        watcher
    }

    /// Orders a reload whenever the configuration or a file that it names has changed. Never
    /// returns.
    pub async fn run(mut self, current: Current, orders: Orders) {
        loop {
            sleep(LOOK).await;
            self.follow(current.load_full());
            let Some(seen) = self.look(Now::read().mono) else { continue };
            match orders.give_for(ReloadCause::Watch, seen.clone()).await {
                Some(Ok(_)) => self.follow(current.load_full()),
                // Refused contents are not tried again until they change.
                Some(Err(_)) => self.rest(seen),
                // The files have changed since this check. The next one sees it.
                None => {}
            }
        }
    }

    /// Switches to the files of another edge, if there is one.
    fn follow(&mut self, edge: Arc<Edge>) {
        if !Arc::ptr_eq(&self.edge, &edge) {
            self.begin(edge);
        }
    }

    fn begin(&mut self, edge: Arc<Edge>) {
        let now = Now::read().mono;
        self.known = edge.config.written.as_read(&self.source);
        self.writers = Writers::watch(self.known.keys());
        let on_disk = edge.config.written.on_disk(&self.source);
        let file = |(path, content): (&PathBuf, _)| {
            let last = Stamp::of(path);
            // The file may have changed since it was read: a start may take seconds.
            let is_same = on_disk.get(path) == Some(content);
            let at_rest = last.clone().filter(|_| is_same);
            (path.clone(), File { at_rest, last, changed_at: now, arrival: Arrival::InPlace })
        };
        self.files = self.known.iter().map(file).collect();
        self.pending_since = None;
        self.edge = edge;
    }

    /// Returns the contents of the files if they have changed and are complete.
    fn look(&mut self, now: Instant) -> Option<Fingerprints> {
        self.writers.update();
        for (path, file) in &mut self.files {
            file.look(Stamp::of(path), &self.writers, now);
        }
        self.writers.forget_arrivals();
        let mut pending = self.files.iter().filter(|(_, file)| file.is_pending()).peekable();
        if pending.peek().is_none() {
            self.pending_since = None;
            return None;
        }
        if let Some((path, _)) = pending.find(|(_, file)| !file.is_settled(&self.writers, now)) {
            let (since, was_logged) = self.pending_since.unwrap_or((now, false));
            let is_late = now.duration_since(since) > LATE;
            if is_late && !was_logged {
                ConfigUnfinished { path }.emit();
            }
            self.pending_since = Some((since, was_logged || is_late));
            return None;
        }
        let seen = self.edge.config.written.on_disk(&self.source);
        if seen == self.known {
            self.rest(seen);
            return None;
        }
        Some(seen)
    }

    /// Takes these contents as known. From now on only other contents are a change.
    fn rest(&mut self, known: Fingerprints) {
        self.known = known;
        self.pending_since = None;
        for file in self.files.values_mut() {
            file.at_rest.clone_from(&file.last);
        }
    }
}

impl File {
    fn look(&mut self, stamp: Option<Stamp>, writers: &Writers, now: Instant) {
        if stamp == self.last {
            return;
        }
        self.changed_at = now;
        self.arrival = match (&self.last, &stamp) {
            (Some(before), Some(after)) if before.target != after.target => Arrival::Whole,
            // Only its mode or owner has changed.
            (Some(before), Some(after)) if before.is_same_content(after) => self.arrival,
            (_, Some(after)) if writers.has_moved_in(&after.target) => Arrival::Whole,
            _ => Arrival::InPlace,
        };
        self.last = stamp;
    }

    fn is_pending(&self) -> bool {
        self.last != self.at_rest
    }

    fn is_settled(&self, writers: &Writers, now: Instant) -> bool {
        let quiet = now.saturating_duration_since(self.changed_at);
        match (self.arrival, &self.last) {
            // Waits for one more check, so that a certificate and its key are loaded together.
            (Arrival::Whole, _) => quiet >= LOOK,
            (Arrival::InPlace, Some(stamp)) => quiet >= QUIET && !writers.has_open(&stamp.target),
            (Arrival::InPlace, None) => quiet >= QUIET,
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let target = path.canonicalize().ok()?;
        let metadata = target.metadata().ok()?;
        Some(Self {
            target,
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    fn is_same_content(&self, other: &Self) -> bool {
        let content = |stamp: &Self| (stamp.inode, stamp.size, stamp.modified);
        content(self) == content(other)
    }
}

/// The files that are being written, if the kernel reports them. Where it does not, a rename
/// counts as a write in place.
#[derive(Debug, Default)]
struct Writers {
    #[cfg(target_os = "linux")]
    inotify: Option<linux::Inotify>,
    open: std::collections::BTreeSet<PathBuf>,
    moved_in: std::collections::BTreeSet<PathBuf>,
}

impl Writers {
    fn has_open(&self, target: &Path) -> bool {
        self.open.contains(target)
    }

    fn has_moved_in(&self, target: &Path) -> bool {
        self.moved_in.contains(target)
    }

    fn forget_arrivals(&mut self) {
        self.moved_in.clear();
    }

    #[cfg(not(target_os = "linux"))]
    fn watch<'p>(_paths: impl Iterator<Item = &'p PathBuf>) -> Self {
        Self::default()
    }

    #[cfg(not(target_os = "linux"))]
    fn update(&mut self) {}

    #[cfg(target_os = "linux")]
    fn watch<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Self {
        let targets = paths.filter_map(|path| path.canonicalize().ok());
        let folders = targets.filter_map(|target| target.parent().map(Path::to_owned)).collect();
        Self { inotify: linux::Inotify::over(folders), ..Self::default() }
    }

    #[cfg(target_os = "linux")]
    fn update(&mut self) {
        let Some(inotify) = &mut self.inotify else { return };
        for (path, change) in inotify.changes() {
            match change {
                linux::Change::MovedIn => {
                    self.open.remove(&path);
                    self.moved_in.insert(path);
                }
                linux::Change::Written => {
                    self.moved_in.remove(&path);
                    self.open.insert(path);
                }
                linux::Change::Closed => drop(self.open.remove(&path)),
                linux::Change::Lost => {
                    self.open.clear();
                    self.moved_in.clear();
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ffi::OsStr;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};

    const BUFFER: usize = 16 << 10;

    #[derive(Debug)]
    pub(super) struct Inotify {
        descriptor: OwnedFd,
        folders: BTreeMap<i32, PathBuf>,
    }

    #[derive(Clone, Copy, Debug)]
    pub(super) enum Change {
        MovedIn,
        /// A program has the file open, or had it open a moment ago.
        Written,
        Closed,
        /// The queue of events was full.
        Lost,
    }

    impl Inotify {
        pub(super) fn over(paths: BTreeSet<PathBuf>) -> Option<Self> {
            let descriptor = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            let kinds = WatchFlags::MOVED_TO
                | WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::DELETE;
            let mut folders = BTreeMap::new();
            for path in paths {
                let watch = add_watch(&descriptor, &path, kinds | WatchFlags::ONLYDIR).ok()?;
                folders.insert(watch, path);
            }
            Some(Self { descriptor, folders })
        }

        /// Returns what has happened since the last call.
        pub(super) fn changes(&mut self) -> Vec<(PathBuf, Change)> {
            let mut buffer = [MaybeUninit::uninit(); BUFFER];
            let mut reader = Reader::new(&self.descriptor, &mut buffer);
            let mut changes = Vec::new();
            while let Ok(event) = reader.next() {
                let kinds = event.events();
                if kinds.contains(ReadFlags::QUEUE_OVERFLOW) {
                    changes.push((PathBuf::new(), Change::Lost));
                }
                let (Some(folder), Some(name)) = (self.folders.get(&event.wd()), event.file_name())
                else {
                    continue;
                };
                let change = if kinds.contains(ReadFlags::MOVED_TO) {
                    Change::MovedIn
                } else if kinds.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE) {
                    Change::Closed
                } else {
                    Change::Written
                };
                changes.push((folder.join(OsStr::from_bytes(name.to_bytes())), change));
            }
            changes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(target: &str, inode: u64, size: u64) -> Option<Stamp> {
        Some(Stamp {
            target: target.into(),
            inode: (1, inode),
            size,
            modified: (0, 0),
            changed: (0, 0),
        })
    }

    fn at_rest(now: Instant) -> File {
        let last = stamp("/a", 1, 10);
        File { at_rest: last.clone(), last, changed_at: now, arrival: Arrival::InPlace }
    }

    #[test]
    fn a_file_that_grows_is_not_whole_and_one_that_was_moved_in_is() {
        let (start, mut writers) = (Now::read().mono, Writers::default());
        let at = |seconds: f32| start + Duration::from_secs_f32(seconds);
        let mut grows = at_rest(start);
        for (second, size) in [(1.0, 11), (5.0, 12), (9.0, 13)] {
            grows.look(stamp("/a", 1, size), &writers, at(second));
            assert!(grows.is_pending() && !grows.is_settled(&writers, at(second + 3.9)));
        }
        writers.open.insert("/a".into());
        assert!(!grows.is_settled(&writers, at(100.0)), "a program still writes");
        writers.open.clear();
        assert!(grows.is_settled(&writers, at(14.0)));

        writers.moved_in.insert("/a".into());
        let mut moved = at_rest(start);
        moved.look(stamp("/a", 2, 20), &writers, at(1.0));
        assert!(!moved.is_settled(&writers, at(1.0)) && moved.is_settled(&writers, at(1.3)));
        writers.forget_arrivals();
        moved.look(stamp("/a", 2, 21), &writers, at(2.0));
        assert!(!moved.is_settled(&writers, at(3.0)), "then it was written to");

        let mut swapped = at_rest(start);
        swapped.look(stamp("/b", 3, 10), &writers, at(1.0));
        assert!(swapped.is_settled(&writers, at(1.3)), "a symlink leads elsewhere");
        let mut created = at_rest(start);
        created.look(stamp("/a", 4, 5), &writers, at(1.0));
        assert!(!created.is_settled(&writers, at(3.0)), "a new file under the name may grow yet");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_tells_who_writes_and_what_was_moved_in() {
        use std::io::Write;
        let folder = std::env::temp_dir().join(format!("usher-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.canonicalize().unwrap().join("usher.toml");
        std::fs::write(&path, "one").unwrap();
        let mut writers = Writers::watch([&path].into_iter());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"two").unwrap();
        writers.update();
        assert!(writers.has_open(&path));
        drop(file);
        writers.update();
        assert!(!writers.has_open(&path) && !writers.has_moved_in(&path));
        std::fs::write(folder.join("new"), "three").unwrap();
        std::fs::rename(folder.join("new"), &path).unwrap();
        writers.update();
        assert!(writers.has_moved_in(&path) && !writers.has_open(&path));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
