//! The first steps of a new user: `init`, `cert`, `check`, `run`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::documents::Page;
use crate::support::redis::free_port;
use crate::support::{Echo, client};

const USHER: &str = env!("CARGO_BIN_EXE_usher");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// An empty folder in which commands run as a user would type them.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("usher-e2e-first-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .env_remove("USHER_JWT_SECRET")
            .env_remove("USHER_CONFIG");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    /// Runs a command, which must succeed, and returns its output.
    fn says(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}{err}", output.status);
        out
    }

    fn usher(&self, arguments: &[&str]) -> String {
        self.says(USHER, arguments)
    }

    /// Runs these lines in a shell and returns their output. The last line decides. curl ends after
    /// two seconds, unless a line sets another time.
    pub fn shell(&self, lines: &str) -> String {
        let programs = Path::new(USHER).parent().unwrap().display();
        let script = format!("PATH={programs}:$PATH\n{lines}\n");
        let output = self.run(
            "bash",
            &[
                "-euo",
                "pipefail",
                "-c",
                &format!("curl() {{ command curl --max-time 2 \"$@\" || [ $? = 28 ]; }}\n{script}"),
            ],
        );
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{lines}: {}\n{out}{err}", output.status);
        out
    }

    /// Runs a command, which must fail. Returns its exit code and its errors.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(USHER, arguments);
        assert!(!output.status.success(), "{arguments:?}");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.0.join(name)).unwrap().permissions().mode() & 0o777
    }

    pub fn replace(&self, from: &str, to: &str) {
        let text = self.read("usher.toml");
        assert!(text.contains(from), "{from} is not in\n{text}");
        self.write("usher.toml", &text.replace(from, to));
    }

    /// Another program may use the default ports of this machine.
    fn take_free_ports(&self, listener: &str) {
        self.replace(listener, "127.0.0.1:0");
        self.replace("127.0.0.1:9090", "127.0.0.1:0");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// `usher run` in a folder, until it is dropped.
pub struct Running {
    child: Child,
    port: u16,
}

impl Running {
    pub fn start(folder: &Folder) -> Self {
        let mut child = folder
            .command(USHER, &["run", "--log-format", "json"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut seen = String::new();
        let ready = lines.find(|line| {
            seen.push_str(line);
            line.contains("\"event\":\"ready\"")
        });
        let ready: Value =
            serde_json::from_str(&ready.unwrap_or_else(|| panic!("not ready: {seen}"))).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let address = ready["listeners"].as_str().unwrap().trim_matches(['[', ']']);
        Self { child, port: address.rsplit_once(':').unwrap().1.parse().unwrap() }
    }
}

impl Running {
    /// Waits until the process has stopped in good order.
    pub fn wait(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the block of commands in README that contains this part.
fn commands_of_readme(part: &str) -> String {
    let blocks = Page::named("README.md").blocks("sh");
    blocks
        .into_iter()
        .find(|block| block.text.contains(part))
        .unwrap_or_else(|| panic!("README has no block with {part}"))
        .text
}

/// Returns the arguments of the command that `usher init` prints for a first token.
fn mint_line(said: &str) -> Vec<&str> {
    let line = said.lines().find(|line| line.contains("usher token mint")).unwrap();
    line.split_whitespace().skip(1).collect()
}

#[test]
fn init_and_cert_pass_the_check_and_clients_trust_what_they_serve() {
    let folder = Folder::new();
    folder.usher(&["init"]);
    let said = folder.usher(&["cert"]);
    folder.take_free_ports("0.0.0.0:8443");
    folder.usher(&["check"]);
    assert_eq!([folder.mode("key.pem"), folder.mode("jwt-secret")], [0o600; 2]);

    let verify = ["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "cert.pem"];
    for name in
        [["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"], ["-verify_ip", "::1"]]
    {
        let said = folder.says("openssl", &[&verify[..], &name, &["cert.pem"]].concat());
        assert_eq!(said, "cert.pem: OK\n");
    }
    let other = folder
        .run("openssl", &[&verify[..], &["-verify_hostname", "example.com", "cert.pem"]].concat());
    assert!(!other.status.success(), "the certificate is valid for another name");
    let shown = folder.says("openssl", &["x509", "-in", "cert.pem", "-noout", "-text"]);
    for part in [
        "NIST CURVE: P-256",
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Server Authentication",
        "Subject Key Identifier",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    // It is valid for some time, and not for longer than browsers accept.
    let ends_within = |days: u32| {
        let seconds = (days * 86_400).to_string();
        !folder
            .run("openssl", &["x509", "-in", "cert.pem", "-noout", "-checkend", &seconds])
            .status
            .success()
    };
    assert!(!ends_within(395) && ends_within(397));
    let of_certificate = folder.says("openssl", &["x509", "-in", "cert.pem", "-noout", "-pubkey"]);
    let of_key = folder.says("openssl", &["pkey", "-in", "key.pem", "-pubout"]);
    assert_eq!(of_certificate, of_key);

    let running = Running::start(&folder);
    let url = |host: &str| format!("https://{host}:{}/", running.port);
    let curl = said.lines().find_map(|line| line.trim().strip_prefix("curl ")).unwrap();
    let arguments: Vec<_> = curl.split(' ').collect();
    let [trust, certificate, address] = arguments[..] else { panic!("{curl}") };
    assert_eq!(address, "https://localhost:8443/");
    for host in ["localhost", "127.0.0.1"] {
        let problem = folder.says("curl", &["-sS", trust, certificate, &url(host)]);
        assert!(problem.contains("NO_ROUTE"), "{problem}");
    }
    let untrusted = folder.run("curl", &["-sS", &url("localhost")]);
    assert_eq!(
        untrusted.status.code(),
        Some(60),
        "curl trusted the certificate without being told"
    );
    // With the variables that are printed for these two runtimes they trust it.
    for (runtime, program) in [
        (
            "Node",
            ["node", "-e", "fetch(process.argv[1]).then(({ status }) => console.log(status))"],
        ),
        (
            "Python",
            [
                "python3",
                "-c",
                "import http.client, sys, urllib.parse as p; c = \
                 http.client.HTTPSConnection(p.urlsplit(sys.argv[1]).netloc); \
                 c.request('GET', '/'); print(c.getresponse().status)",
            ],
        ),
    ] {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(runtime)).unwrap();
        let (name, value) = line.trim().strip_prefix("export ").unwrap().split_once('=').unwrap();
        let [program, flag, code] = program;
        let mut command = folder.command(program, &[flag, code, &url("localhost")]);
        assert!(!command.output().unwrap().status.success(), "{runtime} trusts it unasked");
        let output = command.env(name, value).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "404\n",
            "{runtime}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_start_passes_the_check_at_once_and_lets_its_first_token_in() {
    let echo = Echo::start().await;
    let folder = Folder::new();
    let said = folder.usher(&["init", "--plain"]);
    folder.take_free_ports("127.0.0.1:8080");
    folder.replace("http://127.0.0.1:9000", &echo.url());
    // Not one warning is left.
    folder.usher(&["check", "--strict"]);
    let running = Running::start(&folder);
    let token = folder.usher(&mint_line(&said));
    let address = ([127, 0, 0, 1], running.port).into();
    let request = format!(
        "POST /websocket/ticket HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        token.trim()
    );
    let answer = client::http(address, request.as_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let answer: Value = serde_json::from_str(&answer.body).unwrap();
    let ticket = answer["ticket_id"].as_str().unwrap();
    let url = format!("ws://127.0.0.1:{}/ws?ticket={ticket}", running.port);
    let (_socket, response) = tokio_tungstenite::connect_async(url).await.unwrap();
    assert_eq!(response.status(), 101);
}

#[test]
fn a_port_of_the_usher_in_another_folder_is_in_use() {
    let [first, second] = [Folder::new(), Folder::new()];
    let [listener, admin] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    first.usher(&["init", "--plain"]);
    first.replace("127.0.0.1:8080", &listener);
    first.replace("127.0.0.1:9090", &admin);
    let _running = Running::start(&first);
    second.usher(&["init"]);
    second.usher(&["cert"]);
    second.replace("0.0.0.0:8443", "127.0.0.1:0");
    second.replace("127.0.0.1:9090", &admin);
    let (code, said) = second.fails(&["check"]);
    let whose = format!("another Usher, which runs with {}/usher.toml", first.0.display());
    assert!(code == Some(69) && said.contains(&whose), "{code:?} {said}");
    assert_eq!(second.fails(&["run"]), (code, said));

    // The file of the running Usher, and its successor with the same state directory.
    first.write("next.toml", &first.read("usher.toml"));
    let whole = first.0.join("usher.toml");
    for file in ["usher.toml", "next.toml", whole.to_str().unwrap()] {
        let said = first.usher(&["check", file]);
        assert_eq!(said.matches("bound by the running Usher").count(), 2, "{file}: {said}");
    }
}

/// Runs the steps of README line by line. Only the ports differ.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_steps_of_the_readme_lead_to_a_socket() {
    let echo = Echo::start().await;
    let folder = Folder::new();
    let setup = commands_of_readme("usher init --plain");
    let lines: Vec<_> = setup.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert_eq!(
        lines,
        [
            "cargo install --locked --path .",
            "mkdir ~/usher-try && cd ~/usher-try",
            "usher init --plain",
            "usher check",
            "usher run",
        ]
    );
    folder.shell(lines[2]);
    folder.take_free_ports("127.0.0.1:8080");
    folder.replace("http://127.0.0.1:9000", &echo.url());
    folder.shell(lines[3]);
    let running = Running::start(&folder);
    let address = format!("127.0.0.1:{}", running.port);
    let commands = commands_of_readme("usher token mint").replace("127.0.0.1:8080", &address);
    let again = commands.lines().last().unwrap().to_owned();
    let said = tokio::task::spawn_blocking(move || folder.shell(&format!("{commands}{again}")))
        .await
        .unwrap();
    let statuses: Vec<_> =
        said.lines().filter(|line| line.starts_with("HTTP/1.1 ")).map(str::trim).collect();
    assert_eq!(statuses, ["HTTP/1.1 101 Switching Protocols", "HTTP/1.1 403 Forbidden"], "{said}");
    assert!(said.contains("INVALID_TICKET"), "{said}");

    let folder = Folder::new();
    let commands = commands_of_readme("usher cert");
    let lines: Vec<_> = commands.lines().map(str::trim).collect();
    let [folder_line, "usher init", "usher cert", "usher check", "usher run"] = lines[..] else {
        panic!("{commands}")
    };
    assert!(folder_line.starts_with("mkdir ~/usher-tls && cd ~/usher-tls"), "{folder_line}");
    folder.shell("usher init\nusher cert");
    folder.take_free_ports("0.0.0.0:8443");
    folder.shell("usher check");
    let running = Running::start(&folder);
    let address = format!("https://localhost:{}", running.port);
    let commands = commands_of_readme("usher token mint")
        .replace("http://127.0.0.1:8080", &address)
        .replace("curl ", "curl --cacert cert.pem ");
    let said = tokio::task::spawn_blocking(move || folder.shell(&commands)).await.unwrap();
    assert!(said.contains("502 Bad Gateway") && said.contains("UPSTREAM_UNAVAILABLE"), "{said}");
}

/// Runs the commands of the credentials page, one method after the other.
#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_the_credentials_page_opens_a_socket() {
    let echo = Echo::start().await;
    let folder = Folder::new();
    folder.usher(&["init", "--plain"]);
    folder.take_free_ports("127.0.0.1:8080");
    folder.replace("http://127.0.0.1:9000", &echo.url());
    let page = Page::named("docs/credentials.md");
    let text = folder.read("usher.toml");
    let route = text.split_once("[[route]]").unwrap().1.split("\n\n").next().unwrap();
    folder.replace(&format!("[[route]]{route}\n"), &page.blocks("toml")[0].text);
    folder.usher(&["check", "--strict"]);
    let running = Running::start(&folder);
    let scripts: Vec<_> = page
        .blocks("sh")
        .into_iter()
        .map(|block| block.text.replace("localhost:8080", &format!("127.0.0.1:{}", running.port)))
        .collect();
    let (setup, lines) = scripts.split_first().unwrap();
    // Two of them are left out: one needs Redis, and one needs a process with a flag.
    let lines: Vec<_> = lines
        .iter()
        .filter(|lines| !lines.contains("redis-cli") && !lines.contains("--allow-bypass"))
        .collect();
    assert_eq!(lines.len(), 5, "ticket, header, subprotocol, query, cookie");
    for lines in lines {
        let said = folder.shell(&format!("{setup}{lines}"));
        assert!(said.contains("HTTP/1.1 101 Switching Protocols"), "{lines}\n{said}");
    }
}

#[test]
fn init_takes_the_secret_of_the_environment_where_there_is_one() {
    let folder = Folder::new();
    let secret = "0123456789abcdef".repeat(2);
    let output = folder
        .command(USHER, &["init", "--plain"])
        .env("USHER_JWT_SECRET", &secret)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("--secret-env USHER_JWT_SECRET"), "{said}");
    assert!(
        folder.read("usher.toml").contains("secret_env = \"USHER_JWT_SECRET\"")
            && !folder.0.join("jwt-secret").exists()
    );
    folder.take_free_ports("127.0.0.1:8080");
    assert_eq!(folder.fails(&["check"]).0, Some(78), "the variable is not set here");
    let check = folder.command(USHER, &["check"]).env("USHER_JWT_SECRET", secret).output().unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn the_steps_that_init_prints_lead_on_from_another_folder() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("edge")).unwrap();
    let said = folder.usher(&["init", "edge/chat.toml"]);
    folder.write(
        "edge/chat.toml",
        &folder
            .read("edge/chat.toml")
            .replace("0.0.0.0:8443", "127.0.0.1:0")
            .replace(":9090", ":0"),
    );
    for command in ["usher cert", "usher check"] {
        let line = said.lines().map(str::trim).find(|line| line.starts_with(command)).unwrap();
        folder.shell(line);
    }
    assert!(
        folder.read("edge/key.pem").starts_with("-----BEGIN PRIVATE KEY-----")
            && !folder.0.join("key.pem").exists()
    );
}

#[test]
fn init_and_cert_overwrite_a_file_only_with_force() {
    let folder = Folder::new();
    folder.write("jwt-secret", "of mine");
    assert!(folder.usher(&["init"]).contains("kept jwt-secret"));
    folder.write("usher.toml", "mine");
    let (code, said) = folder.fails(&["init", "--plain"]);
    assert!(code == Some(1) && said.contains("cannot write usher.toml"), "{said}");
    assert_eq!([folder.read("usher.toml"), folder.read("jwt-secret")], ["mine", "of mine"]);

    // A link in the place of one file stops the command, even if it leads nowhere.
    std::os::unix::fs::symlink("/nowhere", folder.0.join("key.pem")).unwrap();
    let (code, said) = folder.fails(&["cert"]);
    assert!(
        code == Some(1) && said.contains("key.pem exists already") && said.contains("--force"),
        "{said}"
    );
    assert!(!folder.0.join("cert.pem").exists());
    folder.write("cert.pem", "mine");
    let (code, said) = folder.fails(&["cert"]);
    assert!(code == Some(1) && said.contains("cert.pem and key.pem exist already"), "{said}");
    assert_eq!(folder.read("cert.pem"), "mine");

    folder.usher(&["cert", "--force"]);
    assert!(
        folder.read("cert.pem").starts_with("-----BEGIN CERTIFICATE-----")
            && !Path::new("/nowhere").exists()
    );
    assert_eq!(
        (folder.mode("key.pem"), fs::read_dir(&folder.0).unwrap().count()),
        (0o600, 4),
        "a file was written in spite of the refusal"
    );
}

#[test]
fn a_certificate_is_for_the_names_that_are_given() {
    let folder = Folder::new();
    let said = folder.usher(&[
        "cert",
        "chat.example.com",
        "*.example.com",
        "10.1.2.3",
        "--cert",
        "a.pem",
        "--key",
        "b.pem",
    ]);
    assert!(
        said.contains("{ cert = \"a.pem\", key = \"b.pem\" }")
            && said.contains("https://chat.example.com:8443/"),
        "{said}"
    );
    let shown =
        folder.says("openssl", &["x509", "-in", "a.pem", "-noout", "-ext", "subjectAltName"]);
    assert!(
        shown.contains("DNS:chat.example.com, DNS:*.example.com, IP Address:10.1.2.3"),
        "{shown}"
    );

    for (arguments, code, part) in [
        (&["cert", "https://localhost"][..], 2, "without scheme, port or brackets"),
        (&["cert", "localhost:8443"], 2, "without scheme, port or brackets"),
        (&["cert", "--cert", "a", "--key", "a"], 1, "name the same file"),
        (&["cert", "--cert", "a", "--key", "./a"], 1, "name the same file"),
        (&["init", "nowhere/usher.toml"], 1, "make the folder first: mkdir -p nowhere"),
        (&["cert", "--cert", "nowhere/cert.pem"], 1, "cannot write nowhere/cert.pem"),
    ] {
        let (found, said) = folder.fails(arguments);
        assert!(found == Some(code) && said.contains(part), "{arguments:?}, {found:?}: {said}");
    }
    assert!(!folder.0.join("key.pem").exists(), "half of a pair was left behind");
}

#[test]
fn check_says_how_to_come_by_a_certificate() {
    let folder = Folder::new();
    folder.usher(&["init"]);
    folder.take_free_ports("0.0.0.0:8443");
    let (code, said) = folder.fails(&["check"]);
    assert!(code == Some(78) && said.matches("`usher cert` makes a pair").count() == 2, "{said}");
}
