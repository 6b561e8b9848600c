//! A bounded queue of lines in front of a slow writer.
//!
//! A separate thread writes the lines of the log and the audit log, so that a blocked pipe or a
//! full disk never blocks the data path. If the queue is full, a line is dropped and counted. The
//! writer is replaced only between two lines, so that a rotation tears none.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::base::lock::lock;

pub struct LineSink {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: usize,
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<Vec<u8>>,
    /// The writer of all lines from now on.
    next_writer: Option<Box<dyn Write + Send>>,
    /// Lines that the thread is writing now. They also count against the capacity.
    being_written: usize,
    dropped: u64,
    closed: bool,
}

impl LineSink {
    /// Starts the writing thread under this name.
    pub fn start(
        name: &str,
        capacity: usize,
        writer: impl Write + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            capacity: capacity.max(1),
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let writer = Box::new(writer);
        thread::Builder::new().name(name.to_owned()).spawn(move || of_thread.run(writer))?;
        Ok(Self { shared })
    }

    /// Queues a line, with its line end. Drops it if the queue is full; never waits for the writer.
    pub fn push(&self, line: Vec<u8>) {
        let mut state = self.shared.lock();
        if state.waiting.len() + state.being_written >= self.shared.capacity {
            state.dropped += 1;
            return;
        }
        state.waiting.push(line);
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Writes the lines that wait, and all later ones, to another writer.
    pub fn replace_writer(&self, writer: impl Write + Send + 'static) {
        self.shared.lock().next_writer = Some(Box::new(writer));
        self.shared.filled.notify_one();
    }

    /// Counts a line that could not be serialised.
    pub fn count_dropped(&self) {
        self.shared.lock().dropped += 1;
    }

    pub fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }

