//! Log files that move away under a running Usher.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::documents::Page;
use crate::support::client::{self, Raw};
use crate::support::eventually::eventually;
use crate::support::{Echo, Setup, Usher, upgrade_request};

/// Sends an upgrade without a credential, whose audit line has this path.
async fn be_refused(usher: &Usher, path: &str) {
    let mut raw = Raw::connect(usher.plain).await;
    raw.send(upgrade_request(path, "")).await;
    raw.read_to_close().await;
}

/// Returns the lines of a file, each of which must be whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "{}: {text}", path.display());
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Returns the numbers in the paths of refused requests.
fn refused(lines: &[Value]) -> Vec<u32> {
    let number = |line: &Value| line["path"].as_str()?.strip_prefix("/none/")?.parse().ok();
    lines.iter().filter_map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_loses_and_tears_no_line() {
    const REQUESTS: u32 = 300;
    const ROTATIONS: u32 = 10;
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let audit = usher.folder().join("audit.jsonl");
    let moved = |number| audit.with_extension(format!("jsonl.{number}"));
    let load = async {
        for number in 0..REQUESTS {
            be_refused(&usher, &format!("/none/{number}")).await;
        }
    };
    let rotations = async {
        for number in 0..ROTATIONS {
            fs::rename(&audit, moved(number)).unwrap();
            usher.signal("USR1");
            eventually("the file is there again", async || audit.exists()).await;
        }
    };
    tokio::join!(load, rotations);
    usher
        .until_metric(&format!(
            "usher_log_reopens_total{{log=\"audit\",outcome=\"ok\"}} {ROTATIONS}"
        ))
        .await;
    let all = async || {
        let parts = (0..ROTATIONS).map(moved).chain([audit.clone()]);
        // The last line may be half written at this moment.
        let text: String = parts.map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
        let count = text.lines().filter(|line| line.contains("\"/none/")).count();
        (count == REQUESTS as usize && text.ends_with('\n')).then_some(())
    };
    eventually("every line is written", all).await;
    let kept: Vec<Value> =
        (0..ROTATIONS).map(moved).chain([audit.clone()]).flat_map(|path| lines(&path)).collect();
    assert_eq!(refused(&kept), (0..REQUESTS).collect::<Vec<_>>(), "each once and in order");
    // The harness reads the audit log as one file.
    fs::write(&audit, kept.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    usher.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_opened_again_is_reported_and_the_old_one_used() {
    let echo = Echo::start().await;
    let usher = Setup::new(echo.url()).start().await;
    let audit = usher.folder().join("audit.jsonl");
    let moved = usher.folder().join("moved");
    fs::rename(&audit, &moved).unwrap();
    fs::create_dir(&audit).unwrap();
    usher.signal("USR1");
    let line = usher.logged(&["\"log_reopen_failed\""]).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["log"]), (&"ERROR".into(), &"audit".into()));
    assert_eq!(line["file"], audit.display().to_string());
    usher.until_metric("usher_log_reopens_total{log=\"audit\",outcome=\"failed\"} 1").await;
    be_refused(&usher, "/none/1").await;
    let is_written = async || fs::read_to_string(&moved).unwrap().contains("\"/none/1\"");
    eventually("the open file gets the line", is_written).await;
    fs::remove_dir(&audit).unwrap();
    fs::rename(&moved, &audit).unwrap();
    usher.signal("USR1");
    usher.until_metric("usher_log_reopens_total{log=\"audit\",outcome=\"ok\"} 1").await;
    usher.finish().await;
}

/// An Usher of its own, because that of the harness must log to stderr.
struct Logging {
    child: Child,
    folder: PathBuf,
}

impl Logging {
    fn start(name: &str, log_keys: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("usher-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let config = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nplain = true\n\
             [[upstream]]\nname = \"chat\"\nservers = [\"http://127.0.0.1:9\"]\n\
             [[route]]\npath = \"/ws\"\nupstream = \"chat\"\nauth = []\n\
             [log]\nfile = \"usher.log\"\nrefusal_lines = 1000000\n{log_keys}\n\
             [audit]\nfile = \"audit.jsonl\"\n"
        );
        fs::write(folder.join("usher.toml"), config).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_usher"))
            .args(["run", "-c"])
            .arg(folder.join("usher.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Waits for the first line of this event in a file that may be half written.
    async fn logged(&self, name: &str, event: &str) -> Value {
        eventually(format!("{event} in {name}"), async || {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            lines.find(|line: &Value| line["event"] == event)
        })
        .await
    }

    async fn refuse(&self, ready: &Value, path: &str) {
        let address = ready["listeners"].as_str().unwrap().trim_matches(['[', ']']);
        client::get(address.parse().unwrap(), path).await;
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs Debian's logrotate once with this configuration.
fn logrotate(folder: &Path, config: &str) {
    let file = folder.join("logrotate.conf");
    fs::write(&file, config).unwrap();
    let output = Command::new("sh")
        .args(["-c", "PATH=\"$PATH:/usr/sbin\" exec logrotate --force --state \"$0\" \"$1\""])
        .arg(folder.join("state"))
        .arg(&file)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "logrotate; scripts/setup-tests.sh installs what the tests need: {errors}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logrotate_moves_the_files_as_the_page_says() {
    let usher = Logging::start("logrotate", "refusals = \"critical\"");
    let ready = usher.logged("usher.log", "ready").await;
    usher.refuse(&ready, "/none/1").await;
    let line = usher.logged("usher.log", "request_rejected").await;
    assert_eq!((&line["level"], &line["path"]), (&"CRITICAL".into(), &"/none/1".into()));
    usher.logged("audit.jsonl", "request_rejected").await;

    let page = Page::named("docs/log-rotation.md");
    let documented = page.blocks("text").remove(0).text;
    let packaged = include_str!("../../packaging/logrotate");
    let (_comment, packaged) = packaged.split_once('\n').unwrap();
    assert_eq!(documented.trim_end(), packaged.trim_end(), "the packages have the same");
    let (signal, service) =
        (format!("kill -USR1 {}", usher.child.id()), "systemctl kill --signal=USR1 usher.service");
    // Neither the unit nor its user is on this machine; tests/packages/installed.py has both.
    let user = "    su usher usher\n";
    assert!(documented.contains(service) && documented.contains(user), "{documented}");
    let config = documented
        .replace(user, "")
        .replace("/var/log/usher", usher.folder.to_str().unwrap())
        .replace(service, &signal);
    logrotate(&usher.folder, &config);
    assert_eq!(usher.logged("usher.log", "log_reopened").await["level"], "INFO");
    usher.refuse(&ready, "/none/2").await;
    for name in ["usher.log", "audit.jsonl"] {
        let line = usher.logged(name, "request_rejected").await;
        assert_eq!(line["path"], "/none/2", "{name} was opened again");
        let before = lines(&usher.path(&format!("{name}.1")));
        assert_eq!(refused(&before), [1], "{name}.1 is not compressed yet");
    }

    // The next rotation compresses the files of the first.
    logrotate(&usher.folder, &config);
    for name in ["usher.log.2.gz", "audit.jsonl.2.gz"] {
        assert!(usher.path(name).exists(), "{name}");
    }
    assert_eq!(fs::read_to_string(usher.path("stderr")).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_copytruncate_the_file_begins_with_the_next_line() {
    let usher = Logging::start("copytruncate", "");
    let ready = usher.logged("usher.log", "ready").await;
    usher.refuse(&ready, "/none/1").await;
    for name in ["usher.log", "audit.jsonl"] {
        usher.logged(name, "request_rejected").await;
    }
    let files =
        usher.path("*.log").display().to_string() + " " + usher.path("*.jsonl").to_str().unwrap();
    logrotate(&usher.folder, &format!("{files} {{\n rotate 3\n copytruncate\n}}\n"));
    usher.refuse(&ready, "/none/2").await;
    for name in ["usher.log", "audit.jsonl"] {
        usher.logged(name, "request_rejected").await;
        assert_eq!(refused(&lines(&usher.path(name))), [2], "{name}");
        assert_eq!(refused(&lines(&usher.path(&format!("{name}.1")))), [1], "{name}.1");
    }
}
