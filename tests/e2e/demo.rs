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

#[test]
fn a_person_logs_in_connects_by_ticket_and_chats_between_two_tabs() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_usher"))
        .args(["demo", "--port", "0", "--tls-port", "0", "--admin-port", "0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (sender, url) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let _demo = Demo(child);
    std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if let Some(at) = line.find("http://") {
                let _ = sender.send(line[at..].split_whitespace().next().unwrap_or_default().to_owned());
            }
        }
    });
    let url = url.recv_timeout(Duration::from_secs(30)).expect("the demo prints its URL");
    let output = Command::new("node").args(["demo.mjs", &url]).current_dir("tests/e2e/browser").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}\nscripts/setup-tests.sh installs what the tests need");
}