    /// Waits until every queued line is written, at most for `patience`. Returns true if all are.
    pub fn flush(&self, patience: Duration) -> bool {
        let state = self.shared.lock();
        let waited = self.shared.written.wait_timeout_while(state, patience, |state| {
            !state.waiting.is_empty() || state.being_written > 0
        });
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

impl Drop for LineSink {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.filled.notify_one();
    }
}

impl Shared {
    /// Locks the state. Ignores poisoning, because the queue only has whole lines.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Writes until the sink is dropped.
    fn run(&self, mut writer: Box<dyn Write + Send>) {
        let mut batch = Vec::new();
        let mut bytes = Vec::new();
        // Whether the last write ended in the middle of a line.
        let mut is_torn = false;
        loop {
            let state = self.lock();
            let waited = self.filled.wait_while(state, |state| {
                state.waiting.is_empty() && state.next_writer.is_none() && !state.closed
            });
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            let next_writer = state.next_writer.take();
            if state.waiting.is_empty() && next_writer.is_none() {
                return;
            }
            std::mem::swap(&mut batch, &mut state.waiting);
            state.being_written = batch.len();
            drop(state);

            if let Some(next) = next_writer {
                // The next writer may append to the same file, after the part of a line.
                if is_torn {
                    is_torn = write_what_fits(&mut writer, b"\n") == 0;
                }
                writer = next;
            }
            bytes.clear();
            if is_torn {
                // The part of a line stays a line of its own, which spoils no other.
                bytes.push(b'\n');
            }
            let begin = bytes.len();
            batch.iter().for_each(|line| bytes.extend_from_slice(line));
            let written = write_what_fits(&mut writer, &bytes);
            is_torn = match written.checked_sub(1).and_then(|last| bytes.get(last)) {
                Some(last) => *last != b'\n',
                None => is_torn,
            };
            let lost = lines_after(begin, &batch, written);
            batch.clear();

            let mut state = self.lock();
            state.being_written = 0;
            state.dropped += lost;
            drop(state);
            self.written.notify_all();
        }
    }
}

/// Writes until the writer fails. Returns the number of bytes that it took.
fn write_what_fits(writer: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match writer.write(rest) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if writer.flush().is_ok() { written } else { 0 }
}

/// Returns the number of lines that end after this many bytes. The first one starts at `begin`.
fn lines_after(begin: usize, lines: &[Vec<u8>], bytes: usize) -> u64 {
    let ends = lines.iter().scan(begin, |end, line| {
        *end += line.len();
        Some(*end)
    });
    ends.filter(|end| *end > bytes).count() as u64
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(30);

    /// A writer whose bytes a test reads.
    #[derive(Clone, Default)]
    pub(crate) struct Page(pub(crate) Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer that reports its first call, then blocks until it is released.
    struct Blocked(mpsc::Sender<()>, mpsc::Receiver<()>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_flush_waits_for_the_last() {
        let page = Page::default();
        let sink = LineSink::start("test", 10_000, page.clone()).unwrap();
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        for n in 0..1000 {
            sink.push(format!("{n}\n").into_bytes());
        }
        assert!(sink.flush(LONG));
        assert_eq!(String::from_utf8(page.0.lock().unwrap().clone()).unwrap(), expected);
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn a_blocked_writer_costs_lines_and_no_waiting() {
        let (entered, is_entered) = mpsc::channel();
        let (let_go, go) = mpsc::channel();
        let sink = LineSink::start("test", 3, Blocked(entered, go)).unwrap();
        sink.push(b"first\n".to_vec());
        is_entered.recv().unwrap();
        for _ in 0..10 {
            sink.push(b"more\n".to_vec());
        }
        assert_eq!(sink.dropped(), 8, "one line is being written and two wait");
        assert!(!sink.flush(Duration::from_millis(1)));
        drop(let_go);
        assert!(sink.flush(LONG));
    }

    #[test]
    fn a_replaced_writer_gets_whole_lines() {
        let (entered, is_entered) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<()>();
        let sink = LineSink::start("test", 10, Blocked(entered, go)).unwrap();
        sink.push(b"to the old one\n".to_vec());
        is_entered.recv().unwrap();
        let page = Page::default();
        sink.replace_writer(page.clone());
        sink.push(b"to the new one\n".to_vec());
        assert_eq!(page.0.lock().unwrap().len(), 0, "the old writer has not returned yet");
        drop(let_go);
        assert!(sink.flush(LONG));
        assert_eq!(*page.0.lock().unwrap(), b"to the new one\n");
        assert_eq!(sink.dropped(), 0);
    }

    /// A disk with this much space, and the bytes on it.
    struct Disk(Arc<Mutex<usize>>, Page);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut space = self.0.lock().unwrap();
            let count = bytes.len().min(*space);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *space -= count;
            self.1.write(&bytes[..count])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_the_full_disk_cut_spoils_no_later_line() {
        let (space, page) = (Arc::new(Mutex::new(9)), Page::default());
        let sink = LineSink::start("test", 10, Disk(Arc::clone(&space), page.clone())).unwrap();
        for line in ["first\n", "second\n", "third\n"] {
            sink.push(line.as_bytes().to_vec());
            assert!(sink.flush(LONG));
        }
        *space.lock().unwrap() = 100;
        sink.push(b"fourth\n".to_vec());
        assert!(sink.flush(LONG));
        assert_eq!(String::from_utf8_lossy(&page.0.lock().unwrap()), "first\nsec\nfourth\n");
        assert_eq!(sink.dropped(), 2);
    }

    #[test]
    fn a_cut_line_spoils_no_later_line_after_the_file_is_opened_again() {
        for space_before in [0, 100] {
            let (space, page) = (Arc::new(Mutex::new(9)), Page::default());
            let disk = || Disk(Arc::clone(&space), page.clone());
            let sink = LineSink::start("test", 10, disk()).unwrap();
            sink.push(b"first\n".to_vec());
            assert!(sink.flush(LONG));
            sink.push(b"second\n".to_vec());
            assert!(sink.flush(LONG));
            *space.lock().unwrap() = space_before;
            sink.replace_writer(disk());
            sink.push(b"third\n".to_vec());
            assert!(sink.flush(LONG));
            *space.lock().unwrap() = 100;
            sink.push(b"fourth\n".to_vec());
            assert!(sink.flush(LONG));
            let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
            let third = if space_before > 0 { "third\n" } else { "" };
            assert_eq!(text, format!("first\nsec\n{third}fourth\n"));
        }
    }

    #[test]
    fn lines_that_the_disk_refuses_are_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = LineSink::start("test", 3, Full).unwrap();
        sink.push(b"lost\n".to_vec());
        assert!(sink.flush(LONG));
        assert_eq!(sink.dropped(), 1);
    }
}
