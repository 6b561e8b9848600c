//! A server in another language, as a child process, and the lines that it prints.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Runs with node until it is dropped. Its first line is there when this returns.
    pub async fn node(arguments: &[&str]) -> Self {
        let child = Command::new("node")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node; scripts/setup-tests.sh installs what the tests need");
        let mut program = Self { child, lines: Arc::default() };
        let out = BufReader::new(program.child.stdout.take().unwrap());
        let copy = Arc::clone(&program.lines);
        std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| copy.lock().unwrap().push(line)));
        for _ in 0..2000 {
            if !program.lines.lock().unwrap().is_empty() {
                return program;
            }
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{arguments:?} does not start: {ended:?}; scripts/setup-tests.sh installs what the tests need");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{arguments:?} does not start");
    }

    /// Writes a line to its input.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
