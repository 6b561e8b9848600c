//! A server in another language, as a child process, and the lines that it prints.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::eventually::eventually;

pub struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Runs a script with node until it is dropped. Returns after its first line.
    pub async fn node(arguments: &[&str]) -> Self {
        Self::run("node", arguments).await
    }

    /// Runs a script with Python, in the same way.
    pub async fn python(arguments: &[&str]) -> Self {
        Self::run("target/e2e-tools/venv/bin/python", arguments).await
    }

    async fn run(interpreter: &str, arguments: &[&str]) -> Self {
        let child = Command::new(interpreter)
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an interpreter; scripts/setup-tests.sh installs what the tests need");
        let mut program = Self { child, lines: Arc::default() };
        let out = BufReader::new(program.child.stdout.take().unwrap());
        let copy = Arc::clone(&program.lines);
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).for_each(|line| copy.lock().unwrap().push(line));
        });
        eventually(format!("{arguments:?} prints its first line"), async || {
            let ended = program.child.try_wait().unwrap();
            let has_printed = !program.lines.lock().unwrap().is_empty();
            assert!(
                has_printed || ended.is_none(),
                "{arguments:?} does not start: {ended:?}; scripts/setup-tests.sh installs what the \
                 tests need"
            );
            has_printed
        })
        .await;
        program
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
