//! The demo as a person meets it: one command, and a browser.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

/// The demo, and what it prints line by line.
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
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    (Demo(child), lines)
}

/// The address on the line that begins with this word.
fn address(lines: &mpsc::Receiver<String>, word: &str) -> String {
    loop {
        let line = lines.recv_timeout(Duration::from_secs(30)).expect("the demo prints its addresses");
        if let Some(at) = line.find("http://").filter(|_| line.trim_start().starts_with(word)) {
            return line[at..].split_whitespace().next().unwrap_or_default().to_owned();
        }
    }
}

#[test]
fn a_person_logs_in_connects_by_ticket_and_chats_between_two_tabs() {
    let (_demo, lines) = start();
    let url = address(&lines, "Open");
    let output = Command::new("node").args(["demo.mjs", &url]).current_dir("tests/e2e/browser").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}\nscripts/setup-tests.sh installs what the tests need");
}

#[test]
fn without_a_file_there_is_nothing_to_reload_and_that_is_said() {
    let (_demo, lines) = start();
    let admin = address(&lines, "Admin");
    let output = Command::new(env!("CARGO_BIN_EXE_usher")).args(["reload", "--admin", &admin]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("there is nothing to reload"), "{said}");
}
