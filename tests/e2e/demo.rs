//! The demo as a visitor uses it: one command, and a browser.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// Starts the demo. Returns the lines that it prints.
fn start() -> (Demo, mpsc::Receiver<String>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["demo", "--port", "0", "--tls-port", "0", "--admin-port", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    (Demo(child), lines)
}

/// Returns the address on the line that begins with this word.
fn address(lines: &mpsc::Receiver<String>, word: &str) -> String {
    loop {
        let line =
            lines.recv_timeout(Duration::from_secs(30)).expect("the demo prints its addresses");
        if let Some(at) = line.find("http://").filter(|_| line.trim_start().starts_with(word)) {
            return line[at..].split_whitespace().next().unwrap_or_default().to_owned();
        }
    }
}

/// One browser runs at a time: on a few cores several would only slow each other down.
static BROWSER: Mutex<()> = Mutex::new(());

/// Waits until no other test runs a browser.
pub fn turn() -> MutexGuard<'static, ()> {
    BROWSER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a script of `tests/e2e/browser` with the path of the binary, and prints its figures.
#[allow(clippy::print_stdout, reason = "--nocapture shows the figures")]
pub fn browse(script: &str) {
    let _turn = turn();
    let shots = concat!(env!("CARGO_MANIFEST_DIR"), "/target/demo-screenshots");
    let output = Command::new("node")
        .args([script, env!("CARGO_BIN_EXE_usher"), shots])
        .current_dir("tests/e2e/browser")
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let hint = "scripts/setup-tests.sh installs what the tests need";
    assert!(output.status.success(), "{script}: {out}{err}\n{hint}");
    out.lines().filter(|line| line.starts_with("figure")).for_each(|line| println!("{line}"));
}

#[test]
fn two_people_log_in_chat_and_break_things() {
    browse("demo.mjs");
}

#[test]
fn the_page_outlives_what_goes_wrong_under_it() {
    browse("faults.mjs");
}

#[test]
fn the_page_looks_right_and_needs_no_mouse() {
    browse("looks.mjs");
}

#[test]
fn five_hundred_reconnects_leave_nothing_behind() {
    browse("endurance.mjs");
}

#[test]
fn firefox_walks_through_the_page() {
    browse("firefox.mjs");
}

#[test]
fn webkit_walks_through_the_page() {
    browse("webkit.mjs");
}

#[test]
fn the_built_page_is_what_its_source_makes() {
    let output = Command::new("node")
        .args(["demo/build.mjs", "--check"])
        .current_dir("clients/js")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reload_without_a_file_fails_with_a_reason() {
    let (_demo, lines) = start();
    let admin = address(&lines, "Admin");
    let output = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["reload", "--admin", &admin])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("nothing to reload"), "{said}");
}
